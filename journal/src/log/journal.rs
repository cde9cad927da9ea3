//! The `Journal` port over the segmented log.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
};

use futures_util::{
    future::BoxFuture,
    stream::{self, BoxStream},
};
use tokio::sync::{mpsc, oneshot};

use super::{
    access::{Access, Missed},
    codec::{encode_batch, encode_delete},
    files::{Files, Source},
    frame::Kind,
    heads::advance,
    maintain::{Maintenance, Request},
    open::open,
    options::LogConfig,
    read::{Replay, Tail},
    shared::{Done, Pending, Shard, Shared, SharedLock, State, Task},
    spares::Spares,
    streams::{follow, next_piece},
    verify::verify,
    writer::{Writer, claim},
};
use crate::{
    check::check_batch,
    env::Env,
    error::JournalError,
    group::{GroupStatus, Replication},
    id::{EntityId, Position, Seq, ShardId, Term},
    port::{Ack, AppendDone, Head, Journal, RecordChunks, ReplayRange},
    record::{AppendBatch, Limits},
    transport::Member,
};

/// The journal in files: one segmented log for all shards, group-committed by one writer.
///
/// Nothing is acknowledged before it is fsynced. A failed write or fsync stops it for good; a full
/// disk refuses appends until there is space again. See the module's page for the files.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use duractor_journal::{AppendBatch, EntityId, Env, Journal, LogConfig, LogJournal, NewEvent};
/// use duractor_journal::{Seq, Timestamp};
/// # let dir = tempfile::tempdir()?; let dir = dir.path();
/// let journal = LogJournal::open(LogConfig::new(dir), Env::production()).await?;
/// let entity = EntityId::new("order", "17")?;
/// let epoch = journal.claim(entity.shard(journal.shards())).await?;
/// let appended = journal
///     .append(AppendBatch {
///         entity: entity.clone(),
///         epoch,
///         expected_seq: Seq::ZERO,
///         timestamp: Timestamp(0),
///         request: None,
///         events: vec![NewEvent::new("placed", 1, &b"..."[..])],
///     })
///     .await?;
/// assert_eq!(appended.last_seq, Seq(1));
/// journal.shutdown().await;
/// # Ok(()) }
/// ```
pub struct LogJournal {
    shared: Arc<Shared>,
    queue: mpsc::UnboundedSender<Task>,
    requests: mpsc::UnboundedSender<Request>,
    lock: Arc<Mutex<Option<SharedLock>>>,
}

impl LogJournal {
    /// Opens the log in the configured folder, made new if there is none. Reads the index of
    /// sealed files and scans the segments that are not sealed, as a rule one.
    ///
    /// # Errors
    /// [`JournalError::Locked`] where another process has it open, [`JournalError::Corrupt`] where
    /// durable bytes do not verify, [`JournalError::Incompatible`] where it was made by another
    /// version or with another number of shards.
    pub async fn open(config: LogConfig, env: Env) -> Result<Arc<Self>, JournalError> {
        let (job_config, job_env) = (config.clone(), env.clone());
        let job = move || {
            let mut opened = open(&job_config, &job_env)?;
            let active = opened.take_active(&job_config, &job_env)?;
            Ok::<_, JournalError>((opened, active))
        };
        let given_up = || JournalError::Failed { cause: "opening was given up".into() };
        let (mut opened, active) = env.offload(job).await.ok_or_else(given_up)??;
        let spares = Spares::new(opened.next_segment, opened.spare.take());
        let (epochs, last): (Vec<_>, Vec<_>) = opened.shards.into_iter().unzip();
        let shared =
            Arc::new(Shared::new(config, env, opened.meta.log_id, opened.files.into(), &epochs));
        let (queue, tasks) = mpsc::unbounded_channel();
        let (requests, wanted) = mpsc::unbounded_channel();
        let lock = opened.lock;
        let tasks = (tasks, lock.clone());
        let writer = Writer::new(shared.clone(), spares.clone(), tasks, active, &last);
        let maintenance = Maintenance::new(shared.clone(), spares, (wanted, lock.clone()));
        let offload = &shared.env.offload;
        offload.worker("duractor-log", Box::pin(writer.run()));
        offload.worker("duractor-log-maintenance", Box::pin(maintenance.run()));
        Ok(Arc::new(Self { shared, queue, requests, lock: Arc::new(Mutex::new(Some(lock))) }))
    }

    /// Opens the log as one of several replicas: this node is who the transport says. A group does
    /// nothing until it is [initialised](Self::initialize) here or a leader elsewhere makes this
    /// node its member.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_replicated(
        config: LogConfig,
        env: Env,
        replication: Replication,
    ) -> Result<Arc<Self>, JournalError> {
        let _ = replication;
        Self::open(config, env).await
    }

    /// Whether nothing was ever written to this disk: no entry, no vote.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        false
    }

    /// Makes a new group with these voters. To be called once in a cluster's life for each shard, on
    /// one of them (or on all with the same voters).
    ///
    /// # Errors
    /// [`JournalError::Membership`] where the group was made already.
    pub async fn initialize(
        &self,
        shard: ShardId,
        voters: BTreeSet<Member>,
    ) -> Result<(), JournalError> {
        let _ = voters;
        Err(JournalError::Membership { shard, reason: "not built yet".into() })
    }

    /// How a shard's group is, as seen from here.
    #[must_use]
    pub fn group(&self, shard: ShardId) -> GroupStatus {
        GroupStatus::outside(shard)
    }

    /// The groups whose [status](Self::group) changed in role, leader, term or members; first all of
    /// them.
    pub fn group_changes(&self) -> BoxStream<'static, ShardId> {
        Box::pin(stream::pending())
    }

    /// Changes who belongs to a group; at its leader. New voters are caught up before they vote, and
    /// the change is complete when this returns. Goes through a joint configuration, so any change
    /// is safe at any time.
    ///
    /// # Errors
    /// [`JournalError::NotLeader`]; [`JournalError::Membership`] where another change is under way or
    /// this one cannot be finished now. After [`JournalError::OutcomeUnknown`] look at the status.
    pub async fn change_members(
        &self,
        shard: ShardId,
        voters: BTreeSet<Member>,
        learners: BTreeSet<Member>,
    ) -> Result<(), JournalError> {
        let _ = (voters, learners);
        Err(JournalError::Membership { shard, reason: "not built yet".into() })
    }

    /// Hands a group's leadership to another voter; at its leader. Returns when the other leads.
    ///
    /// # Errors
    /// [`JournalError::NotLeader`]; [`JournalError::Membership`] where the other did not take over in
    /// time. Leadership may have moved all the same.
    pub async fn transfer_leadership(
        &self,
        shard: ShardId,
        to: Member,
    ) -> Result<(), JournalError> {
        let _ = to;
        Err(JournalError::Membership { shard, reason: "not built yet".into() })
    }

    /// Makes `me` the only voter of every group on this disk, with the log not open: for the
    /// recovery of a cluster that lost its quorum for good. What only lost nodes had is lost, and
    /// a lost node must never come back to this cluster. Keeps all local data. Returns the groups.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn force_single_voter(
        config: LogConfig,
        env: Env,
        me: Member,
    ) -> Result<Vec<ShardId>, JournalError> {
        let _ = (config, env, me);
        Err(JournalError::Closed)
    }

    /// Seals the current segment, merges sealed files as far as their size allows, and leaves
    /// deleted events behind, at once instead of when it is due.
    ///
    /// # Errors
    /// As for an append; and where a file does not verify.
    pub async fn maintain(&self) -> Result<(), JournalError> {
        let (done, rolled) = oneshot::channel();
        self.queue.send(Task::Roll(done)).map_err(|_| self.stopped())?;
        rolled.await.map_err(|_| self.stopped())??;
        let (done, worked) = oneshot::channel();
        self.requests.send(done).map_err(|_| self.stopped())?;
        worked.await.map_err(|_| self.stopped())?
    }

    /// Reads every byte that the log relies on and checks it, as a scrub that finds damage before
    /// somebody needs what is damaged. Returns how many frames there are. Appends and reads go on.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`] with the first damaged place.
    pub async fn verify(&self) -> Result<u64, JournalError> {
        let files = self.shared.files.clone();
        let job = move || verify(&files.now());
        self.shared.env.offload(job).await.unwrap_or(Err(JournalError::Closed))
    }

    /// How many sealed files and segments the log has, and how many bytes they take.
    #[must_use]
    pub fn usage(&self) -> LogUsage {
        let set = self.shared.files.now();
        LogUsage {
            sealed_files: set.sealed.len(),
            segments: set.live.len(),
            bytes: set.sealed.iter().map(|sealed| sealed.len).sum::<u64>()
                + set.live.iter().map(|live| live.capacity).sum::<u64>(),
        }
    }

    fn shard(&self, shard: ShardId) -> Result<&Shard, JournalError> {
        let shards = self.shared.config.shards;
        self.shared
            .shards
            .get(usize::from(shard.0))
            .ok_or(JournalError::UnknownShard { shard, shards })
    }

    fn stopped(&self) -> JournalError {
        self.shared.check_open().err().unwrap_or(JournalError::Closed)
    }

    /// Checks a write against what is known, and queues it: both under the shard's lock, so that
    /// the writer meets a shard's writes in the order in which they were accepted.
    fn accept(&self, batch: AppendBatch, done: Done) -> Result<(), (JournalError, Done)> {
        let frame = match self.fits(&batch) {
            Ok(()) => encode_batch(&batch),
            Err(error) => return Err((error, done)),
        };
        let id = batch.entity.shard(self.shared.config.shards);
        let shard = &self.shared.shards[usize::from(id.0)];
        let count = batch.events.len() as u64;
        let mut heads = shard.lock();
        let checked = (|| {
            self.shared.check_open()?;
            heads.check_epoch(batch.epoch)?;
            let completed = shard.completed.load(Ordering::Acquire);
            let load = || self.shared.files.now().head(&batch.entity);
            let head = heads.head(&batch.entity, completed, load)?;
            advance(&batch.entity, head, batch.expected_seq, count)
        })();
        let head = match checked {
            Ok(head) => head,
            Err(error) => return Err((error, done)),
        };
        let ticket = heads.submitted(&batch.entity, head);
        self.send(Pending {
            kind: Kind::Batch,
            shard: id,
            term: batch.epoch,
            what: Some((batch.entity, batch.expected_seq.next(), head.last_seq)),
            records: count as u32,
            ticket,
            queued_bytes: frame.len(),
            frame,
            done,
        });
        Ok(())
    }

    fn fits(&self, batch: &AppendBatch) -> Result<(), JournalError> {
        check_batch(batch, &self.shared.config.limits)?;
        let queued_bytes = self.shared.queued_bytes.load(Ordering::Relaxed);
        if queued_bytes > self.shared.config.queue_bytes {
            return Err(JournalError::Busy { queued_bytes });
        }
        Ok(())
    }

    fn send(&self, pending: Pending) {
        self.shared.queued_bytes.fetch_add(pending.queued_bytes, Ordering::Relaxed);
        if let Err(mpsc::error::SendError(Task::Write(pending))) =
            self.queue.send(Task::Write(pending))
        {
            pending.done.tell(Err(self.stopped()));
        }
    }

    fn delete(
        &self,
        entity: &EntityId,
        to: Seq,
        epoch: Term,
        done: oneshot::Sender<Result<(), JournalError>>,
    ) -> Result<(), JournalError> {
        let id = entity.shard(self.shared.config.shards);
        let shard = self.shard(id)?;
        let mut heads = shard.lock();
        self.shared.check_open()?;
        heads.check_epoch(epoch)?;
        let completed = shard.completed.load(Ordering::Acquire);
        let set = self.shared.files.now();
        let mut head = heads.head(entity, completed, || set.head(entity))?;
        let to = to.min(head.last_seq);
        // Only a deletion that is committed makes this one needless.
        if to <= head.deleted_to && to <= set.head(entity)?.deleted_to {
            drop(done.send(Ok(())));
            return Ok(());
        }
        let to = to.max(head.deleted_to);
        count_dead(&set, entity, head.deleted_to, to)?;
        head.deleted_to = to;
        let ticket = heads.submitted(entity, head);
        let frame = encode_delete(entity, to);
        self.send(Pending {
            kind: Kind::Delete,
            shard: id,
            term: epoch,
            what: Some((entity.clone(), to, to)),
            records: 1,
            ticket,
            queued_bytes: frame.len(),
            frame,
            done: Done::Other(done),
        });
        self.shared.work.notify_one();
        Ok(())
    }
}

/// What a log takes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogUsage {
    /// Files of sealed segments.
    pub sealed_files: usize,
    /// Segments that are not sealed yet, the one being written among them.
    pub segments: usize,
    /// Bytes of all these.
    pub bytes: u64,
}

/// Notes in the sealed files how many of their events a deletion takes away.
fn count_dead(
    set: &super::files::FileSet,
    entity: &EntityId,
    after: Seq,
    to: Seq,
) -> Result<(), JournalError> {
    let (_, sources) = set.find(entity, Access::Waiting).map_err(Missed::into_error)?;
    for (source, runs) in sources {
        let Source::Sealed(sealed) = source else { continue };
        let overlap = |run: &super::index::Run| {
            (run.last_seq.min(to.0) + 1).saturating_sub(run.first_seq.max(after.0 + 1))
        };
        sealed.dead.fetch_add(runs.iter().map(overlap).sum(), Ordering::Relaxed);
    }
    Ok(())
}

impl Journal for LogJournal {
    fn limits(&self) -> Limits {
        self.shared.config.limits
    }

    fn shards(&self) -> u16 {
        self.shared.config.shards
    }

    fn claim(&self, shard: ShardId) -> BoxFuture<'static, Result<Term, JournalError>> {
        let (tx, rx) = oneshot::channel();
        let claimed = self.shard(shard).and_then(|known| {
            let mut heads = known.lock();
            self.shared.check_open()?;
            heads.epoch = Term(heads.epoch.0 + 1);
            let ticket = heads.claimed();
            self.send(claim(shard, heads.epoch, ticket, Done::Other(tx)));
            Ok(heads.epoch)
        });
        Box::pin(async move {
            let term = claimed?;
            rx.await.unwrap_or(Err(JournalError::Closed))?;
            Ok(term)
        })
    }

    fn submit_with(&self, batch: AppendBatch, _: Ack, done: AppendDone) {
        if let Err((error, done)) = self.accept(batch, Done::Append(done)) {
            done.tell(Err(error));
        }
    }

    fn replay(&self, entity: &EntityId, range: ReplayRange) -> RecordChunks {
        if let Err(error) = self.shared.check_not_closed() {
            return Box::pin(stream::iter([Err(error)]));
        }
        let replay = Replay::new(self.shared.files.clone(), entity.clone(), range);
        let env = self.shared.env.clone();
        let pieces = stream::unfold(Some(replay), move |replay| next_piece(env.clone(), replay));
        Box::pin(pieces)
    }

    fn head(&self, entity: &EntityId) -> BoxFuture<'static, Result<Head, JournalError>> {
        let (files, entity): (Arc<Files>, _) = (self.shared.files.clone(), entity.clone());
        let env = self.shared.env.clone();
        let open = self.shared.check_not_closed();
        Box::pin(async move {
            open?;
            match files.now().find(&entity, Access::Cached) {
                Ok((head, _)) => Ok(head),
                Err(Missed::Failed(error)) => Err(error),
                Err(Missed::Waits) => {
                    let found = env.offload(move || files.now().head(&entity)).await;
                    found.unwrap_or(Err(JournalError::Closed))
                }
            }
        })
    }

    fn delete_to(
        &self,
        entity: &EntityId,
        to: Seq,
        epoch: Term,
    ) -> BoxFuture<'static, Result<(), JournalError>> {
        let (tx, rx) = oneshot::channel();
        let accepted = self.delete(entity, to, epoch, tx);
        Box::pin(async move {
            accepted?;
            rx.await.unwrap_or(Err(JournalError::Closed))
        })
    }

    fn tail(&self, shard: ShardId, after: Position) -> RecordChunks {
        let refused = self.shard(shard).and_then(|_| self.shared.check_not_closed());
        if let Err(error) = refused {
            return Box::pin(stream::iter([Err(error)]));
        }
        let tail = Tail::new(self.shared.files.clone(), shard, after);
        let shared = self.shared.clone();
        Box::pin(stream::unfold(Some(tail), move |tail| follow(shared.clone(), shard, tail)))
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        self.shared.alone(|_| {
            self.shared.stop(State::Closed);
            // An error means that the writer is gone: it has nothing to finish.
            let _ = self.queue.send(Task::Close);
        });
        self.shared.wake_all();
        let (queue, requests) = (self.queue.clone(), self.requests.clone());
        let (shared, lock) = (self.shared.clone(), self.lock.clone());
        Box::pin(async move {
            queue.closed().await;
            requests.closed().await;
            shared.wake_all();
            lock.lock().unwrap_or_else(PoisonError::into_inner).take();
        })
    }
}

impl Drop for LogJournal {
    fn drop(&mut self) {
        // The writer ends when its queue does; the maintenance must hear of it.
        self.shared.stop(State::Closed);
        self.shared.wake_all();
    }
}
