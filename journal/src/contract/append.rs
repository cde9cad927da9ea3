//! Order, atomicity, expected sequence numbers, epochs.

use std::sync::{Arc, Mutex};

use futures_util::future::join_all;

use super::{
    Provider,
    kit::{Kit, assert_error, entity, numbered_event, refused, sized_event},
};
use crate::{
    error::{Effect, JournalError},
    id::{Position, Seq, ShardId, Term},
    port::{Head, ReplayRange},
    record::NewEvent,
};

/// The first event has 1, and each batch goes on where the last one ended; what an append returns
/// is the sequence number and the position of its last event.
pub async fn events_are_numbered_without_gaps<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let id = entity("a");
    let mut appended = Vec::new();
    for (expected, n) in [(0, 1), (1, 3), (4, 2)] {
        appended.push(kit.append(&id, expected, n).await);
    }
    kit.assert_numbered(&id, 1, 6).await;
    let records = kit.read(&id, ReplayRange::ALL).await;
    for (appended, last) in appended.iter().zip([1, 4, 6]) {
        assert_eq!(appended.last_seq, Seq(last));
        assert_eq!(appended.position, records[last as usize - 1].position);
    }
    assert!(records[0].position > Position::ZERO, "nothing is at the position zero");
}

/// A batch that is refused for its last event leaves nothing of the others.
pub async fn a_batch_is_written_whole_or_not_at_all<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let id = entity("a");
    kit.append(&id, 0, 2).await;
    let mut tail = kit.tail(kit.shard(&id), Position::ZERO);
    tail.take(2).await;
    let mut batch = kit.numbered(&id, 2, 3);
    batch.events.push(sized_event(kit.journal().limits().max_payload_bytes + 1));
    let error = refused(kit.journal().append(batch).await);
    assert_eq!(error.effect(), Effect::None, "{error}");
    kit.assert_numbered(&id, 1, 2).await;
    kit.assert_drained(&mut tail, kit.shard(&id), "refused").await;
    kit.append(&id, 2, 5).await;
    kit.assert_numbered(&id, 1, 7).await;
}

/// While batches of four are written, every replay and every head ends with a whole batch.
pub async fn readers_never_see_part_of_a_batch<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let id = entity("a");
    let writes = (0..60).map(|n| kit.journal().append(kit.numbered(&id, 4 * n, 4)));
    let writes = tokio::spawn(join_all(writes.collect::<Vec<_>>()));
    while !writes.is_finished() {
        let head = kit.head(&id).await.last_seq.0;
        let read = kit.read(&id, ReplayRange::ALL).await.len() as u64;
        assert_eq!((head % 4, read % 4), (0, 0), "part of a batch is seen");
        assert!(head <= read, "a later read sees less");
        tokio::task::yield_now().await;
    }
    for result in writes.await.expect("the writers run") {
        result.expect("an append in order");
    }
    kit.assert_numbered(&id, 1, 240).await;
}

/// Too low, too high, for an entity without events: refused, with the number in force, and nothing
/// is written.
pub async fn a_wrong_expected_seq_is_refused<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let (id, unknown) = (entity("a"), entity("unknown"));
    kit.append(&id, 0, 3).await;
    for (id, wrong, right) in [(&id, 0, 3), (&id, 2, 3), (&id, 4, 3), (&unknown, 1, 0)] {
        let error = refused(kit.journal().append(kit.numbered(id, wrong, 2)).await);
        assert_eq!(error.effect(), Effect::None, "{error}");
        let JournalError::WrongExpectedSeq { entity, expected, actual } = error else {
            panic!("another error than expected: {error:?}");
        };
        assert_eq!((&entity, expected, actual), (id, Seq(wrong), Seq(right)));
        assert_eq!(kit.head(id).await.last_seq, Seq(right));
    }
    kit.assert_numbered(&id, 1, 3).await;
    assert_eq!(kit.head(&unknown).await, Head::default());
    assert!(kit.read(&unknown, ReplayRange::ALL).await.is_empty());
    kit.append(&id, 3, 1).await;
    kit.append(&unknown, 0, 1).await;
    kit.assert_numbered(&id, 1, 4).await;
}

/// An entity's next batch is taken before the one before it is acknowledged.
pub async fn batches_of_one_entity_are_pipelined<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let id = entity("a");
    let pending: Vec<_> =
        (0..200).map(|n| kit.journal().append(kit.numbered(&id, 2 * n, 2))).collect();
    let mut before = Position::ZERO;
    for (n, result) in join_all(pending).await.into_iter().enumerate() {
        let appended = result.unwrap_or_else(|error| panic!("batch {n}: {error}"));
        assert_eq!(appended.last_seq, Seq(2 * n as u64 + 2));
        assert!(appended.position > before, "positions must grow");
        before = appended.position;
    }
    kit.assert_numbered(&id, 1, 400).await;
}

/// An append takes effect in the order of the calls, whether its future is polled or not.
pub async fn an_append_is_taken_up_by_the_call<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let id = entity("a");
    let dropped = kit.journal().append(kit.numbered(&id, 0, 1));
    let late = kit.journal().append(kit.numbered(&id, 1, 1));
    let early = kit.journal().append(kit.numbered(&id, 2, 1));
    drop(dropped);
    assert_eq!(early.await.expect("the last append").last_seq, Seq(3));
    assert_eq!(late.await.expect("the append before it").last_seq, Seq(2));
    kit.assert_numbered(&id, 1, 3).await;
}

/// Completions of a shard's batches are called once each, in the order of their positions, which
/// is the order of the calls.
pub async fn completions_come_in_commit_order<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let ids = kit.neighbours(ShardId(0), 5);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let (all_heard, wait) = tokio::sync::oneshot::channel();
    let mut all_heard = Some(all_heard);
    for n in 0..100 {
        let id = &ids[n % ids.len()];
        let batch = kit.numbered(id, (n / ids.len()) as u64, 1);
        let heard = heard.clone();
        let finished = if n == 99 { all_heard.take() } else { None };
        let done = move |result: Result<crate::Appended, JournalError>| {
            let position = result.map(|appended| appended.position);
            heard.lock().expect("not poisoned").push((n, position));
            // Dropped unsent where it is another's completion.
            finished.map(|finished| finished.send(()));
        };
        kit.journal().submit(batch, Box::new(done));
    }
    wait.await.expect("the last completion is called");
    let heard = std::mem::take(&mut *heard.lock().expect("not poisoned"));
    let mut before = Position::ZERO;
    assert_eq!(heard.len(), 100, "each completion is called once");
    for (place, (n, position)) in heard.into_iter().enumerate() {
        let position = position.unwrap_or_else(|error| panic!("batch {n}: {error}"));
        assert_eq!(place, n, "completions out of order");
        assert!(position > before, "positions out of order");
        before = position;
    }
}

/// What was pipelined after a refused batch fails as well, and what was before it is written.
pub async fn a_refused_batch_takes_those_after_it_along<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let (id, other) = (entity("a"), entity("b"));
    let too_large = sized_event(kit.journal().limits().max_payload_bytes + 1);
    let append = |batch| kit.journal().append(batch);
    let before = append(kit.numbered(&id, 0, 2));
    let refused_batch = append(kit.batch(&id, 2, vec![numbered_event(&id, 3), too_large]));
    let after = append(kit.numbered(&id, 4, 1));
    let long_after = append(kit.numbered(&id, 5, 1));
    let unrelated = append(kit.numbered(&other, 0, 1));
    before.await.expect("the batch before");
    assert_error!(refused(refused_batch.await), JournalError::TooLarge { .. });
    for late in [after, long_after] {
        assert_error!(
            refused(late.await),
            JournalError::WrongExpectedSeq { .. } | JournalError::TooLarge { .. }
        );
    }
    unrelated.await.expect("another entity's batch");
    kit.assert_numbered(&id, 1, 2).await;
    kit.append(&id, 2, 1).await;
    kit.assert_numbered(&id, 1, 3).await;
}

/// After a claim returned, a writer under the term before it is refused, in that shard alone.
pub async fn a_stale_epoch_cannot_append<P: Provider>(provider: &P) {
    let mut kit = Kit::open(provider).await;
    let id = entity("a");
    let shard = kit.shard(&id);
    kit.append(&id, 0, 2).await;
    let stale_batch = kit.numbered(&id, 2, 1);
    let stale_new = kit.numbered(&kit.neighbours(shard, 1)[0], 0, 1);
    let (old, new) = (kit.term(&id), kit.claim(shard).await);
    for batch in [stale_batch, stale_new] {
        let error = refused(kit.journal().append(batch).await);
        assert_eq!(error.effect(), Effect::None, "{error}");
        let JournalError::StaleEpoch { shard: at, stale, current } = error else {
            panic!("another error than expected: {error:?}");
        };
        assert_eq!((at, stale, current), (shard, old, new));
    }
    kit.assert_numbered(&id, 1, 2).await;
    kit.append(&id, 2, 1).await;
    kit.assert_numbered(&id, 1, 3).await;
    let epochs: Vec<Term> =
        kit.read(&id, ReplayRange::ALL).await.iter().map(|record| record.epoch).collect();
    assert_eq!(epochs, [old, old, new], "a record keeps the epoch that it was written under");
}

/// When a claim has returned, it is settled what the writers before it have written: nothing of
/// theirs comes later, although it was on its way.
pub async fn a_claim_settles_what_came_before<P: Provider>(provider: &P) {
    let mut kit = Kit::open(provider).await;
    let id = entity("a");
    let pending: Vec<_> = (0..60).map(|n| kit.journal().append(kit.numbered(&id, n, 1))).collect();
    kit.claim(kit.shard(&id)).await;
    let settled = kit.head(&id).await.last_seq;
    let results = join_all(pending).await;
    let written = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(written as u64, settled.0, "written after the claim had returned");
    assert!(results[..written].iter().all(Result::is_ok), "a hole in what was written");
    kit.append(&id, settled.0, 1).await;
    kit.assert_numbered(&id, 1, settled.0 + 1).await;
}

/// A stale writer deletes nothing.
pub async fn a_stale_epoch_cannot_delete<P: Provider>(provider: &P) {
    let mut kit = Kit::open(provider).await;
    let id = entity("a");
    kit.append(&id, 0, 3).await;
    let old = kit.term(&id);
    kit.claim(kit.shard(&id)).await;
    let error = refused(kit.journal().delete_to(&id, Seq(2), old).await);
    assert_error!(error, JournalError::StaleEpoch { .. });
    kit.assert_numbered(&id, 1, 3).await;
    kit.delete(&id, Seq(1)).await;
    kit.assert_numbered(&id, 2, 3).await;
}

/// Each claim of a shard gives a greater term than all before it, also where several are made at
/// once.
pub async fn claims_give_growing_terms<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let claim = || kit.journal().claim(ShardId(0));
    let mut before = kit.term(&kit.neighbours(ShardId(0), 1)[0]);
    assert!(before > Term(0), "term 0 is no claim's");
    for _ in 0..3 {
        let term = claim().await.expect("a claim");
        assert!(term > before, "{term} after {before}");
        before = term;
    }
    let mut terms: Vec<Term> =
        join_all((0..8).map(|_| claim())).await.into_iter().map(|t| t.expect("a claim")).collect();
    terms.sort_unstable();
    terms.dedup();
    assert_eq!(terms.len(), 8, "two claims gave the same term: {terms:?}");
    assert!(terms[0] > before);
}

/// A claim of one shard leaves the writers of the others alone.
pub async fn shards_are_claimed_apart<P: Provider>(provider: &P) {
    let mut kit = Kit::open(provider).await;
    let id = &kit.neighbours(ShardId(1), 1)[0];
    kit.append(id, 0, 1).await;
    for _ in 0..3 {
        kit.claim(ShardId(0)).await;
    }
    kit.append(id, 1, 1).await;
    kit.delete(id, Seq(1)).await;
    kit.assert_numbered(id, 2, 2).await;
}

/// Shards are counted from 0; there is none with the number of shards.
pub async fn an_unknown_shard_is_refused<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    for beyond in [kit.journal().shards(), u16::MAX] {
        let error = refused(kit.journal().claim(ShardId(beyond)).await);
        assert_error!(error, JournalError::UnknownShard { shard: ShardId(s), .. } if s == beyond);
        let mut tail = kit.journal().tail(ShardId(beyond), Position::ZERO);
        let first = futures_util::StreamExt::next(&mut tail).await.expect("an error");
        assert_error!(refused(first), JournalError::UnknownShard { .. });
    }
}

/// Writers of different entities do not disturb each other.
pub async fn concurrent_appenders_on_many_entities<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let ids: Vec<_> = (0..32).map(|n| entity(&format!("many {n}"))).collect();
    let writers = ids.iter().map(|id| {
        let journal = kit.journal().clone();
        let batches: Vec<_> = (0..20).map(|n| kit.numbered(id, 2 * n, 2)).collect();
        tokio::spawn(async move {
            for batch in batches {
                journal.append(batch).await.expect("an append of its only writer");
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("the writer runs");
    }
    for id in &ids {
        kit.assert_numbered(id, 1, 40).await;
    }
}

/// Of writers of one entity, one wins each sequence number; all get through in the end, each event
/// once.
pub async fn concurrent_appenders_on_one_entity<P: Provider>(provider: &P) {
    const WRITERS: usize = 8;
    const EACH: usize = 15;
    let kit = Kit::open(provider).await;
    let id = entity("contended");
    let writers = (0..WRITERS).map(|writer| {
        let journal = kit.journal().clone();
        let mut batch = kit.batch(&id, 0, Vec::new());
        tokio::spawn(async move {
            for n in 0..EACH {
                batch.events = vec![NewEvent::new("contended", 1, format!("{writer} {n}"))];
                loop {
                    match journal.append(batch.clone()).await {
                        Ok(appended) => break batch.expected_seq = appended.last_seq,
                        Err(JournalError::WrongExpectedSeq { actual, .. }) => {
                            batch.expected_seq = actual;
                        }
                        Err(error) => panic!("writer {writer}: {error}"),
                    }
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("the writer runs");
    }
    let records = kit.read(&id, ReplayRange::ALL).await;
    assert!(records.iter().map(|record| record.seq.0).eq(1..=(WRITERS * EACH) as u64));
    for writer in 0..WRITERS {
        let mark = format!("{writer} ");
        let own: Vec<_> =
            records.iter().filter(|r| r.event.payload.starts_with(mark.as_bytes())).collect();
        assert_eq!(own.len(), EACH, "events of writer {writer}");
        for (n, record) in own.iter().enumerate() {
            assert_eq!(record.event.payload, format!("{writer} {n}"), "out of order");
        }
    }
}
