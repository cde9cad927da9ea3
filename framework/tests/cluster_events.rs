//! The events of the cluster's state: their bytes never change.

use duractor::{cluster::event::ClusterEvent, golden};
use duractor_journal::{Member, NodeId, ShardId};

#[test]
fn events_keep_their_bytes() {
    let member = Member::new(2, 1);
    let text = |text: &str| text.to_owned();
    let reason = || text("r");
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
            &[ClusterEvent::Joining { member, address: text("a:1"), token: 7, reason: text("r") }],
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
        (&[ClusterEvent::Leaving { member, reason: text("r") }], "member-leaving", 1, "02010172"),
        (&[ClusterEvent::Removing { member, reason: text("r") }], "member-removing", 1, "02010172"),
        (&[ClusterEvent::Removed { member, reason: text("r") }], "member-removed", 1, "02010172"),
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
        (
            &[ClusterEvent::Described {
                member,
                roles: vec!["web".into()],
                zone: "z".into(),
                rack: "k".into(),
                version: "1.2.3".into(),
                weight: 300,
                level: 2,
                reason: reason(),
            }],
            "member-described",
            1,
            "020201016b0172010377656205312e322e33ac02017a",
        ),
        (
            &[ClusterEvent::Draining { member, decommission: true, reason: reason() }],
            "member-draining",
            1,
            "0102010172",
        ),
        (&[ClusterEvent::Resumed { member, reason: reason() }], "member-resumed", 1, "02010172"),
        (&[ClusterEvent::Absent { member, reason: reason() }], "member-absent", 1, "02010172"),
        (&[ClusterEvent::Returned { member, reason: reason() }], "member-returned", 1, "02010172"),
        (&[ClusterEvent::Paused { reason: reason() }], "rebalance-paused", 1, "0172"),
        (&[ClusterEvent::Unpaused { reason: reason() }], "rebalance-resumed", 1, "0172"),
        (
            &[ClusterEvent::PlacementChosen { modulo: true, reason: reason() }],
            "placement-chosen",
            1,
            "010172",
        ),
        (
            &[ClusterEvent::NewestPreferred { on: true, reason: reason() }],
            "newest-preferred",
            1,
            "010172",
        ),
        (
            &[ClusterEvent::Bound {
                shard: ShardId(3),
                nodes: vec![NodeId(2)],
                role: "web".into(),
                zone: "z".into(),
                reason: reason(),
            }],
            "shard-bound",
            1,
            "010201720377656203017a",
        ),
        (
            &[ClusterEvent::LeaderPreferred {
                shard: ShardId(3),
                node: Some(NodeId(2)),
                pinned: true,
                reason: reason(),
            }],
            "leader-preferred",
            1,
            "010201017203",
        ),
    ]);
}
