//! What can go wrong, and whether the save may have happened.

use std::{io, path::PathBuf};

use duractor_journal::{Effect, EntityId};

/// Why a snapshot store refused or failed.
///
/// A snapshot that does not verify is no error: it counts as absent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The state is larger than [`MAX_STATE_BYTES`](crate::MAX_STATE_BYTES).
    #[error("the state of {entity} has {bytes} bytes, and at most {limit} are allowed")]
    TooLarge {
        /// Whose state.
        entity: EntityId,
        /// Its size in bytes.
        bytes: usize,
        /// The most that is allowed, in bytes.
        limit: usize,
    },
    /// Too much is waiting to be saved. Nothing of this save was; try again later.
    #[error("the snapshot store is busy: {queued_bytes} bytes are waiting to be saved")]
    Busy {
        /// Bytes that wait.
        queued_bytes: usize,
    },
    /// The disk has no room. Loads go on, and saves work again when there is room. What this call
    /// was to change is not durable; it is kept in memory, and a later save may write it after all.
    #[error("the disk is full: {message}")]
    DiskFull {
        /// What the operating system said.
        message: String,
    },
    /// Another process has the store open.
    #[error("{} is in use by another process", .path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The file was made by a version that this one cannot read.
    #[error("{} cannot be opened: {reason}", .path.display())]
    Incompatible {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The file is damaged, and the store was told to refuse it rather than to set it aside.
    #[error("{} is damaged: {reason}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A file could not be made, opened or read.
    #[error("{doing} {}: {message}", .path.display())]
    Io {
        /// What was being done, as `"creating"`.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        message: String,
    },
    /// The store was shut down before the call was taken up.
    #[error("the snapshot store is shut down")]
    Closed,
    /// A write or an fsync failed while this save was under way: it may be on disk or not. The
    /// store takes no more saves until it is opened again; loads go on.
    #[error("the snapshot store failed while this save was under way: {cause}")]
    FailedUnderWay {
        /// What failed.
        cause: String,
    },
    /// The store had already stopped taking saves after a failed write or fsync.
    #[error("the snapshot store takes no more saves: {cause}")]
    Failed {
        /// The first failure.
        cause: String,
    },
}

impl SnapshotError {
    /// Whether the save or delete may have taken effect.
    #[must_use]
    pub fn effect(&self) -> Effect {
        match self {
            SnapshotError::FailedUnderWay { .. } | SnapshotError::DiskFull { .. } => {
                Effect::Unknown
            }
            _ => Effect::None,
        }
    }

    /// A failure of the operating system.
    pub fn io(doing: &'static str, path: impl Into<PathBuf>, error: &io::Error) -> Self {
        SnapshotError::Io { doing, path: path.into(), message: error.to_string() }
    }
}
