//! The port in memory: for tests, and for entities whose state may be lost with the process.

use std::{
    collections::BTreeMap,
    future,
    sync::{Mutex, MutexGuard, PoisonError},
};

use duractor_journal::{EntityId, Seq};
use futures_util::future::BoxFuture;

use crate::{
    error::SnapshotError,
    port::{Criteria, Retention, Saved, Snapshot, SnapshotStore, check_sizes},
};

/// Snapshots in memory. A clone of its `Arc` that outlives a node stands for the disk that
/// outlives it.
#[derive(Debug, Default)]
pub struct MemorySnapshots {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entities: BTreeMap<EntityId, BTreeMap<Seq, Snapshot>>,
    closed: bool,
}

impl MemorySnapshots {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes calls again after [`shutdown`](SnapshotStore::shutdown), as a file that is opened
    /// again.
    pub fn reopen(&self) {
        self.lock().closed = false;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing between lock and unlock panics half-way through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<MutexGuard<'_, Inner>, SnapshotError> {
        let inner = self.lock();
        if inner.closed { Err(SnapshotError::Closed) } else { Ok(inner) }
    }

    fn save_now(
        &self,
        snapshots: Vec<Snapshot>,
        retention: Retention,
    ) -> Result<Vec<Saved>, SnapshotError> {
        check_sizes(&snapshots)?;
        let mut inner = self.open()?;
        let ids: Vec<EntityId> = snapshots.iter().map(|s| s.entity.clone()).collect();
        for snapshot in snapshots {
            let of_entity = inner.entities.entry(snapshot.entity.clone()).or_default();
            of_entity.insert(snapshot.seq, snapshot);
        }
        let trim = |id: &EntityId| {
            let of_entity = inner.entities.entry(id.clone()).or_default();
            while of_entity.len() > retention.limit() {
                of_entity.pop_first();
            }
            Saved { oldest: of_entity.keys().next().copied().unwrap_or_default() }
        };
        Ok(ids.iter().map(trim).collect())
    }

    fn load_now(
        &self,
        entity: &EntityId,
        criteria: Criteria,
    ) -> Result<Option<Snapshot>, SnapshotError> {
        let inner = self.open()?;
        let newest = inner.entities.get(entity).and_then(|of_entity| {
            of_entity.values().rev().find(|s| criteria.matches(s.seq, s.timestamp))
        });
        Ok(newest.cloned())
    }

    fn delete_now(&self, entity: &EntityId, criteria: Criteria) -> Result<u64, SnapshotError> {
        let mut inner = self.open()?;
        let Some(of_entity) = inner.entities.get_mut(entity) else { return Ok(0) };
        let before = of_entity.len();
        of_entity.retain(|seq, s| !criteria.matches(*seq, s.timestamp));
        Ok((before - of_entity.len()) as u64)
    }
}

impl SnapshotStore for MemorySnapshots {
    fn save(
        &self,
        snapshots: Vec<Snapshot>,
        retention: Retention,
    ) -> BoxFuture<'static, Result<Vec<Saved>, SnapshotError>> {
        Box::pin(future::ready(self.save_now(snapshots, retention)))
    }

    fn load(
        &self,
        entity: &EntityId,
        criteria: Criteria,
    ) -> BoxFuture<'static, Result<Option<Snapshot>, SnapshotError>> {
        Box::pin(future::ready(self.load_now(entity, criteria)))
    }

    fn delete(
        &self,
        entity: &EntityId,
        criteria: Criteria,
    ) -> BoxFuture<'static, Result<u64, SnapshotError>> {
        Box::pin(future::ready(self.delete_now(entity, criteria)))
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        self.lock().closed = true;
        Box::pin(future::ready(()))
    }
}
