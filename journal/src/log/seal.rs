//! Making sealed files: out of a full segment, or out of sealed files that lie side by side.
//!
//! Either way the frames come out by entity, deleted events stay behind, and every frame is checked
//! before it gets its new checksum.

use std::{collections::BTreeMap, io, path::Path, sync::Arc};

use super::{
    access::{Access, Missed},
    build::{Builder, ShardMark},
    codec::decode_batch_head,
    files::FileSet,
    frame::{Kind, verify},
    index::{EntityIndex, Run},
    layout::{FileHeader, FileKind, create_whole, sealed_name},
    live::Live,
    sealed::Sealed,
};
use crate::{
    disk::{Disk, DiskFile},
    error::JournalError,
    id::{EntityId, Seq, ShardId},
};

/// How much is read at a time, as a rule: memory stays small whatever the files' sizes.
const READ_BYTES: u64 = 256 << 10;

/// What a new sealed file needs to know of its surroundings.
pub(crate) struct Sealing<'a> {
    pub disk: &'a dyn Disk,
    pub dir: &'a Path,
    pub salt: u64,
    pub log_id: u64,
    /// All files: deletions in newer ones count.
    pub set: &'a FileSet,
    /// Asked now and then: the work is given up when the log stops.
    pub stopped: &'a dyn Fn() -> bool,
}

impl Sealing<'_> {
    /// Seals a segment.
    pub(crate) fn segment(&self, live: &Live) -> Result<Arc<Sealed>, JournalError> {
        let mut entities: Vec<_> =
            live.with(|index| index.entities.keys().map(|id| (id.hash64(), id.clone())).collect());
        entities.sort_unstable();
        let marks = live.with(|index| {
            let mark = |i: &super::index::ShardIndex| ShardMark { last: i.last, epoch: i.epoch };
            index.shards.iter().map(|(shard, i)| (*shard, mark(i))).collect::<Vec<_>>()
        });
        self.build((live.id, live.id, 1), &marks, |builder| {
            let mut buffer = Vec::new();
            for (_, entity) in &entities {
                self.go_on()?;
                let known = live.with(|index| index.entities.get(entity).cloned());
                let known = known.unwrap_or_default();
                let deleted_to = known.deleted_to.max(self.set.deleted_after(entity, live.id)?);
                let from = (live.path.as_path(), live.salt);
                read_runs(
                    &*live.file,
                    from,
                    &kept(&known.runs, deleted_to),
                    &mut buffer,
                    |run, bytes| copy(builder, bytes, from, run, deleted_to),
                )?;
                builder.entity(entity, known.last_seq, deleted_to)?;
            }
            Ok(())
        })
    }

    /// Merges sealed files that lie side by side, the oldest first; also a single one, to leave
    /// deleted events behind.
    pub(crate) fn merge(&self, inputs: &[Arc<Sealed>]) -> Result<Arc<Sealed>, JournalError> {
        let (Some(first), Some(last)) = (inputs.first(), inputs.last()) else {
            return Err(JournalError::io("merging", self.dir, &io::ErrorKind::InvalidInput.into()));
        };
        let last_segment = last.header.last;
        let generation = inputs.iter().map(|i| i.header.generation).max().unwrap_or(0) + 1;
        let marks = merged_marks(inputs);
        self.build((first.header.first, last_segment, generation), &marks, |builder| {
            let mut buffer = Vec::new();
            let mut cursors = Vec::new();
            for input in inputs {
                cursors.push(Cursor::new(input)?);
            }
            while let Some(entity) = least(&cursors) {
                self.go_on()?;
                let mut last_seq = Seq::ZERO;
                let mut deleted_to = self.set.deleted_after(&entity, last_segment)?;
                let mut parts = Vec::new();
                for cursor in &mut cursors {
                    if let Some(index) = cursor.take(&entity)? {
                        last_seq = last_seq.max(index.last_seq);
                        deleted_to = deleted_to.max(index.deleted_to);
                        parts.push((cursor.input, index.runs));
                    }
                }
                for (input, runs) in &parts {
                    let from = (input.path.as_path(), input.header.salt);
                    read_runs(
                        &*input.file,
                        from,
                        &kept(runs, deleted_to),
                        &mut buffer,
                        |run, bytes| copy(builder, bytes, from, run, deleted_to),
                    )?;
                }
                builder.entity(&entity, last_seq, deleted_to)?;
            }
            Ok(())
        })
    }

    fn go_on(&self) -> Result<(), Failure> {
        if (self.stopped)() { Err(Failure::Read(JournalError::Closed)) } else { Ok(()) }
    }

    fn build(
        &self,
        (first, last, generation): (u64, u64, u32),
        marks: &[(ShardId, ShardMark)],
        fill: impl FnOnce(&mut Builder<'_>) -> Result<(), Failure>,
    ) -> Result<Arc<Sealed>, JournalError> {
        let (salt, log_id) = (self.salt, self.log_id);
        let header = FileHeader { kind: FileKind::Sealed, first, last, generation, salt, log_id };
        let name = sealed_name(first, last, generation);
        let path = self.dir.join(&name);
        let mut unreadable = None;
        let created = create_whole(self.disk, self.dir, &name, |file| {
            let mut builder = Builder::new(file, header);
            match fill(&mut builder) {
                Ok(()) => builder.finish(marks),
                Err(Failure::Write(error)) => Err(error),
                Err(Failure::Read(error)) => {
                    unreadable = Some(error);
                    Err(io::ErrorKind::InvalidData.into())
                }
            }
        });
        match (created, unreadable) {
            (Ok((file, ())), _) => Ok(Arc::new(Sealed::open(path, file)?)),
            (Err(_), Some(error)) => Err(error),
            (Err(error), None) if error.kind() == io::ErrorKind::StorageFull => {
                Err(JournalError::DiskFull { message: error.to_string() })
            }
            (Err(error), None) => Err(JournalError::io("sealing", path, &error)),
        }
    }
}

/// Why a sealed file was not made.
enum Failure {
    /// The inputs cannot be read.
    Read(JournalError),
    /// The output cannot be written.
    Write(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Write(error)
    }
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        Failure::Read(error)
    }
}

/// The runs that hold events which are not deleted.
fn kept(runs: &[Run], deleted_to: Option<Seq>) -> Vec<Run> {
    let deleted = deleted_to.unwrap_or_default().0;
    runs.iter().filter(|run| run.last_seq > deleted).copied().collect()
}

/// Reads runs, those that follow one another in the file together, and hands each on with its
/// bytes.
fn read_runs(
    file: &dyn DiskFile,
    (path, _): (&Path, u64),
    mut runs: &[Run],
    buffer: &mut Vec<u8>,
    mut each: impl FnMut(&Run, &[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    while let Some(first) = runs.first() {
        let (mut count, mut len) = (1, u64::from(first.len));
        while let Some(next) = runs.get(count)
            && next.offset == first.offset + len
            && len < READ_BYTES
        {
            len += u64::from(next.len);
            count += 1;
        }
        buffer.resize(len as usize, 0);
        file.read_exact_at(first.offset, buffer).map_err(|e| JournalError::read(path, &e))?;
        for run in &runs[..count] {
            each(run, &buffer[(run.offset - first.offset) as usize..][..run.len as usize])?;
        }
        runs = &runs[count..];
    }
    Ok(())
}

/// Copies the batches of a run that hold events which are not deleted.
fn copy(
    builder: &mut Builder<'_>,
    stretch: &[u8],
    (path, salt): (&Path, u64),
    run: &Run,
    deleted_to: Option<Seq>,
) -> Result<(), Failure> {
    let mut at = 0;
    while at < stretch.len() {
        let offset = run.offset + at as u64;
        let (header, payload) = verify(&stretch[at..], salt, offset)
            .ok_or_else(|| JournalError::corrupt(path, offset, "a frame does not verify"))?;
        let frame = &stretch[at..at + header.frame_bytes()];
        at += frame.len();
        if header.kind != Kind::Batch {
            continue;
        }
        let head = decode_batch_head(payload)
            .ok_or_else(|| JournalError::corrupt(path, offset, "a frame has no meaning"))?;
        let last = head.first_seq.plus(head.count - 1);
        if last > deleted_to.unwrap_or_default() {
            builder.batch(header, frame, (head.first_seq.0, last.0))?;
        }
    }
    Ok(())
}

fn merged_marks(inputs: &[Arc<Sealed>]) -> Vec<(ShardId, ShardMark)> {
    let mut marks: BTreeMap<ShardId, ShardMark> = BTreeMap::new();
    for row in inputs.iter().flat_map(|input| &input.shards) {
        let mark = marks.entry(row.shard).or_default();
        mark.last = mark.last.max(row.last);
        mark.epoch = mark.epoch.max(row.epoch);
    }
    marks.into_iter().collect()
}

/// Goes through the entities of a sealed file in order.
struct Cursor<'a> {
    input: &'a Sealed,
    rows: Box<dyn Iterator<Item = Result<(u64, u64), JournalError>> + 'a>,
    front: Option<(u64, EntityId, EntityIndex)>,
}

impl<'a> Cursor<'a> {
    fn new(input: &'a Sealed) -> Result<Self, JournalError> {
        let mut cursor = Cursor { input, rows: Box::new(input.directory()), front: None };
        cursor.step()?;
        Ok(cursor)
    }

    fn step(&mut self) -> Result<(), JournalError> {
        self.front = match self.rows.next().transpose()? {
            Some((hash, offset)) => {
                let found = self.input.entity_at(offset, Access::Waiting);
                let (entity, index) = found.map_err(Missed::into_error)?;
                Some((hash, entity, index))
            }
            None => None,
        };
        Ok(())
    }

    /// The entity's index, if it is the one in front; the cursor goes on.
    fn take(&mut self, entity: &EntityId) -> Result<Option<EntityIndex>, JournalError> {
        if self.front.as_ref().is_none_or(|(_, front, _)| front != entity) {
            return Ok(None);
        }
        let taken = self.front.take().map(|(_, _, index)| index);
        self.step()?;
        Ok(taken)
    }
}

/// The entity that comes first of those in front.
fn least(cursors: &[Cursor<'_>]) -> Option<EntityId> {
    let fronts = cursors.iter().filter_map(|cursor| cursor.front.as_ref());
    fronts.map(|(hash, entity, _)| (*hash, entity)).min().map(|(_, entity)| entity.clone())
}
