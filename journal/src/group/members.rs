//! Who belongs to a group, and who leads it: making a group, changing its members, handing it over.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use openraft::{
    ChangeMembers, EmptyNode,
    async_runtime::watch::WatchReceiver,
    errors::{ClientWriteError, Fatal, InitializeError, RaftError},
};
use tokio::time::Instant;

use super::{
    replica::Replica,
    types::{Group, RaftMembership, decode_vote, encode_membership, encode_vote, members},
};
use crate::{
    error::JournalError,
    id::ShardId,
    log::{
        entry::{Body, Entry, LogId},
        node_log::NodeLog,
    },
    transport::Member,
};

/// How long new members may take to catch up while nothing of it moves.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(30);
/// How long a quorum may take to agree to a change.
const CHANGE_PATIENCE: Duration = Duration::from_secs(5);
/// How long another replica may take to take over.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(2);
/// A member this many entries behind has caught up.
const CLOSE: u64 = 64;

/// Who shall belong to a group.
pub(crate) struct Change {
    pub(crate) voters: BTreeSet<Member>,
    pub(crate) learners: BTreeSet<Member>,
}

fn ids(members: &BTreeSet<Member>) -> BTreeSet<u64> {
    members.iter().map(|member| member.to_u64()).collect()
}

fn refused(shard: ShardId, reason: impl ToString) -> JournalError {
    JournalError::Membership { shard, reason: reason.to_string() }
}

/// The engine has stopped, because its log did or the journal is closing.
fn stopped(shard: ShardId) -> JournalError {
    JournalError::OutcomeUnknown { shard, reason: "its replica has stopped here".into() }
}

/// The group's members and whether a quorum agreed to them, asked of the engine itself: what it tells
/// by itself comes a little later.
async fn now(replica: &Replica) -> Result<(RaftMembership, bool), Fatal<Group>> {
    let look = |state: &openraft::RaftState<Group>| {
        let (last, agreed) =
            (state.membership_state.effective(), state.membership_state.committed());
        (last.membership().clone(), last.log_id() == agreed.log_id())
    };
    replica.raft.with_raft_state(look).await
}

/// The group's voters; while they change, the old ones and the new ones.
pub(crate) async fn voters(replica: &Replica) -> Result<BTreeSet<Member>, JournalError> {
    match now(replica).await {
        Ok((found, _)) => Ok(members(found.voter_ids())),
        Err(fatal) => Err(JournalError::Failed { cause: fatal.to_string() }),
    }
}

/// Makes a new group.
pub(crate) async fn initialize(
    replica: &Replica,
    voters: BTreeSet<Member>,
) -> Result<(), JournalError> {
    match replica.raft.initialize(ids(&voters)).await {
        Ok(()) => Ok(()),
        Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {
            Err(refused(replica.shard, "the group was made already"))
        }
        Err(error) => Err(refused(replica.shard, error)),
    }
}

/// Changes who belongs to a group.
pub(crate) async fn change(replica: &Replica, change: Change) -> Result<(), JournalError> {
    let shard = replica.shard;
    let status = replica.status();
    if !status.voters.is_empty() && !status.voters.contains(&replica.me()) {
        // It is about to hand over to one that votes.
        return Err(JournalError::NotLeader { shard, leader: None });
    }
    let known: BTreeSet<Member> = status.voters.union(&status.learners).copied().collect();
    let wanted: BTreeSet<Member> = change.voters.union(&change.learners).copied().collect();
    if change.voters.is_empty() {
        return Err(refused(shard, "a group needs a voter"));
    }
    let new: BTreeMap<u64, EmptyNode> =
        wanted.difference(&known).map(|m| (m.to_u64(), EmptyNode {})).collect();
    if !new.is_empty() {
        apply(replica, ChangeMembers::AddNodes(new), true).await?;
    }
    let joining: BTreeSet<Member> = change.voters.difference(&status.voters).copied().collect();
    caught_up(replica, &joining).await?;
    let (found, agreed) = now(replica).await.map_err(|_| stopped(shard))?;
    // An earlier attempt may have stopped half-way, where decisions take a quorum of the old voters
    // and one of the new: then the voters are the wanted ones, and the change is not complete.
    let complete = agreed && *found.get_joint_config() == [ids(&change.voters)];
    if !complete {
        apply(replica, ChangeMembers::ReplaceAllVoters(ids(&change.voters)), true).await?;
    }
    let (found, _) = now(replica).await.map_err(|_| stopped(shard))?;
    let left = members(found.learner_ids());
    let gone: BTreeSet<u64> = left.difference(&change.learners).map(|m| m.to_u64()).collect();
    if !gone.is_empty() {
        apply(replica, ChangeMembers::RemoveNodes(gone), false).await?;
    }
    Ok(())
}

/// Finishes a change of voters that was left half-way.
pub(crate) async fn finish(replica: &Replica) -> Result<(), JournalError> {
    let (found, agreed) = now(replica).await.map_err(|_| stopped(replica.shard))?;
    match found.get_joint_config().as_slice() {
        [_, .., wanted] if agreed => {
            tracing::info!(shard = %replica.shard, ?wanted, "a change of voters is finished");
            apply(replica, ChangeMembers::ReplaceAllVoters(wanted.clone()), true).await
        }
        _ => Ok(()),
    }
}

async fn apply(
    replica: &Replica,
    change: ChangeMembers<u64, EmptyNode>,
    retain: bool,
) -> Result<(), JournalError> {
    let shard = replica.shard;
    let changed = replica.raft.change_membership(change, retain);
    let Ok(changed) = tokio::time::timeout(CHANGE_PATIENCE, changed).await else {
        let reason = "no quorum agreed to the change in time".into();
        return Err(JournalError::OutcomeUnknown { shard, reason });
    };
    match changed {
        Ok(_) => Ok(()),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
            let leader = to.leader_id.map(Member::from_u64);
            Err(JournalError::NotLeader { shard, leader })
        }
        Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => {
            Err(refused(shard, error))
        }
        Err(error) => Err(JournalError::OutcomeUnknown { shard, reason: error.to_string() }),
    }
}

/// Waits until the members have nearly all of the log.
async fn caught_up(replica: &Replica, joining: &BTreeSet<Member>) -> Result<(), JournalError> {
    let mut until = Instant::now() + CATCH_UP_PATIENCE;
    let mut best = 0;
    let mut metrics = replica.raft.metrics();
    loop {
        let status = replica.status();
        if status.role != super::Role::Leader {
            return Err(JournalError::NotLeader { shard: replica.shard, leader: status.leader });
        }
        let last = status.last_index.unwrap_or(0);
        let at = |m: &Member| status.replicated.get(m).copied().flatten();
        let close = |m: &Member| at(m).is_some_and(|at| at + CLOSE >= last);
        if joining.iter().filter(|member| **member != replica.me()).all(close) {
            return Ok(());
        }
        let sum = joining.iter().filter_map(at).sum::<u64>();
        if sum > best {
            best = sum;
            until = Instant::now() + CATCH_UP_PATIENCE;
        }
        match tokio::time::timeout_at(until, metrics.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(stopped(replica.shard)),
            Err(_) => return Err(refused(replica.shard, "a new member does not catch up")),
        }
    }
}

/// Hands leadership over.
pub(crate) async fn transfer(replica: &Replica, to: Member) -> Result<(), JournalError> {
    let shard = replica.shard;
    let status = replica.status();
    if status.leader == Some(to) {
        return Ok(());
    }
    if status.role != super::Role::Leader {
        return Err(JournalError::NotLeader { shard, leader: status.leader });
    }
    if !status.voters.contains(&to) {
        return Err(refused(shard, format!("{to} does not vote in it")));
    }
    let mut metrics = replica.raft.metrics();
    let until = Instant::now() + TRANSFER_PATIENCE;
    // An error means that the engine has stopped; the wait below tells.
    let _ = replica.raft.trigger().transfer_leader(to.to_u64()).await;
    loop {
        if metrics.borrow_watched().current_leader == Some(to.to_u64()) {
            return Ok(());
        }
        match tokio::time::timeout_at(until, metrics.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(stopped(shard)),
            Err(_) => return Err(refused(shard, format!("{to} did not take over"))),
        }
    }
}

/// See [`LogJournal::force_single_voter`](super::LogJournal::force_single_voter): appends a
/// membership of its own making to every group's log, under a term that nobody has seen.
pub(crate) async fn force_single_voter(
    log: &std::sync::Arc<NodeLog>,
    me: Member,
) -> Result<Vec<ShardId>, JournalError> {
    let mut forced = Vec::new();
    for n in 0..log.shards() {
        let group = log.group(ShardId(n));
        let state = group.state();
        let Some(last) = state.last.or(state.purged) else { continue };
        let promised = state.vote.as_deref().and_then(decode_vote);
        let term = promised.map_or(0, |vote| vote.leader_id.term).max(last.term) + 1;
        let vote = super::types::RaftVote::new(term, me.to_u64());
        let members = openraft::Membership::<u64, EmptyNode>::new(
            vec![BTreeSet::from([me.to_u64()])],
            BTreeMap::from([(me.to_u64(), EmptyNode {})]),
        )
        .map_err(|error| refused(ShardId(n), error))?;
        let entry = Entry {
            id: LogId { term, index: last.index + 1 },
            body: Body::Membership(encode_membership(&members)),
        };
        let (vote_done, vote_saved) = tokio::sync::oneshot::channel();
        group.save_vote(encode_vote(&vote), Box::new(move |r| drop(vote_done.send(r))));
        let (done, appended) = tokio::sync::oneshot::channel();
        group.append(vec![entry], Box::new(move |r| drop(done.send(r))));
        for written in [vote_saved, appended] {
            written.await.unwrap_or(Err(JournalError::Closed))?;
        }
        forced.push(ShardId(n));
    }
    Ok(forced)
}
