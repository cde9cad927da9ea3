//! What nodes say to each other on [`Channel::Cluster`](duractor_journal::transport::Channel).
//!
//! A frame is one byte, the version of this protocol, and a message as JSON. Messages are few and
//! small, and JSON lets a release add fields that an older one does not know.

use std::collections::BTreeSet;

use bytes::Bytes;
use duractor_journal::{GroupStatus, Member, NodeId, ShardId, Term};
use serde::{Deserialize, Serialize};

use super::{
    checks::DrainStatus,
    error::Refusal,
    forecast::{Forecast, WhatIf},
    overview::BalanceStatus,
    properties::{About, Affinity, DrainMode},
    view::GroupReport,
};
use crate::load::ShardLoad;

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
        /// What the node says of itself; nothing from a release that has nothing to say.
        #[serde(default)]
        about: Option<About>,
        /// How much is asked of the shards that it leads.
        #[serde(default)]
        loads: Vec<ShardLoad>,
    },
    /// How the cluster is balanced: from the leader of shard 0 to all who understand it, again and again.
    Overview {
        /// The leader's term.
        term: Term,
        /// How it is.
        status: Box<BalanceStatus>,
    },
    /// Who the members are: to a client, when it comes and whenever that changes. Clients say nothing
    /// on this channel.
    Members {
        /// The cluster's id.
        cluster_id: u64,
        /// How many shards it has.
        shards: u16,
        /// The revision of the cluster's state that this follows from.
        revision: u64,
        /// The members, with their addresses.
        members: Vec<(Member, String)>,
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
        /// What it says of itself; nothing from a release that has nothing to say.
        #[serde(default)]
        about: Option<About>,
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
        /// The group as it was when this was decided; nothing from a release that does not say.
        #[serde(default)]
        basis: Option<Basis>,
    },
    /// Call off the change of a group that you lead, where nothing of it counts yet.
    CallOff {
        /// The group.
        shard: ShardId,
    },
    /// Do what an operator asks for.
    Operate {
        /// What.
        operation: Operation,
        /// Why, for those who look later.
        reason: String,
    },
    /// What would be moved?
    Forecast {
        /// After which change.
        what_if: WhatIf,
    },
    /// Do you get an answer from this member?
    Probe {
        /// Which.
        member: Member,
    },
    /// How far is the draining of a node?
    Draining {
        /// Which.
        node: NodeId,
    },
}

/// What a step was decided on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Basis {
    /// The group's term.
    pub(super) term: Term,
    /// Who voted.
    pub(super) voters: BTreeSet<Member>,
    /// Who followed.
    pub(super) learners: BTreeSet<Member>,
}

impl Basis {
    pub(super) fn of(group: &GroupReport) -> Self {
        let (voters, learners) = (group.voters.clone(), group.learners.clone());
        Self { term: group.term, voters, learners }
    }

    /// Whether a group is as it was.
    pub(super) fn check(&self, group: &GroupStatus) -> Result<(), Refusal> {
        let reason = if group.term != self.term {
            format!("it is in term {}, and was in {}", group.term, self.term)
        } else if group.voters != self.voters || group.learners != self.learners {
            format!("its members are {:?} and {:?}", group.voters, group.learners)
        } else {
            return Ok(());
        };
        Err(Refusal::Stale { shard: group.shard, reason })
    }
}

/// What an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub(super) enum Operation {
    /// Drain a node.
    Drain {
        /// Which.
        node: NodeId,
        /// Of what.
        mode: DrainMode,
    },
    /// Use it again.
    Resume {
        /// Which.
        node: NodeId,
    },
    /// Move nothing for balance.
    Pause,
    /// The same, and call off what is under way.
    Cancel,
    /// Move again what is out of balance.
    Unpause,
    /// Place shards in turn, or by hash.
    Modulo {
        /// Whether in turn.
        on: bool,
    },
    /// Prefer the newest version for leading.
    PreferNewest {
        /// Whether to.
        on: bool,
    },
    /// Say where a shard had better be.
    Bind {
        /// Which.
        shard: ShardId,
        /// Where; anywhere where it is `None`.
        affinity: Option<Affinity>,
    },
    /// Say who had better lead a shard.
    PreferLeader {
        /// Which.
        shard: ShardId,
        /// Who; anybody where it is `None`.
        node: Option<NodeId>,
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
    /// To `Probe`.
    Probed {
        /// Whether it answered.
        answers: bool,
    },
    /// To `Forecast`.
    Forecast {
        /// What would be moved.
        forecast: Forecast,
    },
    /// To `Draining`: how far it is, where the node is drained.
    Draining {
        /// How far.
        status: Option<DrainStatus>,
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
            executing: false,
            last_index: Some(u64::MAX),
            replicated: vec![(member, None)],
        };
        let order = Order::Members { voters: vec![member], learners: vec![] };
        let refusal = Refusal::WouldBreakQuorum { node: NodeId(1), shards: vec![ShardId(0)] };
        for message in [
            Message::Hello { cluster_id: u64::MAX, cluster: "c".into(), known: true },
            Message::Ask {
                id: 1,
                request: Request::Order {
                    revision: 2,
                    shard: ShardId(3),
                    order,
                    basis: Some(Basis::of(&group)),
                },
            },
            Message::Ask {
                id: 1,
                request: Request::Operate {
                    operation: Operation::Bind {
                        shard: ShardId(1),
                        affinity: Some(Affinity::Nodes(vec![NodeId(1)])),
                    },
                    reason: "r".into(),
                },
            },
            Message::Ask { id: 1, request: Request::Which },
            Message::Answer { id: 1, reply: Reply::Refused { refusal } },
            Message::Report { groups: vec![group], about: None, loads: Vec::new() },
            Message::Members {
                cluster_id: 1,
                shards: 12,
                revision: 3,
                members: vec![(member, "a:1".into())],
            },
        ] {
            assert_eq!(decode(&encode(&message)), Ok(message));
        }
    }

    /// Cause: a step was carried out though the group was not as it was when that was decided.
    /// Consequence: it would undo what was done since, as give a drained node its leadership back. Fix: a
    /// step says what it was decided on.
    #[test]
    fn a_step_that_follows_from_another_group_is_refused() {
        let mut group = GroupStatus::outside(ShardId(4));
        group.term = Term(7);
        group.voters = [Member::new(1, 1), Member::new(2, 1)].into();
        let (voters, learners) = (group.voters.clone(), group.learners.clone());
        let basis = Basis { term: Term(7), voters, learners };
        assert_eq!(basis.check(&group), Ok(()));
        let changes: [fn(&mut GroupStatus); 3] = [
            |group| group.term = Term(8),
            |group| {
                group.voters.insert(Member::new(3, 1));
            },
            |group| {
                group.learners.insert(Member::new(3, 1));
            },
        ];
        for change in changes {
            let mut group = group.clone();
            change(&mut group);
            let refused = basis.check(&group);
            assert!(
                matches!(refused, Err(Refusal::Stale { shard: ShardId(4), .. })),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn other_versions_and_rubbish_are_refused() {
        assert!(decode(b"").is_err());
        assert!(decode(b"\x02{}").expect_err("version 2").contains("version 2"));
        assert!(decode(b"\x01{\"type\":\"nonsense\"}").is_err());
        let newer = b"\x01{\"type\":\"hello\",\"cluster_id\":1,\"cluster\":\"c\",\"more\":1}";
        assert!(decode(newer).is_ok(), "a newer release may say more");
        let older = b"\x01{\"type\":\"report\",\"groups\":[]}";
        let less = Message::Report { groups: Vec::new(), about: None, loads: Vec::new() };
        assert_eq!(decode(older), Ok(less), "an older release says less");
        let older = b"\x01{\"type\":\"ask\",\"id\":1,\"request\":{\"ask\":\"join\",\"node\":2,\
            \"address\":\"a:1\",\"token\":3}}";
        assert!(decode(older).is_ok(), "so does one that wants to join");
    }
}
