//! Durable state: entities that keep their newest state, and not how they came to it.
//!
//! The runtime is that of event-sourced entities. The one event is "the state is now this", so
//! everything holds that holds there: request ids, expected revisions, the pipeline, snapshots. What
//! is superseded is deleted: a snapshot is taken every so many changes
//! ([`EntitySettings::snapshot_every`]), and the states that were written before it go.

use std::{fmt, marker::PhantomData};

use bytes::Bytes;
use duractor_journal::Seq;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    codec::{CodecError, Decoder, Encoder, Schema, unknown},
    effect::{Effect, Unanswered},
    entity::{CommandSet, EventSourced},
    event::Event,
    settings::EntitySettings,
};

/// An entity that keeps its newest state. Its commands are handled through
/// [`Handle`](crate::Handle), as those of [`EventSourced`] entities, and change it with
/// [`Replace::replace`]:
///
/// ```
/// use duractor::{Command, Context, DurableState, Effect, Handle, Replace};
///
/// #[derive(Command)]
/// #[command(reply = ())]
/// struct Rename {
///     to: String,
/// }
///
/// struct Profile;
///
/// impl DurableState for Profile {
///     const KIND: &'static str = "profile";
///     type State = String;
///     type Commands = (Rename,);
/// }
///
/// impl Handle<Rename> for Profile {
///     fn handle(&self, _: &String, rename: Rename, _: &Context) -> Effect<Self, ()> {
///         Self::replace(rename.to).no_reply()
///     }
/// }
/// ```
///
/// Each change raises the entity's revision by one; `ask(..).expected_revision(..)` refuses a
/// command where somebody else was there first.
pub trait DurableState: Sized + Send + Sync + 'static {
    /// See [`EventSourced::KIND`].
    const KIND: &'static str;
    /// Version of the state's schema: raise it when the type changes, and take the old ones in
    /// [`upgrade`](Self::upgrade).
    const VERSION: u16 = 1;
    /// The state; `Default` is that of an entity that was never changed.
    type State: Default + Clone + Serialize + DeserializeOwned + Send + Sync + 'static;
    /// The commands that it takes, as a tuple.
    type Commands: CommandSet<Self>;

    /// How entities of this kind behave. The state's version is [`VERSION`](Self::VERSION), and
    /// superseded states are deleted, whatever is set here.
    fn settings(&self) -> EntitySettings {
        EntitySettings::default().snapshot_every(100).keep_snapshots(1)
    }

    /// Reads a state of an older version. `None`: it cannot be read, which quarantines the entity.
    fn upgrade(version: u16, bytes: &[u8]) -> Option<Self::State> {
        let _ = (version, bytes);
        None
    }
}

/// The event of a [`DurableState`] entity: its state is now this.
pub struct Replaced<T: DurableState> {
    state: T::State,
    entity: PhantomData<fn() -> T>,
}

impl<T: DurableState> fmt::Debug for Replaced<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replaced").finish_non_exhaustive()
    }
}

/// What its only event is stored as.
const NAME: &str = "state";

impl<T: DurableState> Replaced<T> {
    const SCHEMAS: &'static [Schema] = &[Schema { name: NAME, version: T::VERSION }];
}

impl<T: DurableState> Event for Replaced<T> {
    fn schemas() -> &'static [Schema] {
        Self::SCHEMAS
    }

    fn schema(&self) -> Schema {
        Schema { name: NAME, version: T::VERSION }
    }

    fn encode(&self) -> Result<Bytes, CodecError> {
        let mut out = Encoder::new(NAME);
        out.field("state", &self.state)?;
        Ok(out.finish())
    }

    fn decode(name: &str, version: u16, payload: &[u8]) -> Result<Vec<Self>, CodecError> {
        if name != NAME {
            return Err(unknown(Self::SCHEMAS, name, version));
        }
        let state = if version == T::VERSION {
            let mut input = Decoder::new(name, version, payload);
            let state = input.field("state")?;
            input.finish()?;
            state
        } else {
            T::upgrade(version, payload).ok_or_else(|| unknown(Self::SCHEMAS, name, version))?
        };
        Ok(vec![Replaced { state, entity: PhantomData }])
    }
}

impl<T: DurableState> EventSourced for T {
    const KIND: &'static str = T::KIND;
    type State = T::State;
    type Event = Replaced<T>;
    type Commands = T::Commands;

    fn apply(state: &mut T::State, event: &Replaced<T>) {
        state.clone_from(&event.state);
    }

    fn settings(&self) -> EntitySettings {
        DurableState::settings(self).state_version(T::VERSION).delete_events(true)
    }

    fn wants_snapshot(&self, _: &T::State, _: &Replaced<T>, _: Seq) -> bool {
        false
    }

    fn upgrade_state(&self, version: u16, bytes: &[u8]) -> Option<T::State> {
        T::upgrade(version, bytes)
    }
}

/// Changes the state of a [`DurableState`] entity.
pub trait Replace: DurableState {
    /// Writes the new state: an effect that still needs its answer.
    fn replace(state: Self::State) -> Unanswered<Self> {
        Effect::persist(Replaced { state, entity: PhantomData })
    }
}

impl<T: DurableState> Replace for T {}
