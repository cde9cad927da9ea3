//! Sealed files: the frames of one or more segments, brought together by entity, with an index.
//!
//! ```text
//! file header
//! { batch frames of an entity, then its Entity frame }   by (hash, id) of the entity
//! End
//! Order frames                                           each shard's commit order, in parts
//! OrderTop frames                                        one per shard: its parts
//! Directory frames, 4096 bytes each                      (hash, offset of Entity frame) rows
//! Shards frame                                           per shard: positions and epoch
//! Trailer                                                where the above are
//! ```
//! Everything is a frame, so everything is checksummed and bound to its place. Nothing but the
//! `Shards` rows stays in memory; a look-up reads one or two directory pages (hashes are evenly
//! spread, so the page is guessed) and one Entity frame.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
};

use super::{
    access::{Access, Missed},
    codec::{Reader, put_entity, put_varint},
    frame::{HEADER_BYTES, Header, Kind, MAX_PAYLOAD_BYTES, claimed, verify},
    index::{EntityIndex, Place, Run},
    layout::{FileHeader, FileKind},
};
use crate::{
    disk::DiskFile,
    error::JournalError,
    id::{EntityId, Position, Seq, ShardId, Term},
};

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

    fn decode(payload: &[u8]) -> Option<Trailer> {
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    out
}

fn decode_shards(payload: &[u8]) -> Option<Vec<ShardRow>> {
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
        });
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
        put_varint(&mut out, u64::from(place.offset));
        put_varint(&mut out, u64::from(place.len));
        position = place.position.to_u64();
    }
    out
}

fn decode_order(payload: &[u8]) -> Option<Vec<Place>> {
    let mut reader = Reader::new(payload);
    let count = reader.varint()?;
    let mut places = Vec::with_capacity((count as usize).min(reader.remaining()));
    let mut position = 0u64;
    for _ in 0..count {
        position = position.checked_add(reader.varint()?)?;
        places.push(Place {
            position: Position::from_u64(position),
            records: u32::try_from(reader.varint()?).ok().filter(|records| *records > 0)?,
            offset: u32::try_from(reader.varint()?).ok()?,
            len: u32::try_from(reader.varint()?).ok()?,
        });
    }
    Some(places)
}

/// A sealed file, open to read.
pub(crate) struct Sealed {
    pub path: PathBuf,
    pub file: Arc<dyn DiskFile>,
    pub header: FileHeader,
    pub trailer: Trailer,
    pub shards: Vec<ShardRow>,
    pub len: u64,
    /// Events of the file that were deleted since it was opened: an estimate that decides when to
    /// rewrite it.
    pub dead: AtomicU64,
}

impl Sealed {
    /// Reads header, trailer and the shards' rows.
    pub(crate) fn open(path: PathBuf, file: Arc<dyn DiskFile>) -> Result<Sealed, JournalError> {
        let header = FileHeader::read(&path, &*file)?;
        let len = file.len().map_err(|e| JournalError::read(&path, &e))?;
        let none = Trailer::default();
        let mut sealed = Sealed {
            path,
            file,
            header,
            trailer: none,
            shards: Vec::new(),
            len,
            dead: AtomicU64::new(0),
        };
        if header.kind != FileKind::Sealed {
            return Err(JournalError::corrupt(sealed.path, 0, "this is no sealed file"));
        }
        let at = len.saturating_sub(TRAILER_BYTES as u64);
        sealed.trailer = sealed.frame_waiting(at, Kind::Trailer, Trailer::decode)?;
        sealed.shards = sealed.frame_waiting(sealed.trailer.shards, Kind::Shards, decode_shards)?;
        Ok(sealed)
    }

    /// Reads, checks and decodes the frame of a kind at an offset.
    fn frame<T>(
        &self,
        offset: u64,
        kind: Kind,
        access: Access,
        decode: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<T, Missed> {
        // Most frames of the index fit the first read.
        let mut bytes = self.read(offset, PAGE_BYTES, access)?;
        if let Some(header) = claimed(&bytes)
            && header.frame_bytes() > bytes.len()
            && header.len as usize <= MAX_PAYLOAD_BYTES
            && offset + header.frame_bytes() as u64 <= self.len
        {
            bytes = self.read(offset, header.frame_bytes(), access)?;
        }
        verify(&bytes, self.header.salt, offset)
            .filter(|(header, _)| header.kind == kind)
            .and_then(|(_, payload)| decode(payload))
            .ok_or_else(|| {
                JournalError::corrupt(&self.path, offset, format!("no valid {kind:?} frame")).into()
            })
    }

    /// [`frame`](Self::frame), on a thread that may wait.
    fn frame_waiting<T>(
        &self,
        offset: u64,
        kind: Kind,
        decode: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<T, JournalError> {
        self.frame(offset, kind, Access::Waiting, decode).map_err(Missed::into_error)
    }

    /// Up to `len` bytes from `offset`.
    fn read(&self, offset: u64, len: usize, access: Access) -> Result<Vec<u8>, Missed> {
        let len = len.min(self.len.saturating_sub(offset) as usize);
        let mut bytes = vec![0; len];
        access.read(&self.path, &*self.file, offset, &mut bytes)?;
        Ok(bytes)
    }

    /// What the file knows of an entity.
    pub(crate) fn entity(
        &self,
        entity: &EntityId,
        access: Access,
    ) -> Result<Option<EntityIndex>, Missed> {
        let hash = entity.hash64();
        let Some(mut page) = self.first_page_reaching(hash, access)? else { return Ok(None) };
        loop {
            let rows = self.page(page, access)?;
            for (_, offset) in rows.iter().filter(|(row, _)| *row == hash) {
                let (id, index) = self.entity_at(*offset, access)?;
                if id == *entity {
                    return Ok(Some(index));
                }
            }
            page += 1;
            if page == self.trailer.pages || rows.last().is_some_and(|(row, _)| *row > hash) {
                return Ok(None);
            }
        }
    }

    /// The first page whose last hash is not below `hash`.
    fn first_page_reaching(&self, hash: u64, access: Access) -> Result<Option<u64>, Missed> {
        // The page is at or after `low`, and at or before `high`.
        let (mut low, mut high) = (0, self.trailer.pages);
        let mut guess = ((u128::from(hash) * u128::from(high)) >> 64) as u64;
        let mut tries = 0;
        while low < high {
            let rows = self.page(guess, access)?;
            let (Some((first, _)), Some((last, _))) = (rows.first(), rows.last()) else {
                return Err(self.bad_page(guess).into());
            };
            if *last < hash {
                low = guess + 1;
            } else if *first < hash || guess == low {
                return Ok(Some(guess));
            } else {
                high = guess;
            }
            // The first guess is off by a page or two: look next door before halving.
            tries += 1;
            guess = match tries {
                4.. => low + (high - low) / 2,
                _ if *last < hash => low,
                _ => high - 1,
            };
        }
        Ok((low < self.trailer.pages).then_some(low))
    }

    fn page(&self, page: u64, access: Access) -> Result<Vec<(u64, u64)>, Missed> {
        let offset = self.trailer.directory + page * PAGE_BYTES as u64;
        self.frame(offset, Kind::Directory, access, |payload| {
            let row = |bytes: &[u8]| {
                let (hash, at) = bytes.split_at(8);
                Some((
                    u64::from_le_bytes(hash.try_into().ok()?),
                    u64::from_le_bytes(at.try_into().ok()?),
                ))
            };
            payload.chunks_exact(ROW_BYTES).map(row).take_while(|r| *r != Some((0, 0))).collect()
        })
    }

    fn bad_page(&self, page: u64) -> JournalError {
        let offset = self.trailer.directory + page * PAGE_BYTES as u64;
        JournalError::corrupt(&self.path, offset, "an empty directory page")
    }

    /// The row of a shard.
    pub(crate) fn shard(&self, shard: ShardId) -> Option<&ShardRow> {
        self.shards.iter().find(|row| row.shard == shard)
    }

    /// A part of a shard's commit order: the first that has a record after `after`. Empty where
    /// there is none.
    pub(crate) fn order(
        &self,
        shard: ShardId,
        after: Position,
    ) -> Result<Vec<Place>, JournalError> {
        let Some(row) = self.shard(shard).filter(|row| row.top != 0 && row.last_batch > after)
        else {
            return Ok(Vec::new());
        };
        let top = self.frame_waiting(row.top, Kind::OrderTop, decode_order_top)?;
        match top.iter().find(|(last, _)| *last > after) {
            Some((_, offset)) => self.frame_waiting(*offset, Kind::Order, decode_order),
            None => Ok(Vec::new()),
        }
    }

    /// The entity whose `Entity` frame is at an offset.
    pub(crate) fn entity_at(
        &self,
        offset: u64,
        access: Access,
    ) -> Result<(EntityId, EntityIndex), Missed> {
        self.frame(offset, Kind::Entity, access, decode_entity)
    }

    /// Every row of the directory in order, read page by page.
    pub(crate) fn directory(
        &self,
    ) -> impl Iterator<Item = Result<(u64, u64), JournalError>> + use<'_> {
        (0..self.trailer.pages).flat_map(|page| match self.page(page, Access::Waiting) {
            Ok(rows) => rows.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(missed) => vec![Err(missed.into_error())],
        })
    }
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

fn decode_order_top(payload: &[u8]) -> Option<Vec<(Position, u64)>> {
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
