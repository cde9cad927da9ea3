//! A segment that is not sealed yet: its file, and its index in memory.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    index::{EntityIndex, Place, Run, SegmentIndex},
    layout::{FILE_HEADER_BYTES, FileHeader, FileKind, create_whole, segment_name},
};
use crate::{
    disk::{Disk, DiskFile},
    id::{EntityId, Position, Seq, ShardId},
};

/// How much is zeroed at a time, and how much between two fsyncs: one big write would hold up the
/// group commits next door by tens of milliseconds.
const ZERO_BYTES: usize = 256 << 10;
const ZERO_SYNC_BYTES: u64 = 4 << 20;

/// A segment with its index. The index holds what is applied only.
pub(crate) struct Live {
    pub id: u64,
    pub path: PathBuf,
    pub file: Arc<dyn DiskFile>,
    pub salt: u64,
    /// The file's length: where its room ends.
    pub capacity: u64,
    /// Where the frames end that are durable.
    pub written: AtomicU64,
    pub index: Mutex<SegmentIndex>,
}

impl Live {
    /// Makes an empty segment of `capacity` bytes, filled with zeros: overwriting them later syncs
    /// twice as fast as growing a file.
    pub(crate) fn create(
        disk: &dyn Disk,
        dir: &Path,
        id: u64,
        (salt, log_id): (u64, u64),
        capacity: u64,
    ) -> io::Result<Live> {
        let header = FileHeader {
            kind: FileKind::Segment,
            first: id,
            last: id,
            generation: 0,
            salt,
            log_id,
        };
        let name = segment_name(id);
        let (file, ()) = create_whole(disk, dir, &name, |file| {
            file.write_at(0, &header.to_bytes())?;
            zero(file, FILE_HEADER_BYTES, capacity)
        })?;
        let written = AtomicU64::new(FILE_HEADER_BYTES);
        let path = dir.join(name);
        Ok(Live { id, path, file, salt, capacity, written, index: Mutex::default() })
    }

    /// Makes room for more than the segment has.
    pub(crate) fn extend(&mut self, capacity: u64) -> io::Result<()> {
        zero(&*self.file, self.capacity, capacity)?;
        self.file.sync_data()?;
        self.capacity = capacity;
        Ok(())
    }

    /// Gives a segment that was never used another number. Not durable before the folder is synced.
    pub(crate) fn renumber(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
        id: u64,
        log_id: u64,
    ) -> io::Result<()> {
        let (kind, salt) = (FileKind::Segment, self.salt);
        let header = FileHeader { kind, first: id, last: id, generation: 0, salt, log_id };
        self.file.write_at(0, &header.to_bytes())?;
        self.file.sync_data()?;
        let path = dir.join(segment_name(id));
        disk.rename(&self.path, &path)?;
        (self.id, self.path) = (id, path);
        Ok(())
    }

    /// Runs `look` on the index.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut SegmentIndex) -> T) -> T {
        // Nothing panics between two changes of the index that belong together.
        look(&mut self.index.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where the frames end that are durable.
    pub(crate) fn end(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// What the segment knows of an entity, without its runs.
    pub(crate) fn head(&self, entity: &EntityId) -> Option<(Option<Seq>, EntityIndex)> {
        self.with(|index| {
            let known = index.entities.get(entity)?;
            let head = EntityIndex { runs: Vec::new(), ..*known };
            Some((known.first_seq(), head))
        })
    }

    /// At most `max` runs of an entity that hold events at or after `from`.
    pub(crate) fn runs(&self, entity: &EntityId, from: Seq, max: usize) -> Vec<Run> {
        self.with(|index| {
            let runs = index.entities.get(entity).map_or(&[][..], |known| &known.runs);
            let start = runs.partition_point(|run| run.last_seq < from.0);
            runs[start..].iter().take(max).copied().collect()
        })
    }

    /// At most `max` batches of a shard that hold records after `after`.
    pub(crate) fn order(&self, shard: ShardId, after: Position, max: usize) -> Vec<Place> {
        self.with(|index| {
            let places = index.shards.get(&shard).map_or(&[][..], |known| &known.places);
            let start = places.partition_point(|place| place.last() <= after);
            places[start..].iter().take(max).copied().collect()
        })
    }
}

fn zero(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; ZERO_BYTES];
    let mut offset = from;
    while offset < to {
        let n = zeros.len().min((to - offset) as usize);
        file.write_at(offset, &zeros[..n])?;
        offset += n as u64;
        if (offset - from).is_multiple_of(ZERO_SYNC_BYTES) {
            file.sync_data()?;
        }
    }
    Ok(())
}
