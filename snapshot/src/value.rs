//! How a snapshot is laid out as a key and a value, and how it is verified.
//!
//! ```text
//! key     kind length u8 · kind · key length u8 · key · sequence number u64 big-endian
//!
//! value    0  format version u8 = 1
//!          1  compression    u8: 0 none, 1 lz4 block, 2 zstd frame
//!          2  schema version u16
//!          4  crc32c         u32 over the key, bytes 0..4, bytes 8..28 and the body
//!          8  sequence number u64
//!         16  timestamp      u64, milliseconds since 1970
//!         24  state length   u32, uncompressed
//!         28  body
//! ```
//! Numbers in the value are little-endian. The lengths in the key make every entity's keys one run
//! of the table that no other entity's keys fall into, in the order of their sequence numbers. The
//! checksum covers the key, so that a value that ended up under another key does not verify.

use bytes::Bytes;
use duractor_journal::{EntityId, Seq, Timestamp};

use crate::port::{MAX_STATE_BYTES, Snapshot};

const FORMAT: u8 = 1;
const HEADER: usize = 28;

/// How states are compressed. A store reads all that it was built with, whatever it writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    None,
    /// lz4: quick.
    #[default]
    Lz4,
    /// zstd at a level of 1 (quick) to 22 (small): smaller and slower than lz4.
    #[cfg(feature = "zstd")]
    Zstd(i32),
}

/// An entity's keys, up to the sequence number.
pub(crate) fn key_prefix(entity: &EntityId) -> Vec<u8> {
    let (kind, key) = (entity.kind().as_bytes(), entity.key().as_bytes());
    let mut out = Vec::with_capacity(2 + kind.len() + key.len() + 8);
    // An EntityId's kind has at most 64 bytes and its key 255.
    out.push(kind.len() as u8);
    out.extend_from_slice(kind);
    out.push(key.len() as u8);
    out.extend_from_slice(key);
    out
}

/// The key of an entity's snapshot at `seq`.
pub(crate) fn key(entity: &EntityId, seq: Seq) -> Vec<u8> {
    let mut out = key_prefix(entity);
    out.extend_from_slice(&seq.0.to_be_bytes());
    out
}

/// The value of a snapshot under its key.
pub(crate) fn encode(key: &[u8], snapshot: &Snapshot, how: Compression, above: usize) -> Vec<u8> {
    let state = &snapshot.state[..];
    let packed = if state.len() > above { compress(state, how) } else { None };
    // What does not shrink is stored as it is.
    let (code, body) = match &packed {
        Some((code, body)) if body.len() < state.len() => (*code, &body[..]),
        _ => (0, state),
    };
    let mut out = Vec::with_capacity(HEADER + body.len());
    out.extend_from_slice(&[FORMAT, code]);
    out.extend_from_slice(&snapshot.schema_version.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&snapshot.seq.0.to_le_bytes());
    out.extend_from_slice(&snapshot.timestamp.0.to_le_bytes());
    // A state has at most MAX_STATE_BYTES.
    out.extend_from_slice(&(state.len() as u32).to_le_bytes());
    out.extend_from_slice(body);
    let sum = checksum(key, &out);
    out[4..8].copy_from_slice(&sum.to_le_bytes());
    out
}

/// What a value's header says, once the whole value has verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    compression: u8,
    schema_version: u16,
    pub(crate) seq: Seq,
    pub(crate) timestamp: Timestamp,
    state_len: usize,
}

/// Verifies what is stored under `key`, which must be one of the keys that start with `prefix`.
/// The error says what does not fit.
pub(crate) fn verify(prefix: &[u8], key: &[u8], value: &[u8]) -> Result<Header, &'static str> {
    let seq = key.strip_prefix(prefix).and_then(|tail| <[u8; 8]>::try_from(tail).ok());
    let seq = Seq(u64::from_be_bytes(seq.ok_or("the key is not one of the entity's")?));
    let header: &[u8; HEADER] = value.first_chunk().ok_or("the value is too short")?;
    if u32::from_le_bytes(array(header, 4)) != checksum(key, value) {
        return Err("the checksum does not match");
    }
    if header[0] != FORMAT {
        return Err("the value's format is unknown to this version");
    }
    let header = Header {
        compression: header[1],
        schema_version: u16::from_le_bytes(array(header, 2)),
        seq: Seq(u64::from_le_bytes(array(header, 8))),
        timestamp: Timestamp(u64::from_le_bytes(array(header, 16))),
        state_len: u32::from_le_bytes(array(header, 24)) as usize,
    };
    if header.seq != seq { Err("the sequence number is not the key's") } else { Ok(header) }
}

/// The snapshot in a value that has verified.
pub(crate) fn decode(
    entity: &EntityId,
    header: &Header,
    value: &[u8],
) -> Result<Snapshot, &'static str> {
    let body = value.get(HEADER..).unwrap_or_default();
    if header.state_len > MAX_STATE_BYTES {
        return Err("the state's length is out of bounds");
    }
    let state = match header.compression {
        0 => Bytes::copy_from_slice(body),
        code => decompress(code, body, header.state_len)?.into(),
    };
    if state.len() != header.state_len {
        return Err("the state's length is not the stored one");
    }
    Ok(Snapshot {
        entity: entity.clone(),
        seq: header.seq,
        timestamp: header.timestamp,
        schema_version: header.schema_version,
        state,
    })
}

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    let sum = crc32c::crc32c_append(crc32c::crc32c(key), &value[..4]);
    crc32c::crc32c_append(sum, &value[8..])
}

fn array<const N: usize>(header: &[u8; HEADER], at: usize) -> [u8; N] {
    std::array::from_fn(|i| header[at + i])
}

fn compress(state: &[u8], how: Compression) -> Option<(u8, Vec<u8>)> {
    match how {
        Compression::None => None,
        Compression::Lz4 => Some((1, lz4_flex::block::compress(state))),
        #[cfg(feature = "zstd")]
        Compression::Zstd(level) => zstd::bulk::compress(state, level).ok().map(|body| (2, body)),
    }
}

/// `state_len` is bounded by the caller, so that no input makes this allocate more.
fn decompress(code: u8, body: &[u8], state_len: usize) -> Result<Vec<u8>, &'static str> {
    match code {
        1 => lz4_flex::block::decompress(body, state_len).map_err(|_| "lz4 cannot decompress it"),
        #[cfg(feature = "zstd")]
        2 => zstd::bulk::decompress(body, state_len).map_err(|_| "zstd cannot decompress it"),
        #[cfg(not(feature = "zstd"))]
        2 => Err("this build has no zstd"),
        _ => Err("the compression is unknown to this version"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(state: &[u8]) -> Snapshot {
        Snapshot {
            entity: EntityId::new("order", "17").expect("valid"),
            seq: Seq(258),
            timestamp: Timestamp(1_700_000_000_000),
            schema_version: 3,
            state: Bytes::copy_from_slice(state),
        }
    }

    fn stored(s: &Snapshot, how: Compression) -> (Vec<u8>, Vec<u8>) {
        let key = key(&s.entity, s.seq);
        let value = encode(&key, s, how, 1024);
        (key, value)
    }

    fn load(s: &Snapshot, key: &[u8], value: &[u8]) -> Result<Snapshot, &'static str> {
        let header = verify(&key_prefix(&s.entity), key, value)?;
        decode(&s.entity, &header, value)
    }

    /// These bytes are on users' disks: a failure here means that stored snapshots no longer load.
    #[test]
    fn golden_bytes_of_a_key_and_a_value() {
        let s = snapshot(b"state");
        let (key, value) = stored(&s, Compression::Lz4);
        assert_eq!(key, b"\x05order\x0217\0\0\0\0\0\0\x01\x02");
        let golden = b"\x01\x00\x03\x00\xb2\x8f\xcc\x16\x02\x01\0\0\0\0\0\0\
            \x00\x68\xe5\xcf\x8b\x01\0\0\x05\0\0\0state";
        assert_eq!(value, golden);
        assert_eq!(load(&s, &key, &value), Ok(s));
    }

    #[test]
    fn every_compression_gives_the_state_back() {
        let text = b"all work and no play ".repeat(5_000);
        for how in [Compression::None, Compression::Lz4, Compression::Zstd(3)] {
            for state in [&text[..], &text[..1024], b""] {
                let s = snapshot(state);
                let (key, value) = stored(&s, how);
                assert_eq!(load(&s, &key, &value).as_ref(), Ok(&s));
                let small = how != Compression::None && state.len() > 1024;
                assert_eq!(value.len() < state.len() / 2, small, "{how:?} {}", state.len());
            }
        }
    }

    #[test]
    fn a_flip_of_any_bit_of_key_or_value_does_not_verify() {
        let s = snapshot(&b"abc".repeat(500));
        let (key, value) = stored(&s, Compression::Lz4);
        for bit in 0..key.len() * 8 {
            let mut bad = key.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(load(&s, &bad, &value).is_err(), "key bit {bit}");
        }
        for bit in 0..value.len() * 8 {
            let mut bad = value.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(load(&s, &key, &bad).is_err(), "value bit {bit}");
        }
        for len in 0..value.len() {
            assert!(load(&s, &key, &value[..len]).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn a_value_under_another_entitys_key_does_not_verify() {
        let s = snapshot(b"state");
        let (_, value) = stored(&s, Compression::None);
        let other = EntityId::new("order", "18").expect("valid");
        let there = super::key(&other, s.seq);
        assert!(verify(&key_prefix(&other), &there, &value).is_err());
    }

    /// A length that a damaged or hostile value gives must not decide what is allocated.
    #[test]
    fn a_wild_length_is_refused_even_under_a_good_checksum() {
        let s = snapshot(&[7; 4096]);
        let (key, mut value) = stored(&s, Compression::Lz4);
        value[24..28].copy_from_slice(&u32::MAX.to_le_bytes());
        let sum = checksum(&key, &value);
        value[4..8].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(load(&s, &key, &value), Err("the state's length is out of bounds"));
    }

    #[test]
    fn keys_sort_by_entity_then_sequence_number() {
        let id = |kind, key| EntityId::new(kind, key).expect("valid");
        let ids = [id("a", "b"), id("a", "bc"), id("a", "c"), id("ab", "b"), id("ab", "c")];
        let mut keys: Vec<_> = ids
            .iter()
            .flat_map(|id| [1, 255, 256, u64::MAX].map(|seq| (id, seq, key(id, Seq(seq)))))
            .collect();
        keys.sort_by(|a, b| a.2.cmp(&b.2));
        let runs = keys.chunks(4).collect::<Vec<_>>();
        for run in runs {
            assert!(run.iter().all(|k| k.0 == run[0].0), "an entity's keys are one run");
            assert!(run.is_sorted_by_key(|k| k.1));
        }
    }
}
