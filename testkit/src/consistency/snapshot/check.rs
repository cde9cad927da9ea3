//! Reads of a store, held against the model.

use std::{path::Path, sync::Arc};

use duractor_snapshot::{Criteria, RedbSnapshots, Snapshot, SnapshotStore};

use super::{
    super::{
        plan::Plan,
        report::{Checked, violated},
    },
    history::Lives,
    model::Change,
    states::{content, id, state},
};

impl Lives<'_> {
    /// Loads every place, and the newest of every entity. With `decide`, what is found is certain
    /// from then on: all that can be read is durable.
    pub(super) async fn read_all(
        &mut self,
        plan: &Plan,
        store: &Arc<RedbSnapshots>,
        decide: bool,
    ) -> Checked {
        self.set_aside(plan)?;
        let places: Vec<_> = self.model.places.keys().cloned().collect();
        for place in &places {
            let may_be = self.model.may_be(place);
            let damaged = store.damaged();
            let found = store.load(&place.0, Criteria::at(place.1)).await;
            let reported = store.damaged() != damaged;
            let value = match found {
                Ok(Some(found)) => Some(self.known(&found)?),
                Ok(None) => None,
                Err(error) => {
                    self.failed(plan, &error)?;
                    continue;
                }
            };
            self.report.checked += 1;
            let name = format!("{} at {}", place.0, place.1);
            self.trace.line(|| format!("  {name} is {value:?}, and may be {may_be:?}"));
            if reported && !self.trouble(plan) && !self.troubled {
                return violated(format!("damage of {name} was reported, and there is none"));
            }
            match value {
                None if reported => self.report.count("absent_reported"),
                value if !may_be.contains(&value) => {
                    let what = format!("{name} is {value:?}, and may be {may_be:?}");
                    return violated(what);
                }
                value if decide => self.model.seen(place, value),
                _ => {}
            }
        }
        if !self.trouble(plan) {
            self.newest(store).await?;
        }
        Ok(())
    }

    /// Where the store set its file aside, everything may be gone; and it may do so only where the
    /// disk gave it a reason.
    fn set_aside(&mut self, plan: &Plan) -> Checked {
        let files = self.sim.disk().files();
        let aside = |path: &Path| path.to_string_lossy().contains(".damaged-");
        let count = files.iter().filter(|(path, _)| aside(path)).count();
        if count <= self.aside {
            return Ok(());
        }
        self.aside = count;
        self.report.count("set_aside");
        for changes in self.model.places.values_mut() {
            changes.push(Change { call: 0, value: None, certain: false });
        }
        if self.trouble(plan) || self.troubled {
            return Ok(());
        }
        violated("the file was set aside, and nothing is wrong with it")
    }

    async fn newest(&mut self, store: &Arc<RedbSnapshots>) -> Checked {
        for entity in (0..6).map(id) {
            let mut places = self.model.of(&entity);
            if places.iter().any(|place| self.model.may_be(place).len() > 1) {
                continue;
            }
            places.retain(|place| !self.model.may_be_absent(place));
            let newest = places.first().map(|(_, seq)| *seq);
            let found = store.load(&entity, Criteria::ALL).await;
            let found = found.map(|found| found.map(|snapshot| snapshot.seq));
            if found != Ok(newest) {
                return violated(format!("{entity}: the newest is {found:?}, not {newest:?}"));
            }
        }
        Ok(())
    }

    /// The number of a snapshot, where it is one that was saved, unchanged.
    fn known(&self, found: &Snapshot) -> Checked<u64> {
        let number = found.timestamp.0;
        let mut same = content(found.entity.clone(), found.seq, number);
        same.state = state(number);
        if *found == same {
            return Ok(number);
        }
        violated(format!("{} at {} has a wrong state", found.entity, found.seq))
    }
}
