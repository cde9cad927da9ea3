//! A shard's image on its way to another replica: to one that lags behind what the log still has,
//! and to one whose files are damaged.
//!
//! A checkpoint is sent in pieces, each answered before the next: `CheckpointBegin`, then
//! `CheckpointChunk`s, then `CheckpointEnd`, on which it is installed, all of it or nothing. When
//! the link breaks, the sender begins again, and the receiver says after what to go on.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use openraft::alias::SnapshotOf;
use tokio::sync::Mutex;

use super::{
    peers::{CallError, Peers},
    replica::Replica,
    types::{
        Group, RaftLogId, RaftVote, SnapshotMeta, StoredMembership, stored_membership, to_log_id,
    },
    wire::{Answer, Call},
};
use crate::{
    error::JournalError,
    id::{ShardId, Term},
    log::{
        entry::LogId,
        footer::Later,
        group_log::{GroupLog, GroupState},
        image::Image,
        intake::{Intake, Staged},
    },
    transport::{Class, Member},
};

/// About how many bytes a piece has.
const CHUNK_BYTES: usize = 256 << 10;
/// How long a piece may be without an answer until the sender asks how far it came. A receiver that
/// is still busy with it, on a slow disk, is only asked again: that costs nothing.
const CHUNK_PATIENCE: Duration = Duration::from_secs(2);
/// How often a sender asks again in a row.
const RETRIES: u32 = 100;
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Where a checkpoint is cut, and what holds there.
#[derive(Clone)]
struct Cut {
    at: LogId,
    epoch: Term,
    members: Option<(LogId, Bytes)>,
}

/// A checkpoint: one to be sent, or one that was received.
pub(crate) struct Content {
    cut: Option<Cut>,
    what: What,
}

enum What {
    /// Read from this log when it is sent.
    Here(GroupLog),
    /// Received, and not installed yet.
    Staged(Box<Staged>),
}

impl Content {
    /// Of what is applied now.
    pub(crate) fn now(log: &GroupLog) -> Self {
        let state = log.state();
        let cut = state.applied.map(|at| Cut { at, epoch: state.epoch, members: state.membership });
        Self { cut, what: What::Here(log.clone()) }
    }

    /// As openraft names it. `None` where the members are malformed.
    pub(crate) fn meta(&self) -> Option<(Option<RaftLogId>, StoredMembership)> {
        match &self.cut {
            Some(cut) => Some((Some(to_log_id(cut.at)), stored_membership(&cut.members)?)),
            None => Some((None, StoredMembership::default())),
        }
    }

    /// Puts what was received in the place of what the shard has here.
    pub(crate) async fn install(self, log: &GroupLog) -> Result<(), JournalError> {
        match (self.what, self.cut) {
            (What::Staged(staged), Some(cut)) => {
                tracing::info!(shard = %log.shard(), at = ?cut.at, "a checkpoint is installed");
                log.install(*staged).await
            }
            // It is here already.
            _ => Ok(()),
        }
    }
}

/// Sends a checkpoint, and returns the receiver's vote.
pub(crate) async fn send(
    peers: &Peers,
    to: Member,
    shard: ShardId,
    vote: RaftVote,
    snapshot: SnapshotOf<Group, Content>,
) -> Result<RaftVote, String> {
    let (Some(cut), What::Here(log)) = (snapshot.snapshot.cut, snapshot.snapshot.what) else {
        return Err("there is nothing to send".into());
    };
    tracing::info!(%shard, %to, at = ?cut.at, "sending a checkpoint");
    let image = log.image(cut.at, cut.epoch).await.map_err(|error| error.to_string())?;
    let mut sending =
        Sending { peers, to, shard, vote, cut: &cut, log: &log, image: Some(image), tries: 0 };
    loop {
        match sending.attempt().await {
            Ok(vote) => return Ok(vote),
            Err(Failure::Final(why)) => return Err(why),
            Err(Failure::Link(error)) if sending.tries < RETRIES => {
                sending.tries += 1;
                let tries = sending.tries;
                tracing::debug!(%shard, %to, %error, tries, "the checkpoint is interrupted");
                tokio::time::sleep(RETRY_DELAY).await;
            }
            Err(Failure::Link(error)) => return Err(error.to_string()),
        }
    }
}

enum Failure {
    /// It can be tried again.
    Link(CallError),
    Final(String),
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        Failure::Final(error.to_string())
    }
}

/// A checkpoint under way to another replica.
struct Sending<'a> {
    peers: &'a Peers,
    to: Member,
    shard: ShardId,
    vote: RaftVote,
    cut: &'a Cut,
    log: &'a GroupLog,
    /// Taken while a piece of it is read.
    image: Option<Image>,
    /// Attempts since the receiver took a piece.
    tries: u32,
}

impl Sending<'_> {
    async fn ask(&mut self, class: Class, call: &Call) -> Result<Answer, Failure> {
        match self.peers.call(self.to, self.shard, class, call, CHUNK_PATIENCE).await {
            Ok(Answer::Refused(why)) => Err(Failure::Final(why)),
            Ok(answer) => Ok(answer),
            Err(error) => Err(Failure::Link(error)),
        }
    }

    /// Sends what the receiver does not have yet.
    async fn attempt(&mut self) -> Result<RaftVote, Failure> {
        let Cut { at, epoch, members } = self.cut.clone();
        let vote = self.vote;
        let begin = Call::CheckpointBegin { vote, at, epoch: epoch.0, members };
        let mut answer = self.ask(Class::Control, &begin).await?;
        let mut seek = true;
        loop {
            let cursor = match answer {
                Answer::Cursor(cursor) => cursor,
                Answer::Installed(vote) => return Ok(vote),
                _ => return Err(Failure::Final("an answer to something else".into())),
            };
            let seek_to = seek.then_some(cursor);
            let (back, chunk) = next_chunk(self.log, self.image.take(), seek_to).await?;
            self.image = Some(back);
            #[cfg(feature = "planted")]
            let half = !seek && crate::planted::is(crate::planted::Planted::HalfCheckpoint);
            #[cfg(feature = "planted")]
            let chunk = chunk.filter(|_| !half);
            seek = false;
            answer = match chunk {
                Some(bytes) => {
                    let taken = self.ask(Class::Bulk, &Call::CheckpointChunk { at, bytes }).await?;
                    self.tries = 0;
                    taken
                }
                None => self.ask(Class::Control, &Call::CheckpointEnd { vote, at }).await?,
            };
        }
    }
}

async fn next_chunk(
    log: &GroupLog,
    image: Option<Image>,
    seek: Option<Bytes>,
) -> Result<(Image, Option<Bytes>), JournalError> {
    let gone = || JournalError::Failed { cause: "a read was given up".into() };
    let mut image = image.ok_or_else(gone)?;
    let job = move || {
        if let Some(cursor) = seek {
            image.seek(&cursor)?;
        }
        let chunk = image.next_chunk(CHUNK_BYTES)?;
        Ok((image, chunk))
    };
    log.env().offload(job).await.ok_or_else(gone)?
}

/// A checkpoint that is being received.
#[derive(Default)]
pub(crate) struct Receiving(Mutex<Option<Open>>);

struct Open {
    from: Member,
    cut: Cut,
    intake: Intake,
}

fn refused(error: &JournalError) -> Answer {
    tracing::warn!(%error, "a checkpoint is not taken");
    Answer::Refused(error.to_string())
}

/// Whether the log goes up to the cut of a checkpoint already. What is applied is committed, and so is
/// the cut: the leader's log and this one are the same so far. The engine must not be given such a
/// checkpoint: it would take the log's end for being at the cut, where entries may follow that this
/// replica has acknowledged.
fn is_here(replica: &Replica, at: LogId) -> bool {
    let applied = replica.log.state().applied;
    applied.is_some_and(|applied| applied.index >= at.index) || replica.log.has_durable(at)
}

/// A leader wants to send a checkpoint.
pub(crate) async fn begin(
    replica: &Replica,
    from: Member,
    vote: RaftVote,
    at: LogId,
    epoch: u64,
    members: Option<(LogId, Bytes)>,
) -> Answer {
    let mut open = replica.receiving.0.lock().await;
    if is_here(replica, at) {
        return Answer::Installed(vote);
    }
    if let Some(open) = open.as_ref()
        && (open.from, open.cut.at) == (from, at)
    {
        return Answer::Cursor(open.intake.cursor());
    }
    tracing::info!(shard = %replica.shard, %from, ?at, "receiving a checkpoint");
    // What was received before goes away first.
    *open = None;
    match replica.log.intake(at, Term(epoch)) {
        Ok(intake) => {
            let cursor = intake.cursor();
            *open = Some(Open { from, cut: Cut { at, epoch: Term(epoch), members }, intake });
            Answer::Cursor(cursor)
        }
        Err(error) => refused(&error),
    }
}

/// A piece of it.
pub(crate) async fn chunk(replica: &Replica, from: Member, at: LogId, bytes: Bytes) -> Answer {
    let mut slot = replica.receiving.0.lock().await;
    let Some(mut open) = slot.take_if(|open| (open.from, open.cut.at) == (from, at)) else {
        return Answer::Refused("no such checkpoint is being received".into());
    };
    let job = move || {
        let taken = open.intake.take(&bytes);
        (open, taken)
    };
    match replica.log.env().offload(job).await {
        Some((open, Ok(()))) => {
            let cursor = open.intake.cursor();
            *slot = Some(open);
            Answer::Cursor(cursor)
        }
        Some((_, Err(error))) => refused(&error),
        None => Answer::Refused("the replica is going down".into()),
    }
}

/// The end of it: it is installed.
pub(crate) async fn end(replica: &Replica, from: Member, vote: RaftVote, at: LogId) -> Answer {
    let mut slot = replica.receiving.0.lock().await;
    let Some(open) = slot.take_if(|open| (open.from, open.cut.at) == (from, at)) else {
        return Answer::Refused("no such checkpoint is being received".into());
    };
    if is_here(replica, at) {
        return Answer::Installed(vote);
    }
    let Open { cut, intake, .. } = open;
    let members = cut.members.clone();
    // Entries that are on their way to the engine may come before the checkpoint.
    let finish = move || intake.finish(members, Later::Kept);
    let staged = match replica.log.env().offload(finish).await {
        Some(Ok(staged)) => staged,
        Some(Err(error)) => return refused(&error),
        None => return Answer::Refused("the replica is going down".into()),
    };
    let content = Content { cut: Some(cut), what: What::Staged(Box::new(staged)) };
    let Some((last_log_id, last_membership)) = content.meta() else {
        return Answer::Refused("malformed members".into());
    };
    let meta = SnapshotMeta { last_log_id, last_membership };
    let snapshot = SnapshotOf::<Group, Content> { meta, snapshot: content };
    match replica.raft.install_full_snapshot(vote, snapshot).await {
        Ok(response) => Answer::Installed(response.vote),
        Err(error) => Answer::Refused(error.to_string()),
    }
}

/// A piece for a replica whose files are damaged: of what is applied here, up to `at`.
pub(crate) async fn repair_chunk(
    replica: &Replica,
    at: LogId,
    epoch: Term,
    cursor: &Bytes,
) -> Answer {
    let state = replica.log.state();
    if state.applied.is_none_or(|applied| applied.index < at.index) {
        return Answer::Refused("this replica is behind".into());
    }
    let read = async {
        let image = replica.log.image(at, epoch).await?;
        next_chunk(&replica.log, Some(image), Some(cursor.clone())).await
    };
    match read.await {
        Ok((_, bytes)) => Answer::Chunk(bytes),
        Err(error) => Answer::Refused(error.to_string()),
    }
}

/// Gets a shard's content from another replica and puts it in the place of what is damaged here.
/// While it runs, nothing is applied to the group.
pub(crate) async fn repair(replica: &Arc<Replica>) -> Result<(), String> {
    let working = replica.clone();
    let repaired = replica
        .raft
        .with_state_machine(move |_| Box::pin(async move { fetch(&working).await }))
        .await;
    repaired.map_err(|fatal| fatal.to_string())?
}

async fn fetch(replica: &Replica) -> Result<(), String> {
    let state = replica.log.state();
    let at = state.applied.ok_or("nothing is applied yet")?;
    let status = replica.status();
    let mut why = "the shard has no other replica".to_owned();
    for peer in status.voters.iter().chain(&status.learners).filter(|peer| **peer != replica.me()) {
        match fetch_from(replica, *peer, at, &state).await {
            Ok(staged) => {
                tracing::warn!(shard = %replica.shard, from = %peer, "damaged files are replaced");
                return replica.log.install(staged).await.map_err(|error| error.to_string());
            }
            Err(error) => why = error,
        }
    }
    Err(why)
}

async fn fetch_from(
    replica: &Replica,
    peer: Member,
    at: LogId,
    state: &GroupState,
) -> Result<Staged, String> {
    let mut intake = replica.log.intake(at, state.epoch).map_err(|error| error.to_string())?;
    let gone = || "the replica is going down".to_owned();
    loop {
        let call = Call::RepairChunk { at, epoch: state.epoch.0, cursor: intake.cursor() };
        let asked = replica.peers.call(peer, replica.shard, Class::Bulk, &call, CHUNK_PATIENCE);
        let bytes = match asked.await.map_err(|error| error.to_string())? {
            Answer::Chunk(bytes) => bytes,
            Answer::Refused(why) => return Err(why),
            _ => return Err("an answer to something else".into()),
        };
        let Some(bytes) = bytes else { break };
        let job = move || intake.take(&bytes).map(|()| intake);
        let taken = replica.log.env().offload(job).await.ok_or_else(gone)?;
        intake = taken.map_err(|error| error.to_string())?;
    }
    let members = state.membership.clone();
    let finish = move || intake.finish(members, Later::Kept);
    let finished = replica.log.env().offload(finish).await.ok_or_else(gone)?;
    finished.map_err(|error| error.to_string())
}
