//! The index of a segment, in memory: where each entity's events are, and each shard's records in
//! commit order. A segment has one until it is sealed; so memory does not grow with the log.

use std::collections::{BTreeMap, HashMap};

use crate::id::{EntityId, Position, Seq, ShardId, Term};

/// Frames of one entity that follow one another in a file: `len` bytes from `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub first_seq: u64,
    pub last_seq: u64,
    pub offset: u64,
    pub len: u32,
}

/// A batch's frame in a shard's commit order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Of its first record.
    pub position: Position,
    pub records: u32,
    pub len: u32,
    pub offset: u64,
}

impl Place {
    /// The position of its last record.
    pub(crate) fn last(&self) -> Position {
        Position::from_u64(self.position.to_u64() + u64::from(self.records) - 1)
    }
}

/// What one file knows of an entity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct EntityIndex {
    /// In the order of sequence numbers.
    pub runs: Vec<Run>,
    /// The newest event that was ever in this file or before it; zero where the file has only a
    /// deletion.
    pub last_seq: Seq,
    /// The newest deletion in this file; `None` where older files must be asked.
    pub deleted_to: Option<Seq>,
}

impl EntityIndex {
    /// The oldest event of the entity in this file.
    pub(crate) fn first_seq(&self) -> Option<Seq> {
        self.runs.first().map(|run| Seq(run.first_seq))
    }
}

/// What one file knows of a shard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ShardIndex {
    /// The batches, in commit order.
    pub places: Vec<Place>,
    /// The last position used, by whatever kind of frame.
    pub last: Position,
    /// The newest epoch.
    pub epoch: Term,
    /// The Raft term of the last entry.
    pub term: Term,
}

/// The index of one segment.
#[derive(Debug, Default)]
pub(crate) struct SegmentIndex {
    pub entities: HashMap<EntityId, EntityIndex>,
    pub shards: BTreeMap<ShardId, ShardIndex>,
    pub events: u64,
    /// Every deletion that took effect: where it stands, and up to which event. Segments without are
    /// skipped when nothing but deletions is looked for.
    deletions: HashMap<EntityId, Vec<(Position, Seq)>>,
}

impl SegmentIndex {
    /// Notes a batch's frame.
    pub(crate) fn batch(
        &mut self,
        entity: &EntityId,
        (first_seq, last_seq): (Seq, Seq),
        shard: ShardId,
        epoch: Term,
        place: Place,
    ) {
        let known = match self.entities.get_mut(entity) {
            Some(known) => known,
            None => self.entities.entry(entity.clone()).or_default(),
        };
        known.runs.push(Run {
            first_seq: first_seq.0,
            last_seq: last_seq.0,
            offset: place.offset,
            len: place.len,
        });
        known.last_seq = last_seq;
        self.events += u64::from(place.records);
        self.shard(shard, epoch, place.last()).places.push(place);
    }

    /// Notes a deletion's frame.
    pub(crate) fn delete(
        &mut self,
        entity: &EntityId,
        to: Seq,
        shard: ShardId,
        epoch: Term,
        position: Position,
    ) {
        let known = self.entities.entry(entity.clone()).or_default();
        known.deleted_to = known.deleted_to.max(Some(to));
        self.deletions.entry(entity.clone()).or_default().push((position, to));
        self.shard(shard, epoch, position);
    }

    /// The newest deletion of an entity in the entries up to `upto`.
    pub(crate) fn deleted_by(&self, entity: &EntityId, upto: u64) -> Option<Seq> {
        let known = self.deletions.get(entity)?.iter();
        known.rev().find(|(position, _)| position.index() <= upto).map(|(_, to)| *to)
    }

    /// Notes that a shard's order has come to `last`.
    pub(crate) fn shard(&mut self, shard: ShardId, epoch: Term, last: Position) -> &mut ShardIndex {
        let index = self.shards.entry(shard).or_default();
        index.epoch = index.epoch.max(epoch);
        index.last = index.last.max(last);
        index
    }
}
