//! The newest snapshot that can be used, or a fresh state.
//!
//! Before: [`permit`](super::permit). Next: [`replay`](super::replay), which also finds out whether
//! events are missing because a snapshot is.

use std::panic::{AssertUnwindSafe, catch_unwind};

use duractor_journal::Seq;
use duractor_snapshot::{Criteria, Snapshot};

use super::Halt;
use crate::{
    core::{Core, image, window::Window},
    entity::EventSourced,
    intent::panic_text,
    meta::Meta,
    slot::Slot,
};

/// Loads it. A snapshot that cannot be used is logged and passed over.
pub(super) async fn load<E: EventSourced>(slot: &Slot<E>) -> Result<Box<Core<E>>, Halt> {
    let rules = &slot.kind.rules;
    let mut newest = Some(Seq::MAX);
    loop {
        let Some(snapshot) = read(slot, newest).await else {
            let (state, kept) = (E::State::default(), (Window::default(), Meta::default()));
            return Ok(Box::new(Core::new(slot.id.clone(), state, Seq::ZERO, kept)));
        };
        let decoded = catch_unwind(AssertUnwindSafe(|| {
            image::decode::<E>(
                &rules.entity,
                &rules.settings,
                snapshot.schema_version,
                &snapshot.state,
            )
        }));
        let reason = match decoded {
            Ok(Ok((state, window, meta))) => {
                let (id, seq) = (slot.id.clone(), snapshot.seq);
                return Ok(Box::new(Core::new(id, state, seq, (window, meta))));
            }
            Ok(Err(reason)) => reason,
            Err(panic) => panic_text(panic.as_ref()),
        };
        tracing::warn!(entity = %slot.id, seq = %snapshot.seq, reason, "a snapshot is of no use");
        newest = snapshot.seq.0.checked_sub(1).map(Seq);
    }
}

/// The newest snapshot up to this one, where there is one that verifies.
async fn read<E: EventSourced>(slot: &Slot<E>, newest: Option<Seq>) -> Option<Snapshot> {
    let criteria = Criteria::up_to(newest?);
    let loaded = slot.kind.shared.snapshots.load(&slot.id, criteria).await;
    loaded.unwrap_or_else(|error| {
        tracing::warn!(entity = %slot.id, %error, "no snapshot could be read");
        None
    })
}
