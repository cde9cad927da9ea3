//! Names and places: which entity, which shard, which place in a log.
//!
//! Every number here is a newtype, because a sequence number, a position and a term are all `u64`
//! and mixing two of them up is the kind of mistake that loses data.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Longest entity kind, in bytes of UTF-8.
pub const MAX_KIND_BYTES: usize = 64;
/// Longest entity key, in bytes of UTF-8.
pub const MAX_KEY_BYTES: usize = 255;
/// Most shards that a cluster can be cut into.
pub const MAX_SHARDS: u16 = 256;
/// Shards of a cluster that was created without saying how many.
pub const DEFAULT_SHARDS: u16 = 12;

/// Seed of [`EntityId::hash64`]. Changing it would move every entity to another shard.
const HASH_SEED: u64 = 0x6475_7261_6374_6f72; // "duractor"

/// Why a text is no entity kind or key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// The kind or key has no characters.
    #[error("an entity's {part} must not be empty")]
    Empty {
        /// `"kind"` or `"key"`.
        part: &'static str,
    },
    /// The kind or key is longer than its limit.
    #[error("an entity's {part} has {bytes} bytes, and at most {limit} are allowed")]
    TooLong {
        /// `"kind"` or `"key"`.
        part: &'static str,
        /// Its length in bytes.
        bytes: usize,
        /// The most that is allowed, in bytes.
        limit: usize,
    },
    /// The kind or key has a control character, or the kind has a `/` (it ends the kind where an
    /// id is written as `kind/key`).
    #[error("an entity's {part} must not contain the character {character:?}")]
    Character {
        /// `"kind"` or `"key"`.
        part: &'static str,
        /// The first character that is not allowed.
        character: char,
    },
}

/// See [`EntityId::hash64`]. `None` where kind or key are longer than any entity's.
pub(crate) fn hash_of(kind: &str, key: &str) -> Option<u64> {
    let mut bytes = [0u8; 1 + MAX_KIND_BYTES + MAX_KEY_BYTES];
    if kind.len() > MAX_KIND_BYTES || key.len() > MAX_KEY_BYTES {
        return None;
    }
    bytes[0] = kind.len() as u8;
    bytes[1..=kind.len()].copy_from_slice(kind.as_bytes());
    let end = 1 + kind.len() + key.len();
    bytes[1 + kind.len()..end].copy_from_slice(key.as_bytes());
    Some(xxh3_64_with_seed(&bytes[..end], HASH_SEED))
}

/// Which entity: its kind (the type of entity, as `"order"`) and its key (which one of them).
///
/// Both are UTF-8: a kind of 1 to [`MAX_KIND_BYTES`] bytes without `/`, a key of 1 to
/// [`MAX_KEY_BYTES`] bytes; neither has control characters. Cheap to clone.
///
/// ```
/// use duractor_journal::EntityId;
/// let id = EntityId::new("order", "2024-00017")?;
/// assert_eq!(id.kind(), "order");
/// assert_eq!(id.to_string(), "order/2024-00017");
/// assert!(EntityId::new("order", "").is_err());
/// # Ok::<(), duractor_journal::InvalidId>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(String, String)", into = "(String, String)")]
pub struct EntityId {
    /// `kind/key`.
    text: Arc<str>,
    kind_len: u8,
}

impl EntityId {
    /// Checks and joins a kind and a key.
    ///
    /// # Errors
    /// [`InvalidId`] says what is wrong with which part.
    pub fn new(kind: &str, key: &str) -> Result<Self, InvalidId> {
        check_kind(kind)?;
        check("key", key, MAX_KEY_BYTES, |c| c.is_control())?;
        let mut text = String::with_capacity(kind.len() + 1 + key.len());
        text.push_str(kind);
        text.push('/');
        text.push_str(key);
        Ok(Self { text: text.into(), kind_len: kind.len() as u8 })
    }

    /// The type of entity.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.text[..usize::from(self.kind_len)]
    }

    /// Which entity of its kind.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.text[usize::from(self.kind_len) + 1..]
    }

    /// The entity's hash: xxh3_64 of the kind's length (one byte), the kind and the key, with a
    /// fixed seed. It decides the shard and the order within sealed log files, so it never changes.
    #[must_use]
    pub fn hash64(&self) -> u64 {
        hash_of(self.kind(), self.key()).unwrap_or_default()
    }

    /// The shard that holds this entity, where there are `shards` of them.
    #[must_use]
    pub fn shard(&self, shards: u16) -> ShardId {
        ShardId((self.hash64() % u64::from(shards.max(1))) as u16)
    }
}

/// Checks an entity kind by itself, as when a kind is registered.
///
/// # Errors
/// [`InvalidId`] says what is wrong with it.
pub fn check_kind(kind: &str) -> Result<(), InvalidId> {
    check("kind", kind, MAX_KIND_BYTES, |c| c == '/' || c.is_control())
}

fn check(
    part: &'static str,
    text: &str,
    limit: usize,
    refused: impl Fn(char) -> bool,
) -> Result<(), InvalidId> {
    if text.is_empty() {
        return Err(InvalidId::Empty { part });
    }
    if text.len() > limit {
        return Err(InvalidId::TooLong { part, bytes: text.len(), limit });
    }
    match text.chars().find(|c| refused(*c)) {
        Some(character) => Err(InvalidId::Character { part, character }),
        None => Ok(()),
    }
}

impl fmt::Display for EntityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for EntityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<(String, String)> for EntityId {
    type Error = InvalidId;

    fn try_from((kind, key): (String, String)) -> Result<Self, InvalidId> {
        Self::new(&kind, &key)
    }
}

impl From<EntityId> for (String, String) {
    fn from(id: EntityId) -> Self {
        (id.kind().to_owned(), id.key().to_owned())
    }
}

/// One of the fixed number of parts that the key space is cut into, counted from 0.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct ShardId(pub u16);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard {}", self.0)
    }
}

/// A sequence number: the place of an event in its entity's stream. The first event has 1.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Seq(pub u64);

impl Seq {
    /// Before the first event: the sequence number of an entity that has no events.
    pub const ZERO: Seq = Seq(0);
    /// Past every event.
    pub const MAX: Seq = Seq(u64::MAX);

    /// The sequence number that follows.
    #[must_use]
    pub fn next(self) -> Seq {
        self.plus(1)
    }

    /// The sequence number `n` places on.
    #[must_use]
    pub fn plus(self, n: u64) -> Seq {
        Seq(self.0.saturating_add(n))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A position: the place of a record in its shard's commit order.
///
/// It is the Raft log index of the entry that holds the record, and the record's place within that
/// entry: later records have greater positions, and there are gaps. Only its order means anything
/// to a user; keep it as an opaque number.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position(u64);

impl Position {
    /// Before the first record.
    pub const ZERO: Position = Position(0);
    /// Past every record.
    pub const MAX: Position = Position(u64::MAX);
    /// Most records in one log entry.
    pub const MAX_RECORDS_PER_ENTRY: usize = 1 << 16;
    /// The greatest log index that a position can hold: 2^48 - 1, enough for 8 years at a million
    /// entries a second in one shard.
    pub const MAX_INDEX: u64 = (1 << 48) - 1;

    /// The record number `offset` of the log entry at `index`.
    #[must_use]
    pub fn new(index: u64, offset: u16) -> Self {
        debug_assert!(index <= Self::MAX_INDEX);
        Position((index << 16) | u64::from(offset))
    }

    /// The log index of the entry.
    #[must_use]
    pub fn index(self) -> u64 {
        self.0 >> 16
    }

    /// The place within the entry, from 0.
    #[must_use]
    pub fn offset(self) -> u16 {
        (self.0 & 0xffff) as u16
    }

    /// As one number, to store it. Keeps the order.
    #[must_use]
    pub fn to_u64(self) -> u64 {
        self.0
    }

    /// Back from [`Position::to_u64`].
    #[must_use]
    pub fn from_u64(raw: u64) -> Self {
        Position(raw)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index(), self.offset())
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A term: the Raft epoch. The term under which a shard's owner was installed is its *writer
/// epoch*; the journal refuses appends of every earlier one.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Term(pub u64);

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "term {}", self.0)
    }
}

/// Wall-clock time, in milliseconds since 1970-01-01T00:00:00Z. For people and for retention by
/// age: nothing in the journal is ordered by it.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Timestamp(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_keys_are_checked() {
        let long = "x".repeat(256);
        assert_eq!(EntityId::new("", "k"), Err(InvalidId::Empty { part: "kind" }));
        assert_eq!(EntityId::new("k", ""), Err(InvalidId::Empty { part: "key" }));
        assert_eq!(
            EntityId::new(&long[..65], "k"),
            Err(InvalidId::TooLong { part: "kind", bytes: 65, limit: 64 })
        );
        assert_eq!(
            EntityId::new("k", &long),
            Err(InvalidId::TooLong { part: "key", bytes: 256, limit: 255 })
        );
        assert_eq!(
            EntityId::new("a/b", "k"),
            Err(InvalidId::Character { part: "kind", character: '/' })
        );
        assert_eq!(
            EntityId::new("a", "k\n"),
            Err(InvalidId::Character { part: "key", character: '\n' })
        );
        let id = EntityId::new(&long[..64], &long[..255]).expect("the longest id");
        assert_eq!((id.kind().len(), id.key().len()), (64, 255));
        let id = EntityId::new("заказ", "日/本 ").expect("any UTF-8");
        assert_eq!((id.kind(), id.key()), ("заказ", "日/本 "));
    }

    /// These values are on users' disks: a failure here means that every entity would move to
    /// another shard. Never change the expectations.
    #[test]
    fn the_hash_is_golden() {
        let hash = |kind, key| EntityId::new(kind, key).expect("valid").hash64();
        let rows: Vec<_> = [("order", "1"), ("order", "2"), ("o", "rder1"), ("заказ", "日本")]
            .map(|(kind, key)| {
                (hash(kind, key), EntityId::new(kind, key).expect("valid").shard(12).0)
            })
            .to_vec();
        assert_eq!(
            rows,
            [
                (3_040_282_637_688_808_107, 3),
                (3_409_356_742_267_859_137, 1),
                (10_126_447_395_063_012_185, 5),
                (16_390_625_389_370_530_777, 1),
            ]
        );
    }

    #[test]
    fn positions_order_by_index_then_offset() {
        assert!(Position::new(1, 65_535) < Position::new(2, 0));
        let p = Position::new(Position::MAX_INDEX, 7);
        assert_eq!((p.index(), p.offset()), (Position::MAX_INDEX, 7));
        assert_eq!(Position::from_u64(p.to_u64()), p);
    }
}
