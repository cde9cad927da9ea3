//! What happened to the cluster: the events of its state, which is an entity of shard 0.

use duractor_journal::{EntityId, InvalidId, Member, NodeId, ShardId};

use crate::Event;

/// The kind of the entity that holds the cluster's state. Kinds of applications do not begin with
/// `duractor.`.
pub const STATE_KIND: &str = "duractor.cluster";

/// Which events this release understands: those of this level and below. An event is recorded only
/// where every member understands it, so that nodes of two releases can be in one cluster.
pub const LEVEL: u16 = 2;

/// The entity that holds the cluster's state, where there are `shards`: `members`, with the first
/// number after it that makes its shard the shard 0.
///
/// # Errors
/// None in truth: kind and key are fit.
pub fn state_entity(shards: u16) -> Result<EntityId, InvalidId> {
    let mut id = EntityId::new(STATE_KIND, "members")?;
    for n in 2_u32.. {
        if id.shard(shards) == ShardId(0) {
            break;
        }
        id = EntityId::new(STATE_KIND, &format!("members-{n}"))?;
    }
    Ok(id)
}

/// A change of the cluster. When it happened is with the record.
#[derive(Debug, Clone, PartialEq, Eq, Event)]
pub enum ClusterEvent {
    /// The cluster was formed.
    #[event(name = "cluster-formed")]
    Formed {
        /// Its id, drawn at random.
        cluster_id: u64,
        /// Its name.
        name: String,
        /// Into how many shards it is cut.
        shards: u16,
        /// On how many nodes each event is kept.
        replication: u8,
        /// The node that formed it.
        member: Member,
        /// Where that node is.
        address: String,
        /// Why.
        reason: String,
    },
    /// A node was let in. It is caught up before it counts.
    #[event(name = "member-joining")]
    Joining {
        /// Which.
        member: Member,
        /// Where it is.
        address: String,
        /// What it drew to tell its attempts apart.
        token: u64,
        /// Why.
        reason: String,
    },
    /// A node is caught up, and gets its share.
    #[event(name = "member-joined")]
    Joined {
        /// Which.
        member: Member,
        /// Why.
        reason: String,
    },
    /// A node is at another address.
    #[event(name = "member-moved")]
    Moved {
        /// Which.
        member: Member,
        /// Where it is now.
        address: String,
        /// Why.
        reason: String,
    },
    /// A node gives away what it has, to be removed then.
    #[event(name = "member-leaving")]
    Leaving {
        /// Which.
        member: Member,
        /// Why.
        reason: String,
    },
    /// A node that is gone loses its place.
    #[event(name = "member-removing")]
    Removing {
        /// Which.
        member: Member,
        /// Why.
        reason: String,
    },
    /// No group counts on the node any more. It must never come back.
    #[event(name = "member-removed")]
    Removed {
        /// Which.
        member: Member,
        /// Why.
        reason: String,
    },
    /// The cluster was formed anew out of one node, after the others were lost.
    #[event(name = "cluster-recovered")]
    Recovered {
        /// The new id.
        cluster_id: u64,
        /// The node.
        member: Member,
        /// Where it is.
        address: String,
        /// Why.
        reason: String,
    },
    /// A node says what it is.
    #[event(name = "member-described")]
    Described {
        /// Which.
        member: Member,
        /// What it is for.
        roles: Vec<String>,
        /// Its zone.
        zone: String,
        /// Its rack.
        rack: String,
        /// The version of its application.
        version: String,
        /// How much it carries beside others.
        weight: u32,
        /// Which events its release understands.
        level: u16,
        /// Why.
        reason: String,
    },
    /// A node is to lead nothing, or to keep nothing.
    #[event(name = "member-draining")]
    Draining {
        /// Which.
        member: Member,
        /// Whether it gives away its replicas, too.
        decommission: bool,
        /// Why.
        reason: String,
    },
    /// A node that was drained is used again.
    #[event(name = "member-resumed")]
    Resumed {
        /// Which.
        member: Member,
        /// Why.
        reason: String,
    },
    /// A node was not reached for so long that others get its replicas.
    #[event(name = "member-absent")]
    Absent {
        /// Which.
        member: Member,
        /// Why.
        reason: String,
    },
    /// A node that was absent is back, and gets its share again.
    #[event(name = "member-returned")]
    Returned {
        /// Which.
        member: Member,
        /// Why.
        reason: String,
    },
    /// Nothing is moved for balance any more.
    #[event(name = "rebalance-paused")]
    Paused {
        /// Why.
        reason: String,
    },
    /// What is out of balance is moved again.
    #[event(name = "rebalance-resumed")]
    Unpaused {
        /// Why.
        reason: String,
    },
    /// How shards are placed.
    #[event(name = "placement-chosen")]
    PlacementChosen {
        /// Shard after shard to node after node, instead of by hash, weight and zone.
        modulo: bool,
        /// Why.
        reason: String,
    },
    /// Whether the newest version is preferred for leading.
    #[event(name = "newest-preferred")]
    NewestPreferred {
        /// Whether it is.
        on: bool,
        /// Why.
        reason: String,
    },
    /// Where a shard had better be. At most one of the three is given; none takes it back.
    #[event(name = "shard-bound")]
    Bound {
        /// Which.
        shard: ShardId,
        /// On these nodes.
        nodes: Vec<NodeId>,
        /// On nodes of this role.
        role: String,
        /// On nodes of this zone.
        zone: String,
        /// Why.
        reason: String,
    },
    /// Who had better lead a shard.
    #[event(name = "leader-preferred")]
    LeaderPreferred {
        /// Which.
        shard: ShardId,
        /// Who; nobody in particular where it is `None`.
        node: Option<NodeId>,
        /// Whether an operator said so: then it is not changed because of load.
        pinned: bool,
        /// Why.
        reason: String,
    },
}

impl ClusterEvent {
    /// Which release understands it.
    #[must_use]
    pub fn level(&self) -> u16 {
        use ClusterEvent as E;
        match self {
            E::Formed { .. }
            | E::Joining { .. }
            | E::Joined { .. }
            | E::Moved { .. }
            | E::Leaving { .. }
            | E::Removing { .. }
            | E::Removed { .. }
            | E::Recovered { .. } => 1,
            E::Described { .. }
            | E::Draining { .. }
            | E::Resumed { .. }
            | E::Absent { .. }
            | E::Returned { .. }
            | E::Paused { .. }
            | E::Unpaused { .. }
            | E::PlacementChosen { .. }
            | E::NewestPreferred { .. }
            | E::Bound { .. }
            | E::LeaderPreferred { .. } => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_always_in_shard_0() {
        for shards in 1..=256 {
            assert_eq!(state_entity(shards).expect("fit").shard(shards), ShardId(0));
        }
        assert_eq!(state_entity(1).expect("fit").key(), "members");
        // Golden: it is where clusters have their state.
        assert_eq!(state_entity(12).expect("fit").key(), STATE_KEY_OF_12);
    }

    const STATE_KEY_OF_12: &str = "members-20";
}
