//! The owner's side of leases: which sessions live, which of their tickets count, who waits for what.
//! Decisions only; the clock is given.
//!
//! All of it is in the memory of the node that owns the shard, and begins anew with every tenure. What
//! survives is who holds what: that is in the entities. So a new owner knows the holders and not their
//! leases, and gives each of them a full one, counted from when it began.
//!
//! A session has one lease in a shard, for all that it holds there. It renews it by saying which of its
//! tickets it still wants. Whatever it holds and does not want any more is free: an acquisition whose
//! caller gave up cannot leak, whichever message was lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use duractor_journal::{EntityId, Term};
use tokio::time::Instant;

use super::ids::{SessionId, Ticket};

/// Sessions that one shard knows at once; more are refused.
pub(crate) const MAX_SESSIONS: usize = 65_536;
/// Tickets of one session that are known to be given up between two renewals; of more, the oldest are
/// forgotten, and free when the session renews next.
const MAX_GIVEN_UP: usize = 4096;
/// So many times its duration a lease that ran out is still known.
const FORGET: u32 = 4;

/// What a session says when it renews.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Renewal {
    pub(crate) session: SessionId,
    pub(crate) era: u32,
    pub(crate) ttl: Duration,
    /// The number of the ticket that it will draw next: it says nothing of this one and later ones.
    pub(crate) next: u64,
    /// Those before it that it wants.
    pub(crate) wanted: BTreeSet<u64>,
    pub(crate) waits: Vec<Wait>,
}

/// That a session waits for something, wherever that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) entity: EntityId,
    pub(crate) ticket: u64,
    /// When it began by its node's wall clock, in milliseconds: an order among waiters, and nothing
    /// else.
    pub(crate) since_ms: u64,
}

/// What became of a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewed {
    Yes,
    /// The lease ran out before: what it held may be others'.
    Over,
    /// As many sessions as may be are known.
    Full,
}

/// Whether a ticket may get something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Good,
    /// Its session has no lease here: it is to renew, and come again.
    Unknown,
    /// Its lease is over.
    Over,
    /// Its session does not want it any more.
    GivenUp,
}

/// One that waits for an entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiter {
    pub(crate) ticket: Ticket,
    pub(crate) permits: u32,
    until: Instant,
}

struct Lease {
    era: u32,
    ttl: Duration,
    renewed: Instant,
    next: u64,
    wanted: BTreeSet<u64>,
    /// Those that were given up since it was renewed.
    given_up: BTreeSet<u64>,
    waits: Vec<Wait>,
    /// It was decided that it ran out: nothing brings it back.
    over: bool,
}

impl Lease {
    fn is_alive(&self, now: Instant) -> bool {
        !self.over && now < self.renewed + self.ttl
    }

    fn wants(&self, number: u64) -> bool {
        let wanted = number >= self.next || self.wanted.contains(&number);
        wanted && !self.given_up.contains(&number)
    }
}

/// One shard's leases, in one tenure of its owner.
pub(crate) struct Tenancy {
    pub(crate) epoch: Term,
    /// No earlier than the tenure's begin.
    since: Instant,
    leases: BTreeMap<SessionId, Lease>,
    queues: BTreeMap<EntityId, Vec<Waiter>>,
    #[cfg(feature = "planted")]
    pub(crate) given: u64,
}

impl Tenancy {
    pub(crate) fn new(epoch: Term, since: Instant) -> Self {
        Self {
            epoch,
            since,
            leases: BTreeMap::new(),
            queues: BTreeMap::new(),
            #[cfg(feature = "planted")]
            given: 0,
        }
    }

    pub(crate) fn renew(&mut self, now: Instant, renewal: Renewal) -> Renewed {
        let Renewal { session, era, ttl, next, wanted, waits } = renewal;
        if let Some(lease) = self.leases.get_mut(&session) {
            if lease.era == era && !lease.is_alive(now) {
                lease.over = true;
            }
            if lease.era > era || (lease.era == era && lease.over) {
                return Renewed::Over;
            }
        } else if !self.has_room(now) {
            return Renewed::Full;
        }
        let given_up = BTreeSet::new();
        let lease = Lease { era, ttl, renewed: now, next, wanted, given_up, waits, over: false };
        let mut before = self.leases.insert(session, lease);
        // Said on the way of a renewal that was sent before.
        if let (Some(before), Some(lease)) = (&mut before, self.leases.get_mut(&session)) {
            lease.given_up = before.given_up.split_off(&next);
        }
        Renewed::Yes
    }

    fn has_room(&mut self, now: Instant) -> bool {
        if self.leases.len() >= MAX_SESSIONS {
            self.leases.retain(|_, lease| now < lease.renewed + lease.ttl * FORGET);
        }
        self.leases.len() < MAX_SESSIONS
    }

    /// A session ends: nothing that it holds counts any more.
    pub(crate) fn end(&mut self, session: SessionId) {
        if let Some(lease) = self.leases.get_mut(&session) {
            lease.over = true;
        }
    }

    /// A session does not want a ticket any more.
    pub(crate) fn give_up(&mut self, entity: &EntityId, ticket: Ticket) {
        self.unqueue(entity, ticket);
        if let Some(lease) = self.leases.get_mut(&ticket.session)
            && lease.era == ticket.era
        {
            lease.wanted.remove(&ticket.number);
            if ticket.number >= lease.next {
                lease.given_up.insert(ticket.number);
            }
            if lease.given_up.len() > MAX_GIVEN_UP {
                lease.given_up.pop_first();
            }
        }
    }

    /// Whether a ticket that holds nothing may get something.
    pub(crate) fn standing(&self, now: Instant, ticket: Ticket) -> Standing {
        let Some(lease) = self.leases.get(&ticket.session) else { return Standing::Unknown };
        if lease.era < ticket.era {
            return Standing::Unknown;
        }
        if lease.era > ticket.era || !lease.is_alive(now) {
            return Standing::Over;
        }
        if lease.wants(ticket.number) { Standing::Good } else { Standing::GivenUp }
    }

    /// Whether a ticket that holds something still does; `ttl` is its lease's. Of a session that has not
    /// renewed here, it does for a full lease from the tenure's begin.
    pub(crate) fn holds(&self, now: Instant, ticket: Ticket, ttl: Duration) -> bool {
        match self.leases.get(&ticket.session) {
            Some(lease) if lease.era > ticket.era => false,
            Some(lease) if lease.era == ticket.era => {
                lease.is_alive(now) && lease.wants(ticket.number)
            }
            #[cfg(feature = "planted")]
            _ if crate::planted::is(crate::planted::Planted::LeaseNotGivenAnew) => false,
            _ => now < self.since + ttl,
        }
    }

    /// What a ticket held is given to others: its lease, if that is why, is over for good.
    pub(crate) fn evict(&mut self, now: Instant, ticket: Ticket) {
        if let Some(lease) = self.leases.get_mut(&ticket.session)
            && lease.era == ticket.era
            && !lease.is_alive(now)
        {
            lease.over = true;
        }
    }

    /// What a session waits for, and how long ago it said so.
    pub(crate) fn waits(&self, now: Instant, session: SessionId) -> (Vec<Wait>, Duration) {
        match self.leases.get(&session) {
            Some(lease) if lease.is_alive(now) => {
                (lease.waits.clone(), now.saturating_duration_since(lease.renewed))
            }
            _ => (Vec::new(), Duration::MAX),
        }
    }
}

/// Queues: who waits for an entity, in the order in which they came.
impl Tenancy {
    /// Those before a ticket that are still to be served: before all that it is not among them.
    pub(crate) fn ahead(&mut self, now: Instant, entity: &EntityId, ticket: Ticket) -> usize {
        self.prune(now, entity);
        let queue = self.queues.get(entity).map_or(&[][..], Vec::as_slice);
        queue.iter().position(|waiter| waiter.ticket == ticket).unwrap_or(queue.len())
    }

    /// Puts a ticket at the end, unless it waits already. False where `most` wait.
    pub(crate) fn queue(
        &mut self,
        now: Instant,
        entity: &EntityId,
        (ticket, permits): (Ticket, u32),
        wait: Duration,
        most: usize,
    ) -> bool {
        let queue = self.queues.entry(entity.clone()).or_default();
        if queue.iter().any(|waiter| waiter.ticket == ticket) {
            return true;
        }
        if queue.len() >= most {
            return false;
        }
        queue.push(Waiter { ticket, permits, until: now + wait });
        true
    }

    pub(crate) fn unqueue(&mut self, entity: &EntityId, ticket: Ticket) {
        if let Some(queue) = self.queues.get_mut(entity) {
            queue.retain(|waiter| waiter.ticket != ticket);
            if queue.is_empty() {
                self.queues.remove(entity);
            }
        }
    }

    /// How many wait.
    pub(crate) fn waiting(&mut self, now: Instant, entity: &EntityId) -> usize {
        self.prune(now, entity);
        self.queues.get(entity).map_or(0, Vec::len)
    }

    /// Leaves out whose time is over, and whose session has died or wants it no more.
    fn prune(&mut self, now: Instant, entity: &EntityId) {
        let Some(mut queue) = self.queues.remove(entity) else { return };
        queue.retain(|waiter| {
            now < waiter.until && self.standing(now, waiter.ticket) == Standing::Good
        });
        if !queue.is_empty() {
            self.queues.insert(entity.clone(), queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);
    const ONE: SessionId = SessionId(1);
    const TWO: SessionId = SessionId(2);

    fn ticket(session: SessionId, era: u32, number: u64) -> Ticket {
        Ticket { session, era, number }
    }

    fn renewal(session: SessionId, era: u32, next: u64, wanted: &[u64]) -> Renewal {
        let wanted = wanted.iter().copied().collect();
        Renewal { session, era, ttl: TTL, next, wanted, waits: Vec::new() }
    }

    fn at(start: Instant, secs: u64) -> Instant {
        start + Duration::from_secs(secs)
    }

    #[test]
    fn a_new_owner_gives_a_full_lease() {
        let start = Instant::now();
        let tenancy = Tenancy::new(Term(1), start);
        let held = ticket(ONE, 0, 1);
        assert!(tenancy.holds(at(start, 9), held, TTL));
        assert!(!tenancy.holds(at(start, 10), held, TTL));
        assert_eq!(tenancy.standing(start, held), Standing::Unknown, "it gets nothing new");
    }

    #[test]
    fn a_lease_is_renewed_until_it_is_over_and_then_never() {
        let start = Instant::now();
        let mut tenancy = Tenancy::new(Term(1), start);
        let held = ticket(ONE, 0, 1);
        for secs in [0, 9, 18] {
            assert_eq!(tenancy.renew(at(start, secs), renewal(ONE, 0, 2, &[1])), Renewed::Yes);
        }
        assert!(tenancy.holds(at(start, 27), held, TTL));
        assert!(!tenancy.holds(at(start, 28), held, TTL));
        assert_eq!(tenancy.renew(at(start, 28), renewal(ONE, 0, 2, &[1])), Renewed::Over);
        assert_eq!(tenancy.renew(at(start, 28), renewal(ONE, 1, 3, &[2])), Renewed::Yes);
        assert!(!tenancy.holds(at(start, 29), held, TTL), "a new era does not bring it back");
        assert!(tenancy.holds(at(start, 29), ticket(ONE, 1, 2), TTL));
        assert_eq!(tenancy.standing(at(start, 29), held), Standing::Over);
    }

    #[test]
    fn what_is_not_wanted_any_more_is_free() {
        let start = Instant::now();
        let mut tenancy = Tenancy::new(Term(1), start);
        assert_eq!(tenancy.renew(start, renewal(ONE, 0, 3, &[2])), Renewed::Yes);
        assert!(!tenancy.holds(start, ticket(ONE, 0, 1), TTL));
        assert!(tenancy.holds(start, ticket(ONE, 0, 2), TTL));
        assert!(tenancy.holds(start, ticket(ONE, 0, 3), TTL), "drawn after the renewal was sent");
        let entity = EntityId::new("duractor.lock", "a").unwrap();
        tenancy.give_up(&entity, ticket(ONE, 0, 3));
        assert_eq!(tenancy.standing(start, ticket(ONE, 0, 3)), Standing::GivenUp);
        assert_eq!(tenancy.renew(start, renewal(ONE, 0, 3, &[2])), Renewed::Yes);
        assert_eq!(tenancy.standing(start, ticket(ONE, 0, 3)), Standing::GivenUp, "an older word");
        assert_eq!(tenancy.renew(start, renewal(ONE, 0, 9, &[2, 3])), Renewed::Yes);
        assert_eq!(tenancy.standing(start, ticket(ONE, 0, 3)), Standing::Good);
    }

    #[test]
    fn who_is_dead_or_late_is_not_waited_for() {
        let start = Instant::now();
        let mut tenancy = Tenancy::new(Term(1), start);
        let entity = EntityId::new("duractor.lock", "a").unwrap();
        for session in [ONE, TWO] {
            assert_eq!(tenancy.renew(start, renewal(session, 0, 1, &[])), Renewed::Yes);
        }
        let (first, second, third) = (ticket(ONE, 0, 1), ticket(TWO, 0, 1), ticket(TWO, 0, 2));
        let wait = Duration::from_secs(60);
        for waiter in [first, second, second] {
            assert!(tenancy.queue(start, &entity, (waiter, 1), wait, 2));
        }
        assert!(!tenancy.queue(start, &entity, (third, 1), wait, 2));
        assert_eq!(tenancy.ahead(start, &entity, second), 1);
        assert_eq!(tenancy.ahead(start, &entity, third), 2, "a newcomer is last");
        assert_eq!(tenancy.renew(at(start, 5), renewal(TWO, 0, 2, &[1])), Renewed::Yes);
        assert_eq!(tenancy.ahead(at(start, 10), &entity, second), 0, "the first has died");
        tenancy.end(TWO);
        assert_eq!(tenancy.waiting(at(start, 10), &entity), 0);
    }
}
