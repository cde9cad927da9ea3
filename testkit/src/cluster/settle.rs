//! The end of a run: everything heals, everybody is restarted, every shard must serve again, and
//! all replicas are read and compared.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use duractor_journal::{
    Ack, EntityId, JournalError, Member, NodeId, Position, ReplayRange, ShardId,
};
use futures_util::StreamExt;
use tokio::time::{Instant, sleep, timeout};

use super::{
    checks,
    clients::Client,
    history::Replica,
    members::{self, Members},
    network::Stop,
    owner::{self, Tried},
    world::{Process, World},
};

/// Invariant V: so long may a shard take until it serves again.
const SERVES_WITHIN: Duration = Duration::from_secs(10);

/// Heals the world.
pub(crate) fn heal(world: &World) {
    world.say(70, || "everything heals".into());
    world.net.heal();
    world.notes().crash_at_ack = false;
    for node in world.nodes.values() {
        node.sim().disk().heal();
        node.sim().set_skew_ms(0);
        world.thaw(node.id);
    }
}

/// Waits until every shard serves: in half of the runs before anybody is restarted, and in all of
/// them after everybody was.
pub(crate) async fn serve_again(world: &Arc<World>) {
    if world.fork_rng().chance(0.5) {
        for id in world.nodes.keys().copied() {
            world.start(id).await;
        }
        all_serve(world).await;
    }
    for id in world.nodes.keys().copied() {
        if !world.node(id).is_ruined() {
            let crash = world.notes().rng.chance(0.5);
            world.stop(id, if crash { Stop::Crashed } else { Stop::Killed });
        }
    }
    for id in world.nodes.keys().copied() {
        world.start(id).await;
    }
    all_serve(world).await;
}

pub(crate) async fn all_serve(world: &Arc<World>) {
    for shard in world.shards() {
        if timeout(SERVES_WITHIN, serves(world, shard)).await.is_err() {
            let states: Vec<_> =
                world.processes().iter().map(|p| format!("{:?}", p.subject.group(shard))).collect();
            world.violated(format!("V: {shard} does not serve: {}", states.join("; ")));
        }
    }
}

/// Replaces what is ruined; the load has ended, so no other change is under way.
pub(crate) async fn repair(world: &Arc<World>, members: &mut Members) {
    for id in world.nodes.keys().copied() {
        if world.node(id).is_ruined() {
            members::replace(world, members, id).await;
        }
    }
}

async fn serves(world: &Arc<World>, shard: ShardId) {
    // The last entities are those that nobody else writes to, one of each shard.
    let entities = world.notes().history.entities.len();
    let entity = entities - usize::from(world.plan.log.shards) + usize::from(shard.0);
    let number = Client::new(world).request(entity, false);
    loop {
        for process in world.processes() {
            // Only who leads takes it; whoever else is asked refuses at once.
            if let Tried::Done(seq, position) =
                owner::append(world, &process, number, Ack::Quorum).await
            {
                let history = &mut world.notes().history;
                let end = history.tick();
                history.requests[number].acked = Some((end, seq, position));
                return;
            }
        }
        sleep(Duration::from_millis(25)).await;
    }
}

/// Reads every replica of every shard, and checks the whole run.
pub(crate) async fn compare(world: &Arc<World>, members: &Members) -> u64 {
    let mut checked = 0;
    for shard in world.shards() {
        let of: BTreeSet<Member> =
            members.voters[&shard].union(&members.learners[&shard]).copied().collect();
        let Some(upto) = barrier(world, shard).await else { return checked };
        let mut replicas = Vec::new();
        for member in of {
            match replica(world, member, shard, upto).await {
                Ok(replica) => replicas.push(replica),
                Err(what) => return drop_with(world, what, checked),
            }
        }
        checked += replicas.iter().map(|replica| replica.records.len() as u64).sum::<u64>();
        let found = checks::shard(&world.notes().history, shard, &replicas);
        world.check(found.map_err(|what| format!("{what} ({shard})")));
    }
    checked
}

fn drop_with(world: &World, what: String, checked: u64) -> u64 {
    world.violated(what);
    checked
}

/// The position that every replica must reach: a leader's own, read with a barrier.
async fn barrier(world: &Arc<World>, shard: ShardId) -> Option<Position> {
    let until = Instant::now() + SERVES_WITHIN;
    while Instant::now() < until {
        let leader = world.notes().leaders[usize::from(shard.0)];
        let leader = world.process(leader).into_iter();
        for process in leader.chain(world.processes()) {
            let barrier = process.subject.journal().barrier(shard);
            if let Some(Ok(position)) = world.call(&process, barrier).await {
                return Some(position);
            }
        }
        sleep(Duration::from_millis(25)).await;
    }
    world.violated(format!("V: no barrier of {shard} is passed"));
    None
}

async fn replica(
    world: &Arc<World>,
    member: Member,
    shard: ShardId,
    upto: Position,
) -> Result<Replica, String> {
    let name = |process: &Process| format!("{} ({shard})", process.member);
    let until = Instant::now() + SERVES_WITHIN;
    let process = loop {
        let process = world.process(member.node).filter(|p| p.member == member);
        match process {
            Some(process) if process.subject.group(shard).applied >= upto => break process,
            process if Instant::now() >= until => {
                let status = process.map(|process| process.subject.group(shard));
                return Err(format!("V: {member} does not reach {upto} of {shard}: {status:?}"));
            }
            _ => sleep(Duration::from_millis(20)).await,
        }
    };
    let read = read(world, &process, shard);
    match timeout(Duration::from_secs(5), read).await {
        Ok(Ok((records, heads))) => Ok(Replica { name: name(&process), records, heads }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(format!("S: reading {} never ended", name(&process))),
    }
}

type Contents = (
    Vec<(usize, duractor_journal::Seq, super::history::Seen)>,
    Vec<(usize, duractor_journal::Seq, duractor_journal::Seq)>,
);

async fn read(world: &World, process: &Process, shard: ShardId) -> Result<Contents, String> {
    let journal = process.subject.journal();
    let node = process.node;
    let failed = |error: JournalError| format!("S: reading at node {node}: {error}");
    let entities: Vec<(usize, EntityId)> = {
        let history = &world.notes().history;
        let of = history.entities.iter().cloned().enumerate();
        of.filter(|(entity, _)| history.shard(*entity) == shard).collect()
    };
    let mut heads = Vec::new();
    let mut replayed = Vec::new();
    for (entity, id) in &entities {
        let head = journal.head(id).await.map_err(failed)?;
        heads.push((*entity, head.last_seq, head.deleted_to));
        let mut chunks = journal.replay(id, ReplayRange::ALL);
        while let Some(chunk) = chunks.next().await {
            for record in chunk.map_err(failed)? {
                let (entity, seen) = recognized(world, node, &record)?;
                replayed.push((entity, record.seq, seen));
            }
        }
    }
    replayed.sort_by_key(|(_, _, seen)| seen.position);
    let deleted = |entity: usize| heads.iter().find(|(e, ..)| *e == entity).map(|(.., to)| *to);
    let mut tailed = Vec::new();
    let mut tail = journal.tail(shard, Position::ZERO);
    // What is there is given at once; the tail of a shard never ends.
    while let Ok(Some(chunk)) = timeout(Duration::from_millis(2), tail.next()).await {
        for record in chunk.map_err(failed)? {
            let (entity, seen) = recognized(world, node, &record)?;
            if deleted(entity).is_none_or(|to| record.seq > to) {
                tailed.push((entity, record.seq, seen));
            }
        }
    }
    if replayed != tailed {
        return Err(format!(
            "A: node {node} replays {} records of {shard} and tails {}: {:?}",
            replayed.len(),
            tailed.len(),
            replayed.iter().zip(&tailed).find(|(a, b)| a != b)
        ));
    }
    Ok((replayed, heads))
}

fn recognized(
    world: &World,
    node: NodeId,
    record: &duractor_journal::EventRecord,
) -> Result<(usize, super::history::Seen), String> {
    let found = world.notes().history.recognize(record);
    found.map_err(|what| format!("A: node {node}: {what}"))
}
