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
use futures_util::future::BoxFuture;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};

use super::{
    error::CoordinationError,
    ids::{SessionId, Ticket},
    lease::MAX_SESSIONS,
    leases::{End, Leases, MAX_TTL, Renew, Standing},
    permits::{Release, Waits},
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

/// A lease unless a session says otherwise.
const TTL: Duration = Duration::from_secs(10);
/// The shortest lease.
const TTL_MIN: Duration = Duration::from_millis(300);
/// The longest label, in bytes.
const MAX_LABEL: usize = 200;
/// One try to renew, or to give something back.
const TRY: Duration = Duration::from_secs(1);
/// Between two tries that failed.
const PAUSE: Duration = Duration::from_millis(30);

/// How a session is set up.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    ttl: Duration,
    label: String,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { ttl: TTL, label: String::new() }
    }
}

impl SessionOptions {
    /// How long what the session holds stays its own when nothing is heard of it: 10 seconds unless
    /// set, at least 300 ms and at most an hour. Short: a dead holder is replaced soon. Long: failovers
    /// and pauses are survived. It should be some times longer than a failover (about a second).
    #[must_use]
    pub fn ttl(self, ttl: Duration) -> Self {
        Self { ttl: ttl.clamp(TTL_MIN, MAX_TTL), ..self }
    }

    /// What others see of the session where it holds something: at most 200 bytes, the rest is cut.
    #[must_use]
    pub fn label(self, label: impl Into<String>) -> Self {
        let mut label = label.into();
        let end = (0..=MAX_LABEL.min(label.len())).rev().find(|at| label.is_char_boundary(*at));
        label.truncate(end.unwrap_or(0));
        Self { label, ..self }
    }
}

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
    pub(super) node: u64,
    pub(super) shared: Weak<Shared>,
    kinds: Weak<Kinds>,
    state: Mutex<State>,
    /// Woken whenever something of the state changes.
    changed: Arc<Notify>,
    ended: AtomicBool,
}

struct State {
    /// The number of the next ticket.
    next: u64,
    sides: BTreeMap<ShardId, Side>,
}

/// Gives a ticket back, at its entity.
pub(super) type GiveBack =
    Arc<dyn Fn(Release, Duration) -> BoxFuture<'static, Result<bool, AskError>> + Send + Sync>;

/// A ticket that is wanted, and given back when this is dropped.
pub(super) struct Wanted {
    pub(super) session: Arc<Inner>,
    pub(super) shard: ShardId,
    pub(super) ticket: Ticket,
    give_back: GiveBack,
    armed: bool,
}

impl Session {
    pub(crate) fn open(shared: &Arc<Shared>, kinds: &Arc<Kinds>, options: SessionOptions) -> Self {
        let node = shared.router.as_ref().map_or(0, |router| router.me().to_u64());
        let inner = Inner {
            id: SessionId::draw(shared.env.entropy.as_ref()),
            label: options.label,
            ttl: options.ttl,
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
    fn lock(&self) -> MutexGuard<'_, State> {
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

    /// Draws a ticket for an entity. It is renewed from now on. `None` where the session has too many.
    pub(super) fn want(
        self: &Arc<Self>,
        shard: ShardId,
        entity: &EntityId,
        give_back: &GiveBack,
    ) -> Option<Wanted> {
        let since_ms = self.now_ms();
        let mut state = self.lock();
        let number = state.next;
        let side = state.sides.entry(shard).or_insert_with(|| Side::new(self.ttl));
        side.look(Instant::now());
        let era = side.want(number, entity, since_ms)?;
        self.see_to_it(shard, side);
        state.next += 1;
        drop(state);
        let (session, give_back) = (self.clone(), give_back.clone());
        let ticket = Ticket { session: self.id, era, number };
        Some(Wanted { session, shard, ticket, give_back, armed: true })
    }

    /// Has somebody renew a shard's lease.
    fn see_to_it(self: &Arc<Self>, shard: ShardId, side: &mut Side) {
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
        let all = state.sides.values().flat_map(Side::waits);
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

impl Wanted {
    /// It is held: whether under a lease that is believed in.
    pub(super) fn got(&self) -> bool {
        let mut state = self.session.lock();
        let side = state.sides.get_mut(&self.shard);
        let Ticket { era, number, .. } = self.ticket;
        side.is_some_and(|side| side.got(Instant::now(), era, number))
    }

    #[cfg(feature = "planted")]
    fn is_forgotten(&self) -> bool {
        let state = self.session.lock();
        let waits = state.sides.get(&self.shard).is_some_and(|s| s.waits_for(self.ticket.number));
        waits && crate::planted::is(crate::planted::Planted::AcquireNotUndone)
    }

    /// Nothing is left of it that could be given back.
    pub(super) fn forget(mut self) {
        self.armed = false;
        let mut state = self.session.lock();
        if let Some(side) = state.sides.get_mut(&self.shard) {
            side.give_up(self.ticket.number);
        }
    }

    fn release(&self) -> Release {
        let Ticket { session, era, number } = self.ticket;
        Release { session: session.0, era, number }
    }

    /// Nobody wants it any more; the returned value counts until its entity has heard of it.
    fn give_up(&mut self) -> Option<Returning> {
        if !std::mem::take(&mut self.armed) {
            return None;
        }
        let mut state = self.session.lock();
        let side = state.sides.get_mut(&self.shard)?;
        side.give_up(self.ticket.number);
        side.returning += 1;
        drop(state);
        Some(Returning { session: self.session.clone(), shard: self.shard })
    }

    /// Gives it back, and says whether it was held until then.
    pub(super) async fn give_back(mut self, patience: Duration) -> Result<bool, AskError> {
        let held = self.session.held_until(self.shard, self.ticket.era).is_some();
        let (release, give_back) = (self.release(), self.give_back.clone());
        let returning = self.give_up();
        let first = give_back(release.clone(), patience).await;
        if first.is_err()
            && let Some(returning) = returning
        {
            returning.go_on(release, give_back);
        }
        Ok(first? && held)
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        #[cfg(feature = "planted")]
        if self.is_forgotten() {
            return;
        }
        let (release, give_back) = (self.release(), self.give_back.clone());
        if let Some(returning) = self.give_up() {
            returning.go_on(release, give_back);
        }
    }
}

/// A ticket on its way back. While there is one, the lease is renewed: a renewal says, too, that the
/// ticket is not wanted.
struct Returning {
    session: Arc<Inner>,
    shard: ShardId,
}

impl Returning {
    /// Tries until the entity has heard of it, or any lease must be over.
    fn go_on(self, release: Release, give_back: GiveBack) {
        // Without a runtime nothing renews either, so the lease ends by itself.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let until = Instant::now() + self.session.ttl * 2;
            while Instant::now() < until {
                match give_back(release.clone(), TRY).await {
                    Ok(_) | Err(AskError::ShuttingDown | AskError::NodeFailed { .. }) => return,
                    Err(error) => tracing::debug!(%error, "not given back yet"),
                }
                sleep(PAUSE).await;
            }
        });
    }
}

impl Drop for Returning {
    fn drop(&mut self) {
        if let Some(side) = self.session.lock().sides.get_mut(&self.shard) {
            side.returning = side.returning.saturating_sub(1);
        }
        self.session.changed.notify_waiters();
    }
}
