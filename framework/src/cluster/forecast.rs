//! A dry run: what would be moved, and why. Pure.

use std::{collections::BTreeSet, fmt};

use duractor_journal::{Member, NodeId, ShardId};
use serde::{Deserialize, Serialize};

use super::{
    checks::list,
    error::Refusal,
    event::ClusterEvent,
    placement::Place,
    properties::DrainMode,
    state::{ClusterState, Phase},
    view::{GroupReport, View},
    wanted::placement,
};

/// A change to try out without doing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "if", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum WhatIf {
    /// None: what is to be moved as it is.
    Nothing,
    /// A node is drained.
    Drain {
        /// Which.
        node: NodeId,
        /// Of what.
        mode: DrainMode,
    },
    /// A node that is drained is resumed.
    Resume {
        /// Which.
        node: NodeId,
    },
    /// A node leaves, or is removed.
    Remove {
        /// Which.
        node: NodeId,
    },
}

/// What moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Change {
    /// A shard gets other replicas.
    Replicas {
        /// Who gets one, as `2.1`.
        add: Vec<String>,
        /// Who loses its own.
        remove: Vec<String>,
    },
    /// Another replica is to lead.
    Leader {
        /// Who leads, as `2.1`.
        from: String,
        /// Who is to.
        to: String,
    },
}

/// A shard that moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Move {
    /// Which.
    pub shard: u16,
    /// What of it.
    #[serde(flatten)]
    pub change: Change,
    /// Why.
    pub reason: String,
}

/// What would be moved. [`Display`](fmt::Display) prints it, a line for each move.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Forecast {
    /// The revision of the cluster's state that it follows from.
    pub revision: u64,
    /// Why nothing of it is done for now, but for what must be, where that is so.
    pub held_back: Option<String>,
    /// The moves, by shard.
    pub moves: Vec<Move>,
    /// Shards that nobody reports to lead: what they need is not known.
    pub unknown: Vec<u16>,
    /// How many shards there are.
    pub shards: u16,
}

/// What would be moved.
///
/// # Errors
/// [`Refusal::UnknownNode`] for a node that is no member.
pub fn forecast(state: &ClusterState, view: &View, what_if: WhatIf) -> Result<Forecast, Refusal> {
    let state = suppose(state, what_if)?;
    let mut forecast = Forecast {
        revision: state.revision,
        held_back: state.held_back(),
        shards: state.shards,
        ..Forecast::default()
    };
    for (n, place) in placement(&state, view).places().iter().enumerate() {
        match view.groups.get(&ShardId(n as u16)) {
            Some(group) => forecast.moves.extend(moves((&state, view), group, place)),
            None => forecast.unknown.push(n as u16),
        }
    }
    Ok(forecast)
}

/// The state after a change.
fn suppose(state: &ClusterState, what_if: WhatIf) -> Result<ClusterState, Refusal> {
    let mut state = state.clone();
    let revision = state.revision;
    let event = |member| {
        let reason = "a dry run".to_owned();
        match what_if {
            WhatIf::Nothing | WhatIf::Resume { .. } => ClusterEvent::Resumed { member, reason },
            WhatIf::Remove { .. } => ClusterEvent::Removing { member, reason },
            WhatIf::Drain { mode, .. } => {
                let decommission = mode == DrainMode::Decommission;
                ClusterEvent::Draining { member, decommission, reason }
            }
        }
    };
    let node = match what_if {
        WhatIf::Nothing => return Ok(state),
        WhatIf::Drain { node, .. } | WhatIf::Resume { node } | WhatIf::Remove { node } => node,
    };
    let known = |member: &Member| state.phase_of(*member) != Some(Phase::Removed);
    let member = state.newest(node).filter(known).ok_or(Refusal::UnknownNode { node })?;
    state.apply(&event(member), duractor_journal::Seq(revision), duractor_journal::Timestamp(0));
    Ok(state)
}

fn moves((state, view): (&ClusterState, &View), group: &GroupReport, place: &Place) -> Vec<Move> {
    let sharing = state.sharing();
    let wanted: BTreeSet<Member> =
        place.voters.iter().filter_map(|node| sharing.get(node).copied()).collect();
    let shard = group.shard.0;
    let text = |members: Vec<&Member>| members.iter().map(ToString::to_string).collect();
    let add: Vec<&Member> = wanted.difference(&group.voters).collect();
    let gone: Vec<&Member> = group.voters.difference(&wanted).collect();
    let mut moves = Vec::new();
    if !add.is_empty() || !gone.is_empty() {
        let mut reasons: Vec<String> = gone.iter().filter_map(|m| why_gone(state, **m)).collect();
        if reasons.is_empty() {
            reasons.push("the shares of the nodes have changed".to_owned());
        }
        let change = Change::Replicas { add: text(add), remove: text(gone) };
        moves.push(Move { shard, change, reason: reasons.join("; ") });
    }
    if let Some(to) = sharing.get(&place.preferred).filter(|to| **to != group.leader) {
        let sick = view.sick.get(&group.leader);
        let sick = sick.map(|why| format!("{} is sick: {why}", group.leader));
        let why = || why_leader(state, group.leader, *to, group.shard, &wanted);
        let reason = sick.unwrap_or_else(why);
        let change = Change::Leader { from: group.leader.to_string(), to: to.to_string() };
        moves.push(Move { shard, change, reason });
    }
    moves
}

/// Why a member loses its replicas, where that is not for balance.
fn why_gone(state: &ClusterState, member: Member) -> Option<String> {
    let known = state.members.get(&member)?;
    match known.phase {
        Phase::Leaving => Some(format!("{member} leaves: {}", known.reason)),
        Phase::Removing | Phase::Removed => Some(format!("{member} is removed: {}", known.reason)),
        _ if known.absent_since_ms.is_some() => Some(format!("{member} is absent for too long")),
        _ => {
            let drain = known.drain.as_ref().filter(|d| d.mode == DrainMode::Decommission)?;
            Some(format!("{member} is decommissioned: {}", drain.reason))
        }
    }
}

fn why_leader(
    state: &ClusterState,
    from: Member,
    to: Member,
    shard: ShardId,
    wanted: &BTreeSet<Member>,
) -> String {
    if let Some(drain) = state.members.get(&from).and_then(|known| known.drain.as_ref()) {
        return format!("{from} is drained: {}", drain.reason);
    }
    if !wanted.contains(&from) {
        return format!("{from} does not keep it any more");
    }
    if let Some(wish) = state.settings.leaders.get(&shard).filter(|wish| wish.node == to.node) {
        return match wish.pinned {
            true => format!("{to} is asked for"),
            false => "what is asked of the nodes is evened out".to_owned(),
        };
    }
    if state.settings.affinity.contains_key(&shard) {
        return "the shard is bound".to_owned();
    }
    "leaderships are spread evenly".to_owned()
}

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shards: BTreeSet<u16> = self.moves.iter().map(|one| one.shard).collect();
        writeln!(f, "revision {}: {} of {} shards move", self.revision, shards.len(), self.shards)?;
        if let Some(reason) = &self.held_back {
            writeln!(f, "held back, but for what must be: {reason}")?;
        }
        for one in &self.moves {
            let shard = ShardId(one.shard);
            match &one.change {
                Change::Replicas { add, remove } => {
                    let add = add.iter().map(|member| format!("+{member}"));
                    let all: Vec<_> =
                        add.chain(remove.iter().map(|member| format!("-{member}"))).collect();
                    writeln!(f, "{shard}: replicas {} ({})", all.join(" "), one.reason)?;
                }
                Change::Leader { from, to } => {
                    writeln!(f, "{shard}: leader {from} to {to} ({})", one.reason)?;
                }
            }
        }
        if !self.unknown.is_empty() {
            let unknown: Vec<_> = self.unknown.iter().copied().map(ShardId).collect();
            writeln!(f, "nobody reports to lead {}", list(&unknown))?;
        }
        Ok(())
    }
}
