//! What the journal's calls, its writer and its maintenance share.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::sync::{Notify, oneshot};

use super::{files::Files, frame::Kind, heads::ShardHeads, intake::Staged, options::LogConfig};
use crate::{
    disk::DiskLock,
    env::Env,
    error::JournalError,
    id::{EntityId, Position, Seq, ShardId, Term},
    port::{AppendDone, Appended},
};

/// Who hears what became of a write.
pub(crate) enum Done {
    Append(AppendDone),
    Other(oneshot::Sender<Result<(), JournalError>>),
}

impl Done {
    /// Says how it ended.
    pub(crate) fn tell(self, result: Result<Appended, JournalError>) {
        match self {
            Done::Append(done) => done(result),
            // Nobody waits any more: the write stands all the same.
            Done::Other(done) => drop(done.send(result.map(drop))),
        }
    }
}

/// A write that is accepted and waits for the writer.
pub(crate) struct Pending {
    pub kind: Kind,
    pub shard: ShardId,
    pub term: Term,
    /// Whose events, and the first and last of them; for a deletion up to which. `None` for a
    /// claim.
    pub what: Option<(EntityId, Seq, Seq)>,
    /// How many positions it takes.
    pub records: u32,
    /// The shard's ticket.
    pub ticket: u64,
    /// What it counts for in the queue's limit.
    pub queued_bytes: usize,
    /// The frame, its header still to be stamped.
    pub frame: Vec<u8>,
    pub done: Done,
}

/// What the writer is asked for.
pub(crate) enum Task {
    Write(Pending),
    /// Go on with a new segment.
    Roll(oneshot::Sender<Result<(), JournalError>>),
    /// Let a checkpoint take the place of what there is of its shard.
    Install(Box<Staged>, oneshot::Sender<Result<(), JournalError>>),
    /// Close in good order.
    Close,
}

/// The data directory's lock: held until the last part of the log is gone.
pub(crate) type SharedLock = Arc<dyn DiskLock>;

/// One shard: what its writers see, and who waits for its records.
pub(crate) struct Shard {
    pub heads: Mutex<ShardHeads>,
    /// The shard's submissions that are committed.
    pub completed: AtomicU64,
    /// Woken when records of the shard are committed, and when the journal stops.
    pub committed: Notify,
}

impl Shard {
    pub(crate) fn lock(&self) -> MutexGuard<'_, ShardHeads> {
        // A panic between two changes that belong together is not possible: the guarded code calls
        // nothing of the user's.
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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
    pub shards: Vec<Shard>,
    /// Changed with all shards locked, so whoever holds a shard's lock sees it stand still.
    state: Mutex<State>,
    /// Fast answer to "is it not open?".
    stopped: AtomicBool,
    pub queued_bytes: AtomicUsize,
    /// Wakes the maintenance worker.
    pub work: Notify,
    /// Woken when a segment was sealed, or could not be.
    pub sealed_one: Notify,
    /// Sealing fails: appends must not wait for it.
    pub sealing_stuck: AtomicBool,
}

impl Shared {
    pub(crate) fn new(
        config: LogConfig,
        env: Env,
        log_id: u64,
        files: Arc<Files>,
        epochs: &[Term],
    ) -> Self {
        let capacity = (config.cached_heads / epochs.len().max(1) / 2).max(16);
        let shard = |(i, epoch): (usize, &Term)| Shard {
            heads: Mutex::new(ShardHeads::new(ShardId(i as u16), *epoch, capacity)),
            completed: AtomicU64::new(0),
            committed: Notify::new(),
        };
        Self {
            shards: epochs.iter().enumerate().map(shard).collect(),
            config,
            env,
            log_id,
            files,
            state: Mutex::new(State::Open),
            stopped: AtomicBool::new(false),
            queued_bytes: AtomicUsize::new(0),
            work: Notify::new(),
            sealed_one: Notify::new(),
            sealing_stuck: AtomicBool::new(false),
        }
    }

    pub(crate) fn dir(&self) -> &PathBuf {
        &self.config.dir
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

    /// Whether nothing will be committed any more.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Runs `change` while no write is being submitted, and so that no write that is submitted
    /// later misses it.
    pub(crate) fn alone<T>(
        &self,
        change: impl FnOnce(&mut [MutexGuard<'_, ShardHeads>]) -> T,
    ) -> T {
        let mut guards: Vec<_> = self.shards.iter().map(Shard::lock).collect();
        change(&mut guards)
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
        for shard in &self.shards {
            shard.committed.notify_waiters();
        }
        self.work.notify_one();
        self.sealed_one.notify_one();
    }
}

/// Where a write ended up.
pub(crate) fn appended(pending: &Pending, position: Position) -> Appended {
    let last_seq = pending.what.as_ref().map_or(Seq::ZERO, |(_, _, last)| *last);
    let last = position.to_u64() + u64::from(pending.records.max(1)) - 1;
    Appended { last_seq, position: Position::from_u64(last) }
}
