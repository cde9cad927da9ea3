//! A look at what an entity has yet to do: for operators and tests.

use duractor_journal::{EntityId, Timestamp};

use crate::meta::{Meta, outbox::Pending};

/// What an entity has yet to do without being called, and what it could not: see
/// [`EntityRef::follow_ups`](crate::EntityRef::follow_ups).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FollowUps {
    /// Deliveries that are not done, in their order.
    pub deliveries: Vec<PendingDelivery>,
    /// How many deliveries were given up, ever.
    pub dead: u64,
    /// The newest of those, at most 16, with the reason.
    pub dead_letters: Vec<(PendingDelivery, String)>,
    /// Reminders that are set, by their names.
    pub reminders: Vec<SetReminder>,
}

/// A command that is on its way to another entity.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PendingDelivery {
    /// Counted from 1, over all receivers.
    pub number: u64,
    /// The receiver.
    pub to: EntityId,
    /// The command's stable name.
    pub command: String,
    /// When it was decided, by the clock of the node that did.
    pub since: Timestamp,
}

/// A reminder that is set.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SetReminder {
    /// Its name.
    pub name: String,
    /// When it is due.
    pub due: Timestamp,
    /// The command's stable name.
    pub command: String,
}

impl FollowUps {
    pub(crate) fn of(meta: &Meta) -> Self {
        let delivery = |number: u64, pending: &Pending| PendingDelivery {
            number,
            to: pending.to.clone(),
            command: pending.call.command.clone(),
            since: pending.since,
        };
        let mut all = Self::default();
        if let Some(outbox) = meta.outbox() {
            let pending = outbox.pending().iter();
            all.deliveries = pending.map(|(number, it)| delivery(*number, it)).collect();
            all.dead = outbox.dead();
            let letters = outbox.letters();
            let letter = |it: &crate::meta::outbox::DeadLetter| {
                (delivery(it.number, &it.pending), it.reason.clone())
            };
            all.dead_letters = letters.map(letter).collect();
        }
        for (name, set) in meta.reminders().into_iter().flat_map(|it| it.by_name()) {
            let (name, due, command) = (name.clone(), set.due, set.call.command.clone());
            all.reminders.push(SetReminder { name, due, command });
        }
        all
    }
}
