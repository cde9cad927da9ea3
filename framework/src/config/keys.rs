//! The keys of the configuration: what each is for, its default, and what it may be.

use crate::link::FIRST_CLIENT;

/// What a key may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// A whole number from the first to the second, inclusive.
    Number(u64, u64),
    /// `true` or `false`.
    Switch,
    /// 1 to 64 letters, digits, `-`, `_` or `.`.
    Name,
    /// The path of a file or folder; may be empty only where the default is.
    Path,
    /// `HOST:PORT`; may be empty only where the default is.
    Address,
    /// A list of `HOST:PORT`, in variables and flags separated by commas.
    Addresses,
    /// `HOST:PORT` to be resolved, or a name of an SRV record (`_service._tcp.domain`), or empty.
    DnsName,
    /// The name of an environment variable.
    Variable,
    /// A list of names, in variables and flags separated by commas.
    Names,
    /// A version, as `1.4.0`, or empty.
    Version,
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// `section.key`.
    pub name: &'static str,
    /// What it holds unless set, as text.
    pub default: &'static str,
    /// What it may hold.
    pub allowed: Allowed,
    /// What it is for.
    pub help: &'static str,
}

const fn key(
    name: &'static str,
    default: &'static str,
    allowed: Allowed,
    help: &'static str,
) -> Key {
    Key { name, default, allowed, help }
}

use Allowed::{Address, Addresses, DnsName, Name, Names, Number, Path, Switch, Variable, Version};

/// Every key there is.
pub const KEYS: &[Key] = &[
    key(
        "node.number",
        "1",
        Number(1, FIRST_CLIENT as u64 - 1),
        "This node's number within the cluster",
    ),
    key("node.data_dir", "data", Path, "The folder with everything that this node keeps"),
    key("node.roles", "", Names, "What the node is for; shards can be bound to nodes of a role"),
    key("node.zone", "", Name, "What fails together: replicas are spread over zones first"),
    key(
        "node.rack",
        "",
        Name,
        "What fails together within a zone: they are spread over racks next",
    ),
    key("node.version", "", Version, "The version of the application, as 1.4.0"),
    key("node.weight", "100", Number(1, 10_000), "How much the node carries beside others"),
    key("cluster.name", "duractor", Name, "The cluster's name; nodes of another are refused"),
    key("cluster.shards", "12", Number(1, 256), "Shards of a new cluster; fixed from then on"),
    key(
        "cluster.replication",
        "3",
        Number(1, 9),
        "On how many nodes a new cluster keeps each event",
    ),
    key("cluster.moves", "2", Number(1, 64), "How many groups may take in replicas at once"),
    key(
        "cluster.replace_after_ms",
        "300000",
        Number(1_000, 2_592_000_000),
        "A node that is not reached for so long loses its replicas to others until it is back",
    ),
    key(
        "cluster.hand_over_ms",
        "10000",
        Number(0, 600_000),
        "How long a node that shuts down may take to hand its leaderships over; 0 not at all",
    ),
    key(
        "cluster.load_margin_percent",
        "30",
        Number(0, 1_000),
        "Leaderships move for load where a node has so much more than its share; 0 never",
    ),
    key("net.listen", "127.0.0.1:7400", Address, "Where other nodes reach this one"),
    key("net.advertise", "", Address, "What others are told to dial; net.listen unless set"),
    key("net.insecure", "false", Switch, "Plain TCP instead of mutual TLS; for loopback alone"),
    key(
        "net.max_clients",
        "256",
        Number(0, 65_536),
        "How many clients may be linked to this node at once",
    ),
    key("tls.ca", "", Path, "PEM file with the certificates of the cluster's CA"),
    key("tls.cert", "", Path, "PEM file with this node's certificate"),
    key("tls.key", "", Path, "PEM file with this node's private key"),
    key("discovery.seeds", "", Addresses, "Nodes to ask for the cluster"),
    key("discovery.env", "DURACTOR_SEEDS", Variable, "A variable with more such nodes"),
    key("discovery.dns", "", DnsName, "HOST:PORT whose addresses are such nodes, or an SRV name"),
    key(
        "discovery.retry_min_ms",
        "100",
        Number(1, 60_000),
        "First pause between attempts to find nodes",
    ),
    key("discovery.retry_max_ms", "5000", Number(1, 600_000), "Longest pause between them"),
    key("timing.heartbeat_ms", "50", Number(5, 10_000), "How often a leader is heard of"),
    key(
        "timing.election_min_ms",
        "150",
        Number(15, 60_000),
        "Shortest time without a leader before an election",
    ),
    key(
        "timing.election_max_ms",
        "300",
        Number(20, 120_000),
        "Longest such time, and a leader's lease",
    ),
    key(
        "timing.peer_timeout_ms",
        "500",
        Number(50, 120_000),
        "A peer that is not heard of for so long is down, at the latest",
    ),
    key(
        "timing.join_timeout_ms",
        "30000",
        Number(100, 3_600_000),
        "How long a node tries to join before it gives up",
    ),
    key(
        "timing.operation_timeout_ms",
        "60000",
        Number(100, 3_600_000),
        "How long an operation on members may take",
    ),
    key(
        "timing.settle_ms",
        "5000",
        Number(0, 3_600_000),
        "How long a node is up before it gets its leaderships back",
    ),
    key("log.segment_bytes", "67108864", Number(16 << 10, 1 << 30), "Bytes of a log segment"),
    key(
        "log.queue_bytes",
        "67108864",
        Number(64 << 10, 16 << 30),
        "Bytes that may wait to be written",
    ),
    key(
        "log.cached_heads",
        "262144",
        Number(1, 1 << 32),
        "Entities whose newest number is kept in memory",
    ),
    key("log.unsealed_segments", "4", Number(1, 256), "Full segments that may wait to be sealed"),
    key("log.max_payload_bytes", "1048576", Number(1, 32 << 20), "Bytes of one event"),
    key("log.max_batch_events", "4096", Number(1, 65_536), "Events in one batch"),
    key("log.max_batch_bytes", "16777216", Number(1 << 10, 48 << 20), "Bytes of one batch"),
];

impl Key {
    /// The key with this name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The environment variable that sets it.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("DURACTOR_{}", self.name.replace('.', "_").to_uppercase())
    }

    /// The flag that sets it, without the dashes before it.
    #[must_use]
    pub fn flag(&self) -> String {
        self.name.replace(['.', '_'], "-")
    }

    /// What it may hold, in words.
    #[must_use]
    pub fn range(&self) -> String {
        let or_empty = if self.default.is_empty() { ", or nothing" } else { "" };
        match self.allowed {
            Number(min, max) => format!("{min} to {max}"),
            Switch => "true or false".into(),
            Name => format!("1 to 64 letters, digits, '-', '_' or '.'{or_empty}"),
            Names => "a list of names of 1 to 64 letters, digits, '-', '_' or '.'".into(),
            Version => "a version as 1.4.0 or 2.0.0-rc.1, or nothing".into(),
            Path => format!("a path{or_empty}"),
            Address => format!("HOST:PORT{or_empty}"),
            Addresses => "a list of HOST:PORT".into(),
            DnsName => "HOST:PORT, or an SRV name as _raft._tcp.example.org, or nothing".into(),
            Variable => "the name of a variable: letters, digits and '_'".into(),
        }
    }

    /// Whether a text is fit for it.
    pub(super) fn fits(&self, text: &str) -> bool {
        let empty_allowed = self.default.is_empty();
        match self.allowed {
            Number(min, max) => text.parse::<u64>().is_ok_and(|n| (min..=max).contains(&n)),
            Switch => text.parse::<bool>().is_ok(),
            Name if text.is_empty() => empty_allowed,
            Name => is_name(text),
            Names => text.is_empty() || text.split(',').all(|one| is_name(one.trim())),
            Version => text.is_empty() || text.parse::<super::Version>().is_ok(),
            Path if text.is_empty() => empty_allowed,
            Path => !text.chars().any(char::is_control),
            Address => {
                if text.is_empty() {
                    empty_allowed
                } else {
                    is_address(text)
                }
            }
            Addresses => text.is_empty() || text.split(',').all(|one| is_address(one.trim())),
            DnsName => text.is_empty() || is_address(text) || is_srv(text),
            Variable => {
                !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            }
        }
    }
}

/// Whether a text is a name.
fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=64).contains(&text.len()) && text.chars().all(fits)
}

/// Whether a text is `HOST:PORT`; an IPv6 address in brackets.
pub(crate) fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host_fits = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(ip) => ip.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        }
    };
    host_fits && port.parse::<u16>().is_ok()
}

/// Whether a text is the name of an SRV record.
pub(crate) fn is_srv(text: &str) -> bool {
    text.starts_with('_') && text.contains("._") && !text.contains(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_fits_its_key() {
        for key in KEYS {
            assert!(key.fits(key.default), "{} = {:?}", key.name, key.default);
            assert!(!key.help.is_empty() && key.name.contains('.'));
        }
        let mut names: Vec<_> = KEYS.iter().map(Key::flag).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KEYS.len(), "names are unique");
    }

    #[test]
    fn addresses_are_told_from_other_texts() {
        for good in ["a:1", "10.0.0.1:7400", "[::1]:7400", "node-1.example.org:65535"] {
            assert!(is_address(good), "{good}");
        }
        for bad in ["", "a", "a:", ":1", "a:65536", "::1:7400", "[::g]:1", "a b:1", "http://a:1"] {
            assert!(!is_address(bad), "{bad}");
        }
        assert!(is_srv("_raft._tcp.example.org") && !is_srv("example.org"));
    }
}
