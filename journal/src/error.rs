//! What can go wrong with a journal, and whether the write may have happened.

use std::{fmt, io, path::PathBuf};

use crate::{
    id::{EntityId, Seq, ShardId, Term},
    transport::Member,
};

/// Whether an operation that failed may have taken effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Nothing was written, and nothing will be: the operation can be tried again.
    None,
    /// It may have been written or not. Read back before trying again.
    Unknown,
}

/// Where damage was found: enough to look at the bytes by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corruption {
    /// The file.
    pub file: PathBuf,
    /// The first byte of the damaged part.
    pub offset: u64,
    /// What does not fit.
    pub what: String,
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.file.display(), self.offset, self.what)
    }
}

/// A failure of the journal. [`JournalError::effect`] says whether the write may have happened.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The batch has no events, too many, or a name, tag or metadata entry that is too long.
    #[error("the batch for {entity} is refused: {reason}")]
    InvalidBatch {
        /// Whose batch.
        entity: EntityId,
        /// What is wrong with it.
        reason: String,
    },
    /// An event or the batch is larger than the journal's limits.
    #[error("the {what} for {entity} has {bytes} bytes, and at most {limit} are allowed")]
    TooLarge {
        /// Whose batch.
        entity: EntityId,
        /// `"event payload"`, `"batch"`, or `"batches"` that are written together.
        what: &'static str,
        /// Its size in bytes.
        bytes: usize,
        /// The most that is allowed, in bytes.
        limit: usize,
    },
    /// The entity's highest sequence number is another than the writer expected: somebody else
    /// wrote.
    #[error("{entity} is at sequence number {actual}, not at the expected {expected}")]
    WrongExpectedSeq {
        /// Whose batch.
        entity: EntityId,
        /// What the writer expected.
        expected: Seq,
        /// What it is, counting writes that are accepted and not yet committed.
        actual: Seq,
    },
    /// A newer owner of the shard was installed: this writer must stop.
    #[error("{shard} is owned under {current}; the writer's {stale} is stale")]
    StaleEpoch {
        /// The shard.
        shard: ShardId,
        /// The writer's epoch.
        stale: Term,
        /// The epoch in force.
        current: Term,
    },
    /// There is no such shard.
    #[error("{shard} does not exist: there are {shards} shards")]
    UnknownShard {
        /// The shard that was asked for.
        shard: ShardId,
        /// How many there are.
        shards: u16,
    },
    /// Too much is waiting to be written. Nothing of this batch was; try again later.
    #[error("the journal is busy: {queued_bytes} bytes are waiting to be written")]
    Busy {
        /// Bytes that wait.
        queued_bytes: usize,
    },
    /// The disk has no room for another log segment. Reads go on; writes resume by themselves when
    /// there is room again.
    #[error("the disk is full: {message}")]
    DiskFull {
        /// What the operating system said.
        message: String,
    },
    /// Stored bytes do not verify. They are never returned and never skipped.
    #[error("the journal is corrupt: {0}")]
    Corrupt(Corruption),
    /// Another process has the data directory open.
    #[error("{} is in use by another process", .path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The directory holds something that this version cannot open.
    #[error("{} cannot be opened: {reason}", .path.display())]
    Incompatible {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A read failed.
    #[error("reading {}: {message}", .path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        message: String,
    },
    /// The journal could not be opened or a file could not be made.
    #[error("{doing} {}: {message}", .path.display())]
    Io {
        /// What was being done, as `"creating"`.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        message: String,
    },
    /// This node does not lead the shard's group. Nothing was written; go to the leader.
    #[error("this node does not lead {shard}{}", .leader.map(|l| format!("; {l} does")).unwrap_or_default())]
    NotLeader {
        /// The shard.
        shard: ShardId,
        /// Who leads it, if known. None right after a change, and where there is no quorum.
        leader: Option<Member>,
    },
    /// The write was handed to the group, and then its leader changed or lost its quorum: it may
    /// have been committed, or may still be. A retry with the same request id takes effect once.
    #[error("whether the write to {shard} was committed is not known: {reason}")]
    OutcomeUnknown {
        /// The shard.
        shard: ShardId,
        /// What happened.
        reason: String,
    },
    /// The shard cannot be served now, as where no quorum of its replicas is reachable. Nothing was
    /// written.
    #[error("{shard} is not available: {reason}")]
    Unavailable {
        /// The shard.
        shard: ShardId,
        /// Why.
        reason: String,
    },
    /// A change of a group's members or leader was refused, or could not be finished.
    #[error("the members of {shard} are not changed: {reason}")]
    Membership {
        /// The shard.
        shard: ShardId,
        /// Why.
        reason: String,
    },
    /// The journal was shut down before the write was taken up.
    #[error("the journal is shut down")]
    Closed,
    /// A write or an fsync failed: the log has stopped for good, and the node must. This write was
    /// under way; whether it is on disk shows when the log is opened again.
    #[error("the log failed while this write was under way: {cause}")]
    FailedUnderWay {
        /// The first failure.
        cause: String,
    },
    /// The log had already stopped for good after a failed write or fsync.
    #[error("the log has stopped for good: {cause}")]
    Failed {
        /// The first failure.
        cause: String,
    },
}

impl JournalError {
    /// Whether the operation may have taken effect.
    #[must_use]
    pub fn effect(&self) -> Effect {
        match self {
            JournalError::FailedUnderWay { .. } | JournalError::OutcomeUnknown { .. } => {
                Effect::Unknown
            }
            _ => Effect::None,
        }
    }

    /// A failed read of `path`.
    pub fn read(path: impl Into<PathBuf>, error: &io::Error) -> Self {
        JournalError::Read { path: path.into(), message: error.to_string() }
    }

    /// A failure to make or open a file.
    pub fn io(doing: &'static str, path: impl Into<PathBuf>, error: &io::Error) -> Self {
        JournalError::Io { doing, path: path.into(), message: error.to_string() }
    }

    /// Damaged bytes in `file`.
    pub fn corrupt(file: impl Into<PathBuf>, offset: u64, what: impl Into<String>) -> Self {
        JournalError::Corrupt(Corruption { file: file.into(), offset, what: what.into() })
    }
}
