//! Who holds and who waits: sessions, their leases, and tickets.

use std::fmt;

use duractor_journal::env::Entropy;
use serde::{Deserialize, Serialize};

/// A session: something on one node that takes locks, and loses all of them when it dies. Drawn at
/// random, and never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub(crate) u128);

impl SessionId {
    /// A new one.
    pub(crate) fn draw(entropy: &dyn Entropy) -> Self {
        Self((u128::from(entropy.next_u64()) << 64) | u128::from(entropy.next_u64()))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// One wish of a session to hold something: it waits, holds, and ends. A session numbers its tickets
/// from 1; `era` counts the leases that it had with the shard: what it held under an earlier one is
/// lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Ticket {
    pub(crate) session: SessionId,
    pub(crate) era: u32,
    pub(crate) number: u64,
}
