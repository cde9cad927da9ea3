//! Who belongs to the groups: makes them, moves them, replaces nodes whose disk is gone. One change
//! at a time, each until it is done; so never more than one voter of a group is without its disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use duractor_journal::{JournalError, Member, NodeId, Role, ShardId};
use tokio::time::sleep;

use super::{
    Planted,
    network::Stop,
    plan::Trouble,
    world::{Process, World},
};
use crate::{consistency::frames, disk::SimDisk, rng::Rng};

/// Who belongs to each group, once what is under way is done.
#[derive(Debug, Clone, Default)]
pub(crate) struct Members {
    pub(crate) voters: BTreeMap<ShardId, BTreeSet<Member>>,
    pub(crate) learners: BTreeMap<ShardId, BTreeSet<Member>>,
}

/// Makes all groups, before anything goes wrong.
pub(crate) async fn initialize(world: &Arc<World>) -> Members {
    let mut members = Members::default();
    // Links come first: whoever is made a leader without them has nobody to lead.
    sleep(Duration::from_millis(60)).await;
    for shard in world.shards() {
        let count = world.plan.voters.min(world.plan.nodes);
        let place = |n| NodeId(1 + (u32::from(shard.0) + n) % world.plan.nodes);
        let voters: BTreeSet<_> = (0..count).map(|n| world.node(place(n)).member()).collect();
        if let Some(process) = world.process(place(0)) {
            let made = process.subject.initialize(shard, voters.clone());
            match world.call(&process, made).await {
                Some(Ok(())) => {}
                Some(Err(error)) => world.violated(format!("V: {shard} is not made: {error}")),
                None => world.violated(format!("V: {shard} is not made")),
            }
        }
        members.voters.insert(shard, voters);
        members.learners.insert(shard, BTreeSet::new());
    }
    members
}

/// Changes members until the load ends, and ends what is under way then.
pub(crate) async fn change(world: Arc<World>, mut members: Members) -> Members {
    let mut rng = world.fork_rng();
    let of = |trouble: &Trouble| trouble.of_members();
    let troubles: Vec<_> = world.plan.troubles.iter().copied().filter(of).collect();
    while !world.is_ending() {
        sleep(Duration::from_millis(50 + rng.below(4 * world.plan.trouble_ms))).await;
        let Some(trouble) = rng.pick(&troubles).copied() else { break };
        if world.is_ending() {
            break;
        }
        world.fault(trouble.name());
        world.say(60 ^ (trouble as u64) << 8, || format!("members: {}", trouble.name()));
        match trouble {
            Trouble::Transfer => transfer(&world, &members, &mut rng).await,
            Trouble::Move => move_shard(&world, &mut members, &mut rng).await,
            Trouble::Replace => {
                let node = NodeId(1 + rng.below(u64::from(world.plan.nodes)) as u32);
                replace(&world, &mut members, node).await;
            }
            Trouble::Damage => {
                let node = NodeId(1 + rng.below(u64::from(world.plan.nodes)) as u32);
                damage(&world, &mut members, node, &mut rng).await;
            }
            _ => {}
        }
    }
    members
}

async fn transfer(world: &Arc<World>, members: &Members, rng: &mut Rng) {
    let shard = ShardId(rng.below(u64::from(world.plan.log.shards)) as u16);
    let voters: Vec<_> = members.voters[&shard].iter().copied().collect();
    let (Some(to), Some(process)) = (rng.pick(&voters).copied(), leader(world, shard)) else {
        return;
    };
    world.say(61, || format!("{shard}: {} hands over to {to}", process.node));
    let call = process.subject.transfer_leadership(shard, to);
    if let Some(Err(error)) = world.call(&process, call).await {
        world.failed(&process, &error);
    }
}

/// Other voters, or a learner more or less.
async fn move_shard(world: &Arc<World>, members: &mut Members, rng: &mut Rng) {
    let shard = ShardId(rng.below(u64::from(world.plan.log.shards)) as u16);
    let mut left: Vec<_> = world.nodes.values().map(|node| node.member()).collect();
    let count = 1 + rng.index(left.len());
    let count = if rng.chance(0.6) { count.max(3) } else { count };
    let voters: BTreeSet<_> =
        (0..count.min(left.len())).map(|_| left.swap_remove(rng.index(left.len()))).collect();
    let learners = left.into_iter().filter(|_| rng.chance(0.3)).collect();
    settle(world, members, shard, voters, learners).await;
}

/// Makes every node a voter of every shard, where a shard could not do without this node.
async fn spare(world: &Arc<World>, members: &mut Members, node: NodeId) {
    let alone =
        |voters: &BTreeSet<Member>| voters.len() < 3 && voters.iter().any(|m| m.node == node);
    if members.voters.values().any(alone) {
        for shard in world.shards() {
            let all = world.nodes.values().map(|node| node.member()).collect();
            settle(world, members, shard, all, BTreeSet::new()).await;
        }
    }
}

/// The node's disk is gone; a new one joins in its place.
pub(crate) async fn replace(world: &Arc<World>, members: &mut Members, node: NodeId) {
    // Whoever is the only voter takes its shard's events with it.
    spare(world, members, node).await;
    let old = world.node(node).member();
    world.stop(node, Stop::Crashed);
    world.replace_disk(node);
    let new = world.node(node).member();
    world.say(62, || format!("the disk of {old} is gone, {new} takes its place"));
    world.start(node).await;
    if world.planted == Some(Planted::WipedDisk) {
        return;
    }
    for shard in world.shards() {
        let swap = |of: &BTreeSet<Member>| {
            of.iter().map(|m| if *m == old { new } else { *m }).collect::<BTreeSet<_>>()
        };
        let (voters, learners) = (swap(&members.voters[&shard]), swap(&members.learners[&shard]));
        if (&voters, &learners) != (&members.voters[&shard], &members.learners[&shard]) {
            settle(world, members, shard, voters, learners).await;
        }
    }
}

/// Bits flip on the node's disk, in what is durable and not at the end of the log. It must be
/// noticed, at the latest when they are read. Then the disk is replaced, noticed or not.
async fn damage(world: &Arc<World>, members: &mut Members, node: NodeId, rng: &mut Rng) {
    // The node may not open any more, and then nobody could do without it.
    spare(world, members, node).await;
    let sim = world.node(node).sim();
    let Some((path, at)) = durable_byte(sim.disk(), rng) else { return };
    world.node(node).disk_rots();
    world.say(63, || format!("node {node}: byte {at} of {} rots", path.display()));
    sim.disk().flip_bit(&path, at as u64, rng.below(8) as u32);
    if rng.chance(0.5) {
        sleep(Duration::from_millis(rng.below(300))).await;
    }
    world.stop(node, if rng.chance(0.5) { Stop::Crashed } else { Stop::Killed });
    sleep(Duration::from_millis(rng.below(30))).await;
    world.start(node).await;
    if world.node(node).is_up() {
        sleep(Duration::from_millis(rng.below(600))).await;
    }
    if world.planted != Some(Planted::CutAtDamage) {
        replace(world, members, node).await;
    }
}

/// A byte of a log file before the last group commit of the newest segment.
fn durable_byte(disk: &SimDisk, rng: &mut Rng) -> Option<(PathBuf, usize)> {
    let files = disk.files();
    let of = |ending: &str| {
        let of = files.iter().map(|(path, _)| path);
        of.filter(|path| path.extension().is_some_and(|e| e == ending)).cloned().collect::<Vec<_>>()
    };
    let (live, sealed) = (of("log"), of("sealed"));
    // The newest segment that anything is in; later ones are made ahead of need.
    let newest = live.iter().rev().find_map(|path| {
        let frames = frames(&disk.peek(path)?);
        Some((path.clone(), frames.last()?.flush))
    });
    let (path, end) = match newest {
        Some((path, end)) if sealed.is_empty() || rng.chance(0.8) => (path, end),
        _ => {
            let path = rng.pick(&sealed)?.clone();
            let end = disk.peek(&path)?.len();
            (path, end)
        }
    };
    let begin = 64;
    (end > begin).then(|| (path, begin + rng.index(end - begin)))
}

fn leader(world: &World, shard: ShardId) -> Option<Arc<Process>> {
    let leads = |process: &Arc<Process>| process.subject.group(shard).role == Role::Leader;
    let mut leaders: Vec<_> = world.processes().into_iter().filter(leads).collect();
    leaders.sort_by_key(|process| process.subject.group(shard).term);
    leaders.pop()
}

/// Asks whoever leads until the group has these members. Repairs what must be for it to go on.
async fn settle(
    world: &Arc<World>,
    members: &mut Members,
    shard: ShardId,
    voters: BTreeSet<Member>,
    learners: BTreeSet<Member>,
) {
    let name =
        |of: &BTreeSet<Member>| of.iter().map(Member::to_string).collect::<Vec<_>>().join(" ");
    world.say(64, || format!("{shard}: voters {}, learners {}", name(&voters), name(&learners)));
    while world.notes().violation.is_none() {
        if let Some(process) = leader(world, shard) {
            let change = process.subject.change_members(shard, voters.clone(), learners.clone());
            match world.call(&process, change).await {
                Some(Ok(())) => break,
                Some(Err(error)) => {
                    world.say(65, || format!("{shard}: not changed: {error}"));
                    world.failed(&process, &error);
                    if matches!(error, JournalError::OutcomeUnknown { .. }) {
                        sleep(Duration::from_millis(50)).await;
                    }
                }
                None => {}
            }
        }
        sleep(Duration::from_millis(40)).await;
    }
    world.say(66, || format!("{shard}: has its members"));
    members.voters.insert(shard, voters);
    members.learners.insert(shard, learners);
}
