//! The snapshot that this node lacks, from another one.
//!
//! Before: [`replay`](super::replay), which found that events are deleted and no snapshot here makes
//! up for them. Next: [`snapshot`](super::snapshot) once more. On a single node there is nobody to
//! ask.

use duractor_journal::Seq;

use super::Halt;
use crate::{entity::EventSourced, replica::Fetched, slot::Slot};

/// Gets a snapshot at `least` or later; `reason` is why it is needed.
pub(super) async fn fetch<E: EventSourced>(
    slot: &Slot<E>,
    least: Seq,
    reason: String,
) -> Result<(), Halt> {
    let Some(replicas) = &slot.kind.shared.replicas else { return Err(Halt::Quarantine(reason)) };
    let keep = slot.kind.settings().keep_snapshots;
    match replicas.fetch(slot.shard, &slot.id, least, keep).await {
        Fetched::Found => Ok(()),
        Fetched::Nothing => Err(Halt::Quarantine(format!("{reason}; no other node has one"))),
        Fetched::Unknown => Err(Halt::Retry(format!("{reason}; not all other nodes answer"))),
    }
}
