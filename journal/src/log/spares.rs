//! Segments that are made ahead of need.

use std::{
    io,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    layout::{FILE_HEADER_BYTES, RESERVED_BYTES},
    live::Live,
    shared::Shared,
};
use crate::error::JournalError;

/// Makes segments ahead of need.
pub(crate) struct Spares {
    next_id: u64,
    spare: Option<Live>,
    /// When none could be made, and why.
    failed: Option<(Instant, JournalError)>,
}

/// On a full disk, making a segment means to write until there is no room: not for every append
/// that comes meanwhile.
pub(crate) const RETRY: Duration = Duration::from_millis(500);

impl Spares {
    pub(crate) fn new(next_id: u64, spare: Option<Live>) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { next_id, spare, failed: None }))
    }

    /// The number of the next segment.
    pub(crate) fn next_id(&self) -> u64 {
        self.spare.as_ref().map_or(self.next_id, |spare| spare.id)
    }

    /// Makes the next segment, unless it is there.
    pub(crate) fn prepare(&mut self, shared: &Shared) -> Result<(), JournalError> {
        if self.spare.is_none() {
            let key = (shared.env.entropy.next_u64(), shared.log_id);
            let bytes = shared.config.segment_bytes;
            let made = Live::create(&*shared.env.disk, shared.dir(), self.next_id, key, bytes);
            self.spare = Some(made.map_err(|error| self.failed(shared, &error))?);
            self.next_id += 1;
        }
        self.failed = None;
        self.note(shared);
        Ok(())
    }

    /// As [`prepare`](Self::prepare), with room for frames of `bytes`. Where it failed a moment ago,
    /// it is not tried again.
    pub(crate) fn prepare_for(&mut self, shared: &Shared, bytes: u64) -> Result<(), JournalError> {
        match &self.failed {
            Some((at, error)) if at.elapsed() < RETRY => return Err(error.clone()),
            _ => self.prepare(shared)?,
        }
        let needed = FILE_HEADER_BYTES + bytes + RESERVED_BYTES;
        let extended = match &mut self.spare {
            Some(spare) if spare.capacity < needed => spare.extend(needed),
            _ => Ok(()),
        };
        extended.map_err(|error| self.failed(shared, &error))
    }

    /// The next segment, with room for frames of `bytes`.
    pub(crate) fn take(&mut self, shared: &Shared, bytes: u64) -> Result<Live, JournalError> {
        self.prepare_for(shared, bytes)?;
        let taken = self.spare.take().ok_or(JournalError::Closed);
        self.note(shared);
        taken
    }

    /// Segments below this number are in use.
    pub(crate) fn skip_to(&mut self, next_id: u64) {
        self.next_id = self.next_id.max(next_id);
    }

    /// Lets everybody know what room there is.
    fn note(&self, shared: &Shared) {
        let spare = self.spare.as_ref().map_or(0, |spare| spare.capacity - FILE_HEADER_BYTES);
        shared.room.spare.store(spare, Ordering::Release);
        shared.room.note(self.failed.as_ref().map(|(_, error)| error.clone()));
    }

    fn failed(&mut self, shared: &Shared, error: &io::Error) -> JournalError {
        let error = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                JournalError::DiskFull { message: error.to_string() }
            }
            _ => JournalError::io("making a segment in", shared.dir(), error),
        };
        self.failed = Some((Instant::now(), error.clone()));
        self.note(shared);
        error
    }
}
