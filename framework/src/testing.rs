//! What the entity test kit needs and applications do not: a look at an entity's state from outside.

use std::sync::Arc;

use bytes::Bytes;
use duractor_journal::Seq;
use serde::Serialize;

use crate::{
    codec::CodecError,
    core::{image, window::Window},
    entity::EventSourced,
    entity_ref::EntityRef,
    error::AskError,
    look::look,
    meta::Meta,
    node::NodeBuilder,
};

/// Reads the state by a closure that comes to the entity as a command does: after the commands
/// before it, and the answer waits for the commit of what it saw. It starts an entity that is not in
/// memory, and does not count as use of one that is.
///
/// # Errors
/// As a command.
pub async fn inspect<E: EventSourced, T: Send + 'static>(
    entity: &EntityRef<E>,
    read: impl FnOnce(&E::State, Seq) -> T + Send + 'static,
) -> Result<T, AskError> {
    look(&entity.kind, &entity.id, read).await
}

/// Whether the entity is in memory and takes commands, or will at once.
#[must_use]
pub fn is_active<E: EventSourced>(entity: &EntityRef<E>) -> bool {
    entity.kind.find(&entity.id).is_some_and(|slot| slot.is_active())
}

/// [`NodeBuilder::register`] of an entity that several nodes share, one after the other.
pub fn register_shared<E: EventSourced>(builder: NodeBuilder, entity: Arc<E>) -> NodeBuilder {
    builder.register_arc(entity)
}

/// A state as snapshots hold it, with an empty dedup window.
///
/// # Errors
/// Where the state does not encode.
pub fn snapshot_image<S: Serialize>(state: &S) -> Result<Bytes, CodecError> {
    image::encode(state, &Window::default(), &Meta::default())
        .map_err(|error| CodecError::Encode { name: "state".to_owned(), reason: error })
}
