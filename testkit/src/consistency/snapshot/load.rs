//! What a life does to its store: saves and deletions.

use std::sync::Arc;

use duractor_journal::{EntityId, Seq};
use duractor_snapshot::{
    Compression, Criteria, RedbSnapshots, Retention, Saved, SnapshotError, SnapshotOptions,
    SnapshotStore,
};
use futures_util::future::BoxFuture;

use super::{
    history::Lives,
    model::Change,
    states::{id, names, snapshot},
};

pub(super) type Flying = (u64, BoxFuture<'static, Result<(), SnapshotError>>);

impl Lives<'_> {
    pub(super) fn options(&mut self) -> SnapshotOptions {
        let compression = if self.rng.chance(0.5) { Compression::None } else { Compression::Lz4 };
        // A small cache: most reads go to the disk.
        SnapshotOptions { compression, cache_bytes: 64 << 10, ..SnapshotOptions::default() }
    }

    /// One save or delete.
    pub(super) fn call(&mut self, store: &Arc<RedbSnapshots>, failing: bool) -> Flying {
        self.model.calls += 1;
        let call = self.model.calls;
        let entity = self.entity();
        if self.rng.chance(0.2) {
            let to = Seq(self.rng.below(14));
            for place in self.model.of(&entity).into_iter().filter(|(_, seq)| *seq <= to) {
                self.model.change(place, call, None);
            }
            self.trace.line(|| format!("  call {call}: delete {entity} to {to}"));
            let deleted = store.delete(&entity, Criteria::up_to(to));
            return (call, Box::pin(async move { deleted.await.map(drop) }));
        }
        let keep = [usize::MAX, 1, 2, 3][self.rng.index(4)];
        let snapshots: Vec<_> = (0..1 + self.rng.below(3))
            .map(|n| {
                let entity = if n == 0 { entity.clone() } else { self.entity() };
                snapshot(&mut self.rng, entity, call * 8 + n)
            })
            .collect();
        self.trace.line(|| format!("  call {call}: save {:?}, keep {keep}", names(&snapshots)));
        for saved in &snapshots {
            let place = (saved.entity.clone(), saved.seq);
            self.model.change(place, call, Some(saved.timestamp.0));
        }
        for saved in &snapshots {
            self.retain(&saved.entity, call, keep, failing);
        }
        let keep = if keep == usize::MAX { Retention::All } else { Retention::newest(keep) };
        let saved = store.save(snapshots, keep);
        (call, Box::pin(async move { saved.await.map(|_: Vec<Saved>| ()) }))
    }

    fn entity(&mut self) -> EntityId {
        id(self.rng.below(6))
    }

    /// What a save deletes: all but the newest `keep`, where it is certain which ones these are;
    /// otherwise whatever may be among them. Where reads fail, that is any.
    fn retain(&mut self, entity: &EntityId, call: u64, keep: usize, failing: bool) {
        let (mut surely, mut maybe) = (0, 0);
        for place in self.model.of(entity) {
            let of_call = |c: &Change| c.call == call && c.value.is_some();
            let saved_now =
                self.model.places.get(&place).and_then(|c| c.last()).is_some_and(of_call);
            if failing {
                self.model.change(place, 0, None);
                continue;
            }
            if surely >= keep {
                self.model.change(place, call, None);
                continue;
            }
            if maybe >= keep {
                // It is there still or not, and no answer tells.
                self.model.change(place.clone(), 0, None);
            }
            surely += usize::from(saved_now || !self.model.may_be_absent(&place));
            maybe += 1;
        }
    }
}
