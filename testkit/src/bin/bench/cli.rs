//! The command line. The texts here are what `--help` prints.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// How fast Duractor is on this machine, and how that compares with its disk.
///
/// Every result carries `fdatasync_per_s`, measured in the same run and the same folder: how often
/// a second this disk completes a small write followed by fdatasync, one after the other, into one
/// file that was filled with zeros before. Each write has the size of one frame of the benchmark
/// (event bytes + 64) and goes right behind the one before it, as the log's own writes do. It is
/// measured for a while before and after each result, and the mean is taken; `fdatasync_p50_us` is
/// the median of one. `ratio` is the result's rate over `fdatasync_per_s`: 1.0 means once per
/// fdatasync.
///
/// Disks and neighbours drift: compare ratios of one run, and measure on a quiet machine.
#[derive(Debug, Parser)]
#[command(name = "bench", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub benchmark: Benchmark,
    #[command(flatten)]
    pub common: Common,
}

/// What all benchmarks take.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// Folder to work in. A temporary folder is made in it and removed at the end. Without it:
    /// `target` of the current folder. It must be on a real disk.
    #[arg(long, global = true)]
    pub dir: Option<PathBuf>,
    /// Print one JSON object a line instead of a table.
    #[arg(long, global = true)]
    pub json: bool,
    /// How long the disk's raw rate is measured before and after each result, in seconds.
    #[arg(long, global = true, default_value_t = 1.0, value_parser = seconds)]
    pub probe_seconds: f64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Benchmark {
    Append(Append),
    Ask(Ask),
    Replay(Replay),
    Recover(Recover),
    Spawn(Spawn),
    Open(Open),
    Soak(Soak),
    Failover(Failover),
    Handoff(Handoff),
    Rebalance(Rebalance),
    Catchup(Catchup),
    Idle(Idle),
    All(All),
    /// Measures one thing in a process of its own. Started by the other benchmarks.
    #[command(hide = true, subcommand)]
    Child(Child),
    /// A node of a cluster. Started by the other benchmarks.
    #[command(hide = true)]
    Node {
        config: String,
    },
}

/// What is appended to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    /// The bare journal: each writer has entities of its own.
    Journal,
    /// Entities of the framework: each writer asks, and the entity persists.
    Entity,
}

/// Durable writes: events a second that were acknowledged after their fsync.
///
/// Each of the concurrent writers appends one batch, waits until it is acknowledged, and goes on
/// with the next. With `--target journal` a writer calls the journal's append for entities of its
/// own; with `--target entity` it asks one of the entities, chosen at random, through the whole
/// framework, and gets its reply after the commit. The first tenth of the time (at most a second)
/// warms up and does not count. `p50_us` and `p99_us` are of one append or ask, as its caller
/// sees it. `cpu_us` is the processor time of this whole process per event: it stays meaningful on
/// a machine that others use too.
///
/// With `--nodes 3` the nodes are processes of their own on this machine, each with its own data
/// directory, with mutual TLS between them; an event is acknowledged when it is fsynced on a quorum.
/// One node leads all groups for the run, and the writers are in its process. `cpu_us` is of all
/// nodes together. `fdatasync_per_s` is then the rate of each of as many raw files as there are nodes
/// (`raw_files`), all written and synced at once; `ratio_per_writer` is `ratio` over the number of
/// writers, each of which can have one event in a sync.
#[derive(Debug, Clone, Args)]
pub(crate) struct Append {
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Concurrent writers; one result for each number.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256,1024", value_parser = count)]
    pub writers: Vec<usize>,
    /// Bytes of an event's payload.
    #[arg(long, default_value_t = 256)]
    pub event_bytes: usize,
    /// Events of one append, or that one command persists.
    #[arg(long, default_value_t = 1, value_parser = count)]
    pub batch: usize,
    /// How long each result is measured, in seconds.
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    pub seconds: f64,
    /// What is appended to.
    #[arg(long, value_enum, default_value_t = Target::Journal)]
    pub target: Target,
    /// Entities that are written to. Without it: one for each writer of the journal; 1000 for
    /// `--target entity`, where 1 means one hot entity.
    #[arg(long, value_parser = count)]
    pub entities: Option<usize>,
}

/// Of benchmarks that run on one node or on several.
#[derive(Debug, Clone, Args)]
pub(crate) struct ClusterArgs {
    /// Nodes of the cluster: 1, or 3 to 7.
    #[arg(long, default_value_t = 1, value_parser = nodes)]
    pub nodes: u32,
    #[command(flatten)]
    pub groups: GroupArgs,
}

/// Of all clusters.
#[derive(Debug, Clone, Args)]
pub(crate) struct GroupArgs {
    /// Shards, and so groups, of a cluster of several nodes.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub shards: u16,
    /// Plain TCP between several nodes instead of mutual TLS.
    #[arg(long)]
    pub insecure: bool,
}

/// Local reads: commands a second that persist nothing.
///
/// Each of the concurrent callers asks one of the entities, chosen at random, for its count, waits
/// for the reply, and goes on. All entities are in memory before the clock starts. `cpu_us` is the
/// processor time of this whole process per ask.
///
/// With `--nodes 3` the nodes are processes of their own with mutual TLS between them, and one of them
/// runs all entities: each result comes once with the callers there (`at` is `owner`), and once with the
/// callers in another node's process (`other`); once for reads, and once for commands that persist an
/// event (`what`), fsynced on a quorum.
#[derive(Debug, Clone, Args)]
pub(crate) struct Ask {
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Concurrent callers; one result for each number.
    #[arg(
        long, alias = "writers", value_delimiter = ',', default_value = "1,16,256",
        value_parser = count
    )]
    pub callers: Vec<usize>,
    /// Entities that are asked.
    #[arg(long, default_value_t = 1000, value_parser = count)]
    pub entities: usize,
    /// How long each result is measured, in seconds.
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    pub seconds: f64,
}

/// Whether replay reads one stream or many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Streams {
    /// One entity has all events.
    One,
    /// Many entities have `--stream-events` each.
    Many,
}

/// Replay: events a second that come back from the journal, decoded.
///
/// The log is filled event by event in turns over all entities, so that a stream's events lie far
/// apart, and left alone until its background work is done. Then it is read whole, entity by entity in random order, `--readers` at a time: `hot`
/// with the files in the page cache, `cold` after they were thrown out of it and the log was
/// opened anew. All that before maintenance (`clustered` false: as the log lies after filling)
/// and after it (`clustered` true: the events of an entity stand together). `cold_by` says how the
/// cache was emptied, and `disk_read_mib` what was then read from the disk: 0 for a cold result
/// means that the operating system kept its cache, and the result is void. Reading stops after
/// `--seconds`, and then the rate is of what was read. `cpu_us` is the processor time of this whole
/// process per event.
///
/// With `--nodes 3` the log is filled at the leader of a cluster, and read by a follower's process
/// while it goes on following: hot, and cold after its files were thrown out of the cache.
#[derive(Debug, Clone, Args)]
pub(crate) struct Replay {
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Events in the log.
    #[arg(long, default_value_t = 1_000_000, value_parser = count)]
    pub events: usize,
    /// Bytes of an event's payload.
    #[arg(long, default_value_t = 256)]
    pub event_bytes: usize,
    /// One long stream, or many short ones. Without it: both, one after the other.
    #[arg(long, value_enum)]
    pub streams: Option<Streams>,
    /// Events of each stream, where there are many.
    #[arg(long, default_value_t = 100, value_parser = count)]
    pub stream_events: usize,
    /// Streams that are read at once, where there are many.
    #[arg(long, default_value_t = 8, value_parser = count)]
    pub readers: usize,
    /// The longest that one reading takes, in seconds.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub seconds: f64,
    /// Empty the page cache of the whole machine (/proc/sys/vm/drop_caches) for cold results,
    /// where that is allowed, and not just that of the log's files (posix_fadvise).
    #[arg(long)]
    pub drop_caches: bool,
}

/// Recovery: entities a second from a restarted node to their first reply.
///
/// The log is filled with the events of all entities in turns, the node is started on it, and
/// `--callers` concurrent callers ask each entity once for its count; the answer tells that all its
/// events were replayed. The files are in the page cache. Once with the log as it lies after
/// filling (`clustered` false), once after maintenance (`clustered` true). `start_ms` is what
/// starting the node took, `cpu_us` the processor time of this whole process per entity.
#[derive(Debug, Clone, Args)]
pub(crate) struct Recover {
    /// Entities to recover.
    #[arg(long, default_value_t = 100_000, value_parser = count)]
    pub entities: usize,
    /// Events of each entity.
    #[arg(long, default_value_t = 10, value_parser = count)]
    pub events: usize,
    /// Bytes of an event's payload.
    #[arg(long, default_value_t = 256)]
    pub event_bytes: usize,
    /// Concurrent callers.
    #[arg(long, default_value_t = 256, value_parser = count)]
    pub callers: usize,
}

/// Idle entities: how fast they come to life, and how much memory each takes.
///
/// A process of its own starts a node, brings 1000 entities to life to warm up, then the others,
/// `--callers` at a time, and waits for each one's first reply. `bytes_per_entity` is by how much
/// the process's resident memory (/proc/self/statm) grew meanwhile, divided by the entities: all
/// that the node keeps for an idle entity without events, and nothing of the benchmark's own.
#[derive(Debug, Clone, Args)]
pub(crate) struct Spawn {
    /// Entities.
    #[arg(long, default_value_t = 100_000, value_parser = count)]
    pub entities: usize,
}

/// Start-up: how long opening a log takes, by its size, and how much memory it takes.
///
/// For each size the log is filled in large batches and closed. Then a process of its own opens it
/// and does nothing else: once with the files out of the page cache (`cache` cold), once with them
/// in it (hot). `open_ms` is the time of opening, `rss_mib` all resident memory of that process
/// (/proc/self/statm) right after.
#[derive(Debug, Clone, Args)]
pub(crate) struct Open {
    /// Events in the log; one pair of results for each number.
    #[arg(long, value_delimiter = ',', default_value = "100000,1000000", value_parser = count)]
    pub events: Vec<usize>,
    /// Bytes of an event's payload.
    #[arg(long, default_value_t = 256)]
    pub event_bytes: usize,
    /// Events of each entity.
    #[arg(long, default_value_t = 100, value_parser = count)]
    pub stream_events: usize,
    /// See `bench replay --help`.
    #[arg(long)]
    pub drop_caches: bool,
}

/// Memory over time: whether it stays flat while the log grows and entities come and go.
///
/// Callers write to entities chosen at random out of `--entities`, of which a tenth fits in memory
/// (`active_limit`) and which leave it after `--idle-ms` without a command, so that entities
/// passivate and recover all the time; each takes a snapshot every 100 events. Resident memory
/// (/proc/self/statm) is sampled every second. `rss_warm_mib` is the mean over the quarter of the
/// time after the warm-up (the first quarter), `rss_last_mib` the mean over the last quarter,
/// `drift_percent` by how much the latter is above the former, `rss_max_mib` the highest sample
/// after the warm-up.
#[derive(Debug, Clone, Args)]
pub(crate) struct Soak {
    /// How long it runs, in seconds.
    #[arg(long, default_value_t = 60.0, value_parser = seconds)]
    pub seconds: f64,
    /// Entities that are written to.
    #[arg(long, default_value_t = 20_000, value_parser = count)]
    pub entities: usize,
    /// Concurrent callers.
    #[arg(long, default_value_t = 64, value_parser = count)]
    pub callers: usize,
    /// Bytes of an event's payload.
    #[arg(long, default_value_t = 256)]
    pub event_bytes: usize,
    /// After how many milliseconds without a command an entity leaves memory.
    #[arg(long, default_value_t = 500)]
    pub idle_ms: u64,
}

/// Failover: how long a group of three real nodes takes no writes when its leader dies.
///
/// Writers in this process, `--writers` for each group, write one event after the other, each going
/// to whoever leads its group and trying the others when that fails. In each trial the leader of one
/// group, chosen at random, is killed with SIGKILL: `p50_ms`, `p99_ms` and `worst_ms` are of the time
/// from the kill to the first write of that group that another node acknowledged; `groups_*` of the
/// same for all groups that the killed node led. Then it is restarted and catches up.
///
/// `graceful_*` are of restarts that are announced: the node hands its groups over, stops, and is
/// started again. They are of the longest gap between two acknowledged writes of a group that it
/// led, from before that until after it.
#[derive(Debug, Clone, Args)]
pub(crate) struct Failover {
    /// Kills.
    #[arg(long, default_value_t = 100, value_parser = count)]
    pub trials: usize,
    /// Announced restarts.
    #[arg(long, default_value_t = 20)]
    pub graceful: usize,
    /// Writers of each group.
    #[arg(long, default_value_t = 1, value_parser = count)]
    pub writers: usize,
    /// Bytes of an event's payload.
    #[arg(long, default_value_t = 256)]
    pub event_bytes: usize,
    #[command(flatten)]
    pub groups: GroupArgs,
}

/// Hand-off: how long a shard's entities answer nobody while its leadership moves, with notice.
///
/// Three whole nodes, as an application runs them. Callers on each of them, `--callers`, ask entities of
/// all shards: one command that persists an event, under a request id, after the other. Then each node in
/// turn hands over all that it leads, one shard after the other, until there were `--moves`. `gap_*` are
/// of the longest time in which nobody got an answer from the shard that moved, from before its node began
/// until half a second after it was done; `worst_ms` is the longest of these and of all calls of that time;
/// `errors` are calls that failed within their deadline. `quiet_*` are of a second without moves: what
/// the load itself and the machine make of it.
#[derive(Debug, Clone, Args)]
pub(crate) struct Handoff {
    /// Leaderships that move, at least.
    #[arg(long, default_value_t = 200, value_parser = count)]
    pub moves: usize,
    /// Concurrent callers on each node.
    #[arg(long, default_value_t = 16, value_parser = count)]
    pub callers: usize,
    /// Entities that are asked, chosen at random.
    #[arg(long, default_value_t = 1000, value_parser = count)]
    pub entities: usize,
    /// Bytes of an event's payload.
    #[arg(long, default_value_t = 256)]
    pub event_bytes: usize,
    /// How long a caller waits for an answer, in seconds.
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    pub deadline_s: f64,
    #[command(flatten)]
    pub groups: GroupArgs,
}

/// Rebalancing: how long a cluster takes to spread over a node that joins, and what it costs meanwhile.
///
/// Three whole nodes, as an application runs them, with callers on each of them, `--callers`, that persist an
/// event, under a request id, after the other. When there are `--events`, and nothing is to be moved, a
/// fourth node starts and joins. `rebalance_s` is the time from the start of its process until nothing is to
/// be moved any more; `before_per_s`, `meanwhile_per_s` and `after_per_s` are rates of acknowledged events,
/// `kept` is the second over the first; `worst_ms` is the longest call meanwhile, and `errors` are calls
/// that failed within 5 s.
#[derive(Debug, Clone, Args)]
pub(crate) struct Rebalance {
    /// Events that are there before the node joins, at least.
    #[arg(long, default_value_t = 1_000_000, value_parser = count)]
    pub events: usize,
    /// Concurrent callers on each of the first nodes.
    #[arg(long, default_value_t = 64, value_parser = count)]
    pub callers: usize,
    /// Entities that are asked, chosen at random.
    #[arg(long, default_value_t = 10_000, value_parser = count)]
    pub entities: usize,
    /// Bytes of an event's payload.
    #[arg(long, default_value_t = 256)]
    pub event_bytes: usize,
    /// How long the rates before and after are measured, in seconds.
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    pub seconds: f64,
    #[command(flatten)]
    pub groups: GroupArgs,
}

/// Catching up: what it takes, and what it costs the others.
///
/// Writers in the process that leads all groups of three real nodes write all the time. First
/// (`lag` "missed") another node is killed, misses `--events` events, and is started again; then
/// (`lag` "empty") its disk is thrown away, and its next incarnation takes its place in all groups.
/// `catch_up_s` is the time from the start of its process until it has applied what the leader had
/// applied a moment before (and until it votes in all groups). `before_per_s` is the rate of
/// acknowledged events with all nodes there, `meanwhile_per_s` the rate while it catches up,
/// `meanwhile_ratio` the latter over the former.
#[derive(Debug, Clone, Args)]
pub(crate) struct Catchup {
    /// Events that the node misses.
    #[arg(long, default_value_t = 1_000_000, value_parser = count)]
    pub events: usize,
    /// Concurrent writers.
    #[arg(long, default_value_t = 64, value_parser = count)]
    pub writers: usize,
    /// Bytes of an event's payload.
    #[arg(long, default_value_t = 256)]
    pub event_bytes: usize,
    /// How long the rate before is measured, in seconds.
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    pub seconds: f64,
    #[command(flatten)]
    pub groups: GroupArgs,
}

/// Idle groups: the processor time of three real nodes that nobody writes to.
///
/// `cpu_percent` is of one processor, the mean of the nodes; `us_per_group` the processor time of one
/// node for one group in a second.
#[derive(Debug, Clone, Args)]
pub(crate) struct Idle {
    /// Groups; one result for each number.
    #[arg(long, value_delimiter = ',', default_value = "12,64")]
    pub shards: Vec<u16>,
    /// Nodes of the cluster: 1, or 3 to 7.
    #[arg(long, default_value_t = 3, value_parser = nodes)]
    pub nodes: u32,
    /// How long each is measured, in seconds.
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    pub seconds: f64,
    /// Plain TCP instead of mutual TLS.
    #[arg(long)]
    pub insecure: bool,
}

/// Every benchmark, one after the other, with its default sizes.
///
/// `open` includes a log of 10 million events, and `soak` takes 5 minutes.
#[derive(Debug, Clone, Args)]
pub(crate) struct All {
    /// Small sizes and short times: to see that all of it runs, in about half a minute. The
    /// figures mean little.
    #[arg(long)]
    pub quick: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Child {
    Spawn { folder: PathBuf, entities: usize },
    Open { folder: PathBuf },
}

fn nodes(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(nodes @ (1 | 3..=7)) => Ok(nodes),
        _ => Err("must be 1, or 3 to 7".into()),
    }
}

fn count(text: &str) -> Result<usize, String> {
    match text.replace('_', "").parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(n) => Ok(n),
        Err(_) => Err("not a whole number".into()),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if seconds > 0.0 && seconds <= 1e6 => Ok(seconds),
        _ => Err("not a number of seconds above 0".into()),
    }
}
