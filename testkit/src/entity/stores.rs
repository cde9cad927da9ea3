//! What outlives the kit's nodes: a journal and snapshots in memory, and the faults to come.
//!
//! The node under test gets them through [`Live`], where the faults are; the kit's own reads, and the
//! nodes that it starts beside to try a recovery, go around that.

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use duractor::{EntityId, Journal, Seq, SnapshotStore};
use duractor_journal::{
    Ack, AllDone, AppendBatch, AppendDone, Appended, Corruption, Deletions, EventRecord, Head,
    JournalError, Limits, MemoryJournal, Position, RecordChunks, ReplayRange, ShardId, Term,
};
use duractor_snapshot::{Criteria, MemorySnapshots, Retention, Saved, Snapshot, SnapshotError};
use futures_util::{
    StreamExt,
    future::{BoxFuture, ready},
    stream,
};

/// What the next persists or reads come to: see
/// [`EntityTestKit::fail_next`](super::EntityTestKit::fail_next).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Fail {
    /// The journal refuses the events, as on a full disk: nothing was written. The entity drops what
    /// it had speculated and recovers.
    Refused,
    /// The journal fails under way and the events are **not** written, which nobody knows: the caller
    /// hears an error of [unknown effect](duractor::TookEffect::Unknown), and the node stops.
    /// [Restart](super::EntityTestKit::restart) it to go on.
    Lost,
    /// As [`Lost`](Fail::Lost), and the events **are** written: a retry without a request id
    /// would take effect twice.
    LostAck,
    /// The journal gives this error for the events, and they are not written.
    Append(JournalError),
    /// Reading the events fails: the entity tries again, with growing delays.
    Replay,
    /// Reading the entity's highest sequence number fails: as [`Replay`](Fail::Replay). It is read
    /// only where no event follows the snapshot, or there is none.
    Head,
    /// Reading the events finds damage: the entity is quarantined.
    Corrupt,
    /// Loading a snapshot fails: the entity recovers from its events.
    SnapshotLoad,
    /// Saving a snapshot fails: the entity goes on without.
    SnapshotSave,
}

/// The reads and saves that are still to fail, each with what it comes to.
#[derive(Default)]
struct Faults {
    replays: VecDeque<JournalError>,
    heads: VecDeque<JournalError>,
    loads: usize,
    saves: usize,
}

/// Journal and snapshots.
pub(super) struct Stores {
    pub(super) journal: Arc<MemoryJournal>,
    pub(super) snapshots: Arc<MemorySnapshots>,
    faults: Mutex<Faults>,
    /// Every record that was committed, also those that were deleted since.
    written: Mutex<BTreeMap<(EntityId, Seq), EventRecord>>,
}

impl Stores {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            journal: MemoryJournal::new(1, Limits::default()),
            snapshots: Arc::default(),
            faults: Mutex::default(),
            written: Mutex::default(),
        })
    }

    pub(super) fn fail_next(&self, n: usize, fail: Fail) {
        let mut faults = self.faults();
        let planted = || "planted by the test".to_owned();
        let under_way = || JournalError::FailedUnderWay { cause: planted() };
        let file = || Path::new("(simulated)").to_owned();
        let read = || JournalError::Read { path: file(), message: planted() };
        match fail {
            Fail::Refused => {
                self.journal.fail_appends(n, JournalError::DiskFull { message: planted() });
            }
            Fail::Lost => self.journal.fail_appends(n, under_way()),
            Fail::LostAck => self.journal.lose_acks(n, under_way()),
            Fail::Append(error) => self.journal.fail_appends(n, error),
            Fail::Replay => faults.replays.extend((0..n).map(|_| read())),
            Fail::Head => faults.heads.extend((0..n).map(|_| read())),
            Fail::Corrupt => {
                let damage = Corruption { file: file(), offset: 0, what: planted() };
                faults.replays.extend((0..n).map(|_| JournalError::Corrupt(damage.clone())));
            }
            Fail::SnapshotLoad => faults.loads += n,
            Fail::SnapshotSave => faults.saves += n,
        }
    }

    /// The entity's records after `after`, also those that were deleted since they were written.
    pub(super) async fn records(
        &self,
        entity: &EntityId,
        after: Seq,
    ) -> Result<Vec<EventRecord>, String> {
        let mut chunks = self.journal.replay(entity, ReplayRange::from(after.next()));
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| format!("the kit's own read failed: {error}"))?;
            let mut written = self.written();
            written.extend(chunk.into_iter().map(|r| ((r.entity.clone(), r.seq), r)));
        }
        let range = (entity.clone(), after.next())..=(entity.clone(), Seq::MAX);
        Ok(self.written().range(range).map(|(_, record)| record.clone()).collect())
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn written(&self) -> MutexGuard<'_, BTreeMap<(EntityId, Seq), EventRecord>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the records of a committed batch.
    fn keep(&self, batch: &AppendBatch, at: Appended) {
        let count = batch.events.len();
        let mut written = self.written();
        for (n, event) in batch.events.iter().enumerate() {
            let seq = Seq(at.last_seq.0 - (count - 1 - n) as u64);
            let record = EventRecord {
                entity: batch.entity.clone(),
                seq,
                position: Position::from_u64(at.position.to_u64() - (count - 1 - n) as u64),
                epoch: batch.epoch,
                timestamp: batch.timestamp,
                request: batch.request.clone().filter(|_| n + 1 == count),
                event: event.clone(),
            };
            written.insert((batch.entity.clone(), seq), record);
        }
    }
}

/// The stores as the node under test sees them. Closing them closes nothing: the next node opens
/// them again.
pub(super) struct Live(pub(super) Arc<Stores>);

impl Journal for Live {
    fn limits(&self) -> Limits {
        self.0.journal.limits()
    }

    fn shards(&self) -> u16 {
        self.0.journal.shards()
    }

    fn claim(&self, shard: ShardId) -> BoxFuture<'static, Result<Term, JournalError>> {
        self.0.journal.claim(shard)
    }

    fn submit_with(&self, batch: AppendBatch, _: Ack, done: AppendDone) {
        let (stores, copy) = (self.0.clone(), batch.clone());
        let kept = move |result: Result<Appended, JournalError>| {
            if let Ok(appended) = &result {
                stores.keep(&copy, *appended);
            }
            done(result);
        };
        self.0.journal.submit(batch, Box::new(kept));
    }

    fn submit_all(&self, batches: Vec<AppendBatch>, done: AllDone) {
        let (stores, copies) = (self.0.clone(), batches.clone());
        let kept = move |result: Result<Vec<Appended>, JournalError>| {
            for (copy, appended) in copies.iter().zip(result.iter().flatten()) {
                stores.keep(copy, *appended);
            }
            done(result);
        };
        self.0.journal.submit_all(batches, Box::new(kept));
    }

    fn replay(&self, entity: &EntityId, range: ReplayRange) -> RecordChunks {
        match self.0.faults().replays.pop_front() {
            Some(error) => stream::iter([Err(error)]).boxed(),
            None => self.0.journal.replay(entity, range),
        }
    }

    fn head(&self, entity: &EntityId) -> BoxFuture<'static, Result<Head, JournalError>> {
        match self.0.faults().heads.pop_front() {
            Some(error) => Box::pin(ready(Err(error))),
            None => self.0.journal.head(entity),
        }
    }

    fn delete_to(
        &self,
        entity: &EntityId,
        to: Seq,
        epoch: Term,
    ) -> BoxFuture<'static, Result<(), JournalError>> {
        self.0.journal.delete_to(entity, to, epoch)
    }

    fn deletions(&self, shard: ShardId) -> Deletions {
        self.0.journal.deletions(shard)
    }

    fn tail(&self, shard: ShardId, after: Position) -> RecordChunks {
        self.0.journal.tail(shard, after)
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        Box::pin(ready(()))
    }
}

fn planted(doing: &'static str) -> SnapshotError {
    let (path, message) = ("(simulated)".into(), "planted by the test".to_owned());
    SnapshotError::Io { doing, path, message }
}

impl SnapshotStore for Live {
    fn save(
        &self,
        snapshots: Vec<Snapshot>,
        retention: Retention,
    ) -> BoxFuture<'static, Result<Vec<Saved>, SnapshotError>> {
        let left = &mut self.0.faults().saves;
        if *left > 0 {
            *left -= 1;
            return Box::pin(ready(Err(planted("saving"))));
        }
        self.0.snapshots.save(snapshots, retention)
    }

    fn load(
        &self,
        entity: &EntityId,
        criteria: Criteria,
    ) -> BoxFuture<'static, Result<Option<Snapshot>, SnapshotError>> {
        let left = &mut self.0.faults().loads;
        if *left > 0 {
            *left -= 1;
            return Box::pin(ready(Err(planted("loading"))));
        }
        self.0.snapshots.load(entity, criteria)
    }

    fn delete(
        &self,
        entity: &EntityId,
        criteria: Criteria,
    ) -> BoxFuture<'static, Result<u64, SnapshotError>> {
        self.0.snapshots.delete(entity, criteria)
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        Box::pin(ready(()))
    }
}

/// The stores to read only, for a node beside the one under test: it fences nobody.
pub(super) struct View {
    pub(super) stores: Arc<Stores>,
    /// Whether it shows the snapshots.
    pub(super) snapshots: bool,
}

impl Journal for View {
    fn limits(&self) -> Limits {
        self.stores.journal.limits()
    }

    fn shards(&self) -> u16 {
        self.stores.journal.shards()
    }

    fn claim(&self, _: ShardId) -> BoxFuture<'static, Result<Term, JournalError>> {
        // A term like any other: with 0 the shard would be nobody's, and its entities would not run.
        Box::pin(ready(Ok(Term(1))))
    }

    fn submit_with(&self, _: AppendBatch, _: Ack, done: AppendDone) {
        done(Err(JournalError::Closed));
    }

    fn submit_all(&self, _: Vec<AppendBatch>, done: AllDone) {
        done(Err(JournalError::Closed));
    }

    fn replay(&self, entity: &EntityId, range: ReplayRange) -> RecordChunks {
        self.stores.journal.replay(entity, range)
    }

    fn head(&self, entity: &EntityId) -> BoxFuture<'static, Result<Head, JournalError>> {
        self.stores.journal.head(entity)
    }

    fn delete_to(
        &self,
        _: &EntityId,
        _: Seq,
        _: Term,
    ) -> BoxFuture<'static, Result<(), JournalError>> {
        Box::pin(ready(Err(JournalError::Closed)))
    }

    fn deletions(&self, shard: ShardId) -> Deletions {
        self.stores.journal.deletions(shard)
    }

    fn tail(&self, shard: ShardId, after: Position) -> RecordChunks {
        self.stores.journal.tail(shard, after)
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        Box::pin(ready(()))
    }
}

impl SnapshotStore for View {
    fn save(
        &self,
        _: Vec<Snapshot>,
        _: Retention,
    ) -> BoxFuture<'static, Result<Vec<Saved>, SnapshotError>> {
        Box::pin(ready(Err(SnapshotError::Closed)))
    }

    fn load(
        &self,
        entity: &EntityId,
        criteria: Criteria,
    ) -> BoxFuture<'static, Result<Option<Snapshot>, SnapshotError>> {
        if self.snapshots {
            return self.stores.snapshots.load(entity, criteria);
        }
        Box::pin(ready(Ok(None)))
    }

    fn delete(&self, _: &EntityId, _: Criteria) -> BoxFuture<'static, Result<u64, SnapshotError>> {
        Box::pin(ready(Err(SnapshotError::Closed)))
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        Box::pin(ready(()))
    }
}
