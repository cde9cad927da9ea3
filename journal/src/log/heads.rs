//! Entities' heads, as the entries that are applied make them: those that were used last.

use std::collections::HashMap;

use crate::{id::EntityId, port::Head};

/// Heads of one shard's entities.
#[derive(Debug, Default)]
pub(crate) struct Heads {
    /// Two generations: what is used moves to the young one; when that is full, it becomes the old
    /// one, and what was old is forgotten.
    young: HashMap<EntityId, Head>,
    old: HashMap<EntityId, Head>,
    /// How many entities a generation holds.
    capacity: usize,
}

impl Heads {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, ..Self::default() }
    }

    /// The entity's head, if it is at hand. Change it in place.
    pub(crate) fn get(&mut self, entity: &EntityId) -> Option<&mut Head> {
        if !self.young.contains_key(entity) {
            let head = self.old.remove(entity)?;
            self.put(entity.clone(), head);
        }
        self.young.get_mut(entity)
    }

    /// Notes what was read.
    pub(crate) fn put(&mut self, entity: EntityId, head: Head) {
        if self.young.len() >= self.capacity.max(1) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(entity, head);
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
            assert_eq!(heads.get(&id(0)).copied(), Some(head(7)), "after {n}");
        }
        assert_eq!(heads.get(&id(1)), None, "long not used");
        heads.clear();
        assert_eq!(heads.get(&id(0)), None);
    }
}
