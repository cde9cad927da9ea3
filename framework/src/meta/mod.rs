//! What the framework keeps of an entity beside the user's state: deliveries that are to be sent,
//! those that were received, reminders.
//!
//! It changes by *reserved events*: events of the framework in the entity's own stream, whose names
//! begin with [`RESERVED`]. They ride in the batch of the command that they belong to, so they happen
//! with its events or not at all; the user's `apply` never sees them. Replay folds them into the
//! [`Meta`], and snapshots hold it beside the state.
//!
//! ```text
//! call        a command as bytes
//! outbox      deliveries to other entities, until they are done
//! inbox       which deliveries of others were carried out
//! reminders   commands to itself at a later time
//! held        what is prepared for a transaction that is not decided yet
//! ```
//!
//! To keep one thing more: a variant of [`Reserved`], a part with its [`Section`], and what a command
//! wishes for as a [`Wish`].

mod call;
mod held;
pub(crate) mod inbox;
pub(crate) mod outbox;
pub(crate) mod reminders;
mod wish;

use bytes::Bytes;
use duractor_journal::{EntityId, Timestamp};

pub(crate) use self::{
    call::{Call, Then},
    held::{Held, StoredEvent},
    inbox::Judgement,
    wish::{Denied, Errand, Origin, When, Wish},
};
use self::{
    held::Preparations,
    inbox::{Inbox, Last},
    outbox::{DeadLetter, Outbox, Pending},
    reminders::{Reminder, Reminders},
};
use crate::{Event, codec::CodecError, settings::EntitySettings};

/// What the names of the framework's own kinds, events and commands begin with.
pub(crate) const RESERVED: &str = "duractor.";

/// Whether a name is the framework's.
pub(crate) fn is_reserved(name: &str) -> bool {
    name.starts_with(RESERVED)
}

/// An event of the framework in an entity's stream.
#[derive(Debug, Clone, PartialEq, Eq, Event)]
pub(crate) enum Reserved {
    /// A command for another entity is to be delivered.
    #[event(name = "duractor.deliver")]
    Deliver { number: u64, to: EntityId, call: Call, then: Option<Then> },
    /// It was, or its outcome was handled.
    #[event(name = "duractor.delivered")]
    Delivered { number: u64 },
    /// It was given up.
    #[event(name = "duractor.undelivered")]
    Undelivered { number: u64, reason: String },
    /// A command that another entity delivered was carried out, in this batch.
    #[event(name = "duractor.received")]
    Received { from: EntityId, number: u64, reply: Option<Bytes> },
    /// A command to itself is to be handled at a time.
    #[event(name = "duractor.remind")]
    Remind { name: String, id: u64, due: Timestamp, every_ms: u64, call: Call },
    /// Not any more.
    #[event(name = "duractor.reminder-cancelled")]
    ReminderCancelled { name: String },
    /// It was, in this batch. Or it was given up, and this is why.
    #[event(name = "duractor.reminded")]
    Reminded { id: u64, given_up: Option<String> },
    /// A transaction has decided on a command: these are its events, if it is committed.
    #[event(name = "duractor.prepared")]
    Prepared {
        number: u64,
        id: String,
        attempt: u64,
        patience_ms: u64,
        events: Vec<StoredEvent>,
        reply: Bytes,
    },
    /// It is decided. The events of one that is committed stand before this one, in its batch.
    #[event(name = "duractor.decided")]
    Decided { number: u64, committed: bool },
}

/// A part of the meta as a snapshot holds it.
#[derive(Debug, Clone, PartialEq, Eq, Event)]
enum Section {
    #[event(name = "outbox")]
    Outbox { last: u64, pending: Vec<(u64, Pending)>, dead: u64, letters: Vec<DeadLetter> },
    #[event(name = "inbox")]
    Inbox { senders: Vec<(EntityId, Last)>, forgotten: Timestamp },
    #[event(name = "reminders")]
    Reminders { last: u64, reminders: Vec<(String, Reminder)> },
    #[event(name = "prepared")]
    Prepared { last: u64, held: Option<Held> },
}

/// A section in its encoded form: name, version, fields.
pub(crate) type Packed = (String, u16, Bytes);

/// What the framework keeps of an entity. Takes no memory until there is something.
#[derive(Debug, Default)]
pub(crate) struct Meta {
    parts: Option<Box<Parts>>,
}

#[derive(Debug, Default)]
struct Parts {
    outbox: Outbox,
    inbox: Inbox,
    reminders: Reminders,
    prepared: Preparations,
}

impl Meta {
    /// Nothing was ever kept.
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_none()
    }

    pub(crate) fn outbox(&self) -> Option<&Outbox> {
        self.parts.as_ref().map(|parts| &parts.outbox)
    }

    pub(crate) fn inbox(&self) -> Option<&Inbox> {
        self.parts.as_ref().map(|parts| &parts.inbox)
    }

    pub(crate) fn reminders(&self) -> Option<&Reminders> {
        self.parts.as_ref().map(|parts| &parts.reminders)
    }

    /// What is prepared for a transaction that is not decided yet.
    pub(crate) fn held(&self) -> Option<&Held> {
        self.parts.as_ref()?.prepared.held()
    }

    #[cfg(feature = "planted")]
    pub(crate) fn forget_held(&mut self) {
        if let Some(number) = self.held().map(|held| held.number)
            && let Some(parts) = &mut self.parts
        {
            parts.prepared.decided(number);
        }
    }

    /// The highest number that a preparation was given.
    pub(crate) fn last_held(&self) -> u64 {
        self.parts.as_ref().map_or(0, |parts| parts.prepared.last())
    }

    /// From when on the entity has something to do without being called: 0 where that is at once.
    /// `None`: it has nothing to do.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        let parts = self.parts.as_ref()?;
        // What is prepared has to ask for the decision where it hears nothing.
        let at_once = !parts.outbox.is_empty() || parts.prepared.held().is_some();
        if at_once { Some(Timestamp(0)) } else { parts.reminders.due() }
    }

    /// Takes in an event that was written at `at`.
    pub(crate) fn apply(&mut self, event: Reserved, at: Timestamp, settings: &EntitySettings) {
        let Parts { outbox, inbox, reminders, prepared } =
            &mut **self.parts.get_or_insert_default();
        match event {
            Reserved::Deliver { number, to, call, then } => {
                outbox.add(number, Pending { to, call, then, since: at });
            }
            Reserved::Delivered { number } => outbox.done(number),
            Reserved::Undelivered { number, reason } => outbox.give_up(number, reason),
            Reserved::Received { from, number, reply } => {
                inbox.add(from, Last { number, at, reply }, settings);
            }
            Reserved::Remind { name, id, due, every_ms, call } => {
                reminders.set(name, Reminder { id, due, every_ms, call });
            }
            Reserved::ReminderCancelled { name } => reminders.cancel(&name),
            Reserved::Reminded { id, .. } => reminders.fired(id, at),
            Reserved::Prepared { number, id, attempt, patience_ms, events, reply } => {
                prepared.prepared(Held { number, id, attempt, patience_ms, events, reply });
            }
            Reserved::Decided { number, .. } => prepared.decided(number),
        }
    }

    /// For a snapshot.
    pub(crate) fn pack(&self) -> Result<Vec<Packed>, CodecError> {
        let Some(parts) = &self.parts else { return Ok(Vec::new()) };
        let Parts { outbox, inbox, reminders, prepared } = &**parts;
        let mut sections = vec![outbox.section(), inbox.section(), reminders.section()];
        if prepared.last() > 0 {
            sections.push(prepared.section());
        }
        let packed = sections.iter().map(|section| {
            let schema = section.schema();
            Ok((schema.name.to_owned(), schema.version, section.encode()?))
        });
        packed.collect()
    }

    /// From a snapshot.
    pub(crate) fn unpack(packed: Vec<Packed>) -> Result<Self, CodecError> {
        let mut meta = Meta::default();
        for (name, version, fields) in packed {
            for section in Section::decode(&name, version, &fields)? {
                let parts = meta.parts.get_or_insert_default();
                match section {
                    Section::Outbox { last, pending, dead, letters } => {
                        parts.outbox = Outbox::new(last, pending, dead, letters);
                    }
                    Section::Inbox { senders, forgotten } => {
                        parts.inbox = Inbox::new(senders, forgotten);
                    }
                    Section::Reminders { last, reminders } => {
                        parts.reminders = Reminders::new(last, reminders);
                    }
                    Section::Prepared { last, held } => {
                        parts.prepared = Preparations::new(last, held);
                    }
                }
            }
        }
        Ok(meta)
    }
}

#[cfg(test)]
mod tests;
