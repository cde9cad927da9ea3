//! What others see of a group: how replication is set up, and how a group is.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    id::{Position, ShardId, Term},
    transport::{Member, Transport},
};

/// How fast a group notices that its leader is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// A leader is heard of this often, in milliseconds: 50 unless set.
    pub heartbeat_ms: u64,
    /// A replica that has not heard of its leader for a random time between this and
    /// [`election_max_ms`](Self::election_max_ms) asks to be elected. 150 ms unless set; at least
    /// three heartbeats.
    pub election_min_ms: u64,
    /// 300 ms unless set. It is also the leader's lease: one that has not heard of a quorum for so
    /// long serves nothing.
    pub election_max_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self { heartbeat_ms: 50, election_min_ms: 150, election_max_ms: 300 }
    }
}

/// How a journal is replicated.
#[derive(Clone)]
#[non_exhaustive]
pub struct Replication {
    /// How the replicas talk; who this node is follows from it.
    pub transport: Arc<dyn Transport>,
    /// Heartbeats and elections.
    pub timing: Timing,
}

impl Replication {
    /// Over this transport, with the default timing.
    #[must_use]
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport, timing: Timing::default() }
    }
}

/// What a replica is in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// It takes writes.
    Leader,
    /// It votes and follows.
    Follower,
    /// It asks to be elected.
    Candidate,
    /// It follows and has no vote.
    Learner,
    /// It does not belong to the group (yet).
    Outside,
}

/// A shard's group, as its replica on this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupStatus {
    /// The shard.
    pub shard: ShardId,
    /// What this node's replica is.
    pub role: Role,
    /// Who leads, as far as known.
    pub leader: Option<Member>,
    /// The Raft term.
    pub term: Term,
    /// The replicas that vote; while they are changed, the old ones and the new ones.
    pub voters: BTreeSet<Member>,
    /// The replicas that only follow.
    pub learners: BTreeSet<Member>,
    /// Whether a change of its members is under way. Until it is complete, whatever the group decides
    /// may take a quorum of the old voters and one of the new.
    pub changing: bool,
    /// The index of the last entry in this replica's log.
    pub last_index: Option<u64>,
    /// The last entry that is applied here.
    pub applied_index: Option<u64>,
    /// What stale reads on this node reflect.
    pub applied: Position,
    /// At the leader: up to where each other replica has the log.
    pub replicated: BTreeMap<Member, Option<u64>>,
    /// Why the replica does not work, where it does not.
    pub problem: Option<String>,
}

impl GroupStatus {
    /// A replica that belongs to no group yet.
    #[must_use]
    pub fn outside(shard: ShardId) -> Self {
        Self {
            shard,
            role: Role::Outside,
            leader: None,
            term: Term(0),
            voters: BTreeSet::new(),
            learners: BTreeSet::new(),
            changing: false,
            last_index: None,
            applied_index: None,
            applied: Position::ZERO,
            replicated: BTreeMap::new(),
            problem: None,
        }
    }
}
