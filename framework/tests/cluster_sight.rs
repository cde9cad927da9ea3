//! Who sees whom: lines that are cut between some, and nodes that are sick.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cluster_world;

use std::{collections::BTreeSet, time::Duration};

use cluster_world::Place;
use duractor::cluster::{Cluster, sight::Sight};
use duractor_journal::{Member, ShardId};

const REPLACE_AFTER_MS: u64 = 3_000;

/// A cluster that replaces nodes soon.
async fn start(place: &Place, nodes: u32) -> Vec<Cluster> {
    let parts = |node| {
        let mut config = place.config(node);
        config.cluster.replace_after_ms = REPLACE_AFTER_MS;
        place.parts_of(config)
    };
    let mut clusters = vec![Cluster::bootstrap_with(parts(1)).await.unwrap()];
    for node in 2..=nodes {
        let cluster = Cluster::start_with(parts(node)).await.unwrap();
        cluster.wait_ready(Duration::from_secs(20)).await.unwrap();
        clusters.push(cluster);
    }
    place.settled(3).await;
    let balanced =
        || clusters[0].status().balance.is_some_and(|b| b.in_place == usize::from(place.shards));
    place.until("everything to be in its place", balanced).await;
    clusters
}

async fn stop_all(clusters: Vec<Cluster>) {
    for cluster in clusters {
        cluster.shutdown().await;
    }
}

fn sight(cluster: &Cluster, member: Member) -> Option<Sight> {
    let balance = cluster.status().balance?;
    balance.sights.into_iter().find(|sight| sight.member == member.to_string())
}

fn is_absent(cluster: &Cluster, member: Member) -> bool {
    cluster.state().members[&member].absent_since_ms.is_some()
}

fn kept(place: &Place, member: Member) -> usize {
    place.world.groups().iter().filter(|group| group.voters.contains(&member)).count()
}

fn led(place: &Place, member: Member) -> usize {
    place.world.groups().iter().filter(|group| group.leader == Some(member)).count()
}

/// Cause: whoever leads the cluster may be cut off from one node alone. Consequence of going by that: all
/// data of a node that is well are shipped to others. Only whom nobody reaches is gone.
#[tokio::test(start_paused = true)]
async fn a_node_that_is_cut_off_from_the_leader_alone_is_not_replaced() {
    let place = Place::new(6);
    let clusters = start(&place, 4).await;
    let leader = place.world.group_of(0).leader.unwrap();
    let (at, other) = match clusters.iter().position(|cluster| cluster.me() == leader).unwrap() {
        3 => (3, 2),
        at => (at, 3),
    };
    let cut_off = clusters[other].me();
    let before = kept(&place, cut_off);
    assert!(before > 0);
    place.network.cut(leader, cut_off);
    tokio::time::sleep(Duration::from_millis(10 * REPLACE_AFTER_MS)).await;
    assert!(!is_absent(&clusters[at], cut_off), "{:#?}", clusters[at].status());
    assert_eq!(kept(&place, cut_off), before);
    let seen = sight(&clusters[at], cut_off).unwrap();
    assert_eq!((seen.reached_by.len(), &seen.missed_by[..]), (2, &[leader.to_string()][..]));
    assert_eq!(seen.sick, None, "one line is nobody's illness");

    // From all: now it is gone.
    for cluster in clusters.iter().filter(|cluster| cluster.me() != cut_off) {
        place.network.cut(cluster.me(), cut_off);
    }
    place.until("it to be given up", || is_absent(&clusters[at], cut_off)).await;
    place.network.mend();
    place.until("it to be back", || !is_absent(&clusters[at], cut_off)).await;
    stop_all(clusters).await;
}

/// The leader of the cluster itself, which has to see that of itself.
#[tokio::test(start_paused = true)]
async fn a_node_with_a_slow_log_hands_its_leaderships_over_and_gets_them_back() {
    let place = Place::new(6);
    let clusters = start(&place, 3).await;
    let sick = place.world.group_of(0).leader.unwrap();
    let (voted, before) = (kept(&place, sick), led(&place, sick));
    assert!(before > 0);
    let transfers = || place.world.transfers.lock().unwrap().len();
    let first = transfers();
    place.world.delays.lock().unwrap().insert(sick, 3_000);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(transfers(), first, "a moment moves nothing");
    place.until("it to lead nothing", || led(&place, sick) == 0).await;
    assert_eq!(kept(&place, sick), voted, "it keeps its replicas, and votes");
    // Whoever leads the cluster now comes to the same view.
    let says = || clusters.iter().filter_map(|cluster| sight(cluster, sick)?.sick).count();
    place.until("all to know", || says() == clusters.len()).await;
    let moved = transfers();
    tokio::time::sleep(Duration::from_secs(120)).await;
    let to_it = |transfers: &[(ShardId, Member)]| transfers.iter().any(|(_, to)| *to == sick);
    assert!(!to_it(&place.world.transfers.lock().unwrap()[moved..]), "it gets nothing back");
    let others: BTreeSet<_> = place.world.groups().iter().filter_map(|g| g.leader).collect();
    assert_eq!(others.len(), 2, "both others lead");

    place.world.delays.lock().unwrap().clear();
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert_eq!(led(&place, sick), 0, "it must be well for long");
    place.until("it to lead again", || led(&place, sick) == before).await;
    stop_all(clusters).await;
}
