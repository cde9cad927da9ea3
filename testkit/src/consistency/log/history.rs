//! What is known of a seed's log over all its lives.

use std::time::Duration;

use duractor_journal::{EntityId, Env, JournalError, LogConfig, Seq};

use super::super::{
    Planted,
    model::Model,
    plan::Plan,
    planted::wrap,
    report::{Checked, Trace, violated},
};
use crate::{env::SimEnv, rng::Rng};

/// A call that is not answered after this time never will be: nothing in a log waits for more than
/// a second.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// How the driver uses one entity.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Use {
    /// The last sequence number, accepted writes counted in. `None` until it was read.
    pub(super) accepted: Option<Seq>,
    /// Calls without an answer.
    pub(super) waiting: u32,
    /// An answer was an error: the accepted number is off.
    pub(super) broken: bool,
}

pub(super) struct Lives<'a> {
    pub(super) sim: &'a SimEnv,
    pub(super) rng: Rng,
    pub(super) planted: Option<Planted>,
    pub(super) config: LogConfig,
    pub(super) model: Model,
    pub(super) trace: Trace,
    pub(super) uses: Vec<Use>,
    /// Of each shard, whether the newest claim was answered: its epoch is known then.
    pub(super) claimed: Vec<bool>,
    /// A seed for torn tails: group commits of equal frames, larger than a sector, that are sent
    /// again after a crash, and little else.
    pub(super) torn_tails: bool,
    /// Batches that must be refused: they were sent so.
    pub(super) wrong: Vec<usize>,
    /// How many batches were sent before this life.
    pub(super) sent_before: usize,
    pub(super) count: u64,
    pub(super) crashes: u64,
    pub(super) kills: u64,
}

impl<'a> Lives<'a> {
    pub(super) fn new(
        sim: &'a SimEnv,
        mut rng: Rng,
        planted: Option<Planted>,
        trace: bool,
    ) -> Self {
        let mut config = LogConfig::new("/data/log");
        config.shards = 1 + rng.below(4) as u16;
        config.segment_bytes = (16 << 10) + 512 * rng.below(32);
        config.merged_bytes = config.segment_bytes * (1 + rng.below(8));
        config.fan_in = 2 + rng.index(3);
        config.compact_at_percent = 1 + rng.below(60) as u8;
        config.cached_heads = rng.index(100);
        config.unsealed_segments = 1 + rng.index(4);
        let torn_tails = rng.chance(0.2);
        if torn_tails {
            config.shards = 1;
        }
        let ids = (0..2 + rng.index(8)).map(|n| id(n, &mut rng)).collect::<Vec<_>>();
        let trace = Trace::new(trace);
        trace.line(|| format!("{config:?}, {} entities", ids.len()));
        Self {
            uses: vec![Use::default(); ids.len()],
            claimed: vec![false; usize::from(config.shards)],
            model: Model::new(config.shards, ids),
            torn_tails,
            wrong: Vec::new(),
            sent_before: 0,
            count: 0,
            crashes: 0,
            kills: 0,
            sim,
            rng,
            planted,
            config,
            trace,
        }
    }

    pub(super) fn env(&self) -> Env {
        let mut env = self.sim.env();
        env.disk = wrap(env.disk, self.planted);
        env
    }

    /// Whether an operation may fail for what the disk does.
    pub(super) fn trouble(&self, plan: &Plan) -> bool {
        plan.failing() || plan.room.is_some() || self.sim.disk().is_down()
    }

    pub(super) fn not_opened(&mut self, plan: &Plan, error: &JournalError) -> Checked {
        self.trace.line(|| format!("  not opened: {error}"));
        match error {
            // Opening writes, too: the group's members and votes.
            JournalError::Io { .. }
            | JournalError::Read { .. }
            | JournalError::DiskFull { .. }
            | JournalError::Failed { .. }
            | JournalError::FailedUnderWay { .. }
            | JournalError::Unavailable { .. }
                if self.trouble(plan) =>
            {
                Ok(())
            }
            _ => violated(format!("the log does not open: {error}")),
        }
    }
}

fn id(number: usize, rng: &mut Rng) -> EntityId {
    let key = format!("{}{number}", ["", "заказ ", "a-rather-long-key-of-an-order-"][rng.index(3)]);
    EntityId::new("order", &key).unwrap_or_else(|_| unreachable!("a valid id"))
}
