//! What an entity is: its state, its events and its commands.

use std::any::{Any, TypeId};

use serde::{Serialize, de::DeserializeOwned};

use duractor_journal::Seq;

use crate::{codec::Schema, event::Event, settings::EntitySettings};

/// An event-sourced entity: commands are decided on the state, events change it.
///
/// The type that implements it holds what all entities of the kind share, as settings or clients of
/// other systems; often it is empty. The state of one entity is [`State`](Self::State).
///
/// # Rules
/// - `apply` decides nothing and reads nothing but its arguments: it is run again in every recovery,
///   by every later release. It must not panic.
/// - `handle` changes nothing and waits for nothing: it returns an [`Effect`](crate::Effect), and the
///   framework carries that out.
pub trait EventSourced: Sized + Send + Sync + 'static {
    /// The kind of entity: 1 to 64 bytes without `/`. It is stored, so never change it.
    const KIND: &'static str;
    /// The state; `Default` is that of an entity without events. Encoded with postcard in snapshots.
    type State: Default + Serialize + DeserializeOwned + Send + Sync + 'static;
    /// What can happen to it.
    type Event: Event;
    /// The commands that it takes, as a tuple; each needs [`Handle`](crate::Handle).
    type Commands: CommandSet<Self>;

    /// Changes the state by one event.
    fn apply(state: &mut Self::State, event: &Self::Event);

    /// How entities of this kind behave. Asked once, when the kind is registered.
    fn settings(&self) -> EntitySettings {
        EntitySettings::default()
    }

    /// Labels to find the event by in projections.
    fn tags(&self, event: &Self::Event) -> Vec<String> {
        let _ = event;
        Vec::new()
    }

    /// Whether to take a snapshot after this event, in addition to
    /// [`EntitySettings::snapshot_every`].
    fn wants_snapshot(&self, state: &Self::State, event: &Self::Event, revision: Seq) -> bool {
        let _ = (state, event, revision);
        false
    }

    /// Reads the state from a snapshot of another
    /// [`state_version`](EntitySettings::state_version). `None`: replay the events instead.
    fn upgrade_state(&self, version: u16, bytes: &[u8]) -> Option<Self::State> {
        let _ = (version, bytes);
        None
    }
}

/// The commands that an entity takes: a tuple of up to 24 of them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a set of commands of `{E}`",
    label = "a tuple of commands, each with `impl Handle<TheCommand> for {E}`; `(TheCommand,)` for one"
)]
pub trait CommandSet<E> {
    /// Whether this type is one of them.
    #[doc(hidden)]
    fn contains(command: TypeId) -> bool;

    /// The commands' names and versions.
    #[doc(hidden)]
    fn schemas() -> Vec<Schema>;

    /// How a command of this name that arrives as bytes is taken in: a `Door<E>` of the runtime.
    #[doc(hidden)]
    fn door(name: &str) -> Option<Box<dyn Any>>;
}
