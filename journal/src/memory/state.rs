//! What the journal in memory holds, and how accepting and committing change it. Pure: no waiting,
//! no locks, no callbacks.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use tokio::sync::oneshot;

use crate::{
    error::JournalError,
    id::{EntityId, Position, Seq, ShardId, Term},
    port::{AppendDone, Appended, Head, ReplayRange},
    record::{AppendBatch, EventRecord},
};

pub(super) struct State {
    pub(super) shards: Vec<Shard>,
    /// Accepted and not yet committed, in the order of the calls.
    pub(super) queue: VecDeque<Op>,
    /// Somebody is committing the queue; others only add to it.
    pub(super) committing: bool,
    pub(super) held: bool,
    pub(super) closed: bool,
    pub(super) append_faults: VecDeque<Fault>,
    pub(super) read_faults: VecDeque<JournalError>,
}

#[derive(Default)]
pub(super) struct Shard {
    /// The newest accepted claim: what writers are checked against.
    pub(super) term: Term,
    /// Log index of the newest committed entry; claims and deletes are entries too.
    index: u64,
    pub(super) log: BTreeMap<Position, Arc<EventRecord>>,
    streams: HashMap<EntityId, Stream>,
}

/// One entity's events.
#[derive(Default)]
pub(super) struct Stream {
    pub(super) head: Head,
    /// Those not deleted: the first has the sequence number after `head.deleted_to`.
    records: VecDeque<Arc<EventRecord>>,
    /// The highest sequence number, counting accepted batches.
    accepted: Seq,
    /// Counts failures. A batch accepted before the latest one fails as well.
    failures: u64,
}

pub(super) enum Op {
    Append { batch: AppendBatch, failures: u64, done: AppendDone },
    Claim { shard: ShardId, term: Term, done: oneshot::Sender<Term> },
    Delete { entity: EntityId, to: Seq, done: oneshot::Sender<()> },
}

pub(super) struct Fault {
    pub(super) error: JournalError,
    /// The batch is written, and only its writer does not learn of it.
    pub(super) written: bool,
}

impl State {
    pub(super) fn check_open(&self) -> Result<(), JournalError> {
        if self.closed { Err(JournalError::Closed) } else { Ok(()) }
    }

    fn shard_id(&self, entity: &EntityId) -> ShardId {
        entity.shard(self.shards.len() as u16)
    }

    fn shard_mut(&mut self, entity: &EntityId) -> &mut Shard {
        let shard = self.shard_id(entity);
        &mut self.shards[usize::from(shard.0)]
    }

    pub(super) fn check_epoch(&self, entity: &EntityId, epoch: Term) -> Result<(), JournalError> {
        let shard = self.shard_id(entity);
        let current = self.shards[usize::from(shard.0)].term;
        if epoch >= current {
            return Ok(());
        }
        Err(JournalError::StaleEpoch { shard, stale: epoch, current })
    }

    /// Takes the batch's sequence numbers. Returns how many failures came before it.
    pub(super) fn accept_seq(&mut self, batch: &AppendBatch) -> Result<u64, JournalError> {
        let streams = &mut self.shard_mut(&batch.entity).streams;
        let actual = streams.get(&batch.entity).map_or(Seq::ZERO, |stream| stream.accepted);
        if batch.expected_seq != actual {
            return Err(wrong_seq(batch, actual));
        }
        let stream = streams.entry(batch.entity.clone()).or_default();
        stream.accepted = actual.plus(batch.events.len() as u64);
        Ok(stream.failures)
    }

    /// Something of an entity's stream; none where the entity never had events.
    pub(super) fn read<T>(
        &mut self,
        entity: &EntityId,
        look: impl FnOnce(&Stream) -> T,
    ) -> Result<Option<T>, JournalError> {
        self.check_open()?;
        if let Some(error) = self.read_faults.pop_front() {
            return Err(error);
        }
        Ok(self.shard_mut(entity).streams.get(entity).map(look))
    }

    /// Commits one entry; what it returns tells the writer.
    pub(super) fn commit(&mut self, op: Op) -> Box<dyn FnOnce()> {
        match op {
            Op::Claim { shard, term, done } => {
                self.shards[usize::from(shard.0)].index += 1;
                // A claimer that stopped waiting does not undo the claim.
                Box::new(move || {
                    let _ = done.send(term);
                })
            }
            Op::Delete { entity, to, done } => {
                self.shard_mut(&entity).delete(&entity, to);
                Box::new(move || {
                    let _ = done.send(());
                })
            }
            Op::Append { batch, failures, done } => {
                let result = self.commit_batch(batch, failures);
                Box::new(move || done(result))
            }
        }
    }

    fn commit_batch(
        &mut self,
        batch: AppendBatch,
        failures: u64,
    ) -> Result<Appended, JournalError> {
        let entity = batch.entity.clone();
        let stream = self.shard_mut(&entity).streams.entry(entity.clone()).or_default();
        if stream.failures != failures {
            return Err(wrong_seq(&batch, stream.head.last_seq));
        }
        let fault = self.append_faults.pop_front();
        let shard = self.shard_mut(&entity);
        let Some(Fault { error, written }) = fault else {
            return Ok(shard.append(batch));
        };
        if written {
            shard.append(batch);
        }
        let stream = shard.streams.entry(entity).or_default();
        stream.failures += 1;
        stream.accepted = stream.head.last_seq;
        Err(error)
    }
}

impl Shard {
    /// The entities of which events are deleted, and how far.
    pub(super) fn deletions(&self) -> Vec<(EntityId, Seq)> {
        let all = self.streams.iter().map(|(id, stream)| (id.clone(), stream.head.deleted_to));
        let mut found: Vec<_> = all.filter(|(_, deleted_to)| *deleted_to > Seq::ZERO).collect();
        // Not as the map has them: that differs from run to run.
        found.sort_unstable();
        found
    }

    fn append(&mut self, batch: AppendBatch) -> Appended {
        self.index += 1;
        let AppendBatch { entity, epoch, expected_seq, timestamp, mut request, events } = batch;
        let stream = self.streams.entry(entity.clone()).or_default();
        let last = events.len() - 1;
        let mut appended = Appended { last_seq: expected_seq, position: Position::ZERO };
        for (n, event) in events.into_iter().enumerate() {
            appended.last_seq = appended.last_seq.next();
            appended.position = Position::new(self.index, n as u16);
            let record = Arc::new(EventRecord {
                entity: entity.clone(),
                seq: appended.last_seq,
                position: appended.position,
                epoch,
                timestamp,
                request: if n == last { request.take() } else { None },
                event,
            });
            stream.records.push_back(record.clone());
            self.log.insert(record.position, record);
        }
        stream.head.last_seq = appended.last_seq;
        appended
    }

    fn delete(&mut self, entity: &EntityId, to: Seq) {
        self.index += 1;
        let Some(stream) = self.streams.get_mut(entity) else { return };
        while let Some(record) = stream.records.pop_front_if(|record| record.seq <= to) {
            stream.head.deleted_to = record.seq;
            self.log.remove(&record.position);
        }
    }
}

impl Stream {
    pub(super) fn range(&self, range: ReplayRange) -> Vec<Arc<EventRecord>> {
        let skip = range.from.0.saturating_sub(self.head.deleted_to.next().0);
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let most = usize::try_from(range.max).unwrap_or(usize::MAX);
        let rest = self.records.iter().skip(skip);
        rest.take_while(|record| record.seq <= range.to).take(most).cloned().collect()
    }
}

fn wrong_seq(batch: &AppendBatch, actual: Seq) -> JournalError {
    JournalError::WrongExpectedSeq {
        entity: batch.entity.clone(),
        expected: batch.expected_seq,
        actual,
    }
}
