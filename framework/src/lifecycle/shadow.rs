//! [Shadows](crate::shadow): reading one, looking at it, and taking it over.
//!
//! Beside the phases: it uses [`snapshot`](super::snapshot) and [`replay`](super::replay) as recovery
//! does, and [`recover`](super::Incarnation::recover) takes over what it made.

use duractor_journal::Seq;
use tokio::time::Instant;

use super::{Halt, load, permit, replay};
use crate::{core::Core, entity::EventSourced, error::AskError, intent::BoxEnvelope, slot::Slot};

/// Brings an entity's shadow up to what this node's replica has.
pub(super) async fn refresh<E: EventSourced>(slot: &Slot<E>) {
    let (kind, now) = (&slot.kind, slot.kind.shared.millis(Instant::now()));
    let shadow = kind.shadows.get(&slot.id, now);
    let mut held = shadow.lock().await;
    match read(slot, held.take()).await {
        Ok(core) => *held = Some(core),
        Err(halt) => tracing::debug!(entity = %slot.id, ?halt, "not made ready"),
    }
}

/// Lets a command look at the shadow, and answers it. Returns the revision that it saw.
pub(super) async fn look<E: EventSourced>(slot: &Slot<E>, mut envelope: BoxEnvelope<E>) -> Seq {
    let shared = &slot.kind.shared;
    let shadow = slot.kind.shadows.get(&slot.id, shared.millis(Instant::now()));
    let mut held = shadow.lock().await;
    let mut revision = Seq::ZERO;
    match read(slot, held.take()).await {
        Ok(mut core) => {
            revision = core.seq();
            if core.look(&slot.kind.rules, shared.env.clock.now(), envelope.as_mut()) {
                *held = Some(core);
            }
        }
        Err(halt) => envelope.refuse(refusal(slot, halt)),
    }
    envelope.send();
    revision
}

/// The state that there is, with the newest events; where that does not do, all of it.
pub(super) async fn read<E: EventSourced>(
    slot: &Slot<E>,
    known: Option<Box<Core<E>>>,
) -> Result<Box<Core<E>>, Halt> {
    if let Some(core) = known
        && let Ok(core) = replay::replay(slot, core).await
    {
        return Ok(core);
    }
    let _permit = permit::acquire(slot).await?;
    load(slot).await
}

fn refusal<E: EventSourced>(slot: &Slot<E>, halt: Halt) -> AskError {
    let (entity, shard) = (slot.id.clone(), slot.shard);
    match halt {
        Halt::Quarantine(reason) => AskError::Quarantined { entity, reason: reason.into() },
        Halt::NodeFailed(cause) => AskError::NodeFailed { cause: cause.into() },
        Halt::Refuse(error) => error,
        Halt::Deposed => AskError::NotOwner { shard, leader: None },
        Halt::Missing { reason, .. } | Halt::Retry(reason) => {
            AskError::Unavailable { shard, reason }
        }
    }
}
