//! Why a connection was not taken: counted by reason, logged with one line each.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Why a connection was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Refusal {
    /// Too many connections have not proved who they are: the oldest made room.
    Crowded,
    /// The peer took too long to prove who it is.
    Deadline,
    /// The peer closed the connection, or it broke, before the handshake was over.
    Closed,
    /// What came is no TLS, or broken.
    Tls,
    /// There is no certificate, or none that leads to our CA.
    Certificate,
    /// What came is not this protocol.
    Protocol,
    /// A message of the handshake is longer than any can be.
    TooLong,
    /// The peer speaks no version of the protocol that this node speaks.
    Version,
    /// The peer is of another cluster.
    Cluster,
    /// The peer claims to be another node than its certificate says.
    Node,
    /// The peer repeats a handshake that it has not made.
    Replay,
    /// The peer is this node itself, or says so.
    Myself,
    /// A better connection with this peer is there already. Usual where both dial at once.
    Duplicate,
    /// A connection for more room came without the session that it belongs to.
    NoSession,
    /// The node is shutting down.
    Closing,
    /// As many clients are linked as may be.
    Clients,
    /// A client where a node is expected, or the other way round: as the certificate of the one and
    /// the claim to be the other.
    Role,
    /// For a reason that this version does not know.
    Other,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Crowded => "too many connections that have not proved who they are",
            Self::Deadline => "the handshake took too long",
            Self::Closed => "the connection ended during the handshake",
            Self::Tls => "no TLS, or broken",
            Self::Certificate => "no certificate of our CA",
            Self::Protocol => "not this protocol",
            Self::TooLong => "a message of the handshake is too long",
            Self::Version => "no common version of the protocol",
            Self::Cluster => "another cluster",
            Self::Node => "another node than the certificate says",
            Self::Replay => "a handshake that was made before",
            Self::Myself => "it is this node",
            Self::Duplicate => "there is a better connection already",
            Self::NoSession => "no session that it belongs to",
            Self::Closing => "the node is shutting down",
            Self::Clients => "as many clients are linked as may be",
            Self::Role => "a client where a node is expected, or the other way round",
            Self::Other => "an unknown reason",
        })
    }
}

/// How often connections were refused, by reason, since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusals {
    /// By this node.
    pub by_us: BTreeMap<Refusal, u64>,
    /// By peers, as they said.
    pub by_peer: BTreeMap<Refusal, u64>,
}

/// A connection that came to nothing.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) reason: Refusal,
    pub(crate) by_peer: bool,
    /// For the log.
    pub(crate) detail: String,
}

impl Refused {
    pub(crate) fn new(reason: Refusal, detail: impl fmt::Display) -> Self {
        Self { reason, by_peer: false, detail: detail.to_string() }
    }

    pub(crate) fn by_peer(reason: Refusal, detail: impl fmt::Display) -> Self {
        Self { reason, by_peer: true, detail: detail.to_string() }
    }
}

/// Lines of one reason that may come at once.
const BURST: f64 = 512.0;
/// Lines of one reason a second after that.
const RATE: f64 = 16.0;

struct Bucket {
    left: f64,
    since: Instant,
    suppressed: u64,
}

/// Counts refusals and logs them, at a bounded rate for each reason.
#[derive(Default)]
pub(crate) struct Book {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    counts: Refusals,
    buckets: BTreeMap<(Refusal, bool), Bucket>,
}

impl Book {
    pub(crate) fn counts(&self) -> Refusals {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).counts.clone()
    }

    /// Counts and logs one. `with` says whom it was with, and how the connection came about.
    pub(crate) fn note(&self, refused: &Refused, with: &dyn fmt::Display) {
        let Refused { reason, by_peer, detail } = refused;
        let suppressed = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            let Inner { counts, buckets } = &mut *inner;
            let side = if *by_peer { &mut counts.by_peer } else { &mut counts.by_us };
            *side.entry(*reason).or_default() += 1;
            let bucket = buckets.entry((*reason, *by_peer)).or_insert_with(Bucket::full);
            match bucket.take(Instant::now()) {
                Some(suppressed) => suppressed,
                None => return,
            }
        };
        if *reason == Refusal::Duplicate {
            tracing::debug!(%with, by_peer, %reason, detail, suppressed, "a connection is refused");
        } else {
            tracing::warn!(%with, by_peer, %reason, detail, suppressed, "a connection is refused");
        }
    }
}

impl Bucket {
    fn full() -> Self {
        Self { left: BURST, since: Instant::now(), suppressed: 0 }
    }

    /// Takes one: how many were suppressed before it, or `None` where it is to be suppressed too.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let passed: Duration = now.saturating_duration_since(self.since);
        self.since = now;
        self.left = (self.left + passed.as_secs_f64() * RATE).min(BURST);
        if self.left < 1.0 {
            self.suppressed += 1;
            return None;
        }
        self.left -= 1.0;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_whole_and_logged_in_part() {
        let mut bucket = Bucket::full();
        let now = bucket.since;
        let logged = (0..2000).filter(|_| bucket.take(now).is_some()).count();
        assert_eq!(logged, BURST as usize);
        let later = now + Duration::from_secs(1);
        assert_eq!(bucket.take(later), Some(2000 - BURST as u64), "the next line says how many");
    }
}
