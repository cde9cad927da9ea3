//! Which entities have been idle, and for how long, without a timer for each and without touching
//! anything per command.
//!
//! Every active entity has one entry, under the time at which it was last known to be used. That
//! time is looked at again only when the entry is the oldest: an entity that was used since goes back
//! under its newer time. So the oldest entry whose time is still true is the one that was idle
//! longest.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// What an entity keeps for this. All times are in milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    /// When it was last used.
    used: AtomicU64,
    /// Its entry, if its number is not zero. Changed under the lock around [`Idle`].
    recorded: AtomicU64,
    number: AtomicU64,
    /// How much it was used of late: uses, halved with every [`AGE_MS`], and above them the time of
    /// the last halving in these units.
    heat: AtomicU64,
}

/// The half-life of uses, in milliseconds.
const AGE_MS: u64 = 8192;
/// So many of those that were idle longest are compared by their use.
const SAMPLE: usize = 8;

impl Usage {
    /// It is used. Called by one task at a time.
    pub(crate) fn touch(&self, now: u64) {
        self.used.store(now, Relaxed);
        let heat = (self.heat(now) + 1).min(u64::from(u32::MAX));
        self.heat.store((now / AGE_MS) << 32 | heat, Relaxed);
    }

    /// How much it was used of late.
    pub(crate) fn heat(&self, now: u64) -> u64 {
        let heat = self.heat.load(Relaxed);
        let halvings = (now / AGE_MS).saturating_sub(heat >> 32).min(32);
        (heat & u64::from(u32::MAX)) >> halvings
    }

    fn key(&self) -> (u64, u64) {
        (self.recorded.load(Relaxed), self.number.load(Relaxed))
    }
}

/// Something whose use is watched.
pub(crate) trait Used {
    fn usage(&self) -> &Usage;
}

/// The entities of one kind by idleness.
pub(crate) struct Idle<T> {
    /// By time and a number that keeps entries apart.
    entries: BTreeMap<(u64, u64), Arc<T>>,
    next: u64,
}

impl<T: Used> Idle<T> {
    pub(crate) fn new() -> Self {
        Self { entries: BTreeMap::new(), next: 0 }
    }

    /// Adds an entity, or moves it to another time.
    pub(crate) fn insert(&mut self, time: u64, entity: Arc<T>) {
        self.remove(&entity);
        self.next += 1;
        entity.usage().recorded.store(time, Relaxed);
        entity.usage().number.store(self.next, Relaxed);
        self.entries.insert((time, self.next), entity);
    }

    /// Forgets an entity.
    pub(crate) fn remove(&mut self, entity: &T) {
        self.entries.remove(&entity.usage().key());
    }

    /// The one that was used least of those that were idle longest, so that a rush of entities that are
    /// used once does not drive out those that are used again and again.
    pub(crate) fn coldest(&mut self, now: u64) -> Option<Arc<T>> {
        let sample = SAMPLE.min(self.entries.len());
        // Each goes under `now`, and so comes once.
        let found: Vec<_> = (0..sample).filter_map(|_| self.longest(u64::MAX, now)).collect();
        let coldest = found.iter().min_by_key(|entity| entity.usage().heat(now)).cloned();
        for entity in found {
            if !coldest.as_ref().is_some_and(|coldest| Arc::ptr_eq(coldest, &entity)) {
                self.insert(entity.usage().used.load(Relaxed), entity);
            }
        }
        coldest
    }

    /// The one that was idle longest, if that is since `limit` or earlier. It goes back under `now`,
    /// as it may refuse to leave.
    pub(crate) fn longest(&mut self, limit: u64, now: u64) -> Option<Arc<T>> {
        loop {
            let (&(recorded, _), entity) = self.entries.first_key_value()?;
            if recorded > limit {
                return None;
            }
            let (entity, used) = (entity.clone(), entity.usage().used.load(Relaxed));
            if used <= recorded {
                self.insert(now, entity.clone());
                return Some(entity);
            }
            self.insert(used, entity);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Used for Usage {
        fn usage(&self) -> &Usage {
            self
        }
    }

    fn three() -> (Idle<Usage>, Vec<Arc<Usage>>) {
        let mut idle = Idle::new();
        let entities: Vec<_> = (0..3).map(|_| Arc::new(Usage::default())).collect();
        for (time, entity) in (0..).zip(&entities) {
            entity.touch(time);
            idle.insert(time, entity.clone());
        }
        (idle, entities)
    }

    #[test]
    fn the_longest_idle_comes_first_and_used_ones_go_back() {
        let (mut idle, entities) = three();
        entities[0].touch(10);
        let mut longest = |limit| {
            let found = idle.longest(limit, 20)?;
            entities.iter().position(|entity| Arc::ptr_eq(entity, &found))
        };
        assert_eq!([longest(9), longest(9), longest(9)], [Some(1), Some(2), None]);
        assert_eq!([longest(10), longest(19)], [Some(0), None], "it was used at 10");
        assert_eq!(longest(20), Some(1), "those found before are due again");
        assert_eq!(idle.entries.len(), 3, "each has one entry");
    }

    #[test]
    fn those_that_are_used_again_and_again_stay() {
        let (mut idle, entities) = three();
        (0..5).for_each(|_| entities[0].touch(3));
        entities[1].touch(4);
        let coldest = idle.coldest(9).expect("three are there");
        assert!(Arc::ptr_eq(&coldest, &entities[2]), "used once, and longest ago of these");
        assert_eq!(entities[0].heat(9), 6);
        assert_eq!(entities[0].heat(9 + 2 * AGE_MS), 1, "halved twice");
        assert_eq!(entities[0].heat(u64::MAX), 0, "forgotten");
        assert_eq!(idle.entries.len(), 3);
    }

    #[test]
    fn those_that_leave_are_forgotten() {
        let (mut idle, entities) = three();
        entities.iter().for_each(|entity| idle.remove(entity));
        assert!(idle.entries.is_empty() && idle.longest(u64::MAX, 0).is_none());
        idle.insert(5, entities[1].clone());
        idle.insert(6, entities[1].clone());
        assert_eq!(idle.entries.len(), 1);
    }
}
