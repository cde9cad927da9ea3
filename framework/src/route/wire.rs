//! Frames on [`Channel::Entities`](duractor_journal::transport::Channel::Entities), as
//! [`frames`](crate::frames) has them.
//!
//! A command travels under its stable name and version, as its bytes, so that nodes of two releases
//! can talk; and an error as what it tells a caller, not as the type that it is.

use bytes::Bytes;
use duractor_journal::{Effect, EntityId, Member, RequestId, Seq, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    codec::CodecError,
    error::AskError,
    frames::{open, pack, unpack},
    meta::Origin,
};

const VERSION: u8 = 1;
/// The longest text of an error on the way, in bytes: it is for people.
const MAX_TEXT: usize = 1024;

/// What nodes say to each other about commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// Give this command to an entity.
    Ask(Ask),
    /// The same, from an entity that delivers it.
    Deliver { ask: Ask, sender: Sender },
    /// Read these entities, kind and key each: they will be needed. Answered with nothing once it is done.
    Ready { id: u64, entities: Vec<(String, String)> },
    /// What became of the command with this number.
    Answer { id: u64, answer: Result<Bytes, Refusal> },
}

/// A command for an entity of the receiver's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ask {
    pub(super) id: u64,
    pub(super) kind: String,
    pub(super) key: String,
    pub(super) command: String,
    pub(super) version: u16,
    /// Milliseconds until the caller gives up.
    pub(super) timeout_ms: u64,
    pub(super) request_id: Option<String>,
    pub(super) expected_revision: Option<u64>,
    pub(super) payload: Bytes,
    /// Travels as another kind of frame.
    #[serde(skip)]
    pub(super) lease_read: bool,
}

/// Which entity delivers a command, and what tells a repeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sender {
    pub(super) kind: String,
    pub(super) key: String,
    pub(super) number: u64,
    /// When it was decided, in milliseconds since 1970.
    pub(super) since: u64,
    pub(super) wants_reply: bool,
}

/// Why a command has no reply, as far as a caller elsewhere can use it. New ones are added at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Refusal {
    UnknownCommand,
    Busy(u64),
    NodeBusy(u64),
    Timeout,
    Expired,
    RevisionMismatch { expected: u64, actual: u64 },
    Quarantined(String),
    Crashed(String),
    NotOwner { leader: Option<u64> },
    OutcomeUnknown(String),
    Unavailable(String),
    Lost,
    Other { unknown: bool, text: String },
    RequestIdReused { expected: String, found: String },
}

fn short(text: impl ToString) -> String {
    let mut text = text.to_string();
    let end = (0..=MAX_TEXT.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.truncate(end.unwrap_or(0));
    text
}

impl From<&AskError> for Refusal {
    fn from(error: &AskError) -> Self {
        match error {
            AskError::UnknownCommand { .. } => Refusal::UnknownCommand,
            AskError::Busy { waiting, .. } => Refusal::Busy(*waiting as u64),
            AskError::NodeBusy { open } => Refusal::NodeBusy(*open),
            AskError::Timeout { .. } => Refusal::Timeout,
            AskError::Expired { .. } => Refusal::Expired,
            AskError::RevisionMismatch { expected, actual } => {
                Refusal::RevisionMismatch { expected: expected.0, actual: actual.0 }
            }
            AskError::Quarantined { reason, .. } => Refusal::Quarantined(short(reason)),
            AskError::Crashed { reason, .. } => Refusal::Crashed(short(reason)),
            AskError::NotOwner { leader, .. } => {
                Refusal::NotOwner { leader: leader.map(Member::to_u64) }
            }
            AskError::OutcomeUnknown { reason, .. } => Refusal::OutcomeUnknown(short(reason)),
            AskError::Unavailable { reason, .. } => Refusal::Unavailable(short(reason)),
            // Of the node, not of the entity: another one will have it soon.
            AskError::ShuttingDown | AskError::NodeFailed { .. } => {
                Refusal::Unavailable(short(error))
            }
            AskError::Lost { .. } => Refusal::Lost,
            AskError::RequestIdReused(CodecError::OtherReply { expected, found }) => {
                let (expected, found) = (short(expected), short(found));
                Refusal::RequestIdReused { expected, found }
            }
            other => {
                Refusal::Other { unknown: other.effect() == Effect::Unknown, text: short(other) }
            }
        }
    }
}

impl Refusal {
    /// What it is to the caller who asked `node`.
    pub(super) fn error(
        self,
        node: Member,
        entity: &EntityId,
        command: &str,
        shards: u16,
    ) -> AskError {
        let shard = entity.shard(shards);
        let (entity, node_says) = (entity.clone(), |text: String| format!("node {node}: {text}"));
        match self {
            Refusal::UnknownCommand => AskError::UnknownCommand {
                kind: entity.kind().to_owned(),
                command: command.to_owned(),
            },
            Refusal::Busy(waiting) => AskError::Busy { entity, waiting: waiting as usize },
            Refusal::NodeBusy(open) => AskError::NodeBusy { open },
            Refusal::Timeout => AskError::Timeout { entity },
            Refusal::Expired => AskError::Expired { entity },
            Refusal::RevisionMismatch { expected, actual } => {
                AskError::RevisionMismatch { expected: Seq(expected), actual: Seq(actual) }
            }
            Refusal::Quarantined(reason) => AskError::Quarantined { entity, reason: reason.into() },
            Refusal::Crashed(reason) => AskError::Crashed { entity, reason },
            Refusal::NotOwner { leader } => {
                AskError::NotOwner { shard, leader: leader.map(Member::from_u64) }
            }
            Refusal::OutcomeUnknown(reason) => {
                AskError::OutcomeUnknown { shard, reason: node_says(reason) }
            }
            Refusal::Unavailable(reason) => {
                AskError::Unavailable { shard, reason: node_says(reason) }
            }
            Refusal::Lost => AskError::Lost { entity },
            Refusal::RequestIdReused { expected, found } => {
                AskError::RequestIdReused(CodecError::OtherReply { expected, found })
            }
            Refusal::Other { unknown, text } => {
                let effect = if unknown { Effect::Unknown } else { Effect::None };
                AskError::Remote { node, error: text, effect }
            }
        }
    }
}

impl Ask {
    /// Which entity, and under which request id. What is wrong is for the log.
    pub(super) fn target(&self) -> Result<(EntityId, Option<RequestId>), String> {
        let entity = EntityId::new(&self.kind, &self.key).map_err(|error| error.to_string())?;
        let id = self.request_id.as_deref().map(RequestId::new).transpose();
        Ok((entity, id.map_err(|error| error.to_string())?))
    }
}

impl Sender {
    /// What is wrong is for the log.
    pub(super) fn origin(self) -> Result<Origin, String> {
        let Self { kind, key, number, since, wants_reply } = self;
        let from = EntityId::new(&kind, &key).map_err(|error| error.to_string())?;
        Ok(Origin::Delivery { from, number, since: Timestamp(since), wants_reply })
    }
}

impl Frame {
    pub(super) fn encode(&self) -> Result<Bytes, String> {
        match self {
            Frame::Ask(ask) => pack(VERSION, if ask.lease_read { 4 } else { 1 }, ask),
            Frame::Ready { id, entities } => pack(VERSION, 5, &(id, entities)),
            Frame::Answer { id, answer } => pack(VERSION, 2, &(id, answer)),
            Frame::Deliver { ask, sender } => pack(VERSION, 3, &(ask, sender)),
        }
    }

    /// What went wrong is for the log.
    pub(super) fn decode(frame: &[u8]) -> Result<Self, String> {
        let (what, fields) = open(VERSION, frame)?;
        Ok(match what {
            1 => Frame::Ask(unpack(fields)?),
            4 => Frame::Ask(Ask { lease_read: true, ..unpack(fields)? }),
            5 => {
                let (id, entities) = unpack(fields)?;
                Frame::Ready { id, entities }
            }
            2 => {
                let (id, answer) = unpack(fields)?;
                Frame::Answer { id, answer }
            }
            3 => {
                let (ask, sender) = unpack(fields)?;
                Frame::Deliver { ask, sender }
            }
            what => return Err(format!("nobody knows kind {what}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use duractor_journal::{JournalError, ShardId};

    use super::*;

    fn ask() -> Ask {
        Ask {
            id: 7,
            kind: "order".into(),
            key: "17".into(),
            command: "Pay".into(),
            version: 1,
            timeout_ms: 5000,
            request_id: Some("r".into()),
            expected_revision: None,
            payload: Bytes::from_static(b"\x2a"),
            lease_read: false,
        }
    }

    /// Nodes of different releases talk to each other: these bytes never change.
    #[test]
    fn frames_are_as_they_were() {
        let not_owner = Refusal::NotOwner { leader: Some(Member::new(2, 1).to_u64()) };
        let other = Refusal::Other { unknown: true, text: "?".into() };
        let sender = Sender {
            kind: "order".into(),
            key: "18".into(),
            number: 3,
            since: 300,
            wants_reply: true,
        };
        let entities = vec![("order".into(), "17".into())];
        let frames: [(Frame, &[u8]); 7] = [
            (
                Frame::Ask(Ask { lease_read: true, ..ask() }),
                b"\x01\x04\x07\x05order\x0217\x03Pay\x01\x88\x27\x01\x01r\x00\x01\x2a",
            ),
            (Frame::Ready { id: 7, entities }, b"\x01\x05\x07\x01\x05order\x0217"),
            (
                Frame::Deliver { ask: ask(), sender },
                b"\x01\x03\x07\x05order\x0217\x03Pay\x01\x88\x27\x01\x01r\x00\x01\x2a\x05order\x0218\x03\xac\x02\x01",
            ),
            (
                Frame::Ask(ask()),
                b"\x01\x01\x07\x05order\x0217\x03Pay\x01\x88\x27\x01\x01r\x00\x01\x2a",
            ),
            (
                Frame::Answer { id: 7, answer: Ok(Bytes::from_static(b"\x02")) },
                b"\x01\x02\x07\x00\x01\x02",
            ),
            (
                Frame::Answer { id: 7, answer: Err(not_owner) },
                b"\x01\x02\x07\x01\x08\x01\x81\x80\x80\x80\x20",
            ),
            (Frame::Answer { id: 7, answer: Err(other) }, b"\x01\x02\x07\x01\x0c\x01\x01?"),
        ];
        for (frame, bytes) in frames {
            assert_eq!(frame.encode().as_deref(), Ok(bytes), "{frame:?}");
            assert_eq!(Frame::decode(bytes), Ok(frame));
        }
    }

    #[test]
    fn what_is_not_a_frame_is_refused() {
        for bytes in
            [&b""[..], b"\x01", b"\x02\x01\x07", b"\x01\x09", b"\x01\x02\x07\x00\x01\x02\x03"]
        {
            assert!(Frame::decode(bytes).is_err(), "{bytes:?}");
        }
        for bad in
            [Ask { kind: "a/b".into(), ..ask() }, Ask { request_id: Some("".into()), ..ask() }]
        {
            assert!(bad.target().is_err(), "{bad:?}");
        }
    }

    /// Whatever form an error has on the way, a caller must not be told that nothing happened when
    /// something may have.
    #[test]
    fn errors_keep_their_effect() {
        let (entity, shard) = (EntityId::new("order", "17").unwrap(), ShardId(0));
        let reason = || String::from("r");
        let errors = [
            AskError::Busy { entity: entity.clone(), waiting: 3 },
            AskError::NodeBusy { open: 4 },
            AskError::Timeout { entity: entity.clone() },
            AskError::Expired { entity: entity.clone() },
            AskError::RevisionMismatch { expected: Seq(1), actual: Seq(2) },
            AskError::Quarantined { entity: entity.clone(), reason: "r".into() },
            AskError::Crashed { entity: entity.clone(), reason: reason() },
            AskError::NotOwner { shard, leader: None },
            AskError::OutcomeUnknown { shard, reason: reason() },
            AskError::Unavailable { shard, reason: reason() },
            AskError::ShuttingDown,
            AskError::NodeFailed { cause: "r".into() },
            AskError::Lost { entity: entity.clone() },
            AskError::Journal(JournalError::Closed),
            AskError::Journal(JournalError::FailedUnderWay { cause: reason() }),
            AskError::Aborted { cause: reason(), effect: Effect::Unknown },
            AskError::Aborted { cause: reason(), effect: Effect::None },
        ];
        for error in errors {
            let there = Refusal::from(&error).error(Member::new(2, 1), &entity, "Pay", 12);
            assert_eq!(there.effect(), error.effect(), "{error:?} became {there:?}");
        }
    }

    #[test]
    fn texts_are_cut_at_a_character() {
        let long = "é".repeat(MAX_TEXT);
        assert_eq!(short(&long).len(), MAX_TEXT);
        assert!(short("x".to_owned() + &long).len() < MAX_TEXT);
    }
}
