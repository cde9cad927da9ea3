//! What happened to the cluster: the events of its state, which is an entity of shard 0.

use duractor_journal::{EntityId, InvalidId, Member, ShardId};

use crate::Event;

/// The kind of the entity that holds the cluster's state. Kinds of applications do not begin with
/// `duractor.`.
pub const STATE_KIND: &str = "duractor.cluster";

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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

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

    #[test]
    fn events_keep_their_bytes() {
        let member = Member::new(2, 1);
        let text = |text: &str| text.to_owned();
        golden::<ClusterEvent>(&[
            (
                &[ClusterEvent::Formed {
                    cluster_id: 9,
                    name: text("n"),
                    shards: 12,
                    replication: 3,
                    member,
                    address: text("a:1"),
                    reason: text("r"),
                }],
                "cluster-formed",
                1,
                "03613a31090201016e0172030c",
            ),
            (
                &[ClusterEvent::Joining {
                    member,
                    address: text("a:1"),
                    token: 7,
                    reason: text("r"),
                }],
                "member-joining",
                1,
                "03613a310201017207",
            ),
            (&[ClusterEvent::Joined { member, reason: text("r") }], "member-joined", 1, "02010172"),
            (
                &[ClusterEvent::Moved { member, address: text("a:1"), reason: text("r") }],
                "member-moved",
                1,
                "03613a3102010172",
            ),
            (
                &[ClusterEvent::Leaving { member, reason: text("r") }],
                "member-leaving",
                1,
                "02010172",
            ),
            (
                &[ClusterEvent::Removing { member, reason: text("r") }],
                "member-removing",
                1,
                "02010172",
            ),
            (
                &[ClusterEvent::Removed { member, reason: text("r") }],
                "member-removed",
                1,
                "02010172",
            ),
            (
                &[ClusterEvent::Recovered {
                    cluster_id: 9,
                    member,
                    address: text("a:1"),
                    reason: text("r"),
                }],
                "cluster-recovered",
                1,
                "03613a310902010172",
            ),
        ]);
    }
}
