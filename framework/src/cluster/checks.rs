//! Whether a member can be taken out, drained or stopped. Pure.

use duractor_journal::{Member, ShardId};
use serde::{Deserialize, Serialize};

use super::{
    error::Refusal,
    properties::DrainMode,
    state::{ClusterState, Phase},
    view::{GroupReport, View},
};

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

/// Whether a member can be drained: so that it may be stopped then, together with all others that are
/// drained.
///
/// # Errors
/// [`Refusal`] says what stands against it.
pub fn check_drain(
    state: &ClusterState,
    view: &View,
    member: Member,
    mode: DrainMode,
) -> Result<(), Refusal> {
    let node = member.node;
    let takes_over = |other: &Member| {
        *other != member && view.up.contains_key(other) && state.drained(*other).is_none()
    };
    let kept = |group: &GroupReport| group.voters.contains(&member);
    if !state.in_phase(&[Phase::Joined]).any(|other| takes_over(&other) && state.keeps(other)) {
        let shards = view.groups.values().filter(|group| kept(group));
        let shards = shards.map(|group| group.shard).collect();
        return Err(Refusal::NobodyTakesOver { node, shards });
    }
    if mode == DrainMode::Decommission {
        return check_rest(state, view, member);
    }
    let breaks = |shard: &ShardId| match view.groups.get(shard) {
        None => true,
        Some(group) => kept(group) && !has_quorum(group, takes_over),
    };
    let shards: Vec<ShardId> = (0..state.shards).map(ShardId).filter(breaks).collect();
    if shards.is_empty() { Ok(()) } else { Err(Refusal::WouldBreakQuorum { node, shards }) }
}

fn has_quorum(group: &GroupReport, counts: impl Fn(&Member) -> bool) -> bool {
    group.voters.iter().filter(|voter| counts(voter)).count() * 2 > group.voters.len()
}

/// How far the draining of a node is, and whether the node may be stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DrainStatus {
    /// The node.
    pub node: u32,
    /// Of what it is drained.
    pub mode: DrainMode,
    /// Why.
    pub reason: String,
    /// The shards that it leads still.
    pub leads: Vec<ShardId>,
    /// The shards that it votes in, or takes part in otherwise. One that is drained of leaderships keeps
    /// them; of one that is decommissioned, they are what is left. Following shard 0 without a vote,
    /// as every member does, is not counted.
    pub keeps: Vec<ShardId>,
    /// Whether everything is given away that is to be.
    pub done: bool,
    /// Whether the node may be stopped now, together with all others that are drained: no shard loses
    /// its leader or its quorum with it.
    pub safe_to_stop: bool,
    /// Why it may not; empty where it may.
    pub why: String,
}

/// How far the draining of a member is; `None` where it is not drained.
#[must_use]
pub fn drain_status(state: &ClusterState, view: &View, member: Member) -> Option<DrainStatus> {
    let drain = state.members.get(&member)?.drain.as_ref()?;
    let of = |fits: &dyn Fn(&GroupReport) -> bool| -> Vec<ShardId> {
        view.groups.values().filter(|group| fits(group)).map(|group| group.shard).collect()
    };
    let leads = of(&|group| group.leader == member);
    let follows = |group: &GroupReport| {
        group.shard == ShardId(0) && group.learners.contains(&member) && !group.changing
    };
    let keeps = of(&|group| group.has(member) && !follows(group));
    let unknown: Vec<ShardId> =
        (0..state.shards).map(ShardId).filter(|s| !view.groups.contains_key(s)).collect();
    // A member that is up and drained may be stopped at any time.
    let counts = |group: &GroupReport, other: &Member| {
        *other != member
            && view.up.contains_key(other)
            && group.is_caught_up(*other)
            && state.drained(*other).is_none()
            && !view.is_stopping(*other)
    };
    let breaks = of(&|group| {
        group.voters.contains(&member) && !has_quorum(group, |other| counts(group, other))
    });
    // Who knows of it hands nothing over to the node any more, and nobody does so without knowing.
    let ignorant = of(&|group| {
        let about = view.about.get(&group.leader);
        group.executing || about.is_none_or(|about| about.revision < drain.revision)
    });
    let changing = of(&|group| group.has(member) && group.changing);
    let why = if !unknown.is_empty() {
        format!("nobody reports to lead {}", list(&unknown))
    } else if !leads.is_empty() {
        format!("it leads {}", list(&leads))
    } else if !ignorant.is_empty() {
        format!("{} may still be handed over to it", list(&ignorant))
    } else if !changing.is_empty() {
        format!("the members of {} are being changed", list(&changing))
    } else if !breaks.is_empty() {
        format!("without it, {} would have no quorum that is up and complete", list(&breaks))
    } else {
        String::new()
    };
    let given = unknown.is_empty() && leads.is_empty() && ignorant.is_empty();
    let done = given && (drain.mode == DrainMode::Leaderships || keeps.is_empty());
    Some(DrainStatus {
        node: member.node.0,
        mode: drain.mode,
        reason: drain.reason.clone(),
        leads,
        keeps,
        done,
        safe_to_stop: why.is_empty(),
        why,
    })
}

pub(super) fn list(shards: &[ShardId]) -> String {
    shards.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
