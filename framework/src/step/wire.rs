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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{encode_reply, golden_command};

    /// Nodes of different releases talk to each other: these bytes never change.
    #[test]
    fn commands_keep_their_bytes() {
        let tx = TxId { id: "t".into(), attempt: 300 };
        let payload = Bytes::from_static(b"p");
        let entity = EntityId::new("k", "1").unwrap();
        let (command, version) = ("C".to_owned(), 2);
        let part = Part { entity, command: command.clone(), version, payload: payload.clone() };
        golden_command(&[(
            &DoTogether { parts: vec![part], request_id: Some("r".into()) },
            1,
            "01016b01310143020170010172",
        )]);
        let prepare = Prepare { tx: tx.clone(), command, version, payload, patience_ms: 5 };
        golden_command(&[(&prepare, 1, "01430501700174ac0202")]);
        golden_command(&[(&Decide { tx, number: Some(7), commit: true }, 1, "0101070174ac02")]);
    }

    #[test]
    fn replies_keep_their_bytes() {
        let bytes = || Bytes::from_static(b"r");
        let prepared = encode_reply::<Prepare>(&Promise::Prepared { number: 7, reply: bytes() });
        assert_eq!(&prepared.unwrap()[..], b"\x10duractor.prepare\x01\x00\x07\x01r");
        let vetoed = encode_reply::<Prepare>(&Promise::Stopped(Stopped::Vetoed(bytes())));
        assert_eq!(&vetoed.unwrap()[..], b"\x10duractor.prepare\x01\x01\x00\x01r");
        let done = encode_reply::<DoTogether>(&Together::Done(vec![bytes()]));
        assert_eq!(&done.unwrap()[..], b"\x11duractor.together\x01\x00\x01\x01r");
        let why = Stopped::Conflict;
        let stopped = encode_reply::<DoTogether>(&Together::Stopped { part: 2, why });
        assert_eq!(&stopped.unwrap()[..], b"\x11duractor.together\x01\x01\x02\x01");
    }
}
