//! Requests of other replicas: entries of the leader, votes, hand-overs, checkpoints.

use std::sync::Arc;

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use openraft::raft::{AppendEntriesRequest, StreamAppendError, TransferLeaderRequest};
use tokio::sync::mpsc;

use super::{
    checkpoint,
    network::stream_result,
    peers::Inbound,
    replica::Replica,
    standing,
    types::Group,
    wire::{self, Answer, AppendResult, Call, Kind},
};
use crate::{id::Term, transport::Class};

/// Answers requests as they come, many at a time; entries reach the engine in the order in which
/// they arrived.
pub(crate) async fn serve(replica: Arc<Replica>, mut inbox: mpsc::UnboundedReceiver<Inbound>) {
    let mut open: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = open.next(), if !open.is_empty() => {}
            request = inbox.recv() => match request {
                Some(request) => open.push(handle(replica.clone(), request).boxed()),
                None => return,
            },
        }
    }
}

async fn handle(replica: Arc<Replica>, request: Inbound) {
    match request.header.kind {
        Kind::Append => append(&replica, &request).await,
        Kind::Call => match Call::decode(&request.body) {
            Some(call) => {
                let class = match call {
                    Call::CheckpointChunk { .. } | Call::RepairChunk { .. } => Class::Bulk,
                    _ => Class::Control,
                };
                let answer = answer(&replica, &request, call).await;
                replica.peers.answer(&request, class, &answer);
            }
            None => tracing::error!(from = %request.from, "a malformed question"),
        },
        Kind::Appended | Kind::Answer => {}
    }
}

async fn append(replica: &Replica, request: &Inbound) {
    let Some((seq, entries)) = wire::decode_append(replica.shard, &request.body) else {
        return tracing::error!(from = %request.from, "malformed entries");
    };
    if let Some(result) = take(replica, entries, request.body.len()).await {
        replica.peers.appended(request.from, request.header, seq, &result);
    }
}

/// Hands entries to the engine. `None` where it does not work any more.
async fn take(
    replica: &Replica,
    entries: AppendEntriesRequest<Group>,
    bytes: usize,
) -> Option<AppendResult> {
    if !entries.entries.is_empty()
        && let Err(error) = replica.log.admit(bytes)
    {
        tracing::debug!(shard = %replica.shard, %error, "entries are not taken now");
        return Some(None);
    }
    let prev = entries.prev_log_id;
    let last = entries.entries.last().map(|entry| entry.log_id).or(prev);
    let response = replica.raft.append_entries(entries).await.ok()?;
    let result = stream_result(response, prev, last);
    if !matches!(result, Err(StreamAppendError::HigherVote(_))) {
        replica.standing.heard();
    }
    Some(Some(result))
}

async fn answer(replica: &Replica, request: &Inbound, call: Call) -> Answer {
    let raft = &replica.raft;
    match call {
        Call::Vote(_) | Call::PreVote(_) if replica.is_bound() => {
            Answer::Refused("it was just restarted, and a leader may count on it".into())
        }
        Call::Vote(vote) => match raft.vote(vote).await {
            Ok(response) => Answer::Vote(response),
            Err(error) => Answer::Refused(error.to_string()),
        },
        Call::PreVote(vote) => match raft.pre_vote(vote).await {
            Ok(response) => Answer::Vote(response),
            Err(error) => Answer::Refused(error.to_string()),
        },
        Call::Transfer { from, to, last } => {
            let transfer = TransferLeaderRequest::new(from, to, last);
            match raft.handle_transfer_leader(transfer).await {
                Ok(Ok(())) => Answer::Done,
                Ok(Err(error)) => Answer::Refused(error.to_string()),
                Err(error) => Answer::Refused(error.to_string()),
            }
        }
        Call::ReadIndex => match replica.leader_read().await {
            Ok(read) => Answer::ReadIndex(Some(*read.read_log_id().log_id())),
            Err(error) => Answer::Refused(error.to_string()),
        },
        Call::CheckpointBegin { vote, at, epoch, members } => {
            checkpoint::begin(replica, request.from, vote, at, epoch, members).await
        }
        Call::CheckpointChunk { at, bytes } => {
            checkpoint::chunk(replica, request.from, at, bytes).await
        }
        Call::CheckpointEnd { vote, at } => checkpoint::end(replica, request.from, vote, at).await,
        Call::RepairChunk { at, epoch, cursor } => {
            checkpoint::repair_chunk(replica, at, Term(epoch), &cursor).await
        }
        Call::Members => standing::answer(replica),
    }
}
