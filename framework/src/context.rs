//! What a handler knows beside the state and the command.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::{Arc, Weak},
};

use duractor_journal::{EntityId, RequestId, Seq, Timestamp};

/// What a handler knows beside the state and the command.
#[derive(Debug, Clone)]
pub struct Context {
    pub(crate) entity: EntityId,
    pub(crate) revision: Seq,
    pub(crate) now: Timestamp,
    pub(crate) request_id: Option<RequestId>,
}

impl Context {
    /// The entity that handles the command.
    #[must_use]
    pub fn entity(&self) -> &EntityId {
        &self.entity
    }

    /// The entity's key.
    #[must_use]
    pub fn key(&self) -> &str {
        self.entity.key()
    }

    /// How many events made the state that the handler sees: the sequence number of the newest one.
    #[must_use]
    pub fn revision(&self) -> Seq {
        self.revision
    }

    /// The node's wall-clock time, in milliseconds since 1970: the time that the events will carry.
    /// Use it in place of the system's clock, so that tests and simulations can set it.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The command's request id, where it has one.
    #[must_use]
    pub fn request_id(&self) -> Option<&RequestId> {
        self.request_id.as_ref()
    }
}

/// The kinds of a node by the type that implements them. Looked up, never iterated.
pub(crate) type Kinds = HashMap<TypeId, Arc<dyn Any + Send + Sync>>;

/// What a side effect gets to work with: see
/// [`Unanswered::then`](crate::effect::Unanswered::then).
#[derive(Clone)]
pub struct SideContext {
    pub(crate) entity: EntityId,
    pub(crate) revision: Seq,
    pub(crate) kinds: Weak<Kinds>,
}

impl SideContext {
    /// The entity whose command had this side effect.
    #[must_use]
    pub fn id(&self) -> &EntityId {
        &self.entity
    }

    /// The entity's revision after that command. Together with the id it names this side effect: use
    /// it to make calls to other systems idempotent.
    #[must_use]
    pub fn revision(&self) -> Seq {
        self.revision
    }
}
