//! What happened in a step of a test.

use std::{
    cell::{OnceCell, RefCell},
    ops::Deref,
};

use duractor::{
    AskError, Command, EventSourced, Handle, Seq, Timestamp,
    testing::{Kept, delivery, reminder},
};
use duractor_journal::EventRecord;
use tokio::sync::oneshot;

/// What happened to the entity in one step: while a command ran, while time passed.
pub struct Happened<E: EventSourced> {
    pub(super) events: Vec<E::Event>,
    pub(super) records: Vec<EventRecord>,
    pub(super) before: Result<E::State, String>,
    pub(super) after: Result<E::State, String>,
    pub(super) revision: Seq,
    pub(super) active: bool,
}

impl<E: EventSourced> Happened<E> {
    /// The events that were written, read back from what the journal holds.
    #[must_use]
    pub fn events(&self) -> &[E::Event] {
        &self.events
    }

    /// The commands that were [delivered](duractor::Effect::deliver) to entities of a kind, with the
    /// keys of those, in their order: as the journal holds them, whether or not they have arrived.
    ///
    /// # Panics
    /// Where one does not decode.
    #[must_use]
    #[track_caller]
    pub fn deliveries<F: Handle<C>, C: Command>(&self) -> Vec<(String, C)> {
        let all = self.records.iter().filter_map(delivery);
        let of = all.filter(|(to, (command, _, _))| to.kind() == F::KIND && command == C::NAME);
        of.map(|(to, kept)| (to.key().to_owned(), decoded(&kept))).collect()
    }

    /// The [reminders](duractor::Effect::remind_at) of this command that were set: their names, when
    /// they are due, and the commands.
    ///
    /// # Panics
    /// Where one does not decode.
    #[must_use]
    #[track_caller]
    pub fn reminders<C: Command>(&self) -> Vec<(String, Timestamp, C)>
    where
        E: Handle<C>,
    {
        let all = self.records.iter().filter_map(reminder);
        let of = all.filter(|(_, _, (command, _, _))| command == C::NAME);
        of.map(|(name, due, kept)| (name, due, decoded(&kept))).collect()
    }

    /// The same events, and those of the framework beside them, as the journal holds them: name,
    /// version, payload, tags, time, request.
    #[must_use]
    pub fn records(&self) -> &[EventRecord] {
        &self.records
    }

    /// The state after the step. An entity that is not in memory has the one that its next recovery
    /// will give.
    ///
    /// It is a copy that went through the state's encoding.
    ///
    /// # Panics
    /// Where the entity has no state, as it cannot be recovered. [`try_state`](Self::try_state)
    /// gives the reason instead.
    #[must_use]
    #[track_caller]
    pub fn state(&self) -> &E::State {
        match &self.after {
            Ok(state) => state,
            Err(reason) => panic!(
                "the entity has no state: {reason}.\nIf the test expects that, use `try_state`."
            ),
        }
    }

    /// The state after the step, or why there is none: the entity is quarantined, for one.
    ///
    /// # Errors
    /// The reason as a text.
    pub fn try_state(&self) -> Result<&E::State, &str> {
        self.after.as_ref().map_err(String::as_str)
    }

    /// The state before the step.
    ///
    /// # Panics
    /// As [`state`](Self::state).
    #[must_use]
    #[track_caller]
    pub fn state_before(&self) -> &E::State {
        match &self.before {
            Ok(state) => state,
            Err(reason) => panic!("the entity had no state before this step: {reason}."),
        }
    }

    /// The sequence number of the entity's newest event.
    #[must_use]
    pub fn revision(&self) -> Seq {
        self.revision
    }

    /// Whether the entity was in memory after the step. It is not before its first command, after
    /// its passivation, after a failure until the next command, and in quarantine.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.active
    }
}

#[track_caller]
fn decoded<C: Command>((_, version, payload): &Kept) -> C {
    match C::decode(*version, payload) {
        Ok(command) => command,
        Err(error) => panic!("what is kept of {} does not decode: {error}", C::schema()),
    }
}

/// What a command came to: the answer, and everything of [`Happened`].
pub struct Ran<E: EventSourced, C: Command> {
    pub(super) happened: Happened<E>,
    pub(super) coming: RefCell<oneshot::Receiver<Result<C::Reply, AskError>>>,
    pub(super) answer: OnceCell<Result<C::Reply, AskError>>,
}

impl<E: EventSourced, C: Command> Deref for Ran<E, C> {
    type Target = Happened<E>;

    fn deref(&self) -> &Happened<E> {
        &self.happened
    }
}

impl<E: EventSourced, C: Command> Ran<E, C> {
    /// The answer, once there is one: a command that was stashed is answered by a later step.
    pub fn answer(&self) -> Option<Result<&C::Reply, &AskError>> {
        if self.answer.get().is_none() {
            let answer = match self.coming.borrow_mut().try_recv() {
                Ok(answer) => answer,
                Err(_) => return None,
            };
            // It was empty a moment ago, and nobody else has it.
            let _ = self.answer.set(answer);
        }
        self.answer.get().map(Result::as_ref)
    }

    /// Whether the command has no answer yet: it is stashed.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.answer().is_none()
    }

    /// The reply.
    ///
    /// # Panics
    /// Where the command failed or has no answer yet.
    #[must_use]
    #[track_caller]
    pub fn reply(&self) -> &C::Reply {
        match self.answer() {
            Some(Ok(reply)) => reply,
            Some(Err(error)) => panic!(
                "{} has no reply, but failed: {error}.\nIf the test expects that, use `error`.",
                C::schema()
            ),
            None => panic!("{}", unanswered::<C>()),
        }
    }

    /// The typed error that the caller got.
    ///
    /// # Panics
    /// Where the command was carried out or has no answer yet.
    #[must_use]
    #[track_caller]
    pub fn error(&self) -> &AskError {
        match self.answer() {
            Some(Err(error)) => error,
            Some(Ok(_)) => panic!(
                "{} has a reply and no error.\nA refusal by the entity's own rules is a reply, too: \
                 use `reply`.",
                C::schema()
            ),
            None => panic!("{}", unanswered::<C>()),
        }
    }
}

fn unanswered<C: Command>() -> String {
    format!(
        "{} has no answer yet: the entity has stashed it.\nKeep what `run` returned, run a command \
         that unstashes, and ask again; or check `is_waiting`.",
        C::schema()
    )
}
