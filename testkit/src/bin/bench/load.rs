//! A log in a folder, and filling it.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use duractor_journal::{
    AppendBatch, EntityId, Env, Journal, LogConfig, LogJournal, NewEvent, Seq, ShardId, Term,
    Timestamp,
};
use duractor_testkit::Rng;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::sleep;

use crate::run::{Failure, Run};

/// Most bytes that wait for their commit while a log is filled.
const FILL_BYTES: usize = 16 << 20;
/// The log has settled when its files stay the same for so long.
const SETTLE_TICK: Duration = Duration::from_millis(50);
const SETTLED_TICKS: u32 = 10;

/// An open log with this process as the writer of all its shards.
#[derive(Clone)]
pub(crate) struct Log {
    pub journal: Arc<LogJournal>,
    epochs: Arc<[Term]>,
}

impl Log {
    pub(crate) async fn open(dir: &Path) -> Result<Self, Failure> {
        Self::claim(LogJournal::open(LogConfig::new(dir), Env::production()).await?).await
    }

    /// A log that is open, and whose shards this process leads all.
    pub(crate) async fn claim(journal: Arc<LogJournal>) -> Result<Self, Failure> {
        let mut epochs = Vec::new();
        for shard in 0..journal.shards() {
            epochs.push(journal.claim(ShardId(shard)).await?);
        }
        Ok(Self { journal, epochs: epochs.into() })
    }

    /// A log that is only read.
    pub(crate) fn reading(journal: Arc<LogJournal>) -> Self {
        Self { journal, epochs: Arc::default() }
    }

    /// A batch of equal events that follows `expected_seq`.
    pub(crate) fn batch(
        &self,
        entity: &EntityId,
        expected_seq: Seq,
        events: &Events,
    ) -> AppendBatch {
        let shard = entity.shard(self.epochs.len() as u16);
        AppendBatch {
            entity: entity.clone(),
            epoch: self.epochs[usize::from(shard.0)],
            expected_seq,
            timestamp: Timestamp(1),
            request: None,
            events: vec![events.event.clone(); events.batch],
        }
    }
}

/// What is appended again and again.
#[derive(Clone)]
pub(crate) struct Events {
    pub event: NewEvent,
    /// How many at once.
    pub batch: usize,
}

impl Events {
    /// Events with a payload of so many random bytes.
    pub(crate) fn new(bytes: usize, batch: usize) -> Self {
        Self { event: NewEvent::new("noted", 1, payload(bytes)), batch }
    }
}

/// Random bytes: nothing on the way to the disk can make less of them.
pub(crate) fn payload(bytes: usize) -> Bytes {
    let mut data = vec![0; bytes];
    Rng::new(bytes as u64).fill(&mut data);
    data.into()
}

/// The entities number `0..n` of a kind.
pub(crate) fn entities(kind: &str, n: usize) -> Result<Vec<EntityId>, Failure> {
    (0..n).map(|i| Ok(EntityId::new(kind, &i.to_string())?)).collect()
}

/// Appends `per_entity` events to each entity, a batch for each in turns, and waits until the log's
/// own maintenance has nothing more to do.
pub(crate) async fn fill(
    run: &Run,
    log: &Log,
    entities: &[EntityId],
    per_entity: usize,
    events: &Events,
) -> Result<(), Failure> {
    let rounds = per_entity.div_ceil(events.batch);
    let bar = run.progress("filling the log", Some((rounds * entities.len()) as u64));
    let batch_bytes = (events.event.payload.len() + 64) * events.batch;
    let at_once = (FILL_BYTES / batch_bytes).clamp(1, 4096);
    let batches = (0..rounds).flat_map(|round| {
        let first = round * events.batch;
        let batch = events.batch.min(per_entity - first);
        let events = Events { batch, ..events.clone() };
        entities.iter().map(move |entity| log.batch(entity, Seq(first as u64), &events))
    });
    stream::iter(batches)
        .map(|batch| log.journal.append(batch))
        .buffered(at_once)
        .try_for_each(|_| {
            bar.inc(1);
            std::future::ready(Ok(()))
        })
        .await?;
    bar.finish_and_clear();
    let bar = run.progress("waiting for the log to settle", None);
    settle(log).await;
    bar.finish_and_clear();
    Ok(())
}

async fn settle(log: &Log) {
    let (mut quiet, mut before) = (0, log.journal.usage());
    while quiet < SETTLED_TICKS {
        sleep(SETTLE_TICK).await;
        let now = log.journal.usage();
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
    }
}
