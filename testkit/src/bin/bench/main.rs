//! `bench`: how fast Duractor is on this machine, and how that compares with its disk.
//!
//! Read downwards; each module uses only those above it:
//!
//! | module | what it holds |
//! |---|---|
//! | `cli` | the command line, and what each benchmark measures, in its `--help` |
//! | `report` | results as a table or as JSON lines |
//! | `latency` | how long calls took |
//! | `system` | resident memory, the page cache, kinds of file system |
//! | `probe` | the disk's raw rate of writes with fdatasync |
//! | `run` | what every benchmark works with: folder, report, progress, probe |
//! | `load` | a log in a folder, and filling it |
//! | `entity` | the entity that is benchmarked, and a node for it |
//! | `append`, `ask`, `replay`, `recover`, `spawn`, `open`, `soak` | one benchmark each |
//! | `cluster/` | benchmarks of clusters of real processes |
//! | `all` | every benchmark, one after the other |

mod all;
mod append;
mod ask;
mod cli;
mod cluster;
mod entity;
mod latency;
mod load;
mod open;
mod probe;
mod recover;
mod replay;
mod report;
mod run;
mod soak;
mod spawn;
mod system;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use cli::{Benchmark, Child, Cli};
use run::{Failure, Run};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(cli) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// The folder is made before the runtime and removed after it: whatever still writes into it has
/// ended by then, also after Ctrl-C.
fn start(cli: Cli) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let Benchmark::Child(child) = &cli.benchmark {
        runtime.block_on(measure_as_child(child))?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Benchmark::Node { config } = &cli.benchmark {
        runtime.block_on(cluster::node(config))?;
        return Ok(ExitCode::SUCCESS);
    }
    let folder = run::folder(cli.common.dir.as_deref())?;
    let code = runtime.block_on(until_stopped(&cli, folder.path().to_owned()));
    runtime.shutdown_timeout(Duration::from_secs(10));
    run::remove(folder);
    code
}

async fn until_stopped(cli: &Cli, folder: PathBuf) -> Result<ExitCode, Failure> {
    let quick = matches!(&cli.benchmark, Benchmark::All(args) if args.quick);
    let probe_seconds = if quick { 0.1 } else { cli.common.probe_seconds };
    let run = Run::new(folder, cli.common.json, probe_seconds);
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        biased;
        result = perform(&run, &cli.benchmark) => result.map(|()| ExitCode::SUCCESS),
        _ = tokio::signal::ctrl_c() => Ok(ExitCode::from(130)),
        _ = terminated.recv() => Ok(ExitCode::from(143)),
    }
}

pub(crate) async fn perform(run: &Run, benchmark: &Benchmark) -> Result<(), Failure> {
    match benchmark {
        Benchmark::Append(args) if args.cluster.nodes > 1 => cluster::append::run(run, args).await,
        Benchmark::Append(args) => append::run(run, args).await,
        Benchmark::Ask(args) if args.cluster.nodes > 1 => cluster::ask::run(run, args).await,
        Benchmark::Ask(args) => ask::run(run, args).await,
        Benchmark::Replay(args) if args.cluster.nodes > 1 => cluster::replay::run(run, args).await,
        Benchmark::Replay(args) => replay::run(run, args).await,
        Benchmark::Recover(args) => recover::run(run, args).await,
        Benchmark::Spawn(args) => spawn::run(run, args).await,
        Benchmark::Open(args) => open::run(run, args).await,
        Benchmark::Soak(args) => soak::run(run, args).await,
        Benchmark::All(args) => all::run(run, args).await,
        Benchmark::Failover(args) => cluster::failover::run(run, args).await,
        Benchmark::Handoff(args) => cluster::handoff::run(run, args).await,
        Benchmark::Rebalance(args) => cluster::rebalance::run(run, args).await,
        Benchmark::Catchup(args) => cluster::catchup::run(run, args).await,
        Benchmark::Idle(args) => cluster::idle::run(run, args).await,
        Benchmark::Child(_) | Benchmark::Node { .. } => Ok(()),
    }
}

async fn measure_as_child(child: &Child) -> Result<(), Failure> {
    match child {
        Child::Spawn { folder, entities } => spawn::child(folder, *entities).await,
        Child::Open { folder } => open::child(folder).await,
    }
}
