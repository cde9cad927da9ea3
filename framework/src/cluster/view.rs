//! What the leader of shard 0 sees of the cluster, and decides on. Pure.

use std::collections::{BTreeMap, BTreeSet};

use duractor_journal::{Member, ShardId, Term};
use serde::{Deserialize, Serialize};

use super::{
    properties::About,
    state::{ClusterState, MemberState, Phase},
};
use crate::load::ShardLoad;

/// A replica that lacks no more entries than this counts as caught up.
pub(super) const CAUGHT_UP: u64 = 128;

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
    /// Whether its leader is handing it over, or changing its members, right now.
    #[serde(default)]
    pub executing: bool,
    /// The index of the last entry in the leader's log.
    pub last_index: Option<u64>,
    /// Up to where each other replica has the log.
    pub replicated: Vec<(Member, Option<u64>)>,
}

impl GroupReport {
    /// Whether a replica has nearly all of the log.
    pub(super) fn is_caught_up(&self, member: Member) -> bool {
        if member == self.leader {
            return true;
        }
        let has = self.replicated.iter().find(|(other, _)| *other == member);
        has.and_then(|(_, index)| *index)
            .is_some_and(|index| index + CAUGHT_UP >= self.last_index.unwrap_or(0))
    }

    pub(super) fn has(&self, member: Member) -> bool {
        self.voters.contains(&member) || self.learners.contains(&member)
    }
}

/// What the leader of shard 0 sees.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// Members that cannot be reached, and for how many milliseconds.
    pub down: BTreeMap<Member, u64>,
    /// How long a member may not be reached before others get its replicas, in milliseconds.
    pub replace_after_ms: u64,
    /// How many groups may take in new voters at once: each may ship a whole shard.
    pub moves: usize,
    /// Members that had better lead nothing for a while, and why.
    pub sick: BTreeMap<Member, String>,
    /// What members say of themselves.
    pub about: BTreeMap<Member, About>,
    /// How much is asked of the shards, as their leaders say.
    pub loads: BTreeMap<ShardId, ShardLoad>,
}

impl Default for View {
    fn default() -> Self {
        Self {
            up: BTreeMap::new(),
            groups: BTreeMap::new(),
            busy: BTreeSet::new(),
            handing: BTreeSet::new(),
            settle_ms: 0,
            down: BTreeMap::new(),
            replace_after_ms: u64::MAX,
            moves: 2,
            sick: BTreeMap::new(),
            about: BTreeMap::new(),
            loads: BTreeMap::new(),
        }
    }
}

impl View {
    /// Whether a member is about to stop, as it says.
    #[must_use]
    pub fn is_stopping(&self, member: Member) -> bool {
        self.about.get(&member).is_some_and(|about| about.stopping)
    }

    /// Whether a voter of a group could lead it at once: it is there, has nearly all of the log, and is
    /// to lead at all.
    #[must_use]
    pub fn can_lead(&self, state: &ClusterState, group: &GroupReport, member: Member) -> bool {
        group.voters.contains(&member)
            && self.up.contains_key(&member)
            && group.is_caught_up(member)
            && state.drained(member).is_none()
            && !self.is_stopping(member)
            && !self.sick.contains_key(&member)
    }

    /// Which events every member understands: as it says now, or said when it was last there.
    #[must_use]
    pub fn level(&self, state: &ClusterState) -> u16 {
        let present = state.members.iter().filter(|(_, known)| known.phase != Phase::Removed);
        let level = |(member, known): (&Member, &MemberState)| {
            self.about.get(member).map_or(known.level, |about| about.level)
        };
        present.map(level).min().unwrap_or(1)
    }
}

/// Whether the bug is planted that steps are decided on what was reported long ago.
pub(super) fn is_stale_by_plant() -> bool {
    #[cfg(feature = "planted")]
    return crate::planted::is(crate::planted::Planted::StaleView);
    #[cfg(not(feature = "planted"))]
    false
}
