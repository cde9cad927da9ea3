//! Decisions by themselves: random clusters, carried out step by step, and what must hold of every
//! step.

use std::collections::{BTreeMap, BTreeSet};

use duractor::cluster::{
    ClusterState, DrainMode, Phase, Refusal, WhatIf,
    checks::{check_drain, drain_status},
    event::{ClusterEvent, LEVEL},
    forecast::forecast,
    placement::place,
    plan::{GroupReport, Step, View, check_removal, plan},
    properties::{About, Properties},
};
use duractor_journal::{Member, NodeId, Seq, ShardId, Term, Timestamp};
use proptest::prelude::*;

const SHARDS: u16 = 8;

fn member(node: u32) -> Member {
    Member::new(node, 1)
}

fn members(nodes: &[u32]) -> BTreeSet<Member> {
    nodes.iter().copied().map(member).collect()
}

struct Model {
    state: ClusterState,
    view: View,
}

impl Model {
    /// A cluster of one node.
    fn new() -> Self {
        let mut model = Self { state: ClusterState::default(), view: View::default() };
        model.record(&ClusterEvent::Formed {
            cluster_id: 1,
            name: "c".into(),
            shards: SHARDS,
            replication: 3,
            member: member(1),
            address: String::new(),
            reason: String::new(),
        });
        model.view.replace_after_ms = 1_000;
        for shard in (0..SHARDS).map(ShardId) {
            let group = GroupReport {
                shard,
                leader: member(1),
                term: Term(1),
                voters: members(&[1]),
                learners: BTreeSet::new(),
                changing: false,
                executing: false,
                last_index: Some(1_000),
                replicated: Vec::new(),
            };
            model.view.groups.insert(shard, group);
        }
        model.set_up(member(1), true);
        model
    }

    fn record(&mut self, event: &ClusterEvent) {
        self.state.apply(event, Seq(self.state.revision + 1), Timestamp(0));
    }

    fn join(&mut self, member: Member) {
        let (address, reason) = (String::new(), String::new());
        self.record(&ClusterEvent::Joining { member, address, token: 1, reason });
        self.set_up(member, true);
    }

    fn set_up(&mut self, member: Member, up: bool) {
        if up {
            self.view.up.insert(member, u64::MAX);
            self.view.down.remove(&member);
            let (properties, level, stopping) = (Properties::default(), LEVEL, false);
            let (reaches, revision) = (Vec::new(), u64::MAX);
            let (log_delay_ms, probes) = (0, true);
            let about =
                About { properties, level, stopping, reaches, revision, log_delay_ms, probes };
            self.view.about.insert(member, about);
        } else {
            self.view.up.remove(&member);
            self.view.about.remove(&member);
        }
        self.elect();
    }

    /// Records what an operator asks for, where it is not refused.
    fn drain(&mut self, member: Member, mode: DrainMode) -> Result<(), Refusal> {
        check_drain(&self.state, &self.view, member, mode)?;
        let decommission = mode == DrainMode::Decommission;
        self.record(&ClusterEvent::Draining { member, decommission, reason: String::new() });
        Ok(())
    }

    /// Raft: a group whose leader is gone elects another, if it can.
    fn elect(&mut self) {
        let up = &self.view.up;
        for group in self.view.groups.values_mut() {
            let mut there = group.voters.iter().filter(|voter| up.contains_key(voter)).copied();
            if !up.contains_key(&group.leader) || !group.voters.contains(&group.leader) {
                group.leader = there.next().unwrap_or(group.leader);
            }
            let others = group.voters.iter().chain(&group.learners);
            group.replicated = others.map(|m| (*m, up.contains_key(m).then_some(1_000))).collect();
        }
    }

    fn has_quorum(&self, voters: &BTreeSet<Member>) -> bool {
        voters.iter().filter(|voter| self.view.up.contains_key(voter)).count() * 2 > voters.len()
    }

    /// Carries out what is planned, and checks it. False where there is nothing to do.
    fn step(&mut self) -> bool {
        let steps = plan(&self.state, &self.view);
        let mut handing = BTreeSet::new();
        for step in &steps {
            match step.clone() {
                Step::Record(event) => self.record(&event),
                Step::Members { shard, leader, voters, learners } => {
                    let group = &self.view.groups[&shard];
                    assert_eq!(leader, group.leader);
                    assert!(voters.contains(&leader), "a leader is never taken out: {step:?}");
                    assert!(voters.is_disjoint(&learners));
                    assert!(!voters.is_empty() && voters.len() <= 4, "{step:?}");
                    let new = voters.difference(&group.voters);
                    for new in new {
                        assert!(self.view.up.contains_key(new), "{new} cannot be caught up");
                        assert_eq!(self.state.phase_of(*new), Some(Phase::Joined));
                    }
                    if self.has_quorum(&group.voters) {
                        assert!(self.has_quorum(&voters), "{step:?} of {group:?} loses the quorum");
                        let group = self.view.groups.get_mut(&shard).expect("there");
                        (group.voters, group.learners) = (voters, learners);
                    }
                }
                Step::Transfer { shard, leader, to } => {
                    let group = self.view.groups.get_mut(&shard).expect("there");
                    assert_eq!(leader, group.leader);
                    assert!(group.voters.contains(&to) && self.view.up.contains_key(&to));
                    assert!(handing.insert(leader) && handing.insert(to), "one at a time a node");
                    group.leader = to;
                }
            }
        }
        self.elect();
        !steps.is_empty()
    }

    /// Carries out everything. It must come to an end.
    fn settle(&mut self) {
        for _ in 0..500 {
            if !self.step() {
                return;
            }
        }
        panic!("it never ends: {:?}", plan(&self.state, &self.view));
    }

    /// Whether all is as the placement says.
    fn check_placed(&self) {
        let sharing = self.state.sharing();
        let places = place(&self.state.placed_nodes(), SHARDS, 3);
        for (n, place) in places.iter().enumerate() {
            let group = &self.view.groups[&ShardId(n as u16)];
            let voters: BTreeSet<_> = place.voters.iter().map(|node| sharing[node]).collect();
            assert_eq!(group.voters, voters, "shard {n}");
            assert_eq!(group.leader, sharing[&place.preferred], "shard {n}");
            let rest: BTreeSet<_> = sharing.values().copied().collect();
            let learners = if n == 0 { &rest - &voters } else { BTreeSet::new() };
            assert_eq!(group.learners, learners, "shard {n}");
        }
    }
}

#[derive(Debug, Clone)]
enum Happening {
    Join(u32),
    Replace(u32),
    Leave(u32),
    Remove(u32),
    Down(u32),
    Up(u32),
    Gone(u32),
    Drain(u32, bool),
    Resume(u32),
    Pause(bool),
    Steps(u8),
}

fn happening() -> impl Strategy<Value = Happening> {
    let node = 1..8_u32;
    prop_oneof![
        3 => node.clone().prop_map(Happening::Join),
        1 => node.clone().prop_map(Happening::Replace),
        1 => node.clone().prop_map(Happening::Leave),
        1 => node.clone().prop_map(Happening::Remove),
        2 => node.clone().prop_map(Happening::Down),
        2 => node.clone().prop_map(Happening::Up),
        1 => node.clone().prop_map(Happening::Gone),
        2 => (node.clone(), any::<bool>()).prop_map(|(node, all)| Happening::Drain(node, all)),
        2 => node.prop_map(Happening::Resume),
        1 => any::<bool>().prop_map(Happening::Pause),
        4 => (1..6_u8).prop_map(Happening::Steps),
    ]
}

fn happen(model: &mut Model, what: &Happening) {
    let reason = String::new;
    let newest = |model: &Model, node: u32| model.state.newest(NodeId(node));
    let joined = |model: &Model, node: u32| {
        newest(model, node).filter(|m| model.state.phase_of(*m) == Some(Phase::Joined))
    };
    match *what {
        Happening::Join(node) => {
            if newest(model, node).is_none() {
                model.join(member(node));
            }
        }
        Happening::Replace(node) => {
            let Some(old) = joined(model, node) else { return };
            // A disk that a quorum needs, as that of one of two voters, cannot be replaced: what it
            // had is lost. Only forming a new cluster helps then.
            if check_removal(&model.state, &model.view, old, false).is_err() {
                return;
            }
            model.record(&ClusterEvent::Removing { member: old, reason: reason() });
            model.join(Member { incarnation: old.incarnation + 1, ..old });
        }
        Happening::Leave(node) => {
            let Some(member) = joined(model, node) else { return };
            if model.state.sharing().len() > 1 && model.view.up.contains_key(&member) {
                model.record(&ClusterEvent::Leaving { member, reason: reason() });
            }
        }
        Happening::Remove(node) => {
            let Some(member) = joined(model, node) else { return };
            if check_removal(&model.state, &model.view, member, false).is_ok() {
                model.record(&ClusterEvent::Removing { member, reason: reason() });
            }
        }
        Happening::Down(node) => {
            // One at a time: two of three would leave nothing to decide.
            if model.state.present().keys().all(|member| model.view.up.contains_key(member))
                && let Some(member) = joined(model, node)
            {
                model.set_up(member, false);
            }
        }
        Happening::Up(node) => {
            if let Some(member) = newest(model, node) {
                model.set_up(member, true);
            }
        }
        Happening::Gone(node) => {
            let Some(member) = newest(model, node) else { return };
            if !model.view.up.contains_key(&member) {
                model.view.down.insert(member, 1_000);
            }
        }
        Happening::Drain(node, all) => {
            let Some(member) = joined(model, node) else { return };
            let mode = if all { DrainMode::Decommission } else { DrainMode::Leaderships };
            // It is refused where it must not be.
            let _ = model.drain(member, mode);
        }
        Happening::Resume(node) => {
            if let Some(member) = joined(model, node) {
                model.record(&ClusterEvent::Resumed { member, reason: reason() });
            }
        }
        Happening::Pause(true) => model.record(&ClusterEvent::Paused { reason: reason() }),
        Happening::Pause(false) => model.record(&ClusterEvent::Unpaused { reason: reason() }),
        Happening::Steps(count) => {
            for _ in 0..count {
                model.step();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    #[test]
    fn whatever_happens_groups_end_where_they_belong(
        history in prop::collection::vec(happening(), 1..40),
    ) {
        let mut model = Model::new();
        for what in &history {
            happen(&mut model, what);
        }
        let present: Vec<_> = model.state.in_phase(&[Phase::Joined, Phase::Joining, Phase::Leaving]).collect();
        for member in present {
            model.set_up(member, true);
            model.record(&ClusterEvent::Resumed { member, reason: String::new() });
        }
        model.record(&ClusterEvent::Unpaused { reason: String::new() });
        model.settle();
        model.check_placed();
        let waiting = [Phase::Joining, Phase::Leaving, Phase::Removing];
        prop_assert_eq!(model.state.in_phase(&waiting).count(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    /// Whoever is drained ends without leaderships, or without anything, whatever happened before; and
    /// where it is safe to stop all that are drained, every group has a quorum without them.
    #[test]
    fn who_is_drained_may_be_stopped_in_the_end(
        history in prop::collection::vec(happening(), 1..40),
    ) {
        let mut model = Model::new();
        for what in &history {
            happen(&mut model, what);
        }
        let present: Vec<_> =
            model.state.in_phase(&[Phase::Joined, Phase::Joining, Phase::Leaving]).collect();
        for member in present {
            model.set_up(member, true);
        }
        model.record(&ClusterEvent::Unpaused { reason: String::new() });
        model.settle();
        let drained = |mode| {
            let state = &model.state;
            let members = state.in_phase(&[Phase::Joined]);
            members.filter(move |m| state.drained(*m) == Some(mode)).collect::<Vec<_>>()
        };
        let rested = drained(DrainMode::Leaderships);
        let statuses = |members: &[Member]| -> Vec<_> {
            members.iter().filter_map(|m| drain_status(&model.state, &model.view, *m)).collect()
        };
        let able = model.state.in_phase(&[Phase::Joined]).any(|m| model.state.drained(m).is_none());
        for status in statuses(&drained(DrainMode::Decommission)) {
            prop_assert!(!able || status.done && status.safe_to_stop, "{status:?}");
        }
        let all = statuses(&rested);
        for status in &all {
            prop_assert!(!status.safe_to_stop || status.leads.is_empty());
        }
        if all.iter().all(|status| status.safe_to_stop) {
            for member in rested {
                model.view.up.remove(&member);
            }
            for group in model.view.groups.values() {
                prop_assert!(model.has_quorum(&group.voters), "{group:?}");
            }
        }
    }
}

fn settled(nodes: u32) -> Model {
    let mut model = Model::new();
    (2..=nodes).for_each(|node| model.join(member(node)));
    model.settle();
    model.check_placed();
    model
}

#[test]
fn nothing_is_done_where_all_is_well() {
    let model = settled(5);
    assert_eq!(plan(&model.state, &model.view), []);
}

#[test]
fn a_node_that_is_down_for_a_while_keeps_its_place() {
    let mut model = settled(4);
    let before = model.view.groups.clone();
    model.set_up(member(2), false);
    model.settle();
    let voters = |groups: &BTreeMap<ShardId, GroupReport>| {
        groups.values().map(|group| group.voters.clone()).collect::<Vec<_>>()
    };
    assert_eq!(voters(&model.view.groups), voters(&before));
    // It gets its leaderships back only when it was up for a while.
    model.set_up(member(2), true);
    model.view.settle_ms = 5_000;
    model.view.up.insert(member(2), 4_999);
    assert_eq!(plan(&model.state, &model.view), []);
    model.view.up.insert(member(2), 5_000);
    let steps = plan(&model.state, &model.view);
    assert!(!steps.is_empty());
    assert!(steps.iter().all(|step| matches!(step, Step::Transfer { to, .. } if *to == member(2))));
}

#[test]
fn a_replica_that_lags_does_not_get_to_lead() {
    let mut model = settled(3);
    model.set_up(member(2), false);
    model.settle();
    model.set_up(member(2), true);
    for group in model.view.groups.values_mut() {
        group.last_index = Some(1_000_000);
    }
    let steps = plan(&model.state, &model.view);
    assert_eq!(steps, [], "nobody is handed a group that it cannot serve at once");
}

#[test]
fn few_shards_move_at_once() {
    let mut model = settled(3);
    model.join(member(4));
    model.step();
    model.step();
    let adding = |steps: &[Step]| {
        let adds = |step: &&Step| matches!(step, Step::Members { voters, .. } if voters.contains(&member(4)));
        steps.iter().filter(adds).count()
    };
    let steps = plan(&model.state, &model.view);
    assert!((1..=2).contains(&adding(&steps)), "{steps:?}");
    model.view.busy = [ShardId(0), ShardId(1)].into();
    assert_eq!(adding(&plan(&model.state, &model.view)), 0, "two are under way");
}

#[test]
fn removal_is_refused_where_it_would_break_a_quorum() {
    let mut model = settled(3);
    let refused = |model: &Model, node: u32, force: bool| {
        check_removal(&model.state, &model.view, member(node), force)
    };
    assert_eq!(refused(&model, 3, false), Err(Refusal::StillUp { node: NodeId(3) }));
    assert_eq!(refused(&model, 3, true), Ok(()));
    model.set_up(member(3), false);
    assert_eq!(refused(&model, 3, false), Ok(()));
    model.set_up(member(2), false);
    for force in [false, true] {
        let why = refused(&model, 3, force).expect_err("one of three is left");
        assert!(matches!(&why, Refusal::WouldBreakQuorum { shards, .. } if shards.len() == 8));
    }
    // A shard that nobody reports to lead.
    let mut model = settled(4);
    model.set_up(member(4), false);
    model.view.groups.remove(&ShardId(5));
    let why = refused(&model, 4, false).expect_err("shard 5 is without a leader");
    assert_eq!(why, Refusal::WouldBreakQuorum { node: NodeId(4), shards: vec![ShardId(5)] });
    let model = settled(1);
    assert_eq!(refused(&model, 1, true), Err(Refusal::LastNode { node: NodeId(1) }));
}

/// Cause: a leader that is deposed in the middle of a change of members leaves its group half-way: what
/// it decides takes a quorum of the old voters too. All that vote are the wanted ones then, so nothing
/// was left to do. Consequence: the group kept counting on its old voters, and lost its quorum with one
/// of two of them, though it had three replicas. Fix: a change that is under way is ordered again.
#[test]
fn a_change_that_stopped_half_way_is_ordered_again() {
    let mut model = settled(3);
    let shard = ShardId(5);
    model.view.groups.get_mut(&shard).unwrap().changing = true;
    let steps = plan(&model.state, &model.view);
    let group = &model.view.groups[&shard];
    let (leader, voters, learners) = (group.leader, group.voters.clone(), group.learners.clone());
    assert_eq!(steps, [Step::Members { shard, leader, voters, learners }]);
}

/// Cause: a node that leaves was taken out of shard 0 as soon as nobody reported a group that counts on
/// it, also where nobody reported those groups at all. Consequence: it led them, heard no more who leads
/// shard 0, so reported to nobody and was given no orders: it never left, and nobody else could take
/// them over. Fix: it stays in shard 0 until every group is known to be without it.
#[test]
fn who_leaves_follows_the_cluster_until_every_group_is_known_to_be_without_it() {
    let mut model = settled(3);
    let (leaving, reason) = (member(3), String::new());
    model.record(&ClusterEvent::Leaving { member: leaving, reason });
    model.view.groups.retain(|shard, _| *shard == ShardId(0));
    model.settle();
    let system = &model.view.groups[&ShardId(0)];
    assert!(!system.voters.contains(&leaving) && system.learners.contains(&leaving));
    assert_eq!(model.state.phase_of(leaving), Some(Phase::Leaving));
}

#[test]
fn what_is_drained_of_leaderships_leads_nothing_and_keeps_its_replicas() {
    let mut model = settled(4);
    let before: Vec<_> = model.view.groups.values().map(|group| group.voters.clone()).collect();
    model.drain(member(2), DrainMode::Leaderships).expect("three others are up");
    let status = drain_status(&model.state, &model.view, member(2)).expect("it is drained");
    assert!(
        !status.done && !status.safe_to_stop && status.why.starts_with("it leads"),
        "{status:?}"
    );
    model.settle();
    let status = drain_status(&model.state, &model.view, member(2)).expect("it is drained");
    assert!(status.done && status.safe_to_stop, "{status:?}");
    let after: Vec<_> = model.view.groups.values().map(|group| group.voters.clone()).collect();
    assert_eq!(before, after);
    // Another voter that lags is none that counts.
    for group in model.view.groups.values_mut() {
        group.replicated.iter_mut().filter(|(m, _)| *m == member(3)).for_each(|(_, at)| *at = None);
    }
    let status = drain_status(&model.state, &model.view, member(2)).expect("it is drained");
    assert!(!status.safe_to_stop && status.why.contains("no quorum that is up"), "{status:?}");
}

#[test]
fn a_dry_run_says_what_is_done_then() {
    let mut model = settled(4);
    let nothing = forecast(&model.state, &model.view, WhatIf::Nothing).expect("as it is");
    assert_eq!(nothing.moves, []);
    let (node, mode) = (NodeId(3), DrainMode::Decommission);
    let dry = forecast(&model.state, &model.view, WhatIf::Drain { node, mode }).expect("known");
    let before = model.view.groups.clone();
    model.drain(member(3), mode).expect("three others are up");
    model.settle();
    let moved =
        |shard: &ShardId, group: &GroupReport| model.view.groups[shard].voters != group.voters;
    let moved: Vec<u16> = before.iter().filter(|(s, g)| moved(s, g)).map(|(s, _)| s.0).collect();
    let said: BTreeSet<u16> = dry.moves.iter().map(|one| one.shard).collect();
    assert!(moved.iter().all(|shard| said.contains(shard)), "{moved:?} {dry}");
    assert!(!moved.is_empty());
    let unknown = forecast(&model.state, &model.view, WhatIf::Remove { node: NodeId(99) });
    assert_eq!(unknown, Err(Refusal::UnknownNode { node: NodeId(99) }));
}

/// Nodes of a release that does not know an event must never find it in the cluster's state: they could
/// not read it any more.
#[test]
fn nothing_is_recorded_that_a_member_does_not_understand() {
    let mut model = settled(4);
    model.set_up(member(4), false);
    model.view.down.insert(member(4), 1_000);
    let absent = |model: &Model| {
        let steps = plan(&model.state, &model.view);
        steps.iter().any(|step| matches!(step, Step::Record(ClusterEvent::Absent { .. })))
    };
    assert!(absent(&model));
    // Node 3 was started with an older release.
    model.view.about.get_mut(&member(3)).expect("it is up").level = 1;
    assert!(!absent(&model));
    let steps = plan(&model.state, &model.view);
    assert!(steps.iter().all(|step| !matches!(step, Step::Record(_))), "{steps:?}");
}

/// Cause: a leader that had to leave its group gave it to a drained one, as the only voter that stays, and
/// that one gave it back. Consequence: the leadership went to and fro, and the others never got their
/// votes. Fix: it waits for those, unless all that stay are drained.
#[test]
fn leadership_does_not_go_to_and_fro_between_who_leaves_and_who_is_drained() {
    use Happening::{Down, Drain, Join, Replace, Steps};
    let mut model = Model::new();
    for what in [
        Join(7),
        Replace(1),
        Join(1),
        Replace(1),
        Join(6),
        Steps(4),
        Drain(7, false),
        Join(4),
        Join(2),
        Down(6),
        Replace(6),
        Join(1),
    ] {
        happen(&mut model, &what);
    }
    let all = [Phase::Joined, Phase::Joining, Phase::Leaving];
    let present: Vec<_> = model.state.in_phase(&all).collect();
    present.into_iter().for_each(|member| model.set_up(member, true));
    model.settle();
}
