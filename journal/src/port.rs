//! The `Journal` port: what the framework asks of a journal, whichever it is.
//!
//! [`MemoryJournal`](crate::memory::MemoryJournal) keeps everything in memory and
//! [`LogJournal`](crate::LogJournal) in files. Both pass the suite in [`crate::contract`], and so
//! must any other implementation.

use futures_util::{
    StreamExt,
    future::{self, BoxFuture},
    stream::{self, BoxStream},
};
use tokio::sync::oneshot;

use crate::{
    error::JournalError,
    id::{EntityId, Position, Seq, ShardId, Term},
    record::{AppendBatch, EventRecord, Limits},
    transport::Member,
};

/// When a batch is acknowledged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ack {
    /// When it is on the disks of a quorum of the shard's voters. Nothing acknowledged is ever lost
    /// while a quorum of disks survives.
    #[default]
    Quorum,
    /// When it is on the disks of all the shard's voters. While one of them is away, appends end in
    /// an error whose effect is unknown.
    All,
    /// When it is on this node's disk, before any other node has it. What was acknowledged within
    /// the last moments is **lost** when this node dies before the others have it. Only for what may
    /// be lost.
    Leader,
}

/// Who runs the entities of a shard, as this node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// This node: it may [`claim`](Journal::claim) the shard. A new leadership comes with a greater
    /// term.
    Mine {
        /// The term of the leadership.
        term: Term,
    },
    /// Another node, or none that is known now (an election goes on, or this node has lost touch
    /// with the quorum).
    Other {
        /// Where to go, if known.
        leader: Option<Member>,
    },
}

/// Changes of ownership; first comes what holds now, for every shard.
pub type Ownerships = BoxStream<'static, (ShardId, Ownership)>;

/// Where a batch was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The sequence number of the batch's last event.
    pub last_seq: Seq,
    /// The position of the batch's last event.
    pub position: Position,
}

/// Hears what became of a batch. Called once, in commit order for the batches of one shard, on the
/// journal's own thread: it must be quick and must not block.
pub type AppendDone = Box<dyn FnOnce(Result<Appended, JournalError>) + Send>;

/// Hears what became of batches that were to be committed together: where each was committed, in their
/// order, or why none was. Called as [`AppendDone`].
pub type AllDone = Box<dyn FnOnce(Result<Vec<Appended>, JournalError>) + Send>;

/// Records in pieces of bounded size; never an empty piece. An error ends the stream.
pub type RecordChunks = BoxStream<'static, Result<Vec<EventRecord>, JournalError>>;

/// Entities with how far their events are deleted, in pieces of bounded size; never an empty piece. An
/// error ends the stream.
pub type Deletions = BoxStream<'static, Result<Vec<(EntityId, Seq)>, JournalError>>;

/// What the journal knows of an entity without reading its events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Head {
    /// The sequence number of its newest event, deleted or not; zero where it never had one.
    pub last_seq: Seq,
    /// Its events up to and including this one are deleted.
    pub deleted_to: Seq,
}

/// Which events of an entity to replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayRange {
    /// The first one.
    pub from: Seq,
    /// The last one, inclusive.
    pub to: Seq,
    /// How many at most.
    pub max: u64,
}

impl ReplayRange {
    /// All events.
    pub const ALL: ReplayRange = ReplayRange { from: Seq(1), to: Seq::MAX, max: u64::MAX };

    /// All events from `from` on.
    #[must_use]
    pub fn from(from: Seq) -> Self {
        ReplayRange { from, ..Self::ALL }
    }
}

/// A journal of entities' events.
///
/// Guarantees, whoever implements it:
/// - A batch is acknowledged after it is durable (for the in-memory one: after it is stored), whole
///   or not at all, and its events follow the expected sequence number without a gap.
/// - Batches of one entity take effect in the order of the calls to [`submit`](Journal::submit):
///   the next may be submitted before the first is acknowledged. Where one fails, those submitted
///   after it for the same entity fail too (with [`JournalError::WrongExpectedSeq`] or the same
///   error).
/// - A batch under an epoch older than the shard's newest [`claim`](Journal::claim) is refused.
/// - Reads see what was committed before they were called, and no more than what is committed.
pub trait Journal: Send + Sync + 'static {
    /// What a batch may hold.
    fn limits(&self) -> Limits;

    /// How many shards there are.
    fn shards(&self) -> u16;

    /// Installs a new writer epoch for a shard and returns it: 1 or more. Writers with an earlier one are
    /// refused from then on, by the journal itself.
    fn claim(&self, shard: ShardId) -> BoxFuture<'static, Result<Term, JournalError>>;

    /// Takes a batch to write; `done` hears when it is committed or refused (it may be called
    /// before this returns). The order of calls is the order of the batches.
    fn submit(&self, batch: AppendBatch, done: AppendDone) {
        self.submit_with(batch, Ack::Quorum, done);
    }

    /// [`submit`](Journal::submit) with another moment of acknowledgement. A journal on one node
    /// takes all of them for the same.
    fn submit_with(&self, batch: AppendBatch, ack: Ack, done: AppendDone);

    /// Takes batches of several entities of one shard to write **together**: all of them are committed,
    /// in one entry of the shard's log, or none is. Where one of them does not fit (its epoch, its
    /// expected sequence number), all are refused, on every replica alike, and `done` hears why that
    /// one is. Otherwise as [`submit`](Self::submit): each batch takes its place in the order of its
    /// entity's batches, and where all are refused, what was submitted after them for these entities
    /// is refused too.
    ///
    /// At most [`MAX_TOGETHER`](crate::record::MAX_TOGETHER) batches, each of another entity;
    /// together they keep to the limits of one batch (see
    /// [`check_together`](crate::check::check_together)). A repeat of a request is not recognised
    /// here: it ends in [`JournalError::WrongExpectedSeq`]. No batches at all are committed at once.
    fn submit_all(&self, batches: Vec<AppendBatch>, done: AllDone);

    /// [`submit_all`](Journal::submit_all) as a future. The batches are taken up by the call, not by
    /// the first poll.
    fn append_all(
        &self,
        batches: Vec<AppendBatch>,
    ) -> BoxFuture<'static, Result<Vec<Appended>, JournalError>> {
        let (tx, rx) = oneshot::channel();
        self.submit_all(
            batches,
            Box::new(move |result| {
                // A caller that stopped waiting does not undo the writes.
                let _ = tx.send(result);
            }),
        );
        Box::pin(async move {
            rx.await.unwrap_or_else(|_| {
                Err(JournalError::FailedUnderWay { cause: "the journal was dropped".into() })
            })
        })
    }

    /// Waits until reads on this node see everything that was committed anywhere before the call:
    /// then they are linearizable. Returns the position that they reflect at least. Without it,
    /// reads may be stale.
    fn barrier(&self, shard: ShardId) -> BoxFuture<'static, Result<Position, JournalError>> {
        let _ = shard;
        Box::pin(future::ready(Ok(Position::ZERO)))
    }

    /// Waits until it is certain that at some moment after the call `epoch` was in force and this
    /// node had everything that was committed. Then what the shard's owner under `epoch` has in
    /// memory is what is committed, and it may answer a question that came before the call: nobody
    /// else has written since.
    ///
    /// An implementation whose leader can change must look at the epoch *after* its
    /// [`barrier`](Journal::barrier): the leadership may have been lost and won again in between.
    ///
    /// Errors: [`JournalError::StaleEpoch`] where another owner was installed, and those of the
    /// barrier.
    fn confirm(&self, shard: ShardId, epoch: Term) -> BoxFuture<'static, Result<(), JournalError>> {
        let _ = epoch;
        let barrier = self.barrier(shard);
        Box::pin(async move { barrier.await.map(|_| ()) })
    }

    /// Whether this node has a replica of the shard, so that reading it here shows what was committed up to
    /// some moment.
    fn has_replica(&self, shard: ShardId) -> bool {
        shard.0 < self.shards()
    }

    /// Who runs the shards' entities, now and in future. On one node always this one, under term 0,
    /// which says that it never changes.
    fn ownerships(&self) -> Ownerships {
        let mine = (0..self.shards()).map(|n| (ShardId(n), Ownership::Mine { term: Term(0) }));
        stream::iter(mine.collect::<Vec<_>>()).chain(stream::pending()).boxed()
    }

    /// Waits until this journal has stopped for good, and says why: a write or an fsync failed, or it
    /// was closed. Whoever uses a journal stops with it, also where nothing is asked of it just then:
    /// a replica that only follows answers nobody, and would be missed by the quorum alone.
    fn stopped(&self) -> BoxFuture<'static, JournalError> {
        Box::pin(future::pending())
    }

    /// [`submit`](Journal::submit) as a future. The batch is taken up by the call, not by the first
    /// poll.
    fn append(&self, batch: AppendBatch) -> BoxFuture<'static, Result<Appended, JournalError>> {
        let (tx, rx) = oneshot::channel();
        self.submit(
            batch,
            Box::new(move |result| {
                // A caller that stopped waiting does not undo the write.
                let _ = tx.send(result);
            }),
        );
        Box::pin(async move {
            rx.await.unwrap_or_else(|_| {
                Err(JournalError::FailedUnderWay { cause: "the journal was dropped".into() })
            })
        })
    }

    /// The events of an entity in order, without the deleted ones. An entity without events gives
    /// an empty stream.
    fn replay(&self, entity: &EntityId, range: ReplayRange) -> RecordChunks;

    /// The entity's highest sequence number and how far it is deleted.
    fn head(&self, entity: &EntityId) -> BoxFuture<'static, Result<Head, JournalError>>;

    /// Deletes the entity's events up to and including `to` (or its last one, where `to` is
    /// greater), durably; the highest sequence number stays. Their space is reclaimed later.
    fn delete_to(
        &self,
        entity: &EntityId,
        to: Seq,
        epoch: Term,
    ) -> BoxFuture<'static, Result<(), JournalError>>;

    /// The entities of a shard of which events were deleted, each with how far, in any order: their state
    /// cannot be made from events alone. What is deleted while this is read may be missing.
    fn deletions(&self, shard: ShardId) -> Deletions;

    /// A shard's records in commit order, those after the position `after`, then those to come:
    /// the stream waits for them, and ends when the journal is shut down. Each record is given
    /// once. Deleted events may be missing.
    fn tail(&self, shard: ShardId, after: Position) -> RecordChunks;

    /// Stops taking writes, finishes those that it took, and closes files. Later calls fail with
    /// [`JournalError::Closed`].
    fn shutdown(&self) -> BoxFuture<'static, ()>;
}
