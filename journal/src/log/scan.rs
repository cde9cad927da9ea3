//! Reading a segment from its first frame, when the log is opened: lists what it says of the groups,
//! finds the end, and tells a torn tail from damage.
//!
//! The log is written by one writer, group commit by group commit: write, fsync, the next. So after
//! a crash only the last group commit can be incomplete, and any part of it may be missing. A frame
//! knows where its group commit began (`flush`). Let `end` be the place where the chain of valid
//! frames stops, and look for valid frames after it:
//!
//! - one whose `flush` is greater than `end`: what stands at `end` was durable before that frame
//!   was written, and does not verify now. That is damage; cutting it off would lose committed
//!   records. The log refuses to open.
//! - none, or only frames of the group commit that covers `end`: a torn tail, never acknowledged.
//!   It is overwritten with zeros, for a later frame must not chain to a leftover. Should the zeros
//!   be lost, too, the chain tells: a frame belongs to the group commit of the frame before it, or
//!   begins one. The writer begins with a mark, so nothing new begins where the torn one did.
//!
//! An entry of which some writes are missing at the end was never acknowledged either, and goes with
//! the torn tail.
//!
//! Damage in the very last group commit before a crash looks like a torn tail, for nothing after it
//! tells that it was durable; on a log that was closed in good order a mark tells it.

use std::{io, path::Path};

use bytes::Bytes;

use super::{
    entry::LogId,
    frame::{HEADER_BYTES, Header, Kind, claimed, verify},
    layout::FILE_HEADER_BYTES,
    marks::{Applied, Begin, Carried, decode_applied, decode_begin, decode_carried},
};
use crate::{disk::DiskFile, error::JournalError, id::ShardId};

/// How much of a file is read at a time.
const WINDOW_BYTES: usize = 1 << 20;

/// Reads all frames from the first up to `end`, and says how many there are.
pub(crate) fn verify_frames(
    path: &Path,
    file: &dyn DiskFile,
    salt: u64,
    end: u64,
) -> Result<u64, JournalError> {
    let len = file.len().map_err(|e| JournalError::read(path, &e))?;
    let mut window = Window { path, file, len, start: 0, bytes: Vec::new() };
    let (mut at, mut frames) = (FILE_HEADER_BYTES, 0);
    while at < end {
        let (header, _) = verify(window.frame_at(at)?, salt, at)
            .ok_or_else(|| JournalError::corrupt(path, at, "a frame does not verify"))?;
        at += header.frame_bytes() as u64;
        frames += 1;
    }
    Ok(frames)
}

/// What a segment holds, beside the writes of entries.
pub(crate) struct Scanned {
    /// In the order in which they were written.
    pub items: Vec<(ShardId, Item)>,
    /// Where the next frame goes.
    pub end: u64,
    /// Whether the last frame is an [`Kind::End`]: the segment is full.
    pub complete: bool,
    /// Where the last group commit begins.
    pub last_commit: u64,
    /// Bytes that were zeroed because they are a torn tail.
    pub torn: u64,
}

impl Scanned {
    /// Whether there is no frame.
    pub(crate) fn is_empty(&self) -> bool {
        self.end == FILE_HEADER_BYTES
    }
}

/// Something that a segment says of a group.
pub(crate) enum Item {
    Entry { id: LogId, offset: u64, len: u32 },
    Vote(Bytes),
    Applied(Applied),
    Group(Carried),
}

impl Item {
    /// Where it stands, if that is known.
    pub(crate) fn offset(&self) -> u64 {
        match self {
            Item::Entry { offset, .. } => *offset,
            Item::Vote(_) | Item::Applied(_) | Item::Group(_) => 0,
        }
    }
}

/// What may be at the end of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Nothing was written after this segment: its last group commit may be torn.
    MayBeTorn,
    /// There are frames in a later segment: this one must be complete.
    MustBeComplete,
}

/// Reads all frames of a segment.
pub(crate) fn scan(
    path: &Path,
    file: &dyn DiskFile,
    salt: u64,
    tail: Tail,
) -> Result<Scanned, JournalError> {
    let len = file.len().map_err(|e| JournalError::read(path, &e))?;
    let mut window = Window { path, file, len, start: 0, bytes: Vec::new() };
    let mut chain = Chain(FILE_HEADER_BYTES);
    let mut scanned = Scanned {
        items: Vec::new(),
        end: FILE_HEADER_BYTES,
        last_commit: FILE_HEADER_BYTES,
        complete: false,
        torn: 0,
    };
    let mut open = None;
    while !scanned.complete {
        let bytes = window.frame_at(scanned.end)?;
        let Some((header, payload)) = verify(bytes, salt, scanned.end) else { break };
        if !chain.takes(&header, scanned.end) {
            break;
        }
        note(&mut scanned, &mut open, &header, payload)
            .ok_or_else(|| JournalError::corrupt(path, scanned.end, "a frame has no meaning"))?;
        scanned.end += header.frame_bytes() as u64;
        scanned.last_commit = u64::from(header.flush);
        scanned.complete = header.kind == Kind::End;
    }
    if scanned.complete {
        return Ok(scanned);
    }
    if tail == Tail::MustBeComplete {
        let what = "the segment ends here, and there are records in later segments";
        return Err(JournalError::corrupt(path, scanned.end, what));
    }
    if let Some(found) = later_commit(&mut window, salt, scanned.end)? {
        let what = format!(
            "a frame does not verify, and the one at byte {found} says that it was durable"
        );
        return Err(JournalError::corrupt(path, scanned.end, what));
    }
    if let Some(entry) = open {
        // The writes of the last entry are not all there: it never was.
        scanned.end = entry.offset;
        scanned.last_commit = scanned.last_commit.min(entry.offset);
    }
    scanned.torn = cut(&mut window, scanned.end)?;
    Ok(scanned)
}

/// An entry whose frames are not all read.
struct OpenEntry {
    shard: ShardId,
    id: LogId,
    offset: u64,
    /// How many writes are to come, and how many bytes of them.
    count: u32,
    bytes: u64,
}

/// Where the group commit of the frame before began.
struct Chain(u64);

impl Chain {
    /// Whether the frame at `offset` may follow: it belongs to the group commit of the frame before
    /// it, or begins one. Nothing belongs to that of a mark.
    fn takes(&mut self, header: &Header, offset: u64) -> bool {
        let flush = u64::from(header.flush);
        let takes = flush == self.0 || flush == offset;
        self.0 = if header.kind == Kind::Mark { u64::MAX } else { flush };
        #[cfg(feature = "planted")]
        let takes = takes || crate::planted::is(crate::planted::Planted::LeftoverTail);
        takes
    }
}

/// Notes what a frame says. `None` where it does not belong there.
fn note(
    scanned: &mut Scanned,
    open: &mut Option<OpenEntry>,
    header: &Header,
    payload: &[u8],
) -> Option<()> {
    let (shard, offset) = (header.shard, scanned.end);
    let item = match (header.kind, &mut *open) {
        (Kind::Batch | Kind::Delete | Kind::Claim | Kind::Together, Some(_)) => {
            return write_of(scanned, open, header).then_some(());
        }
        (_, Some(_)) => return None,
        (Kind::Mark | Kind::End, None) => return Some(()),
        (Kind::Entry, None) => {
            let id = LogId { term: header.term.0, index: header.position.index() };
            if let Begin::Ops { count, bytes } = decode_begin(payload)? {
                let bytes = u64::from(bytes);
                *open = Some(OpenEntry { shard, id, offset, count, bytes });
                return Some(());
            }
            Item::Entry { id, offset, len: header.frame_bytes() as u32 }
        }
        (Kind::Vote, None) => Item::Vote(Bytes::copy_from_slice(payload)),
        (Kind::Applied, None) => Item::Applied(decode_applied(payload)?),
        (Kind::Group, None) => Item::Group(decode_carried(payload)?),
        _ => return None,
    };
    scanned.items.push((shard, item));
    Some(())
}

/// Notes a write of the entry that is being read. False where it does not belong to it.
fn write_of(scanned: &mut Scanned, open: &mut Option<OpenEntry>, header: &Header) -> bool {
    let Some(entry) = open else { return false };
    let bytes = header.frame_bytes() as u64;
    let fits = header.shard == entry.shard
        && header.position.index() == entry.id.index
        && entry.bytes >= bytes;
    if !fits {
        return false;
    }
    entry.count -= 1;
    entry.bytes -= bytes;
    if entry.count == 0 {
        let (id, offset) = (entry.id, entry.offset);
        let len = scanned.end + bytes - offset;
        let item = (entry.shard, Item::Entry { id, offset, len: len as u32 });
        let whole = entry.bytes == 0;
        *open = None;
        scanned.items.push(item);
        return whole;
    }
    true
}

/// The first valid frame after `end` that was written when everything up to `end` was durable.
fn later_commit(window: &mut Window<'_>, salt: u64, end: u64) -> Result<Option<u64>, JournalError> {
    #[cfg(feature = "planted")]
    if crate::planted::is(crate::planted::Planted::CutAtDamage) {
        return Ok(None);
    }
    let mut at = end + 1;
    while let Some(next) = window.next_nonzero(at)? {
        // A header's first byte may be zero: step back so far that no frame is missed.
        let from = next.saturating_sub(HEADER_BYTES as u64).max(at);
        for offset in from..=next {
            let frame = claimed(window.at_least(offset, HEADER_BYTES)?);
            if frame.is_some_and(|header| u64::from(header.flush) > end)
                && verify(window.frame_at(offset)?, salt, offset).is_some()
            {
                return Ok(Some(offset));
            }
        }
        at = next + 1;
    }
    Ok(None)
}

/// Zeroes what is left after `end`, and says how many bytes that were.
fn cut(window: &mut Window<'_>, end: u64) -> Result<u64, JournalError> {
    #[cfg(feature = "planted")]
    if crate::planted::is(crate::planted::Planted::LeftoverTail) {
        return Ok(0);
    }
    let mut last = None;
    let mut at = end;
    while let Some(next) = window.next_nonzero(at)? {
        last = Some(next);
        at = next + 1;
    }
    let Some(last) = last else { return Ok(0) };
    let torn = last + 1 - end;
    let zeros = vec![0; WINDOW_BYTES];
    let mut offset = end;
    while offset <= last {
        let n = zeros.len().min((last + 1 - offset) as usize);
        window
            .file
            .write_at(offset, &zeros[..n])
            .map_err(|e| JournalError::io("cutting the torn tail of", window.path, &e))?;
        offset += n as u64;
    }
    Ok(torn)
}

/// A moving view of a file.
struct Window<'a> {
    path: &'a Path,
    file: &'a dyn DiskFile,
    len: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// The bytes from `offset` on: all of the frame that is claimed to be there, or less at the
    /// end of the file.
    fn frame_at(&mut self, offset: u64) -> Result<&[u8], JournalError> {
        let bytes = match claimed(self.at_least(offset, HEADER_BYTES)?) {
            Some(header) => header.frame_bytes(),
            None => return Ok(&[]),
        };
        if bytes as u64 > self.len.saturating_sub(offset) {
            return Ok(&[]);
        }
        self.at_least(offset, bytes)
    }

    fn at_least(&mut self, offset: u64, wanted: usize) -> Result<&[u8], JournalError> {
        let have = self.start + self.bytes.len() as u64;
        if offset < self.start || (offset + wanted as u64 > have && have < self.len) {
            let n = WINDOW_BYTES.max(wanted).min(self.len.saturating_sub(offset) as usize);
            self.bytes.resize(n, 0);
            self.file
                .read_exact_at(offset, &mut self.bytes)
                .map_err(|e: io::Error| JournalError::read(self.path, &e))?;
            self.start = offset;
        }
        let from = (offset - self.start) as usize;
        Ok(self.bytes.get(from..).unwrap_or(&[]))
    }

    /// The first byte at or after `offset` that is not zero.
    fn next_nonzero(&mut self, mut offset: u64) -> Result<Option<u64>, JournalError> {
        while offset < self.len {
            let bytes = self.at_least(offset, 1)?;
            let zeros = leading_zeros(bytes);
            let all = bytes.len();
            offset += zeros as u64;
            if zeros < all {
                return Ok(Some(offset));
            }
        }
        Ok(None)
    }
}

/// How many bytes at the start are zero; sixteen at a time.
fn leading_zeros(bytes: &[u8]) -> usize {
    let whole = bytes.chunks_exact(16).take_while(|chunk| **chunk == [0; 16]).count() * 16;
    whole + bytes[whole..].iter().take_while(|byte| **byte == 0).count()
}
