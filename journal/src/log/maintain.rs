//! Maintenance: one worker that makes segments ahead of need, seals full ones, merges sealed files
//! and leaves deleted events behind. It works beside reads and appends and never changes what they
//! see.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use super::{
    files::FileSet,
    policy::Policy,
    seal::Sealing,
    sealed::Sealed,
    shared::{Shared, SharedLock},
    spares::Spares,
};
use crate::error::JournalError;

/// After a failure (a full disk, as a rule) it is tried again after this time, or when there is
/// new work.
const RETRY: Duration = Duration::from_secs(1);

/// Somebody wants everything sealed, merged and compacted now.
pub(crate) type Request = oneshot::Sender<Result<(), JournalError>>;

/// The worker's own state.
pub(crate) struct Maintenance {
    /// Dropped before the requests: who sees them closed finds the directory free.
    #[expect(dead_code, reason = "held, not used")]
    lock: SharedLock,
    shared: Arc<Shared>,
    spares: Arc<Mutex<Spares>>,
    requests: mpsc::UnboundedReceiver<Request>,
}

impl Maintenance {
    pub(crate) fn new(
        shared: Arc<Shared>,
        spares: Arc<Mutex<Spares>>,
        (requests, lock): (mpsc::UnboundedReceiver<Request>, SharedLock),
    ) -> Self {
        Self { lock, shared, spares, requests }
    }

    /// Works until the log stops.
    pub(crate) async fn run(mut self) {
        while !self.shared.is_stopped() {
            let done = self.work(false);
            self.shared.sealing_stuck.store(done.is_err(), Ordering::Release);
            self.shared.sealed_one.notify_one();
            let delay = match &done {
                Ok(()) => Duration::from_secs(3600),
                Err(_) if self.shared.is_stopped() => return,
                Err(error) => {
                    tracing::warn!(%error, "log maintenance failed and will be tried again");
                    RETRY
                }
            };
            tokio::select! {
                biased;
                request = self.requests.recv() => match request {
                    Some(request) => {
                        let done = self.work(true);
                        drop(request.send(done));
                    }
                    None => return,
                },
                () = self.shared.work.notified() => {}
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    /// Does what is due; with `all`, also what could wait.
    fn work(&self, all: bool) -> Result<(), JournalError> {
        let spare = self.prepare();
        while !self.shared.is_stopped() && self.seal()? {
            self.shared.sealed_one.notify_one();
            self.prepare()?;
        }
        while !self.shared.is_stopped() && (self.merge(all)? || self.compact(all)?) {
            self.prepare()?;
            while self.seal()? {
                self.shared.sealed_one.notify_one();
            }
        }
        spare
    }

    fn prepare(&self) -> Result<(), JournalError> {
        let mut spares = self.spares.lock().unwrap_or_else(PoisonError::into_inner);
        spares.prepare(&self.shared).map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull => JournalError::DiskFull { message: error.to_string() },
            _ => JournalError::io("making a segment in", self.shared.dir(), &error),
        })
    }

    fn sealing<'a>(&'a self, set: &'a FileSet, stopped: &'a dyn Fn() -> bool) -> Sealing<'a> {
        let shared = &self.shared;
        Sealing {
            disk: &*shared.env.disk,
            dir: shared.dir(),
            salt: shared.env.entropy.next_u64(),
            log_id: shared.log_id,
            set,
            stopped,
        }
    }

    /// Seals the oldest full segment, if there is one.
    fn seal(&self) -> Result<bool, JournalError> {
        let set = self.shared.files.now();
        let Some(live) = set.sealable(|_| true) else { return Ok(false) };
        let sealed = self.sealing(&set, &|| self.shared.is_stopped()).segment(live)?;
        tracing::debug!(file = %sealed.path.display(), events = sealed.trailer.events, "sealed");
        self.shared.files.change(|set| {
            set.sealed.push(sealed);
            set.live.retain(|other| !Arc::ptr_eq(other, live));
        });
        self.remove(&live.path);
        Ok(true)
    }

    /// Merges neighbours, if that is due.
    fn merge(&self, all: bool) -> Result<bool, JournalError> {
        let config = &self.shared.config;
        let policy = Policy {
            segment_bytes: config.segment_bytes,
            merged_bytes: config.merged_bytes,
            fan_in: config.fan_in,
        };
        let set = self.shared.files.now();
        for stretch in set.neighbours() {
            let files = &set.sealed[stretch];
            let sizes: Vec<u64> = files.iter().map(|sealed| sealed.len).collect();
            let range = if all { policy.tightest(&sizes) } else { policy.due(&sizes) };
            if let Some(range) = range {
                return self.replace(&set, &files[range]);
            }
        }
        Ok(false)
    }

    /// Rewrites a file of which much is deleted, if there is one.
    fn compact(&self, all: bool) -> Result<bool, JournalError> {
        let percent = if all { 1 } else { u64::from(self.shared.config.compact_at_percent) };
        let set = self.shared.files.now();
        let due = set.sealed.iter().find(|sealed| {
            let dead = sealed.dead.load(Ordering::Relaxed) + set.replaced_events(sealed);
            dead > 0 && dead * 100 >= percent * sealed.trailer.events
        });
        match due {
            Some(sealed) => self.replace(&set, std::slice::from_ref(sealed)),
            None => Ok(false),
        }
    }

    fn replace(&self, set: &FileSet, inputs: &[Arc<Sealed>]) -> Result<bool, JournalError> {
        let merged = self.sealing(set, &|| self.shared.is_stopped()).merge(inputs)?;
        tracing::debug!(
            file = %merged.path.display(),
            events = merged.trailer.events,
            files = inputs.len(),
            "merged"
        );
        self.shared.files.change(|set| {
            let at = set.sealed.iter().position(|sealed| Arc::ptr_eq(sealed, &inputs[0]));
            if let Some(at) = at {
                set.sealed.splice(at..at + inputs.len(), [merged]);
            }
        });
        for input in inputs {
            self.remove(&input.path);
        }
        Ok(true)
    }

    /// Removes a file that was replaced. If that fails it is removed when the log is opened again.
    fn remove(&self, path: &std::path::Path) {
        if let Err(error) = self.shared.env.disk.remove(path) {
            tracing::warn!(%error, path = %path.display(), "a replaced file could not be removed");
        }
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        // However it ended: nobody is to wait for it.
        self.shared.sealing_stuck.store(true, Ordering::Release);
        self.shared.sealed_one.notify_one();
    }
}
