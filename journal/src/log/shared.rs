//! What the groups, the writer and the maintenance share.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use super::{
    access::Access,
    apply::Deletion,
    entry::Entry,
    files::{Files, Source},
    group_state::{Group, Obstacle, Replica},
    index::Run,
    intake::Staged as StagedCheckpoint,
    live::Live,
    options::LogConfig,
    pace::Pace,
};
use crate::{disk::DiskLock, env::Env, error::JournalError, id::ShardId};

/// Hears that a write is durable, or why not. Called on the writer: it must be quick.
pub(crate) type Flushed = Box<dyn FnOnce(Result<(), JournalError>) + Send>;

/// What the writer is asked for.
pub(crate) enum Task {
    Append {
        shard: ShardId,
        entries: Vec<Entry>,
        /// What they count for in the queue's limit.
        bytes: usize,
        done: Flushed,
    },
    Vote {
        shard: ShardId,
        vote: Bytes,
        done: Flushed,
    },
    /// Write the marks that are due.
    Mark(Flushed),
    /// Go on with a new segment.
    Roll(oneshot::Sender<Result<(), JournalError>>),
    /// Let a checkpoint take the place of what there is of its shard.
    Install(Box<StagedCheckpoint>, oneshot::Sender<Result<(), JournalError>>),
    /// Write entries again that lie in segments older than their shard's checkpoint.
    BringOver(ShardId, oneshot::Sender<Result<(), JournalError>>),
    /// Close in good order.
    Close,
    /// Write nothing more.
    Stop,
}

/// The data directory's lock: held until the last part of the log is gone.
pub(crate) type SharedLock = Arc<dyn DiskLock>;

/// Whether writes are taken.
#[derive(Debug, Clone)]
pub(crate) enum State {
    Open,
    Closed,
    Failed(String),
}

/// The shared part of a log.
pub(crate) struct Shared {
    pub config: LogConfig,
    pub env: Env,
    pub log_id: u64,
    pub files: Arc<Files>,
    pub groups: Vec<Arc<Group>>,
    state: Mutex<State>,
    /// Fast answer to "is it not open?".
    stopped: AtomicBool,
    /// Bytes of entries that are not written yet.
    pub queued_bytes: AtomicUsize,
    /// Bytes of entries in memory.
    pub recent_bytes: AtomicUsize,
    pub room: Room,
    pub pace: Pace,
    /// Wakes the maintenance worker.
    pub work: Notify,
    /// Woken when a segment was sealed, or could not be.
    pub sealed_one: Notify,
    /// Woken when the log stops.
    pub ended: Notify,
    /// Sealing fails, or must wait for others: appends must not wait for it.
    pub sealing_stuck: AtomicBool,
}

/// What room the log knows of.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// Bytes left in the segment that is written.
    pub active: AtomicU64,
    /// Bytes of the spare.
    pub spare: AtomicU64,
    /// Why the newest attempt to make a segment failed.
    lack: Mutex<Option<JournalError>>,
}

impl Room {
    /// Why no segment could be made, if so.
    pub(crate) fn lack(&self) -> Option<JournalError> {
        self.lack.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes how the newest attempt to make a segment ended.
    pub(crate) fn note(&self, lack: Option<JournalError>) {
        *self.lack.lock().unwrap_or_else(PoisonError::into_inner) = lack;
    }
}

impl Shared {
    pub(crate) fn new(
        config: LogConfig,
        env: Env,
        log_id: u64,
        files: Arc<Files>,
        groups: Vec<Arc<Group>>,
    ) -> Self {
        Self {
            config,
            env,
            log_id,
            files,
            groups,
            state: Mutex::new(State::Open),
            stopped: AtomicBool::new(false),
            queued_bytes: AtomicUsize::new(0),
            recent_bytes: AtomicUsize::new(0),
            room: Room::default(),
            pace: Pace::default(),
            work: Notify::new(),
            sealed_one: Notify::new(),
            ended: Notify::new(),
            sealing_stuck: AtomicBool::new(false),
        }
    }

    pub(crate) fn dir(&self) -> &PathBuf {
        &self.config.dir
    }

    pub(crate) fn group(&self, shard: ShardId) -> &Arc<Group> {
        &self.groups[usize::from(shard.0)]
    }

    /// Room in a segment that entries leave to votes and marks while no next one is at hand.
    pub(crate) fn reserve(&self) -> u64 {
        self.config.segment_bytes / 8
    }

    /// Whether entries of so many bytes may be proposed, or accepted from a leader.
    pub(crate) fn admit(&self, bytes: usize) -> Result<(), JournalError> {
        self.check_open()?;
        let queued_bytes = self.queued_bytes.load(Ordering::Relaxed);
        if queued_bytes > self.config.queue_bytes {
            return Err(JournalError::Busy { queued_bytes });
        }
        let Some(lack) = self.room.lack() else { return Ok(()) };
        let known =
            self.room.active.load(Ordering::Acquire) + self.room.spare.load(Ordering::Acquire);
        let needed = queued_bytes as u64 + bytes as u64 + self.reserve();
        if needed <= known { Ok(()) } else { Err(lack) }
    }

    /// An error where writes are not taken.
    pub(crate) fn check_open(&self) -> Result<(), JournalError> {
        if !self.stopped.load(Ordering::Acquire) {
            return Ok(());
        }
        match self.state() {
            State::Open => Ok(()),
            State::Closed => Err(JournalError::Closed),
            State::Failed(cause) => Err(JournalError::Failed { cause }),
        }
    }

    /// An error where the log was shut down. One that failed can still be read.
    pub(crate) fn check_not_closed(&self) -> Result<(), JournalError> {
        match self.check_open() {
            Err(JournalError::Closed) => Err(JournalError::Closed),
            _ => Ok(()),
        }
    }

    /// An error where a write or fsync failed.
    pub(crate) fn check_not_failed(&self) -> Result<(), JournalError> {
        match self.check_open() {
            Err(failed @ JournalError::Failed { .. }) => Err(failed),
            _ => Ok(()),
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether nothing will be written any more.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Stops taking writes: for good, and the first reason stays.
    pub(crate) fn stop(&self, state: State) {
        let mut current = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*current, State::Open) || matches!(state, State::Failed(_)) {
            *current = state;
        }
        self.stopped.store(true, Ordering::Release);
    }

    /// Lets everybody who waits for something look again.
    pub(crate) fn wake_all(&self) {
        for group in &self.groups {
            group.durable.notify_waiters();
            group.applied.notify_waiters();
        }
        self.ended.notify_waiters();
        self.work.notify_one();
        self.sealed_one.notify_one();
    }

    /// What stands in the way of sealing a segment, group by group.
    pub(crate) fn obstacles(&self, live: &Live) -> Vec<(ShardId, Obstacle)> {
        let of =
            |group: &Arc<Group>| Some((group.shard, group.replica().stands_in_the_way(live.id)?));
        self.groups.iter().filter_map(of).collect()
    }

    /// By shard, up to which entry the group is applied by a mark on disk.
    pub(crate) fn marked(&self) -> Vec<Option<u64>> {
        let of = |group: &Arc<Group>| group.replica().marked.applied.map(|id| id.index);
        self.groups.iter().map(of).collect()
    }

    /// Whether a full segment waits that could be sealed right now.
    pub(crate) fn sealing_is_due(&self) -> bool {
        let set = self.files.now();
        let full = set.live.len().saturating_sub(1);
        full > self.config.unsealed_segments
            && set.live[..full].iter().any(|live| self.obstacles(live).is_empty())
    }

    /// Changes a group's replica, and keeps the entries in memory within their bound: all groups
    /// together within `recent_bytes`, where the group at hand gives of its own down to its share.
    pub(crate) fn change<T>(&self, group: &Group, change: impl FnOnce(&mut Replica) -> T) -> T {
        let mut replica = group.replica();
        let before = replica.entries.recent_bytes();
        let result = change(&mut replica);
        let share = self.config.recent_bytes / self.groups.len().max(1);
        let others = self.recent_bytes.load(Ordering::Relaxed).saturating_sub(before);
        if let Some(applied) = replica.applied {
            while replica.entries.recent_bytes() > share
                && others + replica.entries.recent_bytes() > self.config.recent_bytes
                && replica.entries.evict(applied.index)
            {}
        }
        let after = replica.entries.recent_bytes();
        if after >= before {
            self.recent_bytes.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.recent_bytes.fetch_sub(before - after, Ordering::Relaxed);
        }
        result
    }

    /// Notes in the sealed files how many of their events deletions take away: an estimate, so what
    /// cannot be read does not count. On a thread that may wait.
    pub(crate) fn count_dead(self: &Arc<Self>, deletions: Vec<Deletion>) {
        if deletions.is_empty() {
            return;
        }
        let shared = self.clone();
        self.env.offload.run(Box::new(move || {
            let set = shared.files.now();
            for Deletion { entity, after, to, .. } in &deletions {
                let Ok((_, sources)) = set.find(entity, Access::Waiting) else { continue };
                for (source, runs) in sources {
                    let Source::Sealed(sealed) = source else { continue };
                    let overlap = |run: &Run| {
                        (run.last_seq.min(to.0) + 1).saturating_sub(run.first_seq.max(after.0 + 1))
                    };
                    sealed.dead.fetch_add(runs.iter().map(overlap).sum(), Ordering::Relaxed);
                }
            }
            shared.work.notify_one();
        }));
    }
}
