//! The in-memory journal's own hooks: held commits, failing appends, lost acknowledgements.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::{Arc, Mutex};

use duractor_journal::{
    AppendBatch, EntityId, Journal, JournalError, Limits, MemoryJournal, NewEvent, ReplayRange,
    Seq, ShardId, Term, Timestamp,
};
use futures_util::{FutureExt, StreamExt};

fn entity(key: &str) -> EntityId {
    EntityId::new("hook", key).unwrap()
}

fn batch(key: &str, expected: u64, events: usize) -> AppendBatch {
    AppendBatch {
        entity: entity(key),
        epoch: Term(1),
        expected_seq: Seq(expected),
        timestamp: Timestamp(7),
        request: None,
        events: vec![NewEvent::new("e", 1, vec![1u8]); events],
    }
}

async fn journal() -> Arc<MemoryJournal> {
    let journal = MemoryJournal::new(1, Limits::default());
    assert_eq!(journal.claim(ShardId(0)).await.unwrap(), Term(1));
    journal
}

async fn seqs(journal: &MemoryJournal, key: &str) -> Vec<u64> {
    let chunks: Vec<_> = journal.replay(&entity(key), ReplayRange::ALL).collect().await;
    chunks.into_iter().flat_map(|chunk| chunk.unwrap()).map(|record| record.seq.0).collect()
}

fn failure() -> JournalError {
    JournalError::DiskFull { message: "none left".into() }
}

#[tokio::test]
async fn held_commits_are_unseen_until_released() {
    let journal = journal().await;
    let mut tail = journal.tail(ShardId(0), Default::default());
    journal.hold();
    let first = journal.append(batch("a", 0, 2));
    let second = journal.append(batch("a", 2, 1));
    let claim = journal.claim(ShardId(0));
    let stale = journal.append(batch("b", 0, 1)).await;
    assert!(matches!(stale, Err(JournalError::StaleEpoch { .. })), "{stale:?}");
    assert_eq!(journal.held(), 3);
    assert!(tail.next().now_or_never().is_none());
    assert_eq!(journal.head(&entity("a")).await.unwrap().last_seq, Seq(0));
    assert!(seqs(&journal, "a").await.is_empty());
    journal.release();
    assert_eq!(first.await.unwrap().last_seq, Seq(2));
    assert_eq!(second.await.unwrap().last_seq, Seq(3));
    assert_eq!(claim.await.unwrap(), Term(2));
    assert_eq!(seqs(&journal, "a").await, [1, 2, 3]);
    assert_eq!(tail.next().await.unwrap().unwrap().len(), 3);
}

#[tokio::test]
async fn a_failed_append_takes_the_pipelined_ones_with_it() {
    let journal = journal().await;
    journal.hold();
    let failing = journal.append(batch("a", 0, 1));
    let behind = journal.append(batch("a", 1, 1));
    let other = journal.append(batch("b", 0, 1));
    journal.fail_appends(1, failure());
    journal.release();
    assert!(matches!(failing.await, Err(JournalError::DiskFull { .. })));
    assert!(matches!(behind.await, Err(JournalError::WrongExpectedSeq { .. })));
    assert!(other.await.is_ok());
    assert!(seqs(&journal, "a").await.is_empty());
    assert!(journal.append(batch("a", 0, 1)).await.is_ok());
}

#[tokio::test]
async fn a_lost_acknowledgement_leaves_the_events_there() {
    let journal = journal().await;
    journal.hold();
    let lost = journal.append(batch("a", 0, 1));
    let behind = journal.append(batch("a", 1, 1));
    journal.lose_acks(1, JournalError::FailedUnderWay { cause: "test".into() });
    journal.release();
    assert!(matches!(lost.await, Err(JournalError::FailedUnderWay { .. })));
    assert!(matches!(behind.await, Err(JournalError::WrongExpectedSeq { .. })));
    assert_eq!(seqs(&journal, "a").await, [1]);
    assert!(journal.append(batch("a", 1, 1)).await.is_ok());
}

#[tokio::test]
async fn reads_fail_on_demand() {
    let journal = journal().await;
    journal.fail_reads(2, failure());
    assert!(journal.head(&entity("a")).await.is_err());
    let first = journal.replay(&entity("a"), ReplayRange::ALL).next().await;
    assert!(matches!(first, Some(Err(JournalError::DiskFull { .. }))));
    assert!(journal.head(&entity("a")).await.is_ok());
}

#[tokio::test]
async fn a_completion_may_submit_and_completions_keep_the_order() {
    let journal = journal().await;
    let heard = Arc::new(Mutex::new(Vec::new()));
    journal.hold();
    for n in 0..3u64 {
        let (heard, again) = (heard.clone(), journal.clone());
        journal.submit(
            batch("a", n, 1),
            Box::new(move |result| {
                heard.lock().unwrap().push(result.unwrap().last_seq.0);
                if n == 0 {
                    again.submit(
                        batch("a", 3, 1),
                        Box::new(move |result| {
                            heard.lock().unwrap().push(result.unwrap().last_seq.0);
                        }),
                    );
                }
            }),
        );
    }
    journal.release();
    assert_eq!(*heard.lock().unwrap(), [1, 2, 3, 4]);
}

#[tokio::test]
async fn shutdown_commits_what_was_held() {
    let journal = journal().await;
    journal.hold();
    let held = journal.append(batch("a", 0, 1));
    let tail = journal.tail(ShardId(0), Default::default());
    journal.shutdown().await;
    assert_eq!(held.await.unwrap().last_seq, Seq(1));
    assert_eq!(tail.count().await, 1);
    assert!(matches!(journal.append(batch("a", 1, 1)).await, Err(JournalError::Closed)));
}
