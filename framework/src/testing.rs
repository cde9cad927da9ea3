//! What the entity test kit needs and applications do not: a look at an entity's state from outside.

use std::sync::Arc;

use bytes::Bytes;
use duractor_journal::Seq;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::{
    codec::CodecError,
    context::Context,
    core::{image, window::Window},
    entity::EventSourced,
    entity_ref::EntityRef,
    error::AskError,
    intent::{Envelope, Intent, Options, Sent},
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
    let (reply, answer) = oneshot::channel();
    let inspection =
        Inspection { read: Some(read), seen: None, options: Options::default(), reply };
    entity.kind.offer(&entity.id, Box::new(inspection))?;
    answer.await.unwrap_or_else(|_| Err(AskError::Lost { entity: entity.id.clone() }))
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

/// A look at the state, as a command that changes nothing.
struct Inspection<F, T> {
    read: Option<F>,
    seen: Option<Result<T, AskError>>,
    options: Options,
    reply: oneshot::Sender<Result<T, AskError>>,
}

impl<E, F, T> Envelope<E> for Inspection<F, T>
where
    E: EventSourced,
    F: FnOnce(&E::State, Seq) -> T + Send,
    T: Send,
{
    fn name(&self) -> &'static str {
        "(inspection)"
    }

    fn options(&self) -> &Options {
        &self.options
    }

    fn is_use(&self) -> bool {
        false
    }

    fn handle(&mut self, _: &E, state: &E::State, context: &Context) -> Intent<E> {
        self.seen = self.read.take().map(|read| Ok(read(state, context.revision())));
        Intent::default()
    }

    fn settle(&mut self, _: &E::State) {}

    fn encode_reply(&self) -> Result<Bytes, CodecError> {
        let reason = "an inspection is not stored".to_owned();
        Err(CodecError::Encode { name: "(inspection)".to_owned(), reason })
    }

    fn recall(&mut self, _: &[u8]) {}

    fn repeat(&mut self, _: Option<Bytes>) {}

    fn refuse(&mut self, error: AskError) {
        self.seen = Some(Err(error));
    }

    fn send(self: Box<Self>) -> Option<Sent> {
        let seen = self.seen?;
        let sent = if seen.is_ok() { Sent::Replied } else { Sent::Refused };
        Some(self.reply.send(seen).map_or(Sent::DeadLettered, |()| sent))
    }
}
