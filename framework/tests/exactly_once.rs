//! Commands with a request id take effect once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{future::IntoFuture, time::Duration};

use common::*;
use duractor::{AskError, EntitySettings, TookEffect};
use duractor_journal::JournalError;

#[tokio::test(start_paused = true)]
async fn a_repeat_gets_the_first_reply_also_after_a_restart() {
    let world = World::new();
    let node = world.start().await;
    let one = account(&node, "one");
    let add =
        |one: &duractor::EntityRef<Account>, by, id| one.ask(Add { by }).request_id(request(id));
    assert_eq!(add(&one, 2, "a").await.unwrap(), 2);
    assert_eq!(add(&one, 3, "b").await.unwrap(), 5);
    assert_eq!(add(&one, 2, "a").await.unwrap(), 2, "the first reply, not a new one");
    assert_eq!(one.ask(Revision {}).await.unwrap(), 2);
    node.kill().await;

    let node = world.start().await;
    let one = account(&node, "one");
    assert_eq!(add(&one, 2, "a").await.unwrap(), 2);
    assert_eq!(add(&one, 99, "b").await.unwrap(), 5, "whatever the repeat says");
    assert_eq!(one.ask(Get {}).await.unwrap(), 5);
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn a_repeat_while_the_first_is_under_way_waits_for_its_commit() {
    let world = World::new();
    let node = world.start().await;
    let one = account(&node, "one");
    one.ask(Get {}).await.unwrap();
    world.journal.hold();
    let asks: Vec<_> = (0..3)
        .map(|_| tokio::spawn(one.ask(Add { by: 1 }).request_id(request("a")).into_future()))
        .collect();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.journal.held(), 1);
    assert!(asks.iter().all(|ask| !ask.is_finished()));
    world.journal.release();
    for ask in asks {
        assert_eq!(ask.await.unwrap().unwrap(), 1);
    }
    assert_eq!(one.ask(Get {}).await.unwrap(), 1);
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn a_repeat_of_a_refused_command_is_carried_out() {
    let world = World::new();
    let node = world.start().await;
    let one = account(&node, "one");
    world.journal.fail_appends(1, JournalError::DiskFull { message: "planted".into() });
    let add = || one.ask(Add { by: 1 }).request_id(request("a"));
    assert_eq!(add().await.unwrap_err().effect(), TookEffect::None);
    assert_eq!(add().await.unwrap(), 1);
    assert_eq!(add().await.unwrap(), 1);
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn an_id_is_not_for_two_commands() {
    let node = World::new().start().await;
    let one = account(&node, "one");
    one.ask(Add { by: 1 }).request_id(request("a")).await.unwrap();
    let error = one.ask(AddMany { each: vec![1] }).request_id(request("a")).await.unwrap_err();
    assert!(matches!(error, AskError::RequestIdReused(_)), "{error}");
    assert_eq!(error.effect(), TookEffect::None);
    assert_eq!(one.ask(Get {}).await.unwrap(), 1);
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn what_wrote_nothing_is_not_remembered() {
    let node = World::new().start().await;
    let one = account(&node, "one");
    let none = || one.ask(AddMany { each: vec![] }).request_id(request("a"));
    assert!(none().await.unwrap().is_err());
    let some = one.ask(AddMany { each: vec![1] }).request_id(request("a"));
    assert_eq!(some.await.unwrap(), Ok(1), "the first had no effect, so this is the first");
    assert_eq!(none().await.unwrap(), Ok(1));
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn the_window_is_kept_in_snapshots_where_the_events_are_deleted() {
    let world = World::new();
    let settings = EntitySettings::default()
        .snapshot_every(5)
        .keep_snapshots(1)
        .delete_events(true)
        .dedup_count(4);
    let node = world.start_with(settings.clone()).await;
    let one = account(&node, "one");
    for n in 1..=5 {
        one.ask(Add { by: 1 }).request_id(request(&format!("r{n}"))).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    node.kill().await;
    let head = {
        use duractor::Journal;
        world.journal.head(one.id()).await.unwrap()
    };
    assert_eq!(head.deleted_to, seq(5), "the events are gone");

    let node = world.start_with(settings).await;
    let one = account(&node, "one");
    for n in 2..=5 {
        let again = one.ask(Add { by: 1 }).request_id(request(&format!("r{n}")));
        assert_eq!(again.await.unwrap(), n);
    }
    let dropped = one.ask(Add { by: 1 }).request_id(request("r1"));
    assert_eq!(dropped.await.unwrap(), 6, "the window has four places");
    finish(node).await;
}
