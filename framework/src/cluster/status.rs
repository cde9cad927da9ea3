//! How a cluster is, as one node sees it.

use duractor_journal::{Role, ShardId, Transport};
use serde::Serialize;

use super::{
    checks::list,
    overview::BalanceStatus,
    properties::Properties,
    shared::Shared,
    state::{ClusterState, Drain, Phase},
};

/// How a cluster is, as one node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ClusterStatus {
    /// This node, as `2.1`: its number and its incarnation.
    pub me: String,
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's id, in hexadecimal digits.
    pub cluster_id: String,
    /// Whether the node is a member and all its groups have a leader.
    pub ready: bool,
    /// The revision of the cluster's state that this node has.
    pub revision: u64,
    /// On how many nodes each event is kept.
    pub replication: u8,
    /// The members that are not removed.
    pub members: Vec<MemberStatus>,
    /// This node's groups.
    pub groups: Vec<GroupRow>,
    /// How many clients are linked to this node. They are no members.
    pub clients: usize,
    /// What is wrong.
    pub problems: Vec<String>,
    /// How the cluster is balanced: what moves, what is drained, what is hot. `None` where the leader of
    /// shard 0 has not said so for 2 seconds.
    pub balance: Option<BalanceStatus>,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MemberStatus {
    /// As `2.1`.
    pub member: String,
    /// Its number.
    pub node: u32,
    /// Where it is.
    pub address: String,
    /// How it stands.
    pub phase: Phase,
    /// Whether it can be reached from this node.
    pub up: bool,
    /// How likely it is gone although it is linked still, as seen from this node: the probability that
    /// its silence is chance is 10^-phi. Rounded down; it is given up at 8. `None` where nothing is known.
    pub phi: Option<u32>,
    /// Since when it stands so, in milliseconds since 1970.
    pub since_ms: u64,
    /// Why.
    pub reason: String,
    /// What it says of itself.
    pub properties: Properties,
    /// Of what it is drained, and since when and why.
    pub drain: Option<Drain>,
}

/// A group that this node has a replica of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct GroupRow {
    /// The shard.
    pub shard: u16,
    /// What this node is in it.
    pub role: &'static str,
    /// Who leads, as `2.1`.
    pub leader: Option<String>,
    /// The Raft term.
    pub term: u64,
    /// Who votes.
    pub voters: Vec<String>,
    /// Who follows without a vote.
    pub learners: Vec<String>,
    /// Whether a change of its members is under way.
    pub changing: bool,
    /// The last entry in this node's log.
    pub last_index: Option<u64>,
    /// The last one that is applied.
    pub applied_index: Option<u64>,
    /// Why the replica does not work, where it does not.
    pub problem: Option<String>,
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Learner => "learner",
        Role::Outside => "outside",
    }
}

/// Why a node is not ready; `None` where it is.
pub(super) fn not_ready(shared: &Shared) -> Option<String> {
    if let Some(refusal) = shared.out() {
        return Some(refusal.to_string());
    }
    match shared.state().phase_of(shared.me) {
        None => return Some("the cluster's state has not arrived".into()),
        Some(Phase::Joining) => return Some("the node is being caught up".into()),
        Some(Phase::Removed) => return Some("the node was removed".into()),
        Some(Phase::Joined | Phase::Leaving | Phase::Removing) => {}
    }
    for shard in (0..shared.groups.shards()).map(ShardId) {
        let group = shared.groups.group(shard);
        if group.role != Role::Outside && group.leader.is_none() {
            return Some(format!("{shard} has no leader"));
        }
    }
    None
}

pub(super) fn status(shared: &Shared) -> ClusterStatus {
    let identity = shared.identity();
    let state = shared.state();
    let groups = (0..shared.groups.shards()).map(|shard| shared.groups.group(ShardId(shard)));
    let groups = groups.filter(|group| group.role != Role::Outside).map(|group| GroupRow {
        shard: group.shard.0,
        role: role(group.role),
        leader: group.leader.map(|leader| leader.to_string()),
        term: group.term.0,
        voters: group.voters.iter().map(ToString::to_string).collect(),
        learners: group.learners.iter().map(ToString::to_string).collect(),
        changing: group.changing,
        last_index: group.last_index,
        applied_index: group.applied_index,
        problem: group.problem,
    });
    ClusterStatus {
        me: shared.me.to_string(),
        cluster: identity.cluster,
        cluster_id: format!("{:016x}", identity.cluster_id),
        ready: not_ready(shared).is_none(),
        revision: state.revision,
        replication: state.replication,
        members: members(shared, &state),
        groups: groups.collect(),
        clients: shared.guests.count(),
        problems: shared.problems(),
        balance: shared.overview().map(|balance| corrected(shared, balance)),
    }
}

/// What the leader of shard 0 says may be a moment old. Of itself a node knows better.
fn corrected(shared: &Shared, mut balance: BalanceStatus) -> BalanceStatus {
    let led: Vec<ShardId> = shared.led().into_iter().map(|group| group.shard).collect();
    for drain in balance.drains.iter_mut().filter(|drain| drain.node == shared.me.node.0) {
        if !led.is_empty() && drain.safe_to_stop {
            (drain.safe_to_stop, drain.done) = (false, false);
            drain.why = format!("it leads {}", list(&led));
        }
        drain.leads.clone_from(&led);
    }
    balance
}

fn members(shared: &Shared, state: &ClusterState) -> Vec<MemberStatus> {
    let present = state.members.iter().filter(|(_, known)| known.phase != Phase::Removed);
    let row =
        |(member, known): (&duractor_journal::Member, &super::state::MemberState)| MemberStatus {
            member: member.to_string(),
            node: member.node.0,
            address: known.address.clone(),
            phase: known.phase,
            up: *member == shared.me || shared.gate.is_admitted(*member),
            phi: shared.gate.phi(*member).map(|phi| phi as u32),
            since_ms: known.since_ms,
            reason: known.reason.clone(),
            properties: known.properties.clone(),
            drain: known.drain.clone(),
        };
    present.map(row).collect()
}
