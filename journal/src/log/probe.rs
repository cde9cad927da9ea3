//! A node's log as tests drive it: one entry at a time, committed as soon as it is durable, and
//! checkpoints between logs. Not for applications.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;
use tokio::sync::oneshot;

use super::{
    codec::{encode_batch, encode_delete},
    entry::{Body, Entry, LogId, OpsBuilder},
    footer::Later,
    frame::{HEADER_BYTES, Kind},
    group_log::{GroupLog, Outcome},
    image::Image,
    intake::{Intake, Staged},
    node_log::NodeLog,
    options::LogConfig,
};
use crate::{
    env::Env,
    error::JournalError,
    id::{EntityId, Position, Seq, ShardId, Term},
    port::{Head, ReplayRange},
    record::{AppendBatch, EventRecord},
};

/// A log.
pub struct Probe {
    log: Arc<NodeLog>,
}

/// Where a shard's log is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeCut {
    /// The Raft term of the last entry within.
    pub term: u64,
    /// Its index.
    pub index: u64,
    /// The writer epoch there.
    pub epoch: Term,
}

/// An image that is given out.
pub struct ProbeImage(Image);

/// A checkpoint that is received.
pub struct ProbeIntake(Intake);

/// A checkpoint that can be installed.
pub struct ProbeStaged(Staged);

impl Probe {
    /// Opens a log.
    pub async fn open(config: LogConfig, env: Env) -> Result<Self, JournalError> {
        NodeLog::open(config, env).await.map(|(log, _)| Self { log })
    }

    fn group(&self, shard: ShardId) -> GroupLog {
        self.log.group(shard)
    }

    /// Adds an entry with one write, and waits until it is durable.
    async fn propose(
        &self,
        shard: ShardId,
        (kind, epoch, records): (Kind, Term, u32),
        (frame, term): (&[u8], u64),
    ) -> Result<(), JournalError> {
        let mut ops = OpsBuilder::new(shard);
        ops.push(kind, epoch, records, frame);
        let group = self.group(shard);
        let last = group.state().last;
        let index = last.map_or(0, |id| id.index + 1);
        let term = term.max(last.map_or(1, |id| id.term));
        let entry = Entry { id: LogId { term, index }, body: Body::Ops(ops.take()) };
        let (tx, rx) = oneshot::channel();
        let done = Box::new(move |result| drop(tx.send(result)));
        group.append(vec![entry], done);
        rx.await.unwrap_or(Err(JournalError::Closed))
    }

    async fn apply(&self, shard: ShardId, entries: Vec<Entry>) -> Result<(), JournalError> {
        for outcome in self.group(shard).apply(entries).await?.into_iter().flatten() {
            if let Outcome::Refused(error) = outcome {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Writes a batch as an entry of this Raft term, durable and not applied.
    pub async fn append(&self, batch: &AppendBatch, term: u64) -> Result<(), JournalError> {
        let what = (Kind::Batch, batch.epoch, batch.events.len() as u32);
        let shard = batch.entity.shard(self.log.shards());
        self.propose(shard, what, (&encode_batch(batch), term)).await
    }

    /// Writes a batch and applies it.
    pub async fn write(&self, batch: &AppendBatch) -> Result<(), JournalError> {
        let shard = batch.entity.shard(self.log.shards());
        self.append(batch, 0).await?;
        self.apply_all(shard).await
    }

    /// Deletes an entity's events.
    pub async fn delete(
        &self,
        entity: &EntityId,
        to: Seq,
        epoch: Term,
    ) -> Result<(), JournalError> {
        let shard = entity.shard(self.log.shards());
        let frame = encode_delete(entity, to);
        self.propose(shard, (Kind::Delete, epoch, 1), (&frame, 0)).await?;
        self.apply_all(shard).await
    }

    /// Installs a new writer epoch.
    pub async fn claim(&self, shard: ShardId) -> Result<Term, JournalError> {
        let frame = [0; HEADER_BYTES];
        self.propose(shard, (Kind::Claim, Term(0), 1), (&frame, 0)).await?;
        self.apply_all(shard).await?;
        Ok(self.group(shard).state().epoch)
    }

    /// Applies whatever a shard's log has.
    pub async fn apply_all(&self, shard: ShardId) -> Result<(), JournalError> {
        let group = self.group(shard);
        loop {
            let next = group.state().applied.map_or(0, |id| id.index + 1);
            let entries = group.read(next, u64::MAX, 1 << 20).await?;
            if entries.is_empty() {
                return Ok(());
            }
            self.apply(shard, entries).await?;
        }
    }

    /// The last entry that is applied, and the epoch there.
    #[must_use]
    pub fn applied(&self, shard: ShardId) -> Option<ProbeCut> {
        let state = self.group(shard).state();
        let LogId { term, index } = state.applied?;
        Some(ProbeCut { term, index, epoch: state.epoch })
    }

    /// The index and term of the last entry.
    #[must_use]
    pub fn last(&self, shard: ShardId) -> Option<(u64, u64)> {
        self.group(shard).state().last.map(|id| (id.index, id.term))
    }

    /// What the log has as the group's members.
    #[must_use]
    pub fn membership(&self, shard: ShardId) -> Option<Bytes> {
        self.group(shard).state().membership.map(|(_, members)| members)
    }

    /// An entity's events.
    pub async fn replay(&self, entity: &EntityId) -> Result<Vec<EventRecord>, JournalError> {
        self.log.replay(entity, ReplayRange::ALL).try_concat().await
    }

    /// An entity's head.
    pub async fn head(&self, entity: &EntityId) -> Result<Head, JournalError> {
        self.log.head(entity).await
    }

    /// A shard's records in commit order, as many as there are now.
    pub fn tail(&self, shard: ShardId) -> Result<Vec<EventRecord>, JournalError> {
        self.log.tail_now(shard, Position::ZERO)
    }

    /// Releases all applied entries, seals, merges and compacts.
    pub async fn maintain(&self) -> Result<(), JournalError> {
        for n in 0..self.log.shards() {
            let group = self.group(ShardId(n));
            if let Some(applied) = group.state().applied {
                group.purge(applied);
            }
        }
        self.log.maintain().await
    }

    /// Reads all frames.
    pub async fn verify(&self) -> Result<u64, JournalError> {
        self.log.verify().await
    }

    /// Closes in good order.
    pub async fn shutdown(&self) {
        self.log.shutdown().await;
    }

    /// The image of a shard.
    pub async fn image(&self, shard: ShardId, cut: ProbeCut) -> Result<ProbeImage, JournalError> {
        let ProbeCut { term, index, epoch } = cut;
        self.group(shard).image(LogId { term, index }, epoch).await.map(ProbeImage)
    }

    /// Begins to receive a checkpoint.
    pub fn intake(&self, shard: ShardId, cut: ProbeCut) -> Result<ProbeIntake, JournalError> {
        let ProbeCut { term, index, epoch } = cut;
        self.group(shard).intake(LogId { term, index }, epoch).map(ProbeIntake)
    }

    /// Installs a checkpoint.
    pub async fn install(&self, staged: ProbeStaged) -> Result<(), JournalError> {
        self.group(staged.0.cut.shard).install(staged.0).await
    }
}

impl ProbeImage {
    /// The next chunk.
    pub fn next_chunk(&mut self, max_bytes: usize) -> Result<Option<Bytes>, JournalError> {
        self.0.next_chunk(max_bytes)
    }

    /// Goes on after what a receiver has.
    pub fn seek(&mut self, cursor: &[u8]) -> Result<(), JournalError> {
        self.0.seek(cursor)
    }
}

impl ProbeIntake {
    /// Takes a chunk.
    pub fn take(&mut self, chunk: &[u8]) -> Result<(), JournalError> {
        self.0.take(chunk)
    }

    /// How far it has come.
    #[must_use]
    pub fn cursor(&self) -> Bytes {
        self.0.cursor()
    }

    /// Whether the last chunk was taken.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.0.is_complete()
    }

    /// Completes it: with `keep`, later entries of the group stay.
    pub fn finish(self, members: Bytes, keep: bool) -> Result<ProbeStaged, JournalError> {
        let later = if keep { Later::Kept } else { Later::Dropped };
        let membership = Some((LogId { term: 1, index: 0 }, members));
        self.0.finish(membership, later).map(ProbeStaged)
    }
}
