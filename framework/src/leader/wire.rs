//! Frames on [`Channel::Leader`](duractor_journal::transport::Channel::Leader), as
//! [`frames`](crate::frames) has them.

use bytes::Bytes;
use duractor_journal::{Effect, Member};
use serde::{Deserialize, Serialize};

use super::error::{LeaderError, LeaderInfo};
use crate::frames::{open, pack, unpack};

const VERSION: u8 = 1;

/// What nodes say to each other about the leader's work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    Call(Call),
    /// What became of the call with this number.
    Answer {
        id: u64,
        answer: Result<Bytes, Refusal>,
    },
}

/// A call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Call {
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) version: u16,
    /// Milliseconds until the caller gives up.
    pub(super) timeout_ms: u64,
    pub(super) payload: Bytes,
}

/// Why there is no reply, as far as a caller elsewhere can use it. New ones are added at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Refusal {
    NotLeader { leader: Option<(u64, Option<String>)> },
    LeadershipLost,
    UnknownHandler(String),
    Failed { name: String, reason: String },
    Busy(u64),
    Timeout,
    Other { unknown: bool, text: String },
}

impl From<LeaderError> for Refusal {
    fn from(error: LeaderError) -> Self {
        match error {
            LeaderError::NotLeader { leader } => {
                let leader = leader.map(|leader| (leader.member.to_u64(), leader.address));
                Refusal::NotLeader { leader }
            }
            LeaderError::LeadershipLost => Refusal::LeadershipLost,
            LeaderError::UnknownHandler { name } => Refusal::UnknownHandler(name),
            LeaderError::Failed { name, reason } => Refusal::Failed { name, reason },
            LeaderError::Busy { limit } => Refusal::Busy(limit as u64),
            LeaderError::Timeout => Refusal::Timeout,
            // Another node will lead soon.
            LeaderError::ShuttingDown => Refusal::NotLeader { leader: None },
            other @ (LeaderError::Codec(_) | LeaderError::Unreachable { .. }) => {
                let unknown = other.effect() == Effect::Unknown;
                Refusal::Other { unknown, text: other.to_string() }
            }
        }
    }
}

impl Refusal {
    /// What it is to the caller who asked `leader`.
    pub(super) fn error(self, leader: Member) -> LeaderError {
        match self {
            Refusal::NotLeader { leader } => {
                let info =
                    |(member, address)| LeaderInfo { member: Member::from_u64(member), address };
                LeaderError::NotLeader { leader: leader.map(info) }
            }
            Refusal::LeadershipLost => LeaderError::LeadershipLost,
            Refusal::UnknownHandler(name) => LeaderError::UnknownHandler { name },
            Refusal::Failed { name, reason } => LeaderError::Failed { name, reason },
            Refusal::Busy(limit) => LeaderError::Busy { limit: limit as usize },
            Refusal::Timeout => LeaderError::Timeout,
            Refusal::Other { unknown, text: reason } => {
                let effect = if unknown { Effect::Unknown } else { Effect::None };
                LeaderError::Unreachable { leader, reason, effect }
            }
        }
    }
}

impl Frame {
    pub(super) fn encode(&self) -> Result<Bytes, String> {
        match self {
            Frame::Call(call) => pack(VERSION, 1, call),
            Frame::Answer { id, answer } => pack(VERSION, 2, &(id, answer)),
        }
    }

    /// What went wrong is for the log.
    pub(super) fn decode(frame: &[u8]) -> Result<Self, String> {
        let (what, fields) = open(VERSION, frame)?;
        Ok(match what {
            1 => Frame::Call(unpack(fields)?),
            2 => {
                let (id, answer) = unpack(fields)?;
                Frame::Answer { id, answer }
            }
            what => return Err(format!("nobody knows kind {what}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes of different releases talk to each other: these bytes never change.
    #[test]
    fn frames_are_as_they_were() {
        let call = Call {
            id: 7,
            name: "Report".into(),
            version: 1,
            timeout_ms: 5000,
            payload: Bytes::from_static(b"\x2a"),
        };
        let leader = Some((Member::new(2, 1).to_u64(), Some("b:1".to_owned())));
        let frames: [(Frame, &[u8]); 3] = [
            (Frame::Call(call), b"\x01\x01\x07\x06Report\x01\x88\x27\x01\x2a"),
            (
                Frame::Answer { id: 7, answer: Ok(Bytes::from_static(b"\x02")) },
                b"\x01\x02\x07\x00\x01\x02",
            ),
            (
                Frame::Answer { id: 7, answer: Err(Refusal::NotLeader { leader }) },
                b"\x01\x02\x07\x01\x00\x01\x81\x80\x80\x80\x20\x01\x03b:1",
            ),
        ];
        for (frame, bytes) in frames {
            assert_eq!(frame.encode().as_deref(), Ok(bytes), "{frame:?}");
            assert_eq!(Frame::decode(bytes), Ok(frame));
        }
        assert!(Frame::decode(b"\x01\x09").is_err());
    }

    #[test]
    fn errors_keep_their_effect() {
        let leader = Member::new(1, 1);
        let unreachable = |effect| LeaderError::Unreachable { leader, reason: "r".into(), effect };
        for error in [
            LeaderError::NotLeader { leader: None },
            LeaderError::LeadershipLost,
            LeaderError::UnknownHandler { name: "n".into() },
            LeaderError::Failed { name: "n".into(), reason: "r".into() },
            LeaderError::Busy { limit: 3 },
            LeaderError::Timeout,
            LeaderError::ShuttingDown,
            unreachable(Effect::None),
            unreachable(Effect::Unknown),
        ] {
            let there = Refusal::from(error.clone()).error(leader);
            assert_eq!(there.effect(), error.effect(), "{error:?} became {there:?}");
        }
    }
}
