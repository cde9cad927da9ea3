//! Commands of the framework itself: they look at an entity, wake it, or note that something is done.

use std::sync::Arc;

use bytes::Bytes;
use duractor_journal::{EntityId, Seq};
use tokio::sync::oneshot;

use crate::{
    codec::CodecError,
    context::Context,
    entity::EventSourced,
    error::AskError,
    intent::{BoxEnvelope, Envelope, Intent, Options, Sent, Tell},
    meta::{Meta, Origin},
    slot::Kind,
};

/// Reads the state by a closure that comes to the entity as a command does: after the commands before
/// it, and the answer waits for the commit of what it saw. It starts an entity that is not in memory,
/// and does not count as use of one that is.
pub(crate) async fn look<E: EventSourced, T: Send + 'static>(
    kind: &Arc<Kind<E>>,
    id: &EntityId,
    read: impl FnOnce(&E::State, Seq) -> T + Send + 'static,
) -> Result<T, AskError> {
    let (tell, told) = oneshot::channel();
    let read = Some(read);
    kind.offer(id, Box::new(Look { read, seen: None, options: Options::default(), tell }))?;
    told.await.unwrap_or_else(|_| Err(AskError::Lost { entity: id.clone() }))
}

/// As [`look`], at what the framework keeps of the entity.
pub(crate) async fn look_at_meta<E: EventSourced, T: Send + 'static>(
    kind: &Arc<Kind<E>>,
    id: &EntityId,
    read: impl FnOnce(&Meta) -> T + Send + 'static,
) -> Result<T, AskError> {
    let (tell, told) = oneshot::channel();
    let look = AtMeta { read: Some(read), seen: None, options: Options::default(), tell };
    kind.offer(id, Box::new(look))?;
    told.await.unwrap_or_else(|_| Err(AskError::Lost { entity: id.clone() }))
}

/// Brings the entity into memory, where it looks for what it has to do.
pub(crate) fn wake<E: EventSourced>(tell: Tell) -> BoxEnvelope<E> {
    Box::new(Quiet { wake: true, options: Options::default(), refused: None, tell })
}

/// Writes that what this came from is done, and nothing else.
pub(crate) fn note<E: EventSourced>(origin: Origin, tell: Tell) -> BoxEnvelope<E> {
    let options = Options { origin: Some(Box::new(origin)), ..Options::default() };
    Box::new(Quiet { wake: false, options, refused: None, tell })
}

fn not_stored(name: &'static str) -> CodecError {
    let reason = "a command of the framework has no reply to be stored".to_owned();
    CodecError::Encode { name: name.to_owned(), reason }
}

fn tell<T>(to: oneshot::Sender<Result<T, AskError>>, what: Result<T, AskError>) -> Sent {
    let sent = if what.is_ok() { Sent::Replied } else { Sent::Refused };
    to.send(what).map_or(Sent::DeadLettered, |()| sent)
}

struct Look<F, T> {
    read: Option<F>,
    seen: Option<Result<T, AskError>>,
    options: Options,
    tell: oneshot::Sender<Result<T, AskError>>,
}

impl<E, F, T> Envelope<E> for Look<F, T>
where
    E: EventSourced,
    F: FnOnce(&E::State, Seq) -> T + Send,
    T: Send,
{
    fn name(&self) -> &'static str {
        "(look)"
    }

    fn options(&self) -> &Options {
        &self.options
    }

    fn is_use(&self) -> bool {
        false
    }

    fn handle(&mut self, _: &E, state: &E::State, context: &Context) -> Intent<E> {
        self.seen = self.read.take().map(|read| Ok(read(state, context.revision())));
        Intent::default()
    }

    fn settle(&mut self, _: &E::State) {}

    fn encode_reply(&self) -> Result<Bytes, CodecError> {
        Err(not_stored("(look)"))
    }

    fn recall(&mut self, _: &[u8]) {}

    fn repeat(&mut self, _: Option<Bytes>) {}

    fn refuse(&mut self, error: AskError) {
        self.seen = Some(Err(error));
    }

    fn send(self: Box<Self>) -> Option<Sent> {
        Some(tell(self.tell, self.seen?))
    }
}

struct AtMeta<F, T> {
    read: Option<F>,
    seen: Option<Result<T, AskError>>,
    options: Options,
    tell: oneshot::Sender<Result<T, AskError>>,
}

impl<E, F, T> Envelope<E> for AtMeta<F, T>
where
    E: EventSourced,
    F: FnOnce(&Meta) -> T + Send,
    T: Send,
{
    fn name(&self) -> &'static str {
        "(look at meta)"
    }

    fn options(&self) -> &Options {
        &self.options
    }

    fn is_use(&self) -> bool {
        false
    }

    fn look(&mut self, meta: &Meta) {
        self.seen = self.read.take().map(|read| Ok(read(meta)));
    }

    fn handle(&mut self, _: &E, _: &E::State, _: &Context) -> Intent<E> {
        Intent::default()
    }

    fn settle(&mut self, _: &E::State) {}

    fn encode_reply(&self) -> Result<Bytes, CodecError> {
        Err(not_stored("(look at meta)"))
    }

    fn recall(&mut self, _: &[u8]) {}

    fn repeat(&mut self, _: Option<Bytes>) {}

    fn refuse(&mut self, error: AskError) {
        self.seen = Some(Err(error));
    }

    fn send(self: Box<Self>) -> Option<Sent> {
        Some(tell(self.tell, self.seen?))
    }
}

struct Quiet {
    wake: bool,
    options: Options,
    refused: Option<AskError>,
    tell: Tell,
}

impl<E: EventSourced> Envelope<E> for Quiet {
    fn name(&self) -> &'static str {
        if self.wake { "(wake)" } else { "(note)" }
    }

    fn options(&self) -> &Options {
        &self.options
    }

    fn is_use(&self) -> bool {
        !self.wake
    }

    fn is_wake(&self) -> bool {
        self.wake
    }

    fn handle(&mut self, _: &E, _: &E::State, _: &Context) -> Intent<E> {
        Intent::default()
    }

    fn settle(&mut self, _: &E::State) {}

    fn encode_reply(&self) -> Result<Bytes, CodecError> {
        Err(not_stored("(note)"))
    }

    fn recall(&mut self, _: &[u8]) {}

    fn repeat(&mut self, _: Option<Bytes>) {}

    fn refuse(&mut self, error: AskError) {
        self.refused = Some(error);
    }

    fn send(self: Box<Self>) -> Option<Sent> {
        let result = self.refused.map_or(Ok(()), Err);
        Some(tell(self.tell, result))
    }
}
