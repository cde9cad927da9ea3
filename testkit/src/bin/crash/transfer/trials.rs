//! Load, faults, healing, verification.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use duractor_journal::Env;
use duractor_testkit::{
    Rng,
    bank::Book,
    process::{Cluster, Setup},
};
use tokio::time::{Instant, sleep};

use super::{
    counter,
    load::{Bank, Counts, Load, ask},
    order::Order,
};
use crate::{
    Failure,
    cli::Args,
    findings::Findings,
    replicated::faults::Fault,
    trials::{OfCluster, progress, report},
};

/// How long a healed cluster may take until transfers go through and no purse is held.
const HEALED: Duration = Duration::from_secs(20);
/// How long a purse may take to be read.
const LIST_MS: u64 = 2_000;

/// Runs all trials and prints the result.
pub(crate) async fn run(args: &Args, dir: &Path) -> Result<ExitCode, Failure> {
    let seed = args.seed.unwrap_or_else(|| Env::production().entropy.next_u64() >> 16);
    if !args.json {
        println!("seed {seed}");
    }
    let bar = progress(args.trials);
    let (began, mut rng) = (Instant::now(), Rng::new(seed));
    let mut findings = Findings::default();
    let (mut faults, mut slowest) = (BTreeMap::new(), Duration::ZERO);
    let (mut place, mut trials) = (None::<Place>, 0);
    while trials < args.trials && findings.is_clean() {
        let mut current = match place.take() {
            Some(place) => place,
            None => Place::new(args, dir.join("cluster"), rng.fork()).await?,
        };
        match current.trial(&mut faults).await {
            Ok(healed) => slowest = slowest.max(healed),
            Err(failure) => {
                let statuses = current.bank.cluster.statuses().await;
                findings.other(|| format!("trial {trials}: {failure}{statuses}"));
            }
        }
        for (node, how) in current.bank.cluster.fallen().await {
            findings.other(|| format!("trial {trials}: node {node} ended by itself, with {how}"));
        }
        trials += 1;
        current.trials += 1;
        let acked = current.bank.book.counts().1;
        findings.acked += acked - current.acked;
        current.acked = acked;
        bar.set_message(format!("{} acknowledged", findings.acked));
        bar.inc(1);
        if current.trials < args.rounds && trials < args.trials && findings.is_clean() {
            place = Some(current);
        } else {
            current.close(&mut findings).await?;
        }
    }
    bar.finish_and_clear();
    let slowest_ms = slowest.as_millis() as u64;
    let of_cluster = OfCluster { replicas_equal: true, faults: &faults, slowest_ms };
    report(args, seed, trials, &findings, began.elapsed(), Some(&of_cluster));
    Ok(if findings.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A cluster that lives for some trials, and its book.
struct Place {
    dir: PathBuf,
    bank: Arc<Bank>,
    rng: Rng,
    trials: u64,
    acked: u64,
}

impl Place {
    async fn new(args: &Args, dir: PathBuf, mut rng: Rng) -> Result<Self, Failure> {
        fs::create_dir(&dir)?;
        let mut setup = Setup::new(&dir)?;
        setup.nodes = args.nodes;
        setup.shards = 1 + rng.below(6) as u16;
        setup.proxied = true;
        let by_chance = 64 << (2 * rng.below(4));
        setup.segment_bytes = Some(args.segment_kib.unwrap_or(by_chance) << 10);
        setup.fan_in = Some(2 + rng.index(3));
        setup.plant = args.plant.map(|plant| plant.name().to_owned());
        if args.plant.is_none() && rng.chance(0.5) {
            // Whole nodes find each other by themselves, past any proxy.
            (setup.whole, setup.proxied) = (Some(Vec::new()), false);
        }
        let cluster = Cluster::start(setup).await?;
        let (book, purses) = (Book::default(), 3 + rng.index(6));
        let (counter, counts) = (dir.join("counter"), Counts::default());
        let bank = Arc::new(Bank { cluster, book, purses, counter, counts });
        Ok(Self { dir, bank, rng, trials: 0, acked: 0 })
    }

    /// How long it took from healing until everything was right.
    async fn trial(
        &mut self,
        faults: &mut BTreeMap<&'static str, u64>,
    ) -> Result<Duration, Failure> {
        let cluster = self.bank.cluster.clone();
        let load = Load::start(&self.bank, &mut self.rng);
        sleep(Duration::from_millis(100 + self.rng.below(300))).await;
        let shard = self.rng.below(u64::from(cluster.setup().shards)) as u16;
        let leader = cluster.leader(shard).await.map_or(1, |(leader, _)| leader);
        let (nodes, whole) = (cluster.setup().nodes, cluster.setup().whole.is_some());
        let fault = match whole {
            true => Fault::choose_whole(nodes, leader, &mut self.rng),
            false => Fault::choose(nodes, leader, &mut self.rng),
        };
        *faults.entry(fault.name()).or_default() += 1;
        let happened = fault.happen(&cluster, &mut self.rng).await;
        let healed = Instant::now();
        let wrong = load.finish(HEALED).await?;
        let after = |failure: Failure| format!("after {fault:?}: {failure}");
        happened.map_err(after)?;
        if let Some(wrong) = wrong.first() {
            return Err(after(wrong.as_str().into()).into());
        }
        self.verify(healed + HEALED).await.map_err(after)?;
        Ok(healed.elapsed())
    }

    /// Reads all purses, any node's answer, and compares them with the book.
    async fn verify(&mut self, end: Instant) -> Result<(), Failure> {
        let nodes: Vec<u32> = self.bank.cluster.nodes().collect();
        let mut purses = Vec::new();
        for purse in 0..self.bank.purses {
            purses.push(loop {
                let node = nodes[self.rng.index(nodes.len())];
                let order = Order::List { purse, timeout_ms: LIST_MS };
                match ask(&self.bank.cluster, node, order, LIST_MS).await {
                    Ok(shifts) => break shifts,
                    Err(trouble) if Instant::now() > end => {
                        return Err(format!("purse {purse} cannot be read: {trouble}").into());
                    }
                    Err(_) => sleep(Duration::from_millis(20)).await,
                }
            });
        }
        self.bank.book.check(&purses)?;
        let Counts { acked, unknown } = &self.bank.counts;
        counter::check(&self.bank.counter, acked.load(Relaxed), unknown.load(Relaxed))?;
        Ok(())
    }

    /// Ends the cluster as its user would.
    async fn close(self, findings: &mut Findings) -> Result<(), Failure> {
        if let Err(failure) = self.bank.cluster.shutdown().await {
            findings.other(|| format!("closing the cluster: {failure}"));
        }
        fs::remove_dir_all(&self.dir)?;
        Ok(())
    }
}
