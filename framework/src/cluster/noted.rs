//! What the leader of shard 0 records by itself: who has joined, is gone, is absent, or has changed.
//! Pure.

use duractor_journal::{Member, ShardId};

use super::{
    event::ClusterEvent,
    properties::{About, DrainMode},
    state::{ClusterState, Phase},
    view::View,
};

/// The events to record now. None that a member would not understand.
pub(super) fn noted(state: &ClusterState, view: &View) -> Vec<ClusterEvent> {
    let mut events = members(state, view);
    events.extend(described(state, view));
    events.extend(absent(state, view));
    let level = view.level(state);
    events.retain(|event| event.level() <= level);
    events
}

/// Members whose joining or leaving is done.
fn members(state: &ClusterState, view: &View) -> Vec<ClusterEvent> {
    let mut events = Vec::new();
    let system = view.groups.get(&ShardId(0));
    for member in state.in_phase(&[Phase::Joining]) {
        let ready = system.is_some_and(|group| group.has(member) && group.is_caught_up(member));
        if ready && view.up.contains_key(&member) {
            let reason = "it is caught up with the cluster's state".to_owned();
            events.push(ClusterEvent::Joined { member, reason });
        }
    }
    let all_known = (0..state.shards).all(|shard| view.groups.contains_key(&ShardId(shard)));
    for member in state.in_phase(&[Phase::Leaving, Phase::Removing]) {
        if all_known && view.groups.values().all(|group| !group.has(member)) {
            let reason = "no group counts on it any more".to_owned();
            events.push(ClusterEvent::Removed { member, reason });
        }
    }
    events
}

/// Members that are not what they were, as when they were started with other settings.
fn described(state: &ClusterState, view: &View) -> Vec<ClusterEvent> {
    let present = state.members.iter().filter(|(_, known)| known.phase != Phase::Removed);
    let differs = present.filter_map(|(member, known)| {
        let about = view.about.get(member)?;
        let same = known.properties == about.properties && known.level == about.level;
        (!same).then(|| (*member, about.clone()))
    });
    differs.map(|(member, about)| description(member, about)).collect()
}

/// A member is what it says.
pub(super) fn description(member: Member, about: About) -> ClusterEvent {
    let properties = about.properties;
    ClusterEvent::Described {
        member,
        roles: properties.roles.into_iter().collect(),
        zone: properties.zone,
        rack: properties.rack,
        version: properties.version,
        weight: properties.weight,
        level: about.level,
        reason: "the node says so".to_owned(),
    }
}

/// Members that are not reached for so long that others are to get their replicas, and those that are
/// back. Others get them only where there are enough of them: with fewer replicas nothing is gained.
fn absent(state: &ClusterState, view: &View) -> Vec<ClusterEvent> {
    let mut events = Vec::new();
    for member in state.in_phase(&[Phase::Joined]) {
        let away = state.members.get(&member).is_some_and(|known| known.absent_since_ms.is_some());
        let up_ms = view.up.get(&member);
        if away && up_ms.is_some_and(|ms| *ms >= view.settle_ms) {
            let reason = "it is back".to_owned();
            events.push(ClusterEvent::Returned { member, reason });
        }
        let down_ms = view.down.get(&member).copied().filter(|_| up_ms.is_none());
        let gone = down_ms.is_some_and(|ms| ms >= view.replace_after_ms);
        // One at a time, each decided on what the one before has left.
        if gone && !away && events.is_empty() && can_be_replaced(state, view, member) {
            let reason = format!("it is not reached for {} s", down_ms.unwrap_or(0) / 1_000);
            events.push(ClusterEvent::Absent { member, reason });
        }
    }
    events
}

fn can_be_replaced(state: &ClusterState, view: &View, member: Member) -> bool {
    let others = state.in_phase(&[Phase::Joined]);
    let fit = others.filter(|other| state.keeps(*other) && view.up.contains_key(other)).count();
    let in_maintenance = state.drained(member) == Some(DrainMode::Leaderships);
    state.held_back().is_none() && !in_maintenance && fit >= usize::from(state.replication)
}
