//! `append --nodes 3`: durable writes on a quorum.

use std::time::Duration;

use super::{
    node::Order,
    start::{LEADER, ask, cpu_seconds, start_gathered},
};
use crate::{
    append::Load,
    cli::{Append, Target},
    latency::Summary,
    report::Row,
    run::{Failure, Run},
};

pub(crate) async fn run(run: &Run, args: &Append) -> Result<(), Failure> {
    if args.target == Target::Entity {
        return Err("--target entity is for one node; clusters are measured at the journal".into());
    }
    let (nodes, groups) = (args.cluster.nodes, &args.cluster.groups);
    for &writers in &args.writers {
        let dir = run.new_folder()?;
        let load = Load::new(args, writers)?;
        let cluster = start_gathered(run, &dir, nodes, groups).await?;
        let before = run.probes(args.event_bytes, nodes).await?;
        let seconds = Duration::from_secs_f64(args.seconds);
        let cpu = cpu_seconds(&cluster)?;
        let order = Order::Load(load.clone());
        let work = ask::<Summary>(&cluster, LEADER, &order, seconds + Duration::from_secs(60));
        let calls = run.timed(&format!("append, {writers} writers"), seconds, work).await?;
        let cpu = cpu_seconds(&cluster)? - cpu;
        let probe = before.and(run.probes(args.event_bytes, nodes).await?);
        cluster.shutdown().await?;
        std::fs::remove_dir_all(&dir)?;
        let events = calls.count * args.batch as u64;
        let events_per_s = events as f64 / args.seconds;
        // The warm-up is in it too, by its share of the time.
        let warm_up = 1.0 + (args.seconds / 10.0).min(1.0) / args.seconds;
        let row = Row::new("append")
            .with("nodes", nodes)
            .with("shards", groups.shards)
            .with("tls", !groups.insecure)
            .with("writers", writers)
            .with("entities", load.entities)
            .with("event_bytes", args.event_bytes)
            .with("batch", args.batch)
            .number("events_per_s", events_per_s)
            .number("p50_us", calls.p50_us)
            .number("p99_us", calls.p99_us)
            .number("cpu_us", cpu * 1e6 / warm_up / events.max(1) as f64)
            .with("raw_files", nodes)
            .number("ratio_per_writer", events_per_s / writers as f64 / probe.per_second());
        run.print(row, events_per_s, probe)?;
    }
    Ok(())
}
