//! Entries as they lie on disk: read back, checked, and brought into the shape in which Raft has
//! them.

use bytes::{Bytes, BytesMut};

use super::{
    entries::Spot,
    entry::{Body, Entry, LogId, Ops},
    frame::{Header, Kind, verify},
    live::Live,
    marks::{Begin, decode_begin},
};
use crate::{
    error::JournalError,
    id::{Position, ShardId},
};

/// Entries that lie closer together than this are read at once.
const GAP_BYTES: u64 = 4096;
/// Most bytes of one read, beside those of its last entry.
const READ_BYTES: u64 = 1 << 20;

/// An entry, and where it lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored {
    pub shard: ShardId,
    pub id: LogId,
    pub spot: Spot,
}

/// Reads entries of a segment, in the order of their places, and hands each on. Waits for the disk.
pub(crate) fn read_entries(
    live: &Live,
    entries: &[Stored],
    mut each: impl FnMut(Entry, &Stored) -> Result<(), JournalError>,
) -> Result<(), JournalError> {
    let mut rest = entries;
    while let Some(Stored { spot: first, .. }) = rest.first() {
        let mut end = first.offset + u64::from(first.len);
        let mut count = 1;
        while let Some(Stored { spot: next, .. }) = rest.get(count)
            && next.offset >= end
            && next.offset - end <= GAP_BYTES
            && end - first.offset < READ_BYTES
        {
            end = next.offset + u64::from(next.len);
            count += 1;
        }
        let mut buffer = vec![0; (end - first.offset) as usize];
        live.file
            .read_exact_at(first.offset, &mut buffer)
            .map_err(|e| JournalError::read(&live.path, &e))?;
        let buffer = Bytes::from(buffer);
        for stored in &rest[..count] {
            let from = (stored.spot.offset - first.offset) as usize;
            let bytes = buffer.slice(from..from + stored.spot.len as usize);
            each(decode(live, stored, &bytes)?, stored)?;
        }
        rest = &rest[count..];
    }
    Ok(())
}

/// The entry that these bytes of the segment hold.
fn decode(live: &Live, stored: &Stored, bytes: &Bytes) -> Result<Entry, JournalError> {
    let Stored { shard, id, spot: Spot { offset, .. } } = *stored;
    let corrupt = |at: u64, what: &str| JournalError::corrupt(&live.path, at, what);
    let (header, payload) = verify(bytes, live.salt, offset)
        .ok_or_else(|| corrupt(offset, "a frame does not verify"))?;
    let ours = header.kind == Kind::Entry
        && header.shard == shard
        && (header.term.0, header.position.index()) == (id.term, id.index);
    let begin = ours.then(|| decode_begin(payload)).flatten();
    let body = match begin.ok_or_else(|| corrupt(offset, "this is not the entry"))? {
        Begin::Blank => Body::Blank,
        Begin::Membership(members) => Body::Membership(members),
        Begin::Ops { .. } => {
            let start = header.frame_bytes();
            let mut ops = BytesMut::with_capacity(bytes.len() - start);
            let mut at = start;
            while at < bytes.len() {
                let place = offset + at as u64;
                let (header, payload) = verify(&bytes[at..], live.salt, place)
                    .ok_or_else(|| corrupt(place, "a frame does not verify"))?;
                let position = Position::new(0, header.position.offset());
                at += header.frame_bytes();
                ops.extend_from_slice(&Header { flush: 0, position, ..header }.unstamped());
                ops.extend_from_slice(payload);
            }
            let ops = Ops::parse(shard, ops.freeze());
            Body::Ops(ops.ok_or_else(|| corrupt(offset, "the entry's writes have no meaning"))?)
        }
    };
    Ok(Entry { id, body })
}
