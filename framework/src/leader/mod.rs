//! The leader of the cluster: the node that owns shard 0, and what only it does.
//!
//! One node leads at a time, and it knows by the same lease by which it owns the shard's entities: a
//! leader that hears of no quorum stops being one before another is elected, as long as clocks run at
//! one rate and no process stands still. What must hold without that condition needs the token.
//!
//! | module | what it holds |
//! |---|---|
//! | `error` | who leads; what can go wrong |
//! | `handlers` | what only the leader does, by name |
//! | `wire`, `forward` | calls on their way to the leader |
//! | here | [`Leader`], the way in |

mod error;
mod forward;
mod handlers;
mod wire;

use std::{
    future::Future,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use duractor_journal::{Effect, Env, Member, ShardId, Term, Transport};
use futures_util::{
    Stream, StreamExt,
    future::BoxFuture,
    stream::{BoxStream, unfold},
};
use tokio::time::{Instant, sleep, timeout_at};

use self::forward::{Host, Links};
use crate::{
    cluster::Cluster,
    command::{Command, decode_reply},
    hold::Hold,
    shared::{Guest, Shared},
};

pub use error::{LeaderError, LeaderInfo};
pub use forward::Forward;
pub(crate) use handlers::Handlers;
pub use handlers::{LeaderCall, Leadership};

/// The shard whose owner leads.
const SYSTEM: ShardId = ShardId(0);
/// A node without a cluster.
const ALONE: Member = Member::new(1, 1);
/// Between two looks for a leader.
const LOOK: Duration = Duration::from_millis(20);

/// The cluster's leader as this node sees it: made by [`Node::leader`](crate::Node::leader). Cheap to
/// clone. On a node without a cluster, that node leads.
#[derive(Clone)]
pub struct Leader {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    cluster: Option<Cluster>,
    handlers: Handlers,
    forward: Option<Arc<dyn Forward>>,
    /// Answers calls of other nodes as long as this lives.
    _links: Option<Arc<Links>>,
    me: Weak<Inner>,
}

/// What a node's builder says of it.
pub(crate) struct Setup {
    pub(crate) cluster: Option<Cluster>,
    pub(crate) transport: Option<Arc<dyn Transport>>,
    pub(crate) handlers: Handlers,
    pub(crate) forward: Option<Arc<dyn Forward>>,
}

impl Leader {
    pub(crate) fn new(shared: &Arc<Shared>, setup: Setup, env: &Env) -> Self {
        let Setup { cluster, transport, handlers, forward } = setup;
        let links = transport.map(|transport| Links::start(transport, env));
        let by_links = links.clone().map(|links| links as Arc<dyn Forward>);
        let inner = Arc::new_cyclic(|me: &Weak<Inner>| Inner {
            shared: shared.clone(),
            cluster,
            handlers,
            forward: forward.or(by_links),
            _links: links.clone(),
            me: me.clone(),
        });
        if let Some(links) = links {
            let host: Arc<dyn Host> = inner.clone();
            links.host(Arc::downgrade(&host));
        }
        Self { inner }
    }

    /// Whether this node leads now.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.inner.token().is_some()
    }

    /// Who leads, as far as this node knows; `None` while nobody is known to.
    #[must_use]
    pub fn current(&self) -> Option<LeaderInfo> {
        self.inner.current()
    }

    /// Who leads: now, and then whenever this node hears of a change. Changes that follow each other
    /// quickly may come as one. Ends when the node shuts down.
    pub fn changes(&self) -> impl Stream<Item = Option<LeaderInfo>> + Send + 'static {
        let inner = self.inner.clone();
        let changes = unfold((inner, None), |(inner, last)| async move {
            let shared = inner.shared.clone();
            let now = tokio::select! {
                biased;
                () = shared.closing() => return None,
                now = inner.differs_from(last) => now,
            };
            Some((now.clone(), (inner, Some(now))))
        });
        let changes: BoxStream<'static, _> = changes.boxed();
        changes
    }

    /// Does something here, if this node leads. It is dropped at its next `await` when the node ceases
    /// to, and a hand-over waits for that.
    ///
    /// # Errors
    /// [`LeaderError::NotLeader`]: nothing was done. [`LeaderError::LeadershipLost`]: it was dropped.
    pub async fn run_if_leader<F: Future>(
        &self,
        work: impl FnOnce(Leadership) -> F,
    ) -> Result<F::Output, LeaderError> {
        let begun = self.inner.begin(|leadership| Ok(work(leadership)))?;
        begun.run().await
    }

    /// Calls the handler of this command here: it is refused where this node does not lead. For callers
    /// who go to the leader themselves, as by the address in the error.
    ///
    /// # Errors
    /// [`LeaderError`] says whether the handler may have been called.
    pub async fn call<C: Command>(&self, command: C) -> Result<C::Reply, LeaderError> {
        let reply = self.handle(encoded(&command)?).await?;
        Ok(decode_reply::<C>(&reply)?)
    }

    /// Calls the handler of this command on the leader, wherever that is, and brings back its reply. While
    /// nobody leads, or the call meets a node that does not, it is tried again within the time.
    ///
    /// The handler is called at most once, unless an error says that it is not known whether it was.
    ///
    /// # Errors
    /// [`LeaderError`] says whether the handler may have been called.
    pub async fn forward<C: Command>(
        &self,
        command: C,
        timeout: Duration,
    ) -> Result<C::Reply, LeaderError> {
        let until = Instant::now() + timeout;
        let call = encoded(&command)?;
        let mut last = LeaderError::NotLeader { leader: None };
        while Instant::now() < until {
            if self.inner.shared.refusal().is_some() {
                return Err(LeaderError::ShuttingDown);
            }
            match self.inner.once(call.clone(), until).await {
                Ok(reply) => return Ok(decode_reply::<C>(&reply)?),
                Err(
                    again @ (LeaderError::NotLeader { .. }
                    | LeaderError::Unreachable { effect: Effect::None, .. }),
                ) => last = again,
                Err(error) => return Err(error),
            }
            sleep(LOOK).await;
        }
        Err(last)
    }

    /// Handles a call that came by an application's own [`Forward`]. Refused where this node does not
    /// lead. What is returned is for the forwarder to bring back.
    ///
    /// # Errors
    /// [`LeaderError`] says whether the handler may have been called.
    pub async fn handle(&self, call: LeaderCall) -> Result<Bytes, LeaderError> {
        self.inner.handle(call).await
    }
}

fn encoded<C: Command>(command: &C) -> Result<LeaderCall, LeaderError> {
    let payload = command.encode()?;
    Ok(LeaderCall { name: C::NAME.to_owned(), version: C::VERSION, payload })
}

/// Work that was begun under a leadership.
struct Begun<F> {
    shared: Arc<Shared>,
    token: Term,
    work: F,
    _guest: Guest,
}

impl<F: Future> Begun<F> {
    async fn run(self) -> Result<F::Output, LeaderError> {
        let Some(shard) = self.shared.shard(SYSTEM) else { return Err(LeaderError::ShuttingDown) };
        tokio::select! {
            biased;
            () = shard.hold.lost(self.token) => Err(LeaderError::LeadershipLost),
            done = self.work => Ok(done),
        }
    }
}

impl Inner {
    fn hold(&self) -> Option<&Hold> {
        self.shared.shard(SYSTEM).map(|shard| &shard.hold)
    }

    fn token(&self) -> Option<Term> {
        self.shared.check_open().ok()?;
        self.hold()?.epoch()
    }

    fn me(&self) -> Member {
        self.shared.router.as_ref().map_or(ALONE, |router| router.me())
    }

    fn current(&self) -> Option<LeaderInfo> {
        let hold = self.hold()?;
        let router = self.shared.router.as_ref();
        let other = || hold.believed().or_else(|| router.and_then(|router| router.known(SYSTEM)));
        let member = if hold.epoch().is_some() { Some(self.me()) } else { other() }?;
        let address = self
            .cluster
            .as_ref()
            .and_then(|cluster| Some(cluster.state().members.get(&member)?.address.clone()));
        Some(LeaderInfo { member, address })
    }

    async fn differs_from(&self, last: Option<Option<LeaderInfo>>) -> Option<LeaderInfo> {
        let Some(hold) = self.hold() else { return std::future::pending().await };
        let look = || Some(self.current()).filter(|now| Some(now) != last.as_ref());
        hold.until(look).await
    }

    fn begin<F>(
        &self,
        work: impl FnOnce(Leadership) -> Result<F, LeaderError>,
    ) -> Result<Begun<F>, LeaderError> {
        let not_leader = || LeaderError::NotLeader { leader: self.current() };
        let token = self.token().ok_or_else(not_leader)?;
        let guest = Guest::enter(&self.shared, SYSTEM);
        // Whoever hands over counts its guests after it has ended the tenure.
        if self.token() != Some(token) {
            return Err(not_leader());
        }
        let work = work(Leadership { token: token.0 })?;
        Ok(Begun { shared: self.shared.clone(), token, work, _guest: guest })
    }

    /// One try: here, or at whoever leads.
    async fn once(&self, call: LeaderCall, until: Instant) -> Result<Bytes, LeaderError> {
        if self.token().is_some() {
            let handled = timeout_at(until, self.handle(call)).await;
            return handled.unwrap_or(Err(LeaderError::Timeout));
        }
        let leader = self.current().filter(|leader| leader.member != self.me());
        match (leader, &self.forward) {
            (Some(leader), Some(forward)) => {
                let left = until.saturating_duration_since(Instant::now());
                forward.forward(leader, call, left).await
            }
            (leader, _) => Err(LeaderError::NotLeader { leader }),
        }
    }
}

impl Host for Inner {
    fn handle(&self, call: LeaderCall) -> BoxFuture<'static, Result<Bytes, LeaderError>> {
        let begun = self.begin(|leadership| self.handlers.begin(leadership, call));
        // Alive as long as the work: its node's parts are.
        let inner = self.me.upgrade();
        Box::pin(async move {
            let _inner = inner;
            begun?.run().await?
        })
    }
}
