//! A session's side of its leases: what it may believe. Decisions only; the clock is given.
//!
//! A session counts a lease from when it *sent* the renewal that was acknowledged, and for a tenth less
//! than the owner gives, so it stops believing before the owner takes anything away. What it once did not
//! believe any more stays lost, whatever is acknowledged later: the owner may have changed meanwhile, and
//! the new one cannot know what the old one has given to others.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use duractor_journal::EntityId;
use tokio::time::Instant;

use super::lease::Wait;

/// Tickets that a session may have in one shard.
pub(crate) const MAX_TICKETS: usize = 10_000;

/// A lease is renewed so often in its time.
const RENEWALS: u32 = 3;
/// A lease is believed in for so much less than it is given for, as a part of it.
const CAUTION: u32 = 10;

/// A session in one shard.
pub(crate) struct Side {
    ttl: Duration,
    era: u32,
    /// What is believed: the lease lasts until then.
    until: Option<Instant>,
    /// When the last renewal was sent that was acknowledged.
    renewed: Option<Instant>,
    /// The owner said that it knows no lease: one is to be had by a renewal no older than this.
    forced: Option<Instant>,
    tickets: BTreeMap<u64, Wanted>,
    /// Tickets that are being given back.
    pub(crate) returning: usize,
    /// Somebody renews it.
    pub(crate) kept: bool,
}

/// A ticket that is waited for or held.
struct Wanted {
    entity: EntityId,
    /// Where it waits: since when by the wall clock.
    since_ms: Option<u64>,
}

/// What a renewal is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) era: u32,
    pub(crate) wanted: BTreeSet<u64>,
}

impl Side {
    pub(crate) fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            era: 0,
            until: None,
            renewed: None,
            forced: None,
            tickets: BTreeMap::new(),
            returning: 0,
            kept: false,
        }
    }

    /// Takes in what time it is. True where the lease was lost by that, or was before.
    pub(crate) fn look(&mut self, now: Instant) -> bool {
        let over = self.until.is_some_and(|until| until <= now);
        if over {
            self.lose();
        }
        over
    }

    /// The lease is over, and everything that was held under it is lost.
    fn lose(&mut self) {
        self.era += 1;
        self.until = None;
        self.renewed = None;
        self.tickets.clear();
    }

    /// The owner says that the lease of this era is over.
    pub(crate) fn over(&mut self, era: u32) -> bool {
        let over = era == self.era;
        if over {
            self.lose();
        }
        over
    }

    pub(crate) fn era(&self) -> u32 {
        self.era
    }

    /// A renewal of this era that was sent at `sent` was acknowledged.
    pub(crate) fn renewed(&mut self, now: Instant, era: u32, sent: Instant) {
        self.look(now);
        let until = sent + (self.ttl - self.ttl / CAUTION);
        if era == self.era && until > now {
            self.until = self.until.max(Some(until));
            self.renewed = self.renewed.max(Some(sent));
        }
    }

    /// Whether a renewal was acknowledged that was sent no earlier.
    pub(crate) fn is_renewed(&self, since: Instant) -> bool {
        self.renewed.is_some_and(|sent| sent >= since)
    }

    /// The owner knows no lease of this session: it is to be renewed at once.
    pub(crate) fn force(&mut self, now: Instant) {
        self.forced = Some(now);
    }

    /// When the next renewal is to be sent.
    pub(crate) fn next_renewal(&self, now: Instant) -> Instant {
        match self.renewed {
            Some(sent) if self.forced.is_none_or(|forced| forced <= sent) => {
                sent + self.ttl / RENEWALS
            }
            _ => now,
        }
    }

    /// Until when the lease of this era is believed in.
    pub(crate) fn until(&mut self, now: Instant, era: u32) -> Option<Instant> {
        self.look(now);
        self.until.filter(|_| era == self.era)
    }

    /// Wants a ticket. `None` where there are too many.
    pub(crate) fn want(&mut self, number: u64, entity: &EntityId, since_ms: u64) -> Option<u32> {
        if self.tickets.len() >= MAX_TICKETS {
            return None;
        }
        let wanted = Wanted { entity: entity.clone(), since_ms: Some(since_ms) };
        self.tickets.insert(number, wanted);
        Some(self.era)
    }

    /// It waits no more: it holds. False where the era is over.
    pub(crate) fn got(&mut self, now: Instant, era: u32, number: u64) -> bool {
        self.look(now);
        match self.tickets.get_mut(&number) {
            Some(wanted) if era == self.era && self.until.is_some() => {
                wanted.since_ms = None;
                true
            }
            _ => false,
        }
    }

    /// Whether a ticket is waited for or held.
    pub(crate) fn wants(&mut self, now: Instant, era: u32, number: u64) -> bool {
        self.look(now);
        era == self.era && self.tickets.contains_key(&number)
    }

    pub(crate) fn give_up(&mut self, number: u64) {
        self.tickets.remove(&number);
    }

    /// Nothing is wanted, nor given back.
    pub(crate) fn is_idle(&self) -> bool {
        self.tickets.is_empty() && self.returning == 0
    }

    pub(crate) fn due(&mut self, now: Instant) -> Due {
        self.look(now);
        Due { era: self.era, wanted: self.tickets.keys().copied().collect() }
    }

    #[cfg(feature = "planted")]
    pub(crate) fn waits_for(&self, number: u64) -> bool {
        self.tickets.get(&number).is_some_and(|wanted| wanted.since_ms.is_some())
    }

    /// What is waited for.
    pub(crate) fn waits(&self) -> impl Iterator<Item = Wait> {
        self.tickets.iter().filter_map(|(number, wanted)| {
            let since_ms = wanted.since_ms?;
            Some(Wait { entity: wanted.entity.clone(), ticket: *number, since_ms })
        })
    }

    /// Whether there is something that the owner should hear the end of.
    pub(crate) fn is_used(&self) -> bool {
        self.until.is_some() || !self.is_idle()
    }

    /// The session ends.
    pub(crate) fn end(&mut self) {
        self.lose();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn at(start: Instant, secs: u64) -> Instant {
        start + Duration::from_secs(secs)
    }

    fn side(start: Instant) -> Side {
        let mut side = Side::new(TTL);
        let entity = EntityId::new("duractor.lock", "a").unwrap();
        assert_eq!(side.want(1, &entity, 0), Some(0));
        side.renewed(at(start, 2), 0, start);
        assert!(side.got(at(start, 2), 0, 1));
        side
    }

    #[test]
    fn a_lease_counts_from_when_its_renewal_was_sent() {
        let start = Instant::now();
        let mut side = side(start);
        assert!(side.wants(at(start, 8), 0, 1) && !side.wants(at(start, 8), 0, 2));
        assert_eq!(side.until(at(start, 8), 0), Some(at(start, 9)));
        side.renewed(at(start, 8), 0, at(start, 5));
        assert_eq!(side.until(at(start, 8), 0), Some(at(start, 14)));
        // One that was overtaken takes nothing back.
        side.renewed(at(start, 8), 0, at(start, 4));
        assert_eq!(side.until(at(start, 13), 0), Some(at(start, 14)));
        assert_eq!(side.until(at(start, 14), 0), None);
    }

    /// Cause: a renewal was sent in time, and acknowledged after the lease had run out. Consequence: the
    /// new owner of the shard acknowledges it, not knowing that the old one has given the lock to another.
    /// So what was lost stays lost.
    #[test]
    fn what_is_lost_stays_lost() {
        let start = Instant::now();
        let mut side = side(start);
        side.renewed(at(start, 9), 0, at(start, 8));
        assert_eq!(side.until(at(start, 9), 0), None);
        assert_eq!(side.era(), 1);
        assert!(!side.got(at(start, 9), 0, 1));
        assert!(side.due(at(start, 9)).wanted.is_empty());
        assert!(!side.wants(at(start, 9), 0, 1), "it stands in nobody's way");
        side.renewed(at(start, 10), 1, at(start, 9));
        assert_eq!(side.until(at(start, 10), 0), None);
        assert_eq!(side.until(at(start, 10), 1), Some(at(start, 18)));
    }

    #[test]
    fn tickets_are_bounded() {
        let mut side = Side::new(TTL);
        let entity = EntityId::new("duractor.lock", "a").unwrap();
        for number in 0..MAX_TICKETS as u64 {
            assert!(side.want(number, &entity, 0).is_some());
        }
        assert_eq!(side.want(u64::MAX, &entity, 0), None);
        side.give_up(0);
        assert!(side.want(u64::MAX, &entity, 0).is_some());
    }
}
