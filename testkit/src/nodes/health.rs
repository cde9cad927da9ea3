//! How a cluster is: whether every node is a member, every group whole, every entity served.

use std::{future::IntoFuture, sync::Arc, time::Duration};

use duractor::AskError;
use duractor_journal::NodeId;
use tokio::time::{Instant, sleep};

use super::{
    account::Look,
    clients::{failed, find},
    life::worker,
    locks::all_free,
    world::World,
};
use crate::machines::{self, Site};

/// Invariant V: so long may an entity take until it answers again.
pub(crate) const SERVES_WITHIN: Duration = Duration::from_secs(10);
/// And so long the whole cluster, until each group has its replicas where they belong.
pub(crate) const WHOLE_WITHIN: Duration = Duration::from_secs(60);
/// So long a node that lost its disk, or leaves, may take.
const MEMBERS_WITHIN: Duration = Duration::from_secs(20);

/// Waits until every account answers at every node, and every singleton runs.
pub(crate) async fn all_serve(world: &Arc<World>) {
    let until = Instant::now() + SERVES_WITHIN;
    for id in world.machines.nodes.keys().copied() {
        for account in 0..world.plan.accounts {
            let mut last = "it is not up".to_owned();
            loop {
                match look(world, id, account).await {
                    Some(Ok(_)) => break,
                    Some(Err(error)) => last = error.to_string(),
                    None => {}
                }
                if Instant::now() > until {
                    return world.violated(format!(
                        "V: account {account} does not answer at node {id}: {last}"
                    ));
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
    all_free(world).await;
    for n in 0..world.plan.singletons {
        while world.resource.runs_in(&worker(n)).is_none() {
            // One that failed before may wait for up to 10 s until it starts again.
            if Instant::now() > until + SERVES_WITHIN {
                return world.violated(format!("V: {} does not run", worker(n)));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn look(world: &World, id: NodeId, account: usize) -> Option<Result<(u64, u64), AskError>> {
    let (process, host) = world.process(id)?;
    let ask = find(world, &host, account)?.ask(Look).timeout(Duration::from_secs(1));
    let looked = world.call(&process, Duration::from_secs(3), ask.into_future()).await?;
    if let Err(error) = &looked {
        failed(world, &process, error);
    }
    Some(looked)
}

/// Waits until all replicas are where they belong.
pub(crate) async fn whole(world: &Arc<World>) {
    let until = Instant::now() + WHOLE_WITHIN;
    while !all_whole(world) {
        if Instant::now() > until {
            let status = world.processes().into_iter().filter_map(|process| process.up().cluster);
            let status: Vec<_> = status.map(|cluster| cluster.status().problems).collect();
            return world.violated(format!("V: the cluster is never whole: {status:?}"));
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Whether every node is up, and every group has all its replicas.
pub(crate) fn all_whole(world: &World) -> bool {
    machines::all_whole(world, world.plan.shards)
}

/// Waits until a node is ready, for as long as the load goes on.
pub(crate) async fn ready(world: &Arc<World>, node: NodeId, else_: &str) {
    let is_ready = || {
        let cluster = world.process(node).and_then(|(process, _)| process.up().cluster);
        cluster.is_some_and(|cluster| cluster.status().ready)
    };
    let until = Instant::now() + MEMBERS_WITHIN;
    while !is_ready() {
        if !world.is_ending() && Instant::now() > until {
            // Troubles go on meanwhile: only the end of the run tells.
            return world.say(56, || format!("{else_}, so far"));
        }
        sleep(Duration::from_millis(50)).await;
        if world.is_ending() {
            return;
        }
    }
}
