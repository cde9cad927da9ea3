//! One of each in the whole cluster: where it runs, what moves it, what ends it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/group.rs"]
mod group;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use common::*;
use duractor::{Node, NodeError, Singleton};
use futures_util::future::BoxFuture;
use group::{Group, View};
use tokio::time::{Instant, sleep};

/// What runs of a singleton did.
#[derive(Default)]
struct Seen {
    running: AtomicUsize,
    /// The most that ran at once.
    most: AtomicUsize,
    /// On which node, and under which token.
    runs: Mutex<Vec<(u32, u64)>>,
}

impl Seen {
    fn runs(&self) -> Vec<(u32, u64)> {
        self.runs.lock().unwrap().clone()
    }
}

/// A run, from its start to whatever ends it.
struct Running(Arc<Seen>);

impl Running {
    fn begin(seen: &Arc<Seen>, node: u32, singleton: &Singleton) -> Self {
        let running = seen.running.fetch_add(1, SeqCst) + 1;
        seen.most.fetch_max(running, SeqCst);
        seen.runs.lock().unwrap().push((node, singleton.token()));
        Self(seen.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

async fn start(view: &Arc<View>, node: u32, seen: &Arc<Seen>) -> Node {
    let seen = seen.clone();
    let run = move |singleton: Singleton| {
        let seen = seen.clone();
        async move {
            let _running = Running::begin(&seen, node, &singleton);
            assert!(singleton.is_current());
            singleton.ending().await;
            // What there is to finish takes a while.
            sleep(Duration::from_secs(1)).await;
            Ok(())
        }
    };
    let builder = view.builder().register(Account::default());
    builder.singleton("worker", run).start().await.unwrap()
}

struct Pair {
    group: Arc<Group>,
    views: [Arc<View>; 2],
    nodes: [Node; 2],
    seen: Arc<Seen>,
}

impl Pair {
    async fn start() -> Self {
        let (group, seen) = (Group::new(), Arc::new(Seen::default()));
        let views = [View::new(&group, 1), View::new(&group, 2)];
        let nodes = [start(&views[0], 1, &seen).await, start(&views[1], 2, &seen).await];
        Self { group, views, nodes, seen }
    }

    async fn elect(&self, leader: usize) {
        self.group.elect(Some(&self.views[leader]), &[&self.views[0], &self.views[1]]);
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_runs_wherever_its_shard_is_owned() {
    let pair = Pair::start().await;
    sleep(Duration::from_secs(1)).await;
    assert!(pair.seen.runs().is_empty(), "nobody owns the shard yet");
    for leader in [0, 1, 0, 1] {
        pair.elect(leader).await;
        assert_eq!(pair.seen.running.load(SeqCst), 1);
        assert_eq!(pair.seen.runs().last().unwrap().0, leader as u32 + 1);
    }
    assert_eq!(pair.seen.most.load(SeqCst), 1, "never two at once");
    let tokens: Vec<u64> = pair.seen.runs().iter().map(|(_, token)| *token).collect();
    assert!(tokens.windows(2).all(|two| two[0] < two[1]), "tokens grow: {tokens:?}");
    for node in pair.nodes {
        finish(node).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_it_to_finish() {
    let pair = Pair::start().await;
    pair.elect(0).await;
    let began = Instant::now();
    pair.nodes[0].shutdown().await;
    assert_eq!(pair.seen.running.load(SeqCst), 0);
    assert!(began.elapsed() >= Duration::from_secs(1));
    pair.elect(1).await;
    assert_eq!(pair.seen.runs().last().unwrap().0, 2);
    assert_eq!(pair.seen.most.load(SeqCst), 1);
    finish(pair.nodes[1].clone()).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_killed_drops_it() {
    let pair = Pair::start().await;
    pair.elect(0).await;
    pair.nodes[0].kill().await;
    sleep(Duration::from_millis(20)).await;
    assert_eq!(pair.seen.running.load(SeqCst), 0);
    pair.elect(1).await;
    assert_eq!((pair.seen.running.load(SeqCst), pair.seen.most.load(SeqCst)), (1, 1));
    finish(pair.nodes[1].clone()).await;
}

/// One that fails, panics or returns is started again, ever more slowly; and with the same token, as
/// nobody else ran it in between.
#[tokio::test(start_paused = true)]
async fn one_that_ends_is_started_again() {
    let (group, seen) = (Group::new(), Arc::new(Seen::default()));
    let view = View::new(&group, 1);
    let (tries, runs) = (Arc::new(AtomicUsize::new(0)), seen.clone());
    let run = move |singleton: Singleton| {
        let (tries, runs) = (tries.clone(), runs.clone());
        async move {
            let _running = Running::begin(&runs, 1, &singleton);
            match tries.fetch_add(1, SeqCst) {
                0 => Err("no".into()),
                1 => panic!("planted"),
                2 => Ok(()),
                _ => {
                    singleton.entity::<Account>("a")?.ask(Add { by: 1 }).await?;
                    singleton.ending().await;
                    Ok(())
                }
            }
        }
    };
    let builder = view.builder().register(Account::default());
    let node = builder.singleton("worker", run).start().await.unwrap();
    group.elect(Some(&view), &[&view]);
    sleep(Duration::from_millis(50)).await;
    assert_eq!(seen.runs().len(), 1);
    for (after, runs) in [(100, 2), (200, 3), (400, 4), (5_000, 4)] {
        sleep(Duration::from_millis(after)).await;
        assert_eq!(seen.runs().len(), runs);
    }
    assert!(seen.runs().windows(2).all(|two| two[0] == two[1]), "{:?}", seen.runs());
    assert_eq!(account(&node, "a").ask(Get {}).await.unwrap(), 1);
    finish(node).await;
}

#[tokio::test(start_paused = true)]
async fn names_are_checked() {
    let world = World::new();
    let idle = |_: Singleton| std::future::ready(Ok(()));
    let twice = world.builder().singleton("a", idle).singleton("a", idle).start().await;
    assert!(matches!(twice, Err(NodeError::DuplicateSingleton { name }) if name == "a"));
    let nameless = world.builder().singleton("", idle).start().await;
    assert!(matches!(nameless, Err(NodeError::InvalidId(_))));
}

#[tokio::test(start_paused = true)]
async fn on_one_node_it_runs() {
    let (world, seen) = (World::new(), Arc::new(Seen::default()));
    let runs = seen.clone();
    let run = move |singleton: Singleton| {
        let running = Running::begin(&runs, 1, &singleton);
        async move {
            let _running = running;
            singleton.ending().await;
            Ok(())
        }
    };
    let node = world.builder().singleton("worker", run).start().await.unwrap();
    sleep(Duration::from_millis(5)).await;
    assert_eq!(seen.running.load(SeqCst), 1);
    assert!(seen.runs()[0].1 >= 1);
    finish(node).await;
    assert_eq!(seen.running.load(SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn workers_run_in_different_shards_and_one_in_each() {
    type Running = Arc<Mutex<Vec<(String, usize, u16)>>>;
    type Ran = Result<(), Box<dyn std::error::Error + std::marker::Send + Sync>>;
    fn work(running: &Running) -> impl Fn(Singleton) -> BoxFuture<'static, Ran> + use<> {
        let running = running.clone();
        move |worker: Singleton| {
            let running = running.clone();
            Box::pin(async move {
                let entry = (worker.name().to_owned(), worker.index(), worker.shard().0);
                assert!(worker.is_current() && worker.token() > 0);
                running.lock().unwrap().push(entry);
                worker.ending().await;
                Ok(())
            })
        }
    }
    let (mail, each) = (Running::default(), Running::default());
    let view = View::new(&Group::new(), 1);
    view.group.elect(Some(&view), &[&view]);
    let builder = view.builder().workers("mail", 6, work(&mail)).shard_workers("each", work(&each));
    let node = builder.start().await.unwrap();
    sleep(Duration::from_millis(50)).await;
    let mut mail = mail.lock().unwrap().clone();
    mail.sort();
    let names: Vec<_> = mail.iter().map(|(name, index, _)| format!("{name}/{index}")).collect();
    assert_eq!(names, ["mail-0/0", "mail-1/1", "mail-2/2", "mail-3/3", "mail-4/4", "mail-5/5"]);
    for shard in 0..group::SHARDS {
        let here = mail.iter().filter(|(_, _, at)| *at == shard).count();
        assert!((1..=2).contains(&here), "6 workers on 4 shards: {mail:?}");
    }
    let mut each = each.lock().unwrap().clone();
    each.sort();
    let of = |shard: u16| (format!("each@{shard}"), usize::from(shard), shard);
    assert_eq!(each, (0..group::SHARDS).map(of).collect::<Vec<_>>());
    node.shutdown().await;
}
