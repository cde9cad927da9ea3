//! What a sealed file's index is made of, as bytes and back. See [`sealed`](super::sealed) for where
//! each part stands.

use bytes::Bytes;

use super::{
    codec::{Reader, put_bytes, put_entity, put_varint},
    entry::LogId,
    frame::{HEADER_BYTES, Header, Kind},
    index::{EntityIndex, Place, Run},
};
use crate::id::{EntityId, Position, Seq, ShardId, Term};

/// A page of the directory, header included.
pub(crate) const PAGE_BYTES: usize = 4096;
/// A row of the directory: hash and offset.
pub(crate) const ROW_BYTES: usize = 16;
/// Rows of a page.
pub(crate) const PAGE_ROWS: usize = (PAGE_BYTES - HEADER_BYTES) / ROW_BYTES;
/// The trailer, header included.
pub(crate) const TRAILER_BYTES: usize = HEADER_BYTES + 64;

/// Where the parts of a sealed file are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Trailer {
    /// The end of the entities' frames.
    pub entities_end: u64,
    pub directory: u64,
    pub pages: u64,
    pub shards: u64,
    pub entities: u64,
    pub events: u64,
    /// Entities of which the file knows a deletion.
    pub deletions: u64,
}

impl Trailer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; HEADER_BYTES];
        for n in [
            self.entities_end,
            self.directory,
            self.pages,
            self.shards,
            self.entities,
            self.events,
            self.deletions,
            0,
        ] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out
    }

    pub(crate) fn decode(payload: &[u8]) -> Option<Trailer> {
        let at = |i: usize| -> Option<u64> {
            Some(u64::from_le_bytes(payload.get(i * 8..i * 8 + 8)?.try_into().ok()?))
        };
        Some(Trailer {
            entities_end: at(0)?,
            directory: at(1)?,
            pages: at(2)?,
            shards: at(3)?,
            entities: at(4)?,
            events: at(5)?,
            deletions: at(6)?,
        })
    }
}

/// What a sealed file knows of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShardRow {
    pub shard: ShardId,
    /// The first and last batch in the file; both zero where it has none.
    pub first: Position,
    pub last_batch: Position,
    /// The last position used, by whatever kind of frame.
    pub last: Position,
    pub epoch: Term,
    /// Where the `OrderTop` frame is.
    pub top: u64,
    /// The Raft term of the shard's last entry in or before the file.
    pub term: Term,
    /// How many of the shard's events are in the file.
    pub events: u64,
    /// Set where the file holds all that the shard has up to here: then whatever older files have of
    /// the shard counts for nothing.
    pub checkpoint: Option<Checkpoint>,
}

/// What comes with a checkpoint beside the shard's records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// The members of the shard's group, encoded by the Raft layer, and the entry that made them so.
    pub membership: Option<(LogId, Bytes)>,
    /// What becomes of later entries of the group in older segments.
    pub later: Later,
}

/// What becomes of the entries that follow a checkpoint and lie in segments older than it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Later {
    /// The group's log begins after the checkpoint, empty.
    #[default]
    Dropped,
    /// They are the group's log still, unless they are [another
    /// history](super::entries::Entries::diverges_after).
    Kept,
}

impl ShardRow {
    /// The shard's last entry in or before the file.
    pub(crate) fn entry(&self) -> LogId {
        LogId { term: self.term.0, index: self.last.index() }
    }

    /// Whether older files count for nothing as to this shard.
    pub(crate) fn replaces(&self) -> bool {
        self.checkpoint.is_some()
    }
}

/// Encodes the rows of the `Shards` frame.
pub(crate) fn encode_shards(rows: &[ShardRow]) -> Vec<u8> {
    let mut out = vec![0; HEADER_BYTES];
    put_varint(&mut out, rows.len() as u64);
    for row in rows {
        let (first, last_batch) = (row.first.to_u64(), row.last_batch.to_u64());
        for n in
            [u64::from(row.shard.0), first, last_batch, row.last.to_u64(), row.epoch.0, row.top]
        {
            put_varint(&mut out, n);
        }
    }
    // Left out where it says nothing.
    if rows.iter().any(|row| row.term > Term(0) || row.replaces()) {
        rows.iter().for_each(|row| put_group(&mut out, row));
    }
    out
}

fn put_group(out: &mut Vec<u8>, row: &ShardRow) {
    put_varint(out, row.term.0);
    put_varint(out, row.events);
    let Some(checkpoint) = &row.checkpoint else { return out.push(0) };
    out.push(1 + u8::from(checkpoint.later == Later::Kept));
    out.push(u8::from(checkpoint.membership.is_some()));
    if let Some((id, members)) = &checkpoint.membership {
        put_varint(out, id.term);
        put_varint(out, id.index);
        put_bytes(out, members);
    }
}

fn read_group(reader: &mut Reader<'_>, row: &mut ShardRow) -> Option<()> {
    row.term = Term(reader.varint()?);
    row.events = reader.varint()?;
    let later = match reader.byte()? {
        0 => return Some(()),
        1 => Later::Dropped,
        2 => Later::Kept,
        _ => return None,
    };
    let membership = match reader.byte()? {
        0 => None,
        1 => {
            let id = LogId { term: reader.varint()?, index: reader.varint()? };
            Some((id, Bytes::copy_from_slice(reader.bytes()?)))
        }
        _ => return None,
    };
    row.checkpoint = Some(Checkpoint { membership, later });
    Some(())
}

pub(crate) fn decode_shards(payload: &[u8]) -> Option<Vec<ShardRow>> {
    let mut reader = Reader::new(payload);
    let mut rows = Vec::new();
    for _ in 0..reader.varint()? {
        rows.push(ShardRow {
            shard: ShardId(u16::try_from(reader.varint()?).ok()?),
            first: Position::from_u64(reader.varint()?),
            last_batch: Position::from_u64(reader.varint()?),
            last: Position::from_u64(reader.varint()?),
            epoch: Term(reader.varint()?),
            top: reader.varint()?,
            term: Term(0),
            events: 0,
            checkpoint: None,
        });
    }
    if reader.remaining() > 0 {
        rows.iter_mut().try_for_each(|row| read_group(&mut reader, row))?;
    }
    Some(rows)
}

/// Encodes an `Entity` frame.
pub(crate) fn encode_entity(entity: &EntityId, index: &EntityIndex) -> Vec<u8> {
    let mut out = vec![0; HEADER_BYTES];
    put_entity(&mut out, entity);
    put_varint(&mut out, index.last_seq.0);
    put_varint(&mut out, index.deleted_to.map_or(0, |to| to.0.saturating_add(1)));
    put_varint(&mut out, index.runs.len() as u64);
    let (mut seq, mut offset) = (0, 0);
    for run in &index.runs {
        put_varint(&mut out, run.first_seq - seq);
        put_varint(&mut out, run.last_seq - run.first_seq);
        put_varint(&mut out, run.offset - offset);
        put_varint(&mut out, u64::from(run.len));
        (seq, offset) = (run.last_seq, run.offset);
    }
    out
}

/// Decodes an `Entity` frame's payload.
pub(crate) fn decode_entity(payload: &[u8]) -> Option<(EntityId, EntityIndex)> {
    let mut reader = Reader::new(payload);
    let entity = reader.entity()?;
    let last_seq = Seq(reader.varint()?);
    let deleted_to = reader.varint()?.checked_sub(1).map(Seq);
    let count = reader.varint()?;
    let mut runs = Vec::with_capacity((count as usize).min(reader.remaining()));
    let (mut seq, mut offset) = (0u64, 0u64);
    for _ in 0..count {
        let first_seq = seq.checked_add(reader.varint()?)?;
        seq = first_seq.checked_add(reader.varint()?)?;
        offset = offset.checked_add(reader.varint()?)?;
        let len = u32::try_from(reader.varint()?).ok()?;
        runs.push(Run { first_seq, last_seq: seq, offset, len });
    }
    Some((entity, EntityIndex { runs, last_seq, deleted_to }))
}

/// Encodes a part of a shard's commit order.
pub(crate) fn encode_order(places: &[Place]) -> Vec<u8> {
    let mut out = vec![0; HEADER_BYTES];
    put_varint(&mut out, places.len() as u64);
    let mut position = 0;
    for place in places {
        put_varint(&mut out, place.position.to_u64() - position);
        put_varint(&mut out, u64::from(place.records));
        put_varint(&mut out, place.offset);
        put_varint(&mut out, u64::from(place.len));
        position = place.position.to_u64();
    }
    out
}

pub(crate) fn decode_order(payload: &[u8]) -> Option<Vec<Place>> {
    let mut reader = Reader::new(payload);
    let count = reader.varint()?;
    let mut places = Vec::with_capacity((count as usize).min(reader.remaining()));
    let mut position = 0u64;
    for _ in 0..count {
        position = position.checked_add(reader.varint()?)?;
        places.push(Place {
            position: Position::from_u64(position),
            records: u32::try_from(reader.varint()?).ok().filter(|records| *records > 0)?,
            offset: reader.varint()?,
            len: u32::try_from(reader.varint()?).ok()?,
        });
    }
    Some(places)
}

/// Encodes where the parts of a shard's order are: the last position of each, and its offset.
pub(crate) fn encode_order_top(parts: &[(Position, u64)]) -> Vec<u8> {
    let mut out = vec![0; HEADER_BYTES];
    put_varint(&mut out, parts.len() as u64);
    for (last, offset) in parts {
        put_varint(&mut out, last.to_u64());
        put_varint(&mut out, *offset);
    }
    out
}

pub(crate) fn decode_order_top(payload: &[u8]) -> Option<Vec<(Position, u64)>> {
    let mut reader = Reader::new(payload);
    let count = reader.varint()?;
    (0..count).map(|_| Some((Position::from_u64(reader.varint()?), reader.varint()?))).collect()
}

/// The header of a frame of a sealed file that is no batch.
pub(crate) fn index_header(kind: Kind, frame: &[u8]) -> Header {
    Header {
        len: (frame.len() - HEADER_BYTES) as u32,
        flush: 0,
        kind,
        shard: ShardId(0),
        position: Position::ZERO,
        term: Term(0),
    }
}
