//! What is prepared for a transaction and not decided yet.

use bytes::Bytes;
use duractor_journal::NewEvent;
use serde::{Deserialize, Serialize};

use super::Section;

/// A user's event that is written where the transaction is committed. Stored: its fields stay in this
/// order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredEvent {
    pub(crate) name: String,
    pub(crate) schema_version: u16,
    pub(crate) tags: Vec<String>,
    pub(crate) payload: Bytes,
}

impl From<NewEvent> for StoredEvent {
    fn from(event: NewEvent) -> Self {
        let NewEvent { name, schema_version, tags, payload, .. } = event;
        Self { name: name.as_ref().to_owned(), schema_version, tags, payload }
    }
}

impl From<StoredEvent> for NewEvent {
    fn from(event: StoredEvent) -> Self {
        let StoredEvent { name, schema_version, tags, payload } = event;
        NewEvent { tags, ..NewEvent::new(name, schema_version, payload) }
    }
}

/// What is prepared. Stored: its fields stay in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    /// Which of the entity's preparations it is.
    pub(crate) number: u64,
    /// Which transaction, and which attempt at it.
    pub(crate) id: String,
    pub(crate) attempt: u64,
    /// How long to wait for the decision before asking for it.
    pub(crate) patience_ms: u64,
    pub(crate) events: Vec<StoredEvent>,
    pub(crate) reply: Bytes,
}

/// The preparations of an entity: one at a time.
#[derive(Debug, Default)]
pub(crate) struct Preparations {
    last: u64,
    held: Option<Held>,
}

impl Preparations {
    pub(super) fn new(last: u64, held: Option<Held>) -> Self {
        Self { last, held }
    }

    pub(super) fn section(&self) -> Section {
        Section::Prepared { last: self.last, held: self.held.clone() }
    }

    /// The highest number that was given.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    pub(super) fn prepared(&mut self, held: Held) {
        self.last = self.last.max(held.number);
        self.held = Some(held);
    }

    pub(super) fn decided(&mut self, number: u64) {
        self.held.take_if(|held| held.number == number);
    }
}
