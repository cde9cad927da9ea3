//! What can be set of a log.

use std::path::PathBuf;

use crate::{id::DEFAULT_SHARDS, record::Limits};

/// Settings of a [`LogJournal`](crate::LogJournal). Make one with [`LogConfig::new`] and change
/// what you want changed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogConfig {
    /// The log's folder. Made if need be; held by one process at a time.
    pub dir: PathBuf,
    /// Into how many shards a new log is cut, 1 to 256; 12 unless set. A log that is there keeps
    /// the number that it was made with, and opening it with another is refused.
    pub shards: u16,
    /// What an append may hold.
    pub limits: Limits,
    /// Bytes of a segment: 64 MiB unless set, 16 KiB to 1 GiB. A batch that is larger gets a
    /// segment of its own.
    pub segment_bytes: u64,
    /// Sealed files are merged until they have about this many bytes: 512 MiB unless set, at
    /// most 2 GiB. Merging one takes about 10 % of it in memory at 256 B events (24 bytes a batch and
    /// 16 an entity).
    pub merged_bytes: u64,
    /// How many neighbouring files of about one size are merged: 4 unless set. Fewer mean quicker
    /// reads of cold entities and more writing.
    pub fan_in: usize,
    /// A sealed file is rewritten when this percentage of its events is deleted: 30 unless set.
    pub compact_at_percent: u8,
    /// Bytes that may wait to be written before appends are refused as busy: 64 MiB unless set.
    pub queue_bytes: usize,
    /// How many entities' heads are kept in memory, over all shards: 262 144 unless set; about
    /// 100 bytes each.
    pub cached_heads: usize,
    /// How many full segments may wait to be sealed before appends wait too, and before the groups
    /// are asked to release the entries in them: 4 unless set. Each keeps its index in memory, 50 to
    /// 100 bytes an event. Replicas that are no farther behind catch up from these segments.
    pub unsealed_segments: usize,
    /// Bytes of the newest entries that are kept in memory, over all groups, for replicas that
    /// follow closely: 32 MiB unless set. What is not durable or not applied yet always stays.
    pub recent_bytes: usize,
}

impl LogConfig {
    /// The defaults, in this folder.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            shards: DEFAULT_SHARDS,
            limits: Limits::default(),
            segment_bytes: 64 << 20,
            merged_bytes: 512 << 20,
            fan_in: 4,
            compact_at_percent: 30,
            queue_bytes: 64 << 20,
            cached_heads: 262_144,
            unsealed_segments: 4,
            recent_bytes: 32 << 20,
        }
    }
}

/// What a log takes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogUsage {
    /// Files of sealed segments.
    pub sealed_files: usize,
    /// Segments that are not sealed yet, the one being written among them.
    pub segments: usize,
    /// Bytes of all these.
    pub bytes: u64,
}
