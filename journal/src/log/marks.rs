//! What a group's replica writes beside the writes themselves: how an entry begins, up to where it
//! is applied, what is carried over into a new segment.
//!
//! ```text
//! Entry   = 0                                blank
//!         | 1 members                        to the end of the frame
//!         | 2 writes bytes                   so many frames of writes follow, of so many bytes
//! Vote    = the Raft layer's bytes
//! Applied = upto epoch amended membership
//! Group   = upto epoch amended membership has_vote [vote]
//! upto    = has [term index]
//! amended = count { position_delta deleted_to_plus_one }*
//! membership = has [term index members]
//! ```
//! Numbers are LEB128 varints; byte strings are their length and their bytes. An entry's index is
//! the frame's position, its Raft term the frame's term.

use bytes::Bytes;

use super::{
    codec::{Reader, put_bytes, put_varint},
    entry::{Body, Entry, LogId},
    frame::HEADER_BYTES,
};
use crate::id::{Position, Seq, Term};

/// What an entry's first frame says of the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Begin {
    Blank,
    Membership(Bytes),
    /// How many frames of writes follow, and how many bytes they have together.
    Ops {
        count: u32,
        bytes: u32,
    },
}

/// A write of an applied entry that did not take effect as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Amended {
    pub position: Position,
    /// A deletion reached only to here; `None` for a write that has no effect.
    pub deleted_to: Option<Seq>,
}

/// How far a group is applied, and what came of it since the mark before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    pub upto: Option<LogId>,
    pub epoch: Term,
    /// In the order of positions.
    pub amended: Vec<Amended>,
    /// Where it changed, or is carried over.
    pub membership: Option<(LogId, Bytes)>,
}

/// What a new segment needs to know of a group so that the older ones can go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    pub applied: Applied,
    pub vote: Option<Bytes>,
}

fn put_id(out: &mut Vec<u8>, id: LogId) {
    put_varint(out, id.term);
    put_varint(out, id.index);
}

fn read_id(reader: &mut Reader<'_>) -> Option<LogId> {
    Some(LogId { term: reader.varint()?, index: reader.varint()? })
}

fn read_optional<T>(
    reader: &mut Reader<'_>,
    read: impl FnOnce(&mut Reader<'_>) -> Option<T>,
) -> Option<Option<T>> {
    match reader.byte()? {
        0 => Some(None),
        1 => read(reader).map(Some),
        _ => None,
    }
}

fn read_bytes(reader: &mut Reader<'_>) -> Option<Bytes> {
    reader.bytes().map(Bytes::copy_from_slice)
}

/// The first frame of an entry, with room for the header in front.
pub(crate) fn encode_begin(entry: &Entry) -> Vec<u8> {
    let mut out = vec![0; HEADER_BYTES];
    match &entry.body {
        Body::Blank => out.push(0),
        Body::Membership(members) => {
            out.push(1);
            out.extend_from_slice(members);
        }
        Body::Ops(ops) => {
            out.push(2);
            put_varint(&mut out, u64::from(ops.count()));
            put_varint(&mut out, ops.bytes().len() as u64);
        }
    }
    out
}

/// What the payload of an `Entry` frame says.
pub(crate) fn decode_begin(payload: &[u8]) -> Option<Begin> {
    let (kind, rest) = payload.split_first()?;
    let mut reader = Reader::new(rest);
    match kind {
        0 => rest.is_empty().then_some(Begin::Blank),
        1 => Some(Begin::Membership(Bytes::copy_from_slice(rest))),
        2 => {
            let count = u32::try_from(reader.varint()?).ok()?;
            let bytes = u32::try_from(reader.varint()?).ok()?;
            (reader.remaining() == 0 && count > 0).then_some(Begin::Ops { count, bytes })
        }
        _ => None,
    }
}

/// An `Applied` frame, with room for the header in front.
pub(crate) fn encode_applied(applied: &Applied) -> Vec<u8> {
    let mut out = vec![0; HEADER_BYTES];
    put_applied(&mut out, applied);
    out
}

/// A `Group` frame, with room for the header in front.
pub(crate) fn encode_carried(carried: &Carried) -> Vec<u8> {
    let mut out = vec![0; HEADER_BYTES];
    put_applied(&mut out, &carried.applied);
    out.push(u8::from(carried.vote.is_some()));
    if let Some(vote) = &carried.vote {
        put_bytes(&mut out, vote);
    }
    out
}

/// A `Vote` frame, with room for the header in front.
pub(crate) fn encode_vote(vote: &[u8]) -> Vec<u8> {
    let mut out = vec![0; HEADER_BYTES];
    out.extend_from_slice(vote);
    out
}

fn put_applied(out: &mut Vec<u8>, applied: &Applied) {
    out.push(u8::from(applied.upto.is_some()));
    if let Some(id) = applied.upto {
        put_id(out, id);
    }
    put_varint(out, applied.epoch.0);
    put_varint(out, applied.amended.len() as u64);
    let mut before = 0;
    for amended in &applied.amended {
        put_varint(out, amended.position.to_u64() - before);
        put_varint(out, amended.deleted_to.map_or(0, |to| to.0.saturating_add(1)));
        before = amended.position.to_u64();
    }
    out.push(u8::from(applied.membership.is_some()));
    if let Some((id, members)) = &applied.membership {
        put_id(out, *id);
        put_bytes(out, members);
    }
}

fn read_applied(reader: &mut Reader<'_>) -> Option<Applied> {
    let upto = read_optional(reader, read_id)?;
    let epoch = Term(reader.varint()?);
    let count = reader.varint()?;
    let mut amended = Vec::with_capacity((count as usize).min(reader.remaining()));
    let mut position = 0u64;
    for _ in 0..count {
        position = position.checked_add(reader.varint()?)?;
        let deleted_to = reader.varint()?.checked_sub(1).map(Seq);
        amended.push(Amended { position: Position::from_u64(position), deleted_to });
    }
    let membership = read_optional(reader, |r| Some((read_id(r)?, read_bytes(r)?)))?;
    Some(Applied { upto, epoch, amended, membership })
}

/// The payload of an `Applied` frame.
pub(crate) fn decode_applied(payload: &[u8]) -> Option<Applied> {
    let mut reader = Reader::new(payload);
    let applied = read_applied(&mut reader)?;
    (reader.remaining() == 0).then_some(applied)
}

/// The payload of a `Group` frame.
pub(crate) fn decode_carried(payload: &[u8]) -> Option<Carried> {
    let mut reader = Reader::new(payload);
    let applied = read_applied(&mut reader)?;
    let vote = read_optional(&mut reader, read_bytes)?;
    (reader.remaining() == 0).then_some(Carried { applied, vote })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Carried {
        Carried {
            applied: Applied {
                upto: Some(LogId { term: 3, index: 300 }),
                epoch: Term(4),
                amended: vec![
                    Amended { position: Position::new(7, 1), deleted_to: None },
                    Amended { position: Position::new(9, 0), deleted_to: Some(Seq(12)) },
                ],
                membership: Some((LogId { term: 1, index: 0 }, Bytes::from_static(b"abc"))),
            },
            vote: Some(Bytes::from_static(b"vote")),
        }
    }

    /// These bytes are on users' disks. Never change the expectation.
    #[test]
    fn what_is_carried_over_is_golden() {
        let frame = encode_carried(&sample());
        let hex: String = frame[HEADER_BYTES..].iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "0103ac020402 81801c00 ffff070d 01010003616263 0104766f7465".replace(' ', "")
        );
        assert_eq!(decode_carried(&frame[HEADER_BYTES..]), Some(sample()));
        let frame = encode_applied(&sample().applied);
        assert_eq!(decode_applied(&frame[HEADER_BYTES..]), Some(sample().applied));
        let nothing = encode_carried(&Carried::default());
        assert_eq!(decode_carried(&nothing[HEADER_BYTES..]), Some(Carried::default()));
    }

    #[test]
    fn how_an_entry_begins_comes_back() {
        let id = LogId { term: 1, index: 2 };
        let begin = |body| {
            decode_begin(&encode_begin(&Entry { id, body })[HEADER_BYTES..]).expect("well-formed")
        };
        assert_eq!(begin(Body::Blank), Begin::Blank);
        let members = Bytes::from_static(b"members");
        assert_eq!(begin(Body::Membership(members.clone())), Begin::Membership(members));
        assert_eq!(decode_begin(&[2, 0, 0]), None, "no writes");
        assert_eq!(decode_begin(&[2, 1, 40]), Some(Begin::Ops { count: 1, bytes: 40 }));
        assert_eq!(decode_begin(&[]), None);
        assert_eq!(decode_begin(&[3]), None);
    }

    proptest! {
        #[test]
        fn malformed_payloads_are_refused_without_a_panic(
            cut in 0usize..60, at in 0usize..60, to in any::<u8>(),
        ) {
            let whole = encode_carried(&sample())[HEADER_BYTES..].to_vec();
            prop_assert!(decode_carried(&whole[..cut.min(whole.len() - 1)]).is_none());
            let mut changed = whole.clone();
            changed[at % whole.len()] = to;
            let _ = decode_carried(&changed);
        }
    }
}
