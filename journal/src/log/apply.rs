//! Applying a group's entries: what each write comes to, decided on every replica alike.
//!
//! A decision depends on the entries before it alone. What it reads from files was put there by
//! them; where a read would have to wait, the decision is put off and taken again.

use std::sync::Arc;

use super::{
    access::{Access, Missed},
    codec::{
        BatchName, Name, decode_batch_head, decode_batch_name, decode_delete, decode_request,
        decode_together,
    },
    entries::Spot,
    entry::{Body, Entry, LogId, Op, Ops},
    files::Files,
    frame::Kind,
    heads::Heads,
    index::{Place, SegmentIndex},
    live::Live,
    marks::Amended,
    read::Replay,
};
use crate::{
    error::JournalError,
    id::{EntityId, Position, Seq, ShardId, Term},
    port::{Appended, Head, ReplayRange},
    record::RequestId,
};

/// What became of one write of an entry that was applied.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// The events are in; also where a repeat found them there already.
    Appended(Appended),
    /// All of these batches are in.
    Together(Vec<Appended>),
    /// The deletion is in force.
    Deleted,
    /// The new writer epoch.
    Claimed(Term),
    /// Nothing changed: [`JournalError::StaleEpoch`] or [`JournalError::WrongExpectedSeq`].
    Refused(JournalError),
}

/// What must be read before the next write can be decided.
#[derive(Debug)]
pub(crate) enum Need {
    Head(EntityId),
    /// The batches of the entity in this range, and in which of them the request was answered.
    Repeat(EntityId, ReplayRange, RequestId),
}

/// What was read for a [`Need`].
#[derive(Debug)]
pub(crate) enum Fetched {
    Head(EntityId, Head),
    Repeat(Option<Appended>),
}

/// Why an entry is not applied yet.
#[derive(Debug)]
pub(crate) enum Pause {
    Needs(Need),
    Failed(JournalError),
}

/// A deletion that took effect: where it stands, whose events, after which one and up to which.
#[derive(Debug, Clone)]
pub(crate) struct Deletion {
    pub position: Position,
    pub entity: EntityId,
    pub after: Seq,
    pub to: Seq,
}

/// The state machine of a group.
#[derive(Debug)]
pub(crate) struct Machine {
    shard: ShardId,
    pub epoch: Term,
    pub heads: Heads,
    /// The first outcomes of an entry whose application was put off.
    partial: Vec<Outcome>,
    fetched: Option<Option<Appended>>,
    /// Of the batches that go together and are being decided: the heads of those that fit, and why
    /// the others do not.
    checked: Vec<Result<Head, JournalError>>,
    /// Writes that did not take effect as they stand; for whoever writes the next mark.
    pub amended: Vec<Amended>,
    /// For whoever counts what can be cleaned up.
    pub deletions: Vec<Deletion>,
}

/// What a write leaves in the index of its segment.
enum Note {
    Batch(EntityId, (Seq, Seq), Term, Place),
    Delete(EntityId, Seq, Term, Position),
    Other(Term, Position),
}

/// An entry, and where it lies.
pub(crate) struct Placed<'a> {
    pub entry: &'a Entry,
    pub spot: Spot,
    pub live: &'a Arc<Live>,
}

impl Machine {
    pub(crate) fn new(shard: ShardId, epoch: Term, cached_heads: usize) -> Self {
        Self {
            shard,
            epoch,
            heads: Heads::new(cached_heads),
            partial: Vec::new(),
            fetched: None,
            checked: Vec::new(),
            amended: Vec::new(),
            deletions: Vec::new(),
        }
    }

    /// Starts anew on other contents.
    pub(crate) fn restart(&mut self, epoch: Term) {
        self.epoch = epoch;
        self.heads.clear();
        self.partial.clear();
        self.fetched = None;
        self.checked.clear();
        self.amended.clear();
        self.deletions.clear();
    }

    /// Takes what was asked for.
    pub(crate) fn fetched(&mut self, fetched: Fetched) {
        match fetched {
            Fetched::Head(entity, head) => self.heads.put(entity, head),
            Fetched::Repeat(found) => self.fetched = Some(found),
        }
    }

    /// Applies an entry: says what became of each write and notes in the index what took effect.
    /// After a pause it goes on with the same entry where it stopped.
    pub(crate) fn apply(
        &mut self,
        placed: &Placed<'_>,
        files: &Files,
    ) -> Result<Vec<Outcome>, Pause> {
        let id = placed.entry.id;
        let mut notes = Vec::new();
        let mut outcomes = std::mem::take(&mut self.partial);
        let decided = match &placed.entry.body {
            Body::Ops(ops) => self.ops(placed, ops, files, &mut notes, &mut outcomes),
            Body::Blank | Body::Membership(_) => Ok(()),
        };
        if decided.is_ok() {
            notes.push(Note::Other(self.epoch, last_position(placed.entry)));
        }
        self.note(placed.live, id, &mut notes);
        match decided {
            Ok(()) => Ok(outcomes),
            Err(pause) => {
                self.partial = outcomes;
                Err(pause)
            }
        }
    }

    fn ops(
        &mut self,
        placed: &Placed<'_>,
        ops: &Ops,
        files: &Files,
        notes: &mut Vec<Note>,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), Pause> {
        let mut offset = placed.spot.offset + u64::from(placed.spot.len) - ops.bytes().len() as u64;
        let mut writes = ops.iter().enumerate().map(|(n, op)| {
            let at = offset;
            offset += op.header.frame_bytes() as u64;
            (n, op, at)
        });
        while let Some((n, op, at)) = writes.next() {
            if n < outcomes.len() {
                continue;
            }
            if op.header.kind == Kind::Together {
                let count = decode_together(&op.payload)
                    .ok_or_else(|| Pause::Failed(no_meaning(placed.entry.id)))?;
                let batches: Vec<_> =
                    writes.by_ref().take(count).map(|(_, op, at)| (op, at)).collect();
                outcomes.extend(self.together(placed, &batches, files, notes)?);
                continue;
            }
            let decided = match self.decide(placed.entry.id, &op, at, notes) {
                Err(Pause::Needs(Need::Head(entity))) => {
                    self.read_head(placed, entity, files, notes)?;
                    self.decide(placed.entry.id, &op, at, notes)
                }
                decided => decided,
            };
            outcomes.push(decided?);
        }
        Ok(())
    }

    /// Has the entity's head at hand, if that needs no waiting.
    fn read_head(
        &mut self,
        placed: &Placed<'_>,
        entity: EntityId,
        files: &Files,
        notes: &mut Vec<Note>,
    ) -> Result<(), Pause> {
        // What was decided before counts for what is read now.
        self.note(placed.live, placed.entry.id, notes);
        match files.now().find(&entity, Access::Cached) {
            Ok((head, _)) => self.heads.put(entity, head),
            Err(Missed::Waits) => return Err(Pause::Needs(Need::Head(entity))),
            Err(Missed::Failed(error)) => return Err(Pause::Failed(error)),
        }
        Ok(())
    }

    /// What batches come to that go together: first all are checked and nothing is changed, then all
    /// are noted, or none. The outcomes of the frame that binds them and of each of them.
    ///
    /// A repeat of a request is not recognised here: it does not fit.
    fn together(
        &mut self,
        placed: &Placed<'_>,
        batches: &[(Op, u64)],
        files: &Files,
        notes: &mut Vec<Note>,
    ) -> Result<Vec<Outcome>, Pause> {
        // After a pause those that are checked stay so: nobody else changes anything meanwhile.
        while let Some((op, _)) = batches.get(self.checked.len()) {
            match self.check_one(placed.entry.id, op) {
                Ok(checked) => self.checked.push(checked),
                Err(Pause::Needs(Need::Head(entity))) => {
                    self.read_head(placed, entity, files, notes)?;
                }
                Err(pause) => return Err(pause),
            }
        }
        let checked = std::mem::take(&mut self.checked);
        let index = placed.entry.id.index;
        let heads = checked.into_iter().collect::<Result<Vec<_>, _>>();
        #[cfg(feature = "planted")]
        if heads.is_err() && crate::planted::is(crate::planted::Planted::TogetherApart) {
            let each = batches.iter().map(|(op, at)| {
                let position = Position::new(index, op.header.position.offset());
                self.batch(op, position, *at, notes)
            });
            let each = each.collect::<Result<Vec<_>, _>>()?;
            return Ok(std::iter::once(Outcome::Together(Vec::new())).chain(each).collect());
        }
        let heads = match heads {
            Ok(heads) => heads,
            Err(error) => {
                let positions =
                    batches.iter().map(|(op, _)| Position::new(index, op.header.position.offset()));
                let refused = positions.map(|position| self.refuse(position, error.clone()));
                let refused: Vec<_> = refused.collect();
                return Ok(std::iter::once(Outcome::Refused(error)).chain(refused).collect());
            }
        };
        let mut appended = Vec::with_capacity(batches.len());
        for ((op, at), head) in batches.iter().zip(heads) {
            let (name, last) = fits(placed.entry.id, op)?;
            let entity =
                name.name.to_id().ok_or_else(|| Pause::Failed(no_meaning(placed.entry.id)))?;
            let position = Position::new(index, op.header.position.offset());
            let end = Position::from_u64(position.to_u64() + name.count - 1);
            notes.push(batch_note(entity.clone(), &name, last, op, (position, *at)));
            self.heads.put(entity, Head { last_seq: last, ..head });
            appended.push(Appended { last_seq: last, position: end });
        }
        let each: Vec<_> = appended.iter().map(|appended| Outcome::Appended(*appended)).collect();
        Ok(std::iter::once(Outcome::Together(appended)).chain(each).collect())
    }

    /// Whether a batch fits: its entity's head before it.
    fn check_one(&mut self, id: LogId, op: &Op) -> Result<Result<Head, JournalError>, Pause> {
        let (batch, _) = fits(id, op)?;
        if let Err(stale) = self.check_epoch(op.header.term) {
            return Ok(Err(stale));
        }
        let expected = Seq(batch.first_seq.0.saturating_sub(1));
        let Some((entity, head)) = self.heads.get(batch.name) else {
            return Err(no_head(batch.name).unwrap_or_else(|| Pause::Failed(no_meaning(id))));
        };
        if head.last_seq == expected {
            return Ok(Ok(*head));
        }
        let (entity, actual) = (entity.clone(), head.last_seq);
        Ok(Err(JournalError::WrongExpectedSeq { entity, expected, actual }))
    }

    /// What a write comes to.
    fn decide(
        &mut self,
        id: LogId,
        op: &Op,
        offset: u64,
        notes: &mut Vec<Note>,
    ) -> Result<Outcome, Pause> {
        let position = Position::new(id.index, op.header.position.offset());
        match op.header.kind {
            Kind::Claim => {
                self.epoch = Term((self.epoch.0 + 1).max(id.term));
                notes.push(Note::Other(self.epoch, position));
                Ok(Outcome::Claimed(self.epoch))
            }
            Kind::Batch => self.batch(op, position, offset, notes),
            Kind::Delete => self.delete(op, position, notes),
            _ => Err(Pause::Failed(no_meaning(id))),
        }
    }

    fn check_epoch(&self, epoch: Term) -> Result<(), JournalError> {
        #[cfg(feature = "planted")]
        if crate::planted::is(crate::planted::Planted::EpochUnchecked) {
            return Ok(());
        }
        if epoch == self.epoch {
            return Ok(());
        }
        Err(JournalError::StaleEpoch { shard: self.shard, stale: epoch, current: self.epoch })
    }

    fn refuse(&mut self, position: Position, error: JournalError) -> Outcome {
        self.amended.push(Amended { position, deleted_to: None });
        Outcome::Refused(error)
    }

    fn batch(
        &mut self,
        op: &Op,
        position: Position,
        offset: u64,
        notes: &mut Vec<Note>,
    ) -> Result<Outcome, Pause> {
        let bad = || Pause::Failed(no_meaning(LogId { term: 0, index: position.index() }));
        let batch = decode_batch_name(&op.payload).ok_or_else(bad)?;
        if let Err(stale) = self.check_epoch(op.header.term) {
            return Ok(self.refuse(position, stale));
        }
        let expected = Seq(batch.first_seq.0.saturating_sub(1));
        let Some((entity, head)) = self.heads.get(batch.name) else {
            return Err(no_head(batch.name).ok_or_else(bad)?);
        };
        let last = Seq(expected.0.checked_add(batch.count).ok_or_else(bad)?);
        let actual = head.last_seq;
        let fits = actual == expected;
        #[cfg(feature = "planted")]
        let fits = fits || crate::planted::is(crate::planted::Planted::SeqUnchecked);
        if fits {
            head.last_seq = last;
            let end = Position::from_u64(position.to_u64() + batch.count - 1);
            notes.push(batch_note(entity.clone(), &batch, last, op, (position, offset)));
            return Ok(Outcome::Appended(Appended { last_seq: last, position: end }));
        }
        let entity = entity.clone();
        if actual > expected
            && let Some(found) = self.repeat(op, &entity, (batch.first_seq, last))?
        {
            self.amended.push(Amended { position, deleted_to: None });
            return Ok(Outcome::Appended(found));
        }
        let error = JournalError::WrongExpectedSeq { entity, expected, actual };
        Ok(self.refuse(position, error))
    }

    /// Where the same request was answered at the same place: the batch is a repeat.
    fn repeat(
        &mut self,
        op: &Op,
        entity: &EntityId,
        (from, to): (Seq, Seq),
    ) -> Result<Option<Appended>, Pause> {
        #[cfg(feature = "planted")]
        if crate::planted::is(crate::planted::Planted::DedupForgotten) {
            return Ok(None);
        }
        if let Some(found) = self.fetched.take() {
            return Ok(found);
        }
        match decode_request(&op.payload) {
            Some(request) => {
                let range = ReplayRange { from, to, max: u64::MAX };
                Err(Pause::Needs(Need::Repeat(entity.clone(), range, request)))
            }
            None => Ok(None),
        }
    }

    fn delete(
        &mut self,
        op: &Op,
        position: Position,
        notes: &mut Vec<Note>,
    ) -> Result<Outcome, Pause> {
        let bad = || Pause::Failed(no_meaning(LogId { term: 0, index: position.index() }));
        let (name, wanted) = decode_delete(&op.payload).ok_or_else(bad)?;
        if let Err(stale) = self.check_epoch(op.header.term) {
            return Ok(self.refuse(position, stale));
        }
        let Some((entity, head)) = self.heads.get(name) else {
            return Err(no_head(name).ok_or_else(bad)?);
        };
        let (before, to) = (head.deleted_to, wanted.min(head.last_seq));
        if to <= before {
            self.amended.push(Amended { position, deleted_to: None });
            return Ok(Outcome::Deleted);
        }
        head.deleted_to = to;
        let entity = entity.clone();
        if to < wanted {
            self.amended.push(Amended { position, deleted_to: Some(to) });
        }
        self.deletions.push(Deletion { position, entity: entity.clone(), after: before, to });
        notes.push(Note::Delete(entity, to, op.header.term, position));
        Ok(Outcome::Deleted)
    }

    fn note(&self, live: &Live, id: LogId, notes: &mut Vec<Note>) {
        if notes.is_empty() {
            return;
        }
        live.with(|index| {
            for note in notes.drain(..) {
                write_note(index, self.shard, note);
            }
            if let Some(known) = index.shards.get_mut(&self.shard) {
                known.term = Term(id.term);
            }
        });
    }
}

/// What a batch leaves in the index.
fn batch_note(
    entity: EntityId,
    batch: &BatchName<'_>,
    last: Seq,
    op: &Op,
    (position, offset): (Position, u64),
) -> Note {
    let len = op.header.frame_bytes() as u32;
    let place = Place { position, records: batch.count as u32, offset, len };
    Note::Batch(entity, (batch.first_seq, last), op.header.term, place)
}

/// Whose batch it is and which events it has, and the last of them.
fn fits(id: LogId, op: &Op) -> Result<(BatchName<'_>, Seq), Pause> {
    let batch = decode_batch_name(&op.payload).filter(|_| op.header.kind == Kind::Batch);
    let read = batch.and_then(|batch| {
        let last = batch.first_seq.0.checked_add(batch.count)?.checked_sub(1)?;
        Some((batch, Seq(last)))
    });
    read.ok_or_else(|| Pause::Failed(no_meaning(id)))
}

fn write_note(index: &mut SegmentIndex, shard: ShardId, note: Note) {
    match note {
        Note::Batch(entity, seqs, epoch, place) => index.batch(&entity, seqs, shard, epoch, place),
        Note::Delete(entity, to, epoch, position) => {
            index.delete(&entity, to, shard, epoch, position);
        }
        Note::Other(epoch, position) => {
            index.shard(shard, epoch, position);
        }
    }
}

/// Notes an entry that was applied before, with what is known to have been amended; without any
/// checks. `None` where its writes have no meaning.
pub(crate) fn note_again(
    index: &mut SegmentIndex,
    shard: ShardId,
    (entry, spot): (&Entry, Spot),
    amended: impl Fn(Position) -> Option<Amended>,
) -> Option<()> {
    if let Body::Ops(ops) = &entry.body {
        let mut offset = spot.offset + u64::from(spot.len) - ops.bytes().len() as u64;
        for op in ops.iter() {
            let position = Position::new(entry.id.index, op.header.position.offset());
            let (epoch, len) = (op.header.term, op.header.frame_bytes());
            match (op.header.kind, amended(position)) {
                (Kind::Batch, None) => {
                    let head = decode_batch_head(&op.payload)?;
                    let last = Seq(head.first_seq.0.checked_add(head.count - 1)?);
                    let records = head.count as u32;
                    let place = Place { position, records, offset, len: len as u32 };
                    index.batch(&head.entity, (head.first_seq, last), shard, epoch, place);
                }
                (Kind::Delete, amended) if amended.is_none_or(|a| a.deleted_to.is_some()) => {
                    let (name, to) = decode_delete(&op.payload)?;
                    let entity = name.to_id()?;
                    let to = amended.and_then(|a| a.deleted_to).unwrap_or(to);
                    index.delete(&entity, to, shard, epoch, position);
                }
                _ => {}
            }
            offset += len as u64;
        }
    }
    index.shard(shard, Term(0), last_position(entry)).term = Term(entry.id.term);
    Some(())
}

/// The head of this entity must be read. `None` where it is no entity's name.
fn no_head(name: Name<'_>) -> Option<Pause> {
    name.to_id().map(|entity| Pause::Needs(Need::Head(entity)))
}

/// The last position of an entry.
fn last_position(entry: &Entry) -> Position {
    let records = match &entry.body {
        Body::Ops(ops) => ops.records(),
        Body::Blank | Body::Membership(_) => 0,
    };
    Position::new(entry.id.index, records.saturating_sub(1) as u16)
}

fn no_meaning(id: LogId) -> JournalError {
    JournalError::corrupt("the log", 0, format!("a write of entry {} has no meaning", id.index))
}

/// Reads what a decision needs, on a thread that may wait.
pub(crate) fn fetch(files: &Arc<Files>, need: Need) -> Result<Fetched, JournalError> {
    match need {
        Need::Head(entity) => {
            let head = files.now().head(&entity)?;
            Ok(Fetched::Head(entity, head))
        }
        Need::Repeat(entity, range, request) => {
            let mut replay = Replay::new(files.clone(), entity, range);
            loop {
                let records = replay.next()?;
                let of_request = |r: &&crate::EventRecord| {
                    r.request.as_ref().is_some_and(|known| known.id == request)
                };
                if let Some(record) = records.iter().find(of_request) {
                    let (last_seq, position) = (record.seq, record.position);
                    return Ok(Fetched::Repeat(Some(Appended { last_seq, position })));
                }
                if records.is_empty() || replay.is_done() {
                    return Ok(Fetched::Repeat(None));
                }
            }
        }
    }
}
