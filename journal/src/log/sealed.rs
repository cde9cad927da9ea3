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
    footer::{
        PAGE_BYTES, ROW_BYTES, ShardRow, TRAILER_BYTES, Trailer, decode_entity, decode_order,
        decode_order_top, decode_shards,
    },
    frame::{Kind, MAX_PAYLOAD_BYTES, claimed, verify},
    index::{EntityIndex, Place},
    layout::{FileHeader, FileKind},
};
use crate::{
    disk::DiskFile,
    error::JournalError,
    id::{EntityId, Position, ShardId},
};

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
    pub(crate) fn first_page_reaching(
        &self,
        hash: u64,
        access: Access,
    ) -> Result<Option<u64>, Missed> {
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

    /// The rows of a page: hashes, and offsets of `Entity` frames.
    pub(crate) fn page(&self, page: u64, access: Access) -> Result<Vec<(u64, u64)>, Missed> {
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
}
