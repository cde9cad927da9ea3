//! What goes wrong, one thing after the other; several last and overlap.

use std::{sync::Arc, time::Duration};

use duractor_journal::{NodeId, Role, ShardId};
use tokio::{sync::Mutex, time::sleep};

use super::{
    Planted,
    health::{all_whole, ready},
    plan::Trouble,
    upkeep::{self, Job},
    world::World,
};
use crate::{
    machines::Site,
    {cluster::network::Stop, rng::Rng},
};

/// Makes trouble until the load ends.
pub(crate) async fn make(world: Arc<World>) {
    let mut rng = world.fork_rng();
    // One change of members at a time: more of them may cost a group its quorum.
    let members = Arc::new(Mutex::new(()));
    while !world.is_ending() {
        sleep(ms(1 + rng.below(2 * world.plan.trouble_ms))).await;
        let Some(trouble) = rng.pick(&world.plan.troubles).copied() else { return };
        if !world.is_ending() {
            one(&world, trouble, &mut rng, &members);
        }
    }
    // What has begun is ended.
    drop(members.lock().await);
}

fn one(world: &Arc<World>, trouble: Trouble, rng: &mut Rng, members: &Arc<Mutex<()>>) {
    let node = any(world, rng);
    world.fault(trouble.name());
    world.say(50 ^ (trouble as u64) << 8, || format!("trouble: {}", trouble.name()));
    match trouble {
        Trouble::Crash => down(world, node, Stop::Crashed, away_ms(rng)),
        Trouble::Kill => down(world, node, Stop::Killed, away_ms(rng)),
        Trouble::CrashMany => {
            let all = rng.chance(0.5);
            for id in world.machines.nodes.keys().copied().filter(|id| all || *id != node) {
                down(world, id, Stop::Crashed, 1 + rng.below(100));
            }
        }
        Trouble::Restart => restart(world, node, away_ms(rng)),
        Trouble::LeaderAlone => leader_alone(world, rng),
        Trouble::Cut => cut(world, rng),
        Trouble::Slow => {
            let (from, to) = two(world, rng);
            world.machines.net.slow(from, to, ms(rng.below(80)), rng.below(20_000));
        }
        Trouble::Break => {
            let (from, to) = two(world, rng);
            world.machines.net.break_session(from, to);
        }
        Trouble::Freeze => {
            let node = if rng.chance(0.5) { leader(world, rng) } else { node };
            world.freeze(node, 30 + rng.below(1_200));
        }
        Trouble::Skew => {
            let hour = 3_600_000;
            let skew = rng.below(2 * hour) as i64 - hour as i64;
            world.place(node).sim().set_skew_ms(skew);
        }
        Trouble::Stall => stall(world, node, rng.fork()),
        Trouble::Transfer => transfer(world, node, rng),
        Trouble::Replace => replace(world, node, members),
        Trouble::Leave => leave(world, node, members),
        Trouble::Maintain => upkeep::begin(world, Job::Maintenance, node, rng, members),
        Trouble::Decommission => upkeep::begin(world, Job::Decommission, node, rng, members),
        Trouble::Rolling => upkeep::begin(world, Job::Rolling, node, rng, members),
        Trouble::Pause => upkeep::begin(world, Job::Pause, node, rng, members),
        Trouble::Away => upkeep::begin(world, Job::Away, node, rng, members),
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn any(world: &World, rng: &mut Rng) -> NodeId {
    NodeId(1 + rng.below(u64::from(world.plan.nodes)) as u32)
}

fn two(world: &World, rng: &mut Rng) -> (NodeId, NodeId) {
    let nodes = u64::from(world.plan.nodes);
    let (one, step) = (rng.below(nodes), 1 + rng.below(nodes - 1));
    (NodeId(1 + one as u32), NodeId(1 + ((one + step) % nodes) as u32))
}

/// Whoever takes itself for the leader of some shard, or any.
fn leader(world: &World, rng: &mut Rng) -> NodeId {
    let shard = ShardId(rng.below(u64::from(world.plan.shards)) as u16);
    let leads = |process: &&Arc<crate::machines::Process>| {
        let cluster = process.up().cluster;
        cluster.is_some_and(|cluster| cluster.groups().group(shard).role == Role::Leader)
    };
    world.processes().iter().find(leads).map_or_else(|| any(world, rng), |process| process.node)
}

/// How long a node is away: as often some milliseconds as some hundred.
fn away_ms(rng: &mut Rng) -> u64 {
    let most = 1 << rng.below(11);
    1 + rng.below(most)
}

fn down(world: &Arc<World>, node: NodeId, how: Stop, away_ms: u64) {
    if world.place(node).is_up() {
        world.stop(node, how);
    }
    world.restart_after(node, away_ms);
}

fn restart(world: &Arc<World>, node: NodeId, away_ms: u64) {
    let world = world.clone();
    tokio::spawn(async move {
        world.shut_down(node).await;
        world.restart_after(node, away_ms);
    });
}

/// Cuts lines: one, both directions of a pair, or all of a node, which may go one way only.
fn cut(world: &Arc<World>, rng: &mut Rng) {
    let (one, other) = two(world, rng);
    let one = if rng.chance(0.4) { leader(world, rng) } else { one };
    let others = world.machines.nodes.keys().copied().filter(|id| *id != one);
    let lines: Vec<(NodeId, NodeId)> = match rng.below(6) {
        0 => vec![(one, other)],
        1 => vec![(one, other), (other, one)],
        2 => others.map(|id| (one, id)).collect(),
        3 => others.map(|id| (id, one)).collect(),
        _ => others.flat_map(|id| [(one, id), (id, one)]).collect(),
    };
    let lines: Vec<_> = lines.into_iter().filter(|(from, to)| from != to).collect();
    cut_for(world, lines, 20 + away_ms(rng));
}

/// A leader is cut off while its lease runs, and those on whose word it runs forget that they gave it.
fn leader_alone(world: &Arc<World>, rng: &mut Rng) {
    let alone = leader(world, rng);
    let others: Vec<_> = world.machines.nodes.keys().copied().filter(|id| *id != alone).collect();
    let lines = others.iter().flat_map(|id| [(alone, *id), (*id, alone)]).collect();
    cut_for(world, lines, world.plan.timing_ms.2 + away_ms(rng));
    for id in others {
        down(world, id, Stop::Crashed, 1 + rng.below(10));
    }
}

fn cut_for(world: &Arc<World>, lines: Vec<(NodeId, NodeId)>, for_ms: u64) {
    let text = || lines.iter().map(|(a, b)| format!("{a}>{b}")).collect::<Vec<_>>().join(" ");
    world.say(53, || format!("cut for {for_ms} ms: {}", text()));
    lines.iter().for_each(|(from, to)| world.machines.net.cut(*from, *to));
    let world = world.clone();
    tokio::spawn(async move {
        sleep(ms(for_ms)).await;
        lines.iter().for_each(|(from, to)| world.machines.net.mend(*from, *to));
    });
}

/// A slow disk for a while: each of its syncs may have to wait up to a tenth of a second.
fn stall(world: &Arc<World>, node: NodeId, mut rng: Rng) {
    let world = world.clone();
    tokio::spawn(async move {
        for _ in 0..5 + rng.below(20) {
            world.place(node).sim().stall(ms(rng.below(100)));
            sleep(ms(rng.below(150))).await;
        }
    });
}

fn transfer(world: &Arc<World>, to: NodeId, rng: &mut Rng) {
    let shard = ShardId(rng.below(u64::from(world.plan.shards)) as u16);
    let from = leader(world, rng);
    let world = world.clone();
    tokio::spawn(async move {
        let Some((process, _)) = world.process(from) else { return };
        let Some(cluster) = process.up().cluster else { return };
        if world.planted == Some(Planted::HandOverUnstopped) {
            let groups = cluster.groups();
            let voters = groups.group(shard).voters;
            let Some(to) = voters.into_iter().find(|voter| voter.node == to) else { return };
            // Whatever comes of it.
            let _ = groups.transfer_leadership(shard, to).await;
            return;
        }
        let moved = cluster.hand_over(shard, to);
        let moved = world.call(&process, Duration::from_secs(5), moved).await;
        world.say(54, || format!("{shard} from node {from} to {to}: {moved:?}"));
    });
}

/// A disk is lost, for good. The node comes back with an empty one.
fn replace(world: &Arc<World>, node: NodeId, members: &Arc<Mutex<()>>) {
    let (world, members) = (world.clone(), members.clone());
    tokio::spawn(async move {
        let _alone = members.lock().await;
        if world.is_ending() || !all_whole(&world) {
            return;
        }
        world.count("replaced");
        world.stop(node, Stop::Crashed);
        world.replace_disk(node);
        world.start(node, false);
        ready(&world, node, "a node with an empty disk never takes its place").await;
    });
}

/// A node leaves, however often it has to be asked, and joins again with an empty disk.
fn leave(world: &Arc<World>, node: NodeId, members: &Arc<Mutex<()>>) {
    let (world, members) = (world.clone(), members.clone());
    tokio::spawn(async move {
        let _alone = members.lock().await;
        if world.is_ending() || !all_whole(&world) {
            return;
        }
        while !has_left(&world, node).await {
            sleep(ms(100)).await;
        }
        world.count("left");
        world.shut_down(node).await;
        world.stop(node, Stop::Killed);
        world.replace_disk(node);
        world.start(node, false);
        ready(&world, node, "a node that left never joins again").await;
    });
}

async fn has_left(world: &Arc<World>, node: NodeId) -> bool {
    let Some((process, _)) = world.process(node) else { return false };
    let Some(cluster) = process.up().cluster else { return false };
    let left = world.call(&process, Duration::from_secs(10), cluster.leave()).await;
    world.say(55, || format!("node {node} leaves: {left:?}"));
    matches!(left, Some(Ok(())))
}
