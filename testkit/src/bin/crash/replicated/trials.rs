//! Load, faults, healing, verification.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use duractor_journal::Env;
use duractor_testkit::{
    Rng,
    process::{Client, Cluster, Setup, wire::Request},
};
use tokio::time::{Instant, sleep};

use super::{
    faults::Fault,
    load::Load,
    order::{Image, Order},
};
use crate::{
    Failure,
    cli::{Args, Target},
    findings::Findings,
    streams::{ReadStream, Streams},
    trials::{OfCluster, progress, report},
};

/// How long a healed cluster may take until every entity takes writes again.
const HEALED: Duration = Duration::from_secs(15);
/// How long a replica may take to have everything that is committed, and to read it.
const READ: Duration = Duration::from_secs(30);

/// Runs all trials and prints the result.
pub(crate) async fn run(args: &Args, dir: &Path) -> Result<ExitCode, Failure> {
    if args.target == Target::Entity {
        return Err("--target entity is for one node; clusters are tested with the journal".into());
    }
    let seed = args.seed.unwrap_or_else(|| Env::production().entropy.next_u64() >> 16);
    if !args.json {
        println!("seed {seed}");
    }
    let bar = progress(args.trials);
    let (began, mut rng) = (Instant::now(), Rng::new(seed));
    let (mut findings, mut seen) = (Findings::default(), Seen::default());
    let (mut place, mut trials) = (None::<Place>, 0);
    while trials < args.trials && findings.is_clean() {
        let mut current = match place.take() {
            Some(place) => place,
            None => Place::new(args, dir.join("cluster"), rng.fork()).await?,
        };
        if let Err(failure) = current.trial(trials as u32, &mut findings, &mut seen).await {
            let statuses = current.cluster.statuses().await;
            findings.other(|| format!("trial {trials}: {failure}{statuses}"));
        }
        for (node, how) in current.cluster.fallen().await {
            findings.other(|| format!("trial {trials}: node {node} ended by itself, with {how}"));
        }
        trials += 1;
        current.trials += 1;
        bar.set_message(format!("{} acknowledged", findings.acked));
        bar.inc(1);
        if current.trials < args.rounds && trials < args.trials && findings.is_clean() {
            place = Some(current);
        } else {
            current.close(&mut findings).await?;
        }
    }
    bar.finish_and_clear();
    let of_cluster = OfCluster {
        replicas_equal: !seen.differ,
        faults: &seen.faults,
        slowest_ms: seen.slowest.as_millis() as u64,
    };
    report(args, seed, trials, &findings, began.elapsed(), Some(&of_cluster));
    Ok(if findings.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What was done and seen in all trials.
#[derive(Default)]
struct Seen {
    faults: BTreeMap<&'static str, u64>,
    differ: bool,
    slowest: Duration,
}

/// A cluster that lives for some trials, and what must be in it.
struct Place {
    dir: PathBuf,
    cluster: Arc<Cluster>,
    client: Arc<Client>,
    rng: Rng,
    trials: u64,
    streams: Streams,
}

impl Place {
    async fn new(args: &Args, dir: PathBuf, mut rng: Rng) -> Result<Self, Failure> {
        fs::create_dir(&dir)?;
        let mut setup = Setup::new(&dir)?;
        setup.nodes = args.nodes;
        setup.shards = 1 + rng.below(6) as u16;
        setup.proxied = true;
        setup.segment_bytes = Some(64 << (10 + 2 * rng.below(4)));
        setup.fan_in = Some(2 + rng.index(3));
        setup.plant = args.plant.map(|plant| plant.name().to_owned());
        let cluster = Cluster::start(setup).await?;
        let client = Arc::new(Client::new(cluster.clone()));
        Ok(Self { dir, cluster, client, rng, trials: 0, streams: Streams::new() })
    }

    async fn trial(
        &mut self,
        run: u32,
        findings: &mut Findings,
        seen: &mut Seen,
    ) -> Result<(), Failure> {
        let shards = self.cluster.setup().shards;
        let load = Load::start(&self.client, shards, run, &mut self.rng);
        sleep(Duration::from_millis(self.rng.below(150))).await;
        let leader = self.client.leader(self.rng.below(u64::from(shards)) as u16);
        let fault = Fault::choose(self.cluster.setup().nodes, leader, &mut self.rng);
        *seen.faults.entry(fault.name()).or_default() += 1;
        let happened = fault.happen(&self.cluster, &mut self.rng).await;
        let healed = Instant::now();
        let (printed, troubles) = load.finish(HEALED).await?;
        seen.slowest = seen.slowest.max(healed.elapsed());
        self.streams.printed(&printed, findings);
        let after = |failure: Failure| format!("after {fault:?}: {failure}");
        happened.map_err(after)?;
        if let Some(trouble) = troubles.first() {
            return Err(after(trouble.as_str().into()).into());
        }
        self.verify(run, findings, seen).await.map_err(|failure| after(failure).into())
    }

    /// Compares one replica, any of them, with what must be there, and all replicas with each other.
    async fn verify(
        &mut self,
        run: u32,
        findings: &mut Findings,
        seen: &mut Seen,
    ) -> Result<(), Failure> {
        let nodes: Vec<u32> = self.cluster.nodes().collect();
        let whole = nodes[self.rng.index(nodes.len())];
        let reading = nodes.iter().map(|node| self.read(*node, *node == whole));
        let images = futures_util::future::try_join_all(reading).await?;
        let differing = images.iter().find(|image| image.digests != images[0].digests).is_some();
        for (node, image) in nodes.iter().zip(&images) {
            for wrong in &image.wrong {
                findings.other(|| format!("node {node}: {wrong}"));
            }
            if *node == whole && !differing {
                self.streams.compare(run, &streams(image), findings);
            }
        }
        if differing {
            seen.differ = true;
            for node in nodes {
                let image = self.read(node, true).await?;
                findings.other(|| format!("node {node} differs: {}", digests(&image)));
                self.streams.clone().compare(run, &streams(&image), findings);
            }
        }
        Ok(())
    }

    /// What a replica holds once it has everything. A node that was just healed may have to find the
    /// leader first.
    async fn read(&self, node: u32, whole: bool) -> Result<Image, Failure> {
        let request = Request::Own(serde_json::to_value(Order::Read { whole })?);
        let end = Instant::now() + READ;
        loop {
            match self.cluster.running(node)?.call(&request, READ).await {
                Ok(image) => return Ok(image),
                Err(error) if Instant::now() > end => {
                    return Err(format!("reading node {node}: {error}").into());
                }
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Ends the cluster as its user would.
    async fn close(self, findings: &mut Findings) -> Result<(), Failure> {
        if let Err(failure) = self.cluster.shutdown().await {
            findings.other(|| format!("closing the cluster: {failure}"));
        }
        fs::remove_dir_all(&self.dir)?;
        Ok(())
    }
}

fn streams(image: &Image) -> Vec<ReadStream> {
    image.streams.iter().map(ReadStream::from).collect()
}

/// For people: an entity each, its digest, and what is known of its events.
fn digests(image: &Image) -> String {
    let digest = |(number, digest): (usize, &u64)| format!("{number}: {:04x}", digest & 0xffff);
    image.digests.iter().enumerate().map(digest).collect::<Vec<_>>().join(" ")
}
