//! Deliveries to other entities, from the batch that decided them until they are done.

use std::collections::{BTreeMap, VecDeque};

use duractor_journal::{EntityId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    Section,
    call::{Call, Then},
};

/// So many of the newest dead letters are kept to be looked at; all are counted.
pub(crate) const LETTERS: usize = 16;

/// A delivery that is not done. Stored: its fields stay in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pending {
    pub(crate) to: EntityId,
    pub(crate) call: Call,
    pub(crate) then: Option<Then>,
    /// When it was decided, by the clock of the sender's node.
    pub(crate) since: Timestamp,
}

/// A delivery that was given up. Stored: its fields stay in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeadLetter {
    pub(crate) number: u64,
    pub(crate) pending: Pending,
    pub(crate) reason: String,
}

/// An entity's deliveries. Numbers count up from 1 over all receivers, so those to one receiver rise.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    last: u64,
    pending: BTreeMap<u64, Pending>,
    dead: u64,
    letters: VecDeque<DeadLetter>,
}

impl Outbox {
    pub(super) fn new(
        last: u64,
        pending: Vec<(u64, Pending)>,
        dead: u64,
        letters: Vec<DeadLetter>,
    ) -> Self {
        Self { last, pending: pending.into_iter().collect(), dead, letters: letters.into() }
    }

    pub(super) fn section(&self) -> Section {
        Section::Outbox {
            last: self.last,
            pending: self
                .pending
                .iter()
                .map(|(number, pending)| (*number, pending.clone()))
                .collect(),
            dead: self.dead,
            letters: self.letters.iter().cloned().collect(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// The highest number that was given.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Those that are not done, by their numbers.
    pub(crate) fn pending(&self) -> &BTreeMap<u64, Pending> {
        &self.pending
    }

    /// How many were given up, ever.
    pub(crate) fn dead(&self) -> u64 {
        self.dead
    }

    /// The newest of those that were given up.
    pub(crate) fn letters(&self) -> impl Iterator<Item = &DeadLetter> {
        self.letters.iter()
    }

    pub(super) fn add(&mut self, number: u64, pending: Pending) {
        self.last = self.last.max(number);
        self.pending.insert(number, pending);
    }

    pub(super) fn done(&mut self, number: u64) {
        self.pending.remove(&number);
    }

    pub(super) fn give_up(&mut self, number: u64, reason: String) {
        let Some(pending) = self.pending.remove(&number) else { return };
        self.dead += 1;
        if self.letters.len() == LETTERS {
            self.letters.pop_front();
        }
        self.letters.push_back(DeadLetter { number, pending, reason });
    }
}
