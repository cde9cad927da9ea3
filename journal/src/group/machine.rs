//! openraft's state machine: applying entries to the group's part of the log.

use std::io;

use futures_util::{Stream, StreamExt};
use openraft::{
    OptionalSend, RaftSnapshotBuilder,
    alias::SnapshotOf,
    storage::{EntryResponder, RaftStateMachine},
};

use super::{
    checkpoint::Content,
    store::to_io,
    types::{
        Group, RaftLogId, SnapshotMeta, StoredMembership, from_entry, stored_membership, to_log_id,
    },
};
use crate::log::group_log::{GroupLog, Outcome};

/// Most entries that are applied at a time.
const BATCH: usize = 64;

/// Applies a group's entries.
pub(crate) struct Machine {
    log: GroupLog,
}

impl Machine {
    pub(crate) fn new(log: GroupLog) -> Self {
        Self { log }
    }
}

fn applied(log: &GroupLog) -> Result<(Option<RaftLogId>, StoredMembership), io::Error> {
    let state = log.state();
    let membership = stored_membership(&state.membership).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "the log holds malformed members")
    })?;
    Ok((state.applied.map(to_log_id), membership))
}

impl RaftStateMachine<Group> for Machine {
    type SnapshotData = Content;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<RaftLogId>, StoredMembership), io::Error> {
        applied(&self.log)
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Group>, io::Error>> + Unpin + OptionalSend,
    {
        let mut chunks = entries.ready_chunks(BATCH);
        while let Some(chunk) = chunks.next().await {
            let (mut batch, mut responders) = (Vec::new(), Vec::new());
            for item in chunk {
                let (entry, responder) = item?;
                batch.push(from_entry(entry));
                responders.push(responder);
            }
            let outcomes: Vec<Vec<Outcome>> = self.log.apply(batch).await.map_err(to_io)?;
            for (responder, outcome) in responders.into_iter().zip(outcomes) {
                if let Some(responder) = responder {
                    responder.send(outcome);
                }
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder(self.log.clone())
    }

    async fn install_snapshot(
        &mut self,
        _: &SnapshotMeta,
        content: Content,
    ) -> Result<(), io::Error> {
        content.install(&self.log).await.map_err(to_io)
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<Group, Content>>, io::Error> {
        snapshot(&self.log).map(|found| found.filter(|s| s.meta.last_log_id.is_some()))
    }
}

/// Makes checkpoints: each is cut at what is applied now, and read when it is sent.
pub(crate) struct Builder(GroupLog);

fn snapshot(log: &GroupLog) -> Result<Option<SnapshotOf<Group, Content>>, io::Error> {
    let content = Content::now(log);
    let (last_log_id, last_membership) = content.meta().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "the log holds malformed members")
    })?;
    let meta = SnapshotMeta { last_log_id, last_membership };
    Ok(Some(SnapshotOf::<Group, Content> { meta, snapshot: content }))
}

impl RaftSnapshotBuilder<Group> for Builder {
    type SnapshotData = Content;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Group, Content>, io::Error> {
        snapshot(&self.0)?.ok_or_else(|| io::Error::other("nothing is applied yet"))
    }
}
