//! The lives of a log: random load through [`LogJournal`], ended at random, and checked after each
//! start.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use duractor_journal::{
    AppendBatch, Appended, EntityId, Env, EventRecord, Journal, JournalError, LogConfig,
    LogJournal, Position, ReplayRange, Seq, ShardId, Term,
};
use futures_util::{FutureExt, StreamExt, future::BoxFuture};
use tokio::time::{sleep, timeout};

use super::{
    Planted, Report,
    content::{self, again, batch},
    model::Model,
    plan::{End, Plan, disk_of, finish},
    planted::wrap,
    read::{self, Reads},
    report::{Checked, Trace, checked, violated},
};
use crate::{
    env::{SimEnv, run_sim_with},
    rng::Rng,
};

/// A call that is not answered after this time never will be: nothing in a log waits for more than
/// a second.
const PATIENCE: Duration = Duration::from_secs(60);

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

/// What an answer was given to.
enum Answer {
    Append(usize, Result<Appended, JournalError>),
    Delete(usize, Seq, Result<(), JournalError>),
    Maintain(Result<(), JournalError>),
}

type Answers = Arc<Mutex<Vec<Answer>>>;

/// How the driver uses one entity.
#[derive(Debug, Clone, Copy, Default)]
struct Use {
    /// The last sequence number, accepted writes counted in. `None` until it was read.
    accepted: Option<Seq>,
    /// Calls without an answer.
    waiting: u32,
    /// An answer was an error: the accepted number is off.
    broken: bool,
}

struct Lives<'a> {
    sim: &'a SimEnv,
    rng: Rng,
    planted: Option<Planted>,
    config: LogConfig,
    model: Model,
    trace: Trace,
    uses: Vec<Use>,
    /// Of each shard, whether the newest claim was answered: its epoch is known then.
    claimed: Vec<bool>,
    /// A seed for torn tails: group commits of equal frames, larger than a sector, that are sent
    /// again after a crash, and little else.
    torn_tails: bool,
    /// Batches that must be refused: they were sent so.
    wrong: Vec<usize>,
    /// How many batches were sent before this life.
    sent_before: usize,
    count: u64,
    crashes: u64,
    kills: u64,
}

impl<'a> Lives<'a> {
    fn new(sim: &'a SimEnv, mut rng: Rng, planted: Option<Planted>, trace: bool) -> Self {
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

    fn env(&self) -> Env {
        let mut env = self.sim.env();
        env.disk = wrap(env.disk, self.planted);
        env
    }

    async fn life(&mut self, plan: &Plan) -> Checked {
        self.count += 1;
        self.trace.line(|| format!("life {}: {plan:?}", self.count));
        plan.begin(self.sim.disk());
        self.uses.fill(Use::default());
        let open = timeout(PATIENCE, LogJournal::open(self.config.clone(), self.env())).await;
        let ended = match open {
            Err(_) => return violated("opening the log never ended"),
            Ok(Err(error)) => self.not_opened(plan, &error).map(|()| plan.end)?,
            Ok(Ok(journal)) => {
                plan.opened(self.sim.disk());
                Life { lives: self, plan, journal, answers: Answers::default(), tail: None }
                    .live()
                    .await?
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

    /// Whether an operation may fail for what the disk does.
    fn trouble(&self, plan: &Plan) -> bool {
        plan.failing() || plan.room.is_some() || self.sim.disk().is_down()
    }

    fn not_opened(&mut self, plan: &Plan, error: &JournalError) -> Checked {
        self.trace.line(|| format!("  not opened: {error}"));
        match error {
            JournalError::Io { .. } | JournalError::Read { .. } | JournalError::DiskFull { .. }
                if self.trouble(plan) =>
            {
                Ok(())
            }
            _ => violated(format!("the log does not open: {error}")),
        }
    }
}

/// One life, while the log is open.
struct Life<'l, 'a> {
    lives: &'l mut Lives<'a>,
    plan: &'l Plan,
    journal: Arc<LogJournal>,
    answers: Answers,
    /// Follows a shard while it is written to.
    tail: Option<(duractor_journal::RecordChunks, Position)>,
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
        let mut room = self.plan.room.is_some();
        for step in 0..self.plan.steps {
            if disk.is_down() {
                break;
            }
            self.step().await?;
            self.take_answers()?;
            if room && step * 2 > self.plan.steps {
                self.settle().await?;
                disk.set_capacity(None);
                room = false;
            }
        }
        if self.plan.end == End::Crash && self.lives.rng.chance(0.5) {
            // In the middle of it all.
            return Ok(End::Crash);
        }
        self.settle().await?;
        self.follow()?;
        if !disk.is_down() {
            self.try_to_write(!room).await?;
        }
        if matches!(self.plan.end, End::Shutdown | End::ShutdownThenCrash) {
            self.shut_down().await?;
        }
        self.take_answers()?;
        Ok(self.plan.end)
    }

    fn rng(&mut self) -> &mut Rng {
        &mut self.lives.rng
    }

    fn down(&self) -> bool {
        self.lives.sim.disk().is_down()
    }

    async fn read_all(&mut self) -> Checked {
        let reads = self.reads();
        let read = read::everything(&*self.journal, &mut self.lives.model, reads).await;
        // The crash may come while reading, for maintenance works meanwhile.
        let read = match read {
            Err(_) if self.reads() != reads => return Ok(()),
            read => read?,
        };
        for index in read {
            self.refresh(index).await?;
        }
        Ok(())
    }

    fn reads(&self) -> Reads {
        if self.plan.failing() || self.down() { Reads::MayFail } else { Reads::Work }
    }

    /// Reads an entity's head, to go on from there.
    async fn refresh(&mut self, index: usize) -> Checked {
        let id = self.lives.model.entities[index].id.clone();
        match self.journal.head(&id).await {
            Ok(head) if head.last_seq < self.lives.model.kept_to(index) => {
                violated(format!("the head of {id} went back to {}", head.last_seq))
            }
            Ok(head) => {
                self.lives.uses[index] =
                    Use { accepted: Some(head.last_seq), waiting: 0, broken: false };
                Ok(())
            }
            Err(error) => self.reads().failed(&error),
        }
    }

    /// Whoever got no answer tries again: with the same frame at the same place.
    fn retry(&mut self, before: usize) -> bool {
        let Some(lost) = self.lives.model.absent_from(before) else { return false };
        let sent = &self.lives.model.sent[lost];
        let (index, shard) = (sent.entity, self.lives.model.entities[sent.entity].shard);
        let used = self.lives.uses[index];
        let known = self.lives.claimed[usize::from(shard.0)];
        let fits = known && used.accepted == Some(sent.batch.expected_seq);
        if fits {
            let batch = again(&sent.batch, self.lives.model.sent.len(), self.epoch(index));
            let events = batch.events.len() as u64;
            self.lives.uses[index].accepted = Some(batch.expected_seq.plus(events));
            self.submit(index, batch);
        }
        fits
    }

    async fn claim_shards(&mut self) -> Checked {
        for shard in 0..self.journal.shards() {
            // Sometimes the epoch of the last life goes on.
            let had = self.lives.claimed[usize::from(shard)];
            if !had || self.rng().chance(0.8) {
                self.claim(ShardId(shard)).await?;
            }
        }
        Ok(())
    }

    async fn claim(&mut self, shard: ShardId) -> Checked {
        let at = usize::from(shard.0);
        self.lives.claimed[at] = false;
        let claimed = timeout(PATIENCE, self.journal.claim(shard)).await;
        self.lives.claimed[at] = matches!(claimed, Ok(Ok(_)));
        let known = &mut self.lives.model.epochs[usize::from(shard.0)];
        match claimed {
            Err(_) => violated(format!("the claim of {shard} was never answered")),
            Ok(Ok(term)) if term <= *known => {
                violated(format!("{shard}: {term} was claimed after {known}"))
            }
            Ok(Ok(term)) => {
                *known = term;
                self.lives.trace.mix(term.0);
                Ok(())
            }
            Ok(Err(error)) => self.failed(&error),
        }
    }

    /// A call that failed, although nothing was wrong with it.
    fn failed(&self, error: &JournalError) -> Checked {
        let expected = match error {
            JournalError::DiskFull { .. } => self.plan.room.is_some() || self.plan.failing(),
            JournalError::Failed { .. }
            | JournalError::FailedUnderWay { .. }
            | JournalError::Read { .. }
            | JournalError::Io { .. } => self.lives.trouble(self.plan),
            // A claim that failed leaves an epoch that nobody has.
            JournalError::StaleEpoch { .. } => self.lives.trouble(self.plan),
            _ => false,
        };
        if expected { Ok(()) } else { violated(format!("a call failed: {error}")) }
    }

    async fn step(&mut self) -> Checked {
        let kind = if self.lives.torn_tails { 0 } else { self.rng().below(100) };
        match kind {
            0..62 => self.burst(),
            62..68 => self.delete(),
            68..72 => {
                let shard = ShardId(self.lives.rng.below(self.journal.shards().into()) as u16);
                self.claim(shard).await?;
            }
            72..80 => self.read_one().await?,
            80..84 => self.send_wrong(),
            84..87 => self.maintain(),
            87..88 => self.open_twice().await?,
            88..92 => self.settle().await?,
            _ => self.follow()?,
        }
        match self.rng().below(4) {
            0 => {}
            1..3 => tokio::task::yield_now().await,
            _ => self.settle().await?,
        }
        Ok(())
    }

    /// Some batches at once, most of them of one entity.
    fn burst(&mut self) {
        let hot = self.lives.rng.index(self.lives.uses.len());
        for _ in 0..1 + self.lives.rng.below(6) {
            let any = self.lives.rng.index(self.lives.uses.len());
            let index = if self.lives.rng.chance(0.7) { hot } else { any };
            let used = self.lives.uses[index];
            if let (Some(expected), false) = (used.accepted, used.broken) {
                let epoch = self.epoch(index);
                let number = self.send(index, expected, epoch);
                let events = self.lives.model.sent[number].batch.events.len() as u64;
                self.lives.uses[index].accepted = Some(expected.plus(events));
            }
        }
    }

    fn epoch(&self, index: usize) -> Term {
        self.lives.model.epochs[usize::from(self.lives.model.entities[index].shard.0)]
    }

    fn send(&mut self, index: usize, expected: Seq, epoch: Term) -> usize {
        let lives = &mut *self.lives;
        let (number, segment) = (lives.model.sent.len(), lives.config.segment_bytes);
        let place = (&lives.model.entities[index].id, epoch, expected);
        let batch = if lives.torn_tails {
            let events = vec![content::event(&mut lives.rng, number, 0, 420)];
            AppendBatch { request: None, events, ..batch(&mut lives.rng, number, place, segment) }
        } else {
            batch(&mut lives.rng, number, place, segment)
        };
        self.submit(index, batch);
        number
    }

    fn submit(&mut self, index: usize, batch: AppendBatch) {
        let lives = &mut *self.lives;
        let number = lives.model.sent.len();
        lives.trace.line(|| {
            let (events, seq, epoch) = (batch.events.len(), batch.expected_seq, batch.epoch);
            format!("  submit #{number}: {events} after {} {seq}, {epoch}", batch.entity)
        });
        lives.model.send(index, batch.clone());
        lives.uses[index].waiting += 1;
        let answers = self.answers.clone();
        let done = move |result| push(&answers, Answer::Append(number, result));
        self.journal.submit(batch, Box::new(done));
    }

    /// A batch with a wrong expected sequence number or an old epoch.
    fn send_wrong(&mut self) {
        let index = self.lives.rng.index(self.lives.uses.len());
        let used = self.lives.uses[index];
        let (Some(accepted), false) = (used.accepted, used.broken) else { return };
        let epoch = self.epoch(index);
        let (expected, epoch) = match self.rng().below(3) {
            0 => (accepted.plus(1), epoch),
            1 if accepted > Seq::ZERO => (Seq(accepted.0 - 1), epoch),
            _ => (accepted, Term(epoch.0.saturating_sub(1))),
        };
        let number = self.send(index, expected, epoch);
        self.lives.wrong.push(number);
    }

    fn delete(&mut self) {
        let index = self.lives.rng.index(self.lives.uses.len());
        let used = self.lives.uses[index];
        let (Some(accepted), false) = (used.accepted, used.broken) else { return };
        let (epoch, to) = (self.epoch(index), Seq(self.lives.rng.below(accepted.0 + 3)));
        let id = self.lives.model.entities[index].id.clone();
        let certain = to.min(accepted);
        for _ in 0..1 + self.lives.rng.below(2) {
            self.lives.trace.line(|| format!("  delete {id} to {to}"));
            self.lives.model.entities[index].deletions.push(certain);
            self.lives.uses[index].waiting += 1;
            let call = self.journal.delete_to(&id, to, epoch);
            self.answer(call, move |result| Answer::Delete(index, certain, result));
        }
    }

    fn maintain(&mut self) {
        self.lives.trace.line(|| "  maintain".into());
        let journal = self.journal.clone();
        let call = async move { journal.maintain().await };
        self.answer(call.boxed(), Answer::Maintain);
    }

    /// Waits for a call beside the load.
    fn answer<T: Send + 'static>(
        &self,
        call: BoxFuture<'static, Result<T, JournalError>>,
        as_answer: impl FnOnce(Result<T, JournalError>) -> Answer + Send + 'static,
    ) {
        let answers = self.answers.clone();
        tokio::spawn(async move { push(&answers, as_answer(call.await)) });
    }

    fn take_answers(&mut self) -> Checked {
        let answers = std::mem::take(&mut *lock(&self.answers));
        for answer in answers {
            match answer {
                Answer::Append(number, result) => self.appended(number, &result)?,
                Answer::Delete(index, to, result) => {
                    self.answered(index, result.is_err());
                    self.lives.trace.line(|| format!("  deleted {index} to {to}: {result:?}"));
                    self.lives.model.deleted(index, to, &result);
                    result.or_else(|error| self.failed(&error))?;
                }
                Answer::Maintain(result) => result.or_else(|error| self.failed(&error))?,
            }
        }
        Ok(())
    }

    fn appended(&mut self, number: usize, result: &Result<Appended, JournalError>) -> Checked {
        self.lives.trace.line(|| format!("  answer #{number}: {result:?}"));
        let index = self.lives.model.sent[number].entity;
        let position = result.as_ref().map_or(u64::MAX, |appended| appended.position.to_u64());
        self.lives.trace.mix(position ^ number as u64);
        self.lives.model.answered(number, result)?;
        let wrong = self.lives.wrong.contains(&number);
        // An entity's pipeline is off after any refusal, but for the intended ones.
        let was_broken = self.lives.uses[index].broken;
        self.answered(index, result.is_err() && !wrong);
        match result {
            Ok(_) if wrong => violated(format!("batch #{number} was taken, and is wrong")),
            Err(JournalError::WrongExpectedSeq { .. }) if wrong || was_broken => Ok(()),
            Err(JournalError::StaleEpoch { .. }) if wrong => Ok(()),
            Ok(_) => Ok(()),
            Err(error) => self.failed(error),
        }
    }

    fn answered(&mut self, index: usize, broken: bool) {
        let used = &mut self.lives.uses[index];
        used.waiting = used.waiting.saturating_sub(1);
        used.broken |= broken;
    }

    /// Lets everything happen that needs no time, and takes up again what failed.
    async fn settle(&mut self) -> Checked {
        sleep(Duration::from_millis(1)).await;
        self.take_answers()?;
        for index in 0..self.lives.uses.len() {
            let used = self.lives.uses[index];
            if used.broken && used.waiting == 0 {
                self.refresh(index).await?;
            }
        }
        Ok(())
    }

    async fn read_one(&mut self) -> Checked {
        let index = self.lives.rng.index(self.lives.uses.len());
        let id = self.lives.model.entities[index].id.clone();
        match read::entity(&*self.journal, &id, ReplayRange::ALL).await {
            Ok(seen) => {
                self.take_answers()?;
                self.lives.model.entity(index, &seen, false)
            }
            Err(error) => self.reads().failed(&error),
        }
    }

    /// Takes what a live tail has, each record once and in order.
    fn follow(&mut self) -> Checked {
        let Some((mut stream, mut last)) = self.tail.take() else { return Ok(()) };
        let mut found: Vec<EventRecord> = Vec::new();
        let ended = loop {
            match stream.next().now_or_never() {
                Some(Some(Ok(records))) => found.extend(records),
                Some(Some(Err(error))) => break Some(Some(error)),
                Some(None) => break Some(None),
                None => break None,
            }
        };
        for record in &found {
            if record.position <= last {
                return violated(format!("a live tail gave {} after {last}", record.position));
            }
            last = record.position;
            self.lives.model.record(record)?;
        }
        match ended {
            Some(Some(error)) => self.reads().failed(&error),
            Some(None) => Ok(()),
            None => {
                self.tail = Some((stream, last));
                Ok(())
            }
        }
    }

    async fn open_twice(&mut self) -> Checked {
        let second = LogJournal::open(self.lives.config.clone(), self.lives.env()).await;
        match second {
            Err(JournalError::Locked { .. }) => Ok(()),
            Ok(_) => violated("the log was opened twice"),
            Err(error) => self.lives.not_opened(self.plan, &error),
        }
    }

    /// Where nothing is wrong any more, a write works.
    async fn try_to_write(&mut self, room: bool) -> Checked {
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
            Some(number) => violated(format!("batch #{number} was never answered")),
            None if room && !self.plan.failing() && !self.down() => {
                let broken = self.lives.uses.iter().position(|used| used.broken);
                broken.map_or(Ok(()), |index| violated(format!("{index} cannot be written to")))
            }
            None => Ok(()),
        }
    }

    async fn shut_down(&mut self) -> Checked {
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

fn push(answers: &Answers, answer: Answer) {
    lock(answers).push(answer);
}

fn lock(answers: &Answers) -> std::sync::MutexGuard<'_, Vec<Answer>> {
    answers.lock().unwrap_or_else(PoisonError::into_inner)
}

fn id(number: usize, rng: &mut Rng) -> EntityId {
    let key = format!("{}{number}", ["", "заказ ", "a-rather-long-key-of-an-order-"][rng.index(3)]);
    EntityId::new("order", &key).unwrap_or_else(|_| unreachable!("a valid id"))
}
