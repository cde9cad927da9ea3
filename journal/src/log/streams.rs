//! Replay and tail as streams: where each piece is read, and what a tail waits for.

use std::sync::Arc;

use super::{
    access::Missed,
    read::{Replay, Tail},
    shared::Shared,
};
use crate::{env::Env, error::JournalError, id::ShardId, record::EventRecord};

/// A piece, and what the next one comes from.
pub(crate) type Piece<S> = Option<(Result<Vec<EventRecord>, JournalError>, Option<S>)>;

/// The next piece of a replay: read here if it is in memory, else by the offload seam.
pub(crate) async fn next_piece(env: Env, replay: Option<Replay>) -> Piece<Replay> {
    let mut replay = replay?;
    let read = match replay.next_cached() {
        Ok(records) => Ok(records),
        Err(Missed::Failed(error)) => Err(error),
        Err(Missed::Waits) => match env.offload(move || (replay.next(), replay)).await {
            Some((read, back)) => {
                replay = back;
                read
            }
            None => return Some((Err(given_up()), None)),
        },
    };
    match read {
        Ok(records) if records.is_empty() => None,
        Ok(records) if replay.is_done() => Some((Ok(records), None)),
        Ok(records) => {
            // A long replay from memory would otherwise keep its thread to itself.
            tokio::task::yield_now().await;
            Some((Ok(records), Some(replay)))
        }
        Err(error) => Some((Err(error), None)),
    }
}

/// The next records of a shard, waiting for them if need be.
pub(crate) async fn follow(shared: Arc<Shared>, shard: ShardId, tail: Option<Tail>) -> Piece<Tail> {
    let mut tail = tail?;
    loop {
        let applied = shared.group(shard).applied.notified();
        tokio::pin!(applied);
        applied.as_mut().enable();
        let stopped = shared.is_stopped();
        let (read, back) = shared.env.offload(move || (tail.next(), tail)).await?;
        tail = back;
        match read {
            Ok(records) if !records.is_empty() => return Some((Ok(records), Some(tail))),
            Ok(_) if stopped => return None,
            Ok(_) => applied.await,
            Err(error) => return Some((Err(error), None)),
        }
    }
}

/// The runtime is shutting down, or a read panicked.
fn given_up() -> JournalError {
    JournalError::Failed { cause: "a read was given up".into() }
}
