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
    port::{AllDone, AppendDone, Appended, Head, ReplayRange},
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
    Append {
        batch: AppendBatch,
        failures: u64,
        done: AppendDone,
    },
    /// Batches that go together, each with how many failures came before it.
    Together {
        batches: Vec<(AppendBatch, u64)>,
        done: AllDone,
    },
    Claim {
        shard: ShardId,
        term: Term,
        done: oneshot::Sender<Term>,
    },
    Delete {
        entity: EntityId,
        to: Seq,
        done: oneshot::Sender<()>,
    },
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

    /// Whether the batch comes right after what is accepted of its entity.
    pub(super) fn check_seq(&self, batch: &AppendBatch) -> Result<(), JournalError> {
        let streams = &self.shards[usize::from(self.shard_id(&batch.entity).0)].streams;
        let actual = streams.get(&batch.entity).map_or(Seq::ZERO, |stream| stream.accepted);
        if batch.expected_seq != actual {
            return Err(wrong_seq(batch, actual));
        }
        Ok(())
    }

    /// Takes the batch's sequence numbers. Returns how many failures came before it.
    pub(super) fn accept_seq(&mut self, batch: &AppendBatch) -> u64 {
        let streams = &mut self.shard_mut(&batch.entity).streams;
        let stream = streams.entry(batch.entity.clone()).or_default();
        stream.accepted = batch.expected_seq.plus(batch.events.len() as u64);
        stream.failures
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
            Op::Together { batches, done } => {
                let result = self.commit_together(batches);
                Box::new(move || done(result))
            }
        }
    }

    fn commit_together(
        &mut self,
        batches: Vec<(AppendBatch, u64)>,
    ) -> Result<Vec<Appended>, JournalError> {
        let failed = batches.iter().find_map(|(batch, failures)| {
            let streams = &self.shard_mut(&batch.entity).streams;
            let stream = streams.get(&batch.entity).filter(|s| s.failures != *failures)?;
            Some(wrong_seq(batch, stream.head.last_seq))
        });
        let fault = if failed.is_none() { self.append_faults.pop_front() } else { None };
        let written = failed.is_none() && fault.as_ref().is_none_or(|fault| fault.written);
        let Some(error) = failed.or(fault.map(|fault| fault.error)) else {
            return Ok(self.append_all(batches));
        };
        let failing = batches.iter().map(|(batch, failures)| (batch.entity.clone(), *failures));
        let failing: Vec<_> = failing.collect();
        if written {
            self.append_all(batches);
        }
        for (entity, failures) in failing {
            let stream = self.shard_mut(&entity).streams.entry(entity).or_default();
            // One that failed before has been put back already, and may have gone on since.
            if stream.failures == failures {
                stream.failures += 1;
                stream.accepted = stream.head.last_seq;
            }
        }
        Err(error)
    }

    /// Writes batches of one shard as one entry.
    fn append_all(&mut self, batches: Vec<(AppendBatch, u64)>) -> Vec<Appended> {
        let Some((first, _)) = batches.first() else { return Vec::new() };
        let entity = first.entity.clone();
        let shard = self.shard_mut(&entity);
        shard.index += 1;
        let mut offset = 0;
        let appended = batches.into_iter().map(|(batch, _)| {
            let from = offset;
            offset += batch.events.len();
            shard.append_at(batch, from)
        });
        appended.collect()
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
        self.append_at(batch, 0)
    }

    /// Writes a batch from this record of the newest entry on.
    fn append_at(&mut self, batch: AppendBatch, from: usize) -> Appended {
        let AppendBatch { entity, epoch, expected_seq, timestamp, mut request, events } = batch;
        let stream = self.streams.entry(entity.clone()).or_default();
        let last = events.len() - 1;
        let mut appended = Appended { last_seq: expected_seq, position: Position::ZERO };
        for (n, event) in events.into_iter().enumerate() {
            appended.last_seq = appended.last_seq.next();
            appended.position = Position::new(self.index, (from + n) as u16);
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
