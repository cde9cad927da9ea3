//! A node's leases: one [`Tenancy`] for each shard that it owns.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
};

use duractor_journal::{EntityId, ShardId};
use tokio::time::Instant;

use super::lease::Tenancy;
use crate::shared::Shared;

/// All leases that this node has given.
#[derive(Default)]
pub(crate) struct Warden {
    shared: OnceLock<Weak<Shared>>,
    shards: Mutex<BTreeMap<ShardId, Tenancy>>,
    #[cfg(feature = "planted")]
    wall: OnceLock<u64>,
}

impl Warden {
    /// The node whose warden this is.
    pub(crate) fn attach(&self, shared: &Arc<Shared>) {
        // It is set once.
        let _ = self.shared.set(Arc::downgrade(shared));
    }

    #[cfg(feature = "planted")]
    fn planted_now(&self, shared: &Shared) -> Instant {
        use crate::planted::{Planted, is};
        if !is(Planted::LeaseByWallClock) {
            return Instant::now();
        }
        let wall = shared.env.clock.now().0;
        let first = *self.wall.get_or_init(|| wall);
        // A clock that was set back by an hour must not make it a time before the start.
        shared.start + std::time::Duration::from_millis((wall + 7_200_000).saturating_sub(first))
    }

    /// Looks at, and changes, the leases of an entity's shard; `None` where this node does not own it.
    /// What was known under another epoch is forgotten.
    pub(crate) fn with<R>(
        &self,
        entity: &EntityId,
        look: impl FnOnce(&mut Tenancy, Instant) -> R,
    ) -> Option<R> {
        let shared = self.shared.get()?.upgrade()?;
        let shard = entity.shard(shared.journal.shards());
        let epoch = shared.shard(shard)?.hold.epoch()?;
        #[cfg(not(feature = "planted"))]
        let now = Instant::now();
        #[cfg(feature = "planted")]
        let now = self.planted_now(&shared);
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let tenancy = shards.entry(shard).or_insert_with(|| Tenancy::new(epoch, now));
        if tenancy.epoch != epoch {
            *tenancy = Tenancy::new(epoch, now);
        }
        Some(look(tenancy, now))
    }
}
