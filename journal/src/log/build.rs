//! Writing a sealed file, front to back in one pass.

use std::{collections::BTreeMap, io, ops::Deref};

use super::{
    footer::{
        Checkpoint, PAGE_ROWS, ROW_BYTES, ShardRow, Trailer, encode_entity, encode_order,
        encode_order_top, encode_shards, index_header,
    },
    frame::{HEADER_BYTES, Header, Kind, stamp},
    index::{EntityIndex, Place, Run, SegmentIndex},
    layout::FileHeader,
};
use crate::{
    disk::DiskFile,
    id::{EntityId, Position, Seq, ShardId, Term},
};

/// How much is gathered before it is written.
const BUFFER_BYTES: usize = 1 << 20;
/// How much is written between two fsyncs: the group commits next door then wait for little.
const SYNC_BYTES: u64 = 8 << 20;
/// A run is read at once, so it has a limit.
const RUN_BYTES: u32 = 64 << 10;
/// Batches in a part of a shard's order.
const ORDER_PLACES: usize = 512;

/// What a shard comes to in the file, beside its batches.
#[derive(Debug, Clone, Default)]
pub(crate) struct ShardMark {
    pub last: Position,
    pub epoch: Term,
    pub term: Term,
    pub checkpoint: Option<Checkpoint>,
}

/// A sealed file under construction.
pub(crate) struct Builder<F> {
    file: F,
    salt: u64,
    buffer: Vec<u8>,
    /// Where the buffer's first byte goes.
    flushed: u64,
    synced: u64,
    current: EntityIndex,
    rows: Vec<(u64, u64)>,
    deletions: u64,
    /// The shards' batches; [`SegmentIndex`] is used for its shards alone.
    order: SegmentIndex,
}

impl<F: Deref<Target: DiskFile>> Builder<F> {
    pub(crate) fn new(file: F, header: FileHeader) -> Self {
        Self {
            file,
            salt: header.salt,
            buffer: header.to_bytes().to_vec(),
            flushed: 0,
            synced: 0,
            current: EntityIndex::default(),
            rows: Vec::new(),
            deletions: 0,
            order: SegmentIndex::default(),
        }
    }

    fn at(&self) -> u64 {
        self.flushed + self.buffer.len() as u64
    }

    /// Adds a batch of the current entity: `frame` with its old header and `seqs` its first and
    /// last sequence number.
    pub(crate) fn batch(
        &mut self,
        header: Header,
        frame: &[u8],
        seqs: (u64, u64),
    ) -> io::Result<()> {
        let offset = self.at();
        let place = Place {
            position: header.position,
            records: (seqs.1 - seqs.0 + 1) as u32,
            offset,
            len: frame.len() as u32,
        };
        self.push(Header { flush: 0, ..header }, frame)?;
        self.order.events += u64::from(place.records);
        self.order.shard(header.shard, header.term, place.last()).places.push(place);
        match self.current.runs.last_mut() {
            Some(run) if run.len + place.len <= RUN_BYTES => {
                run.last_seq = seqs.1;
                run.len += place.len;
            }
            _ => self.current.runs.push(Run {
                first_seq: seqs.0,
                last_seq: seqs.1,
                offset,
                len: place.len,
            }),
        }
        Ok(())
    }

    /// Ends the current entity: its batches were added before this. Entities come in the order of
    /// their hashes and ids.
    pub(crate) fn entity(
        &mut self,
        entity: &EntityId,
        last_seq: Seq,
        deleted_to: Option<Seq>,
    ) -> io::Result<()> {
        let mut index = std::mem::take(&mut self.current);
        (index.last_seq, index.deleted_to) = (last_seq, deleted_to);
        self.rows.push((entity.hash64(), self.at()));
        self.deletions += u64::from(deleted_to.is_some());
        let frame = encode_entity(entity, &index);
        self.push(index_header(Kind::Entity, &frame), &frame)
    }

    /// Writes the index and the rest of the buffer. The caller syncs.
    pub(crate) fn finish(mut self, marks: &BTreeMap<ShardId, ShardMark>) -> io::Result<()> {
        let mut trailer = Trailer {
            entities_end: self.at(),
            entities: self.rows.len() as u64,
            events: self.order.events,
            deletions: self.deletions,
            ..Trailer::default()
        };
        let end = vec![0; HEADER_BYTES];
        self.push(index_header(Kind::End, &end), &end)?;
        let shards = self.shards(marks)?;
        trailer.directory = self.at();
        let rows = std::mem::take(&mut self.rows);
        for page in rows.chunks(PAGE_ROWS) {
            trailer.pages += 1;
            self.page(page)?;
        }
        trailer.shards = self.at();
        let frame = encode_shards(&shards);
        self.push(index_header(Kind::Shards, &frame), &frame)?;
        let frame = trailer.encode();
        self.push(index_header(Kind::Trailer, &frame), &frame)?;
        self.flush()
    }

    fn shards(&mut self, marks: &BTreeMap<ShardId, ShardMark>) -> io::Result<Vec<ShardRow>> {
        for (shard, mark) in marks {
            self.order.shard(*shard, mark.epoch, mark.last);
        }
        let mut rows = Vec::new();
        for (shard, mut index) in std::mem::take(&mut self.order.shards) {
            index.places.sort_unstable_by_key(|place| place.position);
            rows.push(ShardRow {
                shard,
                first: index.places.first().map_or(Position::ZERO, |place| place.position),
                last_batch: index.places.last().map_or(Position::ZERO, Place::last),
                last: index.last,
                epoch: index.epoch,
                top: self.order(&index.places)?,
                term: marks.get(&shard).map_or(index.term, |mark| mark.term),
                events: index.places.iter().map(|place| u64::from(place.records)).sum(),
                checkpoint: marks.get(&shard).and_then(|mark| mark.checkpoint.clone()),
            });
        }
        Ok(rows)
    }

    /// Writes a shard's order, and says where its top is: 0 where there is none.
    fn order(&mut self, places: &[Place]) -> io::Result<u64> {
        let mut parts = Vec::new();
        for part in places.chunks(ORDER_PLACES) {
            parts.push((part[part.len() - 1].last(), self.at()));
            let frame = encode_order(part);
            self.push(index_header(Kind::Order, &frame), &frame)?;
        }
        if parts.is_empty() {
            return Ok(0);
        }
        let top = self.at();
        let frame = encode_order_top(&parts);
        self.push(index_header(Kind::OrderTop, &frame), &frame)?;
        Ok(top)
    }

    fn page(&mut self, rows: &[(u64, u64)]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(HEADER_BYTES + PAGE_ROWS * ROW_BYTES);
        frame.resize(HEADER_BYTES, 0);
        for (hash, offset) in rows {
            frame.extend_from_slice(&hash.to_le_bytes());
            frame.extend_from_slice(&offset.to_le_bytes());
        }
        frame.resize(HEADER_BYTES + PAGE_ROWS * ROW_BYTES, 0);
        self.push(index_header(Kind::Directory, &frame), &frame)
    }

    /// Stamps a frame for its new place.
    fn push(&mut self, header: Header, frame: &[u8]) -> io::Result<()> {
        let (offset, start) = (self.at(), self.buffer.len());
        self.buffer.extend_from_slice(frame);
        stamp(&mut self.buffer[start..], self.salt, offset, header);
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_at(self.flushed, &self.buffer)?;
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        if self.flushed - self.synced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.synced = self.flushed;
        }
        Ok(())
    }
}
