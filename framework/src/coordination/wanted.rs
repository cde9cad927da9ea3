//! Tickets that a session wants, and how they are given back.

use std::{sync::Arc, time::Duration};

use duractor_journal::{EntityId, ShardId};
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep};

use super::{
    ids::Ticket,
    permits::Release,
    session::{Inner, PAUSE, TRY},
    side::Side,
};
use crate::error::AskError;

/// Gives a ticket back, at its entity.
pub(super) type GiveBack =
    Arc<dyn Fn(Release, Duration) -> BoxFuture<'static, Result<bool, AskError>> + Send + Sync>;

/// A ticket that is wanted, and given back when this is dropped.
pub(super) struct Wanted {
    pub(super) session: Arc<Inner>,
    pub(super) shard: ShardId,
    pub(super) ticket: Ticket,
    /// When it was drawn, by the node's wall clock.
    pub(super) since_ms: u64,
    give_back: GiveBack,
    armed: bool,
}

impl Inner {
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
        Some(Wanted { session, shard, ticket, since_ms, give_back, armed: true })
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
