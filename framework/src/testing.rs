//! What the entity test kit needs and applications do not: a look at an entity's state from outside.

use std::sync::Arc;

use bytes::Bytes;
use duractor_journal::{EntityId, EventRecord, ReplayRange, RequestId, Seq, Timestamp};
use futures_util::TryStreamExt;
use serde::Serialize;

pub use crate::command::encode_reply;
use crate::{
    codec::CodecError,
    command::Command,
    context::Context,
    core::{image, window::Window},
    effect::{Answer, Effect, Handle},
    entity::EventSourced,
    entity_ref::EntityRef,
    error::AskError,
    event::Event,
    look::look,
    meta::{Call, Meta, Reserved, is_reserved},
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

/// A node whose entities do nothing without being called: it only looks.
pub fn quiet(builder: NodeBuilder) -> NodeBuilder {
    builder.quiet()
}

/// Whether an event is the framework's.
#[must_use]
pub fn is_kept(record: &EventRecord) -> bool {
    is_reserved(&record.event.name)
}

/// A command that is kept, with its name and version.
pub type Kept = (String, u16, Bytes);

/// Where this event is that a command is to be delivered: to whom, and which.
#[must_use]
pub fn delivery(record: &EventRecord) -> Option<(EntityId, Kept)> {
    match reserved(record)? {
        Reserved::Deliver { to, call, .. } => Some((to, kept(call))),
        _ => None,
    }
}

/// Where this event is that a reminder was set: its name, when it is due, and its command.
#[must_use]
pub fn reminder(record: &EventRecord) -> Option<(String, Timestamp, Kept)> {
    match reserved(record)? {
        Reserved::Remind { name, due, call, .. } => Some((name, due, kept(call))),
        _ => None,
    }
}

fn reserved(record: &EventRecord) -> Option<Reserved> {
    let event = &record.event;
    Reserved::decode(&event.name, event.schema_version, &event.payload).ok()?.pop()
}

fn kept(Call { command, version, payload }: Call) -> Kept {
    (command, version, payload)
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

/// What a handler decides, without a node.
pub struct Decided<E: EventSourced> {
    /// The events that it wants written.
    pub events: Vec<E::Event>,
    /// Its reply as the journal keeps it; `None` where the command is stashed.
    pub reply: Option<Bytes>,
}

/// Has an entity handle a command on a state. Nothing comes of it but what is returned.
///
/// # Errors
/// Where state or reply do not survive their encoding.
pub fn decide<E: Handle<C>, C: Command>(
    entity: &E,
    state: &E::State,
    command: C,
    context: &Context,
) -> Result<Decided<E>, CodecError> {
    let Effect { intent, answer } = entity.handle(state, command, context);
    let reply = match answer {
        Answer::Ready(reply) => reply,
        Answer::From(reply) => {
            let mut after = decode_state::<E>(&encode_state::<E>(state)?)?;
            intent.events.iter().for_each(|event| E::apply(&mut after, event));
            reply(&after)
        }
        Answer::Later(_) => return Ok(Decided { events: intent.events, reply: None }),
    };
    Ok(Decided { events: intent.events, reply: Some(encode_reply::<C>(&reply)?) })
}

/// What a handler knows beside state and command.
#[must_use]
pub fn context(
    entity: EntityId,
    revision: Seq,
    now: Timestamp,
    request_id: Option<RequestId>,
) -> Context {
    Context { entity, revision, now, request_id }
}

/// The value that all entities of a kind share.
#[must_use]
pub fn shared<E: EventSourced>(entity: &EntityRef<E>) -> Arc<E> {
    entity.kind.rules.entity.clone()
}

/// All that an entity's journal has, the framework's events too, once this node has everything that was
/// committed before.
///
/// # Errors
/// As [`EntityRef::history`].
pub async fn records<E: EventSourced>(entity: &EntityRef<E>) -> Result<Vec<EventRecord>, AskError> {
    // Reads nothing, and makes sure that this node has the newest.
    entity.history(Seq(1), 0).await?;
    let journal = &entity.kind.shared.journal;
    let chunks = journal.replay(&entity.id, ReplayRange::from(Seq(1)));
    let chunks: Vec<Vec<EventRecord>> = chunks.try_collect().await.map_err(AskError::Journal)?;
    Ok(chunks.concat())
}

/// The state in memory, encoded: at the node that runs the entity.
///
/// # Errors
/// As a command; [`AskError::NotOwner`] where another node runs it.
pub async fn state_bytes<E: EventSourced>(entity: &EntityRef<E>) -> Result<Bytes, AskError> {
    inspect(entity, |state, _| encode_state::<E>(state)).await?.map_err(AskError::Codec)
}

/// A state as bytes.
///
/// # Errors
/// Where it does not encode.
pub fn encode_state<E: EventSourced>(state: &E::State) -> Result<Bytes, CodecError> {
    let encoded = postcard::to_allocvec(state).map(Bytes::from);
    let reason = |error: postcard::Error| error.to_string();
    encoded.map_err(|error| CodecError::Encode { name: "state".to_owned(), reason: reason(error) })
}

/// A state back from [`encode_state`].
///
/// # Errors
/// Where the bytes do not decode.
pub fn decode_state<E: EventSourced>(bytes: &[u8]) -> Result<E::State, CodecError> {
    postcard::from_bytes(bytes).map_err(|error| CodecError::Malformed {
        name: "state".to_owned(),
        version: 0,
        reason: error.to_string(),
    })
}
