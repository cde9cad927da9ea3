//! Snapshots: taken, used, and never trusted more than the events.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::time::Duration;

use common::*;
use duractor::{AskError, EntitySettings, Journal, SnapshotStore, Timestamp};
use duractor_journal::JournalError;
use duractor_snapshot::{Criteria, Retention, Snapshot};

async fn wait() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

fn every_five() -> EntitySettings {
    EntitySettings::default().snapshot_every(5)
}

async fn newest(world: &World, key: &str) -> Option<u64> {
    let id = duractor::EntityId::new("account", key).unwrap();
    world.snapshots.load(&id, Criteria::ALL).await.unwrap().map(|s| s.seq.0)
}

#[tokio::test(start_paused = true)]
async fn they_are_taken_after_the_commit_and_used() {
    let world = World::new();
    let node = world.start_with(every_five()).await;
    let one = account(&node, "one");
    for _ in 0..4 {
        one.ask(Add { by: 1 }).await.unwrap();
    }
    wait().await;
    assert_eq!(newest(&world, "one").await, None);
    world.journal.hold();
    let add = tokio::spawn(std::future::IntoFuture::into_future(one.ask(Add { by: 1 })));
    wait().await;
    assert_eq!(newest(&world, "one").await, None, "the fifth event is not committed");
    world.journal.release();
    add.await.unwrap().unwrap();
    wait().await;
    assert_eq!(newest(&world, "one").await, Some(5));
    one.ask(AddMany { each: vec![1; 7] }).await.unwrap().unwrap();
    wait().await;
    assert_eq!(newest(&world, "one").await, Some(12), "at the end of the batch");
    one.ask(Add { by: 1 }).await.unwrap();
    node.kill().await;

    // Only what comes after the snapshot is replayed: what is before may be gone.
    let id = one.id();
    let epoch = world.journal.claim(id.shard(4)).await.unwrap();
    world.journal.delete_to(id, seq(12), epoch).await.unwrap();
    let node = world.start_with(every_five()).await;
    let one = account(&node, "one");
    assert_eq!(one.ask(Get {}).await.unwrap(), 13);
    assert_eq!(one.ask(Revision {}).await.unwrap(), 13);
    finish(node).await;
}

/// Cause: the snapshot of a refused batch was saved all the same. Consequence: the entity came back
/// with a state that was never committed, or not at all. Fix: it goes with its batch.
#[tokio::test(start_paused = true)]
async fn none_is_kept_of_what_was_refused() {
    let world = World::new();
    let node = world.start_with(every_five()).await;
    let one = account(&node, "one");
    for _ in 0..4 {
        one.ask(Add { by: 1 }).await.unwrap();
    }
    world.journal.fail_appends(1, JournalError::DiskFull { message: "planted".into() });
    one.ask(Add { by: 100 }).await.unwrap_err();
    wait().await;
    assert_eq!(newest(&world, "one").await, None);
    assert_eq!(one.ask(Get {}).await.unwrap(), 4);
    assert_eq!(one.ask(Add { by: 1 }).await.unwrap(), 5);
    wait().await;
    assert_eq!(newest(&world, "one").await, Some(5));
    node.kill().await;
    let node = world.start_with(every_five()).await;
    assert_eq!(account(&node, "one").ask(Get {}).await.unwrap(), 5);
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_decode_gives_way_to_an_older_one() {
    let world = World::new();
    let node = world.start_with(every_five()).await;
    let one = account(&node, "one");
    for _ in 0..11 {
        one.ask(Add { by: 1 }).await.unwrap();
        wait().await;
    }
    node.kill().await;
    let damage = |seq, state: &'static [u8]| {
        let entity = one.id().clone();
        let bad = Snapshot {
            entity,
            seq,
            timestamp: Timestamp(0),
            schema_version: 1,
            state: state.into(),
        };
        world.snapshots.save(vec![bad], Retention::All)
    };
    damage(seq(10), &[1, 0, 1, 2, 3, 4, 5, 6]).await.unwrap();
    let node = world.start_with(every_five()).await;
    assert_eq!(account(&node, "one").ask(Get {}).await.unwrap(), 11);
    node.kill().await;
    damage(seq(5), &[]).await.unwrap();
    let node = world.start_with(every_five()).await;
    assert_eq!(account(&node, "one").ask(Get {}).await.unwrap(), 11, "from the events alone");
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn events_are_deleted_below_the_oldest_kept_one() {
    let world = World::new();
    let settings = every_five().keep_snapshots(2).delete_events(true);
    let node = world.start_with(settings.clone()).await;
    let one = account(&node, "one");
    let mut deleted = Vec::new();
    for _ in 0..16 {
        one.ask(Add { by: 1 }).await.unwrap();
        wait().await;
        deleted.push(world.journal.head(one.id()).await.unwrap().deleted_to.0);
    }
    assert_eq!(deleted, [0, 0, 0, 0, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 10, 10]);
    node.kill().await;
    let node = world.start_with(settings.clone()).await;
    assert_eq!(account(&node, "one").ask(Get {}).await.unwrap(), 16);
    node.kill().await;

    // All snapshots lost, and so are the first ten events: no state can be made of the rest.
    world.snapshots.delete(one.id(), Criteria::ALL).await.unwrap();
    let node = world.start_with(settings).await;
    let error = account(&node, "one").ask(Get {}).await.unwrap_err();
    assert!(matches!(error, AskError::Quarantined { .. }), "{error}");
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn a_gap_right_after_the_snapshot_is_noticed() {
    let world = World::new();
    let node = world.start_with(every_five()).await;
    let one = account(&node, "one");
    for _ in 0..7 {
        one.ask(Add { by: 1 }).await.unwrap();
    }
    wait().await;
    assert_eq!(newest(&world, "one").await, Some(5));
    node.kill().await;
    let epoch = world.journal.claim(one.id().shard(4)).await.unwrap();
    world.journal.delete_to(one.id(), seq(6), epoch).await.unwrap();
    let node = world.start_with(every_five()).await;
    let error = account(&node, "one").ask(Get {}).await.unwrap_err();
    assert!(matches!(error, AskError::Quarantined { .. }), "{error}");
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn no_event_is_deleted_where_the_snapshot_was_not_saved() {
    let world = World::new();
    let settings = every_five().keep_snapshots(1).delete_events(true);
    let node = world.start_with(settings).await;
    let one = account(&node, "one");
    world.snapshots.shutdown().await;
    for _ in 0..7 {
        one.ask(Add { by: 1 }).await.unwrap();
        wait().await;
    }
    assert_eq!(world.journal.head(one.id()).await.unwrap().deleted_to, seq(0));
    world.snapshots.reopen();
    for _ in 0..5 {
        one.ask(Add { by: 1 }).await.unwrap();
        wait().await;
    }
    assert_eq!(world.journal.head(one.id()).await.unwrap().deleted_to, seq(10));
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn another_version_of_the_state_is_not_decoded_as_this_one() {
    let world = World::new();
    let node = world.start_with(every_five()).await;
    let one = account(&node, "one");
    for _ in 0..5 {
        one.ask(Add { by: 1 }).await.unwrap();
    }
    wait().await;
    node.kill().await;
    // `upgrade_state` takes nothing here, so the events must do.
    let node = world.start_with(every_five().state_version(2)).await;
    assert_eq!(account(&node, "one").ask(Get {}).await.unwrap(), 5);
    finish(node).await;
}
