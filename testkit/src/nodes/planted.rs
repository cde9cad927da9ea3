//! Bugs that the simulation of whole nodes must find.

use super::plan::Trouble;

/// A bug of a cluster's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Planted {
    /// Writes are acknowledged first and fsynced later, before the next write.
    AckBeforeFsync,
    /// A barrier at whoever takes itself for the leader asks nobody.
    StaleLeaderRead,
    /// A repeat of a request is not recognised.
    ForgetRequests,
}

impl Planted {
    /// All of them.
    pub const ALL: [Planted; 3] =
        [Planted::AckBeforeFsync, Planted::StaleLeaderRead, Planted::ForgetRequests];

    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Planted::AckBeforeFsync => "ack-before-fsync",
            Planted::StaleLeaderRead => "stale-leader-read",
            Planted::ForgetRequests => "forget-requests",
        }
    }

    /// Whether this build can plant it: bugs inside of the journal need the feature `planted`.
    #[must_use]
    pub fn available(self) -> bool {
        cfg!(feature = "planted") || matches!(self, Planted::AckBeforeFsync)
    }

    /// The troubles that bring it out. Other random ones come with them.
    pub(super) fn needs(self) -> &'static [Trouble] {
        use Trouble::{Crash, CrashMany, Cut, Freeze, Kill, Transfer};
        match self {
            Planted::AckBeforeFsync => &[CrashMany, CrashMany, Crash],
            Planted::StaleLeaderRead => &[Cut, Cut, Freeze],
            Planted::ForgetRequests => &[Cut, Kill, Transfer],
        }
    }
}

/// Plants a bug on this thread, or takes it away.
#[cfg(feature = "planted")]
pub(super) fn plant(bug: Option<Planted>) {
    use duractor_journal::planted::{Planted as Inside, plant};
    plant(match bug {
        Some(Planted::StaleLeaderRead) => Some(Inside::StaleLeaderRead),
        Some(Planted::ForgetRequests) => Some(Inside::DedupForgotten),
        Some(Planted::AckBeforeFsync) | None => None,
    });
}

#[cfg(not(feature = "planted"))]
pub(super) fn plant(_bug: Option<Planted>) {}
