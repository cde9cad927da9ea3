//! What an effect may have beside events and an answer: side effects, messages, timers, and so on.
//!
//! Each is a method of [`Effect`] and of [`Unanswered`], so the order in which they are written does
//! not matter.

use std::{future::Future, time::Duration};

use duractor_journal::{EntityId, Timestamp};

use crate::{
    codec::CodecError,
    command::Command,
    context::SideContext,
    delivery::told,
    effect::{Effect, Handle, Unanswered},
    entity::EventSourced,
    error::AskError,
    intent::{Side, SideError, TimerChange},
    meta::{Call, Then, When, Wish},
    outcome::{self, Outcome},
};

/// What an effect wants delivered.
fn delivery<F: Handle<C>, C: Command>(
    key: &str,
    command: &C,
    then: Option<Result<Then, AskError>>,
) -> Wish {
    let wish = || {
        let to = EntityId::new(F::KIND, key).map_err(AskError::InvalidId)?;
        let call = Call::of(command).map_err(AskError::Codec)?;
        Ok(Wish::Deliver { to, call, then: then.transpose()? })
    };
    wish().unwrap_or_else(Wish::Invalid)
}

/// The command that brings an outcome back. Its payload is made when the outcome is there, so it must
/// be that of its one field.
fn then<C: Command, T: Command + From<Outcome<C>>>(key: &str) -> Result<Then, AskError> {
    let sample = || EntityId::new("sample", key).map_err(AskError::InvalidId);
    let is = T::from(Outcome::sample(sample()?)).encode().map_err(AskError::Codec)?;
    let wanted = outcome::payload(&sample()?, 0, Err(String::new()));
    if wanted.ok() != Some(is) {
        let (name, reason) = (T::NAME.to_owned(), "it has other fields than an `Outcome`".into());
        return Err(AskError::Codec(CodecError::Encode { name, reason }));
    }
    Ok(Then { command: T::NAME.to_owned(), version: T::VERSION })
}

fn reminder<C: Command>(name: String, when: When, period: Duration, command: &C) -> Wish {
    match Call::of(command) {
        Ok(call) => Wish::Remind { name, when, every_ms: millis(period), call },
        Err(error) => Wish::Invalid(AskError::Codec(error)),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The parts of an effect that come beside events and answer, for both types.
macro_rules! parts {
    ($($type:tt)*) => {
        /// Runs a side effect once the events are committed: a call to another system, say. It
        /// runs at most once: not again after a crash, and not at all if the node dies first. A
        /// failure is logged. The caller's answer does not wait for it; the entity stays in
        /// memory until it is done.
        pub fn then<F>(mut self, side: impl FnOnce(SideContext) -> F + Send + 'static) -> Self
        where
            F: Future<Output = Result<(), SideError>> + Send + 'static,
        {
            let task = Side::Task(Box::new(move |context| Box::pin(side(context))));
            self.intent.after.sides.push(task);
            self
        }

        /// Sends a command to another entity of this node once the events are committed, at most
        /// once; its reply is dropped and a refusal is logged.
        pub fn send<F, C>(mut self, key: impl Into<String>, command: C) -> Self
        where
            F: Handle<C>,
            C: Command,
        {
            let key = key.into();
            let call = move |cx: &SideContext| Ok(cx.entity::<F>(&key)?.tell(command)?);
            self.intent.after.sides.push(Side::Call(Box::new(call)));
            self
        }

        /// Delivers a command to another entity, wherever that is, *effectively once*: what is to be
        /// delivered is kept with the events of this effect, or not at all; after the commit it is sent
        /// until the receiver has carried it out, through crashes and moves of both; and the receiver
        /// sees a repeat by what it keeps with its own events. Deliveries from one entity to another
        /// come in their order.
        ///
        /// The reply is dropped: a refusal by the receiver's own rules is a reply and ends the delivery.
        /// See [`deliver_then`](Self::deliver_then) for senders that want to know. Where the receiver
        /// cannot take it (it knows no such command, its handler fails), it is given up after
        /// [`delivery_attempts`](crate::EntitySettings::delivery_attempts): see
        /// [`EntityRef::follow_ups`](crate::EntityRef::follow_ups).
        ///
        /// The command is refused with [`AskError::LimitReached`](crate::AskError::LimitReached) where
        /// [`outbox`](crate::EntitySettings::outbox) deliveries are pending.
        pub fn deliver<F, C>(mut self, key: impl AsRef<str>, command: C) -> Self
        where
            F: Handle<C>,
            C: Command,
        {
            self.intent.wishes.push(delivery::<F, C>(key.as_ref(), &command, None));
            self
        }

        /// [`deliver`](Self::deliver) that brings back what came of it, effectively once, as a command
        /// `T` of this entity: one whose only field is an [`Outcome`](crate::Outcome).
        pub fn deliver_then<F, C, T>(mut self, key: impl AsRef<str>, command: C) -> Self
        where
            F: Handle<C>,
            C: Command,
            E: Handle<T>,
            T: Command + From<Outcome<C>>,
        {
            let then = then::<C, T>(key.as_ref());
            self.intent.wishes.push(delivery::<F, C>(key.as_ref(), &command, Some(then)));
            self
        }

        /// Sends the entity itself a command at a time (by the wall clock of the node that runs it), in
        /// memory or not, through restarts and moves. That it came is written in one batch with the
        /// events of its handler, so it takes effect once. A reminder of the same name is replaced.
        ///
        /// It comes as soon as possible after that time, never before it by that node's clock. The
        /// command is refused with [`AskError::LimitReached`](crate::AskError::LimitReached) where there
        /// would be more than [`reminders`](crate::EntitySettings::reminders).
        pub fn remind_at<C>(mut self, name: impl Into<String>, at: Timestamp, command: C) -> Self
        where
            E: Handle<C>,
            C: Command,
        {
            self.intent.wishes.push(reminder(name.into(), When::At(at), Duration::ZERO, &command));
            self
        }

        /// [`remind_at`](Self::remind_at) the time after that, counted from now.
        pub fn remind_after<C>(
            mut self,
            name: impl Into<String>,
            after: Duration,
            command: C,
        ) -> Self
        where
            E: Handle<C>,
            C: Command,
        {
            let when = When::After(millis(after));
            self.intent.wishes.push(reminder(name.into(), when, Duration::ZERO, &command));
            self
        }

        /// [`remind_after`](Self::remind_after) again and again, until it is cancelled. Times that were
        /// missed are not made up for: the next one is the first that is still to come. At least 1 ms.
        pub fn remind_every<C>(
            mut self,
            name: impl Into<String>,
            period: Duration,
            command: C,
        ) -> Self
        where
            E: Handle<C>,
            C: Command,
        {
            let period = period.max(Duration::from_millis(1));
            let when = When::After(millis(period));
            self.intent.wishes.push(reminder(name.into(), when, period, &command));
            self
        }

        /// Forgets a reminder. Its command does not come any more once this is committed.
        pub fn cancel_reminder(mut self, name: impl Into<String>) -> Self {
            self.intent.wishes.push(Wish::CancelReminder { name: name.into() });
            self
        }

        /// Sends the entity itself a command after a while, counted from the commit. A timer of
        /// the same name is replaced.
        ///
        /// Timers are in memory: a restart of the entity or the node forgets them, and so does
        /// leaving memory; an entity with timers is not idle. Start them again where the state
        /// says so, as in the handler of a command that is sent at start.
        pub fn timer<C>(mut self, name: impl Into<String>, after: Duration, command: C) -> Self
        where
            E: Handle<C>,
            C: Command,
        {
            let command = told(command);
            let change = TimerChange::Set { name: name.into(), after, command };
            self.intent.after.timers.push(change);
            self
        }

        /// Stops a timer once the events are committed. A command that it has sent already is
        /// still handled.
        pub fn cancel_timer(mut self, name: impl Into<String>) -> Self {
            self.intent.after.timers.push(TimerChange::Cancel { name: name.into() });
            self
        }

        /// Handles the stashed commands next, in the order in which they were stashed.
        pub fn unstash(mut self) -> Self {
            self.intent.unstash = true;
            self
        }

        /// Leaves memory once this command is done. Commands that wait are handled by the next
        /// incarnation, which recovers at once.
        pub fn passivate(mut self) -> Self {
            self.intent.passivate = true;
            self
        }
    };
}

impl<E: EventSourced, R> Effect<E, R> {
    parts!();
}

impl<E: EventSourced> Unanswered<E> {
    parts!();
}
