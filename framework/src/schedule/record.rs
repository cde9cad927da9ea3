//! The record of a schedule, as an entity: how far it is.

use duractor_journal::{EntityId, InvalidId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    Command, Event,
    context::Context,
    effect::{Effect, Handle, Persist},
    entity::EventSourced,
    settings::EntitySettings,
};

/// The kind of these entities; their keys are the schedules' names.
const KIND: &str = "duractor.schedule";

/// The record of the schedule with this name.
pub(super) fn record_of(name: &str) -> Result<EntityId, InvalidId> {
    EntityId::new(KIND, name)
}

pub(crate) struct Schedules;

/// How far a schedule is. Stored: its fields stay in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(super) expression: String,
    /// Occurrences up to this time are no concern any more.
    pub(super) settled: Timestamp,
    /// One that was begun, and of whose end nothing is known.
    pub(super) begun: Option<Timestamp>,
    /// The highest fencing token that it has seen.
    pub(super) token: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Event)]
pub(crate) enum Recorded {
    /// The schedule is new, or it is another one: it counts from this time.
    #[event(name = "set")]
    Set { expression: String, from: Timestamp, token: u64 },
    #[event(name = "begun")]
    Begun { at: Timestamp, token: u64 },
    #[event(name = "done")]
    Done { at: Timestamp },
    #[event(name = "given-up")]
    GivenUp { at: Timestamp },
    /// All up to this one were missed.
    #[event(name = "skipped")]
    Skipped { to: Timestamp },
}

/// What whoever runs a schedule does next. New ones are added at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Step {
    /// It has this expression; where that is new, it counts from this time.
    Set(String, Timestamp),
    Begin(Timestamp),
    Done(Timestamp),
    GiveUp(Timestamp),
    Skip(Timestamp),
}

/// Answered with the record after it.
#[derive(Debug, Clone, Command)]
#[command(reply = Result<Record, Superseded>, name = "advance")]
pub(crate) struct Advance {
    pub(super) token: u64,
    pub(super) step: Step,
}

/// A later run of the singleton is at work, or another occurrence is being run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("a later run has taken over, with token {token}")]
pub(crate) struct Superseded {
    token: u64,
}

impl Record {
    /// The event of a step, if it changes something.
    fn decide(&self, Advance { token, step }: Advance) -> Result<Option<Recorded>, Superseded> {
        let superseded = Err(Superseded { token: self.token });
        if token < self.token {
            return superseded;
        }
        Ok(match step {
            Step::Set(expression, _) if expression == self.expression => None,
            Step::Set(expression, from) => Some(Recorded::Set { expression, from, token }),
            Step::Begin(at) if self.begun.is_some_and(|begun| begun != at) => return superseded,
            Step::Begin(_) if self.begun.is_some() && self.token == token => None,
            Step::Begin(at) if self.begun.is_none() && at <= self.settled => return superseded,
            Step::Begin(at) => Some(Recorded::Begun { at, token }),
            Step::Done(at) if self.begun == Some(at) => Some(Recorded::Done { at }),
            Step::GiveUp(at) if self.begun == Some(at) => Some(Recorded::GivenUp { at }),
            Step::Skip(to) if to > self.settled => Some(Recorded::Skipped { to }),
            // It was taken already: this is a repeat.
            Step::Done(_) | Step::GiveUp(_) | Step::Skip(_) => None,
        })
    }
}

impl EventSourced for Schedules {
    const KIND: &'static str = KIND;
    type State = Record;
    type Event = Recorded;
    type Commands = (Advance,);

    fn apply(record: &mut Record, event: &Recorded) {
        match event {
            Recorded::Set { expression, from, token } => {
                record.expression.clone_from(expression);
                // The clock of who sets it may be behind that of who did the last one.
                (record.settled, record.token) = (record.settled.max(*from), *token);
            }
            Recorded::Begun { at, token } => {
                (record.begun, record.token) = (Some(*at), *token);
            }
            Recorded::Done { at } | Recorded::GivenUp { at } => {
                // A changed expression may count from a later time than what was begun before.
                (record.settled, record.begun) = (record.settled.max(*at), None);
            }
            Recorded::Skipped { to } => record.settled = *to,
        }
    }

    fn settings(&self) -> EntitySettings {
        let settings = EntitySettings::default().snapshot_every(100).delete_events(true);
        // Repeats are seen by what they say.
        settings.dedup_count(0)
    }
}

impl Handle<Advance> for Schedules {
    fn handle(
        &self,
        record: &Record,
        advance: Advance,
        _: &Context,
    ) -> Effect<Self, Result<Record, Superseded>> {
        match record.decide(advance) {
            Ok(Some(event)) => Self::persist(event).reply(|record| Ok(record.clone())),
            Ok(None) => Effect::reply(Ok(record.clone())),
            Err(superseded) => Effect::reply(Err(superseded)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

    fn take(record: &mut Record, token: u64, step: Step) -> Result<bool, Superseded> {
        let event = record.decide(Advance { token, step })?;
        let changes = event.is_some();
        event.iter().for_each(|event| Schedules::apply(record, event));
        Ok(changes)
    }

    #[test]
    fn one_at_a_time_is_begun_and_none_twice() {
        let mut record = Record::default();
        let at = |n: u64| Timestamp(1000 * n);
        assert_eq!(take(&mut record, 1, Step::Set("* * * * *".into(), at(0))), Ok(true));
        assert_eq!(take(&mut record, 1, Step::Begin(at(1))), Ok(true));
        assert_eq!(take(&mut record, 1, Step::Begin(at(1))), Ok(false), "a repeat");
        assert!(take(&mut record, 1, Step::Begin(at(2))).is_err(), "the first is not at its end");
        assert_eq!(take(&mut record, 1, Step::Done(at(1))), Ok(true));
        assert_eq!(take(&mut record, 1, Step::Done(at(1))), Ok(false), "a repeat");
        assert!(take(&mut record, 1, Step::Begin(at(1))).is_err(), "it was done");
        assert_eq!(take(&mut record, 1, Step::Skip(at(3))), Ok(true));
        assert!(take(&mut record, 1, Step::Begin(at(3))).is_err(), "it was skipped");
        // What is not new changes nothing, and what is new counts from its time.
        assert_eq!(take(&mut record, 1, Step::Set("* * * * *".into(), at(9))), Ok(false));
        assert_eq!(take(&mut record, 1, Step::Set("0 * * * *".into(), at(9))), Ok(true));
        assert_eq!(record.settled, at(9));
        // Set by a node whose clock is behind: what was done is not run again.
        assert_eq!(take(&mut record, 1, Step::Set("* * * * *".into(), at(4))), Ok(true));
        assert!(take(&mut record, 1, Step::Begin(at(9))).is_err());
    }

    #[test]
    fn who_was_superseded_changes_nothing() {
        let mut record = Record::default();
        let at = Timestamp(1000);
        take(&mut record, 1, Step::Begin(at)).unwrap();
        assert_eq!(take(&mut record, 2, Step::Begin(at)), Ok(true), "its successor runs it again");
        for step in [Step::Begin(at), Step::Done(at), Step::GiveUp(at), Step::Skip(at)] {
            assert_eq!(take(&mut record, 1, step), Err(Superseded { token: 2 }));
        }
        assert_eq!(take(&mut record, 2, Step::Done(at)), Ok(true));
    }

    #[test]
    fn events_keep_their_bytes() {
        let (at, expression) = (Timestamp(300), "@daily".to_owned());
        golden::<Recorded>(&[
            (&[Recorded::Set { expression, from: at, token: 2 }], "set", 1, "06406461696c79ac0202"),
            (&[Recorded::Begun { at, token: 2 }], "begun", 1, "ac0202"),
            (&[Recorded::Done { at }], "done", 1, "ac02"),
            (&[Recorded::GivenUp { at }], "given-up", 1, "ac02"),
            (&[Recorded::Skipped { to: at }], "skipped", 1, "ac02"),
        ]);
    }
}
