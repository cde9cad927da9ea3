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
}

impl Usage {
    pub(crate) fn touch(&self, now: u64) {
        self.used.store(now, Relaxed);
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
    fn those_that_leave_are_forgotten() {
        let (mut idle, entities) = three();
        entities.iter().for_each(|entity| idle.remove(entity));
        assert!(idle.entries.is_empty() && idle.longest(u64::MAX, 0).is_none());
        idle.insert(5, entities[1].clone());
        idle.insert(6, entities[1].clone());
        assert_eq!(idle.entries.len(), 1);
    }
}
