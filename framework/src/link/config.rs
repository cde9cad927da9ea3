//! What links are set up with, and what can be wrong with it.

use std::net::SocketAddr;

use duractor_journal::{Env, Member};

use super::{
    tls::{TlsError, TlsFiles},
    who::{is_client, is_name},
};

/// What keeps strangers out.
#[derive(Debug, Clone)]
pub enum Security {
    /// Mutual TLS 1.3. The certificate names this node as `duractor://CLUSTER/node/N`, or this client
    /// as `duractor://CLUSTER/client/NAME`.
    Tls(TlsFiles),
    /// Plain TCP without any protection, for development on one machine: refused unless the listener
    /// is on loopback, and reaches loopback addresses only.
    Insecure,
}

/// Which connection frames of [`Class::Data`](duractor_journal::transport::Class::Data) take.
/// Whoever dials decides for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataLane {
    /// The actor session, together with Control frames.
    Session,
    /// A connection of their own: less delay and less CPU time, see `examples/links.rs`.
    Own,
}

/// What links are set up with. [`new`](Self::new) has the defaults.
#[derive(Clone)]
pub struct LinkConfig {
    /// This node. A number from [`FIRST_CLIENT`](super::FIRST_CLIENT) on is a client's: it dials nodes
    /// and listens nowhere.
    pub me: Member,
    /// The cluster's name: 1 to 64 of `a-z A-Z 0-9 - _ .`. Nodes of other clusters are refused.
    pub cluster: String,
    /// Where to listen. Port 0 takes a free one: see [`Links::address`](super::Links::address).
    pub listen: SocketAddr,
    /// What keeps strangers out.
    pub security: Security,
    /// The seams; clock and entropy are used.
    pub env: Env,
    /// Which connection Data frames take.
    pub data_lane: DataLane,
    /// The longest Data or Bulk frame, in bytes. 64 MiB unless set.
    pub max_frame_bytes: usize,
    /// Bytes of Control frames under way to a peer, and the longest of them. 1 MiB unless set.
    pub control_window_bytes: usize,
    /// Bytes of Data frames under way to a peer. One frame alone may be longer. 4 MiB unless set.
    pub data_window_bytes: usize,
    /// Bytes of Bulk frames under way to a peer. One frame alone may be longer. 4 MiB unless set.
    pub bulk_window_bytes: usize,
    /// How often a sign of life is sent. 100 unless set.
    pub heartbeat_ms: u64,
    /// A peer unheard of for this long is down, at the latest. One that was heard regularly is so
    /// earlier: when so long a silence comes about by chance once in 10^8 times, as its last 100 signs
    /// of life came. After 4 heartbeats with steady ones. 500 unless set.
    pub silence_ms: u64,
    /// How long a connection may take until the peer has proved who it is, and a link until all its
    /// connections stand. 2000 unless set.
    pub handshake_ms: u64,
    /// How long to wait for a TCP connection. 1000 unless set.
    pub connect_ms: u64,
    /// The first pause before dialling again; it doubles. 10 unless set.
    pub backoff_min_ms: u64,
    /// The longest pause before dialling again. 1000 unless set.
    pub backoff_max_ms: u64,
    /// Connections that have not proved who they are: one more ends the oldest. 256 unless set.
    pub max_strangers: usize,
    /// The same for those of one address. 64 unless set.
    pub max_strangers_per_address: usize,
    /// Clients that are linked at once: one more is refused. None unless set.
    pub max_clients: usize,
}

impl LinkConfig {
    /// The defaults.
    #[must_use]
    pub fn new(
        me: Member,
        cluster: impl Into<String>,
        listen: SocketAddr,
        security: Security,
    ) -> Self {
        Self {
            me,
            cluster: cluster.into(),
            listen,
            security,
            env: Env::production(),
            data_lane: DataLane::Own,
            max_frame_bytes: 64 << 20,
            control_window_bytes: 1 << 20,
            data_window_bytes: 4 << 20,
            bulk_window_bytes: 4 << 20,
            heartbeat_ms: 100,
            silence_ms: 500,
            handshake_ms: 2000,
            connect_ms: 1000,
            backoff_min_ms: 10,
            backoff_max_ms: 1000,
            max_strangers: 256,
            max_strangers_per_address: 64,
            max_clients: 0,
        }
    }

    pub(super) fn check(&self) -> Result<(), LinkError> {
        let wrong = |key, allowed| Err(LinkError::Config { key, allowed });
        if !is_name(&self.cluster) {
            return wrong("cluster", "1 to 64 of a-z A-Z 0-9 - _ .");
        }
        if self.me.node.0 == 0 || self.me.incarnation == 0 {
            return wrong("me", "a node and an incarnation of 1 or more");
        }
        if !(1..=24_000).contains(&self.heartbeat_ms) {
            return wrong("heartbeat_ms", "1 to 24000");
        }
        if self.silence_ms < 2 * self.heartbeat_ms {
            return wrong("silence_ms", "at least twice heartbeat_ms");
        }
        if self.handshake_ms == 0 || self.connect_ms == 0 {
            return wrong("handshake_ms, connect_ms", "1 or more");
        }
        if self.backoff_min_ms == 0 || self.backoff_max_ms < self.backoff_min_ms {
            return wrong("backoff_min_ms, backoff_max_ms", "1 or more, and min <= max");
        }
        if self.max_strangers == 0 || self.max_strangers_per_address == 0 {
            return wrong("max_strangers, max_strangers_per_address", "1 or more");
        }
        if !(4096..=MAX_CONTROL_BYTES).contains(&self.control_window_bytes) {
            return wrong("control_window_bytes", "4096 to 4194304");
        }
        if !(64 << 20..=1 << 30).contains(&self.max_frame_bytes) {
            return wrong("max_frame_bytes", "67108864 to 1073741824");
        }
        if matches!(self.security, Security::Insecure)
            && !self.listen.ip().is_loopback()
            && !is_client(self.me)
        {
            return Err(LinkError::InsecureNotLoopback { listen: self.listen });
        }
        Ok(())
    }
}

/// The most that the session carries in one piece is built from this.
pub(super) const MAX_CONTROL_BYTES: usize = 4 << 20;

/// Why links did not start. Nothing runs then.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A value is out of its range.
    #[error("{key} must be {allowed}")]
    Config {
        /// Which value.
        key: &'static str,
        /// What it may be.
        allowed: &'static str,
    },
    /// Insecure links on an address that others can reach.
    #[error("insecure links listen on loopback only, and {listen} is not: use certificates")]
    InsecureNotLoopback {
        /// The address that was asked for.
        listen: SocketAddr,
    },
    /// Certificates or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address cannot be listened on.
    #[error("cannot listen on {listen}: {error}")]
    Listen {
        /// The address that was asked for.
        listen: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// The actors of the links did not start.
    #[error("an actor did not start: {reason}")]
    Actor {
        /// What the actor library says.
        reason: String,
    },
}
