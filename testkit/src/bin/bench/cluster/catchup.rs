//! `catchup`: a node that missed much, and one with an empty disk.

use std::time::Duration;

use duractor_testkit::process::Cluster;
use tokio::time::{Instant, sleep};

use super::{
    flow::Flow,
    start::{LEADER, start_gathered},
};
use crate::{
    cli::Catchup,
    report::Row,
    run::{Failure, Run},
};

/// Who falls behind.
const LATE: u32 = 3;
/// How long it may take to catch up.
const CAUGHT_UP: Duration = Duration::from_secs(600);
/// It has caught up when it has what the leader had so long before.
const TICK: Duration = Duration::from_millis(100);

pub(crate) async fn run(run: &Run, args: &Catchup) -> Result<(), Failure> {
    let dir = run.new_folder()?;
    let cluster = start_gathered(run, &dir, 3, &args.groups).await?;
    let flow = Flow::start(&cluster, args.writers, args.event_bytes).await?;
    for lag in ["missed", "empty"] {
        let probe = run.probes(args.event_bytes, 3).await?;
        let bar = run.progress(&format!("catchup, {lag}"), None);
        // A fifth to warm up.
        sleep(Duration::from_secs_f64(args.seconds / 5.0)).await;
        let before = flow.rate(Duration::from_secs_f64(args.seconds)).await?;
        let missed = if lag == "missed" { args.events as u64 } else { 0 };
        if lag == "missed" {
            cluster.kill(&[LATE]).await?;
            flow.wait(missed).await?;
        }
        let (began, mark) = (Instant::now(), flow.mark().await?);
        if lag == "missed" {
            cluster.restart(LATE).await?;
        } else {
            cluster.wipe(LATE).await?;
            cluster.adopt(CAUGHT_UP).await?;
        }
        caught_up(&cluster).await?;
        let (took, meanwhile) = (began.elapsed(), flow.rate_since(mark).await?);
        bar.finish_and_clear();
        let row = Row::new("catchup")
            .with("nodes", 3)
            .with("shards", args.groups.shards)
            .with("tls", !args.groups.insecure)
            .with("lag", lag)
            .with("missed_events", missed)
            .with("writers", args.writers)
            .with("event_bytes", args.event_bytes)
            .number("catch_up_s", took.as_secs_f64())
            .number("before_per_s", before)
            .number("meanwhile_per_s", meanwhile)
            .number("meanwhile_ratio", meanwhile / before.max(f64::EPSILON));
        run.print(row, meanwhile, probe)?;
    }
    cluster.shutdown().await?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

/// Waits until the late node has applied what the leader had applied a tick before.
async fn caught_up(cluster: &Cluster) -> Result<(), Failure> {
    let end = Instant::now() + CAUGHT_UP;
    loop {
        let leader = cluster.status(LEADER).await?;
        sleep(TICK).await;
        let late = cluster.status(LATE).await?;
        let mut groups = leader.iter().zip(&late);
        if groups.all(|(leader, late)| late.applied_index >= leader.applied_index) {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(
                format!("node {LATE} does not catch up: {}", cluster.statuses().await).into()
            );
        }
    }
}
