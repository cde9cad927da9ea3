//! What parent and node say to each other: JSON, a line each, over a connection on loopback that
//! the node opens. Its first line is [`Hello`]; then it answers requests, in any order.

use std::{collections::BTreeSet, path::PathBuf};

use duractor_journal::{GroupStatus, Member, Role, Timing};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a node process is started with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeConfig {
    /// Who it is.
    pub me: Member,
    /// The name of the cluster.
    pub cluster: String,
    /// Its data directory.
    pub dir: PathBuf,
    /// Where its links listen, `127.0.0.1:PORT`; port 0 takes a free one.
    pub listen: String,
    /// Where to reach the other nodes.
    pub reach: Vec<String>,
    /// The parent's control listener.
    pub control: String,
    /// Certificates, or plain TCP.
    pub tls: Option<Tls>,
    /// How many shards there are.
    pub shards: u16,
    /// See [`LogConfig`](duractor_journal::LogConfig); without it, the default.
    pub segment_bytes: Option<u64>,
    /// See [`LogConfig`](duractor_journal::LogConfig); without it, the default.
    pub fan_in: Option<usize>,
    /// Heartbeat and election times in milliseconds; without it, the default.
    pub timing: Option<[u64; 3]>,
    /// What the node's [handler](super::Handler) does wrong on purpose, if anything.
    pub plant: Option<String>,
    /// For a whole node, with everything that belongs to it. Without it there are links and journal alone.
    pub whole: Option<Whole>,
}

/// What a whole node is started with beside the rest.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Whole {
    /// Whether it makes a new cluster.
    pub bootstrap: bool,
    /// Keys and values of its [configuration](duractor::config).
    pub settings: Vec<(String, String)>,
}

impl NodeConfig {
    /// Heartbeats and elections.
    #[must_use]
    pub fn timing(&self) -> Timing {
        self.timing.map_or_else(
            Timing::default,
            |[heartbeat_ms, election_min_ms, election_max_ms]| Timing {
                heartbeat_ms,
                election_min_ms,
                election_max_ms,
            },
        )
    }
}

/// A node's certificates, as PEM files.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tls {
    /// The cluster's CA.
    pub ca: PathBuf,
    /// The node's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// The first line of a node: it is open and listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Who it is.
    pub me: Member,
    /// Where its links listen.
    pub address: String,
}

/// A request or an answer with its number.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Numbered<T> {
    /// The answer has the number of its request.
    pub id: u64,
    /// What is said.
    pub body: T,
}

/// What a parent asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// All groups as this node sees them: a [`Group`] each.
    Status,
    /// Makes the groups of all shards.
    Initialize {
        /// Who votes.
        voters: BTreeSet<Member>,
    },
    /// Changes who belongs to a group; at its leader.
    ChangeMembers {
        /// Which.
        shard: u16,
        /// Who votes.
        voters: BTreeSet<Member>,
    },
    /// Hands a group to another voter; at its leader.
    Transfer {
        /// Which.
        shard: u16,
        /// To whom.
        to: Member,
    },
    /// Closes journal and links, answers, and ends.
    Stop,
    /// Whatever the program itself understands.
    Own(Value),
}

/// What a node answers: nothing of the kind of `Err` says whether anything took effect.
pub type Answer = Result<Value, String>;

/// A group as a node sees it; [`GroupStatus`] for the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Whether this node leads it.
    pub leads: bool,
    /// What the node is in it.
    pub role: String,
    /// Who leads, as far as known.
    pub leader: Option<Member>,
    /// The Raft term.
    pub term: u64,
    /// Who votes.
    pub voters: BTreeSet<Member>,
    /// The index of the last entry in the log.
    pub last_index: u64,
    /// The index of the last entry that is applied.
    pub applied_index: u64,
    /// Why it does not work, where it does not.
    pub problem: Option<String>,
}

impl From<GroupStatus> for Group {
    fn from(status: GroupStatus) -> Self {
        Self {
            leads: status.role == Role::Leader,
            role: format!("{:?}", status.role).to_lowercase(),
            leader: status.leader,
            term: status.term.0,
            voters: status.voters,
            last_index: status.last_index.unwrap_or(0),
            applied_index: status.applied_index.unwrap_or(0),
            problem: status.problem,
        }
    }
}

/// What became of the batches of one write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// For each batch the sequence number of its first event, where it is acknowledged.
    pub first_seqs: Vec<Option<u64>>,
    /// Why some are not. They may have been written or not: the same requests can be sent again.
    pub trouble: Option<String>,
    /// Who leads instead, where that is the reason.
    pub leader: Option<Member>,
}

/// A line, ready to be written.
///
/// # Errors
/// What cannot be told in JSON: keys that are no texts.
pub fn line<T: Serialize>(value: &T) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}
