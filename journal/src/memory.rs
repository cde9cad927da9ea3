//! The port in memory: for tests, and as the port's plainest reading.
//!
//! Everything that changes it (append, claim, delete) is *accepted* in the order of the calls, and
//! *committed* in that order, at once unless commits are [held](MemoryJournal::hold). What is
//! accepted decides what may be submitted next; what is committed is what reads see. One caller at
//! a time commits for all, so that completions are heard in commit order.

mod state;

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{
    StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use tokio::sync::{Notify, oneshot};

use self::state::{Fault, Op, Shard, State};
use crate::{
    check::{check_batch, check_together},
    error::JournalError,
    id::{EntityId, Position, Seq, ShardId, Term},
    port::{Ack, AllDone, AppendDone, Deletions, Head, Journal, RecordChunks, ReplayRange},
    record::{AppendBatch, EventRecord, Limits},
};

/// Records in one piece of a replay or a tail.
const CHUNK: usize = 256;

/// A [`Journal`] in memory. It keeps every guarantee of the port except durability: what it holds
/// is gone when it is dropped.
///
/// For tests it can be told to [hold](Self::hold) its commits and to fail the next
/// [appends](Self::fail_appends), [acknowledgements](Self::lose_acks) or
/// [reads](Self::fail_reads).
pub struct MemoryJournal {
    inner: Arc<Inner>,
}

struct Inner {
    limits: Limits,
    shards: u16,
    state: Mutex<State>,
    /// Wakes the tails: there are new records, or the end.
    changed: Notify,
}

impl MemoryJournal {
    /// An empty journal with `shards` shards (at least one).
    #[must_use]
    pub fn new(shards: u16, limits: Limits) -> Arc<MemoryJournal> {
        let shards = shards.max(1);
        let state = State {
            shards: (0..shards).map(|_| Shard::default()).collect(),
            queue: VecDeque::new(),
            committing: false,
            held: false,
            closed: false,
            append_faults: VecDeque::new(),
            read_faults: VecDeque::new(),
        };
        let inner = Inner { limits, shards, state: Mutex::new(state), changed: Notify::new() };
        Arc::new(MemoryJournal { inner: Arc::new(inner) })
    }

    /// From now on, appends, claims and deletes are accepted (or refused) as ever and are not
    /// committed: nobody hears of them and reads do not see them until
    /// [`release`](Self::release).
    pub fn hold(&self) {
        self.inner.lock().held = true;
    }

    /// Commits what was held, in order, and goes on as usual.
    pub fn release(&self) {
        self.inner.lock().held = false;
        self.inner.commit_queue();
    }

    /// How many appends, claims and deletes are accepted and not committed.
    #[must_use]
    pub fn held(&self) -> usize {
        self.inner.lock().queue.len()
    }

    /// The next `n` batches to be committed fail with `error` instead, and nothing of them is
    /// written. Batches that fail for a reason of their own do not count.
    pub fn fail_appends(&self, n: usize, error: JournalError) {
        self.inner.add_faults(n, error, false);
    }

    /// The next `n` batches to be committed are committed, and their writers hear `error`: use one
    /// whose effect is [unknown](crate::Effect::Unknown).
    pub fn lose_acks(&self, n: usize, error: JournalError) {
        self.inner.add_faults(n, error, true);
    }

    /// The next `n` calls of [`replay`](Journal::replay) and [`head`](Journal::head) give `error`.
    pub fn fail_reads(&self, n: usize, error: JournalError) {
        self.inner.lock().read_faults.extend(std::iter::repeat_n(error, n));
    }
}

impl Drop for MemoryJournal {
    fn drop(&mut self) {
        self.inner.close();
    }
}

impl Journal for MemoryJournal {
    fn limits(&self) -> Limits {
        self.inner.limits
    }

    fn shards(&self) -> u16 {
        self.inner.shards
    }

    fn claim(&self, shard: ShardId) -> BoxFuture<'static, Result<Term, JournalError>> {
        let accepted = self.inner.accept_claim(shard);
        self.inner.commit_queue();
        Box::pin(async move { accepted?.await.map_err(|_| JournalError::Closed) })
    }

    fn submit_with(&self, batch: AppendBatch, _: Ack, done: AppendDone) {
        if let Some((error, done)) = self.inner.accept_append(batch, done) {
            done(Err(error));
        }
        self.inner.commit_queue();
    }

    fn submit_all(&self, batches: Vec<AppendBatch>, done: AllDone) {
        if let Some((error, done)) = self.inner.accept_together(batches, done) {
            done(Err(error));
        }
        self.inner.commit_queue();
    }

    fn replay(&self, entity: &EntityId, range: ReplayRange) -> RecordChunks {
        let read = self.inner.lock().read(entity, |stream| stream.range(range));
        match read {
            Ok(records) => chunks(records.unwrap_or_default()),
            Err(error) => one_error(error),
        }
    }

    fn head(&self, entity: &EntityId) -> BoxFuture<'static, Result<Head, JournalError>> {
        let head = self.inner.lock().read(entity, |stream| stream.head);
        Box::pin(async move { Ok(head?.unwrap_or_default()) })
    }

    fn delete_to(
        &self,
        entity: &EntityId,
        to: Seq,
        epoch: Term,
    ) -> BoxFuture<'static, Result<(), JournalError>> {
        let accepted = self.inner.accept_delete(entity, to, epoch);
        self.inner.commit_queue();
        Box::pin(async move { accepted?.await.map_err(|_| JournalError::Closed) })
    }

    fn deletions(&self, shard: ShardId) -> Deletions {
        let state = self.inner.lock();
        if let Err(error) = state.check_open().and_then(|()| self.inner.check_shard(shard)) {
            return stream::iter([Err(error)]).boxed();
        }
        let found = state.shards[usize::from(shard.0)].deletions();
        stream::iter(found).chunks(CHUNK).map(Ok).boxed()
    }

    fn tail(&self, shard: ShardId, after: Position) -> RecordChunks {
        let state = self.inner.lock();
        if let Err(error) = state.check_open().and_then(|()| self.inner.check_shard(shard)) {
            return one_error(error);
        }
        drop(state);
        let from = (self.inner.clone(), after);
        stream::unfold(from, move |(inner, after)| async move {
            let chunk = inner.next_records(shard, after).await?;
            let after = chunk.last()?.position;
            Some((Ok(chunk), (inner, after)))
        })
        .boxed()
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        self.inner.close();
        let inner = self.inner.clone();
        Box::pin(async move { inner.all_committed().await })
    }
}

/// Accepting: everything that is decided when the call is made.
impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_shard(&self, shard: ShardId) -> Result<(), JournalError> {
        if shard.0 < self.shards {
            return Ok(());
        }
        Err(JournalError::UnknownShard { shard, shards: self.shards })
    }

    fn accept_claim(&self, shard: ShardId) -> Result<oneshot::Receiver<Term>, JournalError> {
        let mut state = self.lock();
        state.check_open()?;
        self.check_shard(shard)?;
        let current = &mut state.shards[usize::from(shard.0)].term;
        current.0 += 1;
        let term = *current;
        let (done, committed) = oneshot::channel();
        state.queue.push_back(Op::Claim { shard, term, done });
        Ok(committed)
    }

    fn accept_delete(
        &self,
        entity: &EntityId,
        to: Seq,
        epoch: Term,
    ) -> Result<oneshot::Receiver<()>, JournalError> {
        let mut state = self.lock();
        state.check_open()?;
        state.check_epoch(entity, epoch)?;
        let (done, committed) = oneshot::channel();
        state.queue.push_back(Op::Delete { entity: entity.clone(), to, done });
        Ok(committed)
    }

    /// Gives back the completion of a batch that is refused, to be called outside the lock.
    fn accept_append(
        &self,
        batch: AppendBatch,
        done: AppendDone,
    ) -> Option<(JournalError, AppendDone)> {
        let mut state = self.lock();
        let refused = state
            .check_open()
            .and_then(|()| check_batch(&batch, &self.limits))
            .and_then(|()| state.check_epoch(&batch.entity, batch.epoch))
            .and_then(|()| state.check_seq(&batch));
        if let Err(error) = refused {
            return Some((error, done));
        }
        let failures = state.accept_seq(&batch);
        state.queue.push_back(Op::Append { batch, failures, done });
        None
    }

    /// As [`accept_append`](Self::accept_append), for batches that go together.
    fn accept_together(
        &self,
        batches: Vec<AppendBatch>,
        done: AllDone,
    ) -> Option<(JournalError, AllDone)> {
        let mut state = self.lock();
        let refused = state
            .check_open()
            .and_then(|()| check_together(&batches, &self.limits, self.shards))
            .and_then(|()| {
                batches.iter().try_for_each(|batch| {
                    state.check_epoch(&batch.entity, batch.epoch)?;
                    state.check_seq(batch)
                })
            });
        if let Err(error) = refused {
            return Some((error, done));
        }
        let accepted = batches.into_iter().map(|batch| {
            let failures = state.accept_seq(&batch);
            (batch, failures)
        });
        let batches = accepted.collect();
        state.queue.push_back(Op::Together { batches, done });
        None
    }

    fn add_faults(&self, n: usize, error: JournalError, written: bool) {
        let faults = (0..n).map(|_| Fault { error: error.clone(), written });
        self.lock().append_faults.extend(faults);
    }

    fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.held = false;
        drop(state);
        self.commit_queue();
    }
}

/// Committing, and waiting for commits.
impl Inner {
    /// Commits one entry after the other, each completion outside the lock. Returns at once where
    /// another caller is at it, also where that is a completion that submits.
    fn commit_queue(&self) {
        let mut state = self.lock();
        if state.committing {
            return;
        }
        state.committing = true;
        while !state.held
            && let Some(op) = state.queue.pop_front()
        {
            let complete = state.commit(op);
            drop(state);
            self.changed.notify_waiters();
            complete();
            state = self.lock();
        }
        state.committing = false;
        drop(state);
        // Tails end when the journal is closed and nothing is left to commit.
        self.changed.notify_waiters();
    }

    /// Waits until the queue is empty and every completion has been called.
    async fn all_committed(&self) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let state = self.lock();
                if state.queue.is_empty() && !state.committing {
                    return;
                }
            }
            changed.await;
        }
    }

    /// The shard's next records after a position, waiting for them; none at the end.
    async fn next_records(&self, shard: ShardId, after: Position) -> Option<Vec<EventRecord>> {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Before looking, so that no change between the look and the wait is missed.
            changed.as_mut().enable();
            {
                let state = self.lock();
                let log = &state.shards[usize::from(shard.0)].log;
                let later = Position::from_u64(after.to_u64().saturating_add(1));
                let chunk: Vec<_> =
                    log.range(later..).take(CHUNK).map(|(_, r)| EventRecord::clone(r)).collect();
                if !chunk.is_empty() {
                    return Some(chunk);
                }
                if state.closed && state.queue.is_empty() {
                    return None;
                }
            }
            changed.await;
        }
    }
}

fn chunks(records: Vec<Arc<EventRecord>>) -> RecordChunks {
    stream::iter(records).map(Arc::unwrap_or_clone).chunks(CHUNK).map(Ok).boxed()
}

fn one_error(error: JournalError) -> BoxStream<'static, Result<Vec<EventRecord>, JournalError>> {
    stream::iter([Err(error)]).boxed()
}
