//! Sessions: what takes locks, and loses them when it dies.
//!
//! A session renews its leases in the background, one message for each shard in which it holds or waits
//! for something, three times in a lease's duration. The tasks that do it end with the session.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use duractor_journal::{EntityId, ShardId};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};

use super::{
    error::CoordinationError,
    ids::{SessionId, Ticket},
    lease::MAX_SESSIONS,
    leases::{End, Leases, Renew, Standing},
    options::SessionOptions,
    permits::Waits,
    side::Side,
};
use crate::{
    context::Kinds,
    entity::EventSourced,
    entity_ref::EntityRef,
    error::{AskError, NodeError},
    shared::Shared,
    task::until,
};

/// One try to renew, or to give something back.
pub(super) const TRY: Duration = Duration::from_secs(1);
/// Between two tries that failed.
pub(super) const PAUSE: Duration = Duration::from_millis(30);

/// A session on this node: all that it holds is lost when it ends, or dies with its process. A node
/// has one of its own ([`Node::lock`](crate::Node::lock)); open others for a shorter or longer lease,
/// or for tasks whose deadlocks are to be told apart. Cheap to clone; all clones are the same session.
/// It lives as long as a clone, or something that it holds, does.
#[derive(Clone)]
pub struct Session {
    pub(super) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(super) id: SessionId,
    pub(super) label: String,
    pub(super) ttl: Duration,
    /// Whether it says what it waits for.
    pub(super) deadlocks: bool,
    pub(super) node: u64,
    pub(super) shared: Weak<Shared>,
    kinds: Weak<Kinds>,
    state: Mutex<State>,
    /// Woken whenever something of the state changes.
    pub(super) changed: Arc<Notify>,
    ended: AtomicBool,
}

pub(super) struct State {
    /// The number of the next ticket.
    pub(super) next: u64,
    pub(super) sides: BTreeMap<ShardId, Side>,
}

impl Session {
    pub(crate) fn open(shared: &Arc<Shared>, kinds: &Arc<Kinds>, options: SessionOptions) -> Self {
        let node = shared.router.as_ref().map_or(0, |router| router.me().to_u64());
        let inner = Inner {
            id: SessionId::draw(shared.env.entropy.as_ref()),
            label: options.label,
            ttl: options.ttl,
            deadlocks: options.deadlocks.unwrap_or(true),
            node,
            shared: Arc::downgrade(shared),
            kinds: Arc::downgrade(kinds),
            state: Mutex::new(State { next: 1, sides: BTreeMap::new() }),
            changed: Arc::default(),
            ended: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Its id, as holders show it.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.inner.id
    }

    /// Ends the session: nothing that it holds is held from now on, and what can be is given back before
    /// this returns. Ends by itself with the last clone and guard.
    pub async fn end(&self) {
        self.inner.ended.store(true, Relaxed);
        let shards: Vec<_> = {
            let mut state = self.inner.lock();
            let now = Instant::now();
            let used = state.sides.iter_mut().filter_map(|(shard, side)| {
                side.look(now);
                side.is_used().then(|| {
                    side.end();
                    *shard
                })
            });
            used.collect()
        };
        self.inner.changed.notify_waiters();
        let ends = shards.into_iter().map(|shard| async move {
            let leases = self.inner.leases(shard).ok()?;
            leases.ask(End { session: self.inner.id.0 }).timeout(TRY).await.ok()
        });
        futures_util::future::join_all(ends).await;
    }

    pub(crate) fn downgrade(&self) -> Weak<Inner> {
        Arc::downgrade(&self.inner)
    }
}

impl Inner {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn check(&self) -> Result<(), CoordinationError> {
        if self.ended.load(Relaxed) { Err(CoordinationError::SessionEnded) } else { Ok(()) }
    }

    pub(super) fn entity<E: EventSourced>(&self, key: &str) -> Result<EntityRef<E>, NodeError> {
        let kinds = self.kinds.upgrade().ok_or(NodeError::ShuttingDown)?;
        EntityRef::find(&kinds, key)
    }

    fn leases(&self, shard: ShardId) -> Result<EntityRef<Leases>, NodeError> {
        let shared = self.shared.upgrade().ok_or(NodeError::ShuttingDown)?;
        self.entity(&Leases::key(shard, shared.journal.shards())?)
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.shared.upgrade().map_or(0, |shared| shared.env.clock.now().0)
    }

    /// Has somebody renew a shard's lease.
    pub(super) fn see_to_it(self: &Arc<Self>, shard: ShardId, side: &mut Side) {
        if !side.kept {
            side.kept = true;
            tokio::spawn(keep(Arc::downgrade(self), shard, self.changed.clone()));
        }
    }

    /// Waits until there is a lease of this era, and a renewal of it that was sent at `since` or later.
    /// False where the era is over.
    pub(super) async fn leased(&self, shard: ShardId, era: u32, since: Option<Instant>) -> bool {
        until(&self.changed, || {
            let mut state = self.lock();
            let Some(side) = state.sides.get_mut(&shard) else { return Some(false) };
            let lease = side.until(Instant::now(), era);
            if side.era() != era || self.ended.load(Relaxed) {
                return Some(false);
            }
            let fresh = since.is_none_or(|since| side.is_renewed(since));
            (lease.is_some() && fresh).then_some(true)
        })
        .await
    }

    /// The owner knows no lease of this session: it is renewed at once.
    pub(super) fn force(&self, shard: ShardId) -> Instant {
        let now = Instant::now();
        if let Some(side) = self.lock().sides.get_mut(&shard) {
            side.force(now);
        }
        self.changed.notify_waiters();
        now
    }

    /// The owner says that the lease is over.
    pub(super) fn over(&self, shard: ShardId, era: u32) {
        if self.lock().sides.get_mut(&shard).is_some_and(|side| side.over(era)) {
            self.changed.notify_waiters();
        }
    }

    /// Whether a ticket of its own is still waited for or held.
    pub(super) fn wants(&self, entity: &EntityId, ticket: Ticket) -> bool {
        let Some(shared) = self.shared.upgrade() else { return false };
        let shard = entity.shard(shared.journal.shards());
        let mut state = self.lock();
        let side = state.sides.get_mut(&shard);
        side.is_some_and(|side| side.wants(Instant::now(), ticket.era, ticket.number))
    }

    /// Until when what is held under this era is held for sure.
    pub(super) fn held_until(&self, shard: ShardId, era: u32) -> Option<Instant> {
        if self.ended.load(Relaxed) {
            return None;
        }
        self.lock().sides.get_mut(&shard)?.until(Instant::now(), era)
    }

    /// Waits until nothing is held under this era any more.
    pub(super) async fn lost(&self, shard: ShardId, era: u32) {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            let Some(until) = self.held_until(shard, era) else { return };
            tokio::select! {
                biased;
                () = changed => {}
                () = sleep_until(until) => {}
            }
        }
    }

    /// Whether everything that was dropped has been given back.
    pub(super) fn has_returned(&self) -> bool {
        self.lock().sides.values().all(|side| side.returning == 0)
    }

    fn waits(&self) -> Vec<Waits> {
        let state = self.lock();
        let all = state.sides.values().filter(|_| self.deadlocks).flat_map(Side::waits);
        let named = all.map(|wait| {
            let (kind, key) = (wait.entity.kind().to_owned(), wait.entity.key().to_owned());
            (kind, key, wait.ticket, wait.since_ms)
        });
        named.collect()
    }

    /// What a renewal of a shard's lease is to say, once it is due; `Err` says when that is. `None` where
    /// there is nothing to renew: whoever wants something next begins anew.
    fn due(&self, shard: ShardId) -> Option<Result<Renew, Instant>> {
        let now = Instant::now();
        let waits = self.waits();
        let mut state = self.lock();
        let next = state.next;
        let side = state.sides.get_mut(&shard)?;
        let due = side.due(now);
        if side.is_idle() || self.ended.load(Relaxed) {
            side.kept = false;
            drop(state);
            // The lease may have run out, and nobody told those who wait for a renewal of it.
            self.changed.notify_waiters();
            return None;
        }
        let at = side.next_renewal(now);
        if at > now {
            return Some(Err(at));
        }
        Some(Ok(Renew {
            session: self.id.0,
            era: due.era,
            ttl_ms: self.ttl.as_millis() as u64,
            next,
            wanted: due.wanted.into_iter().collect(),
            waits,
        }))
    }

    async fn renew(&self, shard: ShardId, renew: Renew) -> Result<(), CoordinationError> {
        let (era, sent) = (renew.era, Instant::now());
        let patience = TRY.min(self.ttl / 4);
        match self.leases(shard)?.ask(renew).timeout(patience).await? {
            Standing::Renewed => {
                if let Some(side) = self.lock().sides.get_mut(&shard) {
                    side.renewed(Instant::now(), era, sent);
                }
            }
            Standing::Over => {
                self.over(shard, era);
            }
            Standing::TooManySessions => {
                let (entity, limit) = (self.leases(shard)?.id().clone(), MAX_SESSIONS);
                return Err(AskError::LimitReached { entity, what: "sessions", limit }.into());
            }
        }
        self.changed.notify_waiters();
        Ok(())
    }
}

/// Renews a session's lease in a shard, as long as something is wanted there.
async fn keep(session: Weak<Inner>, shard: ShardId, changed: Arc<Notify>) {
    loop {
        let Some(inner) = session.upgrade() else { return };
        let mut woken = std::pin::pin!(changed.notified());
        woken.as_mut().enable();
        let at = match inner.due(shard) {
            None => return,
            Some(Err(at)) => at,
            Some(Ok(renew)) => match inner.renew(shard, renew).await {
                Ok(()) => continue,
                Err(CoordinationError::Ask(
                    AskError::ShuttingDown | AskError::NodeFailed { .. },
                ))
                | Err(CoordinationError::Node(_)) => {
                    inner.ended.store(true, Relaxed);
                    inner.changed.notify_waiters();
                    return;
                }
                Err(error) => {
                    tracing::debug!(%shard, %error, "a lease is not renewed yet");
                    // It may have run out meanwhile.
                    inner.changed.notify_waiters();
                    drop(inner);
                    sleep(PAUSE).await;
                    continue;
                }
            },
        };
        // The session may end meanwhile.
        drop(inner);
        tokio::select! {
            biased;
            () = woken => {}
            () = sleep_until(at) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(0);
    const TTL: Duration = Duration::from_secs(9);

    fn session() -> Arc<Inner> {
        Arc::new(Inner {
            id: SessionId(1),
            label: String::new(),
            ttl: TTL,
            deadlocks: false,
            node: 0,
            shared: Weak::new(),
            kinds: Weak::new(),
            state: Mutex::new(State { next: 1, sides: BTreeMap::new() }),
            changed: Arc::default(),
            ended: AtomicBool::new(false),
        })
    }

    /// Cause: a lease ran out while somebody waited for a renewal of it that the shard's new owner had
    /// asked for, and whoever renews it stopped, as nothing was wanted any more. Consequence: who waited
    /// was not told, and waited for ever. Now whoever renews tells when it stops.
    #[tokio::test(start_paused = true)]
    async fn a_lease_that_runs_out_is_told_to_those_who_wait_for_its_renewal() {
        let session = session();
        let mut side = Side::new(TTL);
        // Nobody renews it in the background.
        side.kept = true;
        side.renewed(Instant::now(), 0, Instant::now());
        session.lock().sides.insert(SHARD, side);
        let since = session.force(SHARD) + Duration::from_secs(1);
        let waiting = session.clone();
        let leased = tokio::spawn(async move { waiting.leased(SHARD, 0, Some(since)).await });
        tokio::task::yield_now().await;
        tokio::time::advance(TTL).await;
        assert!(session.due(SHARD).is_none(), "nothing is wanted any more");
        assert!(!leased.await.unwrap(), "the era is over");
    }
}
