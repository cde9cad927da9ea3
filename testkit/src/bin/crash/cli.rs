//! The command line. The texts here are what `--help` prints.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// Kills a writing process with SIGKILL at random instants, restarts it, and looks for what it
/// lost.
///
/// Each trial starts a real process that opens a log and writes to it from several tasks at once:
/// batches of many sizes, several under way for one entity, deletions. Each acknowledgement is
/// printed into a pipe at once. After 2 to 200 ms the process is killed, now and then while it
/// still recovers from the kill before. Then everything is read back: acknowledged events must be
/// there exactly once, in order, with their payload; batches that were not acknowledged must be
/// there whole or not at all, at most once, and must stay as they were found. A folder lives for
/// several trials, with segments of 64 KiB to 4 MiB, so that kills also hit sealing and merging.
///
/// With `--target entity` the process asks entities, with request ids, with snapshots and with
/// deletion of old events. Afterwards every command without a reply is sent again with the same
/// request id, and so are some that had one: each command must have taken effect exactly once, and
/// have the reply that its place in the entity's history demands.
///
/// What a killed process had handed to the operating system survives it, so this finds
/// acknowledgements before the write and faults of recovery. Acknowledgements before the fsync show
/// only where the machine loses power: the simulated disk tests those.
///
/// Ends with 1 where something is wrong.
#[derive(Debug, Parser)]
#[command(name = "crash", version, max_term_width = 100, args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub mode: Option<Mode>,
    /// How often the process is started and killed.
    #[arg(long, default_value_t = 100)]
    pub trials: u64,
    /// What the process writes to.
    #[arg(long, value_enum, default_value_t = Target::Journal)]
    pub target: Target,
    /// Nodes of the cluster. Only 1 is possible yet.
    #[arg(long, default_value_t = 1, value_parser = nodes)]
    pub nodes: u16,
    /// Decides what is written and when the process is killed. Random unless given. The same seed
    /// gives the same choices, but the operating system's timing is never quite the same.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Trials in one folder, before it is emptied.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub rounds: u64,
    /// Folder to work in. A temporary folder is made in it and removed at the end.
    #[arg(long, default_value = "target")]
    pub dir: PathBuf,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Makes the worker do wrong on purpose, to see that it is noticed.
    #[arg(long, value_enum, hide = true)]
    pub plant: Option<Plant>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Mode {
    /// Writes until it is killed. Started by `crash` itself.
    #[command(hide = true)]
    Worker(Worker),
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Worker {
    /// The folder.
    pub dir: PathBuf,
    /// Of the folder: decides its log's settings.
    #[arg(long)]
    pub folder_seed: u64,
    /// Of this trial: decides what is written.
    #[arg(long)]
    pub seed: u64,
    /// The number of this trial: makes what is written unique.
    #[arg(long)]
    pub run: u32,
    #[arg(long, value_enum)]
    pub target: Target,
    #[arg(long, value_enum)]
    pub plant: Option<Plant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    /// The bare journal.
    Journal,
    /// Entities, through the framework.
    Entity,
}

impl Target {
    /// As on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Target::Journal => "journal",
            Target::Entity => "entity",
        }
    }
}

/// What the worker does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Plant {
    /// It acknowledges some writes that it never made.
    Lose,
    /// It makes some writes twice.
    Duplicate,
}

impl Plant {
    /// As on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Plant::Lose => "lose",
            Plant::Duplicate => "duplicate",
        }
    }
}

fn nodes(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(1) => Ok(1),
        Ok(_) => Err("replication is not there yet: only 1 node is possible".into()),
        Err(_) => Err("not a number of nodes".into()),
    }
}
