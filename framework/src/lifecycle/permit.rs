//! Leave to recover. Only so many entities of a node recover at once, so that a
//! rush of commands to sleeping entities does not become a rush of reads.
//!
//! Before: [`tenure`](super::tenure). Next: [`snapshot`](super::snapshot).

use tokio::sync::OwnedSemaphorePermit;

use super::Halt;
use crate::{entity::EventSourced, slot::Slot};

/// Waits for leave. It lasts until the permit is dropped.
pub(super) async fn acquire<E: EventSourced>(slot: &Slot<E>) -> Result<OwnedSemaphorePermit, Halt> {
    let permit = slot.kind.shared.permits.clone().acquire_owned().await;
    permit.map_err(|_| Halt::Retry("the node takes no recoveries".to_owned()))
}
