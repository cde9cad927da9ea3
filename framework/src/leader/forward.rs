//! How calls get to the leader: by the cluster's links, or another way that an application has.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use duractor_journal::{
    Effect, Env, Member, Transport,
    transport::{Channel, Class, Event, Receiver},
};
use futures_util::future::BoxFuture;
use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout,
};

use super::{
    error::{LeaderError, LeaderInfo},
    handlers::LeaderCall,
    wire::{Call, Frame, Refusal},
};

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

/// Who waits for the answer of whom.
type Waiting = (Member, oneshot::Sender<Result<Bytes, Refusal>>);

/// Calls over the cluster's links.
pub(super) struct Links {
    transport: Arc<dyn Transport>,
    host: OnceLock<Weak<dyn Host>>,
    next: AtomicU64,
    waiting: Mutex<BTreeMap<u64, Waiting>>,
    handled: Arc<Semaphore>,
    me: Weak<Links>,
}

impl Links {
    /// Listens to the others from now on.
    pub(super) fn start(transport: Arc<dyn Transport>, env: &Env) -> Arc<Self> {
        let links = Arc::new_cyclic(|me| Self {
            transport,
            host: OnceLock::new(),
            // Not from 1: an answer to an earlier life of this node must not be taken for one to this.
            next: AtomicU64::new(env.entropy.next_u64()),
            waiting: Mutex::default(),
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

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(
        self: Arc<Self>,
        to: Member,
        call: LeaderCall,
        patience: Duration,
    ) -> Result<Bytes, LeaderError> {
        let id = self.next.fetch_add(1, Relaxed);
        let LeaderCall { name, version, payload } = call;
        let timeout_ms = patience.as_millis() as u64;
        let frame = Frame::Call(Call { id, name, version, timeout_ms, payload }).encode();
        let unreachable = |reason, effect| LeaderError::Unreachable { leader: to, reason, effect };
        let frame = frame.map_err(|reason| unreachable(reason, Effect::None))?;
        let (tell, answer) = oneshot::channel();
        {
            let mut waiting = self.lock();
            if waiting.len() >= MAX_CALLS {
                return Err(LeaderError::Busy { limit: MAX_CALLS });
            }
            waiting.insert(id, (to, tell));
        }
        let _forget = Forget { links: &self, id };
        if let Err(error) = self.transport.send(to, Channel::Leader, Class::Data, frame) {
            return Err(unreachable(error.to_string(), Effect::None));
        }
        match timeout(patience, answer).await {
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
            Ok(Frame::Answer { id, answer }) => {
                let mut waiting = self.lock();
                if waiting.get(&id).is_some_and(|(asked, _)| *asked == from)
                    && let Some((_, tell)) = waiting.remove(&id)
                {
                    drop(waiting);
                    // Its caller may have given up.
                    let _ = tell.send(answer);
                }
            }
            Err(error) => tracing::error!(%from, error, "a malformed message for the leader"),
        }
    }

    /// Nobody is told in the lock: dropping the sender tells.
    fn lost(&self, peer: Member) {
        let mut waiting = self.lock();
        let (gone, left): (BTreeMap<_, _>, _) =
            std::mem::take(&mut *waiting).into_iter().partition(|(_, (to, _))| *to == peer);
        *waiting = left;
        drop(waiting);
        drop(gone);
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

/// Takes back a call that nobody waits for any more.
struct Forget<'a> {
    links: &'a Links,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.links.lock().remove(&self.id);
    }
}

/// What the transport tells.
struct Ear(Weak<Links>);

impl Receiver for Ear {
    fn event(&self, event: Event) {
        let Some(links) = self.0.upgrade() else { return };
        match event {
            Event::Up { .. } => {}
            Event::Down { peer, .. } => links.lost(peer),
            Event::Frame { from, frame, .. } => links.frame(from, &frame),
        }
    }
}
