//! The `Journal` port over the segmented log.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{
    future::{self, BoxFuture},
    stream::{self, BoxStream},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    codec::{encode_batch, encode_delete},
    frame::{HEADER_BYTES, Kind},
    group_log::Outcome,
    node_log::NodeLog,
    options::{LogConfig, LogUsage},
    solo::{Proposal, Solo, Write, release},
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
    log: Arc<NodeLog>,
    proposals: mpsc::UnboundedSender<Proposal>,
    closing: AtomicBool,
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
        let (log, wishes) = NodeLog::open(config, env).await?;
        let offload = log.env().offload.clone();
        offload.worker("duractor-release", Box::pin(release(Arc::downgrade(&log), wishes)));
        let solo = Solo::start(log.clone()).await?;
        let (proposals, taken) = mpsc::unbounded_channel();
        offload.worker("duractor-solo", Box::pin(solo.run(taken)));
        Ok(Arc::new(Self { log, proposals, closing: AtomicBool::new(false) }))
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

    /// How many sealed files and segments the log has, and how many bytes they take.
    #[must_use]
    pub fn usage(&self) -> LogUsage {
        self.log.usage()
    }

    fn check_shard(&self, shard: ShardId) -> Result<(), JournalError> {
        let shards = self.log.shards();
        if shard.0 < shards {
            return Ok(());
        }
        Err(JournalError::UnknownShard { shard, shards })
    }

    fn check_open(&self) -> Result<(), JournalError> {
        self.log.check_open()?;
        if self.closing.load(Ordering::Acquire) { Err(JournalError::Closed) } else { Ok(()) }
    }

    fn propose(&self, write: Write) {
        let refused = self
            .check_open()
            .and_then(|()| self.log.group(write.shard).admit(write.frame.len() + ENTRY_BYTES));
        if let Err(error) = refused {
            return (write.done)(Err(error));
        }
        if let Err(mpsc::error::SendError(Proposal::Write(write))) =
            self.proposals.send(Proposal::Write(write))
        {
            (write.done)(Err(JournalError::Closed));
        }
    }

    /// Proposes a write whose outcome is waited for.
    fn call(
        &self,
        shard: ShardId,
        kind: Kind,
        epoch: Term,
        frame: Vec<u8>,
    ) -> BoxFuture<'static, Result<Outcome, JournalError>> {
        if let Err(error) = self.check_shard(shard) {
            return Box::pin(future::ready(Err(error)));
        }
        let (tx, rx) = oneshot::channel();
        let done = Box::new(move |result| drop(tx.send(result)));
        self.propose(Write { shard, kind, epoch, records: 1, frame, done });
        Box::pin(async move {
            match rx.await.unwrap_or(Err(JournalError::Closed))? {
                Outcome::Refused(error) => Err(error),
                outcome => Ok(outcome),
            }
        })
    }
}

/// About what an entry takes beside its writes.
const ENTRY_BYTES: usize = 2 * HEADER_BYTES;
/// How long a shutdown waits for what waits for room.
const PATIENCE: Duration = Duration::from_secs(5);

impl Journal for LogJournal {
    fn limits(&self) -> Limits {
        self.log.config().limits
    }

    fn shards(&self) -> u16 {
        self.log.shards()
    }

    fn claim(&self, shard: ShardId) -> BoxFuture<'static, Result<Term, JournalError>> {
        let claimed = self.call(shard, Kind::Claim, Term(0), vec![0; HEADER_BYTES]);
        Box::pin(async move {
            match claimed.await? {
                Outcome::Claimed(term) => Ok(term),
                _ => Err(JournalError::Failed { cause: "a claim came to something else".into() }),
            }
        })
    }

    fn submit_with(&self, batch: AppendBatch, _: Ack, done: AppendDone) {
        if let Err(error) = check_batch(&batch, &self.log.config().limits) {
            return done(Err(error));
        }
        self.propose(Write {
            shard: batch.entity.shard(self.log.shards()),
            kind: Kind::Batch,
            epoch: batch.epoch,
            records: batch.events.len() as u32,
            frame: encode_batch(&batch),
            done: Box::new(move |result| {
                done(result.and_then(|outcome| match outcome {
                    Outcome::Appended(appended) => Ok(appended),
                    Outcome::Refused(error) => Err(error),
                    _ => Err(JournalError::Failed { cause: "another outcome".into() }),
                }));
            }),
        });
    }

    fn replay(&self, entity: &EntityId, range: ReplayRange) -> RecordChunks {
        self.log.replay(entity, range)
    }

    fn head(&self, entity: &EntityId) -> BoxFuture<'static, Result<Head, JournalError>> {
        Box::pin(self.log.head(entity))
    }

    fn delete_to(
        &self,
        entity: &EntityId,
        to: Seq,
        epoch: Term,
    ) -> BoxFuture<'static, Result<(), JournalError>> {
        let shard = entity.shard(self.log.shards());
        let deleted = self.call(shard, Kind::Delete, epoch, encode_delete(entity, to));
        Box::pin(async move { deleted.await.map(drop) })
    }

    fn tail(&self, shard: ShardId, after: Position) -> RecordChunks {
        self.log.tail(shard, after)
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        self.closing.store(true, Ordering::Release);
        // An error means that the driver is gone: it has nothing to finish.
        let _ = self.proposals.send(Proposal::Close);
        let (log, proposals) = (self.log.clone(), self.proposals.clone());
        Box::pin(async move {
            let _ = timeout(PATIENCE, proposals.closed()).await;
            log.shutdown().await;
        })
    }
}
