//! A command with its caller: what travels through the runtime as an [`Envelope`].

use std::mem;

use bytes::Bytes;
use duractor_journal::EntityId;
use tokio::sync::oneshot;

use crate::{
    codec::CodecError,
    command::{Command, decode_reply, encode_reply},
    context::Context,
    effect::{Answer, Effect, Handle, Redo},
    error::AskError,
    intent::{BoxEnvelope, Envelope, Intent, Options, Sent},
};

/// How a caller hears of the answer.
pub(crate) enum Reply<C: Command> {
    /// In this process.
    Here(oneshot::Sender<Result<C::Reply, AskError>>),
    /// On another node.
    Away(Away),
}

type Answered = Box<dyn FnOnce(Result<Bytes, AskError>) + Send>;

/// How a caller on another node hears of the answer: as bytes. Where it is dropped without one, the
/// caller hears [`AskError::Lost`].
pub(crate) struct Away {
    entity: EntityId,
    answered: Option<Answered>,
}

impl Away {
    pub(crate) fn new(
        entity: EntityId,
        answered: impl FnOnce(Result<Bytes, AskError>) + Send + 'static,
    ) -> Self {
        Self { entity, answered: Some(Box::new(answered)) }
    }

    pub(crate) fn send(mut self, answer: Result<Bytes, AskError>) {
        if let Some(answered) = self.answered.take() {
            answered(answer);
        }
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        if let Some(answered) = self.answered.take() {
            answered(Err(AskError::Lost { entity: self.entity.clone() }));
        }
    }
}

/// A command with its caller.
pub(crate) struct Delivery<E: Handle<C>, C: Command> {
    stage: Stage<E, C>,
    options: Options,
    /// None for a command that was told.
    reply: Option<Reply<C>>,
}

enum Stage<E: Handle<C>, C: Command> {
    Fresh(C),
    /// It was stashed.
    Again(Box<dyn Redo<E, C::Reply>>),
    /// Handled, and the answer waits for the state after the events.
    Decided(Answer<E, C::Reply>),
    Settled(Result<C::Reply, AskError>),
    /// Carried out before: what it answered then, where that is known.
    Repeated(Option<Bytes>),
    /// Taken out while the user's code runs; it stays where that panics.
    Empty,
}

/// A command whose caller waits.
pub(crate) fn asked<E: Handle<C>, C: Command>(
    command: C,
    options: Options,
    reply: oneshot::Sender<Result<C::Reply, AskError>>,
) -> BoxEnvelope<E> {
    Box::new(Delivery { stage: Stage::Fresh(command), options, reply: Some(Reply::Here(reply)) })
}

/// A command whose caller waits on another node.
pub(crate) fn away<E: Handle<C>, C: Command>(
    command: C,
    options: Options,
    reply: Away,
) -> BoxEnvelope<E> {
    Box::new(Delivery { stage: Stage::Fresh(command), options, reply: Some(Reply::Away(reply)) })
}

/// A command whose answer nobody waits for.
pub(crate) fn told<E: Handle<C>, C: Command>(command: C) -> BoxEnvelope<E> {
    let options = Options::default();
    Box::new(Delivery { stage: Stage::Fresh(command), options, reply: None })
}

impl<E: Handle<C>, C: Command> Delivery<E, C> {
    fn decide(
        &mut self,
        entity: &E,
        state: &E::State,
        cx: &Context,
    ) -> Option<Effect<E, C::Reply>> {
        match mem::replace(&mut self.stage, Stage::Empty) {
            Stage::Fresh(command) => Some(entity.handle(state, command, cx)),
            Stage::Again(command) => Some(command.redo(entity, state, cx)),
            decided => {
                self.stage = decided;
                None
            }
        }
    }
}

impl<E: Handle<C>, C: Command> Envelope<E> for Delivery<E, C> {
    fn name(&self) -> &'static str {
        C::NAME
    }

    fn options(&self) -> &Options {
        &self.options
    }

    fn handle(&mut self, entity: &E, state: &E::State, context: &Context) -> Intent<E> {
        let Some(Effect { mut intent, answer }) = self.decide(entity, state, context) else {
            return Intent::default();
        };
        self.stage = match answer {
            Answer::Later(command) => Stage::Again(command),
            answer => Stage::Decided(answer),
        };
        intent.stash = matches!(self.stage, Stage::Again(_));
        intent
    }

    fn settle(&mut self, state: &E::State) {
        match mem::replace(&mut self.stage, Stage::Empty) {
            Stage::Decided(Answer::Ready(reply)) => self.stage = Stage::Settled(Ok(reply)),
            Stage::Decided(Answer::From(reply)) => self.stage = Stage::Settled(Ok(reply(state))),
            other => self.stage = other,
        }
    }

    fn encode_reply(&self) -> Result<Bytes, CodecError> {
        match &self.stage {
            Stage::Settled(Ok(reply)) => encode_reply::<C>(reply),
            _ => {
                let reason = "the command has no reply yet".to_owned();
                Err(CodecError::Encode { name: C::NAME.to_owned(), reason })
            }
        }
    }

    fn recall(&mut self, reply: &[u8]) {
        self.stage = Stage::Settled(decode_reply::<C>(reply).map_err(|error| match error {
            CodecError::OtherReply { .. } => AskError::RequestIdReused(error),
            error => AskError::Codec(error),
        }));
    }

    fn repeat(&mut self, reply: Option<Bytes>) {
        self.stage = Stage::Repeated(reply);
    }

    fn refuse(&mut self, error: AskError) {
        self.stage = Stage::Settled(Err(error));
    }

    fn send(self: Box<Self>) -> Option<Sent> {
        let answer = match self.stage {
            Stage::Settled(answer) => answer,
            Stage::Repeated(reply) => {
                if let Some(Reply::Away(away)) = self.reply {
                    away.send(Ok(reply.unwrap_or_default()));
                }
                return Some(Sent::Replied);
            }
            _ => return None,
        };
        let sent = if answer.is_ok() { Sent::Replied } else { Sent::Refused };
        match (self.reply, answer) {
            (Some(Reply::Here(reply)), answer) => {
                Some(reply.send(answer).map_or(Sent::DeadLettered, |()| sent))
            }
            (Some(Reply::Away(away)), answer) => {
                let bytes =
                    answer.and_then(|reply| encode_reply::<C>(&reply).map_err(AskError::Codec));
                away.send(bytes);
                Some(sent)
            }
            (None, Ok(_)) => Some(sent),
            (None, Err(error)) => {
                tracing::warn!(command = C::NAME, %error, "a command without a caller was refused");
                Some(sent)
            }
        }
    }
}
