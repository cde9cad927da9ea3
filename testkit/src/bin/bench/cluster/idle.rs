//! `idle`: groups that nobody writes to.

use std::time::Duration;

use tokio::time::sleep;

use super::start::{cpu_seconds, start};
use crate::{
    cli::{GroupArgs, Idle},
    report::Row,
    run::{Failure, Run},
};

/// After the start, until everything is quiet.
const SETTLED: Duration = Duration::from_secs(2);

pub(crate) async fn run(run: &Run, args: &Idle) -> Result<(), Failure> {
    for &shards in &args.shards {
        let dir = run.new_folder()?;
        let groups = GroupArgs { shards, insecure: args.insecure };
        let probe = run.probes(0, args.nodes).await?;
        let cluster = start(run, &dir, args.nodes, &groups).await?;
        let time = Duration::from_secs_f64(args.seconds);
        sleep(SETTLED.min(time)).await;
        let before = cpu_seconds(&cluster)?;
        run.timed(&format!("idle, {shards} groups"), time, sleep(time)).await;
        let cpu = (cpu_seconds(&cluster)? - before) / f64::from(args.nodes) / args.seconds;
        cluster.shutdown().await?;
        std::fs::remove_dir_all(&dir)?;
        let row = Row::new("idle")
            .with("nodes", args.nodes)
            .with("shards", shards)
            .with("tls", !args.insecure)
            .number("cpu_percent", cpu * 100.0)
            .number("us_per_group", cpu * 1e6 / f64::from(shards));
        run.print(row, 0.0, probe)?;
    }
    Ok(())
}
