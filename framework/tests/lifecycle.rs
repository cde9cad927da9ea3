//! Leaving memory, restarting, quarantine and shutdown: no command is lost on the way.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{future::IntoFuture, time::Duration};

use common::*;
use duractor::{AskError, EntityId, EntitySettings, Journal, Seq, TookEffect};
use duractor_journal::{AppendBatch, JournalError, NewEvent, Timestamp};

async fn wait(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

async fn settle() {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn idle_entities_leave_memory_and_come_back() {
    let world = World::new();
    let settings = EntitySettings::default().idle_timeout(Duration::from_secs(10));
    let node = world.start_with(settings).await;
    let (one, two) = (account(&node, "one"), account(&node, "two"));
    one.ask(Add { by: 1 }).await.unwrap();
    two.ask(Add { by: 2 }).await.unwrap();
    assert_eq!(node.active::<Account>().unwrap(), 2);
    wait(7_000).await;
    two.ask(Get {}).await.unwrap();
    wait(5_000).await;
    assert_eq!(node.active::<Account>().unwrap(), 1, "two was used in between");
    wait(20_000).await;
    assert_eq!(node.active::<Account>().unwrap(), 0);
    assert_eq!(one.ask(Get {}).await.unwrap(), 1);
    assert_eq!(two.ask(Add { by: 1 }).await.unwrap(), 3);
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn entities_with_timers_or_stashed_commands_are_not_idle() {
    let world = World::new();
    let settings = EntitySettings::default()
        .idle_timeout(Duration::from_secs(1))
        .ask_timeout(Duration::from_secs(3600));
    let node = world.start_with(settings).await;
    let (one, two) = (account(&node, "one"), account(&node, "two"));
    one.ask(AddLater { name: "a".into(), after_ms: 60_000, by: 5 }).await.unwrap();
    let stashed = tokio::spawn(two.ask(WhenPositive {}).into_future());
    wait(50_000).await;
    assert_eq!(node.active::<Account>().unwrap(), 2);
    two.ask(Add { by: 1 }).await.unwrap();
    assert_eq!(stashed.await.unwrap().unwrap(), 1);
    wait(15_000).await;
    assert_eq!(node.active::<Account>().unwrap(), 0);
    assert_eq!(one.ask(Get {}).await.unwrap(), 5, "the timer fired before it left");
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn entities_with_work_under_way_are_not_idle() {
    let world = World::new();
    let settings = EntitySettings::default()
        .idle_timeout(Duration::from_secs(1))
        .ask_timeout(Duration::from_secs(3600));
    let node = world.start_with(settings).await;
    let (one, two) = (account(&node, "one"), account(&node, "two"));
    world.journal.hold();
    let forward = tokio::spawn(one.ask(Forward { key: "two".into(), by: 5 }).into_future());
    wait(10_000).await;
    assert_eq!(node.active::<Account>().unwrap(), 1, "its commit is under way");
    assert!(!forward.is_finished());
    // The first commit comes through; what its side effect asks for does not.
    world.journal.release();
    world.journal.hold();
    forward.await.unwrap().unwrap();
    wait(10_000).await;
    assert_eq!(world.journal.held(), 1);
    assert_eq!(node.active::<Account>().unwrap(), 2, "its side effect is under way");
    world.journal.release();
    wait(10_000).await;
    assert_eq!(node.active::<Account>().unwrap(), 0);
    assert_eq!((one.ask(Get {}).await.unwrap(), two.ask(Get {}).await.unwrap()), (-5, 5));
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn the_active_limit_throws_out_the_longest_idle() {
    let world = World::new();
    let node = world.start_with(EntitySettings::default().active_limit(3)).await;
    for key in ["a", "b", "c"] {
        account(&node, key).ask(Add { by: 1 }).await.unwrap();
        wait(10).await;
    }
    account(&node, "a").ask(Get {}).await.unwrap();
    wait(10).await;
    let recovered = |key: &'static str| {
        let node = node.clone();
        async move {
            // A stashed command would keep it; a revision tells nothing; so look at the count.
            let before = node.active::<Account>().unwrap();
            account(&node, key).ask(Get {}).await.unwrap();
            settle().await;
            (before, node.active::<Account>().unwrap())
        }
    };
    assert_eq!(recovered("d").await, (3, 3), "one came, one left");
    assert_eq!(recovered("a").await, (3, 3));
    for n in 0..100 {
        account(&node, &format!("k{n}")).ask(Add { by: 1 }).await.unwrap();
    }
    settle().await;
    assert_eq!(node.active::<Account>().unwrap(), 3);
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn the_least_recently_used_leaves_first() {
    let world = World::new();
    let node = world.start_with(EntitySettings::default().active_limit(2)).await;
    let (a, b, c) = (account(&node, "a"), account(&node, "b"), account(&node, "c"));
    // Timers are forgotten when an entity leaves: that shows who did. They are long over an idle
    // entity's time, so they are started by those that stay.
    a.ask(Get {}).await.unwrap();
    wait(10).await;
    b.ask(Get {}).await.unwrap();
    wait(10).await;
    a.ask(Get {}).await.unwrap();
    wait(10).await;
    world.journal.fail_reads(0, JournalError::Closed);
    c.ask(Get {}).await.unwrap();
    settle().await;
    // `a` is still in memory: it needs no read to answer. `b` does.
    world.journal.fail_reads(
        1,
        JournalError::Corrupt(duractor_journal::Corruption {
            file: "planted".into(),
            offset: 0,
            what: "planted".into(),
        }),
    );
    assert_eq!(a.ask(Get {}).await.unwrap(), 0);
    assert!(matches!(b.ask(Get {}).await, Err(AskError::Quarantined { .. })));
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn an_explicit_passivation_loses_no_command() {
    let world = World::new();
    let node = world.start().await;
    let one = account(&node, "one");
    let mut asks = Vec::new();
    for n in 0..500 {
        let leave = n % 7 == 0;
        asks.push(tokio::spawn(if leave {
            one.ask(AddAndLeave { by: 1 }).into_future()
        } else {
            one.ask(Add { by: 1 }).into_future()
        }));
        if n % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    for (n, ask) in (1..).zip(asks) {
        assert_eq!(ask.await.unwrap().unwrap(), n, "in order, through all incarnations");
    }
    assert_eq!(one.ask(Revision {}).await.unwrap(), 500);
    one.ask(Leave {}).await.unwrap();
    settle().await;
    assert_eq!(node.active::<Account>().unwrap(), 0);
    finish(node).await;
}

/// Real threads: commands arrive at every moment of leaving and coming back.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commands_that_race_with_passivation_are_not_lost() {
    let world = World::new();
    let settings = EntitySettings::default().idle_timeout(Duration::ZERO).mailbox(10_000);
    let node = world.start_with(settings).await;
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            let node = node.clone();
            tokio::spawn(async move {
                for n in 0..400 {
                    let entity = account(&node, &format!("k{}", (caller + n) % 5));
                    if n % 3 == 0 {
                        entity.ask(Leave {}).await.unwrap();
                    } else {
                        entity.ask(Add { by: 1 }).await.unwrap();
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let mut total = 0;
    for n in 0..5 {
        total += account(&node, &format!("k{n}")).ask(Get {}).await.unwrap();
    }
    assert_eq!(total, 8 * (400 - 134));
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_fails_one_command_and_the_rest_goes_on() {
    let world = World::new();
    let node = world.start().await;
    let one = account(&node, "one");
    one.ask(Add { by: 1 }).await.unwrap();
    let mut asks = Vec::new();
    for n in 0..40 {
        if n % 10 == 5 {
            asks.push(tokio::spawn(async { Ok(0) }));
            let error = one.ask(Panic {}).into_future();
            let error = tokio::spawn(error).await.unwrap().unwrap_err();
            assert!(matches!(&error, AskError::Crashed { reason, .. } if reason == "as told"));
            assert_eq!(error.effect(), TookEffect::None);
        } else {
            asks.push(tokio::spawn(one.ask(Add { by: 1 }).into_future()));
        }
    }
    let mut added = 0;
    for ask in asks {
        added += i64::from(ask.await.unwrap().unwrap() > 0);
    }
    assert_eq!(added, 36);
    assert_eq!(one.ask(Get {}).await.unwrap(), 37);
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_apply_writes_nothing() {
    let world = World::new();
    let node = world.start().await;
    let one = account(&node, "one");
    world.journal.hold();
    let before = tokio::spawn(one.ask(Add { by: 1 }).into_future());
    let crash = tokio::spawn(one.ask(PanicInApply {}).into_future());
    let after = tokio::spawn(one.ask(Add { by: 1 }).into_future());
    settle().await;
    assert!(!before.is_finished(), "it is not committed");
    assert!(matches!(crash.await.unwrap(), Err(AskError::Crashed { .. })));
    world.journal.release();
    assert_eq!(before.await.unwrap().unwrap(), 1, "what was under way is finished first");
    assert_eq!(after.await.unwrap().unwrap(), 2, "and what waited goes to the next incarnation");
    assert_eq!(one.ask(Revision {}).await.unwrap(), 2);
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn restarts_back_off() {
    let world = World::new();
    let settings = EntitySettings::default()
        .restart_backoff(Duration::from_secs(1), Duration::from_secs(8))
        .ask_timeout(Duration::from_secs(1000));
    let node = world.start_with(settings).await;
    let one = account(&node, "one");
    let failure = JournalError::Read { path: "x".into(), message: "planted".into() };
    world.journal.fail_reads(6, failure);
    let begun = tokio::time::Instant::now();
    assert_eq!(one.ask(Get {}).await.unwrap(), 0, "it waits in the mailbox meanwhile");
    let took = begun.elapsed().as_millis();
    // Six delays of 1, 2, 4, 8, 8 and 8 seconds, each half to one and a half of that, at most 8.
    assert!((15_500..=34_600).contains(&took), "{took}");
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn commands_through_a_loop_of_crashes_are_not_lost() {
    let world = World::new();
    let settings = EntitySettings::default()
        .restart_backoff(Duration::from_millis(10), Duration::from_millis(50))
        .ask_timeout(Duration::from_secs(1000));
    let node = world.start_with(settings).await;
    let one = account(&node, "one");
    let mut asks = Vec::new();
    for n in 0..300u64 {
        if n % 20 == 19 {
            world.journal.fail_appends(1, JournalError::DiskFull { message: "planted".into() });
        }
        if n % 31 == 30 {
            one.tell(Panic {}).unwrap();
        }
        asks.push(tokio::spawn(one.ask(Add { by: 1 }).into_future()));
        if n % 3 == 0 {
            wait(1).await;
        }
    }
    let (mut done, mut refused) = (0, 0);
    for ask in asks {
        match ask.await.unwrap() {
            Ok(_) => done += 1,
            Err(error) => {
                assert_eq!(error.effect(), TookEffect::None, "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "the faults were met");
    assert_eq!(one.ask(Get {}).await.unwrap(), done, "answered with success and carried out");
    assert_eq!(done + refused, 300);
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_mailbox_is_busy_and_late_commands_expire() {
    let world = World::new();
    let settings = EntitySettings::default().mailbox(10).max_in_flight(1);
    let node = world.start_with(settings).await;
    let one = account(&node, "one");
    one.ask(Get {}).await.unwrap();
    world.journal.hold();
    let asks: Vec<_> = (0..10)
        .map(|_| one.ask(Add { by: 1 }).timeout(Duration::from_millis(100)).into_future())
        .map(tokio::spawn)
        .collect();
    settle().await;
    let busy = one.ask(Add { by: 1 }).await.unwrap_err();
    assert!(matches!(busy, AskError::Busy { waiting: 10, .. }), "{busy}");
    assert_eq!(busy.effect(), TookEffect::None);
    wait(200).await;
    world.journal.release();
    settle().await;
    for ask in asks {
        let error = ask.await.unwrap().unwrap_err();
        assert!(matches!(error, AskError::Timeout { .. }), "{error}");
        assert_eq!(error.effect(), TookEffect::Unknown);
    }
    assert_eq!(one.ask(Get {}).await.unwrap(), 1, "the one that was under way, and no other");
    finish(node).await;
}

/// Writes a record that this release does not know.
async fn plant(world: &World, key: &str, name: &str) -> EntityId {
    let entity = EntityId::new("account", key).unwrap();
    let epoch = world.journal.claim(entity.shard(world.journal.shards())).await.unwrap();
    let expected_seq = world.journal.head(&entity).await.unwrap().last_seq;
    let events = vec![NewEvent::new(name, 1, vec![2u8])];
    let batch = AppendBatch {
        entity: entity.clone(),
        epoch,
        expected_seq,
        timestamp: Timestamp(0),
        request: None,
        events,
    };
    world.journal.append(batch).await.unwrap();
    entity
}

#[tokio::test(start_paused = true)]
async fn an_unknown_event_quarantines_its_entity_alone() {
    let world = World::new();
    plant(&world, "bad", "from-the-future").await;
    plant(&world, "poisoned", "Poison").await;
    let node = world.start().await;
    let bad = account(&node, "bad");
    let asks: Vec<_> = (0..3).map(|_| tokio::spawn(bad.ask(Get {}).into_future())).collect();
    for ask in asks {
        let error = ask.await.unwrap().unwrap_err();
        let AskError::Quarantined { reason, .. } = &error else { panic!("{error}") };
        assert!(reason.contains("from-the-future"), "{reason}");
        assert_eq!(error.effect(), TookEffect::None);
    }
    assert!(matches!(bad.ask(Get {}).await, Err(AskError::Quarantined { .. })), "it stays so");
    assert_eq!(account(&node, "good").ask(Add { by: 1 }).await.unwrap(), 1);
    assert_eq!(node.active::<Account>().unwrap(), 1, "no actor is kept for it");
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_replay_and_missing_events_quarantine_too() {
    let world = World::new();
    // A payload that decodes as the variant without fields, and so does `apply` get it.
    let entity = EntityId::new("account", "poisoned").unwrap();
    let epoch = world.journal.claim(entity.shard(4)).await.unwrap();
    let batch = AppendBatch {
        entity: entity.clone(),
        epoch,
        expected_seq: Seq::ZERO,
        timestamp: Timestamp(0),
        request: None,
        events: vec![NewEvent::new("Poison", 1, vec![])],
    };
    world.journal.append(batch).await.unwrap();
    let node = world.start().await;
    account(&node, "holed").ask(AddMany { each: vec![1; 5] }).await.unwrap().unwrap();
    account(&node, "emptied").ask(AddMany { each: vec![1; 5] }).await.unwrap().unwrap();
    node.kill().await;
    for (key, to) in [("holed", 2), ("emptied", 5)] {
        let entity = EntityId::new("account", key).unwrap();
        let epoch = world.journal.claim(entity.shard(4)).await.unwrap();
        world.journal.delete_to(&entity, seq(to), epoch).await.unwrap();
    }
    let node = world.start().await;
    for (key, what) in [("poisoned", "poison"), ("holed", "missing"), ("emptied", "deleted")] {
        let error = account(&node, key).ask(Get {}).await.unwrap_err();
        let AskError::Quarantined { reason, .. } = &error else { panic!("{key}: {error}") };
        assert!(reason.contains(what), "{key}: {reason}");
    }
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn a_quarantine_ends_when_it_is_released() {
    let world = World::new();
    let node = world.start().await;
    let one = account(&node, "one");
    let corrupt =
        duractor_journal::Corruption { file: "planted".into(), offset: 0, what: "planted".into() };
    world.journal.fail_reads(1, JournalError::Corrupt(corrupt));
    assert!(matches!(one.ask(Get {}).await, Err(AskError::Quarantined { .. })));
    assert!(matches!(one.ask(Get {}).await, Err(AskError::Quarantined { .. })));
    assert!(node.release::<Account>("one").unwrap());
    assert!(!node.release::<Account>("one").unwrap());
    assert_eq!(one.ask(Get {}).await.unwrap(), 0);
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_finishes_what_was_accepted() {
    let world = World::new();
    let node = world.start().await;
    let one = account(&node, "one");
    world.journal.hold();
    let asks: Vec<_> =
        (0..20).map(|_| tokio::spawn(one.ask(Add { by: 1 }).into_future())).collect();
    let stashed = tokio::spawn(account(&node, "two").ask(WhenPositive {}).into_future());
    settle().await;
    let shutdown = tokio::spawn({
        let node = node.clone();
        async move { node.shutdown().await }
    });
    settle().await;
    assert!(!shutdown.is_finished(), "it waits for the commits");
    let late = one.ask(Add { by: 1 }).await.unwrap_err();
    assert!(matches!(late, AskError::ShuttingDown), "{late}");
    world.journal.release();
    for ask in asks {
        ask.await.unwrap().unwrap();
    }
    let stashed = stashed.await.unwrap();
    assert!(matches!(stashed, Err(AskError::ShuttingDown)), "{stashed:?}");
    shutdown.await.unwrap();
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_that_takes_too_long_refuses_the_rest() {
    let world = World::new();
    let node = world
        .builder()
        .register(Account { settings: EntitySettings::default().max_in_flight(1) })
        .shutdown_timeout(Duration::from_secs(1))
        .start()
        .await
        .unwrap();
    let one = account(&node, "one");
    one.ask(Get {}).await.unwrap();
    world.journal.hold();
    let ask = || tokio::spawn(one.ask(Add { by: 1 }).into_future());
    let (under_way, waiting) = (ask(), ask());
    settle().await;
    node.shutdown().await;
    let error = under_way.await.unwrap().unwrap_err();
    assert_eq!(error.effect(), TookEffect::Unknown, "{error}");
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.effect(), TookEffect::None, "{error}");
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_side_effects() {
    let world = World::new();
    let node = world.start().await;
    let one = account(&node, "one");
    // The side effect asks an entity that cannot answer until the journal goes on, and then finds
    // the node closing: it ends all the same, and is waited for.
    one.ask(Forward { key: "two".into(), by: 1 }).await.unwrap();
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn recoveries_at_once_are_limited() {
    let world = World::new();
    let node = world.builder().register(Account::default()).recoveries(1).start().await.unwrap();
    let asks: Vec<_> = (0..100)
        .map(|n| tokio::spawn(account(&node, &format!("k{n}")).ask(Add { by: n }).into_future()))
        .collect();
    for (n, ask) in (0..).zip(asks) {
        assert_eq!(ask.await.unwrap().unwrap(), n);
    }
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn open_commands_are_bounded_over_the_node() {
    let world = World::new();
    let node = world.builder().register(Account::default()).max_open(3).start().await.unwrap();
    world.journal.hold();
    let asks: Vec<_> = (0..3)
        .map(|n| tokio::spawn(account(&node, &format!("k{n}")).ask(Add { by: 1 }).into_future()))
        .collect();
    settle().await;
    let error = account(&node, "other").ask(Get {}).await.unwrap_err();
    assert!(matches!(error, AskError::NodeBusy { open: 3 }), "{error}");
    world.journal.release();
    for ask in asks {
        ask.await.unwrap().unwrap();
    }
    assert_eq!(account(&node, "other").ask(Get {}).await.unwrap(), 0);
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn stashed_commands_outlive_a_crash() {
    let node = World::new().start().await;
    let one = account(&node, "one");
    let stashed = tokio::spawn(one.ask(WhenPositive {}).into_future());
    settle().await;
    assert!(matches!(one.ask(Panic {}).await, Err(AskError::Crashed { .. })));
    one.ask(Add { by: 3 }).await.unwrap();
    assert_eq!(stashed.await.unwrap().unwrap(), 3);
    finish(node).await;
}

/// Cause: the task that waits for the journal to fail did not end with its node. Consequence: it
/// kept the stores of every node that was ever started. Fix: it ends with the node's actor.
#[tokio::test(start_paused = true)]
async fn a_node_that_is_shut_down_holds_on_to_nothing() {
    let world = World::new();
    let before = std::sync::Arc::strong_count(&world.journal);
    let node = world.start().await;
    account(&node, "one").ask(Add { by: 1 }).await.unwrap();
    assert!(std::sync::Arc::strong_count(&world.journal) > before);
    finish(node).await;
    settle().await;
    assert_eq!(std::sync::Arc::strong_count(&world.journal), before);
}

#[tokio::test(start_paused = true)]
async fn the_ledger_and_what_is_in_memory_are_metrics() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};
    let recorder = DebuggingRecorder::new();
    let told = recorder.snapshotter();
    let _installed = metrics::set_default_local_recorder(&recorder);
    // All that was told since the last look, as numbers.
    let look = || {
        let all = told.snapshot().into_vec().into_iter().map(|(key, _, _, value)| {
            let labels = key.key().labels().map(metrics::Label::value);
            let name = std::iter::once(key.key().name()).chain(labels).collect::<Vec<_>>();
            let number = match value {
                DebugValue::Counter(n) => n,
                DebugValue::Gauge(n) => n.into_inner() as u64,
                DebugValue::Histogram(_) => panic!("there is none"),
            };
            (name.join(" ").replace("duractor_", ""), number)
        });
        all.collect::<std::collections::BTreeMap<_, _>>()
    };
    let world = World::new();
    let node = world.start().await;
    account(&node, "one").ask(Add { by: 1 }).await.unwrap();
    let waiting = tokio::spawn(account(&node, "two").ask(WhenPositive {}).into_future());
    wait(2_000).await;
    let seen = look();
    assert_eq!((seen["commands_accepted_total"], seen["commands_replied_total"]), (2, 1));
    assert_eq!((seen["commands_open"], seen["entities_active account"]), (1, 2));
    waiting.abort();
    finish(node).await;
    let seen = look();
    let ended = ["replied", "rejected", "dead_lettered"].map(|end| format!("commands_{end}_total"));
    assert_eq!(ended.iter().map(|end| seen[end]).sum::<u64>(), seen["commands_accepted_total"]);
    assert_eq!((seen["commands_open"], seen["entities_active account"]), (0, 0));
}
