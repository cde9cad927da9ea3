//! What a command wants kept, and what a command itself is in the eyes of the meta.

use std::collections::BTreeSet;

use bytes::Bytes;
use duractor_journal::{EntityId, Timestamp};

use super::{Call, Meta, Reserved, Then, inbox::Judgement, outbox::Outbox, reminders::Reminders};
use crate::{error::AskError, settings::EntitySettings};

/// What an effect asks to be kept.
#[derive(Debug, Clone)]
pub(crate) enum Wish {
    Deliver {
        to: EntityId,
        call: Call,
        then: Option<Then>,
    },
    /// At a time, or so many milliseconds after now.
    Remind {
        name: String,
        when: When,
        every_ms: u64,
        call: Call,
    },
    CancelReminder {
        name: String,
    },
    /// As it is: for what the framework decides itself.
    #[allow(dead_code, reason = "for the next thing to be kept")]
    Write(Reserved),
    /// It cannot be: the command is refused.
    Invalid(AskError),
}

/// When a reminder is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    At(Timestamp),
    After(u64),
}

/// Where a command comes from, if not from a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Another entity delivers it.
    Delivery { from: EntityId, number: u64, since: Timestamp, wants_reply: bool },
    /// It is what came of the entity's own delivery.
    Outcome { number: u64, given_up: Option<String> },
    /// It is a reminder that is due.
    Reminder { id: u64, given_up: Option<String> },
}

/// A piece of work that an entity does without being called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Errand {
    /// The next delivery to this receiver.
    To(EntityId),
    /// The reminder with this id.
    Reminder(u64),
}

/// The longest name of a reminder, in bytes.
const MAX_NAME: usize = 255;

/// Why a wish is not granted.
pub(crate) enum Denied {
    Limit(&'static str, usize),
    Error(AskError),
}

impl Meta {
    /// What a command is that comes from there.
    pub(crate) fn judge(
        &self,
        origin: &Origin,
        now: Timestamp,
        settings: &EntitySettings,
    ) -> Judgement {
        let is_open = match origin {
            Origin::Delivery { from, number, since, .. } => {
                let known = self.inbox().map(|it| it.judge(from, *number, *since, now, settings));
                return known.unwrap_or(Judgement::New);
            }
            Origin::Outcome { number, .. } => {
                self.outbox().is_some_and(|outbox| outbox.pending().contains_key(number))
            }
            Origin::Reminder { id, .. } => self.reminders().is_some_and(|it| it.get(*id).is_some()),
        };
        if is_open { Judgement::New } else { Judgement::Repeat(None) }
    }

    /// The events that come of the wishes; nothing is changed yet.
    pub(crate) fn grant(
        &self,
        wishes: Vec<Wish>,
        now: Timestamp,
        settings: &EntitySettings,
    ) -> Result<Vec<Reserved>, Denied> {
        let mut pending = self.outbox().map_or(0, |outbox| outbox.pending().len());
        let mut number = self.outbox().map_or(0, Outbox::last);
        let mut id = self.reminders().map_or(0, Reminders::last);
        let known = self.reminders().into_iter().flat_map(|it| it.by_name().keys().cloned());
        let mut names: BTreeSet<String> = known.collect();
        let mut events = Vec::with_capacity(wishes.len());
        for wish in wishes {
            events.push(match wish {
                Wish::Deliver { to, call, then } => {
                    pending += 1;
                    number += 1;
                    if pending > settings.outbox {
                        return Err(Denied::Limit("pending deliveries", settings.outbox));
                    }
                    Reserved::Deliver { number, to, call, then }
                }
                Wish::Remind { name, when, every_ms, call } => {
                    if name.len() > MAX_NAME {
                        return Err(Denied::Limit("bytes in a reminder's name", MAX_NAME));
                    }
                    id += 1;
                    names.insert(name.clone());
                    if names.len() > settings.reminders {
                        return Err(Denied::Limit("reminders", settings.reminders));
                    }
                    let due = match when {
                        When::At(at) => at,
                        When::After(after_ms) => Timestamp(now.0.saturating_add(after_ms)),
                    };
                    Reserved::Remind { name, id, due, every_ms, call }
                }
                Wish::CancelReminder { name } if !names.remove(&name) => continue,
                Wish::CancelReminder { name } => Reserved::ReminderCancelled { name },
                Wish::Write(event) => event,
                Wish::Invalid(error) => return Err(Denied::Error(error)),
            });
        }
        Ok(events)
    }
}

impl Origin {
    /// What says that the command was carried out, in the batch of its events. `reply` is what it
    /// answered.
    pub(crate) fn carried_out(&self, reply: Option<Bytes>) -> Reserved {
        match self {
            Origin::Delivery { from, number, .. } => {
                Reserved::Received { from: from.clone(), number: *number, reply }
            }
            Origin::Outcome { number, given_up: None } => Reserved::Delivered { number: *number },
            Origin::Outcome { number, given_up: Some(reason) } => {
                Reserved::Undelivered { number: *number, reason: reason.clone() }
            }
            Origin::Reminder { id, given_up } => {
                Reserved::Reminded { id: *id, given_up: given_up.clone() }
            }
        }
    }

    /// Whether the answer is kept.
    pub(crate) fn wants_reply(&self) -> bool {
        matches!(self, Origin::Delivery { wants_reply: true, .. })
    }
}
