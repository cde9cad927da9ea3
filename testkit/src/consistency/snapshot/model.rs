//! What a snapshot store may hold, from what it answered.

use std::collections::BTreeMap;

use duractor_journal::{Effect, EntityId, Seq};
use duractor_snapshot::SnapshotError;

/// One change of one place, in the order of the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) call: u64,
    /// The number of the snapshot that is there after it; `None` for nothing.
    pub(super) value: Option<u64>,
    pub(super) certain: bool,
}

/// What each place may hold: the last certain change, or any later one.
#[derive(Default)]
pub(super) struct Model {
    pub(super) places: BTreeMap<(EntityId, Seq), Vec<Change>>,
    pub(super) calls: u64,
}

impl Model {
    /// What may be at a place.
    pub(super) fn may_be(&self, place: &(EntityId, Seq)) -> Vec<Option<u64>> {
        let changes = self.places.get(place).map_or(&[][..], |changes| changes);
        let from = changes.iter().rposition(|change| change.certain);
        let mut values: Vec<_> = changes[from.unwrap_or(0)..].iter().map(|c| c.value).collect();
        if from.is_none() {
            values.push(None);
        }
        values
    }

    pub(super) fn change(&mut self, place: (EntityId, Seq), call: u64, value: Option<u64>) {
        let change = Change { call, value, certain: false };
        self.places.entry(place).or_default().push(change);
    }

    /// An entity's places, the newest first.
    pub(super) fn of(&self, entity: &EntityId) -> Vec<(EntityId, Seq)> {
        let range = (entity.clone(), Seq::ZERO)..=(entity.clone(), Seq::MAX);
        self.places.range(range).rev().map(|(place, _)| place.clone()).collect()
    }

    /// A call was answered.
    pub(super) fn answered<T>(&mut self, call: u64, answer: &Result<T, SnapshotError>) {
        let refused = answer.as_ref().is_err_and(|error| error.effect() == Effect::None);
        for changes in self.places.values_mut() {
            if refused {
                changes.retain(|change| change.call != call);
            } else if answer.is_ok() {
                // Calls take effect in their order: all before this one are settled at this place.
                if let Some(at) = changes.iter().rposition(|change| change.call == call) {
                    changes.drain(..at);
                    changes[0].certain = true;
                }
            }
        }
    }

    /// What was read at a place is certain.
    pub(super) fn seen(&mut self, place: &(EntityId, Seq), value: Option<u64>) {
        let certain = vec![Change { call: 0, value, certain: true }];
        self.places.insert(place.clone(), certain);
    }

    /// Whether a place may be empty.
    pub(super) fn may_be_absent(&self, place: &(EntityId, Seq)) -> bool {
        self.may_be(place).contains(&None)
    }
}
