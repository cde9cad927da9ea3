//! The configuration as types. What each key is for, and may be, is in [`keys`](super::keys).

use std::{collections::BTreeMap, fmt, path::PathBuf};

use duractor_journal::{Limits, LogConfig, NodeId, Timing};
use serde::{Deserialize, Serialize};

use super::{
    error::{ConfigError, Problem, redact},
    keys::KEYS,
    load::Loader,
};

/// Everything that can be set of a node. Made by a [`Loader`]; [`Config::default`] has the defaults.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This node.
    pub node: NodeSection,
    /// The cluster.
    pub cluster: ClusterSection,
    /// Addresses.
    pub net: NetSection,
    /// Certificates.
    pub tls: TlsSection,
    /// Finding other nodes.
    pub discovery: DiscoverySection,
    /// How long things may take.
    pub timing: TimingSection,
    /// The log.
    pub log: LogSection,
    /// Where each value was given.
    #[serde(skip)]
    pub(super) origins: BTreeMap<String, String>,
}

macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }
    };
}

section! {
    /// This node.
    NodeSection {
        /// Its number within the cluster, from 1.
        number: u32,
        /// The folder with everything that it keeps.
        data_dir: PathBuf,
        /// What it is for.
        roles: Vec<String>,
        /// Its zone; nodes that give none are in one zone together.
        zone: String,
        /// Its rack within the zone.
        rack: String,
        /// The version of the application.
        version: String,
        /// How much it carries beside others.
        weight: u32,
    }
}
section! {
    /// The cluster.
    ClusterSection {
        /// Its name.
        name: String,
        /// Shards of a new cluster; a cluster that is there keeps its number.
        shards: u16,
        /// On how many nodes a new cluster keeps each event.
        replication: u8,
        /// How many groups may take in replicas at once.
        moves: usize,
        /// A node that is not reached for so long loses its replicas to others, in milliseconds.
        replace_after_ms: u64,
        /// How long a node that shuts down may hand its leaderships over, in milliseconds.
        hand_over_ms: u64,
        /// By how much more than its share a node must have before leaderships move for load.
        load_margin_percent: u64,
    }
}
section! {
    /// Addresses.
    NetSection {
        /// Where this node listens for others, `HOST:PORT`.
        listen: String,
        /// What others dial; empty for `listen`.
        advertise: String,
        /// Plain TCP instead of mutual TLS, on loopback alone.
        insecure: bool,
        /// How many clients may be linked to this node at once.
        max_clients: usize,
    }
}
/// PEM files for mutual TLS: all of them or none.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSection {
    /// The certificates of the cluster's CA.
    pub ca: PathBuf,
    /// This node's certificate.
    pub cert: PathBuf,
    /// This node's private key. Only its path is kept here.
    pub key: PathBuf,
}

impl fmt::Debug for TlsSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |path: &PathBuf| redact(&path.to_string_lossy()).to_owned();
        let mut shown = f.debug_struct("TlsSection");
        shown.field("ca", &show(&self.ca)).field("cert", &show(&self.cert));
        shown.field("key", &show(&self.key)).finish()
    }
}

section! {
    /// Finding other nodes.
    DiscoverySection {
        /// Addresses of nodes, `HOST:PORT`.
        seeds: Vec<String>,
        /// A variable that holds more of them, separated by commas.
        env: String,
        /// A DNS name whose addresses are nodes: `HOST:PORT`, or the name of an SRV record.
        dns: String,
        /// First pause between attempts, in milliseconds.
        retry_min_ms: u64,
        /// Longest pause between attempts, in milliseconds.
        retry_max_ms: u64,
    }
}
section! {
    /// How long things may take, in milliseconds.
    TimingSection {
        /// A leader is heard of this often.
        heartbeat_ms: u64,
        /// Shortest time without a leader before an election.
        election_min_ms: u64,
        /// Longest such time, and a leader's lease.
        election_max_ms: u64,
        /// A peer that is not heard of for so long is down, at the latest.
        peer_timeout_ms: u64,
        /// How long a node tries to join before it gives up.
        join_timeout_ms: u64,
        /// How long an operation on members may take.
        operation_timeout_ms: u64,
        /// How long a node is up before it gets its leaderships back.
        settle_ms: u64,
    }
}
section! {
    /// The log. See [`LogConfig`].
    LogSection {
        /// Bytes of a segment.
        segment_bytes: u64,
        /// Bytes that may wait to be written before appends are refused as busy.
        queue_bytes: usize,
        /// How many entities' heads are kept in memory.
        cached_heads: usize,
        /// How many full segments may wait to be sealed.
        unsealed_segments: usize,
        /// Bytes of one event's payload.
        max_payload_bytes: usize,
        /// Events in one batch.
        max_batch_events: usize,
        /// Bytes of one batch.
        max_batch_bytes: usize,
    }
}

impl Default for Config {
    fn default() -> Self {
        // A test loads them: they are fit.
        Loader::new().load().expect("the defaults are a configuration")
    }
}

impl Config {
    /// This node's number.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        NodeId(self.node.number)
    }

    /// What other nodes dial.
    #[must_use]
    pub fn advertised(&self) -> &str {
        if self.net.advertise.is_empty() { &self.net.listen } else { &self.net.advertise }
    }

    /// Heartbeats and elections of the journal's groups.
    #[must_use]
    pub fn timing(&self) -> Timing {
        let TimingSection { heartbeat_ms, election_min_ms, election_max_ms, .. } = self.timing;
        Timing { heartbeat_ms, election_min_ms, election_max_ms }
    }

    /// The settings of the node's log, which is in `log` within the data directory.
    #[must_use]
    pub fn log_config(&self) -> LogConfig {
        let mut log = LogConfig::new(self.node.data_dir.join("log"));
        log.shards = self.cluster.shards;
        log.limits = Limits {
            max_payload_bytes: self.log.max_payload_bytes,
            max_batch_events: self.log.max_batch_events,
            max_batch_bytes: self.log.max_batch_bytes,
        };
        log.segment_bytes = self.log.segment_bytes;
        log.queue_bytes = self.log.queue_bytes;
        log.cached_heads = self.log.cached_heads;
        log.unsealed_segments = self.log.unsealed_segments;
        log
    }

    /// Where a value was given, as `"default"` or `"the flag --node-number"`; `None` where there is
    /// no such key.
    #[must_use]
    pub fn origin(&self, key: &str) -> Option<&str> {
        self.origins.get(key).map(String::as_str)
    }

    /// All values in force, each with where it was given, one a line. Has no secrets.
    #[must_use]
    pub fn explain(&self) -> String {
        let values = serde_json::to_value(self).unwrap_or_default();
        let mut lines = String::new();
        for key in KEYS {
            let value = values.pointer(&format!("/{}", key.name.replace('.', "/")));
            let text = value.map(ToString::to_string).unwrap_or_default();
            let origin = self.origin(key.name).unwrap_or("set by the program");
            lines += &format!("{} = {}  # {origin}\n", key.name, redact(&text));
        }
        lines
    }

    /// Checks what concerns more than one key, also after the program changed fields by hand.
    ///
    /// # Errors
    /// [`ConfigError`] with all that is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        let mut refuse = |key: &str, value: String, what: String| {
            let origin = self.origin(key).unwrap_or("set by the program").to_owned();
            problems.push(Problem { key: key.to_owned(), value: Some(value), origin, what });
        };
        let TimingSection { heartbeat_ms, election_min_ms: min, election_max_ms: max, .. } =
            self.timing;
        if min < 3 * heartbeat_ms {
            let least = 3 * heartbeat_ms;
            let what = format!("must be at least three heartbeats, {least} or more");
            refuse("timing.election_min_ms", min.to_string(), what);
        }
        if max <= min {
            let what = format!("must be more than timing.election_min_ms, {} or more", min + 1);
            refuse("timing.election_max_ms", max.to_string(), what);
        }
        let DiscoverySection { retry_min_ms, retry_max_ms, .. } = self.discovery;
        if retry_max_ms < retry_min_ms {
            let what = format!("must be at least discovery.retry_min_ms, {retry_min_ms} or more");
            refuse("discovery.retry_max_ms", retry_max_ms.to_string(), what);
        }
        if self.log.max_batch_bytes < self.log.max_payload_bytes {
            let what = format!(
                "must be at least log.max_payload_bytes, {} or more",
                self.log.max_payload_bytes
            );
            refuse("log.max_batch_bytes", self.log.max_batch_bytes.to_string(), what);
        }
        let given = [&self.tls.ca, &self.tls.cert, &self.tls.key];
        let missing = given.iter().filter(|path| path.as_os_str().is_empty()).count();
        let files = || "tls.ca, tls.cert and tls.key go together".to_owned();
        if missing == 1 || missing == 2 {
            refuse("tls", format!("{} of 3 files", 3 - missing), files());
        }
        if self.net.insecure && missing < 3 {
            let what = "must be false where there are certificates".to_owned();
            refuse("net.insecure", "true".into(), what);
        }
        let any = ["0.0.0.0:", "[::]:"].iter().any(|any| self.advertised().starts_with(any));
        if any {
            let what = "others cannot dial this: set it to an address of this node".to_owned();
            refuse("net.advertise", self.advertised().to_owned(), what);
        }
        if problems.is_empty() { Ok(()) } else { Err(ConfigError { problems }) }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Config {\n")?;
        f.write_str(&self.explain())?;
        f.write_str("}")
    }
}

/// As [`Config::explain`].
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.explain())
    }
}
