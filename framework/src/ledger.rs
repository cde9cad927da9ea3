//! The message ledger: every accepted command ends in exactly one way.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::intent::Sent;

/// Counts what became of commands. Cheap, so it is always on.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    accepted: AtomicU64,
    replied: AtomicU64,
    rejected: AtomicU64,
    dead_lettered: AtomicU64,
}

/// What became of a node's commands so far. `accepted` is the sum of the other three once the node
/// is shut down; before, the difference is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerCounts {
    /// Commands that were taken into an entity's mailbox.
    pub accepted: u64,
    /// Of these, how many were carried out and answered.
    pub replied: u64,
    /// Of these, how many got a typed error.
    pub rejected: u64,
    /// Of these, how many were answered (or refused) when the caller was gone.
    pub dead_lettered: u64,
}

impl LedgerCounts {
    /// Commands that are accepted and not answered. Not negative, except in a count that was made
    /// while commands were answered.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.accepted.saturating_sub(self.replied + self.rejected + self.dead_lettered)
    }
}

impl Ledger {
    pub(crate) fn accept(&self) {
        self.accepted.fetch_add(1, Relaxed);
    }

    pub(crate) fn finish(&self, sent: Sent) {
        let count = match sent {
            Sent::Replied => &self.replied,
            Sent::Refused => &self.rejected,
            Sent::DeadLettered => &self.dead_lettered,
        };
        count.fetch_add(1, Relaxed);
    }

    pub(crate) fn counts(&self) -> LedgerCounts {
        // `accepted` last: then it is never less than the others' sum.
        let [replied, rejected, dead_lettered] =
            [&self.replied, &self.rejected, &self.dead_lettered].map(|n| n.load(Relaxed));
        LedgerCounts { accepted: self.accepted.load(Relaxed), replied, rejected, dead_lettered }
    }
}
