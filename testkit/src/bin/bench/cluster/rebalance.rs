//! `rebalance`: a node joins, and the shards spread over it while entities are asked.

use std::{sync::Arc, time::Duration};

use duractor_testkit::process::Cluster;
use tokio::time::{Instant, sleep};

use super::{
    start::{setup, start_with},
    whole::{Callers, Order, Saw, ask},
};
use crate::{
    cli::Rebalance,
    report::Row,
    run::{Failure, Run},
};

/// How many nodes there are at first.
const NODES: u32 = 3;
/// So long it may take until nothing is to be moved.
const BALANCED: Duration = Duration::from_secs(600);
/// Between two looks.
const TICK: Duration = Duration::from_millis(100);

pub(crate) async fn run(run: &Run, args: &Rebalance) -> Result<(), Failure> {
    let dir = run.new_folder()?;
    let probe = run.probes(args.event_bytes, 3).await?;
    let mut setup = setup(&dir, NODES + 1, &args.groups)?;
    (setup.spare, setup.whole) = (1, Some(Vec::new()));
    let cluster = start_with(run, setup).await?;
    for node in 1..=NODES {
        let load = Callers {
            name: node.to_string(),
            callers: args.callers,
            entities: args.entities,
            event_bytes: args.event_bytes,
            deadline_ms: 5_000,
        };
        ask::<Saw>(&cluster, node, &Order::Start(load)).await?;
    }
    let bar = run.progress("rebalance: events", Some(args.events as u64));
    let mut seen = Seen::default();
    while seen.events < args.events as u64 {
        sleep(TICK).await;
        seen.look(&cluster).await?;
        bar.set_position(seen.events);
    }
    bar.finish_and_clear();
    let stored = seen.events;
    balanced(&cluster, &mut seen).await?;
    let before = seen.rate(&cluster, Duration::from_secs_f64(args.seconds)).await?;

    let bar = run.progress("rebalance: the node joins", None);
    let mut moving = Seen::default();
    let began = Instant::now();
    cluster.restart(NODES + 1).await?;
    joined(&cluster).await?;
    balanced(&cluster, &mut moving).await?;
    let took = began.elapsed();
    let meanwhile = moving.events as f64 / took.as_secs_f64();
    bar.finish_and_clear();
    let after = seen.rate(&cluster, Duration::from_secs_f64(args.seconds)).await?;
    let groups = cluster.status(NODES + 1).await?;
    let led = groups.iter().filter(|group| group.leads).count();
    for node in 1..=NODES {
        ask::<Saw>(&cluster, node, &Order::Stop).await?;
    }
    cluster.shutdown().await?;
    std::fs::remove_dir_all(&dir)?;

    let row = Row::new("rebalance")
        .with("nodes", format!("{NODES} to {}", NODES + 1))
        .with("shards", args.groups.shards)
        .with("tls", !args.groups.insecure)
        .with("callers", NODES as usize * args.callers)
        .with("events", stored)
        .number("rebalance_s", took.as_secs_f64())
        .with("led_by_new", led)
        .number("before_per_s", before)
        .number("meanwhile_per_s", meanwhile)
        .number("after_per_s", after)
        .number("kept", meanwhile / before)
        .number("worst_ms", moving.worst_us as f64 / 1e3)
        .with("errors", moving.errors);
    let row = match moving.error {
        Some(error) => row.with("error", error),
        None => row,
    };
    run.print(row, meanwhile, probe)?;
    Ok(())
}

/// What the callers of all nodes saw.
#[derive(Default)]
struct Seen {
    events: u64,
    worst_us: u64,
    errors: u64,
    error: Option<String>,
}

impl Seen {
    async fn look(&mut self, cluster: &Cluster) -> Result<(), Failure> {
        for node in 1..=NODES {
            let saw: Saw = ask(cluster, node, &Order::Look).await?;
            self.events += saw.answers_us.values().map(|times| times.len() as u64).sum::<u64>();
            self.worst_us = self.worst_us.max(saw.worst_us);
            self.errors += saw.errors;
            self.error = self.error.take().or(saw.error);
        }
        Ok(())
    }

    /// Events a second from now on.
    async fn rate(&mut self, cluster: &Cluster, time: Duration) -> Result<f64, Failure> {
        self.look(cluster).await?;
        let (began, events) = (Instant::now(), self.events);
        sleep(time).await;
        self.look(cluster).await?;
        Ok((self.events - events) as f64 / began.elapsed().as_secs_f64())
    }
}

/// Waits until nothing is to be moved, and keeps count of what callers see meanwhile.
async fn balanced(cluster: &Cluster, seen: &mut Seen) -> Result<(), Failure> {
    let end = Instant::now() + BALANCED;
    while ask::<usize>(cluster, 1, &Order::Unbalanced).await? > 0 {
        if Instant::now() > end {
            return Err("the cluster is never balanced".into());
        }
        sleep(TICK).await;
        seen.look(cluster).await?;
    }
    seen.look(cluster).await
}

/// Waits until the new node has a replica: before, there may be nothing to move as nobody knows of it.
async fn joined(cluster: &Arc<Cluster>) -> Result<(), Failure> {
    let (end, new) = (Instant::now() + BALANCED, NODES + 1);
    loop {
        let groups = cluster.status(1).await?;
        let of_new = |member: &duractor_journal::Member| member.node.0 == new;
        if groups.iter().any(|group| group.voters.iter().any(of_new)) {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(format!("node {new} gets no shard").into());
        }
        sleep(TICK).await;
    }
}
