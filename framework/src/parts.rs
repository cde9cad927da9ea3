//! What an effect may have beside events and an answer: side effects, messages, timers, and so on.
//!
//! Each is a method of [`Effect`] and of [`Unanswered`], so the order in which they are written does
//! not matter.

use std::{future::Future, time::Duration};

use crate::{
    command::Command,
    context::SideContext,
    delivery::told,
    effect::{Effect, Handle, Unanswered},
    entity::EventSourced,
    intent::{Side, SideError, TimerChange},
};

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
