//! `crash`: kills a writing process with SIGKILL, again and again, and looks for what it lost.
//!
//! ```text
//! parent ── starts ──▶ worker: opens the folder, writes, prints what was acknowledged ─┐
//!   ▲                                                                                  │ pipe
//!   └── kills it after 2 to 200 ms, reads the rest of the pipe, opens the folder itself,
//!       and compares what is there with what was acknowledged; then the next trial
//! ```
//! Read downwards; each module uses only those above it:
//!
//! | module | what it holds |
//! |---|---|
//! | `cli` | the command line |
//! | `findings` | what was found, and how it is counted |
//! | `mark` | payloads that say what they are |
//! | `lines` | what the worker prints |
//! | `place` | the folder: its log's settings, its entities' names |
//! | `streams` | the bare journal: what must be there, and comparing it |
//! | `journal` | the bare journal: writing in the worker, reading in the parent |
//! | `commands` | entities: what must be there, and comparing it |
//! | `entity` | entities: writing in the worker, retrying and reading in the parent |
//! | `trials` | the parent: start, kill, verify |
//! | `transfer/`, `replicated/` | the same with clusters of real processes: transfers between entities, and the journal |

mod cli;
mod commands;
mod entity;
mod findings;
mod journal;
mod lines;
mod mark;
mod place;
mod replicated;
mod streams;
mod transfer;
mod trials;

use std::{error::Error, fs, io, path::Path, process::ExitCode, time::Duration};

use clap::Parser;
use duractor_testkit::process::wire::NodeConfig;
use tokio::signal::unix::{SignalKind, signal};

use cli::{Args, Mode, Scenario, Target, Worker};

/// Whatever ends the program early.
type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match &args.mode {
        Some(Mode::Worker(worker)) => work(worker),
        Some(Mode::Node { config }) => serve(config),
        None => attack(&args),
    };
    result.unwrap_or_else(|failure| {
        eprintln!("crash: {failure}");
        ExitCode::FAILURE
    })
}

/// Writes until it is killed.
fn work(worker: &Worker) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match worker.target {
            Target::Journal => journal::work(worker).await,
            Target::Entity => entity::work(worker).await,
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Serves as a node of a cluster until the parent is gone.
fn serve(config: &str) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match serde_json::from_str::<NodeConfig>(config)?.whole {
            None => replicated::node::run(config).await,
            Some(_) => transfer::host::run(config).await,
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The folder is made before the runtime and removed after it, and with the runtime end the worker
/// and whatever still writes: also after Ctrl-C.
fn attack(args: &Args) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    fs::create_dir_all(&args.dir)?;
    let folder = tempfile::Builder::new().prefix("crash-").tempdir_in(&args.dir)?;
    let code = runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate())?;
        tokio::select! {
            biased;
            result = trials(args, folder.path()) => result,
            _ = tokio::signal::ctrl_c() => Ok(ExitCode::from(130)),
            _ = terminated.recv() => Ok(ExitCode::from(143)),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(10));
    let path = folder.keep();
    for _ in 0..1000 {
        match fs::remove_dir_all(&path) {
            // A killed worker is not quite gone.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => {
                eprintln!("crash: {} is left: {error}", path.display());
                break;
            }
            Ok(()) => {}
        }
    }
    code
}

async fn trials(args: &Args, dir: &Path) -> Result<ExitCode, Failure> {
    match (args.nodes, args.scenario) {
        (1, Scenario::Write) => trials::run(args, dir).await,
        (1, _) => Err("transfers are for clusters: --nodes 3".into()),
        (_, Scenario::Transfer) => transfer::trials::run(args, dir).await,
        _ => replicated::trials::run(args, dir).await,
    }
}
