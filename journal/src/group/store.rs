//! openraft's log: the group's part of the node's log.

use std::{fmt::Debug, io, ops::RangeBounds, sync::Arc};

use openraft::{
    LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use tokio::sync::oneshot;

use super::{
    propose::Proposals,
    types::{
        Group, RaftEntry, RaftLogId, RaftVote, decode_vote, encode_vote, from_entry, from_log_id,
        to_entry, to_log_id,
    },
};
use crate::{
    error::JournalError,
    log::{
        entry::{Body, Entry},
        group_log::GroupLog,
    },
};

/// Most bytes of entries that are read at a time: what a follower gets in one message.
const READ_BYTES: usize = 1 << 20;

/// A group's log, as openraft wants it.
#[derive(Clone)]
pub(crate) struct Store {
    log: GroupLog,
    proposals: Arc<Proposals>,
}

impl Store {
    pub(crate) fn new(log: GroupLog, proposals: Arc<Proposals>) -> Self {
        Self { log, proposals }
    }

    /// As many of these entries as one message holds. What a log that failed never took is not there,
    /// and that is an error: were it nothing, the engine would believe that it was applied.
    async fn read(&self, from: u64, to: u64) -> Result<Vec<RaftEntry>, io::Error> {
        let entries = self.log.read(from, to, READ_BYTES).await.map_err(to_io)?;
        if entries.is_empty() {
            self.log.check_open().map_err(to_io)?;
        }
        to_entries(entries)
    }
}

pub(crate) fn to_io(error: JournalError) -> io::Error {
    io::Error::other(error)
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the log holds a malformed {what}"))
}

fn to_entries(entries: Vec<Entry>) -> Result<Vec<RaftEntry>, io::Error> {
    let entries =
        entries.into_iter().map(|entry| to_entry(entry).ok_or_else(|| malformed("entry")));
    entries.collect()
}

impl RaftLogReader<Group> for Store {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        let (mut from, to) = bounds(&range);
        let mut all = Vec::new();
        while from < to {
            let entries = self.read(from, to).await?;
            let Some(last) = entries.last() else { break };
            from = last.log_id.index + 1;
            all.extend(entries);
        }
        Ok(all)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        self.read(start, end).await
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, io::Error> {
        let vote = self.log.state().vote;
        vote.map(|bytes| decode_vote(&bytes).ok_or_else(|| malformed("vote"))).transpose()
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    let from = match range.start_bound() {
        Included(index) => *index,
        Excluded(index) => index + 1,
        Unbounded => 0,
    };
    let to = match range.end_bound() {
        Included(index) => index + 1,
        Excluded(index) => *index,
        Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogStorage<Group> for Store {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Group>, io::Error> {
        let state = self.log.state();
        Ok(LogState {
            last_purged_log_id: state.purged.map(to_log_id),
            last_log_id: state.last.or(state.purged).map(to_log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> Result<(), io::Error> {
        let (tx, rx) = oneshot::channel();
        let done = move |result| drop(tx.send(result));
        self.log.save_vote(encode_vote(vote), Box::new(done));
        #[cfg(feature = "planted")]
        if crate::planted::is(crate::planted::Planted::VoteNotSynced) {
            return Ok(());
        }
        rx.await.map_err(|_| io::Error::other("the log is gone"))?.map_err(to_io)
    }

    async fn read_committed(&mut self) -> Result<Option<RaftLogId>, io::Error> {
        Ok(self.log.state().applied.map(to_log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Group>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().map(from_entry).collect();
        let tags: Vec<(u64, u64)> = entries.iter().filter_map(tag).collect();
        let proposals = self.proposals.clone();
        self.log.append(
            entries,
            Box::new(move |result| {
                if result.is_ok() {
                    tags.into_iter().for_each(|(tag, index)| proposals.durable(tag, index));
                }
                callback.io_completed(result.map_err(to_io));
            }),
        );
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> Result<(), io::Error> {
        self.log.truncate_after(last.as_ref().map(from_log_id));
        Ok(())
    }

    async fn purge(&mut self, upto: RaftLogId) -> Result<(), io::Error> {
        self.log.purge(from_log_id(&upto));
        Ok(())
    }
}

/// The tag of an entry whose proposer wants to hear when it is on this node's disk.
fn tag(entry: &Entry) -> Option<(u64, u64)> {
    match &entry.body {
        Body::Ops(ops) if ops.tag() != 0 => Some((ops.tag(), entry.id.index)),
        _ => None,
    }
}
