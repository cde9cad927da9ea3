//! Entities' heads, as the entries that are applied make them: those that were used last.

use std::collections::{HashMap, hash_map::Entry};

use super::codec::Name;
use crate::{id::EntityId, port::Head};

/// Heads of one shard's entities, by the entities' hashes. Of two with the same hash one is known.
#[derive(Debug, Default)]
pub(crate) struct Heads {
    /// Two generations: what is used moves to the young one; when that is full, it becomes the old
    /// one, and what was old is forgotten.
    young: HashMap<u64, (EntityId, Head)>,
    old: HashMap<u64, (EntityId, Head)>,
    /// How many entities a generation holds.
    capacity: usize,
}

impl Heads {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), ..Self::default() }
    }

    /// The entity and its head, if it is at hand. Change it in place.
    pub(crate) fn get(&mut self, name: Name<'_>) -> Option<(&EntityId, &mut Head)> {
        if self.young.len() > self.capacity {
            self.old = std::mem::take(&mut self.young);
        }
        let hash = name.hash64()?;
        let known = match self.young.entry(hash) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(self.old.remove(&hash)?),
        };
        name.is_of(&known.0).then_some((&known.0, &mut known.1))
    }

    /// Notes what was read.
    pub(crate) fn put(&mut self, entity: EntityId, head: Head) {
        if self.young.len() >= self.capacity {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(entity.hash64(), (entity, head));
    }

    /// Forgets all of them.
    pub(crate) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Seq;

    #[test]
    fn what_is_used_stays() {
        let mut heads = Heads::new(2);
        let id = |n: u64| EntityId::new("order", &n.to_string()).expect("valid");
        let head = |n: u64| Head { last_seq: Seq(n), ..Head::default() };
        heads.put(id(0), head(7));
        for n in 1..50 {
            heads.put(id(n), head(n));
            let known = heads.get(Name::of(&id(0))).map(|(_, head)| *head);
            assert_eq!(known, Some(head(7)), "after {n}");
        }
        assert_eq!(heads.get(Name::of(&id(1))), None, "long not used");
        heads.clear();
        assert_eq!(heads.get(Name::of(&id(0))), None);
    }
}
