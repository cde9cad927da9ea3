//! What goes wrong, one thing after the other; several last and overlap.

use std::{sync::Arc, time::Duration};

use duractor_journal::{NodeId, Role, ShardId};
use tokio::{sync::Notify, time::sleep};

use super::{network::Stop, plan::Trouble, world::World};
use crate::{
    disk::{Fault, Op, Rule},
    rng::Rng,
};

/// Makes trouble until the load ends.
pub(crate) async fn make(world: Arc<World>) {
    let mut rng = world.fork_rng();
    let of = |trouble: &Trouble| !trouble.of_members();
    let troubles: Vec<_> = world.plan.troubles.iter().copied().filter(of).collect();
    while !world.is_ending() {
        sleep(ms(1 + rng.below(2 * world.plan.trouble_ms))).await;
        let Some(trouble) = rng.pick(&troubles).copied() else { return };
        if world.is_ending() {
            return;
        }
        one(&world, trouble, &mut rng).await;
    }
}

async fn one(world: &Arc<World>, trouble: Trouble, rng: &mut Rng) {
    let node = any(world, rng);
    world.fault(trouble.name());
    world.say(50 ^ (trouble as u64) << 8, || format!("trouble: {}", trouble.name()));
    match trouble {
        Trouble::Crash => down(world, node, Stop::Crashed, away_ms(rng)),
        Trouble::Kill => down(world, node, Stop::Killed, away_ms(rng)),
        Trouble::CrashMany => {
            let all = rng.chance(0.5);
            for id in world.nodes.keys().copied().filter(|id| all || *id != node) {
                down(world, id, Stop::Crashed, 1 + rng.below(100));
            }
        }
        Trouble::CrashAtAck => world.notes().crash_at_ack = true,
        Trouble::LongAway => down(world, node, Stop::Crashed, 600 + rng.below(1_500)),
        Trouble::CrashLoop => crash_loop(world, node, rng.fork()),
        Trouble::TwoVotes => two_votes(world, rng).await,
        Trouble::LeaderAlone => leader_alone(world, rng),
        Trouble::Cut => cut(world, rng),
        Trouble::Slow => {
            let (from, to) = two(world, rng);
            let (delay, ns_per_byte) = (ms(rng.below(80)), rng.below(20_000));
            world.say(51, || format!("{from} to {to} takes {delay:?} and {ns_per_byte} ns a byte"));
            world.net.slow(from, to, delay, ns_per_byte);
        }
        Trouble::Break => {
            let (from, to) = two(world, rng);
            world.net.break_session(from, to);
        }
        Trouble::Freeze => {
            let node = if rng.chance(0.5) { leader(world, rng) } else { node };
            world.freeze(node, 30 + rng.below(1_200));
        }
        Trouble::Skew => {
            let skew = rng.below(600_000) as i64 - 300_000;
            world.node(node).sim().set_skew_ms(skew);
        }
        Trouble::Stall => stall(world, node, rng.fork()),
        Trouble::FailSync => {
            let node = world.node(node);
            node.disk_fails();
            let fault = if rng.chance(0.5) { Fault::MarkClean } else { Fault::DropPages };
            node.sim().disk().inject(Rule::on(Op::Sync, fault).nth(1 + rng.below(5)));
        }
        Trouble::Maintain => maintain(world, node),
        Trouble::Transfer | Trouble::Move | Trouble::Replace | Trouble::Damage => {}
    }
}

/// Power fails everywhere, and comes back at once or soon. Called within an acknowledgement.
pub(crate) fn crash_all(world: &Arc<World>) {
    let mut rng = world.fork_rng();
    world.say(52, || "power fails everywhere, right after an acknowledgement".into());
    for id in world.nodes.keys().copied() {
        down(world, id, Stop::Crashed, 1 + rng.below(40));
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
    let shard = ShardId(rng.below(u64::from(world.plan.log.shards)) as u16);
    let leads = |p: &&Arc<super::world::Process>| p.subject.group(shard).role == Role::Leader;
    world.processes().iter().find(leads).map_or_else(|| any(world, rng), |process| process.node)
}

/// How long a node is away: as often some milliseconds as some hundred.
fn away_ms(rng: &mut Rng) -> u64 {
    let most = 1 << rng.below(11);
    1 + rng.below(most)
}

fn down(world: &Arc<World>, node: NodeId, how: Stop, away_ms: u64) {
    if world.node(node).is_up() {
        world.stop(node, how);
    }
    world.restart_after(node, away_ms);
}

fn crash_loop(world: &Arc<World>, node: NodeId, mut rng: Rng) {
    let world = world.clone();
    tokio::spawn(async move {
        world.stop(node, Stop::Crashed);
        sleep(ms(rng.below(800))).await;
        // Whatever happens, it is up in the end.
        for _ in 0..2 + rng.below(4) {
            world.start(node).await;
            let within = if rng.chance(0.5) { 15 } else { 200 };
            sleep(ms(rng.below(within))).await;
            if world.is_ending() {
                break;
            }
            world.stop(node, if rng.chance(0.7) { Stop::Crashed } else { Stop::Killed });
            sleep(ms(1 + rng.below(20))).await;
        }
        world.start(node).await;
    });
}

/// Cuts lines: one, both directions of a pair, or all of a node, which may go one way only.
fn cut(world: &Arc<World>, rng: &mut Rng) {
    let (one, other) = two(world, rng);
    let one = if rng.chance(0.4) { leader(world, rng) } else { one };
    let others = world.nodes.keys().copied().filter(|id| *id != one);
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

fn cut_for(world: &Arc<World>, lines: Vec<(NodeId, NodeId)>, for_ms: u64) {
    let text = || lines.iter().map(|(a, b)| format!("{a}>{b}")).collect::<Vec<_>>().join(" ");
    world.say(53, || format!("cut for {for_ms} ms: {}", text()));
    lines.iter().for_each(|(from, to)| world.net.cut(*from, *to));
    let world = world.clone();
    tokio::spawn(async move {
        sleep(ms(for_ms)).await;
        lines.iter().for_each(|(from, to)| world.net.mend(*from, *to));
    });
}

/// A leader is cut off while its lease runs, and those on whose word it runs forget that they gave it.
fn leader_alone(world: &Arc<World>, rng: &mut Rng) {
    let alone = leader(world, rng);
    let others: Vec<_> = world.nodes.keys().copied().filter(|id| *id != alone).collect();
    let lines = others.iter().flat_map(|id| [(alone, *id), (*id, alone)]).collect();
    cut_for(world, lines, world.plan.timing.election_max_ms + away_ms(rng));
    for id in others {
        down(world, id, Stop::Crashed, 1 + rng.below(10));
    }
}

/// A slow disk for a while: each of its syncs may have to wait up to a tenth of a second.
fn stall(world: &Arc<World>, node: NodeId, mut rng: Rng) {
    let world = world.clone();
    tokio::spawn(async move {
        for _ in 0..5 + rng.below(20) {
            world.node(node).sim().stall(ms(rng.below(100)));
            sleep(ms(rng.below(150))).await;
        }
    });
}

fn maintain(world: &Arc<World>, node: NodeId) {
    let world = world.clone();
    tokio::spawn(async move {
        let Some(process) = world.process(node) else { return };
        if let Some(Err(error)) = world.call(&process, process.subject.maintain()).await {
            world.failed(&process, &error);
        }
    });
}

/// A voter is asked by one candidate, loses power right after its answer left, and is asked by
/// another candidate of the same term. The candidates cannot hear each other.
async fn two_votes(world: &Arc<World>, rng: &mut Rng) {
    let voter = leader(world, rng);
    let others: Vec<_> = world.nodes.keys().copied().filter(|id| *id != voter).collect();
    let apart = |world: &Arc<World>, for_ms| {
        let pairs = others.iter().flat_map(|a| others.iter().map(|b| (*a, *b)));
        cut_for(world, pairs.filter(|(a, b)| a != b).collect(), for_ms);
    };
    let wait = world.plan.timing.election_max_ms;
    apart(world, 4 * wait);
    world.stop(voter, Stop::Crashed);
    sleep(ms(wait / 2 + rng.below(2 * wait))).await;
    let voted = Arc::new(Notify::new());
    let (told, power) = (voted.clone(), Arc::downgrade(world));
    world.start(voter).await;
    if world.is_ending() {
        return;
    }
    world.net.after_control(voter, 1 + rng.below(6), move || {
        if let Some(world) = power.upgrade() {
            world.stop(voter, Stop::Crashed);
        }
        told.notify_one();
    });
    tokio::select! {
        biased;
        () = voted.notified() => {}
        () = sleep(ms(2 * wait)) => {
            if world.is_ending() {
                return;
            }
            world.stop(voter, Stop::Crashed);
        }
    }
    // Whoever was promised the vote is heard late, so that the other asks first.
    if let Some(first) = rng.pick(&others)
        && !world.is_ending()
    {
        cut_for(world, vec![(*first, voter), (voter, *first)], rng.below(wait));
    }
    sleep(ms(1 + rng.below(5))).await;
    world.start(voter).await;
}
