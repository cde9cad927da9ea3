//! `ask --nodes 3`: commands to entities of this node and of another one.

use std::time::Duration;

use super::{
    node::Order,
    start::{LEADER, ask, cpu_seconds, start_gathered},
};
use crate::{
    ask::Load,
    cli::Ask,
    latency::Summary,
    report::Row,
    run::{Failure, Run},
};

/// Where the callers are that do not run the entities.
const OTHER: u32 = 2;
/// How long a node may take to start, and entities to come into memory.
const READY: Duration = Duration::from_secs(60);
/// Bytes of the event that a persisting command makes.
const EVENT_BYTES: usize = 256;

pub(crate) async fn run(run: &Run, args: &Ask) -> Result<(), Failure> {
    let (nodes, groups) = (args.cluster.nodes, &args.cluster.groups);
    for &callers in &args.callers {
        let dir = run.new_folder()?;
        let cluster = start_gathered(run, &dir, nodes, groups).await?;
        for node in 1..=nodes {
            ask::<()>(&cluster, node, &Order::Host { callers }, READY).await?;
        }
        for (persist, what) in [(false, "read"), (true, "persist")] {
            for (node, at) in [(LEADER, "owner"), (OTHER, "other")] {
                let before = run.probes(EVENT_BYTES, nodes).await?;
                let bytes = persist.then_some(EVENT_BYTES);
                let (entities, seconds) = (args.entities, args.seconds);
                let order = Order::Ask(Load { callers, entities, seconds, bytes });
                let time = Duration::from_secs_f64(seconds);
                let cpu = cpu_seconds(&cluster)?;
                let work = ask::<Summary>(&cluster, node, &order, time + READY);
                let calls =
                    run.timed(&format!("{what} at {at}, {callers} callers"), time, work).await?;
                let cpu = cpu_seconds(&cluster)? - cpu;
                let probe = before.and(run.probes(EVENT_BYTES, nodes).await?);
                let asks_per_s = calls.count as f64 / seconds;
                let row = Row::new("ask")
                    .with("nodes", nodes)
                    .with("tls", !groups.insecure)
                    .with("callers", callers)
                    .with("entities", entities)
                    .with("what", what)
                    .with("at", at)
                    .number("asks_per_s", asks_per_s)
                    .number("p50_us", calls.p50_us)
                    .number("p99_us", calls.p99_us)
                    .number("cpu_us", cpu * 1e6 / calls.count.max(1) as f64);
                run.print(row, asks_per_s, probe)?;
            }
        }
        cluster.shutdown().await?;
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(())
}
