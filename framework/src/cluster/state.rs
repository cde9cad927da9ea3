//! The cluster's state: what its events amount to. Pure.

use std::collections::{BTreeMap, BTreeSet};

use duractor_journal::{Member, NodeId, Seq, ShardId, Timestamp};
use serde::Serialize;

use super::{
    event::ClusterEvent,
    properties::{Affinity, DrainMode, Properties},
};

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
    /// What it says of itself.
    pub properties: Properties,
    /// Which events its release understands.
    pub level: u16,
    /// Where it is drained.
    pub drain: Option<Drain>,
    /// Where others have got its replicas because it was not reached: since when, in milliseconds since
    /// 1970.
    pub absent_since_ms: Option<u64>,
}

/// That a member is drained, until it is resumed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drain {
    /// Of what.
    pub mode: DrainMode,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// Why.
    pub reason: String,
    /// Who has the cluster's state up to this revision knows of it.
    pub revision: u64,
}

/// What is set for the whole cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// Why nothing is moved for balance, where that is so.
    pub paused: Option<String>,
    /// Shard after shard to node after node, whatever the nodes are.
    pub modulo: bool,
    /// Only nodes of the newest version among a shard's lead it.
    pub newest_leads: bool,
    /// Where shards had better be.
    pub affinity: BTreeMap<ShardId, Affinity>,
    /// Who had better lead.
    pub leaders: BTreeMap<ShardId, Wish>,
}

/// Who had better lead a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Wish {
    /// Who.
    pub node: NodeId,
    /// Whether an operator said so: then it is not changed because of load.
    pub pinned: bool,
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
    /// What is set.
    pub settings: Settings,
    /// Which release understands all that is in it.
    pub level: u16,
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
        self.level = self.level.max(event.level());
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
            ClusterEvent::Described {
                member, roles, zone, rack, version, weight, level, ..
            } => {
                if let Some(state) = self.members.get_mut(member) {
                    state.level = *level;
                    state.properties = Properties {
                        roles: roles.iter().cloned().collect(),
                        zone: zone.clone(),
                        rack: rack.clone(),
                        version: version.clone(),
                        weight: *weight,
                    };
                }
            }
            ClusterEvent::Draining { member, decommission, reason } => {
                if let Some(state) = self.members.get_mut(member) {
                    let mode = match decommission {
                        true => DrainMode::Decommission,
                        false => DrainMode::Leaderships,
                    };
                    let reason = reason.clone();
                    state.drain = Some(Drain { mode, since_ms: at.0, reason, revision: seq.0 });
                }
            }
            ClusterEvent::Resumed { member, .. } => {
                if let Some(state) = self.members.get_mut(member) {
                    state.drain = None;
                }
            }
            ClusterEvent::Absent { member, .. } => {
                if let Some(state) = self.members.get_mut(member) {
                    state.absent_since_ms = Some(at.0);
                }
            }
            ClusterEvent::Returned { member, .. } => {
                if let Some(state) = self.members.get_mut(member) {
                    state.absent_since_ms = None;
                }
            }
            set => self.set(set),
        }
    }

    /// Takes an event that is about the whole cluster.
    fn set(&mut self, event: &ClusterEvent) {
        let settings = &mut self.settings;
        match event {
            ClusterEvent::Paused { reason } => settings.paused = Some(reason.clone()),
            ClusterEvent::Unpaused { .. } => settings.paused = None,
            ClusterEvent::PlacementChosen { modulo, .. } => settings.modulo = *modulo,
            ClusterEvent::NewestPreferred { on, .. } => settings.newest_leads = *on,
            ClusterEvent::Bound { shard, nodes, role, zone, .. } => {
                let affinity = match (nodes.is_empty(), role.is_empty(), zone.is_empty()) {
                    (false, _, _) => Some(Affinity::Nodes(nodes.clone())),
                    (_, false, _) => Some(Affinity::Role(role.clone())),
                    (_, _, false) => Some(Affinity::Zone(zone.clone())),
                    _ => None,
                };
                settings.affinity.remove(shard);
                settings.affinity.extend(affinity.map(|affinity| (*shard, affinity)));
            }
            ClusterEvent::LeaderPreferred { shard, node, pinned, .. } => {
                let wish = node.map(|node| (*shard, Wish { node, pinned: *pinned }));
                settings.leaders.remove(shard);
                settings.leaders.extend(wish);
            }
            _ => {}
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
        // A node that gets another disk while it is drained stays so until it is resumed.
        let before = self.newest(member.node).and_then(|newest| self.members.get(&newest));
        let drain = before.filter(|before| before.phase != Phase::Removed);
        let drain = drain.and_then(|before| before.drain.clone());
        let since_ms = at.0;
        let (properties, level, absent_since_ms) = (Properties::default(), 1, None);
        self.members.insert(
            member,
            MemberState {
                address,
                phase,
                token,
                since_ms,
                reason,
                properties,
                level,
                drain,
                absent_since_ms,
            },
        );
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

    /// The nodes that replicas are placed on: those that have a share and keep it, and those that are
    /// about to get the share of their former incarnation back. So nothing moves for a disk that is
    /// replaced.
    #[must_use]
    pub fn placed_nodes(&self) -> BTreeSet<NodeId> {
        let replaces = |member: &Member| member.incarnation > 1;
        let back = self.in_phase(&[Phase::Joining]).filter(replaces);
        let sharing = self.in_phase(&[Phase::Joined]).chain(back);
        sharing.filter(|member| !self.gives_away(*member)).map(|member| member.node).collect()
    }

    /// Whether a member gives its replicas away, or has given them, though it is one still.
    #[must_use]
    pub fn gives_away(&self, member: Member) -> bool {
        self.members.get(&member).is_some_and(|state| {
            state.absent_since_ms.is_some() || self.drained(member) == Some(DrainMode::Decommission)
        })
    }

    /// What a member is drained of; `None` where it is not.
    #[must_use]
    pub fn drained(&self, member: Member) -> Option<DrainMode> {
        self.members.get(&member)?.drain.as_ref().map(|drain| drain.mode)
    }

    /// Whether a member has its share and keeps it.
    #[must_use]
    pub fn keeps(&self, member: Member) -> bool {
        self.phase_of(member) == Some(Phase::Joined) && !self.gives_away(member)
    }

    /// Why nothing is moved for balance now: it is paused, or a member is in maintenance.
    #[must_use]
    pub fn held_back(&self) -> Option<String> {
        if let Some(reason) = &self.settings.paused {
            return Some(reason.clone());
        }
        let away = |member: &Member| self.drained(*member) == Some(DrainMode::Leaderships);
        let member = self.in_phase(&[Phase::Joined, Phase::Joining]).find(away)?;
        Some(format!("node {} is in maintenance", member.node.0))
    }
}
