//! Segments that are made ahead of need.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    layout::{FILE_HEADER_BYTES, RESERVED_BYTES},
    live::Live,
    shared::Shared,
};

/// Makes segments ahead of need.
pub(crate) struct Spares {
    next_id: u64,
    spare: Option<Live>,
    /// When none could be made, and why.
    failed: Option<(Instant, io::ErrorKind)>,
}

/// On a full disk, making a segment means to write until there is no room: not for every append
/// that comes meanwhile.
const RETRY: Duration = Duration::from_millis(500);

impl Spares {
    pub(crate) fn new(next_id: u64, spare: Option<Live>) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { next_id, spare, failed: None }))
    }

    /// Makes the next segment, unless it is there.
    pub(crate) fn prepare(&mut self, shared: &Shared) -> io::Result<()> {
        if self.spare.is_none() {
            let key = (shared.env.entropy.next_u64(), shared.log_id);
            let bytes = shared.config.segment_bytes;
            let made = Live::create(&*shared.env.disk, shared.dir(), self.next_id, key, bytes);
            self.failed = made.as_ref().err().map(|error| (Instant::now(), error.kind()));
            self.spare = Some(made?);
            self.next_id += 1;
        }
        Ok(())
    }

    /// The next segment, which stays where it is.
    pub(crate) fn peek(&mut self, shared: &Shared) -> io::Result<&Live> {
        self.ready(shared)?;
        self.spare.as_ref().ok_or_else(|| io::Error::other("no spare segment"))
    }

    /// The number of the next segment to be made: others are in use.
    pub(crate) fn skip_to(&mut self, next_id: u64) {
        self.next_id = self.next_id.max(next_id);
    }

    fn ready(&mut self, shared: &Shared) -> io::Result<()> {
        match self.failed {
            Some((at, kind)) if self.spare.is_none() && at.elapsed() < RETRY => Err(kind.into()),
            _ => self.prepare(shared),
        }
    }

    /// The next segment, with room for a frame of `bytes`.
    pub(crate) fn take(&mut self, shared: &Shared, bytes: u64) -> io::Result<Live> {
        self.ready(shared)?;
        let needed = FILE_HEADER_BYTES + bytes + RESERVED_BYTES;
        if let Some(spare) = &mut self.spare
            && spare.capacity < needed
        {
            spare.extend(needed)?;
        }
        self.spare.take().ok_or_else(|| io::Error::other("no spare segment"))
    }
}
