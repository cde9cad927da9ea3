//! Maintenance: one worker that makes segments ahead of need, seals full ones, merges sealed files
//! and leaves deleted events behind. It works beside reads and appends and never changes what they
//! see.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use super::{
    files::FileSet,
    group_state::Obstacle,
    live::Live,
    policy::Policy,
    seal::Sealing,
    sealed::Sealed,
    shared::{Shared, SharedLock, Task},
    spares::Spares,
};
use crate::{error::JournalError, id::ShardId};

/// After a failure (a full disk, as a rule) it is tried again after this time, or when there is
/// new work.
const RETRY: Duration = Duration::from_secs(1);
/// How long a request waits for groups that have yet to release their entries.
const PATIENCE: Duration = Duration::from_secs(10);

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
    wishes: mpsc::UnboundedSender<PurgeWish>,
    queue: mpsc::WeakUnboundedSender<Task>,
}

/// Entries of a group stand in the way of sealing: release them up to here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PurgeWish {
    pub shard: ShardId,
    /// The index of the last of them.
    pub upto: u64,
}

impl Maintenance {
    pub(crate) fn new(
        shared: Arc<Shared>,
        spares: Arc<Mutex<Spares>>,
        (requests, lock): (mpsc::UnboundedReceiver<Request>, SharedLock),
        (wishes, queue): (mpsc::UnboundedSender<PurgeWish>, mpsc::WeakUnboundedSender<Task>),
    ) -> Self {
        Self { lock, shared, spares, requests, wishes, queue }
    }

    /// Works until the log stops.
    pub(crate) async fn run(mut self) {
        while !self.shared.is_stopped() {
            let done = self.work(false);
            // What is left must wait: for another try, or for groups to release their entries.
            self.shared.sealing_stuck.store(true, Ordering::Release);
            self.shared.sealed_one.notify_one();
            let delay = match &done {
                Ok(()) => Duration::from_secs(3600),
                Err(_) if self.shared.is_stopped() => return,
                Err(error) => {
                    tracing::warn!(%error, "log maintenance failed and will be tried again");
                    RETRY
                }
            };
            let waits = self.ask_groups(self.shared.config.unsealed_segments);
            let delay = if waits.is_some() { RETRY } else { delay };
            tokio::select! {
                biased;
                request = self.requests.recv() => match request {
                    Some(request) => {
                        let done = self.work_through().await;
                        drop(request.send(done));
                    }
                    None => return,
                },
                () = self.shared.work.notified() => {}
                () = tokio::time::sleep(delay) => {}
            }
            self.shared.sealing_stuck.store(false, Ordering::Release);
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

    /// Seals everything that is full, and then does all that could wait.
    async fn work_through(&self) -> Result<(), JournalError> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let worked = self.work(false);
            self.shared.sealed_one.notify_one();
            worked?;
            let waits = self.ask_groups(0);
            let Some(shard) = waits.filter(|_| !self.shared.is_stopped()) else { break };
            tokio::select! {
                biased;
                () = self.shared.work.notified() => {}
                () = tokio::time::sleep_until(deadline) => {
                    let reason = "its entries are not released for sealing".into();
                    return Err(JournalError::Unavailable { shard, reason });
                }
            }
        }
        self.shared.check_open()?;
        self.work(true)
    }

    /// Where more than `allowed` full segments wait, asks for what stands in the way of the others:
    /// the groups for their entries, the writer for marks. Says for which group it waits.
    fn ask_groups(&self, allowed: usize) -> Option<ShardId> {
        let set = self.shared.files.now();
        let full = set.live.len().saturating_sub(1);
        let newest = &set.live[..full].get(full.checked_sub(allowed + 1)?)?;
        let mut waits = None;
        for (shard, obstacle) in self.shared.obstacles(newest) {
            waits = waits.or(Some(shard));
            match obstacle {
                Obstacle::Entries(id) => {
                    let wish = PurgeWish { shard, upto: id.index };
                    // Nobody listens any more: the node is going down.
                    let _ = self.wishes.send(wish);
                }
                Obstacle::Mark => {
                    let (shared, segment) = (self.shared.clone(), newest.id);
                    let done = Box::new(move |written: Result<(), JournalError>| {
                        // One that helped nothing is tried again with the next round.
                        let obstacle = shared.group(shard).replica().stands_in_the_way(segment);
                        if written.is_ok() && obstacle != Some(Obstacle::Mark) {
                            shared.work.notify_one();
                        }
                    });
                    if let Some(queue) = self.queue.upgrade() {
                        let _ = queue.send(Task::Mark(done));
                    }
                    break;
                }
            }
        }
        waits
    }

    fn prepare(&self) -> Result<(), JournalError> {
        let mut spares = self.spares.lock().unwrap_or_else(PoisonError::into_inner);
        spares.prepare(&self.shared)
    }

    fn sealing<'a>(
        &'a self,
        set: &'a FileSet,
        marked: &'a [Option<u64>],
        stopped: &'a dyn Fn() -> bool,
    ) -> Sealing<'a> {
        let shared = &self.shared;
        Sealing {
            disk: &*shared.env.disk,
            dir: shared.dir(),
            salt: shared.env.entropy.next_u64(),
            log_id: shared.log_id,
            set,
            marked,
            stopped,
        }
    }

    /// Seals the oldest full segment, if there is one.
    fn seal(&self) -> Result<bool, JournalError> {
        let set = self.shared.files.now();
        let may = |live: &Live| self.shared.obstacles(live).is_empty();
        let Some(live) = set.sealable(may) else { return Ok(false) };
        let marked = self.shared.marked();
        let sealed = self.sealing(&set, &marked, &|| self.shared.is_stopped()).segment(live)?;
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
        let marked = self.shared.marked();
        let merged = self.sealing(set, &marked, &|| self.shared.is_stopped()).merge(inputs)?;
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
