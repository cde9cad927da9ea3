//! Taking permits of a lock or a semaphore, and the guard of what was taken.

use std::{fmt, sync::Arc, time::Duration};

use duractor_journal::{EntityId, Member, ShardId, Timestamp};
use tokio::time::{Instant, timeout_at};

use super::{
    deadlock::found,
    error::CoordinationError,
    ids::SessionId,
    permits::{Acquire, Acquired, Flavor, Holding, Locks, Look, MAX_WAITERS, Permits},
    session::Session,
    side::MAX_TICKETS,
    wanted::{GiveBack, Wanted},
};
use crate::{AskError, RequestId, entity_ref::EntityRef, error::NodeError};

/// One question to an entity waits for so long in its queue; who waits longer asks again, and keeps its
/// place. Not longer: a question can be lost in the moment in which a link breaks and comes up again, and
/// nobody tells its caller.
const LEG: Duration = Duration::from_secs(5);
/// So long an answer may take where nobody waits for others.
const ANSWER: Duration = Duration::from_secs(5);

/// A lock or a semaphore, as a session uses it.
pub(super) struct Seat<F: Flavor> {
    session: Session,
    entity: EntityRef<Permits<F>>,
    shard: ShardId,
    of: u32,
}

impl<F: Flavor> Clone for Seat<F> {
    fn clone(&self) -> Self {
        let (session, entity) = (self.session.clone(), self.entity.clone());
        Self { session, entity, shard: self.shard, of: self.of }
    }
}

/// Who holds a lock, or permits of a semaphore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HolderInfo {
    /// Whose it is.
    pub session: SessionId,
    /// The session's label.
    pub label: String,
    /// The session's node; `None` where that is no member of a cluster.
    pub node: Option<Member>,
    /// The fencing token.
    pub token: u64,
    /// How many permits: 1 of a lock.
    pub permits: u32,
    /// Since when, by the wall clock of the node that gave it.
    pub since: Timestamp,
}

/// What a try came to.
enum Tried {
    Got(Guard),
    /// Again, with another ticket: the lease was lost meanwhile.
    Again,
    Failed(CoordinationError),
}

impl<F: Flavor> Seat<F> {
    pub(super) fn new(session: &Session, name: &str, of: u32) -> Result<Self, CoordinationError> {
        let entity = session.inner.entity::<Permits<F>>(name)?;
        let shared = session.inner.shared.upgrade().ok_or(NodeError::ShuttingDown)?;
        let shard = entity.id().shard(shared.journal.shards());
        Ok(Self { session: session.clone(), entity, shard, of })
    }

    pub(super) fn name(&self) -> &str {
        self.entity.id().key()
    }

    pub(super) fn id(&self) -> &EntityId {
        self.entity.id()
    }

    /// Takes permits; waits for at most so long, where that is given. `None` where they are taken and
    /// `wait` is zero.
    pub(super) async fn acquire(
        &self,
        permits: u32,
        wait: Option<Duration>,
    ) -> Result<Option<Guard>, CoordinationError> {
        let begun = Instant::now();
        let at_once = wait == Some(Duration::ZERO);
        let until = wait.map(|wait| begun + if at_once { ANSWER } else { wait });
        let late = || {
            let name = self.name().to_owned();
            CoordinationError::Timeout { name, waited: begun.elapsed() }
        };
        loop {
            self.session.inner.check()?;
            let tried = self.try_once(permits, at_once, until);
            let tried = match until {
                None => tried.await,
                // What was wanted is given back when the try is dropped.
                Some(until) => timeout_at(until, tried).await.map_err(|_| late())?,
            };
            match tried {
                Tried::Got(guard) => return Ok(Some(guard)),
                Tried::Again => {}
                Tried::Failed(CoordinationError::Timeout { .. }) if at_once => return Ok(None),
                Tried::Failed(CoordinationError::Timeout { .. }) => return Err(late()),
                Tried::Failed(error) => return Err(error),
            }
            tokio::task::yield_now().await;
        }
    }

    /// With one ticket.
    async fn try_once(&self, permits: u32, at_once: bool, until: Option<Instant>) -> Tried {
        let inner = &self.session.inner;
        let Some(wanted) = inner.want(self.shard, self.id(), &self.give_back()) else {
            let (name, limit) = (self.name().to_owned(), MAX_TICKETS);
            return Tried::Failed(CoordinationError::TooManyTickets { name, limit });
        };
        let mut since = None;
        loop {
            if !inner.leased(self.shard, wanted.ticket.era, since).await {
                return Tried::Again;
            }
            let asked = tokio::select! {
                biased;
                asked = self.ask(&wanted, permits, at_once, until) => asked,
                cycle = self.deadlock(&wanted) => {
                    return Tried::Failed(CoordinationError::Deadlock { cycle });
                }
            };
            match asked {
                Ok(Acquired::Token(token)) if wanted.got() => {
                    return Tried::Got(self.guard(wanted, token, permits));
                }
                Ok(Acquired::Token(_) | Acquired::GivenUp) => return Tried::Again,
                Ok(Acquired::NoLease) => since = Some(inner.force(self.shard)),
                Ok(Acquired::LeaseOver) => {
                    inner.over(self.shard, wanted.ticket.era);
                    return Tried::Again;
                }
                Ok(refused) => return Tried::Failed(self.refused(refused)),
                // Its place in the queue is kept.
                Err(AskError::Timeout { .. } | AskError::Expired { .. })
                    if until.is_none_or(|until| Instant::now() < until) && !at_once => {}
                Err(error) => return Tried::Failed(error.into()),
            }
        }
    }

    async fn deadlock(&self, wanted: &Wanted) -> Vec<String> {
        if F::KIND != Locks::KIND || !self.session.inner.deadlocks {
            return std::future::pending().await;
        }
        let Wanted { ticket, since_ms, .. } = wanted;
        found(&self.session.inner, self.name(), *ticket, *since_ms).await
    }

    async fn ask(
        &self,
        wanted: &Wanted,
        permits: u32,
        at_once: bool,
        until: Option<Instant>,
    ) -> Result<Acquired, AskError> {
        let inner = &self.session.inner;
        let left = until.map_or(LEG, |until| until.saturating_duration_since(Instant::now()));
        let (number, era) = (wanted.ticket.number, wanted.ticket.era);
        let acquire = Acquire {
            session: inner.id.0,
            era,
            number,
            permits,
            of: self.of,
            wait_ms: if at_once { 0 } else { left.as_millis() as u64 },
            ttl_ms: inner.ttl.as_millis() as u64,
            label: inner.label.clone(),
            node: inner.node,
        };
        let mut ask = self.entity.ask(acquire).timeout(left.min(LEG));
        // A repeat gets what the ticket got: it may be repeated whatever became of it.
        if let Ok(id) = RequestId::new(&format!("{}-{era}-{number}", inner.id)) {
            ask = ask.request_id(id);
        }
        ask.await
    }

    fn refused(&self, refused: Acquired) -> CoordinationError {
        let name = self.name().to_owned();
        match refused {
            Acquired::OtherSize(actual) => {
                CoordinationError::OtherSize { name, actual, wanted: self.of }
            }
            Acquired::TooManyWait => CoordinationError::TooManyWait { name, limit: MAX_WAITERS },
            _ => CoordinationError::Timeout { name, waited: Duration::ZERO },
        }
    }

    fn give_back(&self) -> GiveBack {
        let entity = self.entity.clone();
        Arc::new(move |release, patience| {
            let (entity, number) = (entity.clone(), release.number);
            let id = RequestId::new(&format!("{:x}-{number}-end", release.session));
            Box::pin(async move {
                let ask = entity.ask(release).timeout(patience);
                match id {
                    Ok(id) => ask.request_id(id).await,
                    Err(_) => ask.await,
                }
            })
        })
    }

    fn guard(&self, wanted: Wanted, token: u64, permits: u32) -> Guard {
        Guard { wanted, entity: self.id().clone(), token, permits }
    }

    pub(super) async fn holding(&self) -> Result<Holding, CoordinationError> {
        Ok(self.entity.ask(Look {}).await?)
    }

    pub(super) async fn holders(&self) -> Result<Vec<HolderInfo>, CoordinationError> {
        let holders = self.holding().await?.holders.into_iter();
        let info = |holder: super::permits::Holder| HolderInfo {
            session: holder.ticket.session,
            label: holder.label,
            node: Some(holder.node).filter(|node| *node > 0).map(Member::from_u64),
            token: holder.token,
            permits: holder.permits,
            since: holder.since,
        };
        Ok(holders.map(info).collect())
    }
}

/// A lock, or permits of a semaphore, that are held. Dropping it gives them back in the background;
/// [`release`](Self::release) waits until that is done and says whether they were held until then.
///
/// Check [`is_held`](Self::is_held) before each step that needs the lock, end with
/// [`lost`](Self::lost), and send the [`token`](Self::token) along to whatever is protected: only that
/// helps where this process stands still after the check.
#[must_use = "what is held is given back when this is dropped"]
pub struct Guard {
    wanted: Wanted,
    entity: EntityId,
    token: u64,
    permits: u32,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (entity, token) = (&self.entity, self.token);
        f.debug_struct("Guard").field("of", entity).field("token", &token).finish_non_exhaustive()
    }
}

impl Guard {
    /// The name of what is held.
    #[must_use]
    pub fn name(&self) -> &str {
        self.entity.key()
    }

    /// The fencing token, 1 or more: every later holder, of whatever session, on whatever node, has a
    /// higher one. Have what is protected remember the highest that it has seen, and refuse lower ones.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.token
    }

    /// How many permits these are: 1 of a lock.
    #[must_use]
    pub fn permits(&self) -> u32 {
        self.permits
    }

    /// Whether it is held for sure now. Once false it stays so, even if nobody else has taken it yet.
    /// Asks nobody: it looks at the monotonic clock, and counts from when the last renewal that was
    /// acknowledged was sent, so it is false before the owner gives anything to another session. It
    /// holds as long as clocks run at about one rate (a tenth is to spare).
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.left().is_some()
    }

    /// For how much longer it is held for sure, if nothing more is heard; `None` where it may be lost.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        let Wanted { session, shard, ticket, .. } = &self.wanted;
        let until = session.held_until(*shard, ticket.era)?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    /// Waits until it may be lost: until [`is_held`](Self::is_held) is false. For a `select!` beside the
    /// work that needs it.
    pub async fn lost(&self) {
        self.wanted.session.lost(self.wanted.shard, self.wanted.ticket.era).await;
    }

    /// Gives it back, and returns when others can have it.
    ///
    /// # Errors
    /// [`CoordinationError::Lost`] where it was not held all the time until now: what was done under it
    /// may have happened beside another holder. [`CoordinationError::Ask`] where its entity could not be
    /// reached within 5 seconds: it is tried on in the background.
    pub async fn release(self) -> Result<(), CoordinationError> {
        let name = self.name().to_owned();
        match self.wanted.give_back(ANSWER).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(CoordinationError::Lost { name }),
            Err(error) => Err(error.into()),
        }
    }
}
