//! Random operations against a model that is too simple to be wrong: a list of records per entity
//! and how far it is deleted.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::future::join_all;

use super::{
    Provider,
    kit::{Kit, Tail, assert_error, entity, refused, sized_event},
};
use crate::{
    error::JournalError,
    id::{EntityId, Position, Seq, ShardId, Term},
    port::{Appended, Head, ReplayRange},
    record::{AppendBatch, EventRecord, NewEvent, Request, RequestId},
};

const SEEDS: u64 = 8;
const STEPS: usize = 200;
/// Names the only seed to run.
const SEED_VARIABLE: &str = "DURACTOR_MODEL_SEED";

/// Appends, pipelines, refusals, deletes, claims, reopening (where it persists) and all reads in
/// random order agree with the model.
pub async fn agrees_with_a_model<P: Provider>(provider: &P) {
    run_seeds(provider, false).await;
}

/// The same with [maintenance](Provider::maintain) between the steps.
pub async fn agrees_with_a_model_under_maintenance<P: Provider>(provider: &P) {
    run_seeds(provider, true).await;
}

async fn run_seeds<P: Provider>(provider: &P, maintenance: bool) {
    let only: Option<u64> = std::env::var(SEED_VARIABLE).ok().and_then(|seed| seed.parse().ok());
    let seeds = only.map_or(0..SEEDS, |seed| seed..seed + 1);
    for seed in seeds {
        let replay = Replay(seed);
        let mut model = Model::open(provider, seed).await;
        for _ in 0..STEPS {
            if maintenance && model.random.one_in(10) {
                model.kit.maintain().await;
            }
            model.step().await;
        }
        model.check_everything().await;
        drop(replay);
    }
}

/// Says how to run a failure again.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "to run this again: {SEED_VARIABLE}={} cargo test agrees_with_a_model",
                self.0
            );
        }
    }
}

/// What the journal must hold.
struct Model<'p, P> {
    kit: Kit<'p, P>,
    random: Random,
    streams: BTreeMap<EntityId, Stream>,
    /// Each shard's records in commit order, deleted ones too.
    shards: Vec<Vec<EventRecord>>,
    /// A live tail of each shard.
    tails: Vec<Tail>,
}

#[derive(Default)]
struct Stream {
    /// All records that ever were.
    records: Vec<EventRecord>,
    deleted_to: u64,
}

impl Stream {
    fn last(&self) -> u64 {
        self.records.len() as u64
    }

    fn head(&self) -> Head {
        Head { last_seq: Seq(self.last()), deleted_to: Seq(self.deleted_to) }
    }

    fn range(&self, range: ReplayRange) -> Vec<EventRecord> {
        let live = self.records.iter().filter(|record| record.seq.0 > self.deleted_to);
        let inside = live.filter(|record| range.from <= record.seq && record.seq <= range.to);
        inside.take(usize::try_from(range.max).unwrap_or(usize::MAX)).cloned().collect()
    }
}

impl<'p, P: Provider> Model<'p, P> {
    async fn open(provider: &'p P, seed: u64) -> Self {
        let kit = Kit::open(provider).await;
        let shards = kit.journal().shards();
        let tails = (0..shards).map(|shard| kit.tail(ShardId(shard), Position::ZERO)).collect();
        Self {
            kit,
            random: Random(seed),
            streams: (0..10).map(|n| (entity(&format!("m{n}")), Stream::default())).collect(),
            shards: vec![Vec::new(); usize::from(shards)],
            tails,
        }
    }

    async fn step(&mut self) {
        match self.random.below(100) {
            0..30 => self.append(1).await,
            30..35 => self.append_together().await,
            35..47 => {
                let n = 2 + self.random.below(8);
                self.append(n).await;
            }
            47..54 => self.append_refused().await,
            54..66 => self.delete().await,
            66..78 => self.check_range().await,
            78..84 => self.check_tail().await,
            84..90 => self.follow_tails().await,
            90..94 => {
                let id = self.any_entity();
                self.kit.claim(self.kit.shard(&id)).await;
            }
            94..97 if P::PERSISTS => self.reopen().await,
            _ => {
                let id = self.any_entity();
                self.check_head(&id).await;
            }
        }
    }

    /// Pipelines batches of one entity; sometimes one of them is too large, and those after it fail
    /// with it.
    async fn append(&mut self, batches: u64) {
        let id = self.any_entity();
        let too_large = if self.random.one_in(6) { self.random.below(batches) } else { batches };
        let mut expected = self.streams[&id].last();
        let mut sent = Vec::new();
        let mut pending = Vec::new();
        for n in 0..batches {
            let mut batch = self.random_batch(&id, expected);
            if n == too_large {
                batch.events.push(sized_event(self.kit.journal().limits().max_payload_bytes + 1));
            }
            expected += batch.events.len() as u64;
            pending.push(self.kit.journal().append(batch.clone()));
            sent.push(batch);
        }
        for (n, (batch, result)) in (0..).zip(sent.into_iter().zip(join_all(pending).await)) {
            if n >= too_large {
                refused(result);
                continue;
            }
            let appended = result.unwrap_or_else(|error| panic!("batch {n}: {error}"));
            self.learn(batch, appended).await;
        }
        self.check_head(&id).await;
    }

    /// Batches of a shard's entities that go together; sometimes one of them does not fit.
    async fn append_together(&mut self) {
        let first = self.any_entity();
        let shard = self.kit.shard(&first);
        let ids: Vec<_> =
            self.streams.keys().filter(|id| self.kit.shard(id) == shard).cloned().collect();
        let mut batches = Vec::new();
        for id in ids {
            if id == first || self.random.one_in(2) {
                let last = self.streams[&id].last();
                batches.push(self.random_batch(&id, last));
            }
        }
        if self.random.one_in(3) {
            let n = self.random.below(batches.len() as u64) as usize;
            match self.random.below(3) {
                0 => batches[n].expected_seq = batches[n].expected_seq.next(),
                1 => batches[n].epoch = Term(batches[n].epoch.0 - 1),
                _ => batches[n].events.clear(),
            }
            let ids: Vec<_> = batches.iter().map(|batch| batch.entity.clone()).collect();
            refused(self.kit.journal().append_all(batches).await);
            for id in ids {
                self.check_head(&id).await;
            }
            return;
        }
        let appended = self.kit.journal().append_all(batches.clone()).await;
        let appended = appended.unwrap_or_else(|error| panic!("together: {error}"));
        assert_eq!(appended.len(), batches.len());
        for (batch, appended) in batches.into_iter().zip(appended) {
            self.learn(batch, appended).await;
        }
    }

    /// Adds a committed batch to the model. Only the positions are taken from the journal.
    async fn learn(&mut self, batch: AppendBatch, appended: Appended) {
        let id = &batch.entity;
        let first = batch.expected_seq.next();
        let count = batch.events.len();
        let range = ReplayRange { from: first, to: appended.last_seq, max: u64::MAX };
        let read = self.kit.read(id, range).await;
        assert_eq!(read.len(), count, "events of a batch that was acknowledged");
        let shard = &mut self.shards[usize::from(self.kit.shard(id).0)];
        for (n, (event, read)) in batch.events.into_iter().zip(read).enumerate() {
            let record = EventRecord {
                entity: id.clone(),
                seq: first.plus(n as u64),
                position: read.position,
                epoch: batch.epoch,
                timestamp: batch.timestamp,
                request: batch.request.clone().filter(|_| n + 1 == count),
                event,
            };
            assert_eq!(read, record);
            let before = shard.last().map_or(Position::ZERO, |record| record.position);
            assert!(record.position > before, "positions must grow");
            shard.push(record.clone());
            self.streams.entry(id.clone()).or_default().records.push(record);
        }
        assert_eq!(shard.last().map(|record| record.position), Some(appended.position));
    }

    /// A batch that must be refused, for one reason or another.
    async fn append_refused(&mut self) {
        let id = self.any_entity();
        let last = self.streams[&id].last();
        let mut batch = self.random_batch(&id, last);
        match self.random.below(4) {
            0 => batch.expected_seq = Seq(last + 1 + self.random.below(3)),
            1 if last > 0 => batch.expected_seq = Seq(self.random.below(last)),
            2 => batch.epoch = Term(batch.epoch.0 - 1),
            _ => batch.events.clear(),
        }
        refused(self.kit.journal().append(batch).await);
        self.check_head(&id).await;
    }

    async fn delete(&mut self) {
        let id = self.any_entity();
        let last = self.streams[&id].last();
        let to = match self.random.below(6) {
            0 => u64::MAX,
            1 => last,
            _ => self.random.below(last + 2),
        };
        if self.random.one_in(5) {
            let stale = Term(self.kit.term(&id).0 - 1);
            let error = refused(self.kit.journal().delete_to(&id, Seq(to), stale).await);
            assert_error!(error, JournalError::StaleEpoch { .. });
        } else {
            self.kit.delete(&id, Seq(to)).await;
            let stream = self.streams.entry(id.clone()).or_default();
            stream.deleted_to = stream.deleted_to.max(to.min(last));
        }
        self.check_head(&id).await;
    }

    async fn reopen(&mut self) {
        self.follow_tails().await;
        let positions: Vec<_> = self.tails.drain(..).map(|tail| tail.position()).collect();
        self.kit.reopen().await;
        let tails = (0..).zip(positions).map(|(shard, after)| self.kit.tail(ShardId(shard), after));
        self.tails = tails.collect();
        self.check_streams().await;
    }

    async fn check_head(&mut self, id: &EntityId) {
        assert_eq!(self.kit.head(id).await, self.streams[id].head(), "{id}");
    }

    async fn check_range(&mut self) {
        let id = self.any_entity();
        let last = self.streams[&id].last();
        let range = ReplayRange {
            from: Seq(self.random.below(last + 3)),
            to: Seq(if self.random.one_in(3) { u64::MAX } else { self.random.below(last + 3) }),
            max: if self.random.one_in(3) { self.random.below(10) } else { u64::MAX },
        };
        let expected = self.streams[&id].range(range);
        assert_eq!(self.kit.read(&id, range).await, expected, "{id}: {range:?}");
    }

    /// A tail from the beginning or after any record.
    async fn check_tail(&mut self) {
        let shard = self.random.below(self.shards.len() as u64) as usize;
        let records = &self.shards[shard];
        let n = self.random.below(records.len() as u64 + 1) as usize;
        let after = n.checked_sub(1).map_or(Position::ZERO, |n| records[n].position);
        let mut tail = self.kit.tail(ShardId(shard as u16), after);
        follow(&mut tail, records, &self.streams).await;
    }

    async fn follow_tails(&mut self) {
        for (tail, records) in self.tails.iter_mut().zip(&self.shards) {
            follow(tail, records, &self.streams).await;
        }
    }

    async fn check_streams(&mut self) {
        for (id, stream) in &self.streams {
            assert_eq!(self.kit.head(id).await, stream.head(), "{id}");
            let expected = stream.range(ReplayRange::ALL);
            assert_eq!(self.kit.read(id, ReplayRange::ALL).await, expected, "{id}");
        }
    }

    async fn check_everything(&mut self) {
        self.check_streams().await;
        self.follow_tails().await;
        for (shard, records) in (0..).zip(&self.shards) {
            let mut tail = self.kit.tail(ShardId(shard), Position::ZERO);
            follow(&mut tail, records, &self.streams).await;
            let live = &mut self.tails[usize::from(shard)];
            let deleted = |record: &EventRecord| {
                let stream = self.streams.get(&record.entity);
                stream.is_some_and(|stream| record.seq.0 <= stream.deleted_to)
                    && records.contains(record)
            };
            self.kit.assert_drained_but(live, ShardId(shard), "model", deleted).await;
        }
    }

    fn any_entity(&mut self) -> EntityId {
        let n = self.random.below(self.streams.len() as u64) as usize;
        self.streams.keys().nth(n).expect("one of them").clone()
    }

    fn random_batch(&mut self, id: &EntityId, expected: u64) -> AppendBatch {
        let n = 1 + self.random.below(4);
        let most = self.kit.journal().limits().max_payload_bytes.min(8 * 1024);
        let events = (0..n).map(|_| self.random.event(most)).collect();
        let mut batch = self.kit.batch(id, expected, events);
        if self.random.one_in(3) {
            let id = RequestId::new(&format!("r{}", self.random.next())).expect("valid");
            let reply = Bytes::from(vec![7; self.random.below(40) as usize]);
            batch.request = Some(Request { id, reply });
        }
        batch
    }
}

/// Takes a tail up to the last record that is not deleted. What it gives is what was committed
/// after it, in that order; only deleted events may be missing.
async fn follow(tail: &mut Tail, records: &[EventRecord], streams: &BTreeMap<EntityId, Stream>) {
    let is_live = |record: &EventRecord| record.seq.0 > streams[&record.entity].deleted_to;
    let start = records.partition_point(|record| record.position <= tail.position());
    let end = records.iter().rposition(is_live).map_or(0, |last| last + 1);
    let mut expected = records[start.min(end)..end].iter();
    while expected.len() > 0 {
        let given = tail.next().await.expect("a live tail");
        loop {
            let next = expected.next().expect("nothing else was committed");
            if *next == given {
                break;
            }
            assert!(!is_live(next), "the tail gave {given:?} instead of {next:?}");
        }
    }
}

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn event(&mut self, most: usize) -> NewEvent {
        let bytes = match self.below(10) {
            0 => 0,
            1 => self.below(most as u64 + 1),
            _ => self.below(120),
        };
        let mut event = sized_event(bytes as usize);
        event.schema_version = self.next() as u16;
        for _ in 0..self.below(3) {
            event.tags.push(format!("tag {}", self.below(5)));
            event.metadata.insert(format!("key {}", self.below(5)), self.next().to_string());
        }
        event
    }
}
