//! What runs on a node: entities, and singletons that tell the resource that they are there.

use std::{sync::Arc, time::Duration};

use duractor::{NodeBuilder, Singleton};
use duractor_journal::NodeId;
use tokio::time::sleep;

use super::{account::Account, errands, locks::options, world::World};
use crate::{bank::Purse, cluster::network::SimNetwork, machines::Boot};

/// What an application does: its entities and singletons on a node of the cluster.
pub(super) fn host(world: &Arc<World>, builder: NodeBuilder, boot: Boot) -> NodeBuilder {
    let builder = builder.register(Account { settings: world.plan.settings.clone() });
    let builder = builder.session(options(world));
    let builder = builder.register(Purse { settings: world.plan.settings.clone() });
    let builder = errands::register(builder, &world.plan.settings);
    let add = |builder: NodeBuilder, n| {
        let world = Arc::downgrade(world);
        builder.singleton(&worker(n), move |singleton| {
            let world = world.clone();
            async move {
                match world.upgrade() {
                    Some(world) => work(&world, &singleton, boot).await,
                    None => Ok(()),
                }
            }
        })
    };
    (0..world.plan.singletons).fold(builder, add)
}

/// The name of a singleton.
pub(super) fn worker(n: usize) -> String {
    format!("worker-{n}")
}

/// A singleton's work: it tells the resource, again and again, that it is there.
async fn work(
    world: &World,
    singleton: &Singleton,
    boot: Boot,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    if world.place_of(boot).is_none() {
        // It has ended, and does not know it yet.
        return Ok(());
    }
    let mut rng = world.fork_rng();
    let (name, token) = (singleton.name(), singleton.token());
    world.say(20, || format!("{name} begins in process {boot} with token {token}"));
    let run = world.resource.begin(name, token, boot);
    while world.place_of(boot).is_some() {
        if let Some(violation) = world.resource.violation() {
            world.violated(violation);
        }
        tokio::select! {
            biased;
            () = singleton.ending() => return Ok(()),
            () = sleep(Duration::from_millis(1 + rng.below(40))) => run.work(),
        }
        // Not in the end, when it must be seen to run: the pauses between its starts grow.
        if rng.chance(0.01) && !world.is_ending() {
            return Err("it fails sometimes".into());
        }
    }
    Ok(())
}

/// A node's configuration.
pub(super) fn config(world: &World, id: NodeId) -> Vec<(&'static str, String)> {
    let (heartbeat, min, max) = world.plan.timing_ms;
    let (zone, rack, weight) = &world.plan.sites[id.0 as usize - 1];
    vec![
        ("node.zone", zone.clone()),
        ("node.rack", rack.clone()),
        ("node.weight", weight.to_string()),
        ("cluster.moves", world.plan.moves.to_string()),
        ("cluster.replace_after_ms", world.plan.replace_after_ms.to_string()),
        ("node.number", id.0.to_string()),
        ("node.data_dir", "/data".into()),
        ("cluster.name", "simulated".into()),
        ("cluster.shards", world.plan.shards.to_string()),
        ("net.listen", SimNetwork::address(id)),
        ("discovery.seeds", world.machines.addresses().join(",")),
        ("timing.heartbeat_ms", heartbeat.to_string()),
        ("timing.election_min_ms", min.to_string()),
        ("timing.election_max_ms", max.to_string()),
        ("timing.settle_ms", "300".into()),
        ("timing.join_timeout_ms", "5000".into()),
        ("timing.operation_timeout_ms", "5000".into()),
        ("log.segment_bytes", world.plan.segment_bytes.to_string()),
    ]
}
