//! What to do next, so that the groups become as the cluster's state wants them. Pure.
//!
//! Called again and again by whoever leads shard 0. It gives only steps that are safe to take now;
//! what must wait is given by a later call. A step that is lost is given again.

use std::collections::BTreeSet;

use duractor_journal::{Member, ShardId};

pub use super::{
    checks::check_removal,
    view::{GroupReport, View},
};
use super::{
    event::ClusterEvent,
    noted::noted,
    placement::Place,
    state::{ClusterState, Phase},
    wanted::placement,
};

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
    let mut steps: Vec<Step> = noted(state, view).into_iter().map(Step::Record).collect();
    let places = placement(state, view).places();
    let held = state.held_back().is_some();
    let mut planner =
        Planner { state, view, held, moves: view.busy.len(), handing: view.handing.clone() };
    for (n, place) in places.iter().enumerate() {
        let shard = ShardId(n as u16);
        let Some(group) = view.groups.get(&shard) else { continue };
        if !view.busy.contains(&shard) && view.up.contains_key(&group.leader) {
            steps.extend(planner.step(group, place));
        }
    }
    steps
}

struct Planner<'a> {
    state: &'a ClusterState,
    view: &'a View,
    /// Nothing is moved for balance.
    held: bool,
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
        let drained = |member: &Member| self.state.drained(*member).is_some();
        let able = |member: &Member| self.view.can_lead(self.state, group, *member);
        // Where all that belong there are drained, one of them leads in the end.
        let hopeful = !target.iter().all(drained);
        let sick = self.view.sick.contains_key(&group.leader);
        if (sick || drained(&group.leader) && hopeful) && group.voters.iter().any(able) {
            let to = self.successor(group, &group.voters, place)?;
            return self.transfer(group, to);
        }
        if !target.contains(&group.leader) {
            // It hands over before it is taken out, so that the group is never without a leader; and not to
            // one that is drained, which would give it back.
            if (!hopeful || target.iter().any(able))
                && let Some(to) = self.successor(group, &target, place)
            {
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
            && !self.held
            && self.view.can_lead(self.state, group, preferred);
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
        let stays = |member: &Member| self.state.keeps(*member);
        // What is half-way is finished, and who must go does go.
        if self.held && !group.changing && group.voters.iter().all(stays) {
            return group.voters.clone();
        }
        let mut target: BTreeSet<Member> = desired
            .iter()
            .copied()
            .filter(|member| group.voters.contains(member) || up(member))
            .collect();
        let mut rest: Vec<Member> = group.voters.difference(desired).copied().collect();
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

    /// Who takes over from a leader that is to go: of those that can, whoever should lead, or leads
    /// least.
    fn successor(
        &self,
        group: &GroupReport,
        among: &BTreeSet<Member>,
        place: &Place,
    ) -> Option<Member> {
        let fit = |member: &&Member| {
            **member != group.leader
                && group.voters.contains(member)
                && self.view.up.contains_key(member)
                && group.is_caught_up(**member)
        };
        let led = |member: &Member| {
            self.view.groups.values().filter(|group| group.leader == *member).count()
        };
        let best = among.iter().filter(fit).min_by_key(|member| {
            let able = self.view.can_lead(self.state, group, **member);
            (!able, member.node != place.preferred, led(member), **member)
        });
        best.copied()
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
            if self.moves >= self.view.moves {
                return None;
            }
            self.moves += 1;
        }
        Some(Step::Members { shard: group.shard, leader: group.leader, voters, learners })
    }
}
