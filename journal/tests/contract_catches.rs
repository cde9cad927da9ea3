//! The contract suite can fail: each way of breaking the port here is caught by the case meant for
//! it, and the unbroken journal passes all cases, those of restarts included.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use duractor_journal::{
    Ack, AllDone, AppendBatch, AppendDone, Appended, Deletions, EntityId, EventRecord, Head,
    Journal, JournalError, Limits, MemoryJournal, Position, RecordChunks, ReplayRange, Seq,
    ShardId, Term,
    contract::{Provider, cases},
};
use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, ready},
    stream,
};
use tokio::sync::{Notify, oneshot};

/// A way of breaking the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    /// None: the journal as it is.
    None,
    AcceptsWrongSeq,
    AppendIgnoresEpoch,
    DeleteIgnoresEpoch,
    LosesLastEventOfBatch,
    ReplayLosesEventOfBatch,
    WritesPartOfRefusedBatch,
    SkipsRefusedInPipeline,
    SplitsBatches,
    TailGivesTwice,
    TailIncludesItsStart,
    TailSkipsRestOfBatch,
    TailEnds,
    TailOfAllShards,
    TailLosesRecord,
    HeadForgetsAfterDelete,
    DeleteForgotten,
    DeletionsOfAllShards,
    DeletionsForgotten,
    DeleteBeyondEndSticks,
    DeletedAreReplayed,
    RangeEndIsExclusive,
    MaxIsIgnored,
    ClaimRepeatsTerm,
    ClaimTouchesAllShards,
    ClaimOvertakes,
    AppendIsLazy,
    AcksBeforeCommit,
    CompletionsReversed,
    KeysIgnoreCase,
    SortsTags,
    DropsMetadata,
    RequestOnEveryEvent,
    DropsRequest,
    TruncatesPayload,
    AcceptsLargerPayload,
    StaysOpen,
    ReopeningLosesLastRecord,
    ReopeningLosesHeads,
    ReopeningUndeletes,
    ReopeningForgetsTerms,
    ReopeningLosesRequests,
    MaintenanceLosesRecord,
    MaintenanceUndeletes,
    TogetherWritesWhatFits,
    TogetherIsOnlyOrdered,
}

/// What is kept over reopening.
struct Store {
    journal: Arc<MemoryJournal>,
    bug: Bug,
    reopened: AtomicBool,
    maintained: AtomicBool,
    terms: Mutex<BTreeMap<u16, Term>>,
}

/// One opening of the store.
struct Session {
    store: Arc<Store>,
    closed: Arc<(AtomicBool, Notify)>,
    held: Arc<Mutex<Vec<(AppendBatch, AppendDone)>>>,
}

struct Broken {
    bug: Bug,
    store: Mutex<Option<Arc<Store>>>,
}

impl Broken {
    fn session(store: Arc<Store>) -> Arc<dyn Journal> {
        let closed = Arc::new((AtomicBool::new(false), Notify::new()));
        Arc::new(Session { store, closed, held: Arc::default() })
    }
}

impl Provider for Broken {
    const PERSISTS: bool = true;

    async fn open(&self) -> Arc<dyn Journal> {
        let limits = Limits {
            max_payload_bytes: 8 * 1024,
            max_batch_events: 200,
            max_batch_bytes: 64 * 1024,
        };
        let store = Arc::new(Store {
            journal: MemoryJournal::new(3, limits),
            bug: self.bug,
            reopened: AtomicBool::new(false),
            maintained: AtomicBool::new(false),
            terms: Mutex::default(),
        });
        *self.store.lock().unwrap() = Some(store.clone());
        Self::session(store)
    }

    async fn reopen(&self, old: Arc<dyn Journal>) -> Arc<dyn Journal> {
        old.shutdown().await;
        let store = self.store.lock().unwrap().clone().unwrap();
        store.reopened.store(true, SeqCst);
        Self::session(store)
    }

    async fn maintain(&self, _: &Arc<dyn Journal>) {
        let store = self.store.lock().unwrap().clone().unwrap();
        store.maintained.store(true, SeqCst);
    }
}

impl Session {
    fn bug(&self, bug: Bug) -> bool {
        self.store.bug == bug
    }

    fn is_closed(&self) -> bool {
        self.closed.0.load(SeqCst) && !self.bug(Bug::StaysOpen)
    }

    fn since(&self, flag: &AtomicBool, bug: Bug) -> bool {
        self.bug(bug) && flag.load(SeqCst)
    }

    fn head_now(&self, entity: &EntityId) -> Head {
        now(self.store.journal.head(entity)).unwrap()
    }

    fn fold(&self, entity: &EntityId) -> EntityId {
        if self.bug(Bug::KeysIgnoreCase) {
            return EntityId::new(entity.kind(), &entity.key().to_lowercase()).unwrap();
        }
        entity.clone()
    }

    fn term_now(&self, shard: ShardId) -> Term {
        self.store.terms.lock().unwrap().get(&shard.0).copied().unwrap_or_default()
    }

    fn break_batch(&self, batch: &mut AppendBatch) {
        batch.entity = self.fold(&batch.entity);
        let limits = self.limits();
        match self.store.bug {
            Bug::AcceptsWrongSeq => batch.expected_seq = self.head_now(&batch.entity).last_seq,
            Bug::AppendIgnoresEpoch => {
                batch.epoch = batch.epoch.max(self.term_now(batch.entity.shard(self.shards())));
            }
            Bug::LosesLastEventOfBatch if batch.events.len() > 1 => {
                batch.events.pop();
            }
            Bug::WritesPartOfRefusedBatch => {
                if let Some(bad) = batch
                    .events
                    .iter()
                    .position(|event| event.payload.len() > limits.max_payload_bytes)
                    && bad > 0
                {
                    let mut part = batch.clone();
                    part.events.truncate(bad);
                    self.store.journal.submit(part, Box::new(|_| ()));
                }
            }
            Bug::DropsRequest => batch.request = None,
            Bug::SortsTags => batch.events.iter_mut().for_each(|event| event.tags.sort()),
            Bug::DropsMetadata => {
                let keep = |_: &String, value: &mut String| !value.is_empty();
                batch.events.iter_mut().for_each(|event| event.metadata.retain(keep));
            }
            Bug::TruncatesPayload => {
                for event in &mut batch.events {
                    event.payload.truncate(limits.max_payload_bytes - 1);
                }
            }
            Bug::AcceptsLargerPayload => {
                for event in &mut batch.events {
                    if event.payload.len() == limits.max_payload_bytes + 1 {
                        event.payload.truncate(limits.max_payload_bytes);
                    }
                }
            }
            _ => {}
        }
    }

    /// Loses or adds records on the way out.
    fn break_records(&self) -> impl Fn(Vec<EventRecord>) -> Vec<EventRecord> + Send + use<> {
        let store = self.store.clone();
        move |mut records| {
            let (reopened, maintained) =
                (store.reopened.load(SeqCst), store.maintained.load(SeqCst));
            match store.bug {
                Bug::ReplayLosesEventOfBatch => records.retain(|r| r.position.offset() != 1),
                Bug::ReopeningLosesLastRecord if reopened => drop(records.pop()),
                Bug::MaintenanceLosesRecord if maintained => {
                    records.retain(|record| record.seq != Seq(3));
                }
                Bug::ReopeningLosesRequests if reopened => {
                    records.iter_mut().for_each(|record| record.request = None);
                }
                Bug::RequestOnEveryEvent => {
                    for n in (1..records.len()).rev() {
                        if records[n - 1].position.index() == records[n].position.index() {
                            records[n - 1].request = records[n].request.clone();
                        }
                    }
                }
                _ => {}
            }
            records
        }
    }
}

/// Commits what is held and completes it backwards.
fn finish_held(journal: &MemoryJournal, held: &Mutex<Vec<(AppendBatch, AppendDone)>>) {
    let batches = std::mem::take(&mut *held.lock().unwrap());
    let results = Arc::new(Mutex::new(Vec::new()));
    let mut dones = Vec::new();
    for (batch, done) in batches {
        let results = results.clone();
        journal.submit(batch, Box::new(move |result| results.lock().unwrap().push(result)));
        dones.push(done);
    }
    let results = std::mem::take(&mut *results.lock().unwrap());
    for (done, result) in dones.into_iter().zip(results).rev() {
        done(result);
    }
}

/// What a future of the journal in memory gives: it is there at once, unless tokio makes the task
/// pause, which must not be here.
fn now<T>(future: BoxFuture<'static, T>) -> T {
    tokio::task::unconstrained(future).now_or_never().unwrap()
}

fn closed_stream() -> RecordChunks {
    stream::iter([Err(JournalError::Closed)]).boxed()
}

fn map(
    chunks: RecordChunks,
    change: impl Fn(Vec<EventRecord>) -> Vec<EventRecord> + Send + 'static,
) -> RecordChunks {
    let changed = chunks.map(move |chunk| chunk.map(&change));
    let full = |chunk: &Result<Vec<_>, _>| ready(!chunk.as_ref().is_ok_and(Vec::is_empty));
    changed.filter(full).boxed()
}

impl Journal for Session {
    fn limits(&self) -> Limits {
        self.store.journal.limits()
    }

    fn shards(&self) -> u16 {
        self.store.journal.shards()
    }

    fn claim(&self, shard: ShardId) -> BoxFuture<'static, Result<Term, JournalError>> {
        if self.is_closed() {
            return Box::pin(ready(Err(JournalError::Closed)));
        }
        // Claims and deletes of the journal below are there at once only where nothing is held.
        self.store.journal.release();
        let claimed = now(self.store.journal.claim(shard));
        let term = match claimed {
            Err(error) => return Box::pin(ready(Err(error))),
            Ok(_) if self.since(&self.store.reopened, Bug::ReopeningForgetsTerms) => Term(1),
            Ok(term) => term,
        };
        self.store.terms.lock().unwrap().insert(shard.0, term);
        if self.bug(Bug::ClaimTouchesAllShards) && term.0 > 1 {
            for shard in 0..self.shards() {
                now(self.store.journal.claim(ShardId(shard))).unwrap();
            }
        }
        let repeated = self.bug(Bug::ClaimRepeatsTerm) && term.0 > 1;
        Box::pin(ready(Ok(if repeated { Term(term.0 - 1) } else { term })))
    }

    fn submit_with(&self, mut batch: AppendBatch, _: Ack, done: AppendDone) {
        if self.is_closed() {
            return done(Err(JournalError::Closed));
        }
        self.break_batch(&mut batch);
        match self.store.bug {
            Bug::SplitsBatches if batch.events.len() == 4 => {
                let mut first = batch.clone();
                batch.events = first.events.split_off(2);
                batch.expected_seq = first.expected_seq.plus(2);
                self.store.journal.submit(first, Box::new(|_| ()));
                let journal = self.store.journal.clone();
                tokio::spawn(async move {
                    tokio::task::yield_now().await;
                    journal.submit(batch, done);
                });
            }
            Bug::AcksBeforeCommit => {
                self.store.journal.hold();
                let journal = self.store.journal.clone();
                let (last_seq, position) =
                    (batch.expected_seq.plus(batch.events.len() as u64), Position::new(1, 0));
                let (tx, mut rx) = oneshot::channel();
                journal.submit(
                    batch,
                    Box::new(move |result| {
                        // Heard only where it is refused at once.
                        let _ = tx.send(result);
                    }),
                );
                match rx.try_recv() {
                    Ok(result) => done(result),
                    Err(_) => done(Ok(Appended { last_seq, position })),
                }
                tokio::spawn(async move {
                    tokio::task::yield_now().await;
                    journal.release();
                });
            }
            Bug::CompletionsReversed => {
                self.held.lock().unwrap().push((batch, done));
                let (journal, held) = (self.store.journal.clone(), self.held.clone());
                tokio::spawn(async move {
                    tokio::task::yield_now().await;
                    finish_held(&journal, &held);
                });
            }
            Bug::ClaimOvertakes => {
                let shard = batch.entity.shard(self.shards());
                let current = self.term_now(shard);
                if batch.epoch < current {
                    let stale = batch.epoch;
                    return done(Err(JournalError::StaleEpoch { shard, stale, current }));
                }
                let store = self.store.clone();
                tokio::spawn(async move {
                    for _ in 0..5 {
                        tokio::task::yield_now().await;
                    }
                    batch.epoch = store.terms.lock().unwrap()[&shard.0];
                    store.journal.submit(batch, done);
                });
            }
            Bug::SkipsRefusedInPipeline => {
                let head = self.head_now(&batch.entity);
                if batch.expected_seq > head.last_seq.next() {
                    batch.expected_seq = head.last_seq;
                }
                self.store.journal.submit(batch, done);
            }
            _ => self.store.journal.submit(batch, done),
        }
    }

    fn submit_all(&self, mut batches: Vec<AppendBatch>, done: AllDone) {
        if self.is_closed() {
            return done(Err(JournalError::Closed));
        }
        let journal = &self.store.journal;
        match self.store.bug {
            Bug::TogetherWritesWhatFits => {
                // All that are refused are left out, and the others are written.
                let fits = |batch: &AppendBatch| {
                    batch.expected_seq == self.head_now(&batch.entity).last_seq
                        && batch.epoch >= self.term_now(batch.entity.shard(self.shards()))
                };
                if batches.iter().all(fits) {
                    return journal.submit_all(batches, done);
                }
                for batch in batches.clone().into_iter().filter(fits) {
                    journal.submit(batch, Box::new(|_| ()));
                }
                journal.submit_all(batches, done);
            }
            Bug::TogetherIsOnlyOrdered => {
                let results = Arc::new(Mutex::new(Vec::new()));
                for batch in batches {
                    let results = results.clone();
                    journal.submit(
                        batch,
                        Box::new(move |result| results.lock().unwrap().push(result)),
                    );
                }
                done(std::mem::take(&mut *results.lock().unwrap()).into_iter().collect());
            }
            _ => {
                batches.iter_mut().for_each(|batch| self.break_batch(batch));
                journal.submit_all(batches, done);
            }
        }
    }

    fn append(&self, batch: AppendBatch) -> BoxFuture<'static, Result<Appended, JournalError>> {
        if self.bug(Bug::AppendIsLazy) {
            let journal = self.store.journal.clone();
            return Box::pin(async move { journal.append(batch).await });
        }
        let (tx, rx) = oneshot::channel();
        self.submit(batch, Box::new(move |result| drop(tx.send(result))));
        Box::pin(async move { rx.await.unwrap() })
    }

    fn replay(&self, entity: &EntityId, mut range: ReplayRange) -> RecordChunks {
        if self.is_closed() {
            return closed_stream();
        }
        match self.store.bug {
            Bug::RangeEndIsExclusive if range.to != Seq::MAX => {
                range.to = Seq(range.to.0.saturating_sub(1));
            }
            Bug::MaxIsIgnored => range.max = u64::MAX,
            _ => {}
        }
        let entity = self.fold(entity);
        let undelete = self.bug(Bug::DeletedAreReplayed)
            || self.since(&self.store.reopened, Bug::ReopeningUndeletes)
            || self.since(&self.store.maintained, Bug::MaintenanceUndeletes);
        let head = self.head_now(&entity);
        let chunks = map(self.store.journal.replay(&entity, range), self.break_records());
        if undelete && head.deleted_to > Seq::ZERO && range.max > 0 {
            // A deleted event comes back as one of the others' copies with its number.
            let ghost = EventRecord {
                entity: entity.clone(),
                seq: head.deleted_to,
                position: Position::ZERO,
                epoch: Term(1),
                timestamp: Default::default(),
                request: None,
                event: duractor_journal::NewEvent::new("ghost", 1, ""),
            };
            return stream::iter([Ok(vec![ghost])]).chain(chunks).boxed();
        }
        chunks
    }

    fn head(&self, entity: &EntityId) -> BoxFuture<'static, Result<Head, JournalError>> {
        if self.is_closed() {
            return Box::pin(ready(Err(JournalError::Closed)));
        }
        let mut head = self.head_now(&self.fold(entity));
        let empty = head.last_seq == head.deleted_to;
        if empty
            && (self.bug(Bug::HeadForgetsAfterDelete)
                || self.since(&self.store.reopened, Bug::ReopeningLosesHeads))
        {
            head = Head::default();
        }
        Box::pin(ready(Ok(head)))
    }

    fn delete_to(
        &self,
        entity: &EntityId,
        mut to: Seq,
        mut epoch: Term,
    ) -> BoxFuture<'static, Result<(), JournalError>> {
        if self.is_closed() {
            return Box::pin(ready(Err(JournalError::Closed)));
        }
        let entity = self.fold(entity);
        let head = self.head_now(&entity);
        match self.store.bug {
            Bug::DeleteForgotten if to == head.last_seq => return Box::pin(ready(Ok(()))),
            Bug::DeleteBeyondEndSticks if to > head.last_seq => to = Seq::ZERO,
            Bug::DeleteIgnoresEpoch => epoch = Term(u64::MAX),
            _ => {}
        }
        self.store.journal.delete_to(&entity, to, epoch)
    }

    fn deletions(&self, shard: ShardId) -> Deletions {
        let journal = &self.store.journal;
        match self.store.bug {
            Bug::DeletionsOfAllShards => {
                let all: Vec<_> =
                    (0..self.shards()).map(|shard| journal.deletions(ShardId(shard))).collect();
                stream::iter(all).flatten().boxed()
            }
            Bug::DeletionsForgotten => stream::empty().boxed(),
            _ => journal.deletions(shard),
        }
    }

    fn tail(&self, shard: ShardId, after: Position) -> RecordChunks {
        if self.is_closed() {
            return closed_stream();
        }
        let journal = &self.store.journal;
        let tail = match self.store.bug {
            Bug::TailIncludesItsStart if after > Position::ZERO => {
                journal.tail(shard, Position::from_u64(after.to_u64() - 1))
            }
            Bug::TailSkipsRestOfBatch if after > Position::ZERO => {
                journal.tail(shard, Position::new(after.index(), u16::MAX))
            }
            Bug::TailGivesTwice => map(journal.tail(shard, after), |mut records| {
                records.push(records[records.len() - 1].clone());
                records
            }),
            Bug::TailEnds => journal.tail(shard, after).take(1).boxed(),
            Bug::TailLosesRecord => map(journal.tail(shard, after), |mut records| {
                records.retain(|record| record.seq != Seq(7));
                records
            }),
            Bug::TailOfAllShards => {
                let all = (0..self.shards()).map(|shard| journal.tail(ShardId(shard), after));
                stream::select_all(all).boxed()
            }
            _ => map(journal.tail(shard, after), self.break_records()),
        };
        let closed = self.closed.clone();
        let end = async move {
            loop {
                let notified = closed.1.notified();
                if closed.0.load(SeqCst) {
                    return;
                }
                notified.await;
            }
        };
        tail.take_until(Box::pin(end)).boxed()
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        self.closed.0.store(true, SeqCst);
        self.closed.1.notify_waiters();
        Box::pin(ready(()))
    }
}

/// The cases that fail for a bug. Time is paused, so that a case that hangs gives up at once.
async fn caught(bug: Bug) -> Vec<&'static str> {
    let mut caught = Vec::new();
    for case in cases::<Broken>() {
        let name = case.name;
        let run = async move { case.run(&Broken { bug, store: Mutex::default() }).await };
        if tokio::spawn(run).await.is_err() {
            caught.push(name);
        }
    }
    caught
}

macro_rules! catches {
    ($($test:ident: $bug:ident => $($case:ident)+;)+) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $test() {
                let caught = caught(Bug::$bug).await;
                println!("{:?} is caught by {caught:?}", Bug::$bug);
                for case in [$(stringify!($case)),+] {
                    assert!(caught.contains(&case), "{case} does not catch {:?}: {caught:?}", Bug::$bug);
                }
            }
        )+
    };
}

#[tokio::test(start_paused = true)]
async fn the_unbroken_journal_passes() {
    assert_eq!(caught(Bug::None).await, [""; 0]);
}

catches! {
    accepting_a_wrong_seq: AcceptsWrongSeq => a_wrong_expected_seq_is_refused agrees_with_a_model;
    ignoring_the_epoch_of_appends: AppendIgnoresEpoch => a_stale_epoch_cannot_append agrees_with_a_model;
    ignoring_the_epoch_of_deletes: DeleteIgnoresEpoch => a_stale_epoch_cannot_delete agrees_with_a_model;
    losing_the_last_event_of_a_batch: LosesLastEventOfBatch => events_are_numbered_without_gaps agrees_with_a_model;
    losing_an_event_in_replay: ReplayLosesEventOfBatch => ten_thousand_events_in_order agrees_with_a_model;
    writing_part_of_a_refused_batch: WritesPartOfRefusedBatch => a_batch_is_written_whole_or_not_at_all;
    going_on_after_a_refused_batch: SkipsRefusedInPipeline => a_refused_batch_takes_those_after_it_along;
    splitting_batches: SplitsBatches => readers_never_see_part_of_a_batch;
    tail_giving_a_record_twice: TailGivesTwice => tail_gives_each_record_once_in_order agrees_with_a_model;
    tail_including_its_start: TailIncludesItsStart => tail_starts_after_any_position agrees_with_a_model;
    tail_skipping_the_rest_of_a_batch: TailSkipsRestOfBatch => tail_starts_after_any_position tail_goes_on_across_reopening;
    tail_ending: TailEnds => tail_waits_for_what_comes agrees_with_a_model;
    tail_of_all_shards: TailOfAllShards => tail_keeps_to_its_shard;
    tail_losing_a_record: TailLosesRecord => tail_gives_each_record_once_in_order tail_under_concurrent_writers agrees_with_a_model;
    head_forgetting_after_delete: HeadForgetsAfterDelete => deleting_everything_keeps_the_head agrees_with_a_model;
    forgetting_a_delete: DeleteForgotten => deleting_everything_keeps_the_head;
    telling_deletions_of_all_shards: DeletionsOfAllShards => deletions_are_told_of_a_shard;
    forgetting_deletions: DeletionsForgotten => deletions_are_told_of_a_shard;
    ignoring_deletes_beyond_the_end: DeleteBeyondEndSticks => deleting_beyond_the_end_deletes_what_is_there;
    replaying_deleted_events: DeletedAreReplayed => deleted_events_are_not_replayed agrees_with_a_model;
    excluding_the_end_of_a_range: RangeEndIsExclusive => replay_gives_the_range_asked_for agrees_with_a_model;
    ignoring_max: MaxIsIgnored => replay_gives_the_range_asked_for agrees_with_a_model;
    repeating_a_term: ClaimRepeatsTerm => claims_give_growing_terms;
    claiming_all_shards: ClaimTouchesAllShards => shards_are_claimed_apart;
    claims_overtaking_writes: ClaimOvertakes => a_claim_settles_what_came_before;
    appending_at_the_first_poll: AppendIsLazy => an_append_is_taken_up_by_the_call;
    acknowledging_before_the_commit: AcksBeforeCommit => an_acknowledged_event_is_read_at_once;
    completing_in_another_order: CompletionsReversed => completions_come_in_commit_order;
    ignoring_case: KeysIgnoreCase => any_key_has_its_own_stream;
    sorting_tags: SortsTags => records_come_back_as_written;
    dropping_empty_metadata: DropsMetadata => records_come_back_as_written;
    repeating_the_request: RequestOnEveryEvent => records_come_back_as_written agrees_with_a_model;
    dropping_the_request: DropsRequest => records_come_back_as_written agrees_with_a_model;
    truncating_a_payload: TruncatesPayload => the_largest_payload_fits_and_no_larger;
    accepting_a_larger_payload: AcceptsLargerPayload => the_largest_payload_fits_and_no_larger;
    staying_open: StaysOpen => after_shutdown_everything_is_closed;
    losing_a_record_by_reopening: ReopeningLosesLastRecord => everything_is_there_after_reopening agrees_with_a_model;
    losing_heads_by_reopening: ReopeningLosesHeads => deletes_outlast_reopening agrees_with_a_model;
    undeleting_by_reopening: ReopeningUndeletes => deletes_outlast_reopening agrees_with_a_model;
    forgetting_terms_by_reopening: ReopeningForgetsTerms => terms_grow_across_reopening;
    losing_requests_by_reopening: ReopeningLosesRequests => everything_is_there_after_reopening agrees_with_a_model;
    losing_a_record_by_maintenance: MaintenanceLosesRecord => maintenance_changes_nothing agrees_with_a_model_under_maintenance;
    writing_what_fits_of_batches_that_go_together: TogetherWritesWhatFits => batches_go_together_or_not_at_all agrees_with_a_model;
    writing_batches_that_go_together_one_by_one: TogetherIsOnlyOrdered => batches_that_go_together_are_one_entry;
    undeleting_by_maintenance: MaintenanceUndeletes => deleting_everything_keeps_the_head agrees_with_a_model_under_maintenance;
}
