//! A transaction's steps at one of its entities, on their way through the entity's mailbox.
//!
//! | | |
//! |---|---|
//! | [`Step::Consider`] | all entities are on one shard: decide on the command, write nothing, and be held until all are written together |
//! | [`Step::Prepare`] | the entities are on several shards: decide, write down what it comes to, and be held until the decision |
//! | [`Step::Decide`] | the decision |
//!
//! Steps go before the commands that wait in the mailbox, and an entity that is held takes steps and
//! nothing else.

use bytes::Bytes;

use crate::{
    codec::CodecError,
    command::{Command, encode_reply},
    context::Context,
    delivery::Away,
    entity::EventSourced,
    error::AskError,
    intent::{BoxEnvelope, Envelope, Intent, Options, Sent, Step},
};

/// A step with whoever waits for what becomes of it.
pub(crate) struct Stepping<E: EventSourced> {
    step: Option<Step<E>>,
    name: &'static str,
    options: Options,
    answer: Option<Result<Bytes, AskError>>,
    reply: Option<Away>,
}

impl<E: EventSourced> Stepping<E> {
    pub(crate) fn boxed(
        step: Step<E>,
        name: &'static str,
        options: Options,
        reply: Option<Away>,
    ) -> BoxEnvelope<E> {
        Box::new(Self { step: Some(step), name, options, answer: None, reply })
    }
}

impl<E: EventSourced> Envelope<E> for Stepping<E> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn options(&self) -> &Options {
        &self.options
    }

    fn is_step(&self) -> bool {
        true
    }

    fn is_decision(&self) -> bool {
        matches!(self.step, Some(Step::Decide { .. }))
    }

    fn take_step(&mut self) -> Option<Step<E>> {
        self.step.take()
    }

    fn handle(&mut self, _: &E, _: &E::State, _: &Context) -> Intent<E> {
        Intent::default()
    }

    fn settle(&mut self, _: &E::State) {}

    fn encode_reply(&self) -> Result<Bytes, CodecError> {
        Ok(Bytes::new())
    }

    fn recall(&mut self, _: &[u8]) {}

    fn repeat(&mut self, reply: Option<Bytes>) {
        self.answer = Some(Ok(reply.unwrap_or_default()));
    }

    fn refuse(&mut self, error: AskError) {
        self.answer = Some(Err(error));
    }

    fn send(self: Box<Self>) -> Option<Sent> {
        let answer = self.answer?;
        let sent = if answer.is_ok() { Sent::Replied } else { Sent::Refused };
        match self.reply {
            Some(reply) => reply.send(answer),
            None => {
                if let Err(error) = answer {
                    tracing::debug!(step = self.name, %error, "a transaction's step was refused");
                }
            }
        }
        Some(sent)
    }
}

/// Fixes what a step is answered.
pub(crate) fn answer<E: EventSourced, C: Command>(envelope: &mut BoxEnvelope<E>, reply: &C::Reply) {
    match encode_reply::<C>(reply) {
        Ok(bytes) => envelope.repeat(Some(bytes)),
        Err(error) => envelope.refuse(AskError::Codec(error)),
    }
}
