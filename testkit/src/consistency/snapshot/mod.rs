//! The lives of a snapshot store: random saves, deletes and loads through [`RedbSnapshots`], ended
//! at random, and checked after each start.
//!
//! Each module uses only those above it; the lives themselves are here.
//!
//! | module | what it holds |
//! |---|---|
//! | `states` | snapshots that follow from their numbers |
//! | `model` | what the store may hold, from what it answered |
//! | `history` | what is known of the store over all lives |
//! | `load` | saves and deletions |
//! | `check` | reads, held against the model |

mod check;
mod history;
mod load;
mod model;
mod states;

use std::{sync::Arc, time::Duration};

use duractor_snapshot::{RedbSnapshots, SnapshotStore};
use tokio::time::timeout;

pub(super) use self::states::{content, id};
use self::{history::Lives, load::Flying, model::Model};
use super::{
    Planted, Report,
    plan::{End, Plan, disk_of, finish},
    report::{Checked, Trace, checked, violated},
};
use crate::{env::run_sim_with, rng::Rng};

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

impl Lives<'_> {
    async fn all(&mut self) -> Checked {
        for _ in 0..2 + self.rng.below(3) {
            let plan = Plan::draw(&mut self.rng);
            self.life(&plan).await?;
        }
        self.life(&Plan::calm()).await?;
        self.life(&Plan::calm()).await
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
}
