//! What happened, as the clients saw it: plain data, which the checks take.
//!
//! Times are numbers that grow with every call and every answer: what ended before something else
//! began has the smaller one.

use std::collections::BTreeMap;

use duractor_journal::{EntityId, EventRecord, Position, Seq, ShardId, Term};

use crate::rng::{Rng, mix};

/// A moment in the order of all calls and answers.
pub type Moment = u64;

/// What an answer said of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Committed: the last event has this sequence number and position.
    Acked(Seq, Position),
    /// It has no effect, and never will have.
    Refused,
    /// It may have taken effect, or may still.
    Unknown,
}

/// One try of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The writer epoch that it was sent under.
    pub epoch: Term,
    /// The sequence number that it was to follow.
    pub expected: Seq,
    /// When it was sent.
    pub start: Moment,
    /// What was answered, and when.
    pub answer: Option<(Moment, Outcome)>,
}

/// A client's wish to append some events: it is to take effect at most once, however often tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Whose events these are.
    pub entity: usize,
    /// How many.
    pub events: u32,
    /// Bytes of each event beside its stamp.
    pub size: usize,
    /// When the client began.
    pub start: Moment,
    /// When the client heard that it is done, and where.
    pub acked: Option<(Moment, Seq, Position)>,
    /// It was acknowledged by the leader alone: it may be lost.
    pub lossy: bool,
    /// Its tries, in order.
    pub attempts: Vec<Attempt>,
}

/// A read of a whole entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// Of which.
    pub entity: usize,
    /// When it was asked for.
    pub start: Moment,
    /// When it was answered.
    pub end: Moment,
    /// Whether it waited for a barrier: it must see all that was acknowledged before it began.
    pub linearizable: bool,
    /// It must reflect everything up to here.
    pub reflects: Position,
    /// The first sequence number that it saw.
    pub first: Option<Seq>,
    /// The highest sequence number that it knows of.
    pub last: Seq,
}

/// An epoch that was installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// For which shard.
    pub shard: ShardId,
    /// When it was asked for.
    pub start: Moment,
    /// When it was answered, and with what. `None` where it never was: it may be in force or not.
    pub granted: Option<(Moment, Term)>,
}

/// A wish to delete events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// Whose.
    pub entity: usize,
    /// Up to which.
    pub to: Seq,
    /// When it was asked for.
    pub start: Moment,
    /// When it was acknowledged.
    pub acked: Option<Moment>,
    /// It was refused: nothing may be deleted for it.
    pub refused: bool,
}

/// An event as somebody saw it: whoever sees it later must see the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Which request's event it is.
    pub request: usize,
    /// Which of the request's events, from 0.
    pub part: u32,
    /// Its place in the shard.
    pub position: Position,
    /// The epoch under which it was written.
    pub epoch: Term,
}

/// All that happened in a run.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// How many shards there are.
    pub shards: u16,
    /// The entities.
    pub entities: Vec<EntityId>,
    /// The requests; the number of one is its place here.
    pub requests: Vec<Request>,
    /// The reads.
    pub reads: Vec<Read>,
    /// The claims.
    pub claims: Vec<Claim>,
    /// The deletions.
    pub deletions: Vec<Deletion>,
    /// What was seen, by entity and sequence number.
    pub seen: BTreeMap<(usize, Seq), Seen>,
    moment: Moment,
}

/// The bytes in front of each payload: request, part, and a hash of both with the seed.
const STAMP: usize = 16;

impl History {
    /// Nothing has happened.
    #[must_use]
    pub fn new(shards: u16, entities: Vec<EntityId>) -> Self {
        Self { shards, entities, ..Self::default() }
    }

    /// The next moment.
    pub fn tick(&mut self) -> Moment {
        self.moment += 1;
        self.moment
    }

    /// The shard of an entity.
    #[must_use]
    pub fn shard(&self, entity: usize) -> ShardId {
        self.entities[entity].shard(self.shards)
    }

    /// The payload of a request's event, which says where it belongs.
    #[must_use]
    pub fn payload(&self, request: usize, part: u32) -> Vec<u8> {
        let (number, size) = (request as u32, self.requests[request].size);
        let mut payload = vec![0; STAMP + size];
        payload[..4].copy_from_slice(&number.to_le_bytes());
        payload[4..8].copy_from_slice(&part.to_le_bytes());
        let seed = mix((u64::from(number) << 32) | u64::from(part));
        payload[8..STAMP].copy_from_slice(&seed.to_le_bytes());
        Rng::new(seed).fill(&mut payload[STAMP..]);
        payload
    }

    /// What a record says that it is.
    ///
    /// # Errors
    /// What does not fit: it was never sent, or was changed.
    pub fn recognize(&self, record: &EventRecord) -> Result<(usize, Seen), String> {
        let of = || format!("{} {} at {}", record.entity, record.seq, record.position);
        let payload = &record.event.payload;
        let number = |at: usize| {
            let bytes = payload.get(at..at + 4)?.first_chunk::<4>()?;
            Some(u32::from_le_bytes(*bytes))
        };
        let (Some(request), Some(part)) = (number(0), number(4)) else {
            return Err(format!("{}: nobody sent this", of()));
        };
        let request = request as usize;
        let entity = match self.requests.get(request) {
            Some(sent) if part < sent.events && self.entities[sent.entity] == record.entity => {
                sent.entity
            }
            _ => return Err(format!("{}: nobody sent this", of())),
        };
        if payload[..] != self.payload(request, part)[..] {
            return Err(format!("{}: the event of request {request} was changed", of()));
        }
        let (position, epoch) = (record.position, record.epoch);
        Ok((entity, Seen { request, part, position, epoch }))
    }

    /// Takes note of records that somebody read of one entity: they must follow one another without
    /// a gap, and be what others saw there.
    ///
    /// # Errors
    /// What does not fit.
    pub fn observe(&mut self, records: &[EventRecord]) -> Result<(), String> {
        let mut last: Option<(Seq, Position)> = None;
        for record in records {
            let (entity, seen) = self.recognize(record)?;
            let id = &record.entity;
            if let Some((seq, position)) = last
                && (record.seq != seq.next() || record.position <= position)
            {
                return Err(format!(
                    "a read of {id} gave {} at {} after {seq} at {position}",
                    record.seq, record.position
                ));
            }
            last = Some((record.seq, record.position));
            let known = self.seen.entry((entity, record.seq)).or_insert_with(|| seen.clone());
            if *known != seen {
                return Err(format!("{id} {} was {known:?}, and is {seen:?}", record.seq));
            }
        }
        Ok(())
    }

    /// How many writes were acknowledged.
    #[must_use]
    pub fn acked(&self) -> u64 {
        let requests = self.requests.iter().filter(|request| request.acked.is_some()).count();
        let deletions = self.deletions.iter().filter(|deletion| deletion.acked.is_some()).count();
        (requests + deletions) as u64
    }
}

/// A shard as one replica has it in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Whose it is, for people.
    pub name: String,
    /// The shard's records in their order, as the tail gives them: entity, sequence number, content.
    pub records: Vec<(usize, Seq, Seen)>,
    /// The head of each of the shard's entities: entity, newest event, deleted up to.
    pub heads: Vec<(usize, Seq, Seq)>,
}
