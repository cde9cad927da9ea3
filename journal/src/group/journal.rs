//! The `Journal` port over journal groups on the node's log.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use ractor::{Actor, ActorRef};
use tokio::{
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::Instant,
};

use super::{
    checkpoint,
    hub::Hub,
    members::{self, Change},
    peers::Peers,
    propose::{Bound, Gate, Proposals, Write},
    replica::Replica,
    runtime,
    status::{GroupStatus, Replication, Role},
    supervisor::{Common, Supervisor, SupervisorMessage},
};
use crate::{
    check::{check_batch, check_together},
    env::Env,
    error::JournalError,
    id::{EntityId, Position, Seq, ShardId, Term},
    log::{
        LogConfig, LogUsage,
        codec::{encode_batch, encode_delete, encode_together},
        frame::{HEADER_BYTES, Kind},
        group_log::Outcome,
        node_log::{NodeLog, PurgeWish},
    },
    port::{
        Ack, AllDone, AppendDone, Deletions, Head, Journal, Ownership, Ownerships, RecordChunks,
        ReplayRange,
    },
    record::{AppendBatch, Limits},
    transport::{Member, NoPeers},
};

/// How long a node alone may take to come to lead its own groups.
const ALONE_PATIENCE: Duration = Duration::from_secs(60);

/// How long a shutdown waits for a quorum to commit what was taken.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// The journal in files: one segmented log for all shards of a node, each shard's part of it
/// replicated by its group.
///
/// Nothing is acknowledged before it is fsynced on a quorum of the shard's voters; a node alone is
/// its own quorum. A failed write or fsync stops the log for good; a full disk refuses appends until
/// there is space again.
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
    log: Arc<NodeLog>,
    hub: Arc<Hub>,
    proposals: Vec<Arc<Proposals>>,
    supervisor: ActorRef<SupervisorMessage>,
    tasks: Vec<AbortHandle>,
    me: Member,
    /// It was opened as a node alone, which leads every group as long as it runs.
    alone: AtomicBool,
    /// Shards whose files were found damaged.
    damaged: mpsc::UnboundedSender<ShardId>,
}

impl LogJournal {
    /// Opens the log in the configured folder, made new if there is none, as a node alone: it is the
    /// only voter of every group. Reads the index of sealed files and scans the segments that are
    /// not sealed, as a rule one. Returns when every group is led.
    ///
    /// # Errors
    /// [`JournalError::Locked`] where another process has it open, [`JournalError::Corrupt`] where
    /// durable bytes do not verify, [`JournalError::Incompatible`] where it was made by another
    /// version, with another number of shards, or belongs to several nodes.
    pub async fn open(config: LogConfig, env: Env) -> Result<Arc<Self>, JournalError> {
        let journal = Self::open_replicated(
            config,
            env,
            Replication::new(Arc::new(NoPeers(Member::new(1, 1)))),
        )
        .await?;
        match journal.lead_alone().await {
            Ok(()) => Ok(journal),
            Err(error) => {
                journal.shutdown().await;
                Err(error)
            }
        }
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
        runtime::seed(env.entropy.next_u64());
        let me = replication.transport.me();
        let (log, wishes) = NodeLog::open(config, env).await?;
        let shards = log.shards();
        let (peers, wanted) = Peers::new(replication.transport, shards);
        let hub = Hub::new(shards);
        let proposals: Vec<_> = (0..shards).map(|n| Proposals::new(ShardId(n))).collect();
        let common = Common {
            log: log.clone(),
            peers,
            proposals: proposals.clone(),
            hub: hub.clone(),
            timing: replication.timing,
        };
        let started = Actor::spawn(None, Supervisor, Arc::new(common)).await;
        let (supervisor, _) = match started {
            Ok(started) => started,
            Err(error) => {
                log.shutdown().await;
                return Err(JournalError::Failed { cause: error.to_string() });
            }
        };
        let (damaged, repairs) = mpsc::unbounded_channel();
        let tasks = vec![
            tokio::spawn(start_wanted(wanted, supervisor.clone())).abort_handle(),
            tokio::spawn(purge(wishes, hub.clone())).abort_handle(),
            tokio::spawn(repair(repairs, hub.clone())).abort_handle(),
            tokio::spawn(end_with_log(log.clone(), proposals.clone())).abort_handle(),
        ];
        let alone = AtomicBool::new(false);
        let journal = Arc::new(Self { log, hub, proposals, supervisor, tasks, me, alone, damaged });
        for n in 0..shards {
            let state = journal.log.group(ShardId(n)).state();
            if state.last.is_some() || state.purged.is_some() || state.vote.is_some() {
                journal.start(ShardId(n));
            }
        }
        Ok(journal)
    }

    fn start(&self, shard: ShardId) {
        // The supervisor is gone only where the journal is shut down.
        let _ = self.supervisor.cast(SupervisorMessage::Start(shard));
    }

    /// Makes this node lead every group, as the only voter.
    async fn lead_alone(&self) -> Result<(), JournalError> {
        let until = Instant::now() + ALONE_PATIENCE;
        for n in 0..self.shards() {
            self.start(ShardId(n));
        }
        for n in 0..self.shards() {
            let shard = ShardId(n);
            let replica = self.running(shard, until).await?;
            let voters = members::voters(&replica).await?;
            if voters.is_empty() {
                members::initialize(&replica, BTreeSet::from([self.me])).await?;
            } else if voters != BTreeSet::from([self.me]) {
                let voters: Vec<_> = voters.iter().map(ToString::to_string).collect();
                return Err(JournalError::Incompatible {
                    path: self.log.config().dir.clone(),
                    reason: format!(
                        "it belongs to a cluster ({shard} is replicated on {}): open it as a part of \
                         that",
                        voters.join(", ")
                    ),
                });
            } else {
                // An error means that the engine has stopped, which the wait below tells.
                let _ = replica.raft.trigger().elect(false).await;
            }
        }
        for n in 0..self.shards() {
            self.led(ShardId(n), until).await?;
        }
        self.alone.store(true, Ordering::Release);
        Ok(())
    }

    /// The replica of a shard, as soon as it runs.
    async fn running(&self, shard: ShardId, until: Instant) -> Result<Arc<Replica>, JournalError> {
        self.wait(shard, until, |hub| hub.replica(shard)).await
    }

    /// Waits until this node leads a shard.
    async fn led(&self, shard: ShardId, until: Instant) -> Result<(), JournalError> {
        self.wait(shard, until, |hub| {
            matches!(hub.ownership(shard), Ownership::Mine { .. }).then_some(())
        })
        .await
    }

    async fn wait<T>(
        &self,
        shard: ShardId,
        until: Instant,
        look: impl Fn(&Hub) -> Option<T>,
    ) -> Result<T, JournalError> {
        loop {
            let moved = self.hub.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            if let Some(found) = look(&self.hub) {
                return Ok(found);
            }
            self.log.check_open()?;
            tokio::select! {
                biased;
                () = &mut moved => {}
                error = self.log.stopped() => return Err(error),
                () = tokio::time::sleep_until(until) => {
                    let reason = "its replica does not work".into();
                    return Err(JournalError::Unavailable { shard, reason });
                }
            }
        }
    }

    pub(super) fn replica(&self, shard: ShardId) -> Result<Arc<Replica>, JournalError> {
        self.log.check_open()?;
        self.known(shard)?;
        let reason = || "this node has no replica of it".into();
        self.hub.replica(shard).ok_or_else(|| JournalError::Unavailable { shard, reason: reason() })
    }

    fn known(&self, shard: ShardId) -> Result<&Arc<Proposals>, JournalError> {
        let unknown = JournalError::UnknownShard { shard, shards: self.shards() };
        self.proposals.get(usize::from(shard.0)).ok_or(unknown)
    }

    /// Whether nothing was ever written to this disk: no entry, no vote.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.log.is_fresh()
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
        self.known(shard)?;
        self.start(shard);
        let replica = self.running(shard, Instant::now() + ALONE_PATIENCE).await?;
        members::initialize(&replica, voters).await
    }

    /// How a shard's group is, as seen from here.
    #[must_use]
    pub fn group(&self, shard: ShardId) -> GroupStatus {
        self.hub.replica(shard).map_or_else(|| GroupStatus::outside(shard), |r| r.status())
    }

    /// The groups whose [status](Self::group) changed in role, leader, term or members; first all of
    /// them.
    pub fn group_changes(&self) -> BoxStream<'static, ShardId> {
        self.hub.changes()
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
        let replica = self.replica(shard)?;
        members::change(&replica, Change { voters, learners }).await
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
        let replica = self.replica(shard)?;
        members::transfer(&replica, to).await
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
        let (log, _) = NodeLog::open(config, env).await?;
        let forced = members::force_single_voter(&log, me).await;
        log.shutdown().await;
        forced
    }

    /// Replaces a shard's content on this node by a copy from another replica, as when its files are
    /// damaged. Writes to the shard go on where they have a quorum without this node. Reads that find
    /// damage start it by themselves.
    ///
    /// # Errors
    /// [`JournalError::Unavailable`] where no other replica can give one.
    pub async fn repair(&self, shard: ShardId) -> Result<(), JournalError> {
        let replica = self.replica(shard)?;
        let repaired = checkpoint::repair(&replica).await;
        repaired.map_err(|reason| JournalError::Unavailable { shard, reason })
    }

    /// Seals the current segment, merges sealed files as far as their size allows, and leaves
    /// deleted events behind, at once instead of when it is due.
    ///
    /// # Errors
    /// As for an append; and where a file does not verify.
    pub async fn maintain(&self) -> Result<(), JournalError> {
        self.log.maintain().await
    }

    /// Reads every byte that the log relies on and checks it, as a scrub that finds damage before
    /// somebody needs what is damaged. Returns how many frames there are. Appends and reads go on.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`] with the first damaged place.
    pub async fn verify(&self) -> Result<u64, JournalError> {
        self.log.verify().await
    }

    /// How long what is to be written waits until it is durable on this node's disk, in milliseconds:
    /// for how long something waits now, or how long it took in the last 10 s, smoothed, whichever is
    /// longer. 0 where nothing was written.
    #[must_use]
    pub fn delay_ms(&self) -> u64 {
        self.log.delay_ms()
    }

    /// How many sealed files and segments the log has, and how many bytes they take.
    #[must_use]
    pub fn usage(&self) -> LogUsage {
        self.log.usage()
    }

    /// Hands a write to the shard's proposals.
    fn propose(&self, shard: ShardId, write: Write) {
        let admitted = self.known(shard).and_then(|proposals| {
            let log = self.log.group(shard);
            log.admit(write.bytes() + proposals.waiting_bytes())?;
            Ok((proposals, log))
        });
        match admitted {
            Ok((proposals, log)) => proposals.submit(write, &log),
            Err(error) => (write.done)(Err(error)),
        }
    }

    /// A write whose end is awaited.
    fn ask(
        &self,
        shard: ShardId,
        (kind, epoch, frame): (Kind, Term, Vec<u8>),
    ) -> BoxFuture<'static, Result<Outcome, JournalError>> {
        let (tx, rx) = oneshot::channel();
        let done = Box::new(move |result| drop(tx.send(result)));
        let write = Write {
            kind,
            epoch,
            records: 1,
            frame,
            ack: Ack::Quorum,
            batch: None,
            bound: Vec::new(),
            done,
        };
        self.propose(shard, write);
        Box::pin(async move { rx.await.unwrap_or(Err(JournalError::Closed)) })
    }

    /// Has damage that a read found repaired from other replicas.
    fn mending(&self, chunks: RecordChunks, shard: ShardId) -> RecordChunks {
        let damaged = self.damaged.clone();
        let told = chunks.inspect(move |read| {
            if let Err(JournalError::Corrupt(_)) = read {
                // Nobody mends where the journal is shut down.
                let _ = damaged.send(shard);
            }
        });
        told.boxed()
    }
}

impl Journal for LogJournal {
    fn limits(&self) -> Limits {
        self.log.config().limits
    }

    fn shards(&self) -> u16 {
        self.log.shards()
    }

    fn claim(&self, shard: ShardId) -> BoxFuture<'static, Result<Term, JournalError>> {
        let claimed = self.ask(shard, (Kind::Claim, Term(0), vec![0; HEADER_BYTES]));
        Box::pin(async move {
            match claimed.await? {
                Outcome::Claimed(term) => Ok(term),
                _ => Err(JournalError::OutcomeUnknown { shard, reason: "no claim".into() }),
            }
        })
    }

    fn submit_with(&self, batch: AppendBatch, ack: Ack, done: AppendDone) {
        if let Err(error) = check_batch(&batch, &self.log.config().limits) {
            return done(Err(error));
        }
        let shard = batch.entity.shard(self.shards());
        let write = Write {
            kind: Kind::Batch,
            epoch: batch.epoch,
            records: batch.events.len() as u32,
            frame: encode_batch(&batch),
            ack,
            batch: Some((batch.entity, batch.expected_seq)),
            bound: Vec::new(),
            done: Box::new(move |result| {
                done(match result {
                    Ok(Outcome::Appended(appended)) => Ok(appended),
                    Ok(_) => {
                        Err(JournalError::OutcomeUnknown { shard, reason: "no append".into() })
                    }
                    Err(error) => Err(error),
                });
            }),
        };
        self.propose(shard, write);
    }

    fn submit_all(&self, batches: Vec<AppendBatch>, done: AllDone) {
        let checked = check_together(&batches, &self.log.config().limits, self.shards());
        if let Err(error) = checked {
            return done(Err(error));
        }
        let Some(shard) = batches.first().map(|batch| batch.entity.shard(self.shards())) else {
            return done(Ok(Vec::new()));
        };
        let bound = batches.into_iter().map(|batch| Bound {
            epoch: batch.epoch,
            records: batch.events.len() as u32,
            frame: encode_batch(&batch),
            entity: batch.entity,
            expected: batch.expected_seq,
        });
        let bound: Vec<_> = bound.collect();
        let write = Write {
            kind: Kind::Together,
            // Each batch has its own.
            epoch: Term(0),
            records: 1,
            frame: encode_together(bound.len()),
            ack: Ack::Quorum,
            batch: None,
            bound,
            done: Box::new(move |result| {
                done(match result {
                    Ok(Outcome::Together(appended)) => Ok(appended),
                    Ok(_) => {
                        Err(JournalError::OutcomeUnknown { shard, reason: "no append".into() })
                    }
                    Err(error) => Err(error),
                });
            }),
        };
        self.propose(shard, write);
    }

    fn barrier(&self, shard: ShardId) -> BoxFuture<'static, Result<Position, JournalError>> {
        let replica = self.replica(shard);
        Box::pin(async move { replica?.barrier().await })
    }

    fn confirm(&self, shard: ShardId, epoch: Term) -> BoxFuture<'static, Result<(), JournalError>> {
        let replica = self.replica(shard);
        Box::pin(async move {
            let replica = replica?;
            replica.barrier().await?;
            // After the barrier, so that every claim that came before it counts.
            let current = replica.log.state().epoch;
            if current == epoch {
                return Ok(());
            }
            Err(JournalError::StaleEpoch { shard, stale: epoch, current })
        })
    }

    fn has_replica(&self, shard: ShardId) -> bool {
        self.group(shard).role != Role::Outside
    }

    fn ownerships(&self) -> Ownerships {
        if self.alone.load(Ordering::Acquire) {
            // Nobody else can ever lead: reads need not make sure.
            let mine = Ownership::Mine { term: Term(0) };
            let all: Vec<_> = (0..self.shards()).map(|n| (ShardId(n), mine)).collect();
            return stream::iter(all).chain(stream::pending()).boxed();
        }
        self.hub.ownerships()
    }

    fn stopped(&self) -> BoxFuture<'static, JournalError> {
        let log = self.log.clone();
        Box::pin(async move { log.stopped().await })
    }

    fn replay(&self, entity: &EntityId, range: ReplayRange) -> RecordChunks {
        self.mending(self.log.replay(entity, range), entity.shard(self.shards()))
    }

    fn head(&self, entity: &EntityId) -> BoxFuture<'static, Result<Head, JournalError>> {
        let (log, entity, damaged) = (self.log.clone(), entity.clone(), self.damaged.clone());
        Box::pin(async move {
            let head = log.head(&entity).await;
            if let Err(JournalError::Corrupt(_)) = &head {
                let _ = damaged.send(entity.shard(log.shards()));
            }
            head
        })
    }

    fn delete_to(
        &self,
        entity: &EntityId,
        to: Seq,
        epoch: Term,
    ) -> BoxFuture<'static, Result<(), JournalError>> {
        let shard = entity.shard(self.shards());
        let deleted = self.ask(shard, (Kind::Delete, epoch, encode_delete(entity, to)));
        Box::pin(async move { deleted.await.map(drop) })
    }

    fn deletions(&self, shard: ShardId) -> Deletions {
        let shards = self.shards();
        let log = match self.log.check_open() {
            Ok(()) if shard.0 < shards => self.log.group(shard),
            Ok(()) => {
                let error = JournalError::UnknownShard { shard, shards };
                return stream::iter([Err(error)]).boxed();
            }
            Err(error) => return stream::iter([Err(error)]).boxed(),
        };
        stream::once(async move { log.deletions().await }).flatten().boxed()
    }

    fn tail(&self, shard: ShardId, after: Position) -> RecordChunks {
        self.mending(self.log.tail(shard, after), shard)
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        self.hub.close();
        let (supervisor, log) = (self.supervisor.clone(), self.log.clone());
        // From the call on nothing more is taken; what was taken is finished.
        let mut drains: Vec<BoxFuture<'static, ()>> = Vec::new();
        for proposals in &self.proposals {
            let proposals = proposals.clone();
            let mut drain: BoxFuture<'static, ()> =
                Box::pin(async move { proposals.drain().await });
            // The first poll closes the gate.
            if (&mut drain).now_or_never().is_none() {
                drains.push(drain);
            }
        }
        let proposals = self.proposals.clone();
        Box::pin(async move {
            let drained = futures_util::future::join_all(drains);
            if tokio::time::timeout(DRAIN_PATIENCE, drained).await.is_err() {
                tracing::warn!("writes without a quorum are given up");
            }
            proposals.iter().for_each(|proposals| proposals.set_gate(Gate::Ended));
            supervisor.stop_children_and_wait(None, None).await;
            // It may be stopped already.
            let _ = supervisor.stop_and_wait(None, None).await;
            log.shutdown().await;
        })
    }
}

impl Drop for LogJournal {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        self.proposals.iter().for_each(|proposals| proposals.set_gate(Gate::Ended));
        self.hub.close();
        self.supervisor.kill();
        self.log.close();
    }
}

/// Starts replicas that other nodes ask for.
async fn start_wanted(
    mut wanted: mpsc::UnboundedReceiver<ShardId>,
    supervisor: ActorRef<SupervisorMessage>,
) {
    while let Some(shard) = wanted.recv().await {
        if supervisor.cast(SupervisorMessage::Start(shard)).is_err() {
            return;
        }
    }
}

/// Has Raft release entries that stand in the way of sealing.
async fn purge(mut wishes: mpsc::UnboundedReceiver<PurgeWish>, hub: Arc<Hub>) {
    while let Some(wish) = wishes.recv().await {
        if let Some(replica) = hub.replica(wish.shard) {
            tokio::spawn(async move { replica.purge(wish.upto).await });
        }
    }
}

/// Repairs shards whose files were found damaged, one at a time.
async fn repair(mut damaged: mpsc::UnboundedReceiver<ShardId>, hub: Arc<Hub>) {
    while let Some(shard) = damaged.recv().await {
        let Some(replica) = hub.replica(shard) else { continue };
        if replica.status().voters.len() < 2 {
            continue;
        }
        tracing::error!(%shard, "files are damaged: repairing them from another replica");
        match checkpoint::repair(&replica).await {
            Ok(()) => tracing::warn!(%shard, "repaired"),
            Err(error) => tracing::error!(%shard, error, "not repaired"),
        }
        // What was reported meanwhile is mended, too.
        while damaged.try_recv().is_ok() {}
    }
}

/// Ends all waiting when the log has failed.
async fn end_with_log(log: Arc<NodeLog>, proposals: Vec<Arc<Proposals>>) {
    let why = log.stopped().await;
    proposals.iter().for_each(|proposals| proposals.end(why.clone()));
}
