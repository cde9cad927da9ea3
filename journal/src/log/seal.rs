//! Making sealed files: out of a full segment, or out of sealed files that lie side by side.
//!
//! Either way the frames come out by entity, deleted events and those of shards that were replaced
//! stay behind, and every frame is checked before it gets its new checksum.

use std::{collections::BTreeMap, io, path::Path, sync::Arc};

use super::{
    build::{Builder, ShardMark},
    codec::decode_batch_head,
    cursor::Cursor,
    files::FileSet,
    footer::ShardRow,
    frame::{Kind, verify},
    index::{Run, ShardIndex},
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
        let counts = |shard| !self.set.replaced_after(shard, live.id);
        let shards = self.set.shards();
        let mut entities: Vec<_> =
            live.with(|index| index.entities.keys().map(|id| (id.hash64(), id.clone())).collect());
        entities.retain(|(_, id)| counts(id.shard(shards)));
        entities.sort_unstable();
        let marks = live.with(|index| {
            let mark = |i: &ShardIndex| ShardMark {
                last: i.last,
                epoch: i.epoch,
                term: i.term,
                checkpoint: None,
            };
            // Of all shards: entries that follow may lie in segments which still are there.
            index.shards.iter().map(|(shard, i)| (*shard, mark(i))).collect()
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
                cursors.push(counting(self.set, input)?);
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
                        parts.push((cursor.sealed().clone(), index.runs));
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
        marks: &BTreeMap<ShardId, ShardMark>,
        fill: impl FnOnce(&mut Builder<&dyn DiskFile>) -> Result<(), Failure>,
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
    builder: &mut Builder<&dyn DiskFile>,
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

/// What is said of the shards in a file that takes the place of these.
fn merged_marks(inputs: &[Arc<Sealed>]) -> BTreeMap<ShardId, ShardMark> {
    let mut marks: BTreeMap<ShardId, ShardMark> = BTreeMap::new();
    for row in inputs.iter().flat_map(|input| &input.shards) {
        let mark = marks.entry(row.shard).or_default();
        if row.replaces() {
            *mark = ShardMark { checkpoint: row.checkpoint.clone(), ..ShardMark::default() };
        }
        mark.last = mark.last.max(row.last);
        mark.epoch = mark.epoch.max(row.epoch);
        mark.term = mark.term.max(row.term);
    }
    marks
}

/// In front of the entities of a sealed file whose shard was not replaced by a newer one. Of the
/// others no frame is read: they may be damaged, that being why they were replaced.
fn counting(set: &FileSet, sealed: &Arc<Sealed>) -> Result<Cursor, JournalError> {
    let gone = |row: &&ShardRow| set.replaced_after(row.shard, sealed.header.last);
    let gone: Vec<u64> = sealed.shards.iter().filter(gone).map(|r| r.shard.0.into()).collect();
    if !gone.is_empty() && gone.len() == sealed.shards.len() {
        return Ok(Cursor::at_end(sealed.clone()));
    }
    let shards = u64::from(set.shards().max(1));
    Cursor::new(sealed.clone(), Box::new(move |hash| !gone.contains(&(hash % shards))))
}

/// The entity that comes first of those in front.
fn least(cursors: &[Cursor]) -> Option<EntityId> {
    cursors.iter().filter_map(Cursor::front).min().map(|(_, entity)| entity.clone())
}
