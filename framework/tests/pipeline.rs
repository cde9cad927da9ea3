//! The speculative pipeline: many commands under way at once, and what happens when one is refused.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::future::IntoFuture;

use common::*;
use duractor::{AskError, EntitySettings, TookEffect};
use duractor_journal::JournalError;

fn full() -> JournalError {
    JournalError::DiskFull { message: "planted".into() }
}

/// Lets everything run that can run without time passing.
async fn settle() {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn many_callers_of_one_entity_share_the_wait() {
    let world = World::new();
    let node = world.start().await;
    let one = account(&node, "one");
    one.ask(Get {}).await.unwrap();
    world.journal.hold();
    let asks: Vec<_> = (0..256)
        .map(|_| {
            let ask = one.ask(Add { by: 1 }).into_future();
            tokio::spawn(ask)
        })
        .collect();
    settle().await;
    assert_eq!(world.journal.held(), 256, "all are submitted before the first commit");
    assert!(asks.iter().all(|ask| !ask.is_finished()), "and none is answered");
    world.journal.release();
    for (n, ask) in (1..).zip(asks) {
        assert_eq!(ask.await.unwrap().unwrap(), n, "each sees those before it");
    }
    assert_eq!(one.ask(Revision {}).await.unwrap(), 256);
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_in_flight_is_bounded() {
    let world = World::new();
    let node = world.start_with(EntitySettings::default().max_in_flight(10)).await;
    let one = account(&node, "one");
    one.ask(Get {}).await.unwrap();
    world.journal.hold();
    let asks: Vec<_> =
        (0..50).map(|_| tokio::spawn(one.ask(Add { by: 1 }).into_future())).collect();
    settle().await;
    assert_eq!(world.journal.held(), 10);
    world.journal.release();
    for ask in asks {
        ask.await.unwrap().unwrap();
    }
    assert_eq!(one.ask(Get {}).await.unwrap(), 50);
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn a_read_of_uncommitted_state_waits_for_the_commit() {
    let world = World::new();
    let node = world.start().await;
    let one = account(&node, "one");
    one.ask(Add { by: 1 }).await.unwrap();
    world.journal.hold();
    let add = tokio::spawn(one.ask(Add { by: 1 }).into_future());
    let get = tokio::spawn(one.ask(Get {}).into_future());
    settle().await;
    assert!(!add.is_finished() && !get.is_finished());
    world.journal.release();
    assert_eq!((add.await.unwrap().unwrap(), get.await.unwrap().unwrap()), (2, 2));
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_append_takes_everything_uncommitted_with_it() {
    let world = World::new();
    let node = world.start_with(EntitySettings::default().max_in_flight(3)).await;
    let one = account(&node, "one");
    one.ask(Add { by: 100 }).await.unwrap();
    world.journal.hold();
    let add = |by| tokio::spawn(one.ask(Add { by }).into_future());
    let (first, second) = (add(1), add(2));
    let read = tokio::spawn(one.ask(Get {}).into_future());
    let third = add(3);
    // The three batches above are all that may be under way: these wait in the mailbox.
    let (fourth, fifth) = (add(10), add(20));
    settle().await;
    assert_eq!(world.journal.held(), 3);
    world.journal.fail_appends(1, full());
    world.journal.release();

    let first = first.await.unwrap().unwrap_err();
    assert!(matches!(first, AskError::Journal(JournalError::DiskFull { .. })), "{first}");
    for aborted in [second, read, third] {
        let error = aborted.await.unwrap().unwrap_err();
        assert!(matches!(&error, AskError::Aborted { .. }), "{error}");
        assert_eq!(error.effect(), TookEffect::None);
    }
    assert_eq!(fourth.await.unwrap().unwrap(), 110, "the next incarnation goes on with the queue");
    assert_eq!(fifth.await.unwrap().unwrap(), 130);
    assert_eq!(one.ask(Revision {}).await.unwrap(), 3);
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn a_log_that_fails_stops_the_node() {
    let world = World::new();
    let node = world.start().await;
    let (one, two) = (account(&node, "one"), account(&node, "two"));
    one.ask(Add { by: 1 }).await.unwrap();
    two.ask(Add { by: 1 }).await.unwrap();
    world.journal.lose_acks(1, JournalError::FailedUnderWay { cause: "planted".into() });
    let error = one.ask(Add { by: 1 }).await.unwrap_err();
    assert_eq!(error.effect(), TookEffect::Unknown, "{error}");
    let error = two.ask(Get {}).await.unwrap_err();
    assert!(matches!(error, AskError::NodeFailed { .. }), "{error}");
    assert_eq!(error.effect(), TookEffect::None);
    finish(node).await;

    // What was written before the acknowledgement was lost is there.
    let counts = world.journal.held();
    assert_eq!(counts, 0);
}

#[tokio::test(start_paused = true)]
async fn a_newer_owner_of_the_shard_fences_this_node() {
    let world = World::new();
    let old = world.start().await;
    account(&old, "one").ask(Add { by: 1 }).await.unwrap();
    let new = world.start().await;
    assert_eq!(account(&new, "one").ask(Add { by: 1 }).await.unwrap(), 2);
    let error = account(&old, "one").ask(Add { by: 10 }).await.unwrap_err();
    assert!(matches!(error, AskError::Journal(JournalError::StaleEpoch { .. })), "{error}");
    let error = account(&old, "two").ask(Get {}).await.unwrap_err();
    assert!(matches!(error, AskError::NodeFailed { .. }), "{error}");
    assert_eq!(account(&new, "one").ask(Get {}).await.unwrap(), 2);
    old.kill().await;
    finish(new).await;
}
