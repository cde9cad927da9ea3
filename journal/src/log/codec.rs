//! The payloads of frames: batches of events, deletions, and what binds batches together.
//!
//! ```text
//! batch   = entity first_seq count timestamp has_request [request_id reply] event*
//! event   = name schema_version extras [tag_count tag* entry_count (key value)*] payload
//! delete  = entity to
//! together = batch_count
//! entity  = kind key
//! ```
//! Numbers are LEB128 varints; a text or a byte string is its length and its bytes; `has_request`
//! and `extras` are one byte, 0 or 1. The writer epoch is the frame's term, positions follow from
//! the frame's.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::frame::{HEADER_BYTES, Header};
use crate::{
    id::{EntityId, Position, Seq, Timestamp, hash_of},
    record::{AppendBatch, EventRecord, NewEvent, Request, RequestId},
};

/// Appends an unsigned LEB128 number.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a length and bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends an entity's kind and key.
pub(crate) fn put_entity(out: &mut Vec<u8>, entity: &EntityId) {
    put_bytes(out, entity.kind().as_bytes());
    put_bytes(out, entity.key().as_bytes());
}

/// Reads what the `put_` functions wrote. `None` means malformed, and never a panic.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    pub(crate) fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.varint()?).ok()?;
        let (bytes, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(bytes)
    }

    pub(crate) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    pub(crate) fn name(&mut self) -> Option<Name<'a>> {
        Some(Name { kind: self.text()?, key: self.text()? })
    }

    pub(crate) fn entity(&mut self) -> Option<EntityId> {
        self.name()?.to_id()
    }
}

/// A batch as a frame, with room for the header in front.
pub(crate) fn encode_batch(batch: &AppendBatch) -> Vec<u8> {
    let payloads: usize = batch.events.iter().map(|e| e.payload.len() + e.name.len() + 16).sum();
    let mut out = Vec::with_capacity(HEADER_BYTES + 64 + batch.entity.key().len() + payloads);
    out.resize(HEADER_BYTES, 0);
    put_entity(&mut out, &batch.entity);
    put_varint(&mut out, batch.expected_seq.next().0);
    put_varint(&mut out, batch.events.len() as u64);
    put_varint(&mut out, batch.timestamp.0);
    out.push(u8::from(batch.request.is_some()));
    if let Some(request) = &batch.request {
        put_bytes(&mut out, request.id.as_str().as_bytes());
        put_bytes(&mut out, &request.reply);
    }
    for event in &batch.events {
        put_event(&mut out, event);
    }
    out
}

fn put_event(out: &mut Vec<u8>, event: &NewEvent) {
    put_bytes(out, event.name.as_bytes());
    put_varint(out, u64::from(event.schema_version));
    let extras = !event.tags.is_empty() || !event.metadata.is_empty();
    out.push(u8::from(extras));
    if extras {
        put_varint(out, event.tags.len() as u64);
        for tag in &event.tags {
            put_bytes(out, tag.as_bytes());
        }
        put_varint(out, event.metadata.len() as u64);
        for (key, value) in &event.metadata {
            put_bytes(out, key.as_bytes());
            put_bytes(out, value.as_bytes());
        }
    }
    put_bytes(out, &event.payload);
}

/// A deletion as a frame, with room for the header in front.
pub(crate) fn encode_delete(entity: &EntityId, to: Seq) -> Vec<u8> {
    let mut out = vec![0; HEADER_BYTES];
    put_entity(&mut out, entity);
    put_varint(&mut out, to.0);
    out
}

/// What says of the `count` batches after it that they take effect together, as a frame with room for
/// the header in front.
pub(crate) fn encode_together(count: usize) -> Vec<u8> {
    let mut out = vec![0; HEADER_BYTES];
    put_varint(&mut out, count as u64);
    out
}

/// How many batches after it take effect together: at least one.
pub(crate) fn decode_together(payload: &[u8]) -> Option<usize> {
    let mut reader = Reader::new(payload);
    let count = usize::try_from(reader.varint()?).ok()?;
    (reader.remaining() == 0 && count > 0).then_some(count)
}

/// Whose deletion a payload holds, and up to which sequence number.
pub(crate) fn decode_delete(payload: &[u8]) -> Option<(Name<'_>, Seq)> {
    let mut reader = Reader::new(payload);
    let name = reader.name()?;
    let to = Seq(reader.varint()?);
    (reader.remaining() == 0).then_some((name, to))
}

/// An entity as it stands in a payload: compared and looked up without an allocation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Name<'a> {
    kind: &'a str,
    key: &'a str,
}

impl<'a> Name<'a> {
    pub(crate) fn of(entity: &'a EntityId) -> Self {
        Self { kind: entity.kind(), key: entity.key() }
    }

    /// As [`EntityId::hash64`]. `None` where it is no entity's name.
    pub(crate) fn hash64(&self) -> Option<u64> {
        hash_of(self.kind, self.key)
    }

    pub(crate) fn is_of(&self, entity: &EntityId) -> bool {
        entity.key() == self.key && entity.kind() == self.kind
    }

    /// `None` where it is no entity's name.
    pub(crate) fn to_id(self) -> Option<EntityId> {
        EntityId::new(self.kind, self.key).ok()
    }
}

/// Whose events a batch holds and which, without decoding them.
pub(crate) struct BatchHead {
    pub entity: EntityId,
    pub first_seq: Seq,
    pub count: u64,
}

/// As [`BatchHead`], with the entity as it stands in the payload.
pub(crate) struct BatchName<'a> {
    pub name: Name<'a>,
    pub first_seq: Seq,
    pub count: u64,
}

/// How many events a batch's payload says it has.
pub(crate) fn batch_count(payload: &[u8]) -> Option<u32> {
    let mut reader = Reader::new(payload);
    reader.bytes()?;
    reader.bytes()?;
    reader.varint()?;
    let count = u32::try_from(reader.varint()?).ok()?;
    (count > 0 && count as usize <= Position::MAX_RECORDS_PER_ENTRY).then_some(count)
}

/// The head of a batch's payload.
pub(crate) fn decode_batch_head(payload: &[u8]) -> Option<BatchHead> {
    let BatchName { name, first_seq, count } = decode_batch_name(payload)?;
    Some(BatchHead { entity: name.to_id()?, first_seq, count })
}

/// The head of a batch's payload, without an allocation.
pub(crate) fn decode_batch_name(payload: &[u8]) -> Option<BatchName<'_>> {
    let mut reader = Reader::new(payload);
    let head = BatchName {
        name: reader.name()?,
        first_seq: Seq(reader.varint()?),
        count: reader.varint()?,
    };
    (head.count > 0 && head.count <= Position::MAX_RECORDS_PER_ENTRY as u64).then_some(head)
}

/// The id of the request that a batch's payload answers, if it carries one.
pub(crate) fn decode_request(payload: &[u8]) -> Option<RequestId> {
    let mut reader = Reader::new(payload);
    reader.name()?;
    for _ in 0..3 {
        reader.varint()?;
    }
    match reader.byte()? {
        1 => RequestId::new(reader.text()?).ok(),
        _ => None,
    }
}

/// Decodes batches one after the other, keeping the names that it saw: streams repeat them.
pub(crate) struct Decoder {
    /// Where the caller knows whose records these are, it is not decoded again and again.
    entity: Option<EntityId>,
    name: Arc<str>,
}

impl Decoder {
    pub(crate) fn new(entity: Option<EntityId>) -> Self {
        Self { entity, name: Arc::from("") }
    }

    /// Appends the records of a batch that `wanted` says yes to. `frame` is the frame's payload, as
    /// a part of a larger buffer that the records' payloads go on sharing. `None` means malformed.
    pub(crate) fn batch(
        &mut self,
        header: &Header,
        frame: &Bytes,
        mut wanted: impl FnMut(Seq) -> bool,
        out: &mut Vec<EventRecord>,
    ) -> Option<()> {
        let mut reader = Reader::new(frame);
        let (kind, key) = (reader.text()?, reader.text()?);
        let entity = match &self.entity {
            Some(entity) if entity.key() == key && entity.kind() == kind => entity.clone(),
            _ => self.entity.insert(EntityId::new(kind, key).ok()?).clone(),
        };
        let first_seq = reader.varint()?;
        let count = reader.varint()?;
        let timestamp = Timestamp(reader.varint()?);
        let mut request = match reader.byte()? {
            0 => None,
            1 => Some(Request {
                id: RequestId::new(reader.text()?).ok()?,
                reply: frame.slice_ref(reader.bytes()?),
            }),
            _ => return None,
        };
        for i in 0..count {
            let event = self.event(&mut reader, frame)?;
            let seq = Seq(first_seq.checked_add(i)?);
            let offset = u16::try_from(u64::from(header.position.offset()) + i).ok()?;
            if wanted(seq) {
                out.push(EventRecord {
                    entity: entity.clone(),
                    seq,
                    position: Position::new(header.position.index(), offset),
                    epoch: header.term,
                    timestamp,
                    request: if i + 1 == count { request.take() } else { None },
                    event,
                });
            }
        }
        (reader.remaining() == 0).then_some(())
    }

    fn event(&mut self, reader: &mut Reader<'_>, frame: &Bytes) -> Option<NewEvent> {
        let name = reader.text()?;
        if *self.name != *name {
            self.name = name.into();
        }
        let schema_version = u16::try_from(reader.varint()?).ok()?;
        let (mut tags, mut metadata) = (Vec::new(), BTreeMap::new());
        match reader.byte()? {
            0 => {}
            1 => {
                for _ in 0..reader.varint()? {
                    tags.push(reader.text()?.to_owned());
                }
                for _ in 0..reader.varint()? {
                    let key = reader.text()?.to_owned();
                    metadata.insert(key, reader.text()?.to_owned());
                }
            }
            _ => return None,
        }
        let payload = frame.slice_ref(reader.bytes()?);
        Some(NewEvent { name: self.name.clone(), schema_version, tags, metadata, payload })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        id::{ShardId, Term},
        log::frame::Kind,
    };

    fn header() -> Header {
        Header {
            len: 0,
            flush: 0,
            kind: Kind::Batch,
            shard: ShardId(0),
            position: Position::new(5, 2),
            term: Term(3),
        }
    }

    fn sample() -> AppendBatch {
        let mut tagged = NewEvent::new("line-added", 2, &b"\x01\x02"[..]);
        tagged.tags = vec!["eu".into()];
        tagged.metadata = BTreeMap::from([("trace".into(), "7".into())]);
        AppendBatch {
            entity: EntityId::new("order", "日本").expect("valid"),
            epoch: Term(3),
            expected_seq: Seq(300),
            timestamp: Timestamp(1_700_000_000_000),
            request: Some(Request {
                id: RequestId::new("req").expect("valid"),
                reply: Bytes::from_static(b"ok"),
            }),
            events: vec![NewEvent::new("placed", 1, &b""[..]), tagged],
        }
    }

    fn decode(payload: Vec<u8>) -> Option<Vec<EventRecord>> {
        let mut out = Vec::new();
        Decoder::new(None).batch(&header(), &Bytes::from(payload), |_| true, &mut out)?;
        Some(out)
    }

    #[test]
    fn a_batch_comes_back_as_it_was() {
        let batch = sample();
        let records = decode(encode_batch(&batch)[HEADER_BYTES..].to_vec()).expect("well-formed");
        assert_eq!(records.len(), 2);
        for (i, record) in records.iter().enumerate() {
            assert_eq!(record.entity, batch.entity);
            assert_eq!(record.seq, Seq(301 + i as u64));
            assert_eq!(record.position, Position::new(5, 2 + i as u16));
            assert_eq!((record.epoch, record.timestamp), (Term(3), batch.timestamp));
            assert_eq!(record.event, batch.events[i]);
        }
        assert_eq!((&records[0].request, &records[1].request), (&None, &batch.request));
    }

    /// These bytes are on users' disks. Never change the expectation.
    #[test]
    fn the_batch_is_golden() {
        let hex: String =
            encode_batch(&sample())[HEADER_BYTES..].iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "056f7264657206e697a5e69cacad020280d095ffbc310103726571026f6b\
             06706c616365640100000a6c696e652d6164646564020101026575010574\
             72616365013702 0102"
                .replace(' ', "")
        );
    }

    proptest! {
        #[test]
        fn malformed_payloads_are_refused_without_a_panic(
            cut in 0usize..100, at in 0usize..100, to in any::<u8>(),
        ) {
            let whole = encode_batch(&sample())[HEADER_BYTES..].to_vec();
            prop_assert!(decode(whole[..cut.min(whole.len() - 1)].to_vec()).is_none());
            let mut changed = whole.clone();
            changed[at % whole.len()] = to;
            let _ = decode(changed);
        }

        #[test]
        fn varints_come_back(value in any::<u64>()) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.varint(), Some(value));
            prop_assert_eq!(reader.remaining(), 0);
        }
    }
}
