//! Leaderships that move because of load: they come to an end, and noise moves none.

use std::collections::BTreeMap;

use duractor::{
    cluster::{
        ClusterState,
        balance::{Balancer, Rules},
        event::ClusterEvent,
        placement::place,
        view::{GroupReport, View},
    },
    load::ShardLoad,
};
use duractor_journal::{Member, Seq, ShardId, Term, Timestamp};
use proptest::prelude::*;

const RULES: Rules =
    Rules { margin_percent: 30, least_per_s: 1_000, hold_ms: 20_000, pause_ms: 30_000 };

/// A cluster in which everything is where it belongs.
struct Model {
    state: ClusterState,
    view: View,
    now_ms: u64,
    balancer: Balancer,
}

fn member(node: u32) -> Member {
    Member::new(node, 1)
}

impl Model {
    fn new(nodes: u32, shards: u16) -> Self {
        let state = ClusterState::default();
        let (view, balancer) = (View::default(), Balancer::default());
        let mut model = Self { state, view, now_ms: 0, balancer };
        let (address, reason) = (String::new, String::new);
        model.record(&ClusterEvent::Formed {
            cluster_id: 1,
            name: "c".into(),
            shards,
            replication: 3,
            member: member(1),
            address: address(),
            reason: reason(),
        });
        for node in 2..=nodes {
            let member = member(node);
            let joining =
                ClusterEvent::Joining { member, address: address(), token: 1, reason: reason() };
            model.record(&joining);
            model.record(&ClusterEvent::Joined { member, reason: reason() });
        }
        let nodes = (1..=nodes).map(duractor_journal::NodeId).collect();
        for (n, place) in place(&nodes, shards, 3).into_iter().enumerate() {
            let shard = ShardId(n as u16);
            let voters: std::collections::BTreeSet<_> =
                place.voters.iter().map(|node| member(node.0)).collect();
            let group = GroupReport {
                shard,
                leader: member(place.preferred.0),
                term: Term(1),
                replicated: voters.iter().map(|voter| (*voter, Some(9))).collect(),
                voters,
                learners: Default::default(),
                changing: false,
                executing: false,
                last_index: Some(9),
            };
            model.view.groups.insert(shard, group);
        }
        model.view.up = nodes.iter().map(|node| (member(node.0), u64::MAX)).collect();
        model
    }

    fn record(&mut self, event: &ClusterEvent) {
        self.state.apply(event, Seq(self.state.revision + 1), Timestamp(0));
    }

    /// A second goes by. Whether a leadership moves.
    fn second(&mut self, loads: &[u64]) -> bool {
        self.now_ms += 1_000;
        let load = |(n, per_s): (usize, &u64)| {
            let shard = ShardId(n as u16);
            (shard, ShardLoad::new(shard, *per_s))
        };
        self.view.loads = loads.iter().enumerate().map(load).collect();
        let event = self.balancer.look(&self.state, &self.view, RULES, self.now_ms);
        let Some(event) = event else { return false };
        self.record(&event);
        let ClusterEvent::LeaderPreferred { shard, node: Some(node), .. } = event else {
            panic!("{event:?}")
        };
        let group = self.view.groups.get_mut(&shard).expect("there");
        let to = Member { node, incarnation: 1 };
        assert!(group.voters.contains(&to) && group.leader != to);
        group.leader = to;
        true
    }

    fn highest(&self, loads: &[u64]) -> u64 {
        let mut asked: BTreeMap<Member, u64> = BTreeMap::new();
        for (n, per_s) in loads.iter().enumerate() {
            *asked.entry(self.view.groups[&ShardId(n as u16)].leader).or_default() += per_s;
        }
        asked.into_values().max().unwrap_or(0)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..Default::default() })]

    #[test]
    fn moves_come_to_an_end_and_each_makes_the_most_less(
        nodes in 3..7_u32,
        loads in prop::collection::vec(prop_oneof![3 => 0..500_u64, 1 => 500..20_000_u64], 1..24),
    ) {
        let mut model = Model::new(nodes, loads.len() as u16);
        let before = model.highest(&loads);
        let (mut moves, mut quiet, mut last) = (0, 0, None::<u64>);
        while quiet < 300 {
            if model.second(&loads) {
                moves += 1;
                quiet = 0;
                prop_assert!(last.is_none_or(|at| model.now_ms - at >= RULES.pause_ms));
                last = Some(model.now_ms);
            } else {
                quiet += 1;
            }
            prop_assert!(moves <= 2 * loads.len(), "it goes on and on");
        }
        prop_assert!(model.highest(&loads) <= before);
    }

    #[test]
    fn noise_moves_nothing(
        seconds in prop::collection::vec(prop::collection::vec(900..1_100_u64, 12), 200),
    ) {
        // 12 shards on 3 nodes, 4 each: at most a tenth more or less.
        let mut model = Model::new(3, 12);
        for loads in &seconds {
            prop_assert!(!model.second(loads));
        }
    }
}

#[test]
fn two_hot_shards_of_one_node_are_parted_after_a_while() {
    let mut model = Model::new(3, 12);
    let leader = model.view.groups[&ShardId(0)].leader;
    let loads: Vec<u64> = (0..12)
        .map(|n| if model.view.groups[&ShardId(n)].leader == leader { 2_500 } else { 100 })
        .collect();
    let hot = loads.iter().filter(|load| **load > 100).count() as u64;
    assert_eq!(model.highest(&loads), hot * 2_500);
    // A burst is not enough.
    for _ in 0..19 {
        assert!(!model.second(&loads));
    }
    assert!(!model.second(&[100; 12]));
    for _ in 0..20 {
        assert!(!model.second(&loads));
    }
    assert!(model.second(&loads));
    for _ in 0..600 {
        model.second(&loads);
    }
    assert!(model.highest(&loads) <= 5_700, "{}", model.highest(&loads));
    // An operator's word stands.
    let mut pinned = Model::new(3, 12);
    for shard in (0..12).map(ShardId) {
        let node = Some(pinned.view.groups[&shard].leader.node);
        let reason = String::new();
        pinned.record(&ClusterEvent::LeaderPreferred { shard, node, pinned: true, reason });
    }
    assert!((0..100).all(|_| !pinned.second(&loads)));
}
