//! What is done in a process of its own, so that its memory is that of this alone. Each prints what it
//! measured as one line of JSON, and waits to be killed.

use std::{fs, future::Future, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{copy, sink, stdin},
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    device::{Device, Devices, Look, Report},
    nodes::{Failure, Nodes},
};

/// How many commands are under way at once.
const CALLERS: usize = 512;
/// How often each of the active devices reports after the first time.
const REPORTS: u64 = 10;
/// How long a command may take: on a restart the first ones wait until their shard is served.
const ANSWER: Duration = Duration::from_secs(60);
/// Memory is looked at so often, until it did not grow by more than this for so many looks.
const LOOK: Duration = Duration::from_millis(100);
const STEADY_BYTES: u64 = 1 << 20;
const STEADY_LOOKS: u32 = 10;
const MAX_LOOKS: u32 = 100;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// A node without any device but the sample: what a process takes that has none.
    Empty,
    /// Creates all devices, and lets the active ones report.
    Create,
    /// Starts on what is there, serves the sample, then brings the active ones into memory.
    Serve,
}

/// How much, and where.
#[derive(Debug, Clone)]
pub struct Task {
    /// Devices.
    pub entities: usize,
    /// Those of them that are kept in memory.
    pub active: usize,
    /// So many are asked for after a restart.
    pub sample: usize,
    /// A device that has not reported for so long is silent.
    pub silent_after: Duration,
    /// Where the data are.
    pub folder: PathBuf,
    /// Of the nodes of a cluster; none for a node by itself.
    pub addresses: Vec<SocketAddr>,
}

/// What a stage measured. Times are in milliseconds from the start of the process.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Measured {
    /// When the nodes had started.
    pub up_ms: f64,
    /// When the sample was served, or all devices were created.
    pub served_ms: f64,
    /// How long the reports of the active ones took.
    pub reports_ms: f64,
    /// How many there were.
    pub reports: u64,
    /// Resident memory then, when it stood still.
    pub rss_served: u64,
    /// How many devices were in memory then.
    pub active_served: usize,
    /// Resident memory with the active ones in memory.
    pub rss_active: u64,
    /// How many that were.
    pub active: usize,
    /// Devices of which another state was found than was acknowledged; the first few are in the log.
    pub wrong: u64,
}

impl Task {
    /// What the device reports the n-th time, counted from 1.
    fn reading(device: usize, n: u64) -> i64 {
        device as i64 * 1000 + n as i64
    }

    /// What the device is once it was created, and the active ones have reported.
    fn expected(&self, device: usize) -> Device {
        let count = if device < self.active { 1 + REPORTS } else { 1 };
        Device { last: Some(Self::reading(device, count)), count, silent: false }
    }

    /// Devices at even distances, active and passive ones.
    fn sampled(&self) -> Vec<usize> {
        (0..self.sample).map(|n| n * self.entities / self.sample).collect()
    }

    async fn nodes(&self, fresh: bool) -> Result<Arc<Nodes>, Failure> {
        let Task { active, silent_after, .. } = *self;
        // Shards lie on all nodes alike, or nearly.
        let active = active.div_ceil(self.addresses.len().max(1));
        let devices = Devices { active, silent_after };
        Ok(Arc::new(Nodes::start(&self.folder, &self.addresses, fresh, &devices).await?))
    }

    /// Does the stage. `begun`: when the process started.
    ///
    /// # Errors
    /// The nodes do not start, or a command fails.
    pub async fn run(&self, stage: Stage, begun: Instant) -> Result<(), Failure> {
        let nodes = self.nodes(stage != Stage::Serve).await?;
        let up_ms = millis(begun);
        let mut measured = match stage {
            Stage::Empty => self.empty(&nodes).await?,
            Stage::Create => self.create(&nodes, begun).await?,
            Stage::Serve => self.serve(&nodes, begun).await?,
        };
        measured.up_ms = up_ms;
        println!("{}", serde_json::to_string(&measured)?);
        // All of it was acknowledged, so nothing must be missing when the process is killed now. Where
        // nobody is there to kill it, its input ends.
        copy(&mut stdin(), &mut sink()).await?;
        if let Some(nodes) = Arc::into_inner(nodes) {
            nodes.stop().await;
        }
        Ok(())
    }

    async fn empty(&self, nodes: &Arc<Nodes>) -> Result<Measured, Failure> {
        look(nodes, self.sampled()).await?;
        Ok(Measured { rss_served: settled().await?, ..Measured::default() })
    }

    async fn create(&self, nodes: &Arc<Nodes>, begun: Instant) -> Result<Measured, Failure> {
        report(nodes, (0..self.entities).collect(), 1).await?;
        let served_ms = millis(begun);
        let active_served = nodes.active()?;
        let again = Instant::now();
        for n in 2..=1 + REPORTS {
            report(nodes, (0..self.active).collect(), n).await?;
        }
        let (reports_ms, reports) = (millis(again), REPORTS * self.active as u64);
        let (rss_active, active) = (rss()?, nodes.active()?);
        let measured = Measured { served_ms, reports_ms, reports, ..Measured::default() };
        Ok(Measured { active_served, rss_active, active, ..measured })
    }

    async fn serve(&self, nodes: &Arc<Nodes>, begun: Instant) -> Result<Measured, Failure> {
        let found = look(nodes, self.sampled()).await?;
        let served_ms = millis(begun);
        let mut wrong = self.wrong(&found);
        let (rss_served, active_served) = (settled().await?, nodes.active()?);
        let found = look(nodes, (0..self.active).collect()).await?;
        wrong += self.wrong(&found);
        let (rss_active, active) = (settled().await?, nodes.active()?);
        let measured = Measured { served_ms, rss_served, active_served, ..Measured::default() };
        Ok(Measured { rss_active, active, wrong, ..measured })
    }

    fn wrong(&self, found: &[(usize, Device)]) -> u64 {
        let wrong = found.iter().filter(|(device, found)| *found != self.expected(*device));
        let wrong = wrong.inspect(|(device, found)| eprintln!("device {device}: {found:?}"));
        wrong.count() as u64
    }
}

async fn report(nodes: &Arc<Nodes>, devices: Vec<usize>, n: u64) -> Result<(), Failure> {
    let report = move |nodes: Arc<Nodes>, device: usize| async move {
        let command = Report { milli: Task::reading(device, n) };
        match nodes.device(device)?.ask(command).timeout(ANSWER).await? {
            count if count == n => Ok(()),
            count => Err(format!("device {device} has {count} readings instead of {n}").into()),
        }
    };
    each(nodes, devices, report).await.map(drop)
}

async fn look(nodes: &Arc<Nodes>, devices: Vec<usize>) -> Result<Vec<(usize, Device)>, Failure> {
    let look = |nodes: Arc<Nodes>, device: usize| async move {
        Ok((device, nodes.device(device)?.ask(Look).timeout(ANSWER).await?))
    };
    each(nodes, devices, look).await
}

/// Does this with each of the devices, many at once.
async fn each<R: Send + 'static, F: Future<Output = Result<R, Failure>> + Send>(
    nodes: &Arc<Nodes>,
    devices: Vec<usize>,
    what: impl Fn(Arc<Nodes>, usize) -> F + Clone + Send + 'static,
) -> Result<Vec<R>, Failure> {
    let devices: Arc<[usize]> = devices.into();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS.min(devices.len()) {
        let (nodes, devices, what) = (nodes.clone(), devices.clone(), what.clone());
        callers.spawn(async move {
            let mut results = Vec::new();
            for device in devices.iter().skip(caller).step_by(CALLERS) {
                results.push(what(nodes.clone(), *device).await?);
            }
            Ok::<_, Failure>(results)
        });
    }
    let mut all = Vec::new();
    while let Some(results) = callers.join_next().await {
        all.extend(results??);
    }
    Ok(all)
}

fn millis(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1000.0
}

/// Resident memory once it does not grow any more: a node that has started still reads which
/// entities have reminders.
async fn settled() -> Result<u64, Failure> {
    let (mut high, mut steady) = (rss()?, 0);
    for _ in 0..MAX_LOOKS {
        sleep(LOOK).await;
        let now = rss()?;
        steady = if now > high + STEADY_BYTES { 0 } else { steady + 1 };
        if steady == 0 {
            high = now;
        }
        if steady == STEADY_LOOKS {
            break;
        }
    }
    rss()
}

/// Resident memory of this process, in bytes.
fn rss() -> Result<u64, Failure> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split(' ').nth(1).ok_or("/proc/self/statm has another form")?;
    Ok(pages.parse::<u64>()? * rustix::param::page_size() as u64)
}
