//! A transaction whose entities are all on one shard: its owner has each of them consider its command,
//! writes what they would write as one entry of the shard's log, and tells them.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use duractor_journal::{AppendBatch, Effect as TookEffect, JournalError, RequestId};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use super::{
    error::{TransactionError, Veto},
    of_all,
};
use crate::{
    command::{Command, decode_reply, encode_reply},
    delivery::Away,
    error::AskError,
    intent::Options,
    post,
    route::Arrived,
    shared::{AnyKind, Shared},
    step::{DoTogether, Part, Prepare, Promise, RawStep, Ready, Settled, Stopped, Together},
};

/// Has the shard's owner carry out a transaction.
pub(super) async fn ask(
    shared: &Arc<Shared>,
    parts: &[Part],
    id: Option<RequestId>,
    deadline: Instant,
) -> Result<Vec<Bytes>, TransactionError> {
    let (first, repeatable) = (&parts[0], id.is_some());
    let request_id = id.map(|id| id.as_str().to_owned());
    let command = DoTogether { parts: parts.to_vec(), request_id };
    let done = post::ask(shared, &first.entity, &command, (repeatable, deadline)).await;
    match done.map_err(|error| of_all(first, error))? {
        Together::Done(replies) => Ok(replies),
        Together::Stopped { part, why } => {
            let entity = parts.get(part as usize).unwrap_or(first).entity.clone();
            Err(match why {
                Stopped::Vetoed(reply) => TransactionError::Vetoed(Veto { entity, reply }),
                Stopped::Conflict => TransactionError::Conflict { entity },
                Stopped::Failed(reason) => {
                    let error = AskError::NotTogether { entity: entity.clone(), reason };
                    TransactionError::Failed { entity, error }
                }
            })
        }
    }
}

/// Carries out a transaction that arrived at the shard's owner.
pub(crate) fn arrived(shared: Arc<Shared>, kinds: Weak<Vec<Arc<dyn AnyKind>>>, arrived: Arrived) {
    let Arrived { version, payload, options, reply, .. } = arrived;
    let command = match DoTogether::decode(version, &payload) {
        Ok(command) => command,
        Err(error) => return reply.send(Err(AskError::Codec(error))),
    };
    tokio::spawn(async move {
        let done = carry_out(&shared, &kinds, command, &options).await;
        let encode = |done| encode_reply::<DoTogether>(&done).map_err(AskError::Codec);
        reply.send(done.and_then(encode));
    });
}

/// What an entity says.
enum Said {
    Ready(Ready, oneshot::Receiver<Result<Bytes, AskError>>),
    /// The request was carried out before.
    Repeat(Bytes),
    Stopped(Stopped),
    Failed(AskError),
}

async fn carry_out(
    shared: &Arc<Shared>,
    kinds: &Weak<Vec<Arc<dyn AnyKind>>>,
    command: DoTogether,
    options: &Options,
) -> Result<Together, AskError> {
    let DoTogether { parts, request_id } = command;
    let request_id = request_id.as_deref().map(RequestId::new).transpose();
    let request_id = request_id.map_err(|error| invalid(&error))?;
    let deadline = options.deadline.unwrap_or_else(Instant::now);
    let options = Options { request_id, deadline: Some(deadline), ..Options::default() };
    let asked: Vec<_> = parts.iter().map(|part| consider(kinds, part, &options)).collect();
    let mut said = Vec::with_capacity(asked.len());
    for (asked, part) in asked.into_iter().zip(&parts) {
        said.push(hear(asked, part, deadline).await);
    }
    write(shared, &parts, said, deadline).await
}

fn invalid(error: &dyn std::fmt::Display) -> AskError {
    let (name, reason) = (DoTogether::NAME.to_owned(), error.to_string());
    AskError::Codec(crate::CodecError::Malformed { name, version: DoTogether::VERSION, reason })
}

type Asked = (oneshot::Receiver<Ready>, oneshot::Receiver<Result<Bytes, AskError>>);

/// Asks an entity of this node.
fn consider(kinds: &Weak<Vec<Arc<dyn AnyKind>>>, part: &Part, options: &Options) -> Asked {
    let ((ready, readies), (tell, answer)) = (oneshot::channel(), oneshot::channel());
    let reply = Away::new(part.entity.clone(), move |answer| {
        // Whoever asked may have given up.
        let _ = tell.send(answer);
    });
    let Some(kinds) = kinds.upgrade() else {
        reply.send(Err(AskError::ShuttingDown));
        return (readies, answer);
    };
    match kinds.iter().find(|kind| kind.name() == part.entity.kind()) {
        Some(kind) => {
            let step = RawStep::Consider { part: part.clone(), ready };
            kind.clone().step(part.entity.clone(), step, options.clone(), reply);
        }
        None => {
            let (kind, command) = (part.entity.kind().to_owned(), part.command.clone());
            reply.send(Err(AskError::UnknownCommand { kind, command }));
        }
    }
    (readies, answer)
}

/// Waits for what an entity says.
async fn hear((ready, mut answer): Asked, part: &Part, deadline: Instant) -> Said {
    let heard = timeout_at(deadline, async {
        tokio::select! {
            biased;
            Ok(ready) = ready => Ok(ready),
            answer = &mut answer => Err(answer),
        }
    });
    match heard.await {
        Ok(Ok(ready)) => Said::Ready(ready, answer),
        Ok(Err(Ok(Ok(bytes)))) => match decode_reply::<Prepare>(&bytes) {
            Ok(Promise::Prepared { reply, .. }) => Said::Repeat(reply),
            Ok(Promise::Stopped(why)) => Said::Stopped(why),
            Err(error) => Said::Failed(AskError::Codec(error)),
        },
        Ok(Err(Ok(Err(error)))) => Said::Failed(error),
        Ok(Err(Err(_))) => Said::Failed(AskError::Lost { entity: part.entity.clone() }),
        Err(_) => Said::Failed(AskError::Expired { entity: part.entity.clone() }),
    }
}

/// Writes what all would write, if all would.
async fn write(
    shared: &Arc<Shared>,
    parts: &[Part],
    said: Vec<Said>,
    deadline: Instant,
) -> Result<Together, AskError> {
    let before = said.iter().any(|said| matches!(said, Said::Repeat(_)));
    let mut stopped = None;
    let mut readies = Vec::new();
    let mut replies = Vec::new();
    for (place, said) in said.into_iter().enumerate() {
        let stop = |why| Ok(Together::Stopped { part: place as u32, why });
        match said {
            Said::Repeat(reply) => replies.push(reply),
            // The transaction was carried out, and this entity, which wrote, has forgotten it.
            Said::Ready(ready, _) if before && ready.batch.is_some() => {
                let reason = "the entities remember different parts of this request";
                stopped.get_or_insert(stop(Stopped::Failed(reason.to_owned())));
                ready.settle.settle(Settled::Aborted);
            }
            Said::Ready(Ready { batch, reply, settle }, answer) => {
                replies.push(reply);
                readies.push((batch, settle, answer));
            }
            Said::Stopped(why) => {
                stopped.get_or_insert(stop(why));
            }
            Said::Failed(error) => {
                stopped.get_or_insert(Err(nothing_happened(error)));
            }
        }
    }
    if let Some(stopped) = stopped {
        readies.into_iter().for_each(|(_, settle, _)| settle.settle(Settled::Aborted));
        return stopped;
    }
    let mut batches: Vec<AppendBatch> = Vec::new();
    let mut waiting = Vec::new();
    for (batch, settle, answer) in readies {
        waiting.push((batch.is_some(), settle, answer));
        batches.extend(batch);
    }
    let mut written = match batches.is_empty() {
        true => Vec::new(),
        false => match shared.journal.append_all(batches).await {
            Ok(written) => written,
            Err(error) => return Err(refused(shared, waiting, error)),
        },
    }
    .into_iter();
    let wrote = written.len() > 0;
    let mut looks = Vec::new();
    for (writes, settle, answer) in waiting {
        let last = if writes { written.next().map(|appended| appended.last_seq) } else { None };
        settle.settle(Settled::Committed { last });
        if !writes {
            looks.push(answer);
        }
    }
    // What only looked is good once this node has made sure that nobody else wrote meanwhile.
    for look in looks {
        let made_sure = match timeout_at(deadline, look).await {
            Ok(Ok(Ok(_))) => continue,
            Ok(Ok(Err(error))) => error,
            Ok(Err(_)) | Err(_) => AskError::Lost { entity: parts[0].entity.clone() },
        };
        return Err(match wrote {
            true => AskError::OutcomeUnknown {
                shard: parts[0].entity.shard(shared.journal.shards()),
                reason: format!("committed, and then: {made_sure}"),
            },
            false => nothing_happened(made_sure),
        });
    }
    Ok(Together::Done(replies))
}

type Waiting = (bool, crate::step::Settle, oneshot::Receiver<Result<Bytes, AskError>>);

/// The journal did not take it.
fn refused(shared: &Arc<Shared>, waiting: Vec<Waiting>, error: JournalError) -> AskError {
    let settled = match error.effect() {
        TookEffect::None => Settled::Aborted,
        TookEffect::Unknown => Settled::Unknown(error.clone()),
    };
    waiting.into_iter().for_each(|(_, settle, _)| settle.settle(settled.clone()));
    shared.refused(&error);
    match error {
        JournalError::StaleEpoch { shard, .. } => AskError::NotOwner { shard, leader: None },
        // An earlier batch of one of the entities was refused; its next incarnation does better.
        JournalError::WrongExpectedSeq { .. } => {
            AskError::Aborted { cause: error.to_string(), effect: TookEffect::None }
        }
        error => AskError::journal(error),
    }
}

/// An error of an entity that only considered: whatever it says, nothing was written.
fn nothing_happened(error: AskError) -> AskError {
    match error.effect() {
        TookEffect::None => error,
        TookEffect::Unknown => {
            AskError::Aborted { cause: error.to_string(), effect: TookEffect::None }
        }
    }
}
