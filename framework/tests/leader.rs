//! The cluster's leader: who it is, what it does, and how others have it done.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/group.rs"]
mod group;

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use duractor::{
    Command, Forward, Leader, LeaderCall, LeaderError, LeaderInfo, Leadership, Node, NodeError,
    TookEffect,
};
use duractor_journal::{Member, ShardId};
use futures_util::{FutureExt, StreamExt, future::BoxFuture};
use group::{Group, View, Wires};
use tokio::time::sleep;

/// Replies its number, the node that handled it, and the token.
#[derive(Command)]
#[command(reply = (u32, u32, u64))]
struct Which {
    number: u32,
}

/// Never replies.
#[derive(Command)]
#[command(reply = ())]
struct Hang {}

const SOON: Duration = Duration::from_secs(5);

struct Three {
    group: Arc<Group>,
    wires: Arc<Wires>,
    views: Vec<Arc<View>>,
    nodes: Vec<Node>,
    hanging: Arc<AtomicUsize>,
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Three {
    async fn start() -> Self {
        let (group, wires) = (Group::new(), Wires::new());
        let hanging: Arc<AtomicUsize> = Arc::default();
        let views: Vec<_> = (1..=3).map(|n| View::new(&group, n)).collect();
        let mut nodes = Vec::new();
        for view in &views {
            let voters = |_: ShardId| (1..=3).map(|n| Member::new(n, 1)).collect();
            let builder = view.builder().replicas(wires.end(view.me), voters);
            let (node, hanging) = (view.me.node.0, Arc::clone(&hanging));
            let builder = builder
                .leader_handler(move |leadership: Leadership, which: Which| async move {
                    (which.number, node, leadership.token())
                })
                .leader_handler(move |_: Leadership, _: Hang| {
                    let hanging = hanging.clone();
                    async move {
                        hanging.fetch_add(1, SeqCst);
                        let _counted = Counted(hanging);
                        pending().await
                    }
                });
            nodes.push(builder.start().await.unwrap());
        }
        Self { group, wires, views, nodes, hanging }
    }

    async fn elect(&self, leader: usize) {
        self.group.elect(Some(&self.views[leader]), &self.views.iter().collect::<Vec<_>>());
        sleep(Duration::from_millis(20)).await;
    }

    fn leader(&self, node: usize) -> Leader {
        self.nodes[node].leader().clone()
    }

    async fn finish(self) {
        for node in self.nodes {
            node.shutdown().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn calls_run_on_the_leader_wherever_they_come_from() {
    let three = Three::start().await;
    let error = three.leader(0).call(Which { number: 1 }).await.unwrap_err();
    assert!(matches!(error, LeaderError::NotLeader { leader: None }), "{error}");
    let waiting = tokio::spawn({
        let leader = three.leader(2);
        async move { leader.forward(Which { number: 1 }, SOON).await }
    });
    sleep(Duration::from_millis(200)).await;
    three.elect(1).await;
    let (number, node, token) = waiting.await.unwrap().unwrap();
    assert_eq!((number, node), (1, 2));
    assert!(three.leader(1).is_leader() && !three.leader(0).is_leader());
    assert_eq!(three.leader(1).call(Which { number: 2 }).await.unwrap(), (2, 2, token));
    let error = three.leader(0).call(Which { number: 3 }).await.unwrap_err();
    let LeaderError::NotLeader { leader: Some(leader) } = &error else { panic!("{error}") };
    assert_eq!((leader.member, error.effect()), (Member::new(2, 1), TookEffect::None));
    three.elect(2).await;
    for node in 0..3 {
        let (_, by, later) = three.leader(node).forward(Which { number: 4 }, SOON).await.unwrap();
        assert!(by == 3 && later > token, "node {by}, token {later}");
    }
    three.finish().await;
}

#[tokio::test(start_paused = true)]
async fn work_ends_with_the_leadership() {
    let three = Three::start().await;
    three.elect(0).await;
    let here = tokio::spawn({
        let leader = three.leader(0);
        async move { leader.run_if_leader(|_| pending::<()>()).await }
    });
    let there = tokio::spawn({
        let leader = three.leader(1);
        async move { leader.forward(Hang {}, SOON).await }
    });
    sleep(Duration::from_millis(100)).await;
    assert_eq!(three.hanging.load(SeqCst), 1);
    let error = three.leader(1).run_if_leader(async |_| ()).await.unwrap_err();
    assert!(matches!(error, LeaderError::NotLeader { leader: Some(_) }), "{error}");
    three.elect(1).await;
    assert_eq!(three.hanging.load(SeqCst), 0, "it was dropped");
    assert!(matches!(here.await.unwrap().unwrap_err(), LeaderError::LeadershipLost));
    let error = there.await.unwrap().unwrap_err();
    assert!(matches!(error, LeaderError::LeadershipLost), "{error}");
    assert_eq!(error.effect(), TookEffect::Unknown);
    // An answer that gets lost: nobody may say that nothing happened.
    let lost = tokio::spawn({
        let leader = three.leader(0);
        async move { leader.forward(Hang {}, SOON).await }
    });
    sleep(Duration::from_millis(100)).await;
    three.wires.cut(three.views[0].me, three.views[1].me);
    assert_eq!(lost.await.unwrap().unwrap_err().effect(), TookEffect::Unknown);
    three.wires.heal();
    three.finish().await;
}

#[tokio::test(start_paused = true)]
async fn changes_are_seen() {
    let three = Three::start().await;
    let mut changes = three.leader(0).changes().boxed();
    let mut next = async || changes.next().await.unwrap().map(|leader| leader.member.node.0);
    assert_eq!(next().await, None);
    three.elect(2).await;
    assert_eq!(next().await, Some(3));
    three.elect(0).await;
    let mut seen = next().await;
    while seen != Some(1) {
        seen = next().await;
    }
    three.finish().await;
    assert_eq!(changes.next().now_or_never(), Some(None), "they end with the node");
}

/// Gives calls to another node of this process, as an application's own way may do.
struct Own(Leader);

impl Forward for Own {
    fn forward(
        &self,
        to: LeaderInfo,
        call: LeaderCall,
        _: Duration,
    ) -> BoxFuture<'static, Result<bytes::Bytes, LeaderError>> {
        let leader = self.0.clone();
        Box::pin(async move {
            assert_eq!(to.member, Member::new(1, 1));
            leader.handle(call).await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn an_application_may_have_its_own_way_to_the_leader() {
    let three = Three::start().await;
    three.elect(0).await;
    let view = View::new(&three.group, 4);
    let voters = |_: ShardId| (1..=3).map(|n| Member::new(n, 1)).collect();
    let builder = view.builder().replicas(three.wires.end(view.me), voters);
    let node = builder.leader_forward(Arc::new(Own(three.leader(0)))).start().await.unwrap();
    three.group.elect(Some(&three.views[0]), &[&three.views[0], &view]);
    let (_, by, _) = node.leader().forward(Which { number: 1 }, SOON).await.unwrap();
    assert_eq!(by, 1);
    node.shutdown().await;
    three.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_goes_wrong_is_typed() {
    #[derive(Command)]
    #[command(reply = ())]
    struct Unknown {}
    #[derive(Command)]
    #[command(reply = ())]
    struct Panics {}
    let view = View::new(&Group::new(), 1);
    view.group.elect(Some(&view), &[&view]);
    let handler = |_: Leadership, _: Panics| async { panic!("as asked for") };
    let twice = view.builder().leader_handler(handler).leader_handler(handler).start().await;
    assert!(matches!(twice.err().unwrap(), NodeError::DuplicateHandler { name: "Panics" }));
    let node = view.builder().leader_handler(handler).start().await.unwrap();
    let error = node.leader().forward(Unknown {}, SOON).await.unwrap_err();
    assert!(matches!(error, LeaderError::UnknownHandler { .. }), "{error}");
    let error = node.leader().call(Panics {}).await.unwrap_err();
    assert!(error.to_string().contains("as asked for"), "{error}");
    node.shutdown().await;
    let error = node.leader().forward(Panics {}, SOON).await.unwrap_err();
    assert!(matches!(error, LeaderError::ShuttingDown), "{error}");
}
