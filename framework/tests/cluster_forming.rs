//! Forming a cluster, joining, leaving, removing, replacing, and coming back.

mod cluster_world;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use cluster_world::{Place, address, wipe};
use duractor::cluster::{Cluster, ClusterError, Parts, Phase, Refusal, discovery::Fixed};
use duractor_journal::{EntityId, Member, NodeId, ShardId};

const SOON: Duration = Duration::from_secs(10);

async fn stop_all(clusters: Vec<Cluster>) {
    for cluster in clusters {
        cluster.shutdown().await;
    }
}

fn phase(cluster: &Cluster, member: Member) -> Option<Phase> {
    cluster.state().phase_of(member)
}

#[tokio::test(start_paused = true)]
async fn one_node_is_a_cluster() {
    let place = Place::new(3);
    let cluster = place.bootstrap().await;
    let status = cluster.status();
    assert!(status.ready, "{status:?}");
    assert_eq!((status.me.as_str(), status.members.len(), status.groups.len()), ("1.1", 1, 3));
    assert_eq!(status.problems, Vec::<String>::new());
    let json = serde_json::to_value(&status).unwrap();
    assert_eq!(json["members"][0]["phase"], "joined");
    assert_eq!(json["groups"][2]["role"], "leader");
    cluster.shutdown().await;
    let again = place.start(1).await.unwrap();
    assert_eq!(again.status().cluster_id, status.cluster_id);
    again.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_cluster_is_formed_once() {
    let place = Place::new(1);
    let cluster = place.bootstrap().await;
    // On the same folder, running or not.
    let twice = Cluster::bootstrap_with(place.parts(1)).await;
    assert!(matches!(twice, Err(ClusterError::AlreadyFormed { .. })));
    // On another node, which can reach the first.
    let Err(error) = Cluster::bootstrap_with(place.parts(2)).await else { panic!("formed") };
    assert!(matches!(error, ClusterError::ClusterExists { .. }), "{error}");
    assert!(!place.data(2).exists(), "nothing was written");
    // In a folder with something else in it.
    std::fs::create_dir_all(place.data(3)).unwrap();
    std::fs::write(place.data(3).join("letter.txt"), "dear").unwrap();
    let mut alone = place.parts(3);
    alone.discovery.clear();
    let Err(error) = Cluster::bootstrap_with(alone.clone()).await else { panic!("formed") };
    assert!(error.to_string().contains("letter.txt is there"), "{error}");
    let Err(error) = Cluster::start_with(alone).await else { panic!("started") };
    assert!(matches!(error, ClusterError::NotEmpty { .. }), "{error}");
    cluster.shutdown().await;
}

/// Nodes that ask to be let in are linked with each other, and have nothing to say: who waited for their
/// answers was up 3 s later for each of them.
#[tokio::test(start_paused = true)]
async fn nodes_that_start_at_once_do_not_ask_each_other() {
    let place = Place::new(1);
    let all = Arc::new(Fixed((1..=3).map(address).collect()));
    let parts = |node| Parts { discovery: vec![all.clone()], ..place.parts(node) };
    let joining = [2, 3].map(|node| tokio::spawn(Cluster::start_with(parts(node))));
    // They are linked, and ask, before anybody is there who could let them in.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let began = tokio::time::Instant::now();
    let mut clusters = vec![Cluster::bootstrap_with(parts(1)).await.unwrap()];
    for cluster in joining {
        clusters.push(cluster.await.unwrap().unwrap());
    }
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    stop_all(clusters).await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_folder_without_seeds_is_told_what_to_do() {
    let place = Place::new(1);
    let Err(error) = Cluster::start_with(place.parts(1)).await else { panic!("started") };
    assert!(error.to_string().contains("form a new cluster on one node, or set"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn nodes_join_and_get_their_share() {
    let place = Place::new(12);
    let clusters = place.cluster(4).await;
    let first = &clusters[0];
    // 36 replicas on 4 nodes, each with as many; 12 leaders, 3 a node.
    let groups = place.world.groups();
    let mut kept = BTreeMap::new();
    for voter in groups.iter().flat_map(|group| &group.voters) {
        *kept.entry(voter.node.0).or_insert(0) += 1;
    }
    assert_eq!(kept.values().copied().collect::<Vec<_>>(), [9; 4], "{groups:#?}");
    place
        .until("the leaders to spread", || {
            let mut led = BTreeMap::new();
            for leader in place.world.groups().iter().filter_map(|group| group.leader) {
                *led.entry(leader.node.0).or_insert(0) += 1;
            }
            led.len() == 4 && led.values().all(|count| (2..=4).contains(count))
        })
        .await;
    // Everybody has the state: whoever does not vote in shard 0 follows it.
    let all = |group: cluster_world::Group| group.voters.len() + group.learners.len();
    assert_eq!(all(place.world.group_of(0)), 4);
    assert!((1..12).all(|shard| place.world.group_of(shard).learners.is_empty()));
    for cluster in &clusters {
        place.until("the state", || cluster.state().revision == first.state().revision).await;
        assert_eq!(cluster.state(), first.state());
        assert_eq!(cluster.state().in_phase(&[Phase::Joined]).count(), 4);
    }
    // Nothing moves any more.
    let transfers = place.world.transfers.lock().unwrap().len();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(place.world.transfers.lock().unwrap().len(), transfers);
    stop_all(clusters).await;
}

#[tokio::test(start_paused = true)]
async fn nodes_come_back_in_any_order() {
    let place = Place::new(4);
    let clusters = place.cluster(3).await;
    let before = clusters[0].status().cluster_id;
    stop_all(clusters).await;
    // The seed comes last, and the others find each other without it.
    let third = Cluster::start_with(place.parts(3)).await.unwrap();
    let second = Cluster::start_with(place.parts(2)).await.unwrap();
    second.wait_ready(SOON).await.unwrap();
    third.wait_ready(SOON).await.unwrap();
    let first = place.start(1).await.unwrap();
    assert_eq!(first.status().cluster_id, before);
    assert_eq!(first.me(), Member::new(1, 1));
    stop_all(vec![first, second, third]).await;
}

#[tokio::test(start_paused = true)]
async fn the_owner_of_shard_0_and_the_manager_do_not_fence_each_other() {
    let place = Place::new(1);
    let first = place.bootstrap().await;
    let epoch = first.journal().claim(ShardId(0)).await.unwrap();
    let second = place.start(2).await.unwrap();
    let id = EntityId::new("order", "1").unwrap();
    let batch = duractor_journal::AppendBatch {
        entity: id,
        epoch,
        expected_seq: duractor_journal::Seq::ZERO,
        timestamp: duractor_journal::Timestamp(0),
        request: None,
        events: vec![duractor_journal::NewEvent::new("placed", 1, &b"x"[..])],
    };
    let leader = place.world.group_of(0).leader;
    let owner = if leader == Some(first.me()) { &first } else { &second };
    owner.journal().append(batch).await.expect("the owner's epoch is in force still");
    stop_all(vec![first, second]).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_leaves_and_takes_nothing_with_it() {
    let place = Place::new(6);
    let mut clusters = place.cluster(4).await;
    // The one that leads the cluster: it has most to give away.
    let leader = place.world.group_of(0).leader.unwrap();
    let at = clusters.iter().position(|cluster| cluster.me() == leader).unwrap();
    let leaving = clusters.remove(at);
    leaving.leave().await.unwrap();
    let has = |member: Member| {
        let groups = place.world.groups();
        groups.iter().any(|g| g.voters.contains(&member) || g.learners.contains(&member))
    };
    assert!(!has(leader));
    leaving.leave().await.expect("it has left");
    leaving.shutdown().await;
    place.settled(3).await;
    for cluster in &clusters {
        place.until("the news", || phase(cluster, leader) == Some(Phase::Removed)).await;
    }
    // With its old disk it is refused, and says so.
    let back = Cluster::start_with(place.parts(leader.node.0)).await.unwrap();
    let refused = back.wait_ready(SOON).await.expect_err("it was removed").to_string();
    assert!(refused.contains("was removed from the cluster"), "{refused}");
    assert!(back.transport().peers().is_empty(), "nobody talks to it");
    back.shutdown().await;
    // With an empty one it is a new member.
    wipe(&place.data(leader.node.0));
    let mut parts = place.parts(leader.node.0);
    let others = clusters.iter().map(|cluster| cluster.address().to_owned());
    parts.discovery =
        vec![std::sync::Arc::new(duractor::cluster::discovery::Fixed(others.collect()))];
    let back = Cluster::start_with(parts).await.unwrap();
    back.wait_ready(SOON).await.unwrap();
    assert_eq!(back.me(), Member { node: leader.node, incarnation: 2 });
    clusters.push(back);
    stop_all(clusters).await;
}

#[tokio::test(start_paused = true)]
async fn the_last_node_does_not_leave() {
    let place = Place::new(2);
    let cluster = place.bootstrap().await;
    let error = cluster.leave().await.expect_err("it is the last");
    assert!(matches!(error, ClusterError::Refused(Refusal::LastNode { .. })), "{error}");
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_node_is_removed_and_a_live_one_is_not() {
    let place = Place::new(6);
    let mut clusters = place.cluster(4).await;
    let fourth = clusters.pop().unwrap();
    let first = clusters[0].clone();
    let error = first.remove(NodeId(4), false, "test").await.expect_err("it is up");
    assert!(matches!(error, ClusterError::Refused(Refusal::StillUp { .. })), "{error}");
    let error = first.remove(NodeId(9), false, "test").await.expect_err("there is none");
    assert!(matches!(error, ClusterError::Refused(Refusal::UnknownNode { .. })), "{error}");
    let member = fourth.me();
    fourth.shutdown().await;
    first.remove(NodeId(4), false, "its machine burnt").await.unwrap();
    place.settled(3).await;
    assert!(place.world.groups().iter().all(|group| !group.voters.contains(&member)));
    place.until("the news", || phase(&first, member) == Some(Phase::Removed)).await;

    // Two of three are gone: nothing can be removed, and it says so.
    let third = clusters.pop().unwrap();
    let second = clusters.pop().unwrap();
    second.shutdown().await;
    third.shutdown().await;
    let gone =
        tokio::time::timeout(SOON * 3, first.remove(NodeId(3), false, "test")).await.unwrap();
    assert!(matches!(gone, Err(ClusterError::TimedOut { .. })), "{gone:?}");
    first.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_would_break_a_quorum_is_refused() {
    let place = Place::new(6);
    let mut clusters = place.cluster(5).await;
    // Nodes 4 and 5 die: shards that both keep have no quorum, others have.
    let dead: Vec<_> = clusters.split_off(3);
    stop_all(dead).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let result = clusters[0].remove(NodeId(5), false, "test").await;
    let broken: Vec<_> = (0..6)
        .filter(|shard| {
            let voters = place.world.group_of(*shard).voters;
            voters.iter().filter(|voter| voter.node.0 >= 4).count() >= 2
        })
        .map(ShardId)
        .collect();
    assert!(!broken.is_empty(), "the placement gives such a shard");
    match result {
        Err(ClusterError::Refused(Refusal::WouldBreakQuorum { shards, .. })) => {
            assert!(broken.iter().all(|shard| shards.contains(shard)), "{broken:?} {shards:?}");
        }
        // Where shard 0 is one of them, there is nobody to ask.
        Err(ClusterError::TimedOut { .. }) => assert!(broken.contains(&ShardId(0))),
        other => panic!("{other:?}"),
    }
    stop_all(clusters).await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_disk_takes_the_place_of_the_old_one() {
    let place = Place::new(6);
    let mut clusters = place.cluster(4).await;
    let second = clusters.remove(1);
    let kept = |node: u32| -> Vec<_> {
        let groups = place.world.groups();
        (0..6).filter(|n| groups[*n].voters.iter().any(|v| v.node.0 == node)).collect()
    };
    let before: Vec<_> = [1, 2, 3, 4].map(kept).into();

    // While the old one is up, its place cannot be taken.
    let mut config = place.config(2);
    config.node.data_dir = place.data(22);
    config.net.listen = address(22);
    config.timing.join_timeout_ms = 5_000;
    let twin = Cluster::start_with(place.parts_of(config)).await;
    assert!(matches!(twin, Err(ClusterError::Refused(Refusal::StillUp { .. }))));
    assert!(!place.data(22).exists());

    let old = place.data(2).with_extension("old");
    second.shutdown().await;
    std::fs::rename(place.data(2), &old).unwrap();
    let second = place.start(2).await.unwrap();
    assert_eq!(second.me(), Member::new(2, 2));
    place.settled(3).await;
    place
        .until("the old one to be removed", || {
            phase(&clusters[0], Member::new(2, 1)) == Some(Phase::Removed)
        })
        .await;
    assert_eq!(before, Vec::from([1, 2, 3, 4].map(kept)), "no other replica moved");

    // The old disk turns up again: refused, while the new one works on.
    second.shutdown().await;
    wipe(&place.data(2));
    std::fs::rename(&old, place.data(2)).unwrap();
    let back = Cluster::start_with(place.parts(2)).await.unwrap();
    let refused = back.wait_ready(SOON).await.expect_err("it was replaced").to_string();
    assert!(refused.contains("2.2 took the place of 2.1"), "{refused}");
    back.shutdown().await;
    stop_all(clusters).await;
}

#[tokio::test(start_paused = true)]
async fn the_disk_of_another_cluster_is_refused() {
    let place = Place::new(2);
    let clusters = place.cluster(2).await;
    let other = Place::new(2);
    stop_all(other.cluster(3).await).await;
    // Node 3 of the other cluster of the same name, plugged into this one.
    let mut config = place.config(3);
    config.node.data_dir = other.data(3);
    let stranger = Cluster::start_with(place.parts_of(config)).await.unwrap();
    let refused = stranger.wait_ready(SOON).await.expect_err("it is a stranger").to_string();
    assert!(refused.contains("is of cluster \"test\" with id"), "{refused}");
    assert!(stranger.transport().peers().is_empty());
    assert!(clusters.iter().all(|cluster| cluster.transport().peers().len() == 1));
    // The stranger refuses the members in its turn, which must not keep them from working.
    place.until("the strife to be told", || clusters[0].status().problems.len() == 1).await;
    let mut clusters = clusters;
    clusters.push(place.start(4).await.expect("the cluster takes in another node"));
    stranger.shutdown().await;
    place.until("the problem to pass", || clusters[0].status().problems.is_empty()).await;
    stop_all(clusters).await;
}

#[tokio::test(start_paused = true)]
async fn the_folder_of_another_node_is_refused() {
    let place = Place::new(1);
    place.bootstrap().await.shutdown().await;
    let mut config = place.config(2);
    config.node.data_dir = place.data(1);
    let Err(error) = Cluster::start_with(place.parts_of(config)).await else { panic!("started") };
    assert!(error.to_string().contains("it belongs to node 1, and node.number is 2"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_damaged_disk_is_set_aside_and_the_node_comes_back() {
    let place = Place::new(3);
    let mut clusters = place.cluster(3).await;
    let second = clusters.remove(1);
    second.shutdown().await;
    place.world.damage(Member::new(2, 1));
    let second = place.start(2).await.unwrap();
    assert_eq!(second.me(), Member::new(2, 2));
    let mut aside = place.data(2).into_os_string();
    aside.push(".damaged-1");
    let aside = std::path::PathBuf::from(aside);
    assert_eq!(std::fs::read_to_string(aside.join("log/META")).unwrap(), "2.1");
    assert!(aside.join("identity").exists());
    let audit = std::fs::read_to_string(place.data(2).join("audit.log")).unwrap();
    assert!(audit.contains("a flipped bit") && audit.contains("goes on as 2.2"), "{audit}");
    place.settled(3).await;
    clusters.push(second);
    stop_all(clusters).await;
}

#[tokio::test(start_paused = true)]
async fn a_damaged_disk_stays_where_nobody_else_has_what_it_had() {
    let place = Place::new(1);
    place.bootstrap().await.shutdown().await;
    place.world.damage(Member::new(1, 1));
    let Err(error) = Cluster::start_with(place.parts(1)).await else { panic!("started") };
    assert!(error.to_string().contains("a flipped bit"), "{error}");
    assert!(place.data(1).join("log/META").exists(), "nothing moved");

    // Nor where the others are there and have no quorum.
    let place = Place::new(1);
    let mut clusters = place.cluster(3).await;
    let third = clusters.pop().unwrap();
    third.shutdown().await;
    clusters.pop().unwrap().shutdown().await;
    place.world.damage(Member::new(3, 1));
    let Err(error) = Cluster::start_with(place.parts(3)).await else { panic!("started") };
    assert!(matches!(error, ClusterError::TimedOut { .. }), "{error}");
    assert!(place.data(3).join("log/META").exists(), "nothing moved");
    stop_all(clusters).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_cluster_is_made_of_the_last_node() {
    let place = Place::new(3);
    let clusters = place.cluster(3).await;
    let before = clusters[0].status().cluster_id;
    stop_all(clusters).await;
    let parts = |node| -> Parts { place.parts(node) };
    let wrong = Cluster::force_new_cluster_with(parts(2), "yes").await;
    let Err(ClusterError::NotConfirmed { expected }) = wrong else { panic!("{wrong:?}") };
    assert_eq!(expected, "test/2");
    assert!(place.world.forced.lock().unwrap().is_empty());
    let lost = Cluster::force_new_cluster_with(parts(2), &expected).await.unwrap();
    assert_eq!(lost, []);
    let second = place.start(2).await.unwrap();
    let after = second.status();
    assert_ne!(after.cluster_id, before);
    place.until("the state", || second.state().in_phase(&[Phase::Joined]).count() == 1).await;
    let audit = std::fs::read_to_string(place.data(2).join("audit.log")).unwrap();
    assert!(audit.contains("2.1 is made the only node") && audit.contains(&before), "{audit}");
    // A lost node that turns up all the same is refused.
    let mut third = parts(3);
    third.discovery =
        vec![std::sync::Arc::new(duractor::cluster::discovery::Fixed(vec![address(2)]))];
    let third = Cluster::start_with(third).await.unwrap();
    assert!(third.wait_ready(SOON).await.is_err());
    assert!(second.transport().peers().is_empty());
    third.shutdown().await;
    second.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn changes_that_fail_are_tried_again() {
    let place = Place::new(4);
    *place.world.failing.lock().unwrap() = 5;
    let clusters = place.cluster(3).await;
    assert_eq!(*place.world.failing.lock().unwrap(), 0);
    place
        .until("the problems to pass", || clusters.iter().all(|c| c.status().problems.is_empty()))
        .await;
    stop_all(clusters).await;
}
