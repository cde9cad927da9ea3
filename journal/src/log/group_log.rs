//! One group's part of the node's log: what Raft's log and state machine are built on.

use bytes::Bytes;

use super::entry::{Entry, LogId};
use crate::{
    error::JournalError,
    id::{EntityId, ShardId, Term},
    port::{Appended, Head},
};

/// Hears that a write is durable, or why not. Called on the writer: it must be quick.
pub(crate) type Flushed = Box<dyn FnOnce(Result<(), JournalError>) + Send>;

/// What became of one write of an entry that was applied.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    Appended(Appended),
    Deleted,
    Claimed(Term),
    Refused(JournalError),
}

/// How far a group's log is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GroupState {
    pub purged: Option<LogId>,
    pub last: Option<LogId>,
    pub applied: Option<LogId>,
    pub vote: Option<Bytes>,
    /// The last that is applied.
    pub membership: Option<(LogId, Bytes)>,
    pub epoch: Term,
}

/// A handle on a group's log.
#[derive(Clone)]
pub(crate) struct GroupLog {}

#[allow(unused_variables, dead_code)]
impl GroupLog {
    pub(crate) fn shard(&self) -> ShardId {
        unimplemented!()
    }
    pub(crate) fn state(&self) -> GroupState {
        unimplemented!()
    }
    pub(crate) fn append(&self, entries: Vec<Entry>, done: Flushed) {
        unimplemented!()
    }
    pub(crate) fn save_vote(&self, vote: Bytes, done: Flushed) {
        unimplemented!()
    }
    pub(crate) fn truncate_after(&self, last: Option<LogId>) {
        unimplemented!()
    }
    pub(crate) fn purge(&self, upto: LogId) {
        unimplemented!()
    }
    pub(crate) async fn read(
        &self,
        from: u64,
        to_excl: u64,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, JournalError> {
        unimplemented!()
    }
    pub(crate) fn durable(&self) -> Option<LogId> {
        unimplemented!()
    }
    pub(crate) fn admit(&self, bytes: usize) -> Result<(), JournalError> {
        unimplemented!()
    }
    pub(crate) async fn apply(
        &self,
        entries: Vec<Entry>,
    ) -> Result<Vec<Vec<Outcome>>, JournalError> {
        unimplemented!()
    }
    pub(crate) fn head_of(&self, entity: &EntityId) -> Result<Head, JournalError> {
        unimplemented!()
    }
}
