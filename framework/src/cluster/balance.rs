//! Which leadership to move because of what is asked of its shard. Pure, but for what it remembers.
//!
//! Leaderships are spread evenly by number ([`placement`](super::placement)). Where some shards are asked
//! much more than others, that is not even by load. Then whoever leads the cluster says, of one shard
//! at a time, who had better lead it. It does so only when
//!
//! - a node has more than its share of all commands, by a margin, for a while without a break;
//! - the node that takes over has clearly less afterwards than the other had before;
//! - the last such move is some time ago, and everything else is in its place.
//!
//! Each move makes the greatest loads less, so it comes to an end, and noise within the margin moves
//! nothing.

use std::collections::BTreeMap;

use duractor_journal::{Member, ShardId};

use super::{
    event::ClusterEvent,
    state::ClusterState,
    view::{GroupReport, View},
    wanted::placement,
};

/// When a leadership moves because of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// By how much more than its share a node must have, in percent of it. 0: never.
    pub margin_percent: u64,
    /// Where less is asked of all shards together nothing moves, in commands per second.
    pub least_per_s: u64,
    /// For how long it must be so, in milliseconds.
    pub hold_ms: u64,
    /// Between two moves, in milliseconds.
    pub pause_ms: u64,
}

impl Rules {
    /// With this margin: 1 000 commands per second, for 20 s, and a move every 30 s.
    #[must_use]
    pub fn of_margin(margin_percent: u64) -> Self {
        Self { margin_percent, least_per_s: 1_000, hold_ms: 20_000, pause_ms: 30_000 }
    }
}

/// What is remembered between two looks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Balancer {
    /// Since when a node has had too much.
    since_ms: Option<u64>,
    /// When a leadership was moved last.
    moved_ms: Option<u64>,
}

impl Balancer {
    /// Looks at the loads, at a time in milliseconds that only ever grows. Returns what to record, if
    /// anything.
    pub fn look(
        &mut self,
        state: &ClusterState,
        view: &View,
        rules: Rules,
        now_ms: u64,
    ) -> Option<ClusterEvent> {
        let Some((shard, from, to)) = relief(state, view, rules) else {
            self.since_ms = None;
            return None;
        };
        let since = *self.since_ms.get_or_insert(now_ms);
        let long = now_ms.saturating_sub(since) >= rules.hold_ms;
        let rested = self.moved_ms.is_none_or(|at| now_ms.saturating_sub(at) >= rules.pause_ms);
        if !long || !rested {
            return None;
        }
        (self.since_ms, self.moved_ms) = (None, Some(now_ms));
        let (node, pinned) = (Some(to.node), false);
        let reason = format!("more is asked of {from} than its share");
        Some(ClusterEvent::LeaderPreferred { shard, node, pinned, reason })
    }
}

/// The move that helps most, where one does.
fn relief(state: &ClusterState, view: &View, rules: Rules) -> Option<(ShardId, Member, Member)> {
    if rules.margin_percent == 0 || state.held_back().is_some() {
        return None;
    }
    let places = placement(state, view).places();
    let group = |n: usize| view.groups.get(&ShardId(n as u16));
    // A load that is about to move anyway is not one to decide on.
    let in_place = places.iter().enumerate().all(|(n, place)| {
        group(n).is_some_and(|group| !group.changing && group.leader.node == place.preferred)
    });
    if places.is_empty() || !in_place || !view.busy.is_empty() {
        return None;
    }
    let able = state.sharing().into_values().filter(|member| {
        view.up.contains_key(member) && state.drained(*member).is_none() && state.keeps(*member)
    });
    let mut burden: BTreeMap<Member, Burden> =
        able.map(|member| (member, Burden::new(state, member))).collect();
    for (shard, load) in &view.loads {
        let leader = view.groups.get(shard)?.leader;
        burden.get_mut(&leader)?.asked += load.commands_per_s;
    }
    let total: u64 = burden.values().map(|burden| burden.asked).sum();
    let weight: u64 = burden.values().map(|burden| burden.weight).sum();
    if total < rules.least_per_s || weight == 0 {
        return None;
    }
    let share = u128::from(total) * SCALE / u128::from(weight);
    let margin = share * u128::from(rules.margin_percent) / 100;
    let mut hot: Vec<(&Member, &Burden)> =
        burden.iter().filter(|(_, burden)| burden.height(0) > share + margin).collect();
    hot.sort_by_key(|(member, burden)| (std::cmp::Reverse(burden.height(0)), **member));
    hot.into_iter().find_map(|(from, has)| {
        let mut best: Option<(u128, ShardId, Member)> = None;
        for (n, place) in places.iter().enumerate() {
            let shard = ShardId(n as u16);
            let Some(group) = group(n).filter(|group| group.leader == *from) else { continue };
            let asked = view.loads.get(&shard).map_or(0, |load| load.commands_per_s);
            if asked == 0 || is_set(state, shard) {
                continue;
            }
            let fit = |to: &&Member| takes(state, view, group, **to) && **to != *from;
            for to in
                group.voters.iter().filter(|to| place.candidates.contains(&to.node)).filter(fit)
            {
                let Some(gets) = burden.get(to) else { continue };
                let height = gets.height(asked as i128).max(has.height(-(asked as i128)));
                if height + margin / 2 < has.height(0)
                    && best.is_none_or(|known| (height, shard, *to) < known)
                {
                    best = Some((height, shard, *to));
                }
            }
        }
        best.map(|(_, shard, to)| (shard, *from, to))
    })
}

fn takes(state: &ClusterState, view: &View, group: &GroupReport, to: Member) -> bool {
    view.can_lead(state, group, to)
}

/// Whether somebody has said who is to lead the shard.
fn is_set(state: &ClusterState, shard: ShardId) -> bool {
    let pinned = state.settings.leaders.get(&shard).is_some_and(|wish| wish.pinned);
    pinned || state.settings.affinity.contains_key(&shard)
}

/// Heights are loads beside weights, times this.
const SCALE: u128 = 1 << 20;

/// What is asked of a node.
struct Burden {
    asked: u64,
    weight: u64,
}

impl Burden {
    fn new(state: &ClusterState, member: Member) -> Self {
        let known = state.members.get(&member);
        let weight = known.map_or(1, |known| u64::from(known.properties.weight.max(1)));
        Self { asked: 0, weight }
    }

    /// How much it is beside its weight, with so much more.
    fn height(&self, more: i128) -> u128 {
        let asked = u128::try_from(i128::from(self.asked) + more).unwrap_or(0);
        asked * SCALE / u128::from(self.weight)
    }
}
