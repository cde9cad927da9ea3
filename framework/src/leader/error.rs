//! What can go wrong with work that only the leader does.

use duractor_journal::{Effect as TookEffect, Member};

use crate::codec::CodecError;

/// Who leads the cluster, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderInfo {
    /// The member. A node without a cluster is 1.1.
    pub member: Member,
    /// The address that other nodes reach it at, where this node knows it.
    pub address: Option<String>,
}

/// Why the leader's work was not done. [`LeaderError::effect`] says whether it may have been begun.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LeaderError {
    /// This node is not the leader. Go there, or ask again soon where nobody is known to be.
    #[error("this node is not the leader{}", .leader.as_ref().map(describe).unwrap_or_default())]
    NotLeader {
        /// Who is, as far as this node knows.
        leader: Option<LeaderInfo>,
    },
    /// The node ceased to be the leader while the work was done: it was dropped at an `await`.
    #[error("the leadership was lost while the work was done")]
    LeadershipLost,
    /// No handler of this name was registered on the leader.
    #[error("the leader has no handler {name:?}")]
    UnknownHandler {
        /// The name.
        name: String,
    },
    /// The command or its reply does not encode or decode.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The handler panicked.
    #[error("the leader's handler {name:?} failed: {reason}")]
    Failed {
        /// The handler.
        name: String,
        /// The panic's text.
        reason: String,
    },
    /// As many calls as may be are under way. Nothing was done.
    #[error("too many calls to the leader are under way: at most {limit} may be")]
    Busy {
        /// The bound.
        limit: usize,
    },
    /// No answer in time. The handler may go on.
    #[error("the leader did not answer in time")]
    Timeout,
    /// The call did not get to the leader, or its answer did not come back.
    #[error("the leader {leader} could not be asked: {reason}")]
    Unreachable {
        /// Who.
        leader: Member,
        /// What happened.
        reason: String,
        /// Whether the handler may have been called.
        effect: TookEffect,
    },
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShuttingDown,
}

fn describe(leader: &LeaderInfo) -> String {
    let address = leader.address.as_ref().map(|address| format!(" at {address}"));
    format!("; {} is{}", leader.member, address.unwrap_or_default())
}

impl LeaderError {
    /// Whether the work may have been done, or a part of it: with [`TookEffect::None`] it may be tried
    /// again.
    #[must_use]
    pub fn effect(&self) -> TookEffect {
        match self {
            LeaderError::LeadershipLost | LeaderError::Failed { .. } | LeaderError::Timeout => {
                TookEffect::Unknown
            }
            LeaderError::Unreachable { effect, .. } => *effect,
            _ => TookEffect::None,
        }
    }
}
