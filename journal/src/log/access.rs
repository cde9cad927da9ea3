//! How to read: now or not at all, or waiting for the disk if need be.
//!
//! Most of what recovery reads is in the operating system's memory, and handing such a read to
//! another thread costs several times the read itself. So a reader first tries what needs no
//! waiting, where it is, and only the rest goes by the offload seam.

use std::path::Path;

use crate::{disk::DiskFile, error::JournalError};

/// Whether a read may wait for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Only what is in memory.
    Cached,
    /// Whatever it takes: on a thread that may block.
    Waiting,
}

/// Why a read gave nothing.
#[derive(Debug)]
pub(crate) enum Missed {
    /// It would have waited.
    Waits,
    Failed(JournalError),
}

impl From<JournalError> for Missed {
    fn from(error: JournalError) -> Self {
        Missed::Failed(error)
    }
}

impl Missed {
    /// The error of a read that was allowed to wait.
    pub(crate) fn into_error(self) -> JournalError {
        match self {
            Missed::Failed(error) => error,
            Missed::Waits => JournalError::Closed,
        }
    }
}

impl Access {
    /// Fills `buf` from a place in a file.
    pub(crate) fn read(
        self,
        path: &Path,
        file: &dyn DiskFile,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<(), Missed> {
        let read = match self {
            Access::Waiting => file.read_exact_at(offset, buf),
            Access::Cached => match file.read_cached_at(offset, buf) {
                Ok(true) => Ok(()),
                Ok(false) => return Err(Missed::Waits),
                Err(error) => Err(error),
            },
        };
        read.map_err(|error| JournalError::read(path, &error).into())
    }
}
