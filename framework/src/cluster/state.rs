//! The cluster's state: what its events amount to. Pure.

use std::collections::{BTreeMap, BTreeSet};

use duractor_journal::{Member, NodeId, Seq, Timestamp};
use serde::Serialize;

use super::event::ClusterEvent;

/// How a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It catches up with the cluster's state.
    Joining,
    /// It has its share.
    Joined,
    /// It gives away what it has.
    Leaving,
    /// It is gone, and loses its place.
    Removing,
    /// It is no member any more.
    Removed,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemberState {
    /// Where it is, `HOST:PORT`.
    pub address: String,
    /// How it stands.
    pub phase: Phase,
    /// What it drew when it asked to join.
    #[serde(skip)]
    pub token: u64,
    /// Since when it stands so, in milliseconds since 1970.
    pub since_ms: u64,
    /// Why it stands so.
    pub reason: String,
}

/// The cluster's state, folded from its events.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ClusterState {
    /// The sequence number of the last event that is in it.
    pub revision: u64,
    /// The cluster's id; `None` before it was formed.
    pub cluster_id: Option<u64>,
    /// The cluster's name.
    pub name: String,
    /// Into how many shards it is cut.
    pub shards: u16,
    /// On how many nodes each event is kept.
    pub replication: u8,
    /// All members that there ever were.
    #[serde(serialize_with = "as_list")]
    pub members: BTreeMap<Member, MemberState>,
}

fn as_list<S: serde::Serializer>(
    members: &BTreeMap<Member, MemberState>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Row<'a> {
        member: String,
        #[serde(flatten)]
        state: &'a MemberState,
    }
    let rows = members.iter().map(|(member, state)| Row { member: member.to_string(), state });
    serializer.collect_seq(rows)
}

impl ClusterState {
    /// Takes the next event, which has this sequence number and time.
    pub fn apply(&mut self, event: &ClusterEvent, seq: Seq, at: Timestamp) {
        self.revision = seq.0;
        match event {
            ClusterEvent::Formed {
                cluster_id,
                name,
                shards,
                replication,
                member,
                address,
                reason,
            } => {
                self.cluster_id = Some(*cluster_id);
                self.name.clone_from(name);
                (self.shards, self.replication) = (*shards, *replication);
                self.put(*member, address, 0, Phase::Joined, reason, at);
            }
            ClusterEvent::Joining { member, address, token, reason } => {
                self.put(*member, address, *token, Phase::Joining, reason, at);
            }
            ClusterEvent::Joined { member, reason } => {
                self.phase(*member, Phase::Joined, reason, at);
            }
            ClusterEvent::Moved { member, address, .. } => {
                if let Some(state) = self.members.get_mut(member) {
                    state.address.clone_from(address);
                }
            }
            ClusterEvent::Leaving { member, reason } => {
                self.phase(*member, Phase::Leaving, reason, at);
            }
            ClusterEvent::Removing { member, reason } => {
                self.phase(*member, Phase::Removing, reason, at);
            }
            ClusterEvent::Removed { member, reason } => {
                self.phase(*member, Phase::Removed, reason, at);
            }
            ClusterEvent::Recovered { cluster_id, member, address, reason } => {
                self.cluster_id = Some(*cluster_id);
                let others: Vec<_> = self.members.keys().copied().collect();
                for other in others {
                    self.phase(other, Phase::Removed, reason, at);
                }
                self.put(*member, address, 0, Phase::Joined, reason, at);
            }
        }
    }

    fn put(
        &mut self,
        member: Member,
        address: &str,
        token: u64,
        phase: Phase,
        reason: &str,
        at: Timestamp,
    ) {
        let (address, reason) = (address.to_owned(), reason.to_owned());
        self.members.insert(member, MemberState { address, phase, token, since_ms: at.0, reason });
    }

    fn phase(&mut self, member: Member, phase: Phase, reason: &str, at: Timestamp) {
        if let Some(state) = self.members.get_mut(&member) {
            (state.phase, state.since_ms) = (phase, at.0);
            reason.clone_into(&mut state.reason);
        }
    }

    /// How a member stands; `None` where there never was one.
    #[must_use]
    pub fn phase_of(&self, member: Member) -> Option<Phase> {
        self.members.get(&member).map(|state| state.phase)
    }

    /// The members in one of these phases, in order.
    pub fn in_phase<'a>(&'a self, phases: &'a [Phase]) -> impl Iterator<Item = Member> + 'a {
        let within = self.members.iter().filter(|(_, state)| phases.contains(&state.phase));
        within.map(|(member, _)| *member)
    }

    /// Members that are not removed, with their addresses.
    #[must_use]
    pub fn present(&self) -> BTreeMap<Member, String> {
        let there = self.members.iter().filter(|(_, state)| state.phase != Phase::Removed);
        there.map(|(member, state)| (*member, state.address.clone())).collect()
    }

    /// The newest incarnation of a node, removed or not.
    #[must_use]
    pub fn newest(&self, node: NodeId) -> Option<Member> {
        self.members.keys().copied().rfind(|member| member.node == node)
    }

    /// The nodes that have a share, each with its incarnation.
    #[must_use]
    pub fn sharing(&self) -> BTreeMap<NodeId, Member> {
        self.in_phase(&[Phase::Joined]).map(|member| (member.node, member)).collect()
    }

    /// The nodes that replicas are placed on: those that have a share, and those that are about to
    /// get the share of their former incarnation back. So nothing moves for a disk that is replaced.
    #[must_use]
    pub fn placed_nodes(&self) -> BTreeSet<NodeId> {
        let replaces = |member: &Member| member.incarnation > 1;
        let back = self.in_phase(&[Phase::Joining]).filter(replaces).map(|member| member.node);
        self.sharing().into_keys().chain(back).collect()
    }
}
