//! What operators do: draining nodes, restarting one after the other, pausing; and a node that is gone for
//! so long that others get its replicas. At the end of a run, all of it once more in quiet, where it must
//! hold to the letter.

use std::{sync::Arc, time::Duration};

use duractor::cluster::{Cluster, ClusterError, DrainMode, DrainStatus, Refusal};
use duractor_journal::{NodeId, Role, ShardId};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

use super::{
    health::{SERVES_WITHIN, WHOLE_WITHIN, all_serve, all_whole, ready},
    world::World,
};
use crate::{
    machines::Site,
    {cluster::network::Stop, rng::Rng},
};

/// One call of an operator takes no longer.
const CALL: Duration = Duration::from_secs(10);

/// What an operator does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Job {
    /// A node is drained, stopped for a while, and resumed.
    Maintenance,
    /// A node gives everything away, and gets it back.
    Decommission,
    /// All nodes are drained and restarted, one after the other.
    Rolling,
    /// Nothing is moved for balance for a while.
    Pause,
    /// A node is away for so long that others get its replicas.
    Away,
}

/// Begins a job, unless another change of members goes on.
pub(crate) fn begin(
    world: &Arc<World>,
    job: Job,
    node: NodeId,
    rng: &mut Rng,
    members: &Arc<Mutex<()>>,
) {
    let (world, members, mut rng) = (world.clone(), members.clone(), rng.fork());
    tokio::spawn(async move {
        let _alone = members.lock().await;
        if world.is_ending() || !all_whole(&world) {
            return;
        }
        match job {
            Job::Maintenance => maintain(&world, node, &mut rng).await,
            Job::Decommission => decommission(&world, node, &mut rng).await,
            Job::Rolling => {
                for node in world.machines.nodes.keys().copied().collect::<Vec<_>>() {
                    if world.is_ending() {
                        return;
                    }
                    maintain(&world, node, &mut rng).await;
                }
            }
            Job::Pause => pause(&world, &mut rng).await,
            Job::Away => away(&world, node).await,
        }
    });
}

/// A cluster handle on some node that is up.
fn any(world: &World) -> Option<Cluster> {
    let mut up = world.processes().into_iter().filter(|process| !process.is_dead());
    up.find_map(|process| process.up().cluster)
}

/// Drains a node. `None` where nobody could say that it is done.
async fn drain(world: &World, node: NodeId, mode: DrainMode) -> Option<DrainStatus> {
    let cluster = any(world)?;
    let drained = tokio::time::timeout(CALL, cluster.drain(node, mode, "upkeep")).await;
    world.say(60, || format!("node {node} is drained: {drained:?}"));
    match drained {
        Ok(Ok(status)) => Some(status),
        Ok(Err(error)) => {
            expected(world, &error);
            None
        }
        Err(_) => None,
    }
}

/// Whether an operator may be told so while things go wrong.
fn expected(world: &World, error: &ClusterError) {
    match error {
        ClusterError::TimedOut { .. }
        | ClusterError::Closed
        | ClusterError::Refused(
            Refusal::WouldBreakQuorum { .. }
            | Refusal::NobodyTakesOver { .. }
            | Refusal::NotNow { .. }
            | Refusal::Unfinished { .. },
        ) => {}
        _ => world.violated(format!("S: an operator is told: {error}")),
    }
}

/// Until it is so: an operator does not forget a node in maintenance.
async fn resume(world: &World, node: NodeId) {
    loop {
        if let Some(cluster) = any(world) {
            let resumed = tokio::time::timeout(CALL, cluster.resume(node, "upkeep is over")).await;
            world.say(61, || format!("node {node} is resumed: {resumed:?}"));
            match resumed {
                Ok(Ok(())) => return,
                Ok(Err(error)) => expected(world, &error),
                Err(_) => {}
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}

async fn maintain(world: &Arc<World>, node: NodeId, rng: &mut Rng) {
    let drained = drain(world, node, DrainMode::Leaderships).await;
    if drained.is_some_and(|status| status.safe_to_stop) && rng.chance(0.7) {
        world.count("maintained");
        stop(world, node, rng).await;
        sleep(Duration::from_millis(rng.below(600))).await;
        world.start(node, false);
        ready(world, node, "a node in maintenance does not come back").await;
    }
    resume(world, node).await;
}

async fn stop(world: &Arc<World>, node: NodeId, rng: &mut Rng) {
    match rng.below(3) {
        0 => world.stop(node, Stop::Crashed),
        1 => world.stop(node, Stop::Killed),
        _ => world.shut_down(node).await,
    }
}

async fn decommission(world: &Arc<World>, node: NodeId, rng: &mut Rng) {
    if drain(world, node, DrainMode::Decommission).await.is_some() {
        world.count("decommissioned");
        sleep(Duration::from_millis(rng.below(400))).await;
    }
    resume(world, node).await;
}

async fn pause(world: &Arc<World>, rng: &mut Rng) {
    let Some(cluster) = any(world) else { return };
    let paused = match rng.chance(0.5) {
        true => tokio::time::timeout(CALL, cluster.rebalance_pause("upkeep")).await,
        false => tokio::time::timeout(CALL, cluster.rebalance_cancel("upkeep")).await,
    };
    world.say(62, || format!("paused: {paused:?}"));
    sleep(Duration::from_millis(rng.below(1_000))).await;
    loop {
        if let Some(cluster) = any(world)
            && let Ok(Ok(())) =
                tokio::time::timeout(CALL, cluster.rebalance_resume("upkeep is over")).await
        {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Longer than others wait for it.
async fn away(world: &Arc<World>, node: NodeId) {
    world.count("away");
    world.stop(node, Stop::Crashed);
    sleep(Duration::from_millis(world.plan.replace_after_ms.min(3_000) + 500)).await;
    world.start(node, false);
    ready(world, node, "a node that was away does not come back").await;
}

// ----- in quiet

/// Nothing is left to move: replicas and leaders are where they belong.
pub(crate) async fn balanced(world: &Arc<World>) {
    let until = Instant::now() + WHOLE_WITHIN;
    loop {
        let last = match any(world) {
            None => "nobody is up".to_owned(),
            Some(cluster) => match tokio::time::timeout(CALL, cluster.plan()).await {
                Ok(Ok(plan)) if plan.moves.is_empty() && plan.unknown.is_empty() => return,
                Ok(Ok(plan)) => plan.to_string(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            },
        };
        if Instant::now() > until {
            return world.violated(format!("the cluster is never balanced: {last}"));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// The shards that a node leads, as it says itself, but for those of which others know a later term: whoever
/// was deposed hears of it with the next heartbeat.
fn led(world: &World, node: NodeId) -> Vec<ShardId> {
    let Some(cluster) = world.process(node).and_then(|(process, _)| process.up().cluster) else {
        return Vec::new();
    };
    let known = leaders(world, node);
    let leads = |shard: &ShardId| {
        let own = cluster.groups().group(*shard);
        let later = known[usize::from(shard.0)].is_some_and(|(term, _)| term > own.term.0);
        own.role == Role::Leader && !later
    };
    (0..world.plan.shards).map(ShardId).filter(leads).collect()
}

/// Who leads each shard, and in which term, as the other nodes know.
fn leaders(world: &World, but: NodeId) -> Vec<Option<(u64, u32)>> {
    let clusters = world.processes().into_iter().filter(|process| process.node != but);
    let clusters: Vec<Cluster> = clusters.filter_map(|process| process.up().cluster).collect();
    let of = |shard| {
        let groups = clusters.iter().map(|cluster| cluster.groups().group(shard));
        let known = groups.filter_map(|group| Some((group.term.0, group.leader?.node.0)));
        known.max()
    };
    (0..world.plan.shards).map(ShardId).map(of).collect()
}

/// A node is drained, stopped, started and resumed, with nothing in the way: now every word counts.
pub(crate) async fn rehearse(world: &Arc<World>) {
    balanced(world).await;
    let mut rng = world.fork_rng();
    let node = NodeId(1 + rng.below(u64::from(world.plan.nodes)) as u32);
    // What has just come to the node must go as well.
    hand_over_to(world, node, &mut rng).await;
    let Some(status) = must_drain(world, node).await else { return };
    let led_still = led(world, node);
    if !led_still.is_empty() || !status.leads.is_empty() {
        return world.violated(format!("node {node} leads {led_still:?}, though it is drained"));
    }
    let before = leaders(world, node);
    stop(world, node, &mut rng).await;
    // Longer than any election would take to begin.
    let elections = Duration::from_millis(4 * world.plan.timing_ms.2);
    sleep(elections).await;
    let after = leaders(world, node);
    if before != after {
        return world.violated(format!(
            "node {node} was safe to stop, and leaders went from {before:?} to {after:?}"
        ));
    }
    world.start(node, false);
    all_serve(world).await;
    sleep(Duration::from_secs(1)).await;
    let led_again = led(world, node);
    if !led_again.is_empty() {
        return world.violated(format!("node {node} leads {led_again:?} and was not resumed"));
    }
    resume(world, node).await;
    balanced(world).await;
    world.count("rehearsed");
}

/// Some shards are handed over to a node by hand, whatever comes of it.
async fn hand_over_to(world: &World, node: NodeId, rng: &mut Rng) {
    let shards: Vec<ShardId> = (0..world.plan.shards).map(ShardId).collect();
    for shard in shards.into_iter().filter(|_| rng.chance(0.7)) {
        let clusters = world.processes().into_iter().filter_map(|process| process.up().cluster);
        let mut leads =
            clusters.filter(|cluster| cluster.groups().group(shard).role == Role::Leader);
        let Some(leader) = leads.next().filter(|leader| leader.me().node != node) else { continue };
        let moved = tokio::time::timeout(CALL, leader.hand_over(shard, node)).await;
        world.say(63, || format!("{shard} to node {node}: {moved:?}"));
    }
}

/// In quiet it is never refused, and the node may be stopped soon.
async fn must_drain(world: &World, node: NodeId) -> Option<DrainStatus> {
    let until = Instant::now() + SERVES_WITHIN;
    loop {
        match drain(world, node, DrainMode::Leaderships).await {
            Some(status) if status.safe_to_stop => return Some(status),
            status if Instant::now() > until => {
                world.violated(format!("node {node} is never safe to stop: {status:?}"));
                return None;
            }
            _ => sleep(Duration::from_millis(100)).await,
        }
    }
}
