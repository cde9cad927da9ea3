//! What can go wrong with a cluster, whether it may have taken effect, and what to do.

use std::path::PathBuf;

use duractor_journal::{Effect as TookEffect, JournalError, Member, NodeId, ShardId};
use serde::{Deserialize, Serialize};

use crate::config::ConfigError;

/// Why another node refused what it was asked. Travels between nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "why", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Refusal {
    /// It does not lead the cluster. Ask whoever does.
    #[error("the node does not lead the cluster; {}", .address.as_deref().map_or("nobody is known to now: try again".to_owned(), |a| format!("{a} does")))]
    NotLeader {
        /// Where the leader is, if known.
        address: Option<String>,
    },
    /// It belongs to another cluster, or the asking one does.
    #[error("{reason}")]
    OtherCluster {
        /// What does not fit, and what to do.
        reason: String,
    },
    /// The member was removed from the cluster.
    #[error(
        "{member} was removed from the cluster: to come back as a new member, start the node with \
         an empty data directory"
    )]
    Removed {
        /// Which.
        member: Member,
    },
    /// The node came back with another disk, and this is the old one.
    #[error("{by} took the place of {member}, so this disk is out: move its data directory away")]
    Replaced {
        /// The old one.
        member: Member,
        /// The new one.
        by: Member,
    },
    /// The node's old incarnation still runs.
    #[error(
        "node {node} is up, so its place cannot be taken: stop the one that runs, or give this one \
         another number"
    )]
    StillUp {
        /// Which node.
        node: NodeId,
    },
    /// The cluster has no such node.
    #[error("the cluster has no node {node}")]
    UnknownNode {
        /// Which.
        node: NodeId,
    },
    /// Without the node, some shards would have no quorum.
    #[error(
        "without node {node}, {} would have no quorum: bring other nodes back first", list(.shards)
    )]
    WouldBreakQuorum {
        /// Which node.
        node: NodeId,
        /// Which shards.
        shards: Vec<ShardId>,
    },
    /// It is the last node.
    #[error("node {node} is the cluster's last one: stop it and delete its folder instead")]
    LastNode {
        /// Which node.
        node: NodeId,
    },
    /// Nobody could take over what the node leads.
    #[error(
        "nobody could take over what node {node} has: there is no other node that is up and not \
         drained"
    )]
    NobodyTakesOver {
        /// Which node.
        node: NodeId,
        /// What it has.
        shards: Vec<ShardId>,
    },
    /// The node that is to lead a shard lacks some of it.
    #[error("node {node} lacks {entries} entries of {shard}: wait until it has caught up")]
    Lags {
        /// Which node.
        node: NodeId,
        /// Which shard.
        shard: ShardId,
        /// How many it lacks.
        entries: u64,
    },
    /// The node that is to lead a shard has no vote in it.
    #[error("node {node} has no vote in {shard}")]
    NoVote {
        /// Which node.
        node: NodeId,
        /// Which shard.
        shard: ShardId,
    },
    /// The node cannot be reached, or is about to stop.
    #[error("node {node} cannot be reached, or is about to stop")]
    Unreachable {
        /// Which.
        node: NodeId,
    },
    /// The node is drained, so it is to lead nothing.
    #[error("node {node} is drained: resume it first")]
    Drained {
        /// Which.
        node: NodeId,
    },
    /// There is no such shard.
    #[error("the cluster has no {shard}")]
    UnknownShard {
        /// Which.
        shard: ShardId,
    },
    /// The group is not what it was when this was decided.
    #[error("{shard} is not as it was when this was decided: {reason}")]
    Stale {
        /// Which shard.
        shard: ShardId,
        /// What is different.
        reason: String,
    },
    /// It cannot be done now. Nothing was done; try again.
    #[error("not now: {reason}")]
    NotNow {
        /// Why.
        reason: String,
    },
    /// It could not be finished. It may have taken effect.
    #[error("not finished: {reason}")]
    Unfinished {
        /// Why.
        reason: String,
    },
}

fn list(shards: &[ShardId]) -> String {
    shards.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Refusal {
    /// Whether it is said for good: the member is out, and nothing brings it back.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Refusal::Removed { .. } | Refusal::Replaced { .. })
    }

    /// Whether it may have taken effect.
    #[must_use]
    pub fn effect(&self) -> TookEffect {
        match self {
            Refusal::Unfinished { .. } => TookEffect::Unknown,
            _ => TookEffect::None,
        }
    }
}

/// Why a cluster could not be started, joined or changed. [`ClusterError::effect`] says whether it
/// may have taken effect.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The node belongs to a cluster already.
    #[error(
        "{} belongs to cluster {cluster:?} already: start the node instead of forming a cluster \
         anew", .dir.display()
    )]
    AlreadyFormed {
        /// The data directory.
        dir: PathBuf,
        /// The cluster's name.
        cluster: String,
    },
    /// Another node knows the cluster that was to be formed.
    #[error(
        "{address} says that cluster {cluster:?} exists already: start this node, and it will join"
    )]
    ClusterExists {
        /// The cluster's name.
        cluster: String,
        /// Who says so.
        address: String,
    },
    /// The data directory has files, and nothing says whose they are.
    #[error(
        "{} is not empty and has no identity of a node: {file} is there. Name another folder, or \
         move what is in it away", .dir.display()
    )]
    NotEmpty {
        /// The data directory.
        dir: PathBuf,
        /// A file that is there.
        file: String,
    },
    /// The data directory is empty, and there is nobody to ask.
    #[error(
        "{} is empty and no other nodes are known: form a new cluster on one node, or set \
         discovery.seeds to nodes of the one to join", .dir.display()
    )]
    NotFormed {
        /// The data directory.
        dir: PathBuf,
    },
    /// The data directory is another node's or another cluster's.
    #[error("{} is refused: {reason}", .dir.display())]
    WrongIdentity {
        /// The data directory.
        dir: PathBuf,
        /// What does not fit, and what to do.
        reason: String,
    },
    /// A file of the data directory cannot be read, written or understood.
    #[error("{}: {reason}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The recovery after a lost quorum was not confirmed.
    #[error(
        "forming a new cluster out of this node gives up what only other nodes have: confirm it \
         with the text {expected:?}"
    )]
    NotConfirmed {
        /// What to give.
        expected: String,
    },
    /// A node of the cluster refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It took too long.
    #[error("{what} took longer than {after_ms} ms: {last}")]
    TimedOut {
        /// What.
        what: &'static str,
        /// The time that it had, in milliseconds.
        after_ms: u64,
        /// How far it was.
        last: String,
    },
    /// The links to other nodes did not start.
    #[error("the links to other nodes do not start: {reason}")]
    Links {
        /// Why.
        reason: String,
    },
    /// The journal did not open, or refused.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The cluster's stored state cannot be read by this release.
    #[error("the cluster's state cannot be read: {reason}")]
    State {
        /// What does not fit.
        reason: String,
    },
    /// The node is shut down.
    #[error("the node is shut down")]
    Closed,
}

impl ClusterError {
    /// Whether it may have taken effect.
    #[must_use]
    pub fn effect(&self) -> TookEffect {
        match self {
            ClusterError::TimedOut { .. } | ClusterError::Closed => TookEffect::Unknown,
            ClusterError::Refused(refusal) => refusal.effect(),
            ClusterError::Journal(error) => error.effect(),
            _ => TookEffect::None,
        }
    }
}
