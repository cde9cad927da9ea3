//! The `Transport` port: frames between the nodes of a cluster. The fifth seam.
//!
//! Production has links over mutual TLS (crate `duractor`), a simulation its own network. What is
//! sent arrives at most once and may be lost; whoever needs an answer asks again. Frames of one
//! class that arrive within one session arrive in the order in which they were sent.

use std::{fmt, str::FromStr, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

#[cfg(feature = "contract")]
pub mod contract;
pub mod memory;

/// A node's number within its cluster, chosen by whoever sets the cluster up; 1 or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A node with a certain disk: what votes in a journal group. A node whose disk was lost comes back
/// with the next incarnation, for its old one has forgotten what it promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// Which disk of the node, from 1.
    pub incarnation: u32,
}

impl Member {
    /// A member; incarnations count from 1.
    #[must_use]
    pub const fn new(node: u32, incarnation: u32) -> Self {
        Self { node: NodeId(node), incarnation }
    }

    /// As one number, which keeps the order.
    #[must_use]
    pub const fn to_u64(self) -> u64 {
        ((self.node.0 as u64) << 32) | self.incarnation as u64
    }

    /// Back from [`to_u64`](Self::to_u64).
    #[must_use]
    pub const fn from_u64(number: u64) -> Self {
        Self { node: NodeId((number >> 32) as u32), incarnation: number as u32 }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.node, self.incarnation)
    }
}

/// A text that is no [`Member`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no member: write the node's number, a dot, and its incarnation, as in 2.1")]
pub struct InvalidMember(String);

impl FromStr for Member {
    type Err = InvalidMember;

    fn from_str(text: &str) -> Result<Self, InvalidMember> {
        let parse = || {
            let (node, incarnation) = text.split_once('.')?;
            Some(Member::new(node.parse().ok()?, incarnation.parse().ok()?))
        };
        parse()
            .filter(|m| m.node.0 > 0 && m.incarnation > 0)
            .ok_or_else(|| InvalidMember(text.into()))
    }
}

/// How urgent a frame is. Each class has its own order, and none waits for a lesser one longer than
/// for the frame that is being sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Heartbeats, votes, answers: small.
    Control,
    /// Log entries and commands.
    Data,
    /// Checkpoints, snapshots: as much as there is room for.
    Bulk,
}

/// Whose frame it is: each part of a node listens on its own channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Channel {
    /// Journal groups.
    Journal = 1,
    /// Forming and changing the cluster.
    Cluster = 2,
    /// Snapshots of entities.
    Snapshots = 3,
    /// Commands to entities.
    Entities = 4,
    /// Calls to the cluster's leader.
    Leader = 5,
}

impl Channel {
    /// The channel with this number.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<Self> {
        [Self::Journal, Self::Cluster, Self::Snapshots, Self::Entities, Self::Leader]
            .into_iter()
            .find(|channel| *channel as u8 == number)
    }
}

/// Why a frame was not taken. It was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no session with this peer now.
    #[error("there is no link to the peer")]
    NotConnected,
    /// As many bytes are under way to the peer as may be. Try again later.
    #[error("the link to the peer is full")]
    Full,
    /// Longer than [`Transport::max_frame_bytes`].
    #[error("a frame has {bytes} bytes, and at most {limit} are allowed")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The longest that is allowed.
        limit: usize,
    },
}

/// What happens on a transport. A session is one connection's life: it has a number, and a peer has
/// at most one at a time. `Up` comes before any frame of a session, `Down` after all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A peer can be reached.
    Up {
        /// Which.
        peer: Member,
        /// The session that begins.
        session: u64,
    },
    /// A peer cannot be reached any more: the connection broke, or nothing was heard for too long.
    Down {
        /// Which.
        peer: Member,
        /// The session that ended.
        session: u64,
    },
    /// A frame arrived.
    Frame {
        /// From whom.
        from: Member,
        /// In which session.
        session: u64,
        /// What was sent.
        frame: Bytes,
    },
}

/// Hears what happens. Called one event after the other for each peer and class; must be quick and
/// must not block.
pub trait Receiver: Send + Sync + 'static {
    /// Takes an event.
    fn event(&self, event: Event);
}

/// Frames to other nodes. See the module's page for what is promised.
pub trait Transport: Send + Sync + 'static {
    /// This node.
    fn me(&self) -> Member;

    /// The longest frame that can be sent, in bytes: at least 64 MiB for [`Class::Data`] and
    /// [`Class::Bulk`].
    fn max_frame_bytes(&self) -> usize;

    /// Sends a frame, at most once. Never blocks. `Ok` says only that it was taken.
    ///
    /// # Errors
    /// [`SendError`]: it was not sent.
    fn send(
        &self,
        to: Member,
        channel: Channel,
        class: Class,
        frame: Bytes,
    ) -> Result<(), SendError>;

    /// Sets who hears what arrives on a channel, instead of whoever did. Peers that are up are
    /// announced to it at once. Not to be called by a receiver while it takes an event.
    fn listen(&self, channel: Channel, receiver: Arc<dyn Receiver>);

    /// Keeps a link to whoever is at this address (`host:port`), until [`forget`](Self::forget).
    /// Who that is says the `Up` event.
    fn reach(&self, address: &str);

    /// Gives up the link that [`reach`](Self::reach) asked for.
    fn forget(&self, address: &str);

    /// Who can be reached now, in order.
    fn peers(&self) -> Vec<Member>;

    /// How likely it is that a peer that is still linked is gone: 10^-phi is the probability that it is
    /// silent for so long by chance. `None` where there is no link, or nothing is measured.
    fn phi(&self, peer: Member) -> Option<f64> {
        let _ = peer;
        None
    }
}

/// The transport of a node alone: it reaches nobody.
#[derive(Debug, Clone, Copy)]
pub struct NoPeers(
    /// This node.
    pub Member,
);

impl Transport for NoPeers {
    fn me(&self) -> Member {
        self.0
    }

    fn max_frame_bytes(&self) -> usize {
        64 << 20
    }

    fn send(&self, _: Member, _: Channel, _: Class, _: Bytes) -> Result<(), SendError> {
        Err(SendError::NotConnected)
    }

    fn listen(&self, _: Channel, _: Arc<dyn Receiver>) {}

    fn reach(&self, _: &str) {}

    fn forget(&self, _: &str) {}

    fn peers(&self) -> Vec<Member> {
        Vec::new()
    }
}
