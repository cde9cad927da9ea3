//! The end of a run: everything heals, everybody must serve again, and all that nodes hold is read and
//! compared.

use std::{sync::Arc, time::Duration};

use duractor::Seq;
use duractor_journal::NodeId;
use tokio::time::{Instant, sleep, timeout};

use super::{
    account::All,
    clients::find,
    health::{SERVES_WITHIN, WHOLE_WITHIN, all_serve},
    transfers,
    world::World,
};
use crate::{cluster::network::Stop, machines::Site};

/// Everybody answers for every account, before and after everybody was restarted.
pub(crate) async fn serve_again(world: &Arc<World>) {
    if world.fork_rng().chance(0.5) {
        all_serve(world).await;
    }
    for id in world.machines.nodes.keys().copied() {
        match world.fork_rng().below(3) {
            0 => world.stop(id, Stop::Crashed),
            1 => world.stop(id, Stop::Killed),
            _ if timeout(WHOLE_WITHIN, world.shut_down(id)).await.is_err() => {
                world.violated(format!("V: node {id} never shuts down"));
            }
            _ => {}
        }
    }
    for id in world.machines.nodes.keys().copied() {
        world.start(id, false);
    }
    all_serve(world).await;
}

/// Reads everything, at every node, and compares it with what clients saw. Returns how many calls were
/// checked.
pub(crate) async fn compare(world: &Arc<World>) -> Result<u64, String> {
    let mut checked = 0;
    for account in 0..world.plan.accounts {
        let mut first: Option<Vec<u64>> = None;
        for id in world.machines.nodes.keys().copied() {
            let (held, kept) = read(world, id, account).await?;
            if !held.ends_with(&kept) {
                return Err(format!("C: account {account} at node {id}: {kept:?} of {held:?}"));
            }
            let first = first.get_or_insert_with(|| held.clone());
            if *first != held {
                return Err(format!("C: account {account} at node {id}: {held:?}, not {first:?}"));
            }
        }
        checked += world.notes().history.check(account, &first.unwrap_or_default())?;
    }
    checked += transfers::compare(world).await?;
    Ok(checked)
}

/// Whether a node votes in an account's group.
fn is_replica(world: &World, id: NodeId, account: usize) -> bool {
    let Some((process, host)) = world.process(id) else { return false };
    let (Some(cluster), Some(entity)) = (process.up().cluster, find(world, &host, account)) else {
        return false;
    };
    let voters = cluster.groups().group(entity.id().shard(world.plan.shards)).voters;
    voters.contains(&cluster.me())
}

/// What an account holds, asked at a node, and the events that the node itself keeps of it.
async fn read(world: &World, id: NodeId, account: usize) -> Result<(Vec<u64>, Vec<u64>), String> {
    let until = Instant::now() + SERVES_WITHIN;
    loop {
        let why = match world.process(id) {
            None => "it is not up".to_owned(),
            Some((_, host)) => {
                let Some(entity) = find(world, &host, account) else {
                    return Ok(Default::default());
                };
                let held = entity.ask(All).timeout(Duration::from_secs(2)).await;
                let kept = entity.history(Seq(1), u64::MAX).await;
                match (held, kept) {
                    (Ok(held), Ok(kept)) => {
                        return Ok((held, kept.iter().map(|event| event.event.op).collect()));
                    }
                    // Not every node has a replica of every shard.
                    (Ok(held), Err(_)) if !is_replica(world, id, account) => {
                        return Ok((held, Vec::new()));
                    }
                    (Err(error), _) | (_, Err(error)) => error.to_string(),
                }
            }
        };
        if Instant::now() > until {
            return Err(format!("V: account {account} cannot be read at node {id}: {why}"));
        }
        sleep(Duration::from_millis(20)).await;
    }
}
