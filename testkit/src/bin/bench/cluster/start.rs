//! In the parent: a cluster, and what all benchmarks ask of it.

use std::{path::Path, sync::Arc, time::Duration};

use duractor_testkit::process::{Cluster, Setup, control::CallError, wire::Request};
use serde::de::DeserializeOwned;

use super::node::Order;
use crate::{
    cli::GroupArgs,
    run::{Failure, Run},
    system,
};

/// How long leaderships may take to move.
const GATHERED: Duration = Duration::from_secs(60);

/// The node that leads all groups, where one does.
pub(crate) const LEADER: u32 = 1;

/// Heartbeats as by default, and elections much later: what is measured at [`LEADER`] is lost when a
/// disk or the machine stands still for longer than an election's timeout, and leaderships move. A
/// second was not enough on a busy machine with a slow disk.
const STEADY_MS: [u64; 3] = [50, 4_000, 6_000];

/// Starts a cluster in this folder.
pub(crate) async fn start(
    run: &Run,
    dir: &Path,
    nodes: u32,
    groups: &GroupArgs,
) -> Result<Arc<Cluster>, Failure> {
    start_with(run, setup(dir, nodes, groups)?).await
}

/// Starts a cluster, and has [`LEADER`] lead all its groups.
pub(crate) async fn start_gathered(
    run: &Run,
    dir: &Path,
    nodes: u32,
    groups: &GroupArgs,
) -> Result<Arc<Cluster>, Failure> {
    let mut setup = setup(dir, nodes, groups)?;
    setup.timing = Some(STEADY_MS);
    let cluster = start_with(run, setup).await?;
    cluster.gather(LEADER, GATHERED).await?;
    Ok(cluster)
}

/// How a cluster is set up.
pub(crate) fn setup(dir: &Path, nodes: u32, groups: &GroupArgs) -> Result<Setup, Failure> {
    let mut setup = Setup::new(dir)?;
    (setup.nodes, setup.shards, setup.secure) = (nodes, groups.shards, !groups.insecure);
    Ok(setup)
}

/// Starts a cluster that is set up like this.
pub(crate) async fn start_with(run: &Run, setup: Setup) -> Result<Arc<Cluster>, Failure> {
    let bar = run.progress("starting the nodes", None);
    let cluster = Cluster::start(setup).await?;
    bar.finish_and_clear();
    Ok(cluster)
}

/// Has a node do something.
pub(crate) async fn ask<T: DeserializeOwned>(
    cluster: &Cluster,
    node: u32,
    order: &Order,
    longest: Duration,
) -> Result<T, Failure> {
    let request = Request::Own(serde_json::to_value(order)?);
    let answer = async { cluster.running(node)?.call(&request, longest).await };
    answer.await.map_err(|error: CallError| format!("node {node}: {error}").into())
}

/// Processor time of all nodes so far, in seconds.
pub(crate) fn cpu_seconds(cluster: &Cluster) -> Result<f64, Failure> {
    let times = cluster.pids().into_iter().map(|pid| system::cpu_seconds_of(&pid.to_string()));
    Ok(times.sum::<Result<f64, _>>()?)
}
