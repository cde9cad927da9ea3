//! What to do next, so that the groups become as the cluster's state wants them. Pure.
//!
//! Called again and again by whoever leads shard 0. It gives only steps that are safe to take now;
//! what must wait is given by a later call. A step that is lost is given again.

use std::collections::{BTreeMap, BTreeSet};

use duractor_journal::{Member, ShardId, Term};
use serde::{Deserialize, Serialize};

use super::{
    error::Refusal,
    event::ClusterEvent,
    placement::{Place, place},
    state::{ClusterState, Phase},
};

/// A replica that lacks no more entries than this counts as caught up.
const CAUGHT_UP: u64 = 128;
/// How many groups may take in new voters at once: each may ship a whole shard.
const MOVES: usize = 2;

/// A group, as its leader reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupReport {
    /// The shard.
    pub shard: ShardId,
    /// Who leads and reports.
    pub leader: Member,
    /// The Raft term.
    pub term: Term,
    /// The replicas that vote.
    pub voters: BTreeSet<Member>,
    /// The replicas that only follow.
    pub learners: BTreeSet<Member>,
    /// Whether a change of its members is under way, or was when its leader was deposed.
    #[serde(default)]
    pub changing: bool,
    /// The index of the last entry in the leader's log.
    pub last_index: Option<u64>,
    /// Up to where each other replica has the log.
    pub replicated: Vec<(Member, Option<u64>)>,
}

impl GroupReport {
    /// Whether a replica has nearly all of the log.
    fn is_caught_up(&self, member: Member) -> bool {
        if member == self.leader {
            return true;
        }
        let has = self.replicated.iter().find(|(other, _)| *other == member);
        has.and_then(|(_, index)| *index)
            .is_some_and(|index| index + CAUGHT_UP >= self.last_index.unwrap_or(0))
    }

    fn has(&self, member: Member) -> bool {
        self.voters.contains(&member) || self.learners.contains(&member)
    }
}

/// What the leader of shard 0 sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Members that can be reached, itself included, and for how many milliseconds.
    pub up: BTreeMap<Member, u64>,
    /// The groups that have a leader, as it reported last.
    pub groups: BTreeMap<ShardId, GroupReport>,
    /// Shards with a step under way.
    pub busy: BTreeSet<ShardId>,
    /// Members that a hand-over under way is from or to.
    pub handing: BTreeSet<Member>,
    /// How long a member is up before it gets its leaderships back, in milliseconds.
    pub settle_ms: u64,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Record an event.
    Record(ClusterEvent),
    /// Have a group's leader change its members.
    Members {
        /// The group.
        shard: ShardId,
        /// Its leader.
        leader: Member,
        /// Who is to vote.
        voters: BTreeSet<Member>,
        /// Who is to follow without a vote.
        learners: BTreeSet<Member>,
    },
    /// Have a group's leader hand over.
    Transfer {
        /// The group.
        shard: ShardId,
        /// Its leader.
        leader: Member,
        /// Who is to lead.
        to: Member,
    },
}

/// The steps to take now.
#[must_use]
pub fn plan(state: &ClusterState, view: &View) -> Vec<Step> {
    let mut steps = finished(state, view);
    let places = place(&state.placed_nodes(), state.shards, state.replication);
    let mut planner =
        Planner { state, view, moves: view.busy.len(), handing: view.handing.clone() };
    for (n, place) in places.iter().enumerate() {
        let shard = ShardId(n as u16);
        let Some(group) = view.groups.get(&shard) else { continue };
        if !view.busy.contains(&shard) && view.up.contains_key(&group.leader) {
            steps.extend(planner.step(group, place));
        }
    }
    steps
}

/// Members whose joining or leaving is done.
fn finished(state: &ClusterState, view: &View) -> Vec<Step> {
    let mut steps = Vec::new();
    let system = view.groups.get(&ShardId(0));
    for member in state.in_phase(&[Phase::Joining]) {
        let ready = system.is_some_and(|group| group.has(member) && group.is_caught_up(member));
        if ready && view.up.contains_key(&member) {
            let reason = "it is caught up with the cluster's state".to_owned();
            steps.push(Step::Record(ClusterEvent::Joined { member, reason }));
        }
    }
    let all_known = (0..state.shards).all(|shard| view.groups.contains_key(&ShardId(shard)));
    for member in state.in_phase(&[Phase::Leaving, Phase::Removing]) {
        if all_known && view.groups.values().all(|group| !group.has(member)) {
            let reason = "no group counts on it any more".to_owned();
            steps.push(Step::Record(ClusterEvent::Removed { member, reason }));
        }
    }
    steps
}

struct Planner<'a> {
    state: &'a ClusterState,
    view: &'a View,
    moves: usize,
    handing: BTreeSet<Member>,
}

impl Planner<'_> {
    /// What one group needs.
    fn step(&mut self, group: &GroupReport, place: &Place) -> Option<Step> {
        let sharing = self.state.sharing();
        let desired: BTreeSet<Member> =
            place.voters.iter().filter_map(|node| sharing.get(node).copied()).collect();
        let target = self.target(group, &desired, place.voters.len());
        if !target.contains(&group.leader) {
            // It hands over before it is taken out, so that the group is never without a leader.
            if let Some(to) = self.successor(group, &target) {
                return self.transfer(group, to);
            }
            let mut both = target.clone();
            both.insert(group.leader);
            return self.members(group, both);
        }
        let settled = !group.changing
            && target == group.voters
            && self.learners(group, &target) == group.learners;
        if !settled {
            return self.members(group, target);
        }
        let preferred = sharing.get(&place.preferred).copied()?;
        let long_up = self.view.up.get(&preferred).is_some_and(|ms| *ms >= self.view.settle_ms);
        let fit = preferred != group.leader
            && long_up
            && group.voters.contains(&preferred)
            && group.is_caught_up(preferred);
        if fit { self.transfer(group, preferred) } else { None }
    }

    /// Who should vote now: those that belong there and can be reached or vote already, and as many
    /// of the present voters beside them as are missing. So a replica goes only when another has
    /// come.
    fn target(
        &self,
        group: &GroupReport,
        desired: &BTreeSet<Member>,
        copies: usize,
    ) -> BTreeSet<Member> {
        let up = |member: &Member| self.view.up.contains_key(member);
        let mut target: BTreeSet<Member> = desired
            .iter()
            .copied()
            .filter(|member| group.voters.contains(member) || up(member))
            .collect();
        let mut rest: Vec<Member> = group.voters.difference(desired).copied().collect();
        let stays = |member: &Member| self.state.phase_of(*member) == Some(Phase::Joined);
        rest.sort_by_key(|member| (!up(member), !stays(member), *member));
        let missing = copies.saturating_sub(target.len());
        target.extend(rest.into_iter().take(missing));
        target
    }

    /// Who should follow without a vote: of shard 0 every member, so that it knows the cluster's
    /// state. One that leaves, or is up while it is removed, follows until no other group has it.
    fn learners(&self, group: &GroupReport, voters: &BTreeSet<Member>) -> BTreeSet<Member> {
        if group.shard != ShardId(0) {
            return BTreeSet::new();
        }
        // A group of which nothing is heard may well count on it, and even be led by it: whoever is
        // out of this group reports to nobody and is given no orders.
        let elsewhere = |member: &Member| {
            let mut others =
                (1..self.state.shards).map(|shard| self.view.groups.get(&ShardId(shard)));
            others.any(|group| group.is_none_or(|group| group.has(*member)))
        };
        let follows = |member: &Member| match self.state.phase_of(*member) {
            Some(Phase::Joining | Phase::Joined) => {
                self.view.up.contains_key(member) || group.learners.contains(member)
            }
            Some(Phase::Leaving) => elsewhere(member),
            Some(Phase::Removing) => self.view.up.contains_key(member) && elsewhere(member),
            _ => false,
        };
        let members = self.state.members.keys().copied();
        members.filter(|member| !voters.contains(member) && follows(member)).collect()
    }

    /// Who takes over from a leader that is to go.
    fn successor(&self, group: &GroupReport, target: &BTreeSet<Member>) -> Option<Member> {
        let fit = |member: &&Member| {
            group.voters.contains(member)
                && self.view.up.contains_key(member)
                && group.is_caught_up(**member)
        };
        target.iter().find(fit).copied()
    }

    /// A hand-over, unless one of both takes part in another.
    fn transfer(&mut self, group: &GroupReport, to: Member) -> Option<Step> {
        if self.handing.contains(&group.leader) || self.handing.contains(&to) {
            return None;
        }
        self.handing.extend([group.leader, to]);
        Some(Step::Transfer { shard: group.shard, leader: group.leader, to })
    }

    fn members(&mut self, group: &GroupReport, voters: BTreeSet<Member>) -> Option<Step> {
        let learners = self.learners(group, &voters);
        // One that a deposed leader left half-way looks complete, and nobody but us completes it.
        if voters == group.voters && learners == group.learners && !group.changing {
            return None;
        }
        // As when one leaves while another is down: it waits until that one is back.
        let there = voters.iter().filter(|voter| self.view.up.contains_key(voter)).count();
        if voters != group.voters && there * 2 <= voters.len() {
            return None;
        }
        if !voters.is_subset(&group.voters) {
            if self.moves >= MOVES {
                return None;
            }
            self.moves += 1;
        }
        Some(Step::Members { shard: group.shard, leader: group.leader, voters, learners })
    }
}

/// Whether a member can be taken out of all groups without any of them losing its quorum.
///
/// # Errors
/// [`Refusal`] says what stands against it.
pub fn check_removal(
    state: &ClusterState,
    view: &View,
    member: Member,
    force: bool,
) -> Result<(), Refusal> {
    let node = member.node;
    if view.up.contains_key(&member) && !force {
        return Err(Refusal::StillUp { node });
    }
    check_rest(state, view, member)
}

/// As [`check_removal`], for a member that is up and gives everything away itself.
///
/// # Errors
/// [`Refusal`] says what stands against it.
pub fn check_rest(state: &ClusterState, view: &View, member: Member) -> Result<(), Refusal> {
    let node = member.node;
    if !state.in_phase(&[Phase::Joined]).any(|other| other != member) {
        return Err(Refusal::LastNode { node });
    }
    let breaks = |shard: &ShardId| match view.groups.get(shard) {
        None => true,
        Some(group) if !group.voters.contains(&member) => false,
        Some(group) => {
            let left = group.voters.iter().filter(|v| **v != member && view.up.contains_key(v));
            let others = group.voters.len() > 1;
            // A member that is up takes part in the change that takes it out.
            let counted = left.count() + usize::from(view.up.contains_key(&member));
            others && counted * 2 <= group.voters.len() || !others && !view.up.contains_key(&member)
        }
    };
    let shards: Vec<ShardId> = (0..state.shards).map(ShardId).filter(breaks).collect();
    if shards.is_empty() { Ok(()) } else { Err(Refusal::WouldBreakQuorum { node, shards }) }
}
