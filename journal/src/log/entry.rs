//! Entries of a group's log, as Raft sees them and as they lie in the node's log.
//!
//! An entry is an `Entry` frame, which says its term and how many frames follow, and then those
//! frames: batches, deletions, claims, with their positions in the entry. A frame that binds batches
//! together has a position of its own and stands right before them. The bytes of the frames
//! are made once, where the entry is proposed; the network carries them as they are, and the
//! writer only stamps them with their place.

use bytes::{Bytes, BytesMut};

use super::frame::{HEADER_BYTES, Header, Kind};
use crate::id::{Position, ShardId, Term};

/// Raft's name of an entry. Indexes count from 0; the first entry of a group is its membership.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LogId {
    /// The Raft term under which it was proposed.
    pub term: u64,
    pub index: u64,
}

/// What an entry holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// Nothing: a new leader's first entry.
    Blank,
    /// The group's members from here on, encoded by the Raft layer.
    Membership(Bytes),
    /// Writes.
    Ops(Ops),
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub id: LogId,
    pub body: Body,
}

impl Entry {
    /// About how many bytes it takes, in memory and on disk.
    pub(crate) fn bytes(&self) -> usize {
        HEADER_BYTES
            + 16
            + match &self.body {
                Body::Blank => 0,
                Body::Membership(bytes) => bytes.len(),
                Body::Ops(ops) => ops.bytes.len(),
            }
    }
}

/// The writes of an entry: frames whose headers hold everything but checksum, `flush` and the log
/// index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ops {
    bytes: Bytes,
    /// How many writes.
    count: u32,
    /// How many positions they take.
    records: u32,
    /// Tells the proposer's own entry from others, on its own node; 0 where nobody asks.
    tag: u64,
}

/// One write of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Op {
    /// Kind, writer epoch (`term`) and place in the entry (the offset of `position`).
    pub header: Header,
    pub payload: Bytes,
}

impl Ops {
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    pub(crate) fn records(&self) -> u32 {
        self.records
    }

    /// What [`tagged`](Self::tagged) set; never sent nor stored.
    pub(crate) fn tag(&self) -> u64 {
        self.tag
    }

    pub(crate) fn tagged(self, tag: u64) -> Self {
        Self { tag, ..self }
    }

    /// The frames as they are sent and stored, unstamped.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Checks bytes that came from elsewhere. `None` where they are no frames of writes.
    pub(crate) fn parse(shard: ShardId, bytes: Bytes) -> Option<Self> {
        let (mut at, mut count, mut records) = (0, 0, 0u32);
        // Batches that are still to come of those that go together.
        let mut bound = 0;
        while at < bytes.len() {
            let header = Header::parse_unstamped(&bytes[at..])?;
            let fits = header.shard == shard
                && matches!(header.kind, Kind::Batch | Kind::Delete | Kind::Claim | Kind::Together)
                && (bound == 0 || header.kind == Kind::Batch)
                && header.position.index() == 0
                && u32::from(header.position.offset()) == records
                && header.frame_bytes() <= bytes.len() - at;
            if !fits {
                return None;
            }
            let payload = &bytes[at + HEADER_BYTES..at + header.frame_bytes()];
            bound = match header.kind {
                Kind::Together => super::codec::decode_together(payload)?,
                _ => bound.saturating_sub(1),
            };
            records += match header.kind {
                Kind::Batch => super::codec::batch_count(payload)?,
                _ => 1,
            };
            count += 1;
            at += header.frame_bytes();
        }
        (count > 0 && bound == 0 && records <= u32::from(u16::MAX)).then_some(Self {
            bytes,
            count,
            records,
            tag: 0,
        })
    }

    /// The writes, in order. The payloads share the entry's buffer.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Op> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let header = Header::parse_unstamped(self.bytes.get(at..)?)?;
            let end = at + header.frame_bytes();
            let payload = self.bytes.slice(at + HEADER_BYTES..end);
            at = end;
            Some(Op { header, payload })
        })
    }
}

/// Puts writes together into one entry.
#[derive(Debug)]
pub(crate) struct OpsBuilder {
    shard: ShardId,
    bytes: BytesMut,
    count: u32,
    records: u32,
}

impl OpsBuilder {
    pub(crate) fn new(shard: ShardId) -> Self {
        Self { shard, bytes: BytesMut::new(), count: 0, records: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn records(&self) -> u32 {
        self.records
    }

    /// Adds a write: a frame with room for the header in front, as the codec makes it.
    pub(crate) fn push(&mut self, kind: Kind, epoch: Term, records: u32, frame: &[u8]) {
        let header = Header {
            len: (frame.len() - HEADER_BYTES) as u32,
            flush: 0,
            kind,
            shard: self.shard,
            position: Position::new(0, self.records as u16),
            term: epoch,
        };
        self.bytes.extend_from_slice(&header.unstamped());
        self.bytes.extend_from_slice(&frame[HEADER_BYTES..]);
        self.count += 1;
        self.records += records;
    }

    /// What was put together; the builder is empty again.
    pub(crate) fn take(&mut self) -> Ops {
        let bytes = self.bytes.split().freeze();
        let (count, records) = (self.count, self.records);
        (self.count, self.records) = (0, 0);
        Ops { bytes, count, records, tag: 0 }
    }
}
