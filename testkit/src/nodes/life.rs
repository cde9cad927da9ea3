//! A process: it forms the cluster, or joins it, or comes back to it, and runs entities and singletons.

use std::{sync::Arc, time::Duration};

use duractor::{
    Env, Node, NodeBuilder, NodeError, Singleton,
    cluster::{Cluster, ClusterError, Parts, discovery::Fixed},
    config::{Config, Loader},
};
use duractor_journal::NodeId;
use tokio::time::sleep;

use super::{
    account::Account,
    errands,
    locks::options,
    resource::Boot,
    world::{Process, World},
};
use crate::{bank::Purse, cluster::network::SimNetwork, env::SimEnv};

/// Until the process is up; it tries again and again.
pub(super) async fn live(world: &Arc<World>, process: &Arc<Process>, sim: &SimEnv, mut form: bool) {
    let env = world.env(sim);
    loop {
        let error = match come_up(world, process, &env, form).await {
            Ok(()) => return,
            Err(error) => error,
        };
        form &= !matches!(error, ClusterError::AlreadyFormed { .. });
        world.say(3, || format!("node {} does not come up: {error}", process.node));
        if let ClusterError::Journal(error) = &error {
            world.violated(format!("S: node {} does not open: {error}", process.node));
        }
        world.count("starts_failed");
        sleep(Duration::from_millis(100)).await;
    }
}

async fn come_up(
    world: &Arc<World>,
    process: &Arc<Process>,
    env: &Env,
    form: bool,
) -> Result<(), ClusterError> {
    let config = config(world, process.node)?;
    let mut parts = Parts::new(config, env.clone(), process.wires.clone());
    parts.discovery = vec![Arc::new(Fixed(parts.config.discovery.seeds.clone()))];
    let cluster = match form {
        true => Cluster::bootstrap_with(parts).await?,
        false => Cluster::start_with(parts).await?,
    };
    process.lock().cluster = Some(cluster.clone());
    match host(world, process.boot, &cluster, env).await {
        Ok(host) => {
            world.say(4, || format!("node {} is up as {}", process.node, cluster.me()));
            process.lock().host = Some(Arc::new(host));
        }
        Err(error) => {
            world.violated(format!("S: node {} has no entities: {error}", process.node));
        }
    }
    Ok(())
}

/// What an application does: its entities and singletons on a node of the cluster.
async fn host(
    world: &Arc<World>,
    boot: Boot,
    cluster: &Cluster,
    env: &Env,
) -> Result<Node, NodeError> {
    let builder = Node::builder("/data").env(env.clone()).cluster(cluster);
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
    (0..world.plan.singletons).fold(builder, add).start().await
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

fn config(world: &World, id: NodeId) -> Result<Config, ClusterError> {
    let (heartbeat, min, max) = world.plan.timing_ms;
    let set = |loader: Loader, (key, value): (&str, String)| loader.set(key, value);
    let seeds: Vec<_> = world.nodes.keys().map(|id| SimNetwork::address(*id)).collect();
    let (zone, rack, weight) = &world.plan.sites[id.0 as usize - 1];
    let values = [
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
        ("discovery.seeds", seeds.join(",")),
        ("timing.heartbeat_ms", heartbeat.to_string()),
        ("timing.election_min_ms", min.to_string()),
        ("timing.election_max_ms", max.to_string()),
        ("timing.settle_ms", "300".into()),
        ("timing.join_timeout_ms", "5000".into()),
        ("timing.operation_timeout_ms", "5000".into()),
        ("log.segment_bytes", world.plan.segment_bytes.to_string()),
    ];
    Ok(values.into_iter().fold(Loader::new(), set).load()?)
}
