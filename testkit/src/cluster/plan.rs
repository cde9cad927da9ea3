//! What a seed is about: how many nodes, how the log and the network are, which faults strike.
//! Each seed has some kinds of faults and not others, so that each gets its room.

use duractor_journal::{LogConfig, Timing};

use super::{Planted, network::NetConfig};
use crate::{disk::DiskFaults, rng::Rng};

/// A kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// One node loses power.
    Crash,
    /// One process is killed.
    Kill,
    /// All nodes, or most of them, lose power at once.
    CrashMany,
    /// All nodes lose power right after an acknowledgement.
    CrashAtAck,
    /// A node is away for long, so that the others' logs go on without it.
    LongAway,
    /// A node comes back, and loses power soon after, several times.
    CrashLoop,
    /// A voter loses power right after it promised its vote, and is asked again by another.
    TwoVotes,
    /// A leader is cut off, and the others lose power for a moment.
    LeaderAlone,
    /// Nodes are cut off, in both directions or in one.
    Cut,
    /// A line is slow.
    Slow,
    /// A session breaks.
    Break,
    /// A node does not move for a while.
    Freeze,
    /// A node's clock jumps.
    Skew,
    /// A node's disk is slow to sync.
    Stall,
    /// A node's disk fails to sync.
    FailSync,
    /// A node seals and merges its files.
    Maintain,
    /// Leadership is handed over.
    Transfer,
    /// A shard moves to other nodes.
    Move,
    /// A node's disk is lost; an empty one takes its place.
    Replace,
    /// A node's disk rots.
    Damage,
}

impl Trouble {
    pub(crate) const ALL: [Trouble; 20] = [
        Trouble::Crash,
        Trouble::Kill,
        Trouble::CrashMany,
        Trouble::CrashAtAck,
        Trouble::LongAway,
        Trouble::CrashLoop,
        Trouble::TwoVotes,
        Trouble::LeaderAlone,
        Trouble::Cut,
        Trouble::Slow,
        Trouble::Break,
        Trouble::Freeze,
        Trouble::Skew,
        Trouble::Stall,
        Trouble::FailSync,
        Trouble::Maintain,
        Trouble::Transfer,
        Trouble::Move,
        Trouble::Replace,
        Trouble::Damage,
    ];

    /// The name in the summary.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Trouble::Crash => "crash",
            Trouble::Kill => "kill",
            Trouble::CrashMany => "crash_many",
            Trouble::CrashAtAck => "crash_at_ack",
            Trouble::LongAway => "long_away",
            Trouble::CrashLoop => "crash_loop",
            Trouble::TwoVotes => "two_votes",
            Trouble::LeaderAlone => "leader_alone",
            Trouble::Cut => "cut",
            Trouble::Slow => "slow",
            Trouble::Break => "break",
            Trouble::Freeze => "freeze",
            Trouble::Skew => "skew",
            Trouble::Stall => "stall",
            Trouble::FailSync => "fail_sync",
            Trouble::Maintain => "maintain",
            Trouble::Transfer => "transfer",
            Trouble::Move => "move",
            Trouble::Replace => "disk_replaced",
            Trouble::Damage => "disk_damaged",
        }
    }

    /// Whether it is for whoever changes members: one such thing at a time.
    pub(crate) fn of_members(self) -> bool {
        matches!(self, Trouble::Transfer | Trouble::Move | Trouble::Replace | Trouble::Damage)
    }
}

/// What a seed is about.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) nodes: u32,
    /// Of each shard.
    pub(crate) voters: u32,
    pub(crate) log: LogConfig,
    pub(crate) timing: Timing,
    pub(crate) net: NetConfig,
    pub(crate) disk: DiskFaults,
    pub(crate) troubles: Vec<Trouble>,
    /// Between two troubles, on average.
    pub(crate) trouble_ms: u64,
    /// How long the load goes on.
    pub(crate) load_ms: u64,
    /// Entities that all clients write to, and entities with one writer each.
    pub(crate) shared_entities: usize,
    pub(crate) single_entities: usize,
    pub(crate) clients: usize,
    pub(crate) readers: usize,
    /// Between two calls of a client, at most.
    pub(crate) pause_ms: u64,
    /// Bytes of an event beside its stamp, at most.
    pub(crate) event_bytes: u64,
}

impl Plan {
    /// The plan of a seed; of a bug that must be found, with what finds it.
    pub(crate) fn draw(rng: &mut Rng, planted: Option<Planted>) -> Self {
        let nodes = [3, 3, 3, 3, 4, 5][rng.index(6)];
        let mut troubles: Vec<_> = Trouble::ALL.into_iter().filter(|_| rng.chance(0.3)).collect();
        let wanted = planted.map_or(&[][..], Planted::needs);
        troubles.retain(|trouble| wanted.is_empty() || !trouble.of_members());
        troubles.extend(wanted);
        troubles.sort_unstable();
        if wanted.is_empty() {
            troubles.dedup();
        }
        if troubles.is_empty() {
            troubles.push(Trouble::Cut);
        }
        let heavy = rng.chance(0.4) || planted.is_some_and(Planted::needs_bytes);
        Self {
            nodes,
            voters: if rng.chance(0.1) { nodes } else { 3 },
            log: log(rng),
            timing: timing(rng),
            net: net(rng),
            disk: DiskFaults {
                sector_bytes: if rng.chance(0.2) { 4096 } else { 512 },
                unordered_names: rng.chance(0.3),
                ..DiskFaults::default()
            },
            troubles,
            trouble_ms: 30 + rng.below(250),
            load_ms: 1_200 + rng.below(1_800),
            shared_entities: 1 + rng.index(4),
            single_entities: 1 + rng.index(3),
            clients: 1 + rng.index(3),
            readers: 1 + rng.index(2),
            pause_ms: 5 + rng.below(30),
            event_bytes: if heavy { 600 + rng.below(2_500) } else { 60 },
        }
    }
}

fn log(rng: &mut Rng) -> LogConfig {
    let mut log = LogConfig::new("/data/log");
    log.shards = 1 + rng.below(3) as u16;
    log.segment_bytes = (16 << 10) + 512 * rng.below(64);
    log.merged_bytes = log.segment_bytes * (1 + rng.below(8));
    log.fan_in = 2 + rng.index(3);
    log.compact_at_percent = 1 + rng.below(60) as u8;
    log.cached_heads = rng.index(100);
    log.unsealed_segments = 1 + rng.index(4);
    log
}

fn timing(rng: &mut Rng) -> Timing {
    match rng.below(4) {
        0 => Timing { heartbeat_ms: 30, election_min_ms: 100, election_max_ms: 200 },
        1 => Timing { heartbeat_ms: 100, election_min_ms: 300, election_max_ms: 600 },
        _ => Timing::default(),
    }
}

fn net(rng: &mut Rng) -> NetConfig {
    let most = [0, 500, 2_000, 8_000][rng.index(4)];
    let raw = rng.chance(0.25);
    let part = |rng: &mut Rng| if raw { 0.08 * rng.below(100) as f64 / 100.0 } else { 0.0 };
    NetConfig {
        delay_us: (0, most),
        jitter_us: [0, 300, 5_000][rng.index(3)],
        window_bytes: if rng.chance(0.2) { 16 << 10 } else { 4 << 20 },
        loss: part(rng),
        duplicate: part(rng),
        ..NetConfig::default()
    }
}
