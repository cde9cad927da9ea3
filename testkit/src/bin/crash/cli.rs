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
/// With `--nodes 3` each trial does something to a cluster of real processes while writers in this
/// process write to all its shards, going to whoever leads, each batch under a request id until it
/// is acknowledged. One node, the leader, a majority or all are killed, or stand still (SIGSTOP) for
/// a while; a node loses its disk and is replaced by its next incarnation; the network between
/// nodes, which have mutual TLS and a proxy in between, is cut in both directions or in one. Then
/// everything is started and healed; every entity must take a write again within 15 s, every
/// acknowledged event must be there exactly once, and all replicas must hold the same records at the
/// same positions. `slowest_ms` is the longest time from healing to the last of those writes.
///
/// With `--scenario transfer` the nodes host entities, and tellers at all nodes transfer money between
/// them in transactions while the same faults strike; every other cluster is of whole nodes, which are
/// also drained, stopped and resumed, and whose links and disks are left alone. At every look at all entities at once, and after
/// each trial, the total must be what it was; every acknowledged transfer must be there once, in all of
/// its entities; and no entity may stay held. `acked` then counts transfers.
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
    /// Nodes of the cluster: 1, or 3 to 7.
    #[arg(long, default_value_t = 1, value_parser = nodes)]
    pub nodes: u32,
    /// What happens in a cluster.
    #[arg(long, value_enum, default_value_t = Scenario::Write)]
    pub scenario: Scenario,
    /// Decides what is written and when the process is killed. Random unless given. The same seed
    /// gives the same choices, but the operating system's timing is never quite the same.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Trials in one folder, before it is emptied.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub rounds: u64,
    /// KiB of a segment of the logs of a cluster, instead of 64, 256, 1024 or 4096 by chance.
    #[arg(long, value_parser = clap::value_parser!(u64).range(16..=1 << 20))]
    pub segment_kib: Option<u64>,
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
    /// A node of a cluster. Started by `crash` itself.
    #[command(hide = true)]
    Node { config: String },
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

/// What happens in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// Writers write to all shards.
    Write,
    /// Money goes from entity to entity, in transactions.
    Transfer,
}

impl Scenario {
    /// As on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Scenario::Write => "write",
            Scenario::Transfer => "transfer",
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
    /// Node 2 does not tell of the last event that it has. For clusters.
    Differ,
}

impl Plant {
    /// As on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Plant::Lose => "lose",
            Plant::Duplicate => "duplicate",
            Plant::Differ => "differ",
        }
    }
}

fn nodes(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(nodes @ (1 | 3..=7)) => Ok(nodes),
        _ => Err("must be 1, or 3 to 7".into()),
    }
}
