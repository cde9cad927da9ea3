//! `handoff`: leaderships move while entities are asked.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use duractor_testkit::process::{Cluster, wire::Request};
use tokio::time::sleep;

use super::{
    start::{setup, start_with},
    whole::{Callers, Order, Saw},
};
use crate::{
    cli::Handoff,
    report::Row,
    run::{Failure, Run},
};

/// How long a hand-over may take, and a node to answer.
const LIMIT: Duration = Duration::from_secs(30);
/// Load before and after the hand-overs of a node, so that gaps have ends.
const QUIET: Duration = Duration::from_millis(500);
/// Longer than any run: leaderships stay where they were moved to.
const NEVER_MS: u64 = 3_600_000;

pub(crate) async fn run(run: &Run, args: &Handoff) -> Result<(), Failure> {
    let dir = run.new_folder()?;
    let before = run.probes(args.event_bytes, 3).await?;
    let mut setup = setup(&dir, 3, &args.groups)?;
    setup.whole = Some(vec![("timing.settle_ms".into(), NEVER_MS.to_string())]);
    let cluster = start_with(run, setup).await?;
    let load = Callers {
        name: String::new(),
        callers: args.callers,
        entities: args.entities,
        event_bytes: args.event_bytes,
        deadline_ms: (args.deadline_s * 1e3) as u64,
    };
    for node in cluster.nodes() {
        let load = Callers { name: node.to_string(), ..load.clone() };
        ask(&cluster, node, &Order::Start(load)).await?;
    }
    let bar = run.progress("handoff", Some(args.moves as u64));
    let mut gaps = Vec::new();
    let (mut total, mut seconds) = (Saw::default(), 0.0);
    // Once to get warm, and to see how long gaps are that nobody made.
    sleep(2 * QUIET).await;
    look(&cluster).await?;
    sleep(2 * QUIET).await;
    let quiet = look(&cluster).await?;
    while gaps.len() < args.moves {
        for node in cluster.nodes() {
            let began = tokio::time::Instant::now();
            let moved = empty(&cluster, node).await?;
            sleep(QUIET).await;
            let saw = look(&cluster).await?;
            seconds += began.elapsed().as_secs_f64();
            bar.inc(moved.len() as u64);
            gaps.extend(moved.iter().filter_map(|shard| saw.gaps_us.get(shard).copied()));
            add(&mut total, saw);
        }
    }
    bar.finish_and_clear();
    for node in cluster.nodes() {
        ask(&cluster, node, &Order::Stop).await?;
    }
    cluster.shutdown().await?;
    std::fs::remove_dir_all(&dir)?;
    let probe = before.and(run.probes(args.event_bytes, 3).await?);
    let asks_per_s = total.answers as f64 / seconds;
    let times = |gaps: &[u64]| gaps.iter().map(|us| Duration::from_micros(*us)).collect::<Vec<_>>();
    let row = Row::new("handoff")
        .with("nodes", 3)
        .with("shards", args.groups.shards)
        .with("tls", !args.groups.insecure)
        .with("callers", 3 * args.callers)
        .with("moves", gaps.len());
    let longest = gaps.iter().copied().max().unwrap_or(0).max(total.worst_us);
    let quiet_gaps: Vec<_> = quiet.gaps_us.values().copied().collect();
    let row = row
        .quantiles("gap_", &mut times(&gaps), &[("p50", 0.5), ("p99", 0.99)])
        .number("worst_ms", longest as f64 / 1e3)
        .with("errors", total.errors)
        .quantiles("quiet_gap_", &mut times(&quiet_gaps), &[("worst", 1.0)])
        .number("quiet_worst_ms", quiet.worst_us as f64 / 1e3)
        .number("asks_per_s", asks_per_s);
    let row = match total.error {
        Some(error) => row.with("error", error),
        None => row,
    };
    run.print(row, asks_per_s, probe)?;
    Ok(())
}

/// Hands over all that a node leads, one group after the other, to the other two in turns.
async fn empty(cluster: &Arc<Cluster>, node: u32) -> Result<Vec<u16>, Failure> {
    let groups = cluster.status(node).await?.into_iter().zip(0..);
    let led: Vec<u16> = groups.filter(|(group, _)| group.leads).map(|(_, shard)| shard).collect();
    let members: Vec<_> = cluster.members().into_iter().collect();
    let mut others = members.iter().filter(|member| member.node.0 != node).cycle();
    for shard in &led {
        let to = *others.next().ok_or("there is one node alone")?;
        let request = Request::Transfer { shard: *shard, to };
        cluster.running(node)?.call::<()>(&request, LIMIT).await?;
    }
    Ok(led)
}

/// What the callers of all nodes saw. The time in which nobody had an answer of a shard is at most the
/// shortest of those of the nodes.
async fn look(cluster: &Arc<Cluster>) -> Result<Saw, Failure> {
    let mut all: Option<Saw> = None;
    for node in cluster.nodes() {
        let mut saw = ask(cluster, node, &Order::Look).await?;
        if let Some(known) = &mut all {
            let gaps = std::mem::take(&mut saw.gaps_us);
            known.gaps_us = shorter(std::mem::take(&mut known.gaps_us), &gaps);
            add(known, saw);
        } else {
            all = Some(saw);
        }
    }
    Ok(all.unwrap_or_default())
}

fn shorter(mut gaps: BTreeMap<u16, u64>, others: &BTreeMap<u16, u64>) -> BTreeMap<u16, u64> {
    for (shard, gap) in others {
        gaps.entry(*shard).and_modify(|known| *known = (*known).min(*gap)).or_insert(*gap);
    }
    gaps
}

fn add(total: &mut Saw, saw: Saw) {
    total.worst_us = total.worst_us.max(saw.worst_us);
    total.answers += saw.answers;
    total.errors += saw.errors;
    total.error = total.error.take().or(saw.error);
}

async fn ask(cluster: &Cluster, node: u32, order: &Order) -> Result<Saw, Failure> {
    let request = Request::Own(serde_json::to_value(order)?);
    Ok(cluster.running(node)?.call(&request, LIMIT).await?)
}
