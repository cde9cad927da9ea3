//! The `SnapshotStore` port: what the framework asks of a snapshot store, whichever it is.

use std::num::NonZeroUsize;

use bytes::Bytes;
use duractor_journal::{EntityId, Seq, Timestamp};
use futures_util::future::BoxFuture;

use crate::error::SnapshotError;

/// Largest state that a store takes, in bytes: 64 MiB. It also bounds what a damaged length can
/// make a store allocate.
pub const MAX_STATE_BYTES: usize = 64 << 20;

/// An entity's state after one of its events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Whose state.
    pub entity: EntityId,
    /// The last event that is in it.
    pub seq: Seq,
    /// When it was taken. For people and for deletion by age.
    pub timestamp: Timestamp,
    /// The version of the state's schema, chosen by the user.
    pub schema_version: u16,
    /// The state, encoded; 0 to [`MAX_STATE_BYTES`] bytes.
    pub state: Bytes,
}

/// Which snapshots of an entity. All bounds are inclusive and all must hold.
///
/// ```
/// use duractor_journal::{Seq, Timestamp};
/// use duractor_snapshot::Criteria;
/// let old = Criteria::up_to(Seq(90)).taken_until(Timestamp(1_700_000_000_000));
/// assert!(old.matches(Seq(90), Timestamp(5)));
/// assert!(!old.matches(Seq(91), Timestamp(5)));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Criteria {
    /// The least sequence number.
    pub min_seq: Seq,
    /// The greatest sequence number.
    pub max_seq: Seq,
    /// The earliest timestamp.
    pub min_timestamp: Timestamp,
    /// The latest timestamp.
    pub max_timestamp: Timestamp,
}

impl Criteria {
    /// All snapshots.
    pub const ALL: Criteria = Criteria {
        min_seq: Seq::ZERO,
        max_seq: Seq::MAX,
        min_timestamp: Timestamp(0),
        max_timestamp: Timestamp(u64::MAX),
    };

    /// Those up to and including `seq`.
    #[must_use]
    pub fn up_to(seq: Seq) -> Self {
        Criteria { max_seq: seq, ..Self::ALL }
    }

    /// The one at `seq`.
    #[must_use]
    pub fn at(seq: Seq) -> Self {
        Self::between(seq, seq)
    }

    /// Those from `first` to `last`, both included.
    #[must_use]
    pub fn between(first: Seq, last: Seq) -> Self {
        Criteria { min_seq: first, max_seq: last, ..Self::ALL }
    }

    /// Of these, only those that were taken at `time` or before.
    #[must_use]
    pub fn taken_until(self, time: Timestamp) -> Self {
        Criteria { max_timestamp: time, ..self }
    }

    /// Of these, only those that were taken at `time` or after.
    #[must_use]
    pub fn taken_from(self, time: Timestamp) -> Self {
        Criteria { min_timestamp: time, ..self }
    }

    /// Whether a snapshot with this sequence number and timestamp is meant.
    #[must_use]
    pub fn matches(&self, seq: Seq, timestamp: Timestamp) -> bool {
        (self.min_seq..=self.max_seq).contains(&seq)
            && (self.min_timestamp..=self.max_timestamp).contains(&timestamp)
    }

    /// Whether every timestamp is meant.
    #[must_use]
    pub fn any_time(&self) -> bool {
        self.min_timestamp == Timestamp(0) && self.max_timestamp == Timestamp(u64::MAX)
    }
}

/// Which snapshots of an entity stay when one more is saved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Retention {
    /// All of them.
    #[default]
    All,
    /// Those with the greatest sequence numbers, this many.
    Newest(NonZeroUsize),
}

impl Retention {
    /// The newest `keep`; all of them for 0.
    #[must_use]
    pub fn newest(keep: usize) -> Self {
        NonZeroUsize::new(keep).map_or(Retention::All, Retention::Newest)
    }

    /// How many stay at most.
    #[must_use]
    pub fn limit(self) -> usize {
        match self {
            Retention::All => usize::MAX,
            Retention::Newest(keep) => keep.get(),
        }
    }
}

/// What a save left behind for one of its snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// The oldest snapshot of the entity that the store still has: events up to and including this
    /// one are no longer needed by any snapshot.
    ///
    /// "Has" means its key: whether the older ones still verify shows when they are loaded. The one
    /// just saved is durable.
    pub oldest: Seq,
}

/// A store of entities' snapshots.
///
/// Guarantees, whoever implements it:
/// - What [`load`](SnapshotStore::load) returns is what was saved, or nothing: a value that does not
///   verify counts as absent and is reported.
/// - A save is durable when it returns Ok (for the in-memory store: stored), all of it or nothing.
/// - Saves and deletes take effect in the order of the calls; a load sees those that returned
///   before it was called.
pub trait SnapshotStore: Send + Sync + 'static {
    /// Saves snapshots, each replacing the one of its entity at the same sequence number, then
    /// applies `retention` to each of their entities. Answers for each in the order given.
    ///
    /// The call takes up the save, not the first poll of the future. Many calls at once share one
    /// fsync.
    fn save(
        &self,
        snapshots: Vec<Snapshot>,
        retention: Retention,
    ) -> BoxFuture<'static, Result<Vec<Saved>, SnapshotError>>;

    /// The snapshot with the greatest sequence number among those that match and verify.
    ///
    /// `None` may mean that there never was one or that all are damaged: compare the journal's
    /// `Head::deleted_to` before trusting replay alone (see the crate's first page). An error,
    /// other than [`SnapshotError::Closed`], may be taken for `None` with the same care.
    fn load(
        &self,
        entity: &EntityId,
        criteria: Criteria,
    ) -> BoxFuture<'static, Result<Option<Snapshot>, SnapshotError>>;

    /// Deletes the entity's snapshots that match, durably. Returns how many. A damaged one has no
    /// known timestamp, so it matches only where the criteria take any timestamp.
    fn delete(
        &self,
        entity: &EntityId,
        criteria: Criteria,
    ) -> BoxFuture<'static, Result<u64, SnapshotError>>;

    /// How many times since opening a stored value did not verify or could not be read.
    fn damaged(&self) -> u64 {
        0
    }

    /// Takes no more calls, finishes the saves that it took and closes files. Later calls fail with
    /// [`SnapshotError::Closed`].
    fn shutdown(&self) -> BoxFuture<'static, ()>;
}

/// Refuses states that are too large, before anything is written.
pub(crate) fn check_sizes(snapshots: &[Snapshot]) -> Result<(), SnapshotError> {
    match snapshots.iter().find(|s| s.state.len() > MAX_STATE_BYTES) {
        None => Ok(()),
        Some(s) => Err(SnapshotError::TooLarge {
            entity: s.entity.clone(),
            bytes: s.state.len(),
            limit: MAX_STATE_BYTES,
        }),
    }
}
