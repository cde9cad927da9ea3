//! How calls get to the leader: by the cluster's links, or another way that an application has.

use std::{
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use bytes::Bytes;
use duractor_journal::{
    Effect, Env, Member, Transport,
    transport::{Channel, Class, Event, Receiver},
};
use futures_util::future::BoxFuture;
use tokio::{sync::Semaphore, time::timeout};

use super::{
    error::{LeaderError, LeaderInfo},
    handlers::LeaderCall,
    wire::{Call, Frame, Refusal},
};
use crate::pending::Pending;

/// Calls of other nodes that are handled at once; more are refused. As many calls to others may wait.
const MAX_CALLS: usize = 1024;

/// Brings calls to the leader. The default goes over the cluster's links. One of an application's own,
/// over HTTP say, gives what arrives at the other end to [`Leader::handle`](super::Leader::handle), and
/// brings back what that returns.
pub trait Forward: Send + Sync + 'static {
    /// Gives the call to the leader, and waits for the reply for at most this long.
    ///
    /// What comes back as [`LeaderError::NotLeader`] is tried again, so it must mean that nothing was
    /// done; and so must [`LeaderError::Unreachable`] with [`Effect::None`].
    fn forward(
        &self,
        to: LeaderInfo,
        call: LeaderCall,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, LeaderError>>;
}

/// Takes calls of other nodes.
pub(super) trait Host: Send + Sync {
    fn handle(&self, call: LeaderCall) -> BoxFuture<'static, Result<Bytes, LeaderError>>;
}

/// Calls over the cluster's links.
pub(super) struct Links {
    transport: Arc<dyn Transport>,
    host: OnceLock<Weak<dyn Host>>,
    pending: Pending<Result<Bytes, Refusal>>,
    handled: Arc<Semaphore>,
    me: Weak<Links>,
}

impl Links {
    /// Listens to the others from now on.
    pub(super) fn start(transport: Arc<dyn Transport>, env: &Env) -> Arc<Self> {
        let links = Arc::new_cyclic(|me| Self {
            transport,
            host: OnceLock::new(),
            pending: Pending::new(env.entropy.next_u64()),
            handled: Arc::new(Semaphore::new(MAX_CALLS)),
            me: me.clone(),
        });
        links.transport.listen(Channel::Leader, Arc::new(Ear(Arc::downgrade(&links))));
        links
    }

    pub(super) fn host(&self, host: Weak<dyn Host>) {
        // It is set once.
        let _ = self.host.set(host);
    }

    async fn ask(
        self: Arc<Self>,
        to: Member,
        call: LeaderCall,
        patience: Duration,
    ) -> Result<Bytes, LeaderError> {
        let busy = |_| LeaderError::Busy { limit: MAX_CALLS };
        let mut question = self.pending.ask(to, MAX_CALLS).map_err(busy)?;
        let id = question.id;
        let LeaderCall { name, version, payload } = call;
        let timeout_ms = patience.as_millis() as u64;
        let frame = Frame::Call(Call { id, name, version, timeout_ms, payload }).encode();
        let unreachable = |reason, effect| LeaderError::Unreachable { leader: to, reason, effect };
        let frame = frame.map_err(|reason| unreachable(reason, Effect::None))?;
        if let Err(error) = self.transport.send(to, Channel::Leader, Class::Data, frame) {
            return Err(unreachable(error.to_string(), Effect::None));
        }
        match timeout(patience, &mut question.answer).await {
            Ok(Ok(answer)) => answer.map_err(|refusal| refusal.error(to)),
            Ok(Err(_)) => Err(unreachable("the link to it was lost".to_owned(), Effect::Unknown)),
            Err(_) => Err(LeaderError::Timeout),
        }
    }

    fn called(self: &Arc<Self>, from: Member, call: Call) {
        let Call { id, name, version, timeout_ms, payload } = call;
        let Some(host) = self.host.get().and_then(Weak::upgrade) else {
            return self.answer(from, id, Err(LeaderError::NotLeader { leader: None }));
        };
        let Ok(permit) = self.handled.clone().try_acquire_owned() else {
            return self.answer(from, id, Err(LeaderError::Busy { limit: MAX_CALLS }));
        };
        let handled = host.handle(LeaderCall { name, version, payload });
        let links = Arc::downgrade(self);
        tokio::spawn(async move {
            let handled = timeout(Duration::from_millis(timeout_ms), handled).await;
            drop(permit);
            if let Some(links) = links.upgrade() {
                links.answer(from, id, handled.unwrap_or(Err(LeaderError::Timeout)));
            }
        });
    }

    fn answer(&self, to: Member, id: u64, answer: Result<Bytes, LeaderError>) {
        let sent = Frame::Answer { id, answer: answer.map_err(Refusal::from) }.encode();
        let sent = sent.and_then(|frame| {
            let sent = self.transport.send(to, Channel::Leader, Class::Data, frame);
            sent.map_err(|error| error.to_string())
        });
        if let Err(error) = sent {
            // Its caller hears of the lost link, or waits until its time is over.
            tracing::debug!(%to, error, "an answer is not sent");
        }
    }

    fn frame(self: &Arc<Self>, from: Member, frame: &Bytes) {
        match Frame::decode(frame) {
            Ok(Frame::Call(call)) => self.called(from, call),
            Ok(Frame::Answer { id, answer }) => self.pending.answered(from, id, answer),
            Err(error) => tracing::error!(%from, error, "a malformed message for the leader"),
        }
    }
}

impl Forward for Links {
    fn forward(
        &self,
        to: LeaderInfo,
        call: LeaderCall,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, LeaderError>> {
        match self.me.upgrade() {
            Some(links) => Box::pin(links.ask(to.member, call, timeout)),
            None => Box::pin(std::future::ready(Err(LeaderError::ShuttingDown))),
        }
    }
}

/// What the transport tells.
struct Ear(Weak<Links>);

impl Receiver for Ear {
    fn event(&self, event: Event) {
        let Some(links) = self.0.upgrade() else { return };
        match event {
            Event::Up { .. } => {}
            Event::Down { peer, .. } => links.pending.lost(peer),
            Event::Frame { from, frame, .. } => links.frame(from, &frame),
        }
    }
}
