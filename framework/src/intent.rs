//! What a handled command asks of the runtime, with the command's type erased.

use std::{any::Any, error::Error, time::Duration};

use bytes::Bytes;
use duractor_journal::{RequestId, Seq};
use futures_util::future::BoxFuture;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    codec::CodecError,
    context::{Context, SideContext},
    entity::EventSourced,
    error::AskError,
    meta::{Meta, Origin, Wish},
    step::{Readies, TxId},
};

/// A failure of a side effect: logged, nothing else.
pub type SideError = Box<dyn Error + Send + Sync>;

/// What the caller said beside the command.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    pub(crate) request_id: Option<RequestId>,
    pub(crate) expected_revision: Option<Seq>,
    /// A read of it needs no confirmation that this node is still the owner.
    pub(crate) lease_read: bool,
    /// Not started after this instant.
    pub(crate) deadline: Option<Instant>,
    /// Where it comes from, if not from a caller.
    pub(crate) origin: Option<Box<Origin>>,
}

/// A step of a transaction at one of its entities; [`step`](crate::step) has what they are for.
pub(crate) enum Step<E: EventSourced> {
    /// Decide on the command, write nothing, and be held.
    Consider { command: BoxEnvelope<E>, ready: Readies },
    /// Decide, write it down, and be held.
    Prepare { tx: TxId, command: BoxEnvelope<E>, patience_ms: u64 },
    /// What was decided; with a number, on that preparation alone.
    Decide { tx: TxId, number: Option<u64>, commit: bool },
}

/// A command on its way through an entity, and then its answer on the way back.
///
/// The order of calls: any number of [`handle`](Envelope::handle) (more than one where it is
/// stashed), then [`settle`](Envelope::settle), [`recall`](Envelope::recall) or
/// [`refuse`](Envelope::refuse) fixes the answer, and [`send`](Envelope::send) gives it to the
/// caller.
pub(crate) trait Envelope<E: EventSourced>: Send {
    /// The command's stable name.
    fn name(&self) -> &'static str;

    fn options(&self) -> &Options;

    /// Whether an entity that handles it is not idle.
    fn is_use(&self) -> bool {
        true
    }

    /// Whether it is there to have the entity look for what it has to do.
    fn is_wake(&self) -> bool {
        false
    }

    /// Sees what the framework keeps of the entity, before it is handled.
    fn look(&mut self, _: &Meta) {}

    /// Whether it is a step of a transaction: those go before commands.
    fn is_step(&self) -> bool {
        false
    }

    /// Whether it is a step that frees the entity.
    fn is_decision(&self) -> bool {
        false
    }

    /// The step, once.
    fn take_step(&mut self) -> Option<Step<E>> {
        None
    }

    /// Runs the handler. May panic, as the handler is the user's.
    fn handle(&mut self, entity: &E, state: &E::State, context: &Context) -> Intent<E>;

    /// Computes the reply on the state after the events. May panic, as the closure is the user's.
    fn settle(&mut self, state: &E::State);

    /// The settled reply as bytes, to be kept with the request id.
    fn encode_reply(&self) -> Result<Bytes, CodecError>;

    /// Takes a kept reply as the answer.
    fn recall(&mut self, reply: &[u8]);

    /// Takes bytes as the answer that a caller who sent the command as bytes gets as they are. `None`:
    /// the command was carried out before, and what it answered then is not known.
    fn repeat(&mut self, reply: Option<Bytes>);

    /// Takes an error as the answer.
    fn refuse(&mut self, error: AskError);

    /// Gives the answer to the caller and says what became of it.
    /// `None` only where no answer was fixed, which is a mistake of the runtime.
    fn send(self: Box<Self>) -> Option<Sent>;
}

pub(crate) type BoxEnvelope<E> = Box<dyn Envelope<E>>;

/// Who hears what came of a command of the framework.
pub(crate) type Tell = oneshot::Sender<Result<(), AskError>>;

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    Replied,
    Refused,
    /// The caller was gone.
    DeadLettered,
}

/// What a handler wants done.
pub(crate) struct Intent<E: EventSourced> {
    pub(crate) events: Vec<E::Event>,
    /// What is kept beside them, in the same batch.
    pub(crate) wishes: Vec<Wish>,
    /// A transaction with this command comes to nothing.
    pub(crate) veto: bool,
    /// Keep the command for later; the envelope has it again.
    pub(crate) stash: bool,
    /// Handle the stashed commands next.
    pub(crate) unstash: bool,
    /// Leave memory once this command is done.
    pub(crate) passivate: bool,
    pub(crate) after: After<E>,
}

impl<E: EventSourced> Default for Intent<E> {
    fn default() -> Self {
        let after = After { sides: Vec::new(), timers: Vec::new(), kept: None };
        let (events, wishes) = (Vec::new(), Vec::new());
        Self { events, wishes, veto: false, stash: false, unstash: false, passivate: false, after }
    }
}

impl<E: EventSourced> Intent<E> {
    /// Whether the handler asked for nothing.
    pub(crate) fn changes_nothing(&self) -> bool {
        let Self { events, wishes, veto: _, stash, unstash, passivate, after } = self;
        let asked = *stash || *unstash || *passivate;
        let After { sides, timers, kept: _ } = after;
        let nothing = events.is_empty() && wishes.is_empty();
        nothing && !asked && sides.is_empty() && timers.is_empty()
    }
}

/// What is done once everything that the command depends on is committed.
pub(crate) struct After<E: EventSourced> {
    pub(crate) sides: Vec<Side>,
    pub(crate) timers: Vec<TimerChange<E>>,
    /// Something was kept: deliveries up to this number are decided.
    pub(crate) kept: Option<u64>,
}

type SideTask = dyn FnOnce(SideContext) -> BoxFuture<'static, Result<(), SideError>> + Send;
type SideCall = dyn FnOnce(&SideContext) -> Result<(), SideError> + Send;

pub(crate) enum Side {
    /// Awaited in a task of its own.
    Task(Box<SideTask>),
    /// Called at once.
    Call(Box<SideCall>),
}

pub(crate) enum TimerChange<E: EventSourced> {
    Set { name: String, after: Duration, command: BoxEnvelope<E> },
    Cancel { name: String },
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".to_owned())
}
