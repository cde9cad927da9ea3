//! Commands that an entity sends itself at a later time.

use std::collections::BTreeMap;

use duractor_journal::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Section, call::Call};

/// A reminder that was set. Stored: its fields stay in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reminder {
    /// Tells it from one of the same name that it replaced.
    pub(crate) id: u64,
    pub(crate) due: Timestamp,
    /// Again each time so much later; 0: once.
    pub(crate) every_ms: u64,
    pub(crate) call: Call,
}

/// An entity's reminders, by their names.
#[derive(Debug, Default)]
pub(crate) struct Reminders {
    last: u64,
    reminders: BTreeMap<String, Reminder>,
}

impl Reminders {
    pub(super) fn new(last: u64, reminders: Vec<(String, Reminder)>) -> Self {
        Self { last, reminders: reminders.into_iter().collect() }
    }

    pub(super) fn section(&self) -> Section {
        let reminders = self.reminders.iter().map(|(name, set)| (name.clone(), set.clone()));
        Section::Reminders { last: self.last, reminders: reminders.collect() }
    }

    /// The highest id that was given.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    pub(crate) fn by_name(&self) -> &BTreeMap<String, Reminder> {
        &self.reminders
    }

    /// The one with this id, if it is still set.
    pub(crate) fn get(&self, id: u64) -> Option<(&String, &Reminder)> {
        self.reminders.iter().find(|(_, reminder)| reminder.id == id)
    }

    /// When the first one is due.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        self.reminders.values().map(|reminder| reminder.due).min()
    }

    pub(super) fn set(&mut self, name: String, reminder: Reminder) {
        self.last = self.last.max(reminder.id);
        self.reminders.insert(name, reminder);
    }

    pub(super) fn cancel(&mut self, name: &str) {
        self.reminders.remove(name);
    }

    /// It was handled, at `at`. One that comes again is due at the first of its times after that: those
    /// that were missed are not made up for.
    pub(super) fn fired(&mut self, id: u64, at: Timestamp) {
        let Some(name) = self.get(id).map(|(name, _)| name.clone()) else { return };
        let Some(reminder) = self.reminders.get_mut(&name) else { return };
        if reminder.every_ms == 0 {
            self.reminders.remove(&name);
            return;
        }
        let passed = at.0.saturating_sub(reminder.due.0) / reminder.every_ms + 1;
        let later = reminder.every_ms.saturating_mul(passed);
        reminder.due = Timestamp(reminder.due.0.saturating_add(later));
        // Another id: what was sent for this time is not taken for the next.
        self.last += 1;
        reminder.id = self.last;
    }
}
