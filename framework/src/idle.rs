//! Which entities have been idle, and for how long, without a timer for each and without touching
//! anything per command.
//!
//! Every active entity has one entry, under the time at which it was last known to be used. That
//! time is looked at again only when the entry is the oldest: an entity that was used since goes back
//! under its newer time. So the oldest entry whose time is still true is the one that was idle
//! longest.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

/// The entities of one kind by idleness.
pub(crate) struct Idle<T> {
    /// By milliseconds and a number that keeps entries apart.
    entries: BTreeMap<(u64, u64), (Weak<T>, u32)>,
    next: u64,
}

/// What is known of an entity whose entry is the oldest.
pub(crate) enum Seen {
    /// Not that incarnation any more.
    Gone,
    /// Used at this time.
    UsedAt(u64),
}

impl<T> Idle<T> {
    pub(crate) fn new() -> Self {
        Self { entries: BTreeMap::new(), next: 0 }
    }

    /// Adds an incarnation, or puts it back under a newer time.
    pub(crate) fn insert(&mut self, used: u64, slot: Weak<T>, generation: u32) {
        self.next += 1;
        self.entries.insert((used, self.next), (slot, generation));
    }

    /// Takes out the one that was idle longest, if that is since `limit` or earlier.
    pub(crate) fn pop(
        &mut self,
        limit: u64,
        seen: impl Fn(&Arc<T>, u32) -> Seen,
    ) -> Option<(Arc<T>, u32)> {
        loop {
            let (&(recorded, _), _) = self.entries.first_key_value()?;
            if recorded > limit {
                return None;
            }
            let (_, (weak, generation)) = self.entries.pop_first()?;
            let Some(slot) = weak.upgrade() else { continue };
            match seen(&slot, generation) {
                Seen::Gone => {}
                Seen::UsedAt(used) if used > recorded => self.insert(used, weak, generation),
                Seen::UsedAt(_) => return Some((slot, generation)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    fn used(slot: &Arc<AtomicU64>, _: u32) -> Seen {
        Seen::UsedAt(slot.load(Relaxed))
    }

    #[test]
    fn the_longest_idle_comes_first_and_used_ones_go_back() {
        let mut idle = Idle::new();
        let slots: Vec<_> = (0..3).map(|n| Arc::new(AtomicU64::new(n))).collect();
        for (n, slot) in slots.iter().enumerate() {
            idle.insert(n as u64, Arc::downgrade(slot), 1);
        }
        slots[0].store(10, Relaxed);
        assert!(Arc::ptr_eq(&idle.pop(9, used).expect("the second").0, &slots[1]));
        assert!(Arc::ptr_eq(&idle.pop(9, used).expect("the third").0, &slots[2]));
        assert!(idle.pop(9, used).is_none(), "the first was used at 10");
        assert!(Arc::ptr_eq(&idle.pop(10, used).expect("the first").0, &slots[0]));
        assert!(idle.pop(u64::MAX, used).is_none());
    }

    #[test]
    fn those_that_are_gone_are_forgotten() {
        let mut idle = Idle::new();
        idle.insert(0, Arc::downgrade(&Arc::new(AtomicU64::new(0))), 1);
        let replaced = Arc::new(AtomicU64::new(0));
        idle.insert(0, Arc::downgrade(&replaced), 1);
        assert!(idle.pop(u64::MAX, |_, _| Seen::Gone).is_none());
        assert!(idle.entries.is_empty());
    }
}
