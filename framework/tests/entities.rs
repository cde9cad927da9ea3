//! The plain way: ask, persist, commit, reply, and recover.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::*;
use std::future::IntoFuture;

use duractor::{AskError, EntitySettings, NodeError, TookEffect};

#[tokio::test(start_paused = true)]
async fn commands_are_answered_and_events_recovered() {
    let world = World::new();
    let node = world.start().await;
    let one = account(&node, "one");
    assert_eq!(one.ask(Add { by: 2 }).await.unwrap(), 2);
    assert_eq!(one.ask(Add { by: 3 }).await.unwrap(), 5);
    assert_eq!(one.ask(AddMany { each: vec![1, 1] }).await.unwrap(), Ok(7));
    assert_eq!(one.ask(Revision {}).await.unwrap(), 4);
    assert_eq!(account(&node, "two").ask(Get {}).await.unwrap(), 0);
    node.kill().await;

    let node = world.start().await;
    let one = account(&node, "one");
    assert_eq!(one.ask(Get {}).await.unwrap(), 7);
    assert_eq!(one.ask(Revision {}).await.unwrap(), 4);
    assert_eq!(one.ask(Add { by: 1 }).await.unwrap(), 8);
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_asked_is_refused_typed() {
    let world = World::new();
    let node = world.start().await;
    let one = account(&node, "one");
    let error = one.ask(NotTaken).await.unwrap_err();
    assert!(matches!(&error, AskError::UnknownCommand { command, .. } if command == "NotTaken"));
    assert_eq!(error.effect(), TookEffect::None);
    assert!(matches!(node.entity::<Account>(""), Err(NodeError::InvalidId(_))));
    let long = "x".repeat(256);
    assert!(matches!(node.entity::<Account>(&long), Err(NodeError::InvalidId(_))));
    finish(node).await;

    let twice = World::new().builder().register(Account::default()).register(Account::default());
    let refused = twice.start().await.err();
    assert!(matches!(refused, Some(NodeError::DuplicateKind { kind: "account" })));
    let none = World::new().builder().start().await.unwrap();
    assert!(matches!(none.entity::<Account>("one"), Err(NodeError::NotRegistered { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_told_command_is_carried_out() {
    let node = World::new().start().await;
    let one = account(&node, "one");
    one.tell(Add { by: 4 }).unwrap();
    assert_eq!(one.ask(Get {}).await.unwrap(), 4);
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn the_expected_revision_is_checked() {
    let node = World::new().start().await;
    let one = account(&node, "one");
    one.ask(Add { by: 4 }).expected_revision(seq(0)).await.unwrap();
    let error = one.ask(Add { by: 4 }).expected_revision(seq(0)).await.unwrap_err();
    assert!(matches!(error, AskError::RevisionMismatch { expected, actual }
        if (expected, actual) == (seq(0), seq(1))));
    assert_eq!(one.ask(Add { by: 4 }).expected_revision(seq(1)).await.unwrap(), 8);
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn stashed_commands_wait_and_then_go_first() {
    let world = World::new();
    let node = world.start_with(EntitySettings::default().stash(2)).await;
    let one = account(&node, "one");
    let asks: Vec<_> =
        (0..3).map(|_| tokio::spawn(one.ask(WhenPositive {}).into_future())).collect();
    one.ask(Get {}).await.unwrap();
    one.ask(Add { by: 7 }).await.unwrap();
    let mut answers = Vec::new();
    for ask in asks {
        answers.push(ask.await.unwrap());
    }
    assert!(matches!(answers[..2], [Ok(7), Ok(7)]), "{answers:?}");
    assert!(matches!(answers[2], Err(AskError::LimitReached { limit: 2, .. })), "{answers:?}");
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn side_effects_and_messages_come_after_the_commit() {
    let world = World::new();
    let node = world.start().await;
    let (one, two) = (account(&node, "one"), account(&node, "two"));
    world.journal.hold();
    let forward = one.ask(Forward { key: "two".into(), by: 5 }).into_future();
    let send = one.ask(Send { key: "two".into(), by: 6 }).into_future();
    tokio::task::yield_now().await;
    assert_eq!(two.ask(Get {}).await.unwrap(), 0, "nothing is committed yet");
    world.journal.release();
    forward.await.unwrap();
    send.await.unwrap();
    // Shutdown waits for side effects.
    let kinds = account(&node, "two");
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    assert_eq!(kinds.ask(Get {}).await.unwrap(), 11);
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn a_side_effect_of_a_refused_command_does_not_run() {
    let world = World::new();
    let node = world.start().await;
    let (one, two) = (account(&node, "one"), account(&node, "two"));
    world.journal.fail_appends(1, duractor_journal::JournalError::DiskFull { message: "x".into() });
    let error = one.ask(Forward { key: "two".into(), by: 5 }).await.unwrap_err();
    assert_eq!(error.effect(), TookEffect::None);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(two.ask(Get {}).await.unwrap(), 0);
    assert_eq!(one.ask(Get {}).await.unwrap(), 0);
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn timers_fire_are_replaced_and_cancelled() {
    let world = World::new();
    let node = world.start_with(EntitySettings::default().timers(2)).await;
    let one = account(&node, "one");
    let later = |name: &str, after_ms, by| AddLater { name: name.into(), after_ms, by };
    one.ask(later("a", 1000, 1)).await.unwrap();
    one.ask(later("b", 1000, 10)).await.unwrap();
    let third = one.ask(later("c", 1000, 100)).await;
    assert!(matches!(third, Err(AskError::LimitReached { what: "timers", .. })), "{third:?}");
    one.ask(CancelLater { name: "b".into() }).await.unwrap();
    one.ask(later("a", 3000, 2)).await.unwrap();
    let wait = |ms| tokio::time::sleep(std::time::Duration::from_millis(ms));
    wait(2000).await;
    assert_eq!(one.ask(Get {}).await.unwrap(), 0, "one is cancelled, the other replaced");
    wait(1001).await;
    assert_eq!(one.ask(Get {}).await.unwrap(), 2);
    // Their names are free again.
    one.ask(later("b", 1, 0)).await.unwrap();
    one.ask(later("c", 1, 0)).await.unwrap();
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn too_large_an_event_is_refused_and_the_entity_goes_on() {
    let limits = duractor_journal::Limits { max_batch_events: 3, ..Default::default() };
    let world = World {
        journal: duractor_journal::MemoryJournal::new(1, limits),
        snapshots: Default::default(),
    };
    let node = world.start().await;
    let one = account(&node, "one");
    let error = one.ask(AddMany { each: vec![1; 4] }).await.unwrap_err();
    assert!(matches!(error, AskError::Journal(_)), "{error}");
    assert_eq!(error.effect(), TookEffect::None);
    assert_eq!(one.ask(AddMany { each: vec![1; 3] }).await.unwrap(), Ok(3));
    finish(node).await;
}

/// The real log and the real snapshot store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let settings = EntitySettings::default().snapshot_every(10).delete_events(true);
    let start = || {
        let account = Account { settings: settings.clone() };
        duractor::Node::builder(dir.path()).register(account).start()
    };
    for round in 0..3i64 {
        let node = start().await.unwrap();
        assert!(start().await.is_err(), "one node at a time");
        let mut asks = Vec::new();
        for key in 0..20 {
            let entity = account(&node, &format!("k{key}"));
            assert_eq!(entity.ask(Get {}).await.unwrap(), round * 15);
            for n in 0..15 {
                let id = request(&format!("{round}-{n}"));
                asks.push(tokio::spawn(entity.ask(Add { by: 1 }).request_id(id).into_future()));
            }
            let again = entity.ask(Add { by: 1 }).request_id(request("0-3")).await.unwrap();
            assert_eq!(again, 4, "the first reply, whatever was deleted since");
        }
        for ask in asks {
            ask.await.unwrap().unwrap();
        }
        finish(node).await;
    }
}
