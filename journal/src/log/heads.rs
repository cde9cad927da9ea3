//! What the journal knows of a shard's writers: the epoch in force and the entities' heads, with
//! the writes that are accepted and not yet committed counted in.

use std::collections::HashMap;

use crate::{
    error::JournalError,
    id::{EntityId, Seq, ShardId, Term},
    port::Head,
};

/// A head, and the shard's submission that changed it last.
#[derive(Debug, Clone, Copy)]
struct Cached {
    head: Head,
    ticket: u64,
}

/// The writers' view of one shard.
#[derive(Debug, Default)]
pub(crate) struct ShardHeads {
    pub shard: ShardId,
    pub epoch: Term,
    /// Counts the shard's submissions.
    ticket: u64,
    /// Two generations: what is used moves to the young one; when that is full, it becomes the old
    /// one, and what was old is forgotten.
    young: HashMap<EntityId, Cached>,
    old: HashMap<EntityId, Cached>,
    /// How many entities a generation holds.
    capacity: usize,
}

impl ShardHeads {
    pub(crate) fn new(shard: ShardId, epoch: Term, capacity: usize) -> Self {
        Self { shard, epoch, capacity, ..Self::default() }
    }

    /// Refuses a writer whose epoch is not the one in force.
    pub(crate) fn check_epoch(&self, epoch: Term) -> Result<(), JournalError> {
        if epoch == self.epoch {
            return Ok(());
        }
        Err(JournalError::StaleEpoch { shard: self.shard, stale: epoch, current: self.epoch })
    }

    /// The entity's head; `load` reads it where it is not at hand. Submissions up to `completed`
    /// are committed, so what they changed can be forgotten and read again.
    pub(crate) fn head(
        &mut self,
        entity: &EntityId,
        completed: u64,
        load: impl FnOnce() -> Result<Head, JournalError>,
    ) -> Result<Head, JournalError> {
        if let Some(cached) = self.young.get(entity) {
            return Ok(cached.head);
        }
        let cached = match self.old.remove(entity) {
            Some(cached) => cached,
            None => Cached { head: load()?, ticket: 0 },
        };
        if self.young.len() >= self.capacity {
            let young = std::mem::take(&mut self.young);
            let mut old = std::mem::replace(&mut self.old, young);
            old.retain(|_, cached| cached.ticket > completed);
            self.old.extend(old);
        }
        self.young.insert(entity.clone(), cached);
        Ok(cached.head)
    }

    /// Notes a submission that changes the entity's head, and returns its ticket. The head was
    /// asked for just before.
    pub(crate) fn submitted(&mut self, entity: &EntityId, head: Head) -> u64 {
        self.ticket += 1;
        if let Some(cached) = self.young.get_mut(entity) {
            *cached = Cached { head, ticket: self.ticket };
        }
        self.ticket
    }

    /// Notes a claim, and returns its ticket.
    pub(crate) fn claimed(&mut self) -> u64 {
        self.ticket += 1;
        self.ticket
    }

    /// Forgets all heads: accepted writes were refused after all, so they count for nothing.
    pub(crate) fn forget(&mut self) {
        self.young.clear();
        self.old.clear();
    }
}

/// Checks a batch against its entity's head, and returns the head that it leads to.
pub(crate) fn advance(
    entity: &EntityId,
    head: Head,
    expected: Seq,
    events: u64,
) -> Result<Head, JournalError> {
    if head.last_seq != expected {
        return Err(JournalError::WrongExpectedSeq {
            entity: entity.clone(),
            expected,
            actual: head.last_seq,
        });
    }
    Ok(Head { last_seq: expected.plus(events), ..head })
}
