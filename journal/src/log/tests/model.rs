//! What a group must come to: its log, and a state machine that is as simple as can be.

use bytes::Bytes;

use super::super::{
    codec::{encode_batch, encode_delete, encode_together},
    entry::{Body, Entry, LogId, OpsBuilder},
    frame::{HEADER_BYTES, Kind},
    group_log::Outcome,
};
use crate::{
    error::JournalError,
    id::{EntityId, Seq, ShardId, Term, Timestamp},
    record::{AppendBatch, NewEvent, Request, RequestId},
};

/// A write.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Claim,
    Batch {
        entity: usize,
        epoch: u64,
        expected: u64,
        events: Vec<Vec<u8>>,
        request: Option<u64>,
    },
    Delete {
        entity: usize,
        epoch: u64,
        to: u64,
    },
    /// Batches that go together.
    Together(Vec<Op>),
}

/// What a write came to, without what is not decided by the state machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Claimed(u64),
    Appended(u64),
    Together(usize),
    Deleted,
    Stale,
    Wrong(u64),
}

impl From<&Outcome> for Verdict {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Claimed(term) => Verdict::Claimed(term.0),
            Outcome::Appended(appended) => Verdict::Appended(appended.last_seq.0),
            Outcome::Together(all) => Verdict::Together(all.len()),
            Outcome::Deleted => Verdict::Deleted,
            Outcome::Refused(JournalError::StaleEpoch { .. }) => Verdict::Stale,
            Outcome::Refused(JournalError::WrongExpectedSeq { actual, .. }) => {
                Verdict::Wrong(actual.0)
            }
            Outcome::Refused(other) => panic!("{other}"),
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Stream {
    pub events: Vec<(Vec<u8>, Option<u64>)>,
    pub deleted_to: u64,
}

/// What is applied.
#[derive(Debug, Clone, Default)]
pub(super) struct Applied {
    pub epoch: u64,
    pub streams: Vec<Stream>,
}

impl Applied {
    pub(super) fn new(entities: usize) -> Self {
        Self { epoch: 0, streams: vec![Stream::default(); entities] }
    }

    /// What a write comes to; for batches that go together, also what each of them does.
    pub(super) fn apply(&mut self, term: u64, op: &Op) -> Vec<Verdict> {
        let Op::Together(batches) = op else { return vec![self.one(term, op)] };
        if let Some(refused) = batches.iter().find_map(|batch| self.misfit(batch)) {
            return vec![refused; batches.len() + 1];
        }
        let each = batches.iter().map(|batch| self.one(term, batch));
        let each: Vec<_> = each.collect();
        std::iter::once(Verdict::Together(batches.len())).chain(each).collect()
    }

    /// Why a batch does not fit.
    fn misfit(&self, op: &Op) -> Option<Verdict> {
        let Op::Batch { entity, epoch, expected, .. } = op else { panic!("no batch: {op:?}") };
        let actual = self.streams[*entity].events.len() as u64;
        match *epoch == self.epoch {
            false => Some(Verdict::Stale),
            true => (actual != *expected).then_some(Verdict::Wrong(actual)),
        }
    }

    fn one(&mut self, term: u64, op: &Op) -> Verdict {
        match op {
            Op::Together(_) => panic!("one write in another"),
            Op::Claim => {
                self.epoch = term.max(self.epoch + 1);
                Verdict::Claimed(self.epoch)
            }
            Op::Batch { epoch, .. } | Op::Delete { epoch, .. } if *epoch != self.epoch => {
                Verdict::Stale
            }
            Op::Delete { entity, to, .. } => {
                let stream = &mut self.streams[*entity];
                stream.deleted_to = stream.deleted_to.max((*to).min(stream.events.len() as u64));
                Verdict::Deleted
            }
            Op::Batch { entity, expected, events, request, .. } => {
                let stream = &mut self.streams[*entity];
                let actual = stream.events.len() as u64;
                if actual == *expected {
                    let last = events.len() - 1;
                    let named = events.iter().enumerate();
                    stream
                        .events
                        .extend(named.map(|(n, e)| (e.clone(), request.filter(|_| n == last))));
                    return Verdict::Appended(stream.events.len() as u64);
                }
                let range = expected + 1..=(expected + events.len() as u64).min(actual);
                let mut range = range.filter(|seq| *seq > stream.deleted_to);
                let repeat = range.find(|seq| {
                    request.is_some() && stream.events[*seq as usize - 1].1 == *request
                });
                repeat.map_or(Verdict::Wrong(actual), Verdict::Appended)
            }
        }
    }
}

/// A logged entry.
#[derive(Debug, Clone)]
pub(super) struct Logged {
    pub ops: Vec<Op>,
    pub entry: Entry,
}

pub(super) fn entity(shard: u16, n: usize) -> EntityId {
    let ids = (0..).map(|i| EntityId::new("order", &format!("{n}-{i}")).unwrap());
    let mut ids = ids.filter(|id| id.shard(2) == ShardId(shard));
    ids.next().unwrap()
}

/// An entry of these writes; a membership where there are none.
pub(super) fn logged(shard: u16, term: u64, index: u64, ops: Vec<Op>) -> Logged {
    let id = LogId { term, index };
    let mut builder = OpsBuilder::new(ShardId(shard));
    for op in &ops {
        push(&mut builder, shard, op);
    }
    let body = match builder.is_empty() {
        false => Body::Ops(builder.take()),
        true if index.is_multiple_of(2) => {
            Body::Membership(Bytes::from(index.to_le_bytes().to_vec()))
        }
        true => Body::Blank,
    };
    Logged { ops, entry: Entry { id, body } }
}

fn push(builder: &mut OpsBuilder, shard: u16, op: &Op) {
    match op {
        Op::Together(batches) => {
            builder.push(Kind::Together, Term(0), 1, &encode_together(batches.len()));
            batches.iter().for_each(|batch| push(builder, shard, batch));
        }
        Op::Claim => builder.push(Kind::Claim, Term(0), 1, &[0; HEADER_BYTES]),
        Op::Batch { entity: n, epoch, expected, events, request } => {
            let batch = AppendBatch {
                entity: entity(shard, *n),
                epoch: Term(*epoch),
                expected_seq: Seq(*expected),
                timestamp: Timestamp(0),
                request: request.map(|id| Request {
                    id: RequestId::new(&id.to_string()).unwrap(),
                    reply: Bytes::new(),
                }),
                events: events.iter().map(|e| NewEvent::new("e", 1, e.clone())).collect(),
            };
            let count = events.len() as u32;
            builder.push(Kind::Batch, Term(*epoch), count, &encode_batch(&batch));
        }
        Op::Delete { entity: n, epoch, to } => {
            let frame = encode_delete(&entity(shard, *n), Seq(*to));
            builder.push(Kind::Delete, Term(*epoch), 1, &frame);
        }
    }
}
