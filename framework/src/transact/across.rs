//! A transaction whose entities are on several shards, in two phases.
//!
//! ```text
//!  driver           entities                     coordinator
//!    │  prepare        │                              │
//!    ├────────────────►│ decide, write, be held       │
//!    │◄── prepared ────┤                              │
//!    ├── commit ────────────────────────────────────► │ write what is decided
//!    │◄── committed ──────────────────────────────────┤
//!    ├── decided ─────►│ write events and the end     │
//!    │                 │                              │
//!    │       (no word) ├── what was decided? ────────►│ undecided: write that it is aborted
//!    │                 │◄── commit or abort ──────────┤
//! ```
//! The driver is a task of the caller's node and keeps nothing: where it dies, each prepared entity
//! asks the coordinator, whose first written decision stands.
//!
//! A preparation that comes late (a repeat of a message, after the decision) is another one, with
//! another number: the coordinator knows the numbers that were committed, and has any other aborted. So
//! no command is carried out twice however long a message was under way.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use duractor_journal::{Effect as TookEffect, RequestId};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use super::{
    error::{TransactionError, Veto},
    failed,
};
use crate::{
    coordinator::{Commit, Look, Verdict, coordinator},
    error::AskError,
    post,
    shared::Shared,
    step::{Decide, Part, Prepare, Promise, Stopped, TxId},
};

/// How much longer than the transaction may take a prepared entity waits before it asks what was
/// decided.
const GRACE: Duration = Duration::from_millis(500);
/// How long the driver goes on telling what was decided. Whoever has not heard by then asks.
const TELL: Duration = Duration::from_secs(10);
/// How long the caller's answer waits for the entities to hear of the decision. It is decided already,
/// and nobody sees anything else; but the caller's next transaction would meet this one.
const LINGER: Duration = Duration::from_millis(100);
/// The wait before telling an entity again that was not reached.
const AGAIN: Duration = Duration::from_millis(100);

pub(super) async fn run(
    shared: &Arc<Shared>,
    parts: &Arc<[Part]>,
    id: Option<RequestId>,
    deadline: Instant,
) -> Result<Vec<Bytes>, TransactionError> {
    let attempt = shared.env.entropy.next_u64();
    let fresh = || format!("{:016x}{attempt:016x}", shared.env.entropy.next_u64());
    let tx = TxId { id: id.as_ref().map_or_else(fresh, |id| id.as_str().to_owned()), attempt };
    if id.is_some()
        && let Some(replies) = earlier(shared, parts, &tx, deadline).await?
    {
        return Ok(replies);
    }
    let prepared = prepare(shared, parts, &tx, deadline).await;
    let error = match prepared {
        Ok((numbers, replies)) => {
            return commit(shared, parts, tx, (numbers, replies), deadline).await;
        }
        Err(error) => error,
    };
    tell(shared, parts, tx.clone(), None);
    // Another try under the same id may have done it meanwhile.
    if id.is_some()
        && let Ok(Some(replies)) = earlier(shared, parts, &tx, deadline).await
    {
        return Ok(replies);
    }
    Err(error)
}

/// What an earlier try answered that was committed.
async fn earlier(
    shared: &Arc<Shared>,
    parts: &[Part],
    tx: &TxId,
    deadline: Instant,
) -> Result<Option<Vec<Bytes>>, TransactionError> {
    let to = coordinator(&tx.id).map_err(|error| failed(&parts[0], error))?;
    let found = post::ask(shared, &to, &Look {}, (true, deadline)).await;
    // This look changes nothing. What an earlier try did is what is asked.
    found.map_err(|error| TransactionError::OutcomeUnknown { error })
}

/// Has all entities prepare.
async fn prepare(
    shared: &Arc<Shared>,
    parts: &[Part],
    tx: &TxId,
    deadline: Instant,
) -> Result<(Vec<u64>, Vec<Bytes>), TransactionError> {
    let left = deadline.saturating_duration_since(Instant::now()) + GRACE;
    let ask = |part: &Part| {
        let prepare = Prepare {
            tx: tx.clone(),
            command: part.command.clone(),
            version: part.version,
            payload: part.payload.clone(),
            patience_ms: left.as_millis() as u64,
        };
        let entity = part.entity.clone();
        async move { post::ask(shared, &entity, &prepare, (true, deadline)).await }
    };
    let promises = join_all(parts.iter().map(ask)).await;
    let (mut numbers, mut replies) = (Vec::new(), Vec::new());
    let mut stopped = None;
    for (promise, part) in promises.into_iter().zip(parts) {
        let entity = part.entity.clone();
        let why = match promise {
            Ok(Promise::Prepared { number, reply }) => {
                numbers.push(number);
                replies.push(reply);
                continue;
            }
            // What the user said counts for more than what another transaction does.
            Ok(Promise::Stopped(Stopped::Vetoed(reply))) => {
                stopped = Some(TransactionError::Vetoed(Veto { entity, reply }));
                break;
            }
            Ok(Promise::Stopped(Stopped::Conflict)) => TransactionError::Conflict { entity },
            Ok(Promise::Stopped(Stopped::Failed(reason))) => {
                failed(part, AskError::NotTogether { entity, reason })
            }
            Err(error) => failed(part, error),
        };
        stopped.get_or_insert(why);
    }
    stopped.map_or(Ok((numbers, replies)), Err)
}

/// Has the coordinator decide, and tells all.
async fn commit(
    shared: &Arc<Shared>,
    parts: &Arc<[Part]>,
    tx: TxId,
    (numbers, replies): (Vec<u64>, Vec<Bytes>),
    deadline: Instant,
) -> Result<Vec<Bytes>, TransactionError> {
    let to = coordinator(&tx.id).map_err(|error| failed(&parts[0], error))?;
    let entities = parts.iter().map(|part| part.entity.clone());
    let command = Commit {
        attempt: tx.attempt,
        parts: entities.zip(numbers.iter().copied()).collect(),
        replies: replies.clone(),
    };
    match post::ask(shared, &to, &command, (true, deadline)).await {
        Ok(Verdict::Committed) => {
            let told = tell(shared, parts, tx, Some(numbers));
            // Who was not reached by then is reached later, or asks.
            let _ = timeout(LINGER, told).await;
            Ok(replies)
        }
        Ok(Verdict::Another(replies)) => {
            tell(shared, parts, tx, None);
            Ok(replies)
        }
        Ok(Verdict::Aborted) => {
            tell(shared, parts, tx, None);
            Err(TransactionError::Aborted)
        }
        // It has not decided, and nobody else asks it to commit this attempt.
        Err(error) if error.effect() == TookEffect::None => {
            tell(shared, parts, tx, None);
            Err(failed(&parts[0], error))
        }
        // The entities ask for themselves.
        Err(error) => Err(TransactionError::OutcomeUnknown { error }),
    }
}

/// Tells all entities what was decided, in a task of its own. With numbers: these preparations are
/// committed. Without: whatever is prepared for this attempt is aborted.
fn tell(
    shared: &Arc<Shared>,
    parts: &Arc<[Part]>,
    tx: TxId,
    committed: Option<Vec<u64>>,
) -> tokio::task::JoinHandle<()> {
    let (shared, parts) = (shared.clone(), parts.clone());
    tokio::spawn(async move {
        let until = Instant::now() + TELL;
        let commit = committed.is_some();
        let numbers = committed.unwrap_or_default();
        let tell = parts.iter().enumerate().map(|(place, part)| {
            let number = numbers.get(place).copied();
            tell_one(&shared, part, Decide { tx: tx.clone(), number, commit }, until)
        });
        #[cfg(feature = "planted")]
        let tell =
            tell.take(match crate::planted::is(crate::planted::Planted::CoordinatorForgets) {
                true => parts.len() - 1,
                false => parts.len(),
            });
        join_all(tell).await;
    })
}

async fn tell_one(shared: &Arc<Shared>, part: &Part, decide: Decide, until: Instant) {
    while Instant::now() < until && shared.refusal().is_none() {
        let told = post::ask(shared, &part.entity, &decide, (true, until)).await;
        let Err(error) = told else { return };
        tracing::debug!(entity = %part.entity, %error, "the decision is not told yet");
        sleep(AGAIN).await;
    }
}
