//! Draining, resuming, pausing, replacing a node that is gone, and what the dry run says of it.

mod cluster_world;

use std::{collections::BTreeSet, time::Duration};

use cluster_world::Place;
use duractor::{
    Context, Effect, EventSourced, Handle, Node,
    cluster::{Affinity, Cluster, ClusterError, DrainMode, Refusal, WhatIf},
};
use duractor_journal::{Member, NodeId, ShardId};

async fn stop_all(clusters: Vec<Cluster>) {
    for cluster in clusters {
        cluster.shutdown().await;
    }
}

fn led(place: &Place, member: Member) -> usize {
    place.world.groups().iter().filter(|group| group.leader == Some(member)).count()
}

fn kept(place: &Place, member: Member) -> usize {
    place.world.groups().iter().filter(|group| group.voters.contains(&member)).count()
}

/// Waits until nothing is left to move.
async fn balanced(cluster: &Cluster) {
    for _ in 0..600 {
        let plan = cluster.plan().await.expect("somebody leads");
        if plan.moves.is_empty() && plan.unknown.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never balanced: {:?}", cluster.plan().await);
}

#[tokio::test(start_paused = true)]
async fn a_drained_node_leads_nothing_until_it_is_resumed() {
    let place = Place::new(9);
    let mut clusters = place.cluster(3).await;
    balanced(&clusters[0]).await;
    let member = clusters[2].me();
    assert!(led(&place, member) > 0);
    // Asked of a node that neither leads the cluster nor is the one.
    let status = clusters[1].drain(NodeId(3), DrainMode::Leaderships, "a new fan").await.unwrap();
    assert!(status.done && status.safe_to_stop && status.leads.is_empty(), "{status:?}");
    assert_eq!((led(&place, member), kept(&place, member), status.keeps.len()), (0, 9, 9));
    place
        .until("everybody to know", || {
            clusters.iter().all(|cluster| {
                let balance = cluster.status().balance;
                balance.is_some_and(|b| b.drains.iter().any(|d| d.node == 3 && d.safe_to_stop))
            })
        })
        .await;
    // It survives restarts of anybody.
    for at in [2, 0, 1] {
        let node = at as u32 + 1;
        clusters[at].shutdown().await;
        clusters[at] = place.start(node).await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        place.until("it to lead nothing", || led(&place, member) == 0).await;
    }
    let status = clusters[0].status();
    let row = status.members.iter().find(|member| member.node == 3).unwrap();
    assert_eq!(row.drain.as_ref().map(|drain| drain.reason.as_str()), Some("a new fan"));
    assert_eq!(status.balance.unwrap().held_back.as_deref(), Some("node 3 is in maintenance"));
    clusters[1].resume(NodeId(3), "done").await.unwrap();
    balanced(&clusters[0]).await;
    assert!(led(&place, member) > 0);
    stop_all(clusters).await;
}

#[tokio::test(start_paused = true)]
async fn draining_is_refused_where_a_quorum_would_break() {
    let place = Place::new(6);
    let clusters = place.cluster(3).await;
    balanced(&clusters[0]).await;
    clusters[0].drain(NodeId(3), DrainMode::Leaderships, "first").await.unwrap();
    // Both may be stopped from then on, and two of three are no quorum without them.
    let error = clusters[0].drain(NodeId(2), DrainMode::Leaderships, "second").await;
    match error {
        Err(ClusterError::Refused(Refusal::WouldBreakQuorum { node, shards })) => {
            assert_eq!((node, shards.len()), (NodeId(2), 6));
        }
        other => panic!("{other:?}"),
    }
    assert!(clusters[0].state().drained(Member::new(2, 1)).is_none(), "nothing was done");
    clusters[0].resume(NodeId(3), "done").await.unwrap();
    let error = clusters[0].drain(NodeId(9), DrainMode::Leaderships, "who").await;
    assert!(matches!(error, Err(ClusterError::Refused(Refusal::UnknownNode { .. }))), "{error:?}");
    stop_all(clusters).await;

    let alone = Place::new(2);
    let cluster = alone.bootstrap().await;
    for mode in [DrainMode::Leaderships, DrainMode::Decommission] {
        let error = cluster.drain(NodeId(1), mode, "why").await;
        match error {
            Err(ClusterError::Refused(Refusal::NobodyTakesOver { node, shards })) => {
                assert_eq!((node, shards.len()), (NodeId(1), 2));
            }
            other => panic!("{other:?}"),
        }
    }
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_decommissioned_keeps_nothing_and_gets_it_back() {
    let place = Place::new(8);
    let clusters = place.cluster(4).await;
    balanced(&clusters[0]).await;
    let (node, member) = (NodeId(2), clusters[1].me());
    let before = place.world.groups();
    let dry = clusters[0].plan_if(WhatIf::Drain { node, mode: DrainMode::Decommission }).await;
    let dry = dry.unwrap();
    let text = dry.to_string();
    assert!(text.contains("-2.1") && text.contains("2.1 is decommissioned"), "{text}");
    let json = serde_json::to_value(&dry).unwrap();
    assert_eq!(json["moves"][0]["what"], "replicas", "{json}");
    assert_eq!(kept(&place, member), 6, "a dry run moves nothing");
    let status = clusters[0].drain(node, DrainMode::Decommission, "sold").await.unwrap();
    assert!(status.done && status.safe_to_stop && status.keeps.is_empty(), "{status:?}");
    assert_eq!((led(&place, member), kept(&place, member)), (0, 0));
    // As it said, and nothing else.
    let voters = |groups: &[cluster_world::Group]| -> Vec<BTreeSet<Member>> {
        groups.iter().map(|group| group.voters.clone()).collect()
    };
    let after = place.world.groups();
    let moved = voters(&before).iter().zip(voters(&after)).filter(|(b, a)| **b != *a).count();
    let replicas = |m: &&duractor::cluster::forecast::Move| {
        matches!(m.change, duractor::cluster::forecast::Change::Replicas { .. })
    };
    assert_eq!(moved, dry.moves.iter().filter(replicas).count());
    clusters[0].resume(node, "not sold").await.unwrap();
    balanced(&clusters[0]).await;
    assert_eq!(voters(&place.world.groups()), voters(&before));
    stop_all(clusters).await;
}

#[tokio::test(start_paused = true)]
async fn while_it_is_paused_a_new_node_gets_nothing() {
    let place = Place::new(6);
    let mut clusters = place.cluster(3).await;
    balanced(&clusters[0]).await;
    clusters[0].rebalance_pause("the auditors are here").await.unwrap();
    clusters.push(place.start(4).await.unwrap());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let new = Member::new(4, 1);
    assert_eq!(kept(&place, new), 0);
    let plan = clusters[1].plan().await.unwrap();
    assert!(!plan.moves.is_empty());
    assert!(plan.to_string().contains("held back, but for what must be: the auditors are here"));
    let balance = clusters[0].status().balance.unwrap();
    assert!(!balance.waiting.is_empty() && balance.moving.is_empty(), "{balance:?}");
    // What is asked for by name goes on.
    clusters[0].drain(NodeId(2), DrainMode::Decommission, "sold").await.unwrap();
    assert!(kept(&place, new) > 0, "it takes what node 2 had");
    clusters[0].resume(NodeId(2), "not sold").await.unwrap();
    clusters[0].rebalance_resume("they have gone").await.unwrap();
    balanced(&clusters[0]).await;
    stop_all(clusters).await;
}

fn impatient(place: &Place, node: u32) -> duractor::cluster::Parts {
    let mut config = place.config(node);
    config.cluster.replace_after_ms = 5_000;
    place.parts_of(config)
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_gone_for_long_loses_its_replicas_until_it_is_back() {
    let place = Place::new(8);
    let mut clusters = vec![Cluster::bootstrap_with(impatient(&place, 1)).await.unwrap()];
    for node in 2..=4 {
        let cluster = Cluster::start_with(impatient(&place, node)).await.unwrap();
        cluster.wait_ready(Duration::from_secs(20)).await.unwrap();
        clusters.push(cluster);
    }
    place.settled(3).await;
    balanced(&clusters[0]).await;
    let before: Vec<_> = place.world.groups().iter().map(|group| group.voters.clone()).collect();
    let fourth = clusters.pop().unwrap();
    let member = fourth.me();
    fourth.shutdown().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(kept(&place, member), 6, "it may come back");
    place.until("its replicas to go", || kept(&place, member) == 0).await;
    place.settled(3).await;
    let absent = |cluster: &Cluster| cluster.status().balance.map(|balance| balance.absent);
    place.until("the news", || absent(&clusters[0]) == Some(vec!["4.1".into()])).await;
    // With it, one node more than two would be gone: nothing is gained by fewer replicas.
    let third = clusters.pop().unwrap();
    third.shutdown().await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(kept(&place, Member::new(3, 1)) > 0);
    clusters.push(Cluster::start_with(impatient(&place, 3)).await.unwrap());
    clusters.push(Cluster::start_with(impatient(&place, 4)).await.unwrap());
    place.until("its replicas to be back", || kept(&place, member) == 6).await;
    balanced(&clusters[0]).await;
    let after: Vec<_> = place.world.groups().iter().map(|group| group.voters.clone()).collect();
    assert_eq!(before, after);
    stop_all(clusters).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_in_maintenance_is_not_replaced() {
    let place = Place::new(4);
    let mut clusters = vec![Cluster::bootstrap_with(impatient(&place, 1)).await.unwrap()];
    for node in 2..=4 {
        clusters.push(Cluster::start_with(impatient(&place, node)).await.unwrap());
    }
    place.settled(3).await;
    balanced(&clusters[0]).await;
    let fourth = clusters.pop().unwrap();
    let has = kept(&place, fourth.me());
    clusters[0].drain(NodeId(4), DrainMode::Leaderships, "a new fan").await.unwrap();
    let member = fourth.me();
    fourth.shutdown().await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(kept(&place, member), has);
    stop_all(clusters).await;
}

#[tokio::test(start_paused = true)]
async fn a_leadership_goes_only_to_who_can_take_it() {
    let place = Place::new(3);
    let clusters = place.cluster(4).await;
    balanced(&clusters[0]).await;
    let groups = place.world.groups();
    let leader = groups[1].leader.unwrap();
    let at = clusters.iter().position(|cluster| cluster.me() == leader).unwrap();
    let outside = clusters.iter().map(Cluster::me).find(|m| !groups[1].voters.contains(m)).unwrap();
    let refused = clusters[at].hand_over(ShardId(1), outside.node).await;
    assert!(matches!(refused, Err(ClusterError::Refused(Refusal::NoVote { .. }))), "{refused:?}");
    let refused = clusters[at].hand_over(ShardId(99), outside.node).await;
    assert!(
        matches!(refused, Err(ClusterError::Refused(Refusal::UnknownShard { .. }))),
        "{refused:?}"
    );
    let other = groups[1].voters.iter().copied().find(|voter| *voter != leader).unwrap();
    // It goes where it is asked to, and stays there.
    clusters[0].prefer_leader(ShardId(1), Some(other.node), "test").await.unwrap();
    place.until("it to lead", || place.world.group_of(1).leader == Some(other)).await;
    balanced(&clusters[0]).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(place.world.group_of(1).leader, Some(other));
    clusters[0].prefer_leader(ShardId(1), None, "test").await.unwrap();
    // Bound to the node that had nothing of it.
    let bound = Some(Affinity::Nodes(vec![outside.node]));
    clusters[0].bind_shard(ShardId(1), bound, "test").await.unwrap();
    place.until("it to lead", || place.world.group_of(1).leader == Some(outside)).await;
    stop_all(clusters).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_steps_down_leads_nothing_and_gets_nothing() {
    let place = Place::new(9);
    let clusters = place.cluster(3).await;
    balanced(&clusters[0]).await;
    // The one that leads the cluster: it has most to hand over.
    let leader = place.world.group_of(0).leader.unwrap();
    let stepping = clusters.iter().find(|cluster| cluster.me() == leader).unwrap();
    stepping.step_down(Duration::from_secs(10)).await;
    assert_eq!(led(&place, leader), 0);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(led(&place, leader), 0, "nobody gives it any back");
    stop_all(clusters).await;
}

#[derive(duractor::Event)]
enum Counted {
    Once,
}

#[derive(duractor::Command)]
#[command(reply = u64)]
struct Count;

struct Counter;

impl EventSourced for Counter {
    const KIND: &'static str = "counter";
    type State = u64;
    type Event = Counted;
    type Commands = (Count,);

    fn apply(state: &mut u64, _: &Counted) {
        *state += 1;
    }
}

impl Handle<Count> for Counter {
    fn handle(&self, _: &u64, _: Count, _: &Context) -> Effect<Self, u64> {
        Effect::persist(Counted::Once).reply(|state| *state)
    }
}

/// A node with entities is a cluster's member whose groups change only with them.
async fn with_entities(place: &Place, cluster: &Cluster) -> Node {
    let node = cluster.me().node.0;
    let dir = place.data(node).join("entities");
    std::fs::create_dir_all(&dir).expect("a folder");
    Node::builder(dir).cluster(cluster).register(Counter).start().await.expect("a node")
}

#[tokio::test(start_paused = true)]
async fn a_node_that_shuts_down_hands_its_leaderships_over_first() {
    let place = Place::new(6);
    let clusters = place.cluster(3).await;
    let mut nodes = Vec::new();
    for cluster in &clusters {
        nodes.push(with_entities(&place, cluster).await);
    }
    balanced(&clusters[0]).await;
    let member = clusters[2].me();
    assert!(led(&place, member) > 0);
    nodes[2].shutdown().await;
    assert_eq!(led(&place, member), 0, "before its links went down");
    clusters[2].shutdown().await;
    for node in &nodes[..2] {
        node.shutdown().await;
    }
    stop_all(clusters).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_most_is_told() {
    let place = Place::new(3);
    let clusters = place.cluster(1).await;
    let node = with_entities(&place, &clusters[0]).await;
    let (hot, cold) =
        (node.entity::<Counter>("hot").unwrap(), node.entity::<Counter>("cold").unwrap());
    for second in 0..15 {
        for n in 0..400 {
            hot.ask(Count).await.unwrap();
            if n % 40 == second {
                cold.ask(Count).await.unwrap();
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let balance = clusters[0].status().balance.unwrap();
    let names: Vec<_> = balance.hot_entities.iter().map(|hot| hot.entity.as_str()).collect();
    assert_eq!(names, ["counter/hot"], "{balance:?}");
    assert!((250..=550).contains(&balance.hot_entities[0].commands_per_s), "{balance:?}");
    assert!((300..=450).contains(&balance.commands_per_s), "{balance:?}");
    let shard = hot.id().shard(3);
    assert!(balance.hot_shards.iter().all(|hot| hot.shard == shard.0), "{balance:?}");
    node.shutdown().await;
    stop_all(clusters).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_says_what_it_is_and_what_changes_is_noted() {
    let place = Place::new(6);
    let described = |node: u32, zone: &str, version: &str| {
        let mut config = place.config(node);
        config.node.zone = zone.into();
        config.node.version = version.into();
        config.node.roles = vec!["web".into()];
        place.parts_of(config)
    };
    let mut clusters = vec![Cluster::bootstrap_with(described(1, "a", "1.0.0")).await.unwrap()];
    for node in 2..=4 {
        let zone = if node == 2 { "a" } else { "b" };
        let cluster = Cluster::start_with(described(node, zone, "1.0.0")).await.unwrap();
        cluster.wait_ready(Duration::from_secs(20)).await.unwrap();
        clusters.push(cluster);
    }
    balanced(&clusters[0]).await;
    let zones = |group: &cluster_world::Group| {
        group.voters.iter().map(|voter| voter.node.0 <= 2).collect::<BTreeSet<_>>().len()
    };
    assert!(place.world.groups().iter().all(|group| zones(group) == 2), "in both zones");
    let known = clusters[0].state().members[&Member::new(3, 1)].clone();
    assert_eq!((known.properties.zone.as_str(), known.level), ("b", 2));
    // It is started anew as something else, and the newest version is to lead.
    clusters[2].shutdown().await;
    clusters[2] = Cluster::start_with(described(3, "b", "1.1.0")).await.unwrap();
    let version = || clusters[0].state().members[&Member::new(3, 1)].properties.version.clone();
    place.until("the new version", || version() == "1.1.0").await;
    clusters[0].prefer_newest(true, "an upgrade").await.unwrap();
    balanced(&clusters[0]).await;
    let keeps = |group: &cluster_world::Group| group.voters.contains(&Member::new(3, 1));
    let groups = place.world.groups();
    assert!(groups.iter().filter(|g| keeps(g)).all(|g| g.leader == Some(Member::new(3, 1))));
    clusters[0].place_in_turn(true, "a test").await.unwrap();
    balanced(&clusters[0]).await;
    let voters: Vec<u32> = place.world.group_of(2).voters.iter().map(|m| m.node.0).collect();
    assert_eq!(voters, [1, 3, 4]);
    stop_all(clusters).await;
}
