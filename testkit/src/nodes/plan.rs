//! What a seed is about: how many nodes, how they are set up, which troubles strike.

use std::time::Duration;

use duractor::EntitySettings;

use super::Planted;
use crate::{cluster::network::NetConfig, rng::Rng};

/// A kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// One node loses power.
    Crash,
    /// One process is killed.
    Kill,
    /// All nodes, or most of them, lose power at once.
    CrashMany,
    /// A node is shut down in good order, and starts again.
    Restart,
    /// A leader is cut off, and the others lose power for a moment.
    LeaderAlone,
    /// Nodes are cut off, in both directions or in one.
    Cut,
    /// A line is slow.
    Slow,
    /// A session breaks.
    Break,
    /// Nothing reaches a node and nothing leaves it for a while.
    Freeze,
    /// A node's clock jumps, by up to an hour.
    Skew,
    /// A node's disk is slow to sync.
    Stall,
    /// A shard's leadership is handed over.
    Transfer,
    /// A node's disk is lost; an empty one takes its place.
    Replace,
    /// A node leaves the cluster, and joins it again with an empty disk.
    Leave,
    /// A node is drained for maintenance.
    Maintain,
    /// A node gives everything away for a while.
    Decommission,
    /// All nodes are drained and restarted, one after the other.
    Rolling,
    /// Nothing is moved for balance for a while.
    Pause,
    /// A node is away for so long that others get its replicas.
    Away,
}

impl Trouble {
    pub(crate) const ALL: [Trouble; 19] = [
        Trouble::Crash,
        Trouble::Kill,
        Trouble::CrashMany,
        Trouble::Restart,
        Trouble::LeaderAlone,
        Trouble::Cut,
        Trouble::Slow,
        Trouble::Break,
        Trouble::Freeze,
        Trouble::Skew,
        Trouble::Stall,
        Trouble::Transfer,
        Trouble::Replace,
        Trouble::Leave,
        Trouble::Maintain,
        Trouble::Decommission,
        Trouble::Rolling,
        Trouble::Pause,
        Trouble::Away,
    ];

    /// The name in the summary.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Trouble::Crash => "crash",
            Trouble::Kill => "kill",
            Trouble::CrashMany => "crash_many",
            Trouble::Restart => "restart",
            Trouble::LeaderAlone => "leader_alone",
            Trouble::Cut => "cut",
            Trouble::Slow => "slow",
            Trouble::Break => "break",
            Trouble::Freeze => "freeze",
            Trouble::Skew => "skew",
            Trouble::Stall => "stall",
            Trouble::Transfer => "transfer",
            Trouble::Replace => "disk_replaced",
            Trouble::Leave => "leave",
            Trouble::Maintain => "maintain",
            Trouble::Decommission => "decommission",
            Trouble::Rolling => "rolling",
            Trouble::Pause => "pause",
            Trouble::Away => "away",
        }
    }
}

/// What a seed is about.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) nodes: u32,
    pub(crate) shards: u16,
    pub(crate) segment_bytes: u64,
    /// Heartbeat, shortest and longest election.
    pub(crate) timing_ms: (u64, u64, u64),
    pub(crate) net: NetConfig,
    pub(crate) troubles: Vec<Trouble>,
    /// Between two troubles, on average.
    pub(crate) trouble_ms: u64,
    /// How long the load goes on.
    pub(crate) load_ms: u64,
    pub(crate) accounts: usize,
    pub(crate) clients: usize,
    pub(crate) singletons: usize,
    /// Locks, and as many semaphores.
    pub(crate) locks: usize,
    /// Clients of them.
    pub(crate) lockers: usize,
    /// A session's lease.
    pub(crate) lease_ms: u64,
    /// Between which transfers go.
    pub(crate) purses: usize,
    /// Clients that transfer.
    pub(crate) tellers: usize,
    /// Clients of entities that deliver, remind and are remembered.
    pub(crate) errands: usize,
    /// How much later a reminder is due, at most.
    pub(crate) remind_ms: u64,
    /// Between two calls of a client, at most.
    pub(crate) pause_ms: u64,
    /// Bytes of an event beside its number, at most.
    pub(crate) padding: u64,
    pub(crate) settings: EntitySettings,
    /// How long a node is away before others get its replicas.
    pub(crate) replace_after_ms: u64,
    /// How many groups may take in replicas at once.
    pub(crate) moves: u64,
    /// Zone, rack and weight of each node.
    pub(crate) sites: Vec<(String, String, u64)>,
    /// Whether a node is drained and stopped in quiet at the end.
    pub(crate) rehearsal: bool,
    /// Whether a client asks that is no node.
    pub(crate) guest: bool,
}

impl Plan {
    /// The plan of a seed; of a bug that must be found, with what finds it.
    pub(crate) fn draw(rng: &mut Rng, planted: Option<Planted>) -> Self {
        let wanted = planted.map_or(&[][..], Planted::needs);
        let mut troubles: Vec<_> = Trouble::ALL.into_iter().filter(|_| rng.chance(0.3)).collect();
        troubles.extend(wanted);
        if troubles.is_empty() {
            troubles.push(Trouble::Cut);
        }
        let nodes = [3, 3, 3, 4][rng.index(4)];
        Self {
            nodes,
            shards: 1 + rng.below(3) as u16,
            segment_bytes: (16 << 10) + 512 * rng.below(64),
            timing_ms: [(30, 100, 200), (50, 150, 300), (100, 300, 600)][rng.index(3)],
            net: net(rng),
            troubles,
            trouble_ms: 50 + rng.below(400),
            load_ms: 1_500 + rng.below(2_500),
            accounts: 1 + rng.index(4),
            clients: 1 + rng.index(4),
            singletons: 1 + rng.index(3),
            purses: 2 + rng.index(4),
            tellers: if planted.is_some_and(Planted::is_transfer) { 2 } else { rng.index(3) },
            pause_ms: 5 + rng.below(40),
            padding: if rng.chance(0.3) { 1_500 } else { 30 },
            settings: settings(rng),
            locks: 1 + rng.index(3),
            lockers: if wanted.is_empty() { rng.index(6) } else { 2 + rng.index(3) },
            lease_ms: 300 + rng.below(1_700),
            errands: if wanted.is_empty() { rng.index(3) } else { 1 + rng.index(2) },
            remind_ms: 200 + rng.below(6_000),
            replace_after_ms: if rng.chance(0.3) { 1_000 + rng.below(1_000) } else { 300_000 },
            moves: 1 + rng.below(3),
            sites: sites(rng, nodes),
            rehearsal: rng.chance(0.4) || planted == Some(Planted::StaleView),
            guest: false,
        }
    }
}

fn net(rng: &mut Rng) -> NetConfig {
    NetConfig {
        delay_us: (0, [0, 500, 2_000, 8_000][rng.index(4)]),
        jitter_us: [0, 300, 5_000][rng.index(3)],
        window_bytes: if rng.chance(0.2) { 16 << 10 } else { 4 << 20 },
        ..NetConfig::default()
    }
}

/// Half of all clusters are all in one place.
fn sites(rng: &mut Rng, nodes: u32) -> Vec<(String, String, u64)> {
    let zones = if rng.chance(0.5) { 1 } else { 1 + rng.below(3) };
    let one = |rng: &mut Rng| {
        let (zone, rack) = (rng.below(zones), rng.below(zones));
        let weight = if zones > 1 { [50, 100, 100, 300][rng.index(4)] } else { 100 };
        (format!("zone-{zone}"), format!("rack-{rack}"), weight)
    };
    (0..nodes).map(|_| one(rng)).collect()
}

fn settings(rng: &mut Rng) -> EntitySettings {
    let mut settings = EntitySettings::default()
        // A run is shorter than that, but its clocks jump by an hour.
        .dedup_count(100_000)
        .dedup_age(Duration::from_secs(86_400))
        .ask_timeout(Duration::from_millis(300 + rng.below(1_700)))
        .delete_events(rng.chance(0.5));
    if rng.chance(0.7) {
        settings = settings.snapshot_every(3 + rng.below(40)).keep_snapshots(1 + rng.index(3));
    }
    if rng.chance(0.4) {
        settings = settings.idle_timeout(Duration::from_millis(20 + rng.below(500)));
    }
    if rng.chance(0.2) {
        settings = settings.active_limit(1 + rng.index(2));
    }
    settings
}
