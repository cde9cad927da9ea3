//! What the cases are written with.

use std::{collections::VecDeque, sync::Arc};

use futures_util::{FutureExt, StreamExt};

use super::Provider;
use crate::{
    error::JournalError,
    id::{EntityId, Position, Seq, ShardId, Term, Timestamp},
    port::{Appended, Head, Journal, RecordChunks, ReplayRange},
    record::{AppendBatch, EventRecord, NewEvent},
};

/// A journal under test, with its shards claimed.
pub(super) struct Kit<'p, P> {
    provider: &'p P,
    journal: Option<Arc<dyn Journal>>,
    terms: Vec<Term>,
}

impl<'p, P: Provider> Kit<'p, P> {
    pub(super) async fn open(provider: &'p P) -> Self {
        let journal = provider.open().await;
        let mut kit = Kit { provider, journal: Some(journal), terms: Vec::new() };
        kit.claim_all().await;
        kit
    }

    /// For the cases of restarts: nothing, and a word about it, where nothing persists.
    pub(super) async fn open_persistent(provider: &'p P, case: &str) -> Option<Self> {
        if !P::PERSISTS {
            println!("{case}: skipped, this journal does not persist");
            return None;
        }
        Some(Self::open(provider).await)
    }

    /// Opens the journal again and claims its shards. No stream of the old one may be left.
    pub(super) async fn reopen(&mut self) {
        let old = self.journal.take().expect("open");
        self.journal = Some(self.provider.reopen(old).await);
        self.claim_all().await;
    }

    pub(super) async fn maintain(&self) {
        self.provider.maintain(self.journal()).await;
    }

    async fn claim_all(&mut self) {
        self.terms.clear();
        for shard in 0..self.journal().shards() {
            let term = self.journal().claim(ShardId(shard)).await.expect("claiming a shard");
            self.terms.push(term);
        }
    }

    /// Claims a shard anew; the kit writes under the new term from then on.
    pub(super) async fn claim(&mut self, shard: ShardId) -> Term {
        let term = self.journal().claim(shard).await.expect("claiming a shard");
        self.terms[usize::from(shard.0)] = term;
        term
    }

    pub(super) fn journal(&self) -> &Arc<dyn Journal> {
        self.journal.as_ref().expect("open")
    }

    pub(super) fn shard(&self, entity: &EntityId) -> ShardId {
        entity.shard(self.journal().shards())
    }

    /// The newest term of the entity's shard.
    pub(super) fn term(&self, entity: &EntityId) -> Term {
        self.terms[usize::from(self.shard(entity).0)]
    }

    /// `n` entities of one shard.
    pub(super) fn neighbours(&self, shard: ShardId, n: usize) -> Vec<EntityId> {
        let here = |id: &EntityId| self.shard(id) == shard;
        (0..).map(|key| entity(&format!("n{key}"))).filter(here).take(n).collect()
    }

    pub(super) fn batch(
        &self,
        entity: &EntityId,
        expected: u64,
        events: Vec<NewEvent>,
    ) -> AppendBatch {
        AppendBatch {
            entity: entity.clone(),
            epoch: self.term(entity),
            expected_seq: Seq(expected),
            timestamp: Timestamp(1_700_000_000_000 + expected),
            request: None,
            events,
        }
    }

    /// A batch of `n` events that say whose they are and which.
    pub(super) fn numbered(&self, entity: &EntityId, expected: u64, n: u64) -> AppendBatch {
        let events = (expected + 1..=expected + n).map(|seq| numbered_event(entity, seq));
        self.batch(entity, expected, events.collect())
    }

    /// Appends a [numbered](Self::numbered) batch, which must succeed.
    pub(super) async fn append(&self, entity: &EntityId, expected: u64, n: u64) -> Appended {
        let result = self.journal().append(self.numbered(entity, expected, n)).await;
        result.unwrap_or_else(|error| panic!("appending {n} events at {expected}: {error}"))
    }

    /// Appends numbered events up to `total`, many to a batch.
    pub(super) async fn fill(&self, entity: &EntityId, total: u64) {
        let most = self.journal().limits().max_batch_events.min(100) as u64;
        let mut written = 0;
        while written < total {
            let n = most.min(total - written);
            self.append(entity, written, n).await;
            written += n;
        }
    }

    pub(super) async fn delete(&self, entity: &EntityId, to: Seq) {
        let deleted = self.journal().delete_to(entity, to, self.term(entity)).await;
        deleted.unwrap_or_else(|error| panic!("deleting {entity} up to {to}: {error}"));
    }

    pub(super) async fn head(&self, entity: &EntityId) -> Head {
        self.journal().head(entity).await.expect("reading a head")
    }

    pub(super) async fn read(&self, entity: &EntityId, range: ReplayRange) -> Vec<EventRecord> {
        let mut records: Vec<EventRecord> = Vec::new();
        let mut chunks = self.journal().replay(entity, range);
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.expect("a readable chunk");
            assert!(!chunk.is_empty(), "an empty chunk of {entity}");
            records.extend(chunk);
        }
        records
    }

    pub(super) async fn seqs(&self, entity: &EntityId, range: ReplayRange) -> Vec<u64> {
        self.read(entity, range).await.iter().map(|record| record.seq.0).collect()
    }

    /// Asserts that exactly the numbered events `first..=last` are there, in order, each as it was
    /// written, and that the head says so too.
    pub(super) async fn assert_numbered(&self, entity: &EntityId, first: u64, last: u64) {
        let head = self.head(entity).await;
        assert_eq!(head, Head { last_seq: Seq(last), deleted_to: Seq(first - 1) }, "{entity}");
        let records = self.read(entity, ReplayRange::ALL).await;
        let seqs: Vec<_> = records.iter().map(|record| record.seq.0).collect();
        assert!(seqs.iter().copied().eq(first..=last), "{entity}: {seqs:?}");
        for pair in records.windows(2) {
            assert!(pair[0].position < pair[1].position, "{entity}: positions must grow");
        }
        for record in records {
            assert_eq!(record.entity, *entity);
            assert_eq!(record.event, numbered_event(entity, record.seq.0), "{entity}");
        }
    }

    pub(super) fn tail(&self, shard: ShardId, after: Position) -> Tail {
        Tail { stream: self.journal().tail(shard, after), ready: VecDeque::new(), last: after }
    }

    /// Asserts that the next record of a tail is one that is appended now: nothing else was left.
    pub(super) async fn assert_drained(&self, tail: &mut Tail, shard: ShardId, marker: &str) {
        self.assert_drained_but(tail, shard, marker, |_| false).await;
    }

    /// [`assert_drained`](Kit::assert_drained), where records that `may_come` are let pass.
    pub(super) async fn assert_drained_but(
        &self,
        tail: &mut Tail,
        shard: ShardId,
        marker: &str,
        may_come: impl Fn(&EventRecord) -> bool,
    ) {
        let is_here = |id: &EntityId| self.shard(id) == shard;
        let keys = (0..).map(|n| entity(&format!("marker {marker} {n}")));
        let marker = keys.into_iter().find(is_here).expect("endless");
        let written = self.append(&marker, 0, 1).await;
        let mut record = tail.next().await.expect("a live tail");
        while may_come(&record) {
            record = tail.next().await.expect("a live tail");
        }
        assert_eq!(
            (&record.entity, record.position),
            (&marker, written.position),
            "a stray record"
        );
    }
}

/// A tail that checks the order of what it gives.
pub(super) struct Tail {
    stream: RecordChunks,
    ready: VecDeque<EventRecord>,
    last: Position,
}

impl Tail {
    /// The next record; none at the end.
    pub(super) async fn next(&mut self) -> Option<EventRecord> {
        if self.ready.is_empty() {
            let chunk = self.stream.next().await?;
            self.ready.extend(chunk.expect("a readable chunk"));
            assert!(!self.ready.is_empty(), "the tail gave an empty chunk");
        }
        let record = self.ready.pop_front()?;
        assert!(
            record.position > self.last,
            "the tail gave {} (event {} of {}) after {}",
            record.position,
            record.seq,
            record.entity,
            self.last
        );
        self.last = record.position;
        Some(record)
    }

    pub(super) async fn take(&mut self, n: usize) -> Vec<EventRecord> {
        let mut records = Vec::with_capacity(n);
        for _ in 0..n {
            records.push(self.next().await.expect("a tail that goes on"));
        }
        records
    }

    /// Whether nothing is there to be given at once.
    pub(super) fn is_waiting(&mut self) -> bool {
        self.ready.is_empty() && self.stream.next().now_or_never().is_none()
    }

    /// Where it has got to.
    pub(super) fn position(&self) -> Position {
        self.last
    }
}

pub(super) fn entity(key: &str) -> EntityId {
    EntityId::new("contract", key).expect("a valid id")
}

pub(super) fn numbered_event(entity: &EntityId, seq: u64) -> NewEvent {
    NewEvent::new("numbered", 3, format!("{entity} {seq}"))
}

/// An event with a payload of so many bytes.
pub(super) fn sized_event(bytes: usize) -> NewEvent {
    NewEvent::new("sized", 1, (0..bytes).map(|n| (n % 251) as u8).collect::<Vec<_>>())
}

/// The error that a call must end with.
pub(super) fn refused<T: std::fmt::Debug>(result: Result<T, JournalError>) -> JournalError {
    result.expect_err("this must be refused")
}

/// Asserts the variant of an error.
macro_rules! assert_error {
    ($error:expr, $($pattern:tt)+) => {
        let error = $error;
        assert!(matches!(error, $($pattern)+), "another error than expected: {error:?}");
    };
}
pub(super) use assert_error;
