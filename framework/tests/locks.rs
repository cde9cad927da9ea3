//! Locks and semaphores: who gets them, how long they are held, what a move of their shard does.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/group.rs"]
mod group;

use std::{sync::Arc, time::Duration};

use duractor::{CoordinationError, Guard, Node, NodeError, Session, SessionOptions};
use duractor_journal::{Member, ShardId};
use group::{Group, View, Wires};
use tokio::time::{Instant, sleep};

const TTL: Duration = Duration::from_secs(3);
const NOW: Duration = Duration::ZERO;

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn session(node: &Node, label: &str) -> Session {
    node.open_session(SessionOptions::default().ttl(TTL).label(label))
}

async fn take(session: &Session, wait: Duration) -> Result<Guard, CoordinationError> {
    session.lock("a").unwrap().try_acquire(wait).await
}

async fn alone() -> Node {
    let group = Group::new();
    let view = View::new(&group, 1);
    group.elect(Some(&view), &[&view]);
    view.builder().start().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn one_holds_and_the_next_gets_a_higher_token() {
    let node = alone().await;
    let (one, two) = (session(&node, "one"), session(&node, "two"));
    let first = take(&one, secs(1)).await.unwrap();
    assert!(first.is_held());
    assert!(matches!(take(&two, NOW).await, Err(CoordinationError::Timeout { .. })));
    let lock = two.lock("a").unwrap();
    let holder = lock.holder().await.unwrap().unwrap();
    assert_eq!((holder.session, &*holder.label, holder.token), (one.id(), "one", first.token()));
    // For as long as its session lives.
    sleep(TTL * 5).await;
    assert!(first.is_held());
    let token = first.token();
    first.release().await.unwrap();
    assert_eq!(lock.holder().await.unwrap(), None);
    let second = take(&two, NOW).await.unwrap();
    assert!(second.token() > token);
    node.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_gets_it_in_turn_and_who_gave_up_does_not() {
    let node = alone().await;
    let sessions: Vec<_> = (0..4).map(|n| session(&node, &n.to_string())).collect();
    let held = take(&sessions[0], NOW).await.unwrap();
    let mut waiting = Vec::new();
    for session in &sessions[1..] {
        let session = session.clone();
        waiting.push(tokio::spawn(async move { take(&session, secs(60)).await }));
        sleep(Duration::from_millis(50)).await;
    }
    let lock = sessions[0].lock("a").unwrap();
    assert_eq!(lock.waiting().await.unwrap(), 3);
    // The first of them gives up.
    waiting.remove(0).abort();
    sleep(Duration::from_millis(50)).await;
    assert_eq!(lock.waiting().await.unwrap(), 2);
    drop(held);
    let second = waiting.remove(0).await.unwrap().unwrap();
    assert_eq!(lock.holder().await.unwrap().unwrap().label, "2");
    drop(second);
    let third = waiting.remove(0).await.unwrap().unwrap();
    assert_eq!(lock.holder().await.unwrap().unwrap().label, "3");
    third.release().await.unwrap();
    assert_eq!(lock.holder().await.unwrap(), None);
    node.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_holds_nothing() {
    let node = alone().await;
    let (one, two) = (session(&node, "one"), session(&node, "two"));
    let held = take(&one, NOW).await.unwrap();
    let waiting = tokio::spawn({
        let two = two.clone();
        async move { take(&two, secs(60)).await }
    });
    sleep(Duration::from_millis(100)).await;
    one.end().await;
    assert!(!held.is_held());
    held.lost().await;
    let second = waiting.await.unwrap().unwrap();
    assert!(second.token() > held.token());
    assert!(matches!(take(&one, NOW).await, Err(CoordinationError::SessionEnded)));
    assert!(matches!(held.release().await, Err(CoordinationError::Lost { .. })));
    assert!(second.is_held(), "an old guard takes nothing away");
    node.shutdown().await;
}

/// Two nodes on one journal, with wires between them. The first one leads.
struct Pair {
    group: Arc<Group>,
    wires: Arc<Wires>,
    views: Vec<Arc<View>>,
    nodes: Vec<Node>,
}

impl Pair {
    async fn start() -> Self {
        let (group, wires) = (Group::new(), Wires::new());
        let views: Vec<_> = (1..=2).map(|n| View::new(&group, n)).collect();
        let mut nodes = Vec::new();
        for view in &views {
            let voters = |_: ShardId| (1..=2).map(|n| Member::new(n, 1)).collect();
            nodes.push(view.builder().replicas(wires.end(view.me), voters).start().await.unwrap());
        }
        let pair = Self { group, wires, views, nodes };
        pair.elect(0).await;
        pair
    }

    async fn elect(&self, leader: usize) {
        self.group.elect(Some(&self.views[leader]), &self.views.iter().collect::<Vec<_>>());
        sleep(Duration::from_millis(20)).await;
    }

    async fn finish(self) {
        for node in self.nodes {
            node.shutdown().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_kept_when_its_shard_moves() {
    let pair = Pair::start().await;
    let (one, two) = (session(&pair.nodes[0], "one"), session(&pair.nodes[1], "two"));
    let held = take(&two, NOW).await.unwrap();
    let waiting = tokio::spawn(async move { take(&one, secs(120)).await });
    for leader in [1, 0, 1, 0] {
        pair.elect(leader).await;
        sleep(TTL).await;
        assert!(held.is_held() && !waiting.is_finished(), "after {leader} was elected");
    }
    let token = held.token();
    held.release().await.unwrap();
    assert!(waiting.await.unwrap().unwrap().token() > token);
    pair.finish().await;
}

/// A holder that is cut off hears nothing. It stops believing before anybody else gets the lock, and an
/// answer that comes after that does not make it believe again.
#[tokio::test(start_paused = true)]
async fn who_is_cut_off_loses_the_lock_before_another_gets_it() {
    let pair = Pair::start().await;
    let (one, two) = (session(&pair.nodes[0], "one"), session(&pair.nodes[1], "two"));
    let held = Arc::new(take(&two, NOW).await.unwrap());
    pair.wires.cut(pair.views[0].me, pair.views[1].me);
    let lost = tokio::spawn({
        let held = held.clone();
        async move {
            held.lost().await;
            Instant::now()
        }
    });
    let second = take(&one, TTL * 3).await.unwrap();
    let got = Instant::now();
    assert!(!held.is_held());
    assert!(lost.await.unwrap() < got);
    assert!(second.token() > held.token());
    pair.wires.heal();
    sleep(TTL).await;
    assert!(second.is_held() && !held.is_held());
    assert!(matches!(take(&two, NOW).await, Err(CoordinationError::Timeout { .. })));
    pair.finish().await;
}

/// An owner that does not know that it was deposed takes in renewals. It must not acknowledge them: the
/// new owner counts from when it began.
#[tokio::test(start_paused = true)]
async fn a_deposed_owner_acknowledges_no_renewal() {
    let pair = Pair::start().await;
    let one = session(&pair.nodes[0], "one");
    let held = take(&one, NOW).await.unwrap();
    pair.views[0].cut();
    pair.wires.cut(pair.views[0].me, pair.views[1].me);
    pair.elect(1).await;
    let two = session(&pair.nodes[1], "two");
    let second = take(&two, TTL * 3).await.unwrap();
    assert!(!held.is_held(), "its node still takes itself for the owner");
    assert!(second.token() > held.token());
    pair.views[0].heal();
    pair.wires.heal();
    pair.finish().await;
}

#[tokio::test(start_paused = true)]
async fn permits_are_given_in_turn_and_never_too_many() {
    let node = alone().await;
    let sessions: Vec<_> = (0..4).map(|n| session(&node, &n.to_string())).collect();
    let semaphore = |n: usize| sessions[n].semaphore("s", 3).unwrap();
    let first = semaphore(0).try_acquire(2, NOW).await.unwrap();
    assert_eq!((first.permits(), semaphore(1).free().await.unwrap()), (2, 1));
    let all = tokio::spawn({
        let semaphore = semaphore(1);
        async move { semaphore.try_acquire(3, secs(60)).await }
    });
    sleep(Duration::from_millis(50)).await;
    // There is one, and yet whoever wants all three comes first.
    let error = semaphore(2).try_acquire(1, NOW).await.unwrap_err();
    assert!(matches!(error, CoordinationError::Timeout { .. }), "{error}");
    drop(first);
    let all = all.await.unwrap().unwrap();
    assert_eq!(semaphore(0).holders().await.unwrap().len(), 1);
    let error = sessions[3].semaphore("s", 5).unwrap().try_acquire(1, NOW).await.unwrap_err();
    assert!(matches!(error, CoordinationError::OtherSize { actual: 3, wanted: 5, .. }), "{error}");
    all.release().await.unwrap();
    let five = sessions[3].semaphore("s", 5).unwrap().try_acquire(5, NOW).await.unwrap();
    assert_eq!(five.permits(), 5);
    for wanted in [0, 4] {
        let error = semaphore(0).try_acquire(wanted, NOW).await.unwrap_err();
        assert!(matches!(error, CoordinationError::Invalid { .. }), "{error}");
    }
    node.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn kinds_of_the_framework_are_reserved() {
    struct Own;
    impl duractor::EventSourced for Own {
        const KIND: &'static str = "duractor.own";
        type State = ();
        type Event = Nothing;
        type Commands = (Poke,);
        fn apply((): &mut (), _: &Nothing) {}
    }
    impl duractor::Handle<Poke> for Own {
        fn handle(&self, (): &(), _: Poke, _: &duractor::Context) -> duractor::Effect<Self, ()> {
            duractor::Effect::reply(())
        }
    }
    #[derive(duractor::Event)]
    struct Nothing {}
    #[derive(duractor::Command)]
    #[command(reply = ())]
    struct Poke {}
    let view = View::new(&Group::new(), 1);
    let error = view.builder().register(Own).start().await.err().unwrap();
    assert!(matches!(error, NodeError::ReservedKind { kind: "duractor.own" }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn parties_wait_for_each_other_also_across_a_move() {
    let pair = Pair::start().await;
    let parties = |n: usize| {
        let session = session(&pair.nodes[n % 2], &n.to_string());
        tokio::spawn(async move { session.barrier("b", 3).unwrap().wait(secs(60)).await })
    };
    for generation in 0..3 {
        let mut waiting = vec![parties(0), parties(1)];
        sleep(secs(1)).await;
        assert!(waiting.iter().all(|party| !party.is_finished()));
        pair.elect(generation % 2).await;
        waiting.push(parties(2));
        for party in waiting {
            assert_eq!(party.await.unwrap().unwrap(), generation as u64);
        }
    }
    pair.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_party_that_is_late_gives_up_or_dies_breaks_the_barrier() {
    let node = alone().await;
    let (one, two) = (session(&node, "one"), session(&node, "two"));
    let wait = |session: &Session, wait| {
        let barrier = session.barrier("b", 3).unwrap();
        tokio::spawn(async move { barrier.wait(wait).await })
    };
    let broken = |error: CoordinationError, expected: u64| match error {
        CoordinationError::Broken { generation, .. } => assert_eq!(generation, expected),
        error => panic!("{error}"),
    };
    let (waits, late) = (wait(&one, secs(60)), wait(&two, secs(2)));
    let error = late.await.unwrap().unwrap_err();
    assert!(matches!(error, CoordinationError::Timeout { .. }), "{error}");
    broken(waits.await.unwrap().unwrap_err(), 0);
    // One that is dropped.
    let (waits, dropped) = (wait(&one, secs(60)), wait(&two, secs(60)));
    sleep(secs(1)).await;
    dropped.abort();
    broken(waits.await.unwrap().unwrap_err(), 1);
    // One whose session dies.
    let (waits, dying) = (wait(&one, secs(60)), wait(&two, secs(60)));
    sleep(secs(1)).await;
    two.end().await;
    assert!(dying.await.unwrap().is_err());
    broken(waits.await.unwrap().unwrap_err(), 2);
    let other = wait(&one, secs(60));
    sleep(secs(1)).await;
    let error = session(&node, "x").barrier("b", 2).unwrap().wait(secs(1)).await.unwrap_err();
    assert!(matches!(error, CoordinationError::OtherSize { actual: 3, wanted: 2, .. }), "{error}");
    other.abort();
    node.shutdown().await;
}
