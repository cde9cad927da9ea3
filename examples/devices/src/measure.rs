//! Runs the stages, each a process of its own, and says what came of them.

use std::{
    env, fmt,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use clap::{Parser, ValueEnum, value_parser};
use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    signal::ctrl_c,
    time::Instant,
};

use crate::{
    nodes::Failure,
    stage::{Measured, Stage, Task},
};

/// Many devices, each a durable entity, few of them in memory: how much memory they take, and how long
/// a killed node takes until it serves them again.
#[derive(Parser, Debug, Clone)]
#[command(version)]
pub struct Options {
    /// How many devices there are.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = number(10_000_000))]
    entities: u64,
    /// How many of them report often and are to stay in memory.
    #[arg(long, value_name = "M", default_value_t = 10_000, value_parser = number(1_000_000))]
    active: u64,
    /// How many are asked for after the restart.
    #[arg(long, value_name = "S", default_value_t = 1000, value_parser = number(1_000_000))]
    sample: u64,
    /// How many nodes: one by itself, or a cluster of so many in one process.
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = value_parser!(u16).range(1..=5))]
    nodes: u16,
    /// A device that has not reported for so many seconds is marked as silent.
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400, value_parser = number(31_536_000))]
    silent_after: u64,
    /// Where the data go, in a folder of their own that is removed at the end. The system's folder for
    /// temporary files unless given.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    /// Do one stage, in this process.
    #[arg(long, hide = true, requires = "folder")]
    stage: Option<Stage>,
    #[arg(long, hide = true)]
    folder: Option<PathBuf>,
    #[arg(long, hide = true, value_delimiter = ',')]
    addresses: Vec<SocketAddr>,
}

fn number(max: u64) -> clap::builder::RangedU64ValueParser<u64> {
    value_parser!(u64).range(1..=max)
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Devices.
    pub entities: u64,
    /// Nodes.
    pub nodes: u16,
    /// Devices created a second, each with its first reading and its reminder.
    pub created_per_s: f64,
    /// Later readings a second, of the active devices.
    pub reports_per_s: f64,
    /// Devices in memory when all were created.
    pub active_created: usize,
    /// From the start of a process, on the folder of one that was killed, until the node was up.
    pub up_ms: f64,
    /// Until all of the sample had answered.
    pub served_ms: f64,
    /// How many were in the sample.
    pub sample: u64,
    /// Devices in memory when the active ones were asked.
    pub active: usize,
    /// Memory for each device that is not active: its reminder, and what the log and the store of
    /// snapshots keep of it.
    pub passive_bytes: f64,
    /// Memory for each device that is active, besides.
    pub active_bytes: f64,
    /// Resident memory of a process without devices.
    pub rss_empty: u64,
    /// Of one with all of them, of which the sample is active.
    pub rss_served: u64,
    /// With the active ones.
    pub rss_active: u64,
    /// Devices of which another state was found than was acknowledged.
    pub wrong: u64,
}

/// Runs what the options say and prints the result. Returns whether all was found as acknowledged.
///
/// # Errors
/// A stage fails, or the folder cannot be written.
pub async fn run(options: &Options, begun: Instant) -> Result<bool, Failure> {
    if let (Some(stage), Some(folder)) = (options.stage, &options.folder) {
        options.task(folder).run(stage, begun).await?;
        return Ok(true);
    }
    let outcome = tokio::select! {
        biased;
        outcome = options.measure() => outcome?,
        // The processes and the folder go with it.
        _ = ctrl_c() => return Err("interrupted".into()),
    };
    match options.json {
        true => println!("{}", serde_json::to_string(&outcome)?),
        false => println!("{outcome}"),
    }
    Ok(outcome.wrong == 0)
}

impl Options {
    fn task(&self, folder: &Path) -> Task {
        let active = self.active.min(self.entities) as usize;
        Task {
            entities: self.entities as usize,
            active,
            sample: self.sample.min(self.entities) as usize,
            silent_after: Duration::from_secs(self.silent_after),
            folder: folder.to_owned(),
            addresses: self.addresses.clone(),
        }
    }

    async fn measure(&self) -> Result<Outcome, Failure> {
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("duractor-devices-");
        let folder = match &self.data {
            Some(data) => builder.tempdir_in(data)?,
            None => builder.tempdir()?,
        };
        let addresses = if self.nodes > 1 { free(self.nodes)? } else { Vec::new() };
        let stage = async |stage, name: &str| {
            self.stage(stage, &folder.path().join(name), &addresses).await
        };
        let empty = stage(Stage::Empty, "empty").await?;
        let created = stage(Stage::Create, "devices").await?;
        let served = stage(Stage::Serve, "devices").await?;
        Ok(self.outcome(&empty, &created, &served))
    }

    fn outcome(&self, empty: &Measured, created: &Measured, served: &Measured) -> Outcome {
        let sample = self.sample.min(self.entities);
        let grown = |from: u64, to: u64, by: f64| (to as f64 - from as f64) / by.max(1.0);
        // The sample is active in both.
        let passive = self.entities.saturating_sub(sample) as f64;
        let active = served.active.saturating_sub(served.active_served) as f64;
        Outcome {
            entities: self.entities,
            nodes: self.nodes,
            created_per_s: self.entities as f64 * 1000.0 / (created.served_ms - created.up_ms),
            reports_per_s: created.reports as f64 * 1000.0 / created.reports_ms,
            active_created: created.active_served,
            up_ms: served.up_ms,
            served_ms: served.served_ms,
            sample,
            active: served.active,
            passive_bytes: grown(empty.rss_served, served.rss_served, passive),
            active_bytes: grown(served.rss_served, served.rss_active, active),
            rss_empty: empty.rss_served,
            rss_served: served.rss_served,
            rss_active: served.rss_active,
            wrong: served.wrong,
        }
    }

    /// Runs a stage in a process of its own, and kills that once it has printed its result: a node that
    /// is killed has lost nothing.
    async fn stage(
        &self,
        stage: Stage,
        folder: &Path,
        addresses: &[SocketAddr],
    ) -> Result<Measured, Failure> {
        let addresses: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
        let value = stage.to_possible_value().ok_or("a stage has a name")?;
        let mut command = Command::new(env::current_exe()?);
        command.args(env::args_os().skip(1)).args(["--stage", value.get_name(), "--folder"]);
        command.arg(folder);
        if !addresses.is_empty() {
            command.args(["--addresses", &addresses.join(",")]);
        }
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().ok_or("a stage has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).await?;
        child.kill().await?;
        let failed = |error| format!("the stage {:?} ended early: {error}", value.get_name());
        Ok(serde_json::from_str(&line).map_err(failed)?)
    }
}

fn free(count: u16) -> std::io::Result<Vec<SocketAddr>> {
    // All at once, so that they differ.
    let listeners: Result<Vec<_>, _> =
        (0..count).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect();
    listeners?.iter().map(TcpListener::local_addr).collect()
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20));
        let nodes = if self.nodes == 1 { "1 node".into() } else { format!("{} nodes", self.nodes) };
        let rows = [
            ("devices", format!("{} on {nodes}", self.entities)),
            (
                "created",
                format!("{:.0}/s, {} in memory then", self.created_per_s, self.active_created),
            ),
            ("readings of active ones", format!("{:.0}/s", self.reports_per_s)),
            ("killed, up again", format!("{:.0} ms", self.up_ms)),
            ("served again", format!("{:.0} ms, a sample of {}", self.served_ms, self.sample)),
            ("memory without devices", mib(self.rss_empty)),
            (
                "with all, passive",
                format!("{}, {:.0} bytes each", mib(self.rss_served), self.passive_bytes),
            ),
            (
                "with active ones",
                format!(
                    "{} with {}, {:.0} bytes each",
                    mib(self.rss_active),
                    self.active,
                    self.active_bytes
                ),
            ),
            ("wrong", self.wrong.to_string()),
        ];
        let line = |(what, text): &(&str, String)| format!("  {what:<24} {text}");
        f.write_str(&rows.iter().map(line).collect::<Vec<_>>().join("\n"))
    }
}
