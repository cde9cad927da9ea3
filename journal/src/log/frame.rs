//! Frames: what a log file is made of.
//!
//! ```text
//!  0        4        8        12   13   14     16         24         32
//!  | crc    | len    | flush  |kind|  0 | group| position | term     | payload (len bytes)
//! ```
//! All numbers are little-endian. `crc` is the crc32c of the file's salt, the frame's offset in
//! the file, and everything after the crc: bytes that belong to another file or another place do
//! not verify. `flush` is the offset at which the group commit that wrote this frame began: all
//! bytes before it were durable before this frame was written. That is what tells damage from a
//! torn tail (see [`super::scan`]).

use crate::id::{Position, ShardId, Term};

/// Bytes of a frame before its payload.
pub(crate) const HEADER_BYTES: usize = 32;
/// Longest payload that is believed when a length is read from a file.
pub(crate) const MAX_PAYLOAD_BYTES: usize = 1 << 28;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A batch of one entity's events.
    Batch = 1,
    /// An entity's events up to a sequence number are deleted.
    Delete = 2,
    /// A new writer epoch was installed: the frame's term.
    Claim = 3,
    /// Everything before this frame is durable: written when the log is closed in good order.
    Mark = 4,
    /// The last frame of a segment, or of the events of a sealed file.
    End = 5,
    /// Sealed files: what the file knows of the entity whose frames stand before it.
    Entity = 6,
    /// Sealed files: a part of a shard's commit order.
    Order = 7,
    /// Sealed files: where the parts of a shard's commit order are.
    OrderTop = 8,
    /// Sealed files: a page of the directory of entities.
    Directory = 9,
    /// Sealed files: what the file knows of the shards.
    Shards = 10,
    /// Sealed files: where everything is; the last bytes of the file.
    Trailer = 11,
    /// Begins an entry of a group's log: its index, and its Raft term as the frame's term.
    Entry = 12,
    /// A group's vote: whom the replica promised what.
    Vote = 13,
    /// Up to where a group's entries are applied, and which writes of them were refused.
    Applied = 14,
    /// What is carried over from older segments: a group's membership, vote, last entry.
    Group = 15,
    /// The batches that follow in its entry take effect together, all of them or none.
    Together = 16,
}

impl Kind {
    fn from_u8(kind: u8) -> Option<Kind> {
        use Kind::*;
        const ALL: [Kind; 16] = [
            Batch, Delete, Claim, Mark, End, Entity, Order, OrderTop, Directory, Shards, Trailer,
            Entry, Vote, Applied, Group, Together,
        ];
        ALL.get(usize::from(kind).wrapping_sub(1)).copied()
    }
}

/// A frame's header without its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub len: u32,
    pub flush: u32,
    pub kind: Kind,
    pub shard: ShardId,
    pub position: Position,
    pub term: Term,
}

impl Header {
    /// Header and payload together, in bytes.
    pub(crate) fn frame_bytes(&self) -> usize {
        HEADER_BYTES + self.len as usize
    }

    /// The header without checksum and place.
    pub(crate) fn unstamped(self) -> [u8; HEADER_BYTES] {
        self.to_bytes()
    }

    /// The header of a frame that was never stamped, where it can be one at all.
    pub(crate) fn parse_unstamped(bytes: &[u8]) -> Option<Header> {
        Header::parse(bytes)
    }

    fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[4..8].copy_from_slice(&self.len.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.flush.to_le_bytes());
        bytes[12] = self.kind as u8;
        bytes[14..16].copy_from_slice(&self.shard.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.position.to_u64().to_le_bytes());
        bytes[24..32].copy_from_slice(&self.term.0.to_le_bytes());
        bytes
    }

    /// The header at the start of `bytes`, where it can be one at all. Says nothing about the
    /// checksum.
    fn parse(bytes: &[u8]) -> Option<Header> {
        let bytes: &[u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES)?.try_into().ok()?;
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | (u64::from(u32_at(at + 4)) << 32);
        let header = Header {
            len: u32_at(4),
            flush: u32_at(8),
            kind: Kind::from_u8(bytes[12])?,
            shard: ShardId(u16::from_le_bytes([bytes[14], bytes[15]])),
            position: Position::from_u64(u64_at(16)),
            term: Term(u64_at(24)),
        };
        (bytes[13] == 0 && header.len as usize <= MAX_PAYLOAD_BYTES).then_some(header)
    }
}

/// The crc32c of bytes that stand at `offset` in the file with this salt.
pub(crate) fn bound_crc(salt: u64, offset: u64, bytes: &[u8]) -> u32 {
    #[cfg(feature = "planted")]
    if crate::planted::is(crate::planted::Planted::UnboundFrames) {
        return crc32c::crc32c(bytes);
    }
    let mut place = [0; 16];
    place[..8].copy_from_slice(&salt.to_le_bytes());
    place[8..].copy_from_slice(&offset.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&place), bytes)
}

/// Fills in the header of a frame whose first [`HEADER_BYTES`] bytes were left free, for its place.
pub(crate) fn stamp(frame: &mut [u8], salt: u64, offset: u64, header: Header) {
    debug_assert_eq!(header.frame_bytes(), frame.len());
    frame[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
    let crc = bound_crc(salt, offset, &frame[4..]);
    frame[..4].copy_from_slice(&crc.to_le_bytes());
}

/// The frame at the start of `bytes`, which stand at `offset` in the file: `None` unless it is
/// whole and verifies.
pub(crate) fn verify(bytes: &[u8], salt: u64, offset: u64) -> Option<(Header, &[u8])> {
    let header = Header::parse(bytes)?;
    let frame = bytes.get(..header.frame_bytes())?;
    let crc = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]);
    (crc == bound_crc(salt, offset, &frame[4..])).then(|| (header, &frame[HEADER_BYTES..]))
}

/// What the frame at the start of `bytes` claims to be, whether it verifies or not.
pub(crate) fn claimed(bytes: &[u8]) -> Option<Header> {
    Header::parse(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Vec<u8>, Header) {
        let mut frame = vec![0; HEADER_BYTES];
        frame.extend_from_slice(b"payload");
        let header = Header {
            len: 7,
            flush: 64,
            kind: Kind::Batch,
            shard: ShardId(3),
            position: Position::new(9, 1),
            term: Term(2),
        };
        stamp(&mut frame, 77, 4096, header);
        (frame, header)
    }

    #[test]
    fn a_frame_verifies_at_its_own_place_only() {
        let (frame, header) = sample();
        assert_eq!(verify(&frame, 77, 4096), Some((header, &b"payload"[..])));
        assert_eq!(verify(&frame, 77, 4104), None, "another offset");
        assert_eq!(verify(&frame, 78, 4096), None, "another file");
        assert_eq!(verify(&frame[..frame.len() - 1], 77, 4096), None, "cut short");
    }

    #[test]
    fn no_single_bit_can_flip_unnoticed() {
        let (frame, _) = sample();
        for bit in 0..frame.len() * 8 {
            let mut frame = frame.clone();
            frame[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(verify(&frame, 77, 4096), None, "bit {bit}");
        }
    }

    /// These bytes are on users' disks. Never change the expectation.
    #[test]
    fn the_frame_is_golden() {
        let (frame, _) = sample();
        let hex: String = frame.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "d55dcdac07000000400000000100030001000900000000000200000000000000\
             7061796c6f6164"
        );
    }
}
