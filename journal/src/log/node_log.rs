//! The node's log: one for all groups of the node. It opens, maintains and closes the files, hands
//! out the groups' parts, and reads what is applied.

use std::sync::{Arc, Mutex, PoisonError, atomic::Ordering};

use futures_util::stream;
use tokio::sync::{mpsc, oneshot};

pub(crate) use super::maintain::PurgeWish;
use super::{
    access::{Access, Missed},
    apply::Machine,
    group_log::GroupLog,
    group_state::Group,
    maintain::{Maintenance, Request},
    open::{Opened, open},
    options::{LogConfig, LogUsage},
    read::{Replay, Tail},
    recover::Recovered,
    shared::{Shared, SharedLock, State, Task},
    spares::Spares,
    streams::{follow, next_piece},
    verify::verify,
    writer::Writer,
};
use crate::{
    env::Env,
    error::JournalError,
    id::{EntityId, Position, ShardId},
    port::{Head, RecordChunks, ReplayRange},
};

/// The log of a node.
///
/// Nothing is told to be durable before it is fsynced. A failed write or fsync stops it for good;
/// on a full disk it admits nothing until there is space again.
pub(crate) struct NodeLog {
    shared: Arc<Shared>,
    queue: mpsc::UnboundedSender<Task>,
    requests: mpsc::UnboundedSender<Request>,
    lock: Arc<Mutex<Option<SharedLock>>>,
    fresh: bool,
}

impl NodeLog {
    /// Opens the log in the configured folder, made new if there is none. Reads the index of sealed
    /// files and scans the segments that are not sealed.
    ///
    /// # Errors
    /// [`JournalError::Locked`] where another process has it open, [`JournalError::Corrupt`] where
    /// durable bytes do not verify, [`JournalError::Incompatible`] where it was made by another
    /// version or with another number of shards.
    pub(crate) async fn open(
        config: LogConfig,
        env: Env,
    ) -> Result<(Arc<NodeLog>, mpsc::UnboundedReceiver<PurgeWish>), JournalError> {
        let (job_config, job_env) = (config.clone(), env.clone());
        let job = move || {
            let mut opened = open(&job_config, &job_env)?;
            let active = opened.take_active(&job_config, &job_env)?;
            Ok::<_, JournalError>((opened, active))
        };
        let given_up = || JournalError::Failed { cause: "opening was given up".into() };
        let (opened, active) = env.offload(job).await.ok_or_else(given_up)??;
        let Opened { lock, meta, files, spare, next_segment, groups, .. } = opened;
        let fresh = groups.iter().all(|group| group.replica.is_fresh());
        let heads = (config.cached_heads / groups.len().max(1) / 2).max(16);
        let group = |(n, recovered): (usize, Recovered)| {
            let (shard, replica) = (ShardId(n as u16), recovered.replica);
            let machine = Machine::new(shard, replica.epoch, heads);
            Arc::new(Group::new(replica, machine, shard))
        };
        let groups = groups.into_iter().enumerate().map(group).collect();
        let spares = Spares::new(next_segment, spare);
        let shared = Arc::new(Shared::new(config, env, meta.log_id, files.into(), groups));
        let (queue, tasks) = mpsc::unbounded_channel();
        let (requests, wanted) = mpsc::unbounded_channel();
        let (wishes, wished) = mpsc::unbounded_channel();
        let writer = Writer::new(shared.clone(), spares.clone(), (tasks, lock.clone()), active);
        let out = (wishes, queue.downgrade());
        let maintenance = Maintenance::new(shared.clone(), spares, (wanted, lock.clone()), out);
        // The writer may have to go first, and nobody seals for it then.
        shared.sealing_stuck.store(true, Ordering::Release);
        shared.env.offload.worker("duractor-log", Box::pin(writer.run()));
        Self::bring_over(&shared, &queue).await?;
        shared.env.offload.worker("duractor-log-maintenance", Box::pin(maintenance.run()));
        let lock = Arc::new(Mutex::new(Some(lock)));
        Ok((Arc::new(Self { shared, queue, requests, lock, fresh }), wished))
    }

    /// Finishes what was begun with a checkpoint that left entries standing: before anything is
    /// applied or sealed, they are written again after it.
    async fn bring_over(
        shared: &Shared,
        queue: &mpsc::UnboundedSender<Task>,
    ) -> Result<(), JournalError> {
        let set = shared.files.now();
        for group in &shared.groups {
            let Some((sealed, _)) = set.checkpoint(group.shard) else { continue };
            if group.replica().entries.older_than(sealed.header.first, None).is_empty() {
                continue;
            }
            let (done, brought) = oneshot::channel();
            let why = || shared.check_open().err().unwrap_or(JournalError::Closed);
            queue.send(Task::BringOver(group.shard, done)).map_err(|_| why())?;
            brought.await.map_err(|_| why())??;
        }
        Ok(())
    }

    pub(crate) fn shards(&self) -> u16 {
        self.shared.config.shards
    }

    pub(crate) fn config(&self) -> &LogConfig {
        &self.shared.config
    }

    /// A group's part of the log. The shard must exist.
    pub(crate) fn group(self: &Arc<Self>, shard: ShardId) -> GroupLog {
        GroupLog::new(self.shared.clone(), shard, self.queue.clone())
    }

    /// Whether no group had an entry, a vote or anything applied when the log was opened.
    pub(crate) fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// An error where writes are not taken.
    pub(crate) fn check_open(&self) -> Result<(), JournalError> {
        self.shared.check_open()
    }

    /// Waits until the log is closed or has failed, and says why.
    pub(crate) async fn stopped(&self) -> JournalError {
        loop {
            let notified = self.shared.ended.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if let Err(why) = self.shared.check_open() {
                return why;
            }
            notified.await;
        }
    }

    /// Stops taking writes, finishes those that it took, writes how far the groups are applied and
    /// closes the files.
    pub(crate) async fn shutdown(&self) {
        self.shared.stop(State::Closed);
        // An error means that the writer is gone: it has nothing to finish.
        let _ = self.queue.send(Task::Close);
        self.shared.wake_all();
        self.queue.closed().await;
        self.requests.closed().await;
        self.shared.wake_all();
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Seals the current segment, merges sealed files as far as their size allows, and leaves
    /// deleted events behind, at once instead of when it is due.
    ///
    /// # Errors
    /// [`JournalError::Unavailable`] where a group did not release its entries for some seconds; as
    /// for writes; and where a file does not verify.
    pub(crate) async fn maintain(&self) -> Result<(), JournalError> {
        let why = || self.shared.check_open().err().unwrap_or(JournalError::Closed);
        let (done, rolled) = oneshot::channel();
        self.queue.send(Task::Roll(done)).map_err(|_| why())?;
        rolled.await.map_err(|_| why())??;
        let (done, worked) = oneshot::channel();
        self.requests.send(done).map_err(|_| why())?;
        worked.await.map_err(|_| why())?
    }

    /// Reads every byte that the log relies on and checks it, as a scrub that finds damage before
    /// somebody needs what is damaged. Returns how many frames there are. Writes and reads go on.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`] with the first damaged place.
    pub(crate) async fn verify(&self) -> Result<u64, JournalError> {
        let files = self.shared.files.clone();
        let job = move || verify(&files.now());
        self.shared.env.offload(job).await.unwrap_or(Err(JournalError::Closed))
    }

    /// See [`LogJournal::delay_ms`](crate::LogJournal::delay_ms).
    pub(crate) fn delay_ms(&self) -> u64 {
        self.shared.pace.delay_ms()
    }

    /// How many sealed files and segments the log has, and how many bytes they take.
    pub(crate) fn usage(&self) -> LogUsage {
        let set = self.shared.files.now();
        LogUsage {
            sealed_files: set.sealed.len(),
            segments: set.live.len(),
            bytes: set.sealed.iter().map(|sealed| sealed.len).sum::<u64>()
                + set.live.iter().map(|live| live.capacity).sum::<u64>(),
        }
    }

    /// The events of an entity in order, without the deleted ones, of what is applied.
    pub(crate) fn replay(&self, entity: &EntityId, range: ReplayRange) -> RecordChunks {
        if let Err(error) = self.shared.check_not_closed() {
            return Box::pin(stream::iter([Err(error)]));
        }
        let replay = Replay::new(self.shared.files.clone(), entity.clone(), range);
        let env = self.shared.env.clone();
        let pieces = stream::unfold(Some(replay), move |replay| next_piece(env.clone(), replay));
        Box::pin(pieces)
    }

    /// The entity's head, of what is applied.
    pub(crate) fn head(
        &self,
        entity: &EntityId,
    ) -> impl Future<Output = Result<Head, JournalError>> + Send + use<> {
        let (shared, entity) = (self.shared.clone(), entity.clone());
        async move {
            shared.check_not_closed()?;
            match shared.files.now().find(&entity, Access::Cached) {
                Ok((head, _)) => Ok(head),
                Err(Missed::Failed(error)) => Err(error),
                Err(Missed::Waits) => {
                    let files = shared.files.clone();
                    let found = shared.env.offload(move || files.now().head(&entity)).await;
                    found.unwrap_or(Err(JournalError::Closed))
                }
            }
        }
    }

    /// A shard's records in commit order, those after `after` that are applied now. Waits for the
    /// disk.
    #[cfg(feature = "contract")]
    pub(crate) fn tail_now(
        &self,
        shard: ShardId,
        after: Position,
    ) -> Result<Vec<crate::record::EventRecord>, JournalError> {
        let mut tail = Tail::new(self.shared.files.clone(), shard, after);
        let mut records = Vec::new();
        loop {
            let next = tail.next()?;
            if next.is_empty() {
                return Ok(records);
            }
            records.extend(next);
        }
    }

    /// A shard's records in commit order, those after `after`, then those to come, of what is
    /// applied. Ends when the log stops.
    pub(crate) fn tail(&self, shard: ShardId, after: Position) -> RecordChunks {
        let shards = self.shards();
        let exists = if shard.0 < shards {
            Ok(())
        } else {
            Err(JournalError::UnknownShard { shard, shards })
        };
        if let Err(error) = exists.and_then(|()| self.shared.check_not_closed()) {
            return Box::pin(stream::iter([Err(error)]));
        }
        let tail = Tail::new(self.shared.files.clone(), shard, after);
        let shared = self.shared.clone();
        Box::pin(stream::unfold(Some(tail), move |tail| follow(shared.clone(), shard, tail)))
    }
}

impl NodeLog {
    /// Takes no more writes and finishes nothing.
    pub(crate) fn close(&self) {
        // Groups' handles may keep the queue open; the maintenance must hear of it, too.
        self.shared.stop(State::Closed);
        let _ = self.queue.send(Task::Stop);
        self.shared.wake_all();
    }
}

impl Drop for NodeLog {
    fn drop(&mut self) {
        self.close();
    }
}
