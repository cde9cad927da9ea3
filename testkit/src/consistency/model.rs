//! What the log may hold, from what it answered and from what was read.
//!
//! A batch is *flying* until it is answered. Acknowledged, or seen by a reader, it is *kept* for
//! ever. Refused with [`Effect::None`] it must never be seen. One whose answer is unknown (or that
//! flew when the process ended) is there whole or not at all; reading everything after a restart
//! decides that for ever.

use std::collections::{BTreeMap, BTreeSet};

use duractor_journal::{
    AppendBatch, Appended, Effect, EntityId, EventRecord, Head, JournalError, Position, Seq,
    ShardId, Term,
};

use super::{
    content::stamp_of,
    report::{Checked, violated},
};

/// What is known of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Flying,
    Unknown,
    /// Acknowledged or seen, with the position of its last event.
    Kept(Position),
    Refused,
    /// Not there after a restart.
    Absent,
}

pub(super) struct Sent {
    pub(super) entity: usize,
    pub(super) batch: AppendBatch,
    pub(super) state: State,
}

impl Sent {
    fn last(&self) -> Seq {
        self.batch.expected_seq.plus(self.batch.events.len() as u64)
    }
}

/// One entity, as the journal answered.
pub(super) struct Entity {
    pub(super) id: EntityId,
    pub(super) shard: ShardId,
    /// Up to here deletion is certain.
    pub(super) deleted_to: Seq,
    /// Deletions whose answer is not known.
    pub(super) deletions: Vec<Seq>,
    /// The last sequence number that a reader saw.
    seen_to: Seq,
    /// By first sequence number, all batches that are kept or may be.
    batches: BTreeMap<Seq, Vec<usize>>,
}

/// What a reader saw of an entity, all at one time.
pub(super) struct Seen {
    pub(super) head: Head,
    pub(super) records: Vec<EventRecord>,
}

/// What a log may hold.
#[derive(Default)]
pub(super) struct Model {
    pub(super) sent: Vec<Sent>,
    pub(super) entities: Vec<Entity>,
    /// Each shard's newest epoch that was acknowledged.
    pub(super) epochs: Vec<Term>,
    /// Each shard's last acknowledged position.
    last: Vec<Position>,
    pub(super) acked: u64,
    pub(super) checked: u64,
}

impl Model {
    pub(super) fn new(shards: u16, entities: impl IntoIterator<Item = EntityId>) -> Self {
        let entity = |id: EntityId| Entity {
            shard: id.shard(shards),
            id,
            deleted_to: Seq::ZERO,
            deletions: Vec::new(),
            seen_to: Seq::ZERO,
            batches: BTreeMap::new(),
        };
        Self {
            entities: entities.into_iter().map(entity).collect(),
            epochs: vec![Term(0); usize::from(shards)],
            last: vec![Position::ZERO; usize::from(shards)],
            ..Self::default()
        }
    }

    /// Notes that a batch is handed to the journal.
    pub(super) fn send(&mut self, entity: usize, batch: AppendBatch) {
        let number = self.sent.len();
        let at = self.entities[entity].batches.entry(batch.expected_seq.next()).or_default();
        at.push(number);
        self.sent.push(Sent { entity, batch, state: State::Flying });
    }

    /// The last sequence number of an entity that is certain.
    pub(super) fn kept_to(&self, entity: usize) -> Seq {
        let batches = self.entities[entity].batches.values().flatten();
        let kept = batches.map(|n| &self.sent[*n]).filter(|s| matches!(s.state, State::Kept(_)));
        kept.map(Sent::last).max().unwrap_or_default()
    }

    /// Notes an answer.
    pub(super) fn answered(
        &mut self,
        number: usize,
        answer: &Result<Appended, JournalError>,
    ) -> Checked {
        let sent = &mut self.sent[number];
        match (answer, sent.state) {
            (Ok(appended), State::Flying | State::Kept(_)) => {
                if appended.last_seq != sent.last() {
                    let told = appended.last_seq;
                    return violated(format!("batch #{number} was told to end at {told}"));
                }
                if let State::Kept(seen) = sent.state
                    && seen != appended.position
                {
                    return violated(format!("batch #{number} was read at another position"));
                }
                sent.state = State::Kept(appended.position);
                self.acked += 1;
                let last = &mut self.last[usize::from(self.entities[sent.entity].shard.0)];
                if appended.position <= *last {
                    return violated(format!("batch #{number} was acknowledged out of order"));
                }
                *last = appended.position;
            }
            (Err(error), State::Flying) => {
                sent.state = match error.effect() {
                    Effect::None => State::Refused,
                    Effect::Unknown => State::Unknown,
                };
            }
            (Err(error), State::Kept(_)) => {
                return violated(format!("batch #{number} was read before it failed: {error}"));
            }
            (_, state) => return violated(format!("batch #{number} answered twice, {state:?}")),
        }
        Ok(())
    }

    /// Notes that a deletion was answered. `to` is what it comes to.
    pub(super) fn deleted(&mut self, entity: usize, to: Seq, answer: &Result<(), JournalError>) {
        let entity = &mut self.entities[entity];
        let at = entity.deletions.iter().position(|pending| *pending == to);
        match answer {
            Ok(()) => {
                self.acked += 1;
                entity.deleted_to = entity.deleted_to.max(to);
            }
            Err(error) if error.effect() == Effect::Unknown => return,
            Err(_) => {}
        }
        at.map(|at| entity.deletions.swap_remove(at));
    }

    /// The process has ended: what flew is unknown.
    pub(super) fn ended(&mut self) {
        let flying = self.sent.iter_mut().filter(|sent| sent.state == State::Flying);
        flying.for_each(|sent| sent.state = State::Unknown);
    }

    /// The first batch of those with a number from `from` on that is not there and may be sent
    /// again.
    pub(super) fn absent_from(&self, from: usize) -> Option<usize> {
        let absent = |sent: &Sent| sent.state == State::Absent && sent.batch.request.is_none();
        self.sent[from..].iter().position(absent).map(|at| from + at)
    }

    /// The batches that were never answered.
    pub(super) fn flying(&self) -> Option<usize> {
        self.sent.iter().position(|sent| sent.state == State::Flying)
    }

    /// Checks one record, wherever it was read, and notes that it is there. Returns its batch.
    pub(super) fn record(&mut self, record: &EventRecord) -> Checked<usize> {
        self.checked += 1;
        let name = format!("event {} of {}", record.seq, record.entity);
        let Some((number, at)) = stamp_of(&record.event.payload) else {
            return violated(format!("{name} is made up"));
        };
        let Some(sent) = self.sent.get_mut(number) else {
            return violated(format!("{name} is made up: it says batch #{number}"));
        };
        let count = sent.batch.events.len();
        if at >= count || record.seq != sent.batch.expected_seq.plus(1 + at as u64) {
            return violated(format!("{name} belongs to another place: batch #{number}, {at}"));
        }
        let request = sent.batch.request.clone().filter(|_| at + 1 == count);
        let same = record.entity == sent.batch.entity
            && record.epoch == sent.batch.epoch
            && record.timestamp == sent.batch.timestamp
            && record.request == request
            && record.event == sent.batch.events[at];
        if !same {
            return violated(format!("{name} is changed: batch #{number}"));
        }
        let rest = (count - 1 - at) as u64;
        let position = Position::from_u64(record.position.to_u64() + rest);
        match sent.state {
            State::Flying | State::Unknown => sent.state = State::Kept(position),
            State::Kept(known) if known == position => {}
            State::Kept(known) => {
                return violated(format!("{name} moved from {known} to {position}"));
            }
            State::Refused => {
                return violated(format!("{name} is there, and batch #{number} was refused"));
            }
            State::Absent => {
                return violated(format!("{name} came back: batch #{number} was absent"));
            }
        }
        Ok(number)
    }

    /// Checks all that was read of an entity. With `decide`, whatever may be there and is not, is
    /// absent from now on.
    pub(super) fn entity(&mut self, index: usize, seen: &Seen, decide: bool) -> Checked {
        let name = self.entities[index].id.clone();
        let Head { last_seq, deleted_to } = seen.head;
        let mut next = deleted_to.next();
        let mut batches = BTreeSet::new();
        for record in &seen.records {
            if record.entity != name || record.seq != next {
                let (what, seq) = (&record.entity, record.seq);
                return violated(format!("{name}: event {next} is missing before {what} {seq}"));
            }
            batches.insert(self.record(record)?);
            next = next.next();
        }
        if next.0 != last_seq.max(deleted_to).0 + 1 {
            return violated(format!("{name} ends before {next}, and its head is {last_seq}"));
        }
        let kept = self.kept_to(index).max(self.entities[index].seen_to);
        if last_seq < kept {
            return violated(format!("{name} ends at {last_seq}, and {kept} was kept"));
        }
        self.entities[index].seen_to = last_seq;
        self.deletion(index, deleted_to, decide)?;
        for n in self.entities[index].batches.values().flatten().copied() {
            let sent = &mut self.sent[n];
            let inside = batches.contains(&n);
            if inside && sent.last() > last_seq {
                return violated(format!("{name}: batch #{n} is there in part"));
            }
            let deleted = sent.last() <= deleted_to;
            match sent.state {
                State::Kept(_) if !inside && !deleted => {
                    return violated(format!("{name}: batch #{n} is lost"));
                }
                // Of a batch that is deleted nobody can say whether it was there.
                State::Unknown if decide && !inside && !deleted => sent.state = State::Absent,
                _ => {}
            }
        }
        Ok(())
    }

    fn deletion(&mut self, index: usize, to: Seq, decide: bool) -> Checked {
        let entity = &mut self.entities[index];
        let known = to == entity.deleted_to || entity.deletions.contains(&to);
        if to < entity.deleted_to || !known {
            let (id, had) = (&entity.id, entity.deleted_to);
            return violated(format!("{id} is deleted to {to}, and it was to {had}"));
        }
        entity.deleted_to = to;
        if decide {
            entity.deletions.clear();
        }
        Ok(())
    }

    /// Checks a shard's commit order against what was read of its entities.
    pub(super) fn order(
        &mut self,
        shard: ShardId,
        tail: &[EventRecord],
        seen: &[(usize, Seen)],
    ) -> Checked {
        let mut last = Position::ZERO;
        let mut at: BTreeMap<&EntityId, BTreeMap<Seq, Position>> = BTreeMap::new();
        for record in tail {
            self.record(record)?;
            if record.position <= last {
                return violated(format!("{shard}: {} comes after {last}", record.position));
            }
            last = record.position;
            at.entry(&record.entity).or_default().insert(record.seq, record.position);
        }
        for (_, seen) in seen {
            for record in &seen.records {
                let found = at.get_mut(&record.entity).and_then(|seqs| seqs.remove(&record.seq));
                if found != Some(record.position) {
                    let (id, seq) = (&record.entity, record.seq);
                    return violated(format!("{shard}: the tail has {id} {seq} at {found:?}"));
                }
            }
        }
        let deleted = |id: &EntityId| {
            let entity = self.entities.iter().find(|entity| entity.id == *id);
            entity.map_or(Seq::ZERO, |entity| entity.deleted_to)
        };
        for (id, seqs) in at {
            if let Some((seq, _)) = seqs.last_key_value().filter(|(seq, _)| **seq > deleted(id)) {
                return violated(format!("{shard}: the tail has {id} {seq}, replay has not"));
            }
        }
        Ok(())
    }
}
