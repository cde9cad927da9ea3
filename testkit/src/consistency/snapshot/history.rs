//! What is known of a seed's store over all its lives.

use duractor_journal::Env;
use duractor_snapshot::SnapshotError;

use super::{
    super::{
        Planted, Report,
        plan::Plan,
        planted::wrap,
        report::{Checked, Trace, violated},
    },
    model::Model,
};
use crate::{env::SimEnv, rng::Rng};

pub(super) struct Lives<'a> {
    pub(super) sim: &'a SimEnv,
    pub(super) rng: Rng,
    pub(super) planted: Option<Planted>,
    pub(super) trace: Trace,
    pub(super) model: Model,
    pub(super) report: &'a mut Report,
    /// The last life ended by a loss of power: all that is there is durable.
    pub(super) lost_power: bool,
    /// The disk failed in some life: after a failed sync nobody knows what is durable.
    pub(super) troubled: bool,
    /// How many files were set aside.
    pub(super) aside: usize,
}

impl Lives<'_> {
    pub(super) fn env(&self) -> Env {
        let mut env = self.sim.env();
        env.disk = wrap(env.disk, self.planted);
        env
    }

    pub(super) fn trouble(&self, plan: &Plan) -> bool {
        plan.failing() || plan.room.is_some() || self.sim.disk().is_down()
    }

    /// A call that failed, although nothing was wrong with it.
    pub(super) fn failed(&self, plan: &Plan, error: &SnapshotError) -> Checked {
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
}
