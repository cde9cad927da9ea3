//! The bare journal: writing in the worker, reading in the parent.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use duractor_journal::{
    AppendBatch, EntityId, Env, EventRecord, Journal, LogJournal, Position, ReplayRange, Seq,
    ShardId, Term, Timestamp,
};
use duractor_testkit::Rng;
use futures_util::StreamExt;
use tokio::task::JoinSet;

use crate::{
    Failure,
    cli::{Plant, Worker},
    findings::Findings,
    lines::Line,
    mark::Mark,
    place::{ENTITIES, ENTITIES_EACH, TASKS, entity, log_config},
    streams::ReadStream,
};

/// One write in so many is done wrong, where that is wanted.
const PLANT_EVERY: u64 = 20;

/// Writes until the process is killed.
pub(crate) async fn work(args: &Worker) -> Result<(), Failure> {
    let config = log_config(&args.dir, args.folder_seed);
    let journal = LogJournal::open(config, Env::production()).await?;
    let mut epochs = Vec::new();
    for shard in 0..journal.shards() {
        epochs.push(journal.claim(ShardId(shard)).await?);
    }
    let epochs: Arc<[Term]> = epochs.into();
    let mut rng = Rng::new(args.seed);
    let mut tasks: JoinSet<Result<(), Failure>> = JoinSet::new();
    for task in 0..TASKS {
        let mut writer = Writer {
            journal: journal.clone(),
            epochs: epochs.clone(),
            run: args.run,
            batches: (task as u64) << 40,
            plant: args.plant,
            rng: rng.fork(),
        };
        tasks.spawn(async move { writer.run(task).await });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// One task of the worker. Its entities are its own.
struct Writer {
    journal: Arc<LogJournal>,
    epochs: Arc<[Term]>,
    run: u32,
    batches: u64,
    plant: Option<Plant>,
    rng: Rng,
}

impl Writer {
    async fn run(&mut self, task: usize) -> Result<(), Failure> {
        let mut entities = Vec::new();
        for number in task * ENTITIES_EACH..(task + 1) * ENTITIES_EACH {
            let id = entity(number)?;
            let head = self.journal.head(&id).await?;
            entities.push((number, id, head.last_seq));
        }
        loop {
            let (number, id, last) = &mut entities[self.rng.index(ENTITIES_EACH)];
            if self.rng.chance(0.03) && last.0 > 0 {
                self.delete(*number, id, *last).await?;
            } else {
                *last = self.append(*number, id, *last).await?;
            }
        }
    }

    /// Appends a few batches, all under way at once, and prints each one's acknowledgement.
    async fn append(
        &mut self,
        number: usize,
        id: &EntityId,
        mut last: Seq,
    ) -> Result<Seq, Failure> {
        let mut under_way = Vec::new();
        for _ in 0..1 + self.rng.index(3) {
            let mut first = self.next_batch();
            let plant = self.plant.filter(|_| self.rng.below(PLANT_EVERY) == 0);
            for again in [false, true] {
                if again && plant != Some(Plant::Duplicate) {
                    break;
                }
                let appended = if plant == Some(Plant::Lose) {
                    first.batch |= 1 << 63;
                    None
                } else {
                    Some(self.journal.append(self.batch(id, last, first)))
                };
                under_way.push((appended, last.next(), first));
                last = last.plus(u64::from(first.count) * u64::from(plant != Some(Plant::Lose)));
            }
        }
        for (appended, first_seq, first) in under_way {
            if let Some(appended) = appended {
                appended.await?;
            }
            Line::Appended { entity: number, first_seq: first_seq.0, first }.print()?;
        }
        Ok(last)
    }

    async fn delete(&mut self, number: usize, id: &EntityId, last: Seq) -> Result<(), Failure> {
        let to = 1 + self.rng.below(last.0);
        // Before it is asked for: it may take effect without being acknowledged.
        Line::Deleting { entity: number, to }.print()?;
        self.journal.delete_to(id, Seq(to), self.epoch(id)).await?;
        Line::Deleted { entity: number, to }.print()?;
        Ok(())
    }

    fn next_batch(&mut self) -> Mark {
        self.batches += 1;
        let count = if self.rng.chance(0.05) { 50 } else { 1 + self.rng.below(6) as u16 };
        Mark { run: self.run, batch: self.batches, index: 0, count }
    }

    fn batch(&self, id: &EntityId, expected_seq: Seq, first: Mark) -> AppendBatch {
        AppendBatch {
            entity: id.clone(),
            epoch: self.epoch(id),
            expected_seq,
            timestamp: Timestamp(1),
            request: None,
            events: first.events(),
        }
    }

    fn epoch(&self, id: &EntityId) -> Term {
        self.epochs[usize::from(id.shard(self.epochs.len() as u16).0)]
    }
}

/// Opens the folder and reads all of it.
pub(crate) async fn read(
    dir: &Path,
    folder_seed: u64,
    findings: &mut Findings,
) -> Result<Vec<ReadStream>, Failure> {
    let journal = LogJournal::open(log_config(dir, folder_seed), Env::production()).await?;
    let streams = read_all(&journal, findings, |_| {}).await?;
    journal.shutdown().await;
    Ok(streams)
}

/// Reads all of a journal: each entity's stream, and each shard's commit order, which must hold the
/// same. Then the journal checks every byte itself.
pub(crate) async fn read_all(
    journal: &LogJournal,
    findings: &mut Findings,
    mut each: impl FnMut(&EventRecord),
) -> Result<Vec<ReadStream>, Failure> {
    let mut streams = Vec::new();
    let mut last_positions = vec![Position::ZERO; usize::from(journal.shards())];
    for number in 0..ENTITIES {
        let id = entity(number)?;
        let head = journal.head(&id).await?;
        let mut events = Vec::new();
        let mut chunks = journal.replay(&id, ReplayRange::ALL);
        while let Some(chunk) = chunks.next().await {
            for record in chunk? {
                each(&record);
                events.push((record.seq.0, Mark::of(&record.event.payload)));
                let last = &mut last_positions[usize::from(id.shard(journal.shards()).0)];
                *last = record.position.max(*last);
            }
        }
        streams.push(ReadStream { head, events });
    }
    for (shard, last) in last_positions.into_iter().enumerate() {
        tail(journal, ShardId(shard as u16), last, &streams, findings).await?;
    }
    journal.verify().await?;
    Ok(streams)
}

/// Reads a shard's commit order up to `last`.
async fn tail(
    journal: &LogJournal,
    shard: ShardId,
    last: Position,
    streams: &[ReadStream],
    findings: &mut Findings,
) -> Result<(), Failure> {
    let mut expected = BTreeMap::new();
    for (number, stream) in streams.iter().enumerate() {
        if entity(number)?.shard(journal.shards()) == shard {
            let events = stream.events.iter().map(|(seq, mark)| ((number, *seq), *mark));
            expected.extend(events);
        }
    }
    let (mut chunks, mut before) = (journal.tail(shard, Position::ZERO), Position::ZERO);
    while before < last {
        let Some(chunk) = chunks.next().await else { break };
        for record in chunk? {
            if record.position <= before {
                findings.other(|| format!("{shard}: {} comes after {before}", record.position));
            }
            before = record.position;
            let Ok(number) = record.entity.key().parse::<usize>() else { continue };
            let deleted = record.seq <= streams[number].head.deleted_to;
            let found = expected.remove(&(number, record.seq.0));
            if !deleted && found != Some(Mark::of(&record.event.payload)) {
                findings.other(|| format!("{number}: {} differs in the commit order", record.seq));
            }
        }
    }
    if let Some((number, seq)) = expected.keys().next() {
        findings.other(|| {
            let missing = expected.len();
            format!("{shard}: {missing} are not in the commit order, {number}: {seq} the first")
        });
    }
    Ok(())
}
