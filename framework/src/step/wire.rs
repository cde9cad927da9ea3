//! What the parts of a transaction say to each other: commands of the framework, which travel to
//! entities as users' commands do, under names that users cannot give.

use bytes::Bytes;
use duractor_journal::EntityId;
use serde::{Deserialize, Serialize};

use crate::Command;

/// A command of a transaction, for one of its entities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) entity: EntityId,
    pub(crate) command: String,
    pub(crate) version: u16,
    pub(crate) payload: Bytes,
}

/// Which transaction, and which attempt at it: a retry of one that came to nothing is another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TxId {
    pub(crate) id: String,
    pub(crate) attempt: u64,
}

/// Carry out all of these commands, whose entities are on one shard, or none. Sent to the first of
/// them.
#[derive(Debug, Clone, Command)]
#[command(reply = Together, name = "duractor.together")]
pub(crate) struct DoTogether {
    pub(crate) parts: Vec<Part>,
    pub(crate) request_id: Option<String>,
}

/// What became of [`DoTogether`]. New ones are added at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Together {
    /// All are carried out: what each of them answered.
    Done(Vec<Bytes>),
    /// None is, and this one is why.
    Stopped { part: u32, why: Stopped },
}

/// Why a part of a transaction cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stopped {
    /// Its entity said no, with this answer.
    Vetoed(Bytes),
    /// Its entity is held by another transaction.
    Conflict,
    /// It failed before anything was written.
    Failed(String),
}

/// Decide on this command, write down what it comes to, and wait for the decision.
#[derive(Debug, Clone, Command)]
#[command(reply = Promise, name = "duractor.prepare")]
pub(crate) struct Prepare {
    pub(crate) tx: TxId,
    pub(crate) command: String,
    pub(crate) version: u16,
    pub(crate) payload: Bytes,
    /// How long to wait for the decision before asking for it.
    pub(crate) patience_ms: u64,
}

/// What became of [`Prepare`]. New ones are added at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Promise {
    /// It is written down under this number of the entity's, and this is what the command answers.
    Prepared { number: u64, reply: Bytes },
    /// Nothing is held.
    Stopped(Stopped),
}

/// The transaction is decided. With a number, that preparation alone is meant.
#[derive(Debug, Clone, Command)]
#[command(reply = (), name = "duractor.decide")]
pub(crate) struct Decide {
    pub(crate) tx: TxId,
    pub(crate) number: Option<u64>,
    pub(crate) commit: bool,
}
