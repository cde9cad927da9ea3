//! Snapshots on several nodes, and which events may then be deleted.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/group.rs"]
mod group;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use common::*;
use duractor::{AskError, EntitySettings, Journal, Node, SnapshotStore};
use duractor_journal::{Member, ShardId};
use duractor_snapshot::{Criteria, Retention, Snapshot};
use group::{Group, View, Wires};

/// Three nodes on one journal, of which the first leads.
struct Three {
    group: Arc<Group>,
    wires: Arc<Wires>,
    views: Vec<Arc<View>>,
    nodes: Vec<Node>,
}

impl Three {
    async fn start() -> Self {
        let (group, wires) = (Group::new(), Wires::new());
        let views: Vec<_> = (1..=3).map(|n| View::new(&group, n)).collect();
        let mut three = Self { group, wires, views, nodes: Vec::new() };
        for view in &three.views {
            let settings =
                EntitySettings::default().snapshot_every(5).keep_snapshots(2).delete_events(true);
            let node = view
                .builder()
                .replicas(three.wires.end(view.me), |_: ShardId| {
                    (1..=3).map(|n| Member::new(n, 1)).collect()
                })
                .register(Account { settings })
                .start()
                .await
                .unwrap();
            three.nodes.push(node);
        }
        three.elect(0).await;
        three
    }

    async fn elect(&self, leader: usize) {
        let views: Vec<_> = self.views.iter().collect();
        self.group.elect(Some(views[leader]), &views);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    async fn add(&self, node: usize, times: usize) {
        for _ in 0..times {
            account(&self.nodes[node], "a").ask(Add { by: 1 }).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn newest(&self, node: usize) -> Option<u64> {
        let id = account(&self.nodes[0], "a").id().clone();
        let newest = self.views[node].snapshots.load(&id, Criteria::ALL).await.unwrap();
        newest.map(|snapshot| snapshot.seq.0)
    }

    async fn deleted_to(&self) -> u64 {
        let id = account(&self.nodes[0], "a").id().clone();
        self.group.memory.head(&id).await.unwrap().deleted_to.0
    }

    async fn finish(self) {
        for node in self.nodes {
            finish(node).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn snapshots_follow_to_the_others() {
    let three = Three::start().await;
    three.add(0, 12).await;
    for node in 0..3 {
        assert_eq!(three.newest(node).await, Some(10), "node {node}");
    }
    assert_eq!(three.deleted_to().await, 5, "below the older of the two that are kept");
    three.elect(1).await;
    three.add(1, 1).await;
    assert_eq!(account(&three.nodes[1], "a").ask(Get {}).await.unwrap(), 13);
    three.finish().await;
}

/// Cause: events were deleted when the snapshot was on this node alone. Consequence: the entity was
/// lost with the node, though the others had its log. Fix: a quorum keeps the snapshot first.
#[tokio::test(start_paused = true)]
async fn events_stay_until_a_quorum_has_the_snapshot() {
    let three = Three::start().await;
    let [one, two, third] = [0, 1, 2].map(|n: usize| three.views[n].me);
    three.wires.cut(one, two);
    three.wires.cut(one, third);
    three.add(0, 12).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(three.newest(0).await, Some(5), "no other is taken while one is under way");
    assert_eq!((three.newest(1).await, three.deleted_to().await), (None, 0));
    three.wires.heal();
    three.add(0, 5).await;
    assert_eq!(three.newest(1).await, three.newest(0).await);
    assert_eq!(three.deleted_to().await, 5);
    three.finish().await;
}

/// The quorum's word counts, not the number of its words.
#[tokio::test(start_paused = true)]
async fn events_stay_that_an_older_snapshot_on_a_replica_needs() {
    let three = Three::start().await;
    let [one, two, third] = [0, 1, 2].map(|n: usize| three.views[n].me);
    three.wires.cut(one, third);
    three.add(0, 5).await;
    assert_eq!((three.newest(1).await, three.newest(2).await), (Some(5), None));
    three.wires.cut(one, two);
    three.add(0, 5).await;
    assert_eq!(three.newest(0).await, Some(10));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(three.deleted_to().await, 5, "as far as the first one allowed");
    three.wires.heal();
    three.wires.cut(one, third);
    three.add(0, 5).await;
    // Here 10 and 15 are kept, on the second node 5 and 15.
    assert_eq!((three.newest(0).await, three.newest(1).await), (Some(15), Some(15)));
    assert_eq!(three.deleted_to().await, 5);
    three.finish().await;
}

/// Cause: a voter that missed a snapshot became the owner when the events below it were deleted.
/// Consequence: the entity was quarantined though two nodes had all of it. Fix: it asks them.
#[tokio::test(start_paused = true)]
async fn an_owner_that_lacks_the_snapshot_gets_it_from_another() {
    let three = Three::start().await;
    let [one, two, third] = [0, 1, 2].map(|n: usize| three.views[n].me);
    three.wires.cut(one, third);
    three.add(0, 12).await;
    assert_eq!((three.newest(2).await, three.deleted_to().await), (None, 5));
    // With nobody to ask it waits, for it cannot know.
    three.wires.cut(two, third);
    three.elect(2).await;
    let asked = account(&three.nodes[2], "a").ask(Get {}).timeout(Duration::from_secs(20)).await;
    assert!(matches!(asked, Err(AskError::Timeout { .. })), "{asked:?}");
    three.wires.heal();
    three.wires.cut(one, third);
    let get = account(&three.nodes[2], "a").ask(Get {}).timeout(Duration::from_secs(20)).await;
    assert_eq!(get.unwrap(), 12);
    assert_eq!(three.newest(2).await, Some(10));
    three.finish().await;
}

#[tokio::test(start_paused = true)]
async fn an_entity_of_which_nobody_has_a_snapshot_is_quarantined() {
    let three = Three::start().await;
    three.add(0, 12).await;
    let id = account(&three.nodes[0], "a").id().clone();
    for view in &three.views {
        view.snapshots.delete(&id, Criteria::ALL).await.unwrap();
    }
    three.elect(1).await;
    let error = account(&three.nodes[1], "a").ask(Get {}).await.unwrap_err();
    assert!(matches!(error, AskError::Quarantined { .. }), "{error}");
    // An older one does not help.
    let old = Snapshot {
        entity: id,
        seq: seq(3),
        timestamp: duractor::Timestamp(0),
        schema_version: 1,
        state: Bytes::new(),
    };
    three.views[0].snapshots.save(vec![old], Retention::All).await.unwrap();
    three.elect(2).await;
    let error = account(&three.nodes[2], "a").ask(Get {}).await.unwrap_err();
    assert!(matches!(error, AskError::Quarantined { .. }), "{error}");
    three.finish().await;
}
