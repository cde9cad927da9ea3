//! What nodes say to each other on [`Channel::Cluster`](duractor_journal::transport::Channel).
//!
//! A frame is one byte, the version of this protocol, and a message as JSON. Messages are few and
//! small, and JSON lets a release add fields that an older one does not know.

use bytes::Bytes;
use duractor_journal::{Member, NodeId, ShardId};
use serde::{Deserialize, Serialize};

use super::{error::Refusal, plan::GroupReport};

/// The version of the protocol.
pub(super) const VERSION: u8 = 1;

/// The incarnation of a node that has none yet: it asks to be let in.
pub(super) const ASKING: u32 = u32::MAX;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(super) enum Message {
    /// Who somebody is: said to every peer, until it is admitted.
    Hello {
        /// The cluster's id, as the data directory has it.
        cluster_id: u64,
        /// Its name.
        cluster: String,
        /// Whether the sender has let the peer in. Otherwise it wants to hear who the peer is.
        #[serde(default)]
        known: bool,
    },
    /// The peer is not let in. One of both is wrong here: see the ids.
    Refused {
        /// The id of the sender's cluster.
        cluster_id: u64,
        /// What to do.
        refusal: Refusal,
    },
    /// A question.
    Ask {
        /// Which; the answer has the same.
        id: u64,
        /// What is asked.
        request: Request,
    },
    /// An answer.
    Answer {
        /// To which question.
        id: u64,
        /// What is answered.
        reply: Reply,
    },
    /// The groups that a node leads: to the leader of shard 0, again and again.
    Report {
        /// All of them.
        groups: Vec<GroupReport>,
    },
}

/// What one node asks of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub(super) enum Request {
    /// Which cluster do you belong to?
    Which,
    /// Let this node in.
    Join {
        /// Its number.
        node: NodeId,
        /// Where it is.
        address: String,
        /// Drawn for this attempt, so that a repeat gets the same answer.
        token: u64,
    },
    /// The asking member is at this address.
    Moved {
        /// Where it is.
        address: String,
    },
    /// The asking member wants to leave.
    Leave,
    /// Take a dead node out.
    Remove {
        /// Which.
        node: NodeId,
        /// Also where it is up.
        force: bool,
        /// Why, for those who look later.
        reason: String,
    },
    /// How does this member stand?
    Standing {
        /// Which.
        member: Member,
    },
    /// Change the group that you lead.
    Order {
        /// The revision of the cluster's state that this follows from.
        revision: u64,
        /// The group.
        shard: ShardId,
        /// What to do.
        order: Order,
    },
}

/// What the leader of shard 0 tells the leader of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
pub(super) enum Order {
    /// Have these members.
    Members {
        /// Who votes.
        voters: Vec<Member>,
        /// Who follows.
        learners: Vec<Member>,
    },
    /// Hand over.
    Transfer {
        /// To whom.
        to: Member,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub(super) enum Reply {
    /// To `Which`.
    Cluster {
        /// Its id.
        cluster_id: u64,
        /// Its name.
        cluster: String,
    },
    /// To `Join`: welcome.
    Welcome {
        /// The cluster's id.
        cluster_id: u64,
        /// The incarnation to take.
        incarnation: u32,
        /// How many shards there are.
        shards: u16,
        /// The members, with their addresses.
        members: Vec<(Member, String)>,
    },
    /// To `Standing`: whether it is a member still.
    Standing {
        /// Not removed.
        present: bool,
    },
    /// To the others: done, or begun.
    Done,
    /// No.
    Refused {
        /// Why.
        refusal: Refusal,
    },
}

/// A message as a frame.
pub(super) fn encode(message: &Message) -> Bytes {
    let mut frame = vec![VERSION];
    // Of plain structs, so it cannot fail; an empty message is refused by whoever gets it.
    if serde_json::to_writer(&mut frame, message).is_err() {
        frame.truncate(1);
    }
    frame.into()
}

/// A frame as a message.
pub(super) fn decode(frame: &[u8]) -> Result<Message, String> {
    match frame.split_first() {
        Some((&VERSION, json)) => serde_json::from_slice(json).map_err(|error| error.to_string()),
        Some((version, _)) => Err(format!(
            "it speaks version {version} of the cluster's protocol, and this node version {VERSION}"
        )),
        None => Err("it is empty".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back() {
        let member = Member::new(2, 3);
        let group = GroupReport {
            shard: ShardId(4),
            leader: member,
            term: duractor_journal::Term(9),
            voters: [member].into(),
            learners: [Member::new(1, 1)].into(),
            changing: true,
            last_index: Some(u64::MAX),
            replicated: vec![(member, None)],
        };
        let order = Order::Members { voters: vec![member], learners: vec![] };
        let refusal = Refusal::WouldBreakQuorum { node: NodeId(1), shards: vec![ShardId(0)] };
        for message in [
            Message::Hello { cluster_id: u64::MAX, cluster: "c".into(), known: true },
            Message::Ask {
                id: 1,
                request: Request::Order { revision: 2, shard: ShardId(3), order },
            },
            Message::Ask { id: 1, request: Request::Which },
            Message::Answer { id: 1, reply: Reply::Refused { refusal } },
            Message::Report { groups: vec![group] },
        ] {
            assert_eq!(decode(&encode(&message)), Ok(message));
        }
    }

    #[test]
    fn other_versions_and_rubbish_are_refused() {
        assert!(decode(b"").is_err());
        assert!(decode(b"\x02{}").expect_err("version 2").contains("version 2"));
        assert!(decode(b"\x01{\"type\":\"nonsense\"}").is_err());
        let newer = b"\x01{\"type\":\"hello\",\"cluster_id\":1,\"cluster\":\"c\",\"more\":1}";
        assert!(decode(newer).is_ok(), "a newer release may say more");
    }
}
