//! openraft's types as we use it, and ours turned into them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use bytes::Bytes;
use openraft::{
    EmptyNode, EntryPayload, Membership,
    impls::leader_id_std::{self, LeaderId},
    raft::responder::Responder,
    vote::leader_id_std::CommittedLeaderId,
};

use super::runtime::Runtime;
use crate::{
    log::{
        codec::{Reader, put_varint},
        entry::{Body, Entry, LogId, Ops},
        group_log::Outcome,
    },
    transport::Member,
};

/// A journal group, as openraft's types have it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Group;

impl openraft::RaftTypeConfig for Group {
    type D = Ops;
    type R = Vec<Outcome>;
    type NodeId = u64;
    type Node = EmptyNode;
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::Vote<Self::LeaderId>;
    type Payload = EntryPayload<Ops, u64, EmptyNode>;
    type Entry = openraft::Entry<CommittedLeaderId<u64>, Self::Payload>;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = Reply<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type RaftLogId = openraft::alias::LogIdOf<Group>;
pub(crate) type RaftVote = openraft::alias::VoteOf<Group>;
pub(crate) type RaftEntry = openraft::alias::EntryOf<Group>;
pub(crate) type RaftMembership = Membership<u64, EmptyNode>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<Group>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<Group>;
pub(crate) type Raft = openraft::Raft<Group, super::machine::Machine>;

/// Hears of the end of a proposal.
pub(crate) struct Reply<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Reply<T> {
    pub(crate) fn new(done: impl FnOnce(T) + Send + 'static) -> Self {
        Self(Box::new(done))
    }
}

impl<T: openraft::OptionalSend + 'static> Responder<Group, T> for Reply<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

impl fmt::Display for Ops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} writes", self.count())
    }
}

pub(crate) fn to_log_id(id: LogId) -> RaftLogId {
    RaftLogId { leader_id: CommittedLeaderId::new(id.term), index: id.index }
}

pub(crate) fn from_log_id(id: &RaftLogId) -> LogId {
    LogId { term: id.leader_id.term, index: id.index }
}

pub(crate) fn to_entry(entry: Entry) -> Option<RaftEntry> {
    let payload = match entry.body {
        Body::Blank => EntryPayload::Blank,
        Body::Membership(bytes) => EntryPayload::Membership(decode_membership(&bytes)?),
        Body::Ops(ops) => EntryPayload::Normal(ops),
    };
    Some(RaftEntry { log_id: to_log_id(entry.id), payload })
}

pub(crate) fn from_entry(entry: RaftEntry) -> Entry {
    let body = match entry.payload {
        EntryPayload::Blank => Body::Blank,
        EntryPayload::Membership(members) => Body::Membership(encode_membership(&members)),
        EntryPayload::Normal(ops) => Body::Ops(ops),
    };
    Entry { id: from_log_id(&entry.log_id), body }
}

pub(crate) fn encode_vote(vote: &RaftVote) -> Bytes {
    let mut out = Vec::new();
    put_vote(&mut out, vote);
    out.into()
}

pub(crate) fn put_vote(out: &mut Vec<u8>, vote: &RaftVote) {
    put_varint(out, vote.leader_id.term);
    put_varint(out, vote.leader_id.voted_for);
    out.push(u8::from(vote.committed));
}

pub(crate) fn read_vote(reader: &mut Reader<'_>) -> Option<RaftVote> {
    let leader_id = LeaderId { term: reader.varint()?, voted_for: reader.varint()? };
    Some(RaftVote { leader_id, committed: reader.byte()? == 1 })
}

pub(crate) fn decode_vote(bytes: &[u8]) -> Option<RaftVote> {
    let mut reader = Reader::new(bytes);
    let vote = read_vote(&mut reader)?;
    (reader.remaining() == 0).then_some(vote)
}

pub(crate) fn put_log_id(out: &mut Vec<u8>, id: Option<LogId>) {
    match id {
        Some(id) => {
            put_varint(out, id.index + 1);
            put_varint(out, id.term);
        }
        None => out.push(0),
    }
}

pub(crate) fn read_log_id(reader: &mut Reader<'_>) -> Option<Option<LogId>> {
    Some(match reader.varint()? {
        0 => None,
        next => Some(LogId { index: next - 1, term: reader.varint()? }),
    })
}

/// Who belongs to a group, as bytes: `configs { voters }* nodes`.
pub(crate) fn encode_membership(members: &RaftMembership) -> Bytes {
    let mut out = Vec::new();
    put_varint(&mut out, members.get_joint_config().len() as u64);
    for voters in members.get_joint_config() {
        put_varint(&mut out, voters.len() as u64);
        voters.iter().for_each(|voter| put_varint(&mut out, *voter));
    }
    let nodes: Vec<u64> = members.nodes().map(|(id, _)| *id).collect();
    put_varint(&mut out, nodes.len() as u64);
    nodes.iter().for_each(|node| put_varint(&mut out, *node));
    out.into()
}

pub(crate) fn decode_membership(bytes: &[u8]) -> Option<RaftMembership> {
    let mut reader = Reader::new(bytes);
    let mut configs = Vec::new();
    for _ in 0..reader.varint()? {
        let voters =
            (0..reader.varint()?).map(|_| reader.varint()).collect::<Option<BTreeSet<_>>>();
        configs.push(voters?);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..reader.varint()? {
        nodes.insert(reader.varint()?, EmptyNode {});
    }
    if configs.is_empty() {
        return (reader.remaining() == 0).then(Membership::default);
    }
    Membership::new(configs, nodes).ok().filter(|_| reader.remaining() == 0)
}

pub(crate) fn stored_membership(found: &Option<(LogId, Bytes)>) -> Option<StoredMembership> {
    match found {
        Some((id, bytes)) => {
            Some(StoredMembership::new(Some(to_log_id(*id)), decode_membership(bytes)?))
        }
        None => Some(StoredMembership::default()),
    }
}

pub(crate) fn members(ids: impl IntoIterator<Item = u64>) -> BTreeSet<Member> {
    ids.into_iter().map(Member::from_u64).collect()
}

/// How openraft is set up; with `elect` it may stand for election from the start.
pub(crate) fn raft_config(
    timing: super::Timing,
    elect: bool,
) -> Result<Arc<openraft::Config>, String> {
    let config = openraft::Config {
        cluster_name: "duractor".into(),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min: timing.election_min_ms,
        election_timeout_max: timing.election_max_ms,
        // Entries hold up to 256 KiB: more of them a message would hold up what follows.
        max_payload_entries: 8,
        // Checkpoints are made when the log asks to be purged, not by count.
        snapshot_policy: openraft::SnapshotPolicy::Never,
        // Nor are entries purged by count: the engine would set its mind on what was applied last, of
        // which under load a follower always lacks something, and purge nothing at all.
        max_in_snapshot_log_to_keep: u64::MAX,
        replication_lag_threshold: u64::MAX,
        install_snapshot_timeout: 3_600_000,
        enable_pre_vote: Some(true),
        enable_elect: elect,
        // A leader that restarts must be elected anew: entries that it sent before its own fsync may
        // have been committed by others, and it would write other ones under the same term.
        enable_leader_restore: Some(leader_restore()),
        ..openraft::Config::default()
    };
    config.validate().map(Arc::new).map_err(|error| error.to_string())
}

fn leader_restore() -> bool {
    #[cfg(feature = "planted")]
    if crate::planted::is(crate::planted::Planted::LeaderRestore) {
        return true;
    }
    false
}
