//! The entity that is benchmarked, and a node for it.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use duractor::{
    Command, Context, Effect, EntityRef, EntitySettings, Event, EventSourced, Handle, Node, Persist,
};
use duractor_journal::NewEvent;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::{
    load::{Events, payload},
    run::Failure,
};

/// Something was noted.
#[derive(Event)]
pub(crate) struct Noted {
    data: Bytes,
}

/// Notes the data, `times` over.
#[derive(Command)]
#[command(reply = u64)]
pub(crate) struct Note {
    pub data: Bytes,
    pub times: u32,
}

/// How often something was noted.
#[derive(Command)]
#[command(reply = u64)]
pub(crate) struct Count;

/// An entity that counts what is noted.
#[derive(Default)]
pub(crate) struct Notes {
    pub settings: EntitySettings,
}

#[derive(Default, Serialize, Deserialize)]
pub(crate) struct State {
    count: u64,
}

impl EventSourced for Notes {
    const KIND: &'static str = "notes";
    type State = State;
    type Event = Noted;
    type Commands = (Note, Count);

    fn apply(state: &mut State, _: &Noted) {
        state.count += 1;
    }

    fn settings(&self) -> EntitySettings {
        self.settings.clone()
    }
}

impl Handle<Note> for Notes {
    fn handle(&self, _: &State, note: Note, _: &Context) -> Effect<Self, u64> {
        let events = (0..note.times).map(|_| Noted { data: note.data.clone() });
        Self::persist_all(events.collect()).reply(|state| state.count)
    }
}

impl Handle<Count> for Notes {
    fn handle(&self, state: &State, _: Count, _: &Context) -> Effect<Self, u64> {
        Effect::reply(state.count)
    }
}

/// A node in a folder.
pub(crate) async fn start(dir: &Path, settings: EntitySettings) -> Result<Node, Failure> {
    Ok(Node::builder(dir).register(Notes { settings }).start().await?)
}

/// Where a node's log is.
pub(crate) fn log_dir(dir: &Path) -> std::path::PathBuf {
    dir.join("log")
}

/// The entity's events, as the node itself would append them.
pub(crate) fn events(bytes: usize, batch: usize) -> Result<Events, Failure> {
    let noted = Noted { data: payload(bytes) };
    let schema = noted.schema();
    Ok(Events { event: NewEvent::new(schema.name, schema.version, noted.encode()?), batch })
}

/// References to the entities number `0..n`.
pub(crate) fn references(node: &Node, n: usize) -> Result<Arc<[EntityRef<Notes>]>, Failure> {
    (0..n).map(|i| Ok(node.entity::<Notes>(&i.to_string())?)).collect()
}

/// Asks each entity once for its count, so many at a time.
pub(crate) async fn touch(
    entities: impl Iterator<Item = EntityRef<Notes>>,
    callers: usize,
) -> Result<(), Failure> {
    counts(entities, callers).try_for_each(|_| std::future::ready(Ok(()))).await
}

/// Asks each entity once for its count, so many at a time, and checks the answers.
pub(crate) async fn ask_each(
    entities: impl Iterator<Item = EntityRef<Notes>>,
    callers: usize,
    expected: u64,
    answered: impl Fn(),
) -> Result<(), Failure> {
    counts(entities, callers)
        .try_for_each(|count| {
            answered();
            let checked = if count == expected {
                Ok(())
            } else {
                Err(format!("an entity has {count} events instead of {expected}").into())
            };
            std::future::ready(checked)
        })
        .await
}

/// Each entity's count, as the answers come.
fn counts(
    entities: impl Iterator<Item = EntityRef<Notes>>,
    callers: usize,
) -> impl Stream<Item = Result<u64, Failure>> {
    stream::iter(entities)
        .map(|entity| tokio::spawn(async move { entity.ask(Count).await }))
        .buffer_unordered(callers)
        .map(|joined| Ok(joined??))
}
