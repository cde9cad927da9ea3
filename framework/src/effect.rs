//! Effects: what a handler decides, as a value.
//!
//! A handler that answers makes an [`Effect`] at once ([`Effect::reply`]), or from events
//! ([`Effect::persist`]) that still need an answer: [`Unanswered`] has everything but that, and only
//! [`reply`](Unanswered::reply) and [`no_reply`](Unanswered::no_reply) make an effect of it. So a
//! handler that forgets to answer does not compile.

use crate::{command::Command, context::Context, entity::EventSourced, intent::Intent};

/// Handles one command of an entity.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle `{C}`",
    label = "add `impl Handle<{C}> for {Self}`"
)]
pub trait Handle<C: Command>: EventSourced {
    /// Decides what the command does. It sees a state that includes all earlier commands, committed
    /// or not; what it decides is undone if they are not committed.
    ///
    /// A panic here gives the caller [`AskError::Crashed`](crate::AskError::Crashed), and the entity
    /// starts again from its events.
    fn handle(&self, state: &Self::State, command: C, context: &Context) -> Effect<Self, C::Reply>;
}

/// What a handler decided.
#[must_use = "an effect does nothing until a handler returns it"]
pub struct Effect<E: EventSourced, R> {
    pub(crate) intent: Intent<E>,
    pub(crate) answer: Answer<E, R>,
}

type ReplyOn<S, R> = dyn FnOnce(&S) -> R + Send;

/// How the caller is answered.
pub(crate) enum Answer<E: EventSourced, R> {
    Ready(R),
    /// On the state after the events.
    From(Box<ReplyOn<E::State, R>>),
    /// Not yet: the command comes again.
    Later(Box<dyn Redo<E, R>>),
}

/// A command to be handled again, its type erased down to its reply.
pub(crate) trait Redo<E: EventSourced, R>: Send {
    fn redo(self: Box<Self>, entity: &E, state: &E::State, context: &Context) -> Effect<E, R>;
}

impl<E: Handle<C>, C: Command> Redo<E, C::Reply> for C {
    fn redo(self: Box<Self>, entity: &E, state: &E::State, cx: &Context) -> Effect<E, C::Reply> {
        entity.handle(state, *self, cx)
    }
}

impl<E: EventSourced> Effect<E, ()> {
    /// Writes an event. It is applied at once, and everything else of the effect waits for its
    /// commit.
    ///
    /// Where the closure in `reply` needs to know the state's type, write `Self::persist` (see
    /// [`Persist`]), which tells it.
    pub fn persist(event: E::Event) -> Unanswered<E> {
        Self::persist_all(vec![event])
    }

    /// Writes events together: all of them or none. No events: as [`nothing`](Self::nothing).
    pub fn persist_all(events: Vec<E::Event>) -> Unanswered<E> {
        Unanswered { intent: Intent { events, ..Intent::default() } }
    }

    /// Writes nothing: the start of an effect that only has side effects, timers and so on.
    pub fn nothing() -> Unanswered<E> {
        Self::persist_all(Vec::new())
    }
}

/// [`Effect::persist`] by the entity's name, which tells closures the state's type:
/// `Self::persist(event).reply(|state| state.total)`.
pub trait Persist: EventSourced {
    /// See [`Effect::persist`].
    fn persist(event: Self::Event) -> Unanswered<Self> {
        Effect::persist(event)
    }

    /// See [`Effect::persist_all`].
    fn persist_all(events: Vec<Self::Event>) -> Unanswered<Self> {
        Effect::persist_all(events)
    }
}

impl<E: EventSourced> Persist for E {}

impl<E: EventSourced, R> Effect<E, R> {
    /// Answers and changes nothing. The answer waits for the commit of the events that the handler
    /// saw.
    pub fn reply(reply: R) -> Self {
        Self { intent: Intent::default(), answer: Answer::Ready(reply) }
    }

    /// Says no: answers and changes nothing, as [`reply`](Self::reply) does, and where the command is
    /// one of a [transaction](crate::Transaction), nothing of that is carried out. Its caller hears of
    /// the answer in [`TransactionError::Vetoed`](crate::TransactionError::Vetoed).
    pub fn veto(reply: R) -> Self {
        let intent = Intent { veto: true, ..Intent::default() };
        Self { intent, answer: Answer::Ready(reply) }
    }

    /// Keeps the command until an effect with [`unstash`](Unanswered::unstash); it is handled then
    /// as if it came in anew. Its caller waits on. Stashed commands are in memory: where the entity
    /// restarts or leaves memory, they go back to the head of its mailbox. An entity with stashed
    /// commands is not idle.
    pub fn stash<C>(command: C) -> Self
    where
        C: Command<Reply = R>,
        E: Handle<C>,
    {
        let intent = Intent { stash: true, ..Intent::default() };
        Self { intent, answer: Answer::Later(Box::new(command)) }
    }
}

/// An effect that lacks its answer.
#[must_use = "finish it with `reply` or `no_reply` and return it"]
pub struct Unanswered<E: EventSourced> {
    pub(crate) intent: Intent<E>,
}

impl<E: EventSourced> Unanswered<E> {
    /// Answers with what the closure makes of the state after the events.
    pub fn reply<R>(self, reply: impl FnOnce(&E::State) -> R + Send + 'static) -> Effect<E, R> {
        Effect { intent: self.intent, answer: Answer::From(Box::new(reply)) }
    }

    /// Answers with a value.
    pub fn reply_with<R>(self, reply: R) -> Effect<E, R> {
        Effect { intent: self.intent, answer: Answer::Ready(reply) }
    }

    /// Answers nothing but that it is done.
    pub fn no_reply(self) -> Effect<E, ()> {
        self.reply_with(())
    }
}

impl<E: EventSourced> From<Unanswered<E>> for Effect<E, ()> {
    fn from(effect: Unanswered<E>) -> Self {
        effect.no_reply()
    }
}
