//! Tasks that run at certain times: once for each time, whatever becomes of the nodes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/group.rs"]
mod group;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use common::*;
use duractor::{Env, Node, NodeBuilder, NodeError, Occurrence, Schedule, Timestamp};
use duractor_journal::env::Clock;
use group::{Group, View};
use tokio::time::{Instant, sleep};

/// 2001-09-09 01:46:40 UTC: 20 s before a minute begins.
const START: u64 = 1_000_000_000_000;
const FIRST: u64 = START + 20_000;
const MINUTE: u64 = 60_000;

/// A wall clock that goes with tokio's.
struct Wall(Instant);

impl Clock for Wall {
    fn now(&self) -> Timestamp {
        Timestamp(START + self.0.elapsed().as_millis() as u64)
    }
}

/// What runs did.
#[derive(Default)]
struct Seen {
    running: AtomicUsize,
    /// Node, minute since the first one, token.
    begun: Mutex<Vec<(u32, u64, u64)>>,
    done: Mutex<Vec<u64>>,
    fails: AtomicBool,
}

struct Running<'a>(&'a Seen);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

impl Seen {
    async fn run(&self, node: u32, occurrence: Occurrence) -> Result<(), String> {
        assert_eq!(self.running.fetch_add(1, SeqCst), 0, "two at once");
        let _running = Running(self);
        let minute = (occurrence.at().0 - FIRST) / MINUTE;
        assert_eq!(occurrence.id(), format!("each-minute@{}", FIRST + minute * MINUTE));
        self.begun.lock().unwrap().push((node, minute, occurrence.token()));
        sleep(Duration::from_secs(10)).await;
        if self.fails.load(SeqCst) {
            return Err("planted".to_owned());
        }
        self.done.lock().unwrap().push(minute);
        Ok(())
    }

    fn begun(&self) -> Vec<(u32, u64)> {
        self.begun.lock().unwrap().iter().map(|(node, minute, _)| (*node, *minute)).collect()
    }

    fn done(&self) -> Vec<u64> {
        self.done.lock().unwrap().clone()
    }
}

struct Test {
    seen: Arc<Seen>,
    clock: Arc<Wall>,
}

impl Test {
    fn new() -> Self {
        Self { seen: Arc::default(), clock: Arc::new(Wall(Instant::now())) }
    }

    async fn start(&self, builder: NodeBuilder, node: u32, schedule: Schedule) -> Node {
        let seen = self.seen.clone();
        let run = move |occurrence| {
            let seen = seen.clone();
            async move { Ok(seen.run(node, occurrence).await?) }
        };
        let env = Env { clock: self.clock.clone(), ..Env::production() };
        builder.env(env).scheduled("each-minute", schedule, run).start().await.unwrap()
    }

    /// Waits until so many seconds since the first minute.
    async fn until(&self, seconds: u64) {
        tokio::time::sleep_until(self.clock.0 + Duration::from_secs(20 + seconds)).await;
    }
}

fn each_minute() -> Schedule {
    Schedule::cron("* * * * *")
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_loses_none_and_doubles_none() {
    let (test, group) = (Test::new(), Group::new());
    let views = [View::new(&group, 1), View::new(&group, 2)];
    let mut nodes = Vec::new();
    for (number, view) in (1..).zip(&views) {
        nodes.push(test.start(view.builder(), number, each_minute()).await);
    }
    let elect = |leader: usize| group.elect(Some(&views[leader]), &[&views[0], &views[1]]);
    elect(0);
    test.until(75).await;
    assert_eq!(test.seen.begun(), [(1, 0), (1, 1)]);
    // Between two.
    elect(1);
    test.until(125).await;
    // In the middle of one, which is run again; and then nobody owns it when one is due.
    elect(0);
    test.until(170).await;
    group.elect(None, &[&views[0], &views[1]]);
    test.until(185).await;
    elect(1);
    test.until(305).await;
    let begun = [(1, 0), (1, 1), (2, 2), (1, 2), (2, 3), (2, 4), (2, 5)];
    assert_eq!(test.seen.begun(), begun);
    test.until(315).await;
    assert_eq!(test.seen.done(), [0, 1, 2, 3, 4, 5]);
    let tokens: Vec<u64> = test.seen.begun.lock().unwrap().iter().map(|(_, _, t)| *t).collect();
    assert!(tokens.is_sorted() && tokens[2] < tokens[3], "{tokens:?}");
    for node in nodes {
        finish(node).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_while_all_were_down_is_run_once() {
    let (test, world) = (Test::new(), World::new());
    let node = test.start(world.builder(), 1, each_minute()).await;
    test.until(75).await;
    node.kill().await;
    test.until(60 * 60 + 30).await;
    let node = test.start(world.builder(), 1, each_minute()).await;
    test.until(60 * 61 + 15).await;
    assert_eq!(test.seen.done(), [0, 1, 60, 61]);
    // In the middle of one: it is run again, though others are due.
    test.until(60 * 62 + 5).await;
    node.kill().await;
    test.until(60 * 70).await;
    let node = test.start(world.builder(), 1, each_minute()).await;
    test.until(60 * 70 + 30).await;
    assert_eq!(test.seen.done(), [0, 1, 60, 61, 62, 70]);
    assert_eq!(test.seen.begun()[4..], [(1, 62), (1, 62), (1, 70)]);
    // Done is on record, even where the node dies right after.
    node.kill().await;
    let node = test.start(world.builder(), 1, each_minute()).await;
    test.until(60 * 70 + 59).await;
    assert_eq!(test.seen.done().len(), 6);
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn or_it_is_skipped() {
    let (test, world) = (Test::new(), World::new());
    let schedule = || each_minute().skip_missed(Duration::from_secs(15));
    let node = test.start(world.builder(), 1, schedule()).await;
    test.until(15).await;
    node.kill().await;
    test.until(10 * 60 + 16).await;
    let node = test.start(world.builder(), 1, schedule()).await;
    test.until(11 * 60 + 15).await;
    node.kill().await;
    test.until(12 * 60 + 14).await;
    let node = test.start(world.builder(), 1, schedule()).await;
    test.until(12 * 60 + 30).await;
    assert_eq!(test.seen.done(), [0, 11, 12]);
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_is_run_again_until_another_is_due() {
    let (test, world) = (Test::new(), World::new());
    let node = test.start(world.builder(), 1, each_minute()).await;
    test.seen.fails.store(true, SeqCst);
    test.until(65).await;
    let failed = test.seen.begun().iter().filter(|(_, minute)| *minute == 0).count();
    assert!(failed > 3, "{:?}", test.seen.begun());
    test.seen.fails.store(false, SeqCst);
    test.until(135).await;
    assert_eq!(test.seen.done().last(), Some(&2));
    assert!(test.seen.done().len() <= 3);
    finish(node).await;
}

/// Another expression counts from when it is seen first: nothing of before is made up for.
#[tokio::test(start_paused = true)]
async fn an_expression_that_changes_counts_from_then_on() {
    let (test, world) = (Test::new(), World::new());
    let node = test.start(world.builder(), 1, Schedule::cron("0 * * * *")).await;
    test.until(100).await;
    node.kill().await;
    let node = test.start(world.builder(), 1, each_minute()).await;
    test.until(115).await;
    assert_eq!(test.seen.begun(), []);
    test.until(135).await;
    assert_eq!(test.seen.done(), [2]);
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_schedule_is_refused() {
    let world = World::new();
    let idle = async |_: Occurrence| Ok(());
    let error = world.builder().scheduled("n", "0 25 * * *", idle).start().await.err().unwrap();
    assert!(matches!(&error, NodeError::InvalidSchedule { name, .. } if name == "n"), "{error}");
    let twice = world.builder().scheduled("n", "@daily", idle).scheduled("n", "@daily", idle);
    let error = twice.start().await.err().unwrap();
    assert!(matches!(error, NodeError::DuplicateSingleton { .. }), "{error}");
}
