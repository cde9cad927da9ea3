//! The lives of a snapshot store: random saves, deletes and loads through [`RedbSnapshots`], ended
//! at random, and checked after each start.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use duractor_journal::{Effect, EntityId, Env, Seq, Timestamp};
use duractor_snapshot::{
    Compression, Criteria, RedbSnapshots, Retention, Saved, Snapshot, SnapshotError,
    SnapshotOptions, SnapshotStore,
};
use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::{
    Planted, Report,
    plan::{End, Plan, disk_of, finish},
    planted::wrap,
    report::{Checked, Trace, checked, violated},
};
use crate::{
    env::{SimEnv, run_sim_with},
    rng::Rng,
};

const PATH: &str = "/data/snapshots.redb";
/// A call that is not answered after this time never will be.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs one seed.
#[must_use]
pub fn run(seed: u64, planted: Option<Planted>, trace: bool) -> Report {
    checked(planted, |report| {
        let mut rng = Rng::new(seed);
        let faults = disk_of(&mut rng);
        run_sim_with(seed, faults, async |sim| {
            let trace = Trace::new(trace);
            let mut lives = Lives {
                sim: &sim,
                rng,
                planted,
                trace,
                model: Model::default(),
                report,
                lost_power: false,
                troubled: false,
                aside: 0,
            };
            let result = lives.all().await;
            let hash = lives.trace.hash;
            report.take_faults(sim.disk());
            report.trace = hash ^ sim.disk().trace_hash();
            result
        })
    })
}

/// One change of one place, in the order of the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Change {
    call: u64,
    /// The number of the snapshot that is there after it; `None` for nothing.
    value: Option<u64>,
    certain: bool,
}

/// What each place may hold: the last certain change, or any later one.
#[derive(Default)]
struct Model {
    places: BTreeMap<(EntityId, Seq), Vec<Change>>,
    calls: u64,
}

impl Model {
    /// What may be at a place.
    fn may_be(&self, place: &(EntityId, Seq)) -> Vec<Option<u64>> {
        let changes = self.places.get(place).map_or(&[][..], |changes| changes);
        let from = changes.iter().rposition(|change| change.certain);
        let mut values: Vec<_> = changes[from.unwrap_or(0)..].iter().map(|c| c.value).collect();
        if from.is_none() {
            values.push(None);
        }
        values
    }

    fn change(&mut self, place: (EntityId, Seq), call: u64, value: Option<u64>) {
        let change = Change { call, value, certain: false };
        self.places.entry(place).or_default().push(change);
    }

    /// An entity's places, the newest first.
    fn of(&self, entity: &EntityId) -> Vec<(EntityId, Seq)> {
        let range = (entity.clone(), Seq::ZERO)..=(entity.clone(), Seq::MAX);
        self.places.range(range).rev().map(|(place, _)| place.clone()).collect()
    }

    /// A call was answered.
    fn answered<T>(&mut self, call: u64, answer: &Result<T, SnapshotError>) {
        let refused = answer.as_ref().is_err_and(|error| error.effect() == Effect::None);
        for changes in self.places.values_mut() {
            if refused {
                changes.retain(|change| change.call != call);
            } else if answer.is_ok() {
                // Calls take effect in their order: all before this one are settled at this place.
                if let Some(at) = changes.iter().rposition(|change| change.call == call) {
                    changes.drain(..at);
                    changes[0].certain = true;
                }
            }
        }
    }

    /// What was read at a place is certain.
    fn seen(&mut self, place: &(EntityId, Seq), value: Option<u64>) {
        let certain = vec![Change { call: 0, value, certain: true }];
        self.places.insert(place.clone(), certain);
    }
}

struct Lives<'a> {
    sim: &'a SimEnv,
    rng: Rng,
    planted: Option<Planted>,
    trace: Trace,
    model: Model,
    report: &'a mut Report,
    /// The last life ended by a loss of power: all that is there is durable.
    lost_power: bool,
    /// The disk failed in some life: after a failed sync nobody knows what is durable.
    troubled: bool,
    /// How many files were set aside.
    aside: usize,
}

type Flying = (u64, BoxFuture<'static, Result<(), SnapshotError>>);

impl Lives<'_> {
    async fn all(&mut self) -> Checked {
        for _ in 0..2 + self.rng.below(3) {
            let plan = Plan::draw(&mut self.rng);
            self.life(&plan).await?;
        }
        self.life(&Plan::calm()).await?;
        self.life(&Plan::calm()).await
    }

    fn env(&self) -> Env {
        let mut env = self.sim.env();
        env.disk = wrap(env.disk, self.planted);
        env
    }

    fn options(&mut self) -> SnapshotOptions {
        let compression = if self.rng.chance(0.5) { Compression::None } else { Compression::Lz4 };
        // A small cache: most reads go to the disk.
        SnapshotOptions { compression, cache_bytes: 64 << 10, ..SnapshotOptions::default() }
    }

    async fn life(&mut self, plan: &Plan) -> Checked {
        self.report.lives += 1;
        self.trace.line(|| format!("life {}: {plan:?}", self.report.lives));
        plan.begin(self.sim.disk());
        let options = self.options();
        let open = timeout(PATIENCE, RedbSnapshots::open(PATH, options, self.env())).await;
        let end = match open {
            Err(_) => return violated("opening the store never ended"),
            Ok(Err(error)) => {
                self.trace.line(|| format!("  not opened: {error}"));
                self.failed(plan, &error)?;
                plan.end
            }
            Ok(Ok(store)) => {
                plan.opened(self.sim.disk());
                self.live(plan, &store).await?
            }
        };
        let down = self.sim.disk().is_down();
        finish(self.sim, end);
        self.lost_power = down || !matches!(end, End::Kill | End::Shutdown);
        self.troubled |= plan.failing();
        let kind = if self.lost_power { "power_loss" } else { "kill" };
        self.report.fault(kind, u64::from(self.lost_power || end == End::Kill));
        self.trace.mix(self.sim.disk().trace_hash());
        self.trace.line(|| format!("  ended: {end:?}, power off before: {down}"));
        Ok(())
    }

    fn trouble(&self, plan: &Plan) -> bool {
        plan.failing() || plan.room.is_some() || self.sim.disk().is_down()
    }

    /// A call that failed, although nothing was wrong with it.
    fn failed(&self, plan: &Plan, error: &SnapshotError) -> Checked {
        let expected = match error {
            SnapshotError::DiskFull { .. } => plan.room.is_some() || plan.failing(),
            SnapshotError::Io { .. }
            | SnapshotError::Failed { .. }
            | SnapshotError::FailedUnderWay { .. } => self.trouble(plan),
            // Pages that cannot be read look damaged.
            SnapshotError::Damaged { .. } => plan.failing() || self.sim.disk().is_down(),
            _ => false,
        };
        if expected { Ok(()) } else { violated(format!("a call failed: {error}")) }
    }

    async fn live(&mut self, plan: &Plan, store: &Arc<RedbSnapshots>) -> Checked<End> {
        self.read_all(plan, store, self.lost_power).await?;
        let disk = self.sim.disk().clone();
        for step in 0..plan.steps.min(20) {
            if disk.is_down() {
                break;
            }
            if step * 2 > plan.steps {
                disk.set_capacity(None);
            }
            let mut flying: Vec<Flying> = Vec::new();
            for _ in 0..1 + self.rng.below(4) {
                let call = self.call(store, plan.failing() || self.troubled);
                flying.push(call);
            }
            if plan.end == End::Crash && self.rng.chance(0.05) {
                return Ok(End::Crash);
            }
            for (call, answer) in flying {
                let Ok(answer) = timeout(PATIENCE, answer).await else {
                    return violated("a call was never answered");
                };
                self.trace.line(|| format!("  answer {call}: {answer:?}"));
                self.trace.mix(call ^ u64::from(answer.is_ok()));
                self.model.answered(call, &answer);
                match answer {
                    Ok(()) => self.report.acked += 1,
                    Err(error) => self.failed(plan, &error)?,
                }
            }
        }
        if !disk.is_down() {
            self.read_all(plan, store, false).await?;
        }
        if matches!(plan.end, End::Shutdown | End::ShutdownThenCrash) {
            let ended = timeout(PATIENCE, store.shutdown()).await;
            if ended.is_err() {
                return violated("the shutdown never ended");
            }
        }
        Ok(plan.end)
    }

    fn entity(&mut self) -> EntityId {
        id(self.rng.below(6))
    }

    /// One save or delete.
    fn call(&mut self, store: &Arc<RedbSnapshots>, failing: bool) -> Flying {
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
            surely += usize::from(saved_now || !values_absent(&self.model, &place));
            maybe += 1;
        }
    }

    /// Loads every place, and the newest of every entity. With `decide`, what is found is certain
    /// from then on: all that can be read is durable.
    async fn read_all(&mut self, plan: &Plan, store: &Arc<RedbSnapshots>, decide: bool) -> Checked {
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
        let aside = |path: &std::path::Path| path.to_string_lossy().contains(".damaged-");
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
            places.retain(|place| !values_absent(&self.model, place));
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

/// Whether a place may be empty.
fn values_absent(model: &Model, place: &(EntityId, Seq)) -> bool {
    model.may_be(place).contains(&None)
}

fn names(snapshots: &[Snapshot]) -> Vec<String> {
    snapshots.iter().map(|s| format!("{}@{} {}", s.entity, s.seq, s.timestamp.0)).collect()
}

pub(super) fn id(number: u64) -> EntityId {
    EntityId::new("order", &format!("key {number}")).unwrap_or_else(|_| unreachable!())
}

fn snapshot(rng: &mut Rng, entity: EntityId, number: u64) -> Snapshot {
    content(entity, Seq(1 + rng.below(12)), number)
}

/// The snapshot with this number.
pub(super) fn content(entity: EntityId, seq: Seq, number: u64) -> Snapshot {
    let (timestamp, schema_version) = (Timestamp(number), number as u16);
    Snapshot { entity, seq, timestamp, schema_version, state: state(number) }
}

fn state(number: u64) -> Bytes {
    let mut rng = Rng::new(number);
    let mut bytes = vec![0; [0, 40, 900, 5_000][rng.index(4)]];
    if rng.chance(0.5) {
        rng.fill(&mut bytes);
    } else {
        bytes.fill(number as u8);
    }
    bytes.into()
}
