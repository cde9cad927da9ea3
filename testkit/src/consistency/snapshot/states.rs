//! Snapshots that follow from their numbers.

use bytes::Bytes;
use duractor_journal::{EntityId, Seq, Timestamp};
use duractor_snapshot::Snapshot;

use crate::rng::Rng;

pub(in crate::consistency) fn id(number: u64) -> EntityId {
    EntityId::new("order", &format!("key {number}")).unwrap_or_else(|_| unreachable!())
}

pub(super) fn snapshot(rng: &mut Rng, entity: EntityId, number: u64) -> Snapshot {
    content(entity, Seq(1 + rng.below(12)), number)
}

/// The snapshot with this number.
pub(in crate::consistency) fn content(entity: EntityId, seq: Seq, number: u64) -> Snapshot {
    let (timestamp, schema_version) = (Timestamp(number), number as u16);
    Snapshot { entity, seq, timestamp, schema_version, state: state(number) }
}

pub(super) fn state(number: u64) -> Bytes {
    let mut rng = Rng::new(number);
    let mut bytes = vec![0; [0, 40, 900, 5_000][rng.index(4)]];
    if rng.chance(0.5) {
        rng.fill(&mut bytes);
    } else {
        bytes.fill(number as u8);
    }
    bytes.into()
}

pub(super) fn names(snapshots: &[Snapshot]) -> Vec<String> {
    snapshots.iter().map(|s| format!("{}@{} {}", s.entity, s.seq, s.timestamp.0)).collect()
}
