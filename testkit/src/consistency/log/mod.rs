//! The lives of a log: random load through [`LogJournal`], ended at random, and checked after each
//! start.
//!
//! Each module uses only those above it; the lives themselves are here.
//!
//! | module | what it holds |
//! |---|---|
//! | `history` | what is known of the log over all lives |
//! | `life` | one life: calls, and what came of them |
//! | `check` | reads, held against the model |
//! | `load` | writes, claims, deletions, maintenance |

mod check;
mod history;
mod life;
mod load;

use std::time::Duration;

use duractor_journal::{Journal, LogJournal, Position, ShardId};
use tokio::time::{sleep, timeout};

use self::{
    history::{Lives, PATIENCE, Use},
    life::{Answers, Life},
};
use super::{
    Planted, Report,
    plan::{End, Plan, disk_of, finish},
    report::{Checked, checked, violated},
};
use crate::{env::run_sim_with, rng::Rng};

/// Runs one seed.
#[must_use]
pub fn run(seed: u64, planted: Option<Planted>, trace: bool) -> Report {
    checked(planted, |report| {
        let mut rng = Rng::new(seed);
        let faults = disk_of(&mut rng);
        run_sim_with(seed, faults, async |sim| {
            let mut lives = Lives::new(&sim, rng, planted, trace);
            let result = lives.all().await;
            report.acked = lives.model.acked;
            report.checked = lives.model.checked;
            report.lives = lives.count;
            report.take_faults(sim.disk());
            for (kind, count) in [("power_loss", lives.crashes), ("kill", lives.kills)] {
                report.fault(kind, count);
            }
            report.trace = lives.trace.hash ^ sim.disk().trace_hash();
            result
        })
    })
}

impl Lives<'_> {
    async fn all(&mut self) -> Checked {
        for _ in 0..2 + self.rng.below(4) {
            let mut plan = Plan::draw(&mut self.rng);
            if self.torn_tails {
                plan = Plan { rules: Vec::new(), room: None, end: End::Crash, ..plan };
            }
            self.life(&plan).await?;
        }
        // Whatever happened: without faults everything is there and works, and does so again.
        self.life(&Plan::calm()).await?;
        self.life(&Plan::calm()).await
    }

    async fn life(&mut self, plan: &Plan) -> Checked {
        self.count += 1;
        self.trace.line(|| format!("life {}: {plan:?}", self.count));
        plan.begin(self.sim.disk());
        self.uses.fill(Use::default());
        let open = timeout(PATIENCE, LogJournal::open(self.config.clone(), self.env())).await;
        let ended = match open {
            // A process without power tries for ever, and is none.
            Err(_) if self.sim.disk().is_down() => plan.end,
            Err(_) => return violated("opening the log never ended"),
            Ok(Err(error)) => self.not_opened(plan, &error).map(|()| plan.end)?,
            Ok(Ok(journal)) => {
                plan.opened(self.sim.disk());
                let (answers, tight) = (Answers::default(), plan.room.is_some());
                let life =
                    Life { lives: self, plan, journal, answers, tail: None, tight, closing: false };
                life.live().await?
            }
        };
        self.model.ended();
        let down = self.sim.disk().is_down();
        finish(self.sim, ended);
        match ended {
            End::Kill if !down => self.kills += 1,
            End::Shutdown if !down => {}
            _ => self.crashes += 1,
        }
        let at = self.sim.disk().trace_hash();
        self.trace.mix(at);
        self.trace.line(|| format!("  ended: {ended:?}, power off before: {down}"));
        Ok(())
    }
}

impl Life<'_, '_> {
    async fn live(mut self) -> Checked<End> {
        let before = self.lives.sent_before;
        self.lives.sent_before = self.lives.model.sent.len();
        self.read_all().await?;
        let eager = self.lives.torn_tails || self.lives.rng.chance(0.6);
        if eager && self.retry(before) && self.lives.rng.chance(0.5) {
            // Dies before anything else is written.
            self.settle().await?;
            return Ok(if self.lives.rng.chance(0.5) { End::Kill } else { End::Crash });
        }
        self.claim_shards().await?;
        if self.lives.rng.chance(0.4) {
            let shard = ShardId(self.lives.rng.below(self.journal.shards().into()) as u16);
            self.tail = Some((self.journal.tail(shard, Position::ZERO), Position::ZERO));
        }
        let disk = self.lives.sim.disk().clone();
        for step in 0..self.plan.steps {
            if disk.is_down() {
                break;
            }
            self.step().await?;
            self.take_answers()?;
            if self.tight && step * 2 > self.plan.steps {
                self.settle().await?;
                disk.set_capacity(None);
                self.tight = false;
            }
        }
        if self.plan.end == End::Crash && self.lives.rng.chance(0.5) {
            // In the middle of it all.
            return Ok(End::Crash);
        }
        self.settle().await?;
        self.follow()?;
        if !disk.is_down() {
            self.try_to_write().await?;
        }
        if matches!(self.plan.end, End::Shutdown | End::ShutdownThenCrash) {
            self.shut_down().await?;
        }
        self.take_answers()?;
        Ok(self.plan.end)
    }

    /// Where nothing is wrong any more, a write works.
    async fn try_to_write(&mut self) -> Checked {
        for shard in 0..self.journal.shards() {
            self.claim(ShardId(shard)).await?;
        }
        for _ in 0..3 {
            self.burst();
        }
        let flying = |lives: &Lives<'_>| lives.uses.iter().any(|used| used.waiting > 0);
        for _ in 0..PATIENCE.as_secs() {
            self.settle().await?;
            if !flying(self.lives) || self.down() {
                break;
            }
            sleep(Duration::from_secs(1)).await;
        }
        let unanswered = self.lives.model.flying().filter(|_| !self.down());
        match unanswered {
            // What was taken before the disk was found full waits until there is room.
            Some(_) if self.tight => Ok(()),
            Some(number) => violated(format!("batch #{number} was never answered")),
            None if !self.tight && !self.plan.failing() && !self.down() => {
                let broken = self.lives.uses.iter().position(|used| used.broken);
                broken.map_or(Ok(()), |index| violated(format!("{index} cannot be written to")))
            }
            None => Ok(()),
        }
    }

    async fn shut_down(&mut self) -> Checked {
        self.closing = true;
        if timeout(PATIENCE, self.journal.shutdown()).await.is_err() && !self.down() {
            return violated("the shutdown never ended");
        }
        self.take_answers()?;
        match self.lives.model.flying() {
            Some(number) if !self.down() => {
                violated(format!("batch #{number} was not answered by the shutdown"))
            }
            _ => Ok(()),
        }
    }
}
