//! Groups of one voter, driven without Raft: what is proposed is appended, and what is durable is
//! committed.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::{
    entry::{Body, Entry, LogId, OpsBuilder},
    frame::Kind,
    group_log::{GroupLog, Outcome},
    node_log::{NodeLog, PurgeWish},
};
use crate::{
    error::JournalError,
    id::{ShardId, Term},
};

/// Most records of an entry, and about how many bytes.
const MAX_RECORDS: u32 = 1024;
const MAX_BYTES: usize = 256 << 10;

/// Hears what became of a proposal.
pub(crate) type Done = Box<dyn FnOnce(Result<Outcome, JournalError>) + Send>;

/// A write that is to be an entry's.
pub(crate) struct Write {
    pub shard: ShardId,
    pub kind: Kind,
    pub epoch: Term,
    pub records: u32,
    /// With room for the header in front.
    pub frame: Vec<u8>,
    pub done: Done,
}

/// What the driver is asked for.
pub(crate) enum Proposal {
    Write(Write),
    Close,
}

/// An entry that is appended, and who waits for it.
struct Appended {
    group: GroupLog,
    entry: Entry,
    dones: Vec<Done>,
    durable: oneshot::Receiver<Result<(), JournalError>>,
}

/// Drives all groups of a log.
pub(crate) struct Solo {
    log: Arc<NodeLog>,
    term: u64,
}

impl Solo {
    /// Takes over: everything that is durable is committed, and a new term begins.
    pub(crate) async fn start(log: Arc<NodeLog>) -> Result<Self, JournalError> {
        let mut solo = Self { log, term: 1 };
        for shard in 0..solo.log.shards() {
            let group = solo.log.group(ShardId(shard));
            let vote = group.state().vote.unwrap_or_default();
            let before = vote.as_ref().try_into().map_or(0, u64::from_le_bytes);
            solo.term = solo.term.max(before + 1);
        }
        for shard in 0..solo.log.shards() {
            let group = solo.log.group(ShardId(shard));
            let (done, voted) = oneshot::channel();
            let vote = Bytes::copy_from_slice(&solo.term.to_le_bytes());
            group.save_vote(vote, Box::new(move |result| drop(done.send(result))));
            voted.await.unwrap_or(Err(JournalError::Closed))?;
            solo.catch_up(&group).await?;
        }
        Ok(solo)
    }

    async fn catch_up(&self, group: &GroupLog) -> Result<(), JournalError> {
        let next = |id: Option<LogId>| id.map_or(0, |id| id.index + 1);
        loop {
            let state = group.state();
            let entries = group.read(next(state.applied), next(state.last), 1 << 20).await?;
            if entries.is_empty() {
                break;
            }
            group.apply(entries).await?;
        }
        if group.state().last.is_none() {
            let appended = self.append(group.clone(), Body::Membership(Bytes::new()), Vec::new());
            appended.durable.await.unwrap_or(Err(JournalError::Closed))?;
            group.apply(vec![appended.entry]).await?;
        }
        Ok(())
    }

    fn append(&self, group: GroupLog, body: Body, dones: Vec<Done>) -> Appended {
        let index = group.state().last.map_or(0, |id| id.index + 1);
        let entry = Entry { id: LogId { term: self.term, index }, body };
        let (done, durable) = oneshot::channel();
        group.append(vec![entry.clone()], Box::new(move |result| drop(done.send(result))));
        Appended { group, entry, dones, durable }
    }

    /// Works until the journal is closed or dropped.
    pub(crate) async fn run(self, mut proposals: mpsc::UnboundedReceiver<Proposal>) {
        let (mut taken, mut open) = (Vec::new(), true);
        while open && proposals.recv_many(&mut taken, 8192).await > 0 {
            let mut by_shard: Vec<Vec<Write>> = Vec::new();
            by_shard.resize_with(usize::from(self.log.shards()), Vec::new);
            for proposal in taken.drain(..) {
                match proposal {
                    Proposal::Write(write) => by_shard[usize::from(write.shard.0)].push(write),
                    Proposal::Close => open = false,
                }
            }
            let mut appended = Vec::new();
            for (writes, shard) in by_shard.into_iter().zip(0..) {
                self.propose(ShardId(shard), writes, &mut appended);
            }
            for entry in appended {
                Self::commit(entry).await;
            }
        }
    }

    fn propose(&self, shard: ShardId, writes: Vec<Write>, appended: &mut Vec<Appended>) {
        let mut ops = OpsBuilder::new(shard);
        let mut dones = Vec::new();
        for write in writes {
            let full = ops.records() + write.records > MAX_RECORDS || ops.len() > MAX_BYTES;
            if full && !ops.is_empty() {
                let body = Body::Ops(ops.take());
                appended.push(self.append(self.log.group(shard), body, std::mem::take(&mut dones)));
            }
            ops.push(write.kind, write.epoch, write.records, &write.frame);
            dones.push(write.done);
        }
        if !ops.is_empty() {
            appended.push(self.append(self.log.group(shard), Body::Ops(ops.take()), dones));
        }
    }

    async fn commit(appended: Appended) {
        let Appended { group, entry, dones, durable } = appended;
        let mut result = durable.await.unwrap_or(Err(JournalError::Closed)).map(|()| Vec::new());
        for _ in 0..100 {
            if result.is_err() {
                break;
            }
            result = group.apply(vec![entry.clone()]).await;
            match &result {
                Err(JournalError::Read { .. }) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    result = Ok(Vec::new());
                }
                _ => break,
            }
        }
        match result {
            Ok(outcomes) => {
                for (done, outcome) in dones.into_iter().zip(outcomes.into_iter().flatten()) {
                    done(Ok(outcome));
                }
            }
            Err(error) => dones.into_iter().for_each(|done| done(Err(error.clone()))),
        }
    }
}

/// Releases what the log asks for.
pub(crate) async fn release(
    log: std::sync::Weak<NodeLog>,
    mut wishes: mpsc::UnboundedReceiver<PurgeWish>,
) {
    while let Some(PurgeWish { shard, upto }) = wishes.recv().await {
        let Some(log) = log.upgrade() else { return };
        let group = log.group(shard);
        if let Some(applied) = group.state().applied.filter(|id| id.index >= upto) {
            group.purge(applied);
        }
    }
}
