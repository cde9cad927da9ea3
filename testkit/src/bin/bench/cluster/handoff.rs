//! `handoff`: leaderships move while entities are asked.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use duractor_testkit::process::{Cluster, wire::Request};
use tokio::time::sleep;

use super::{
    start::{setup, start_with},
    whole::{Callers, Order, Saw, ask, now_us},
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
        ask::<Saw>(&cluster, node, &Order::Start(load)).await?;
    }
    let bar = run.progress("handoff", Some(args.moves as u64));
    // Once to get warm, and to see how long gaps are that nobody made.
    sleep(2 * QUIET).await;
    look(&cluster).await?;
    let began = now_us();
    sleep(2 * QUIET).await;
    let ended = now_us();
    let quiet = look(&cluster).await?;
    let quiet_gaps: Vec<_> = gaps(&quiet, began, ended).into_values().collect();
    let mut moves = Moves::default();
    while moves.gaps.len() < args.moves {
        for node in cluster.nodes() {
            let began = now_us();
            let moved = empty(&cluster, node).await?;
            sleep(QUIET).await;
            let ended = now_us();
            bar.inc(moved.len() as u64);
            moves.add(&moved, look(&cluster).await?, (began, ended));
        }
    }
    bar.finish_and_clear();
    for node in cluster.nodes() {
        ask::<Saw>(&cluster, node, &Order::Stop).await?;
    }
    cluster.shutdown().await?;
    std::fs::remove_dir_all(&dir)?;
    let probe = before.and(run.probes(args.event_bytes, 3).await?);
    let asks_per_s = moves.answers as f64 / moves.seconds;
    let times = |gaps: &[u64]| gaps.iter().map(|us| Duration::from_micros(*us)).collect::<Vec<_>>();
    let row = Row::new("handoff")
        .with("nodes", 3)
        .with("shards", args.groups.shards)
        .with("tls", !args.groups.insecure)
        .with("callers", 3 * args.callers)
        .with("moves", moves.gaps.len());
    let longest = moves.gaps.iter().copied().max().unwrap_or(0).max(moves.worst_us);
    let row = row
        .quantiles("gap_", &mut times(&moves.gaps), &[("p50", 0.5), ("p99", 0.99)])
        .number("worst_ms", longest as f64 / 1e3)
        .with("errors", moves.errors)
        .quantiles("quiet_gap_", &mut times(&quiet_gaps), &[("worst", 1.0)])
        .number("quiet_worst_ms", quiet.worst_us as f64 / 1e3)
        .number("asks_per_s", asks_per_s);
    let row = match moves.error {
        Some(error) => row.with("error", error),
        None => row,
    };
    run.print(row, asks_per_s, probe)?;
    Ok(())
}

/// What came of all moves.
#[derive(Default)]
struct Moves {
    gaps: Vec<u64>,
    worst_us: u64,
    answers: usize,
    errors: u64,
    error: Option<String>,
    seconds: f64,
}

impl Moves {
    fn add(&mut self, moved: &[u16], saw: Saw, (began, ended): (u64, u64)) {
        let gaps = gaps(&saw, began, ended);
        self.gaps.extend(moved.iter().filter_map(|shard| gaps.get(shard)));
        self.worst_us = self.worst_us.max(saw.worst_us);
        self.answers += saw.answers_us.values().map(Vec::len).sum::<usize>();
        self.errors += saw.errors;
        self.error = self.error.take().or(saw.error);
        self.seconds += (ended - began) as f64 / 1e6;
    }
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

/// What the callers of all nodes saw.
async fn look(cluster: &Arc<Cluster>) -> Result<Saw, Failure> {
    let mut all = Saw::default();
    for node in cluster.nodes() {
        let saw: Saw = ask(cluster, node, &Order::Look).await?;
        all.worst_us = all.worst_us.max(saw.worst_us);
        all.errors += saw.errors;
        all.error = all.error.or(saw.error);
        for (shard, answers) in saw.answers_us {
            all.answers_us.entry(shard).or_default().extend(answers);
        }
    }
    Ok(all)
}

/// For each shard the longest time without an answer to anybody, in microseconds.
fn gaps(saw: &Saw, began_us: u64, ended_us: u64) -> BTreeMap<u16, u64> {
    let longest = |(shard, answers): (&u16, &Vec<u64>)| {
        let mut times: Vec<_> =
            answers.iter().copied().filter(|at| (began_us..ended_us).contains(at)).collect();
        times.extend([began_us, ended_us]);
        times.sort_unstable();
        let gap = times.windows(2).map(|pair| pair[1] - pair[0]).max();
        (*shard, gap.unwrap_or_default())
    };
    saw.answers_us.iter().map(longest).collect()
}
