//! One replica of a group: its parts, how it is, and reads.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use openraft::{
    RaftMetrics, ReadPolicy, ServerState,
    async_runtime::watch::WatchReceiver,
    raft::linearizable_read::{Linearizer, ReadLogId},
};
use ractor::ActorProcessingErr;
use tokio::time::Instant;

use super::{
    checkpoint::Receiving,
    hub::Hub,
    lease::Lease,
    machine::Machine,
    network::Network,
    peers::Peers,
    propose::Proposals,
    standing::Standing,
    status::{GroupStatus, Role, Timing},
    store::Store,
    types::{Group, Raft, RaftMembership, members, raft_config, stored_membership},
    wire::{Answer, Call},
};
use crate::{
    error::JournalError,
    id::{Position, ShardId, Term},
    log::group_log::GroupLog,
    port::Ownership,
    transport::{Class, Member},
};

/// A replica's parts.
pub(crate) struct Replica {
    pub(crate) shard: ShardId,
    pub(crate) raft: Raft,
    pub(crate) log: GroupLog,
    pub(crate) peers: Arc<Peers>,
    pub(crate) proposals: Arc<Proposals>,
    pub(crate) timing: Timing,
    lease: Arc<Lease>,
    pub(crate) standing: Standing,
    /// A checkpoint that is being received.
    pub(crate) receiving: Receiving,
    /// Before this, no vote is given, and none is asked for: see [`bound`].
    pub(super) bound_until: Instant,
    pub(super) hub: Arc<Hub>,
}

/// What a replica is made from.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) log: GroupLog,
    pub(crate) peers: Arc<Peers>,
    pub(crate) proposals: Arc<Proposals>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) timing: Timing,
}

/// Whether a leader may count on this replica that it heard of before its process was restarted. A leader
/// that was answered reads without asking for as long as its lease runs, on the word of those who
/// answered that they elect nobody else meanwhile. They must keep it over a restart; as it is not on
/// disk, everybody who votes with others and has a vote on disk waits for one lease.
fn bound(log: &GroupLog) -> bool {
    // A vote that was not synced is hardly ever missed by one who waits: that bug is planted without
    // the wait.
    #[cfg(feature = "planted")]
    if crate::planted::is(crate::planted::Planted::VoteNotSynced)
        || crate::planted::is(crate::planted::Planted::PromiseForgotten)
    {
        return false;
    }
    let state = log.state();
    let voters = stored_membership(&state.membership)
        .map_or(usize::MAX, |stored| stored.membership().voter_ids().count());
    state.vote.is_some() && voters != 1
}

impl Replica {
    pub(super) async fn new(parts: Parts) -> Result<Arc<Self>, ActorProcessingErr> {
        let Parts { log, peers, proposals, hub, timing } = parts;
        let shard = log.shard();
        let patience = Duration::from_millis(timing.election_max_ms * 2);
        let me = peers.me().to_u64();
        let lease = Arc::new(Lease::new(me, timing));
        let network = Network { peers: peers.clone(), shard, patience, lease: lease.clone() };
        let store = Store::new(log.clone(), proposals.clone());
        let machine = Machine::new(log.clone());
        let bound = bound(&log);
        let promised = Duration::from_millis(if bound { timing.election_max_ms } else { 0 });
        let bound_until = Instant::now() + promised;
        let raft = Raft::new(me, raft_config(timing, !bound)?, network, store, machine).await?;
        let receiving = Receiving::default();
        Ok(Arc::new(Self {
            shard,
            raft,
            log,
            peers,
            proposals,
            timing,
            lease,
            standing: Standing::new(timing),
            receiving,
            bound_until,
            hub,
        }))
    }

    /// See [`bound`].
    pub(crate) fn is_bound(&self) -> bool {
        Instant::now() < self.bound_until
    }

    pub(crate) fn me(&self) -> Member {
        self.peers.me()
    }

    /// How the group is, as this replica sees it.
    pub(crate) fn status(&self) -> GroupStatus {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let nobody = RaftMembership::default();
        let outside = self.standing.is_outside();
        // Who belonged to it when this replica did, nobody needs to know.
        let membership = if outside { &nobody } else { metrics.membership_config.membership() };
        let voters = members(membership.voter_ids());
        let mut status = GroupStatus::outside(self.shard);
        status.role = match metrics.state {
            _ if outside => Role::Outside,
            ServerState::Leader => Role::Leader,
            ServerState::Candidate => Role::Candidate,
            _ if voters.contains(&self.me()) => Role::Follower,
            ServerState::Learner if membership.get_node(&metrics.id).is_some() => Role::Learner,
            _ => Role::Outside,
        };
        status.leader = self.leader(&metrics);
        status.term = Term(metrics.current_term);
        status.voters = voters;
        let agreed = *metrics.membership_config.log_id() <= metrics.last_applied;
        status.changing = !outside && (!agreed || membership.get_joint_config().len() > 1);
        status.learners = members(membership.learner_ids());
        status.last_index = metrics.last_log_index;
        status.applied_index = metrics.last_applied.map(|id| id.index);
        status.applied = position_of(status.applied_index);
        let replication = metrics.replication.iter().flatten();
        let matched = |(id, at): (&u64, &Option<_>)| {
            let at: &Option<super::types::RaftLogId> = at;
            (Member::from_u64(*id), at.as_ref().map(|id| id.index))
        };
        status.replicated = replication.map(matched).collect::<BTreeMap<_, _>>();
        status.replicated.remove(&self.me());
        status.problem = metrics.running_state.as_ref().err().map(ToString::to_string);
        status
    }

    /// Who leads. The engine goes on naming the last one that it heard of, however long ago that was.
    fn leader(&self, metrics: &openraft::RaftMetrics<Group>) -> Option<Member> {
        let leader = metrics.current_leader.map(Member::from_u64)?;
        let silent = metrics.state != ServerState::Leader && self.standing.is_silent();
        (!silent && !self.standing.is_outside()).then_some(leader)
    }

    /// As the leader: when a quorum was last heard of.
    pub(crate) fn led_at(&self) -> Option<Instant> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let members = metrics.membership_config.membership();
        let leading = metrics.state == ServerState::Leader;
        leading.then(|| self.lease.seen_by_quorum(metrics.current_term, members)).flatten()
    }

    /// Whether this replica leads, has applied everything that was before it, and heard of a quorum
    /// within its lease; and who leads else.
    pub(super) fn ownership(&self) -> Ownership {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let me = self.me();
        if metrics.running_state.is_err() {
            return Ownership::Other { leader: None };
        }
        if metrics.state != ServerState::Leader {
            let leader = self.leader(&metrics).filter(|l| *l != me);
            return Ownership::Other { leader };
        }
        let caught_up =
            metrics.last_applied.is_some_and(|id| id.leader_id.term == metrics.current_term);
        if caught_up && self.lease_left(&metrics) > Duration::ZERO {
            Ownership::Mine { term: Term(metrics.current_term) }
        } else {
            Ownership::Other { leader: None }
        }
    }

    /// For how long this replica can count on being the only leader.
    pub(super) fn lease_left(&self, metrics: &RaftMetrics<Group>) -> Duration {
        let members = metrics.membership_config.membership();
        self.lease.left(self.lease.seen_by_quorum(metrics.current_term, members))
    }

    /// See [`Journal::barrier`](crate::Journal::barrier).
    pub(crate) async fn barrier(&self) -> Result<Position, JournalError> {
        let status = self.raft.server_metrics().borrow_watched().state;
        let read = if status == ServerState::Leader {
            self.leader_read().await?
        } else {
            let leader = self.raft.current_leader().await.map(Member::from_u64);
            let leader = leader
                .filter(|leader| *leader != self.me())
                .ok_or_else(|| self.unavailable("no leader is known"))?;
            let patience = Duration::from_millis(self.timing.election_max_ms);
            let call = Call::ReadIndex;
            match self.peers.call(leader, self.shard, Class::Control, &call, patience).await {
                Ok(Answer::ReadIndex(Some(at))) => {
                    Linearizer::new(self.me().to_u64(), ReadLogId::from_log_id(at), None)
                }
                Ok(Answer::Refused(why)) => return Err(self.unavailable(&why)),
                Ok(_) => return Err(self.unavailable("an answer to something else")),
                Err(error) => return Err(self.unavailable(&error.to_string())),
            }
        };
        let patience = Duration::from_secs(5);
        match read.try_await_ready(&self.raft, Some(patience)).await {
            Ok(Ok(ready)) => Ok(position_of(ready.applied().map(|id| id.index))),
            Ok(Err(_)) => Err(self.unavailable("this replica lags behind")),
            Err(fatal) => Err(self.unavailable(&fatal.to_string())),
        }
    }

    /// Where to read at the leader; an error where this replica is not, or nobody says that it still is.
    pub(crate) async fn leader_read(&self) -> Result<Linearizer<Group>, JournalError> {
        #[cfg(feature = "planted")]
        if crate::planted::is(crate::planted::Planted::StaleLeaderRead) {
            let applied = self.log.state().applied.unwrap_or_default();
            let at = ReadLogId::from_log_id(super::types::to_log_id(applied));
            return Ok(Linearizer::new(
                self.me().to_u64(),
                at,
                Some(super::types::to_log_id(applied)),
            ));
        }
        // The lease costs nothing; asking a quorum costs a round trip.
        if let Ok(read) = self.raft.get_read_linearizer(ReadPolicy::LeaseRead).await
            && self.lease.holds(self.seen_by_quorum(&read).await)
        {
            return Ok(read);
        }
        let patience = Duration::from_millis(self.timing.election_max_ms * 2);
        match tokio::time::timeout(patience, self.ask_quorum()).await {
            Ok(Ok(read)) => Ok(read),
            Ok(Err(error)) => Err(self.unavailable(&error)),
            Err(_) => Err(self.unavailable("no quorum answers")),
        }
    }

    /// Where to read, once a quorum has seen requests that were sent after this was called.
    async fn ask_quorum(&self) -> Result<Linearizer<Group>, String> {
        let since = Instant::now();
        let asked = self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await;
        let read = asked.map_err(|error| error.to_string())?;
        loop {
            let answered = self.lease.next_answer();
            if self.seen_by_quorum(&read).await.is_some_and(|at| at >= since) {
                return Ok(read);
            }
            answered.await;
        }
    }

    /// See [`Lease::seen_by_quorum`], in the term of a read and with the members of the engine's, asked
    /// after it. A leader that is leaving has no vote, and then the only voter that stays is elected at
    /// once, without waiting for anybody: seen in simulation as a stale read.
    async fn seen_by_quorum(&self, read: &Linearizer<Group>) -> Option<Instant> {
        // What a leader reads up to is always of its own term.
        let (lease, term) = (self.lease.clone(), read.read_log_id().committed_leader_id().term);
        let look = move |state: &openraft::RaftState<Group>| {
            lease.seen_by_quorum(term, state.membership_state.effective().membership())
        };
        self.raft.with_raft_state(look).await.ok().flatten()
    }

    fn unavailable(&self, reason: &str) -> JournalError {
        JournalError::Unavailable { shard: self.shard, reason: reason.to_owned() }
    }

    /// Lets the engine forget entries up to this one, as far as nobody needs them.
    pub(crate) async fn purge(&self, upto: u64) {
        let covered = |replica: &Self| {
            let metrics = replica.raft.metrics();
            let metrics = metrics.borrow_watched();
            metrics.snapshot.is_some_and(|at| at.index >= upto)
        };
        if !covered(self) && self.raft.trigger().snapshot().await.is_err() {
            return;
        }
        let mut metrics = self.raft.metrics();
        let until = Instant::now() + Duration::from_secs(1);
        while !covered(self) {
            match tokio::time::timeout_at(until, metrics.changed()).await {
                Ok(Ok(())) => {}
                _ => break,
            }
        }
        // An error means that the engine has stopped: there is nothing to purge.
        let _ = self.raft.trigger().purge_log(upto).await;
    }
}

/// The last position that an entry with this index can have.
fn position_of(index: Option<u64>) -> Position {
    index.map_or(Position::ZERO, |index| Position::new(index, u16::MAX))
}
