//! Bugs that the simulation of whole nodes must find.

use super::plan::Trouble;

/// A bug of a cluster's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Planted {
    /// Writes are acknowledged first and fsynced later, before the next write.
    AckBeforeFsync,
    /// A replica that was restarted votes at once, though a leader may count on its silence.
    PromiseForgotten,
    /// Leadership is handed over while the shard's singletons still run.
    HandOverUnstopped,
    /// Shards are moved on what was reported long ago, whatever has become of them.
    StaleView,
}

impl Planted {
    /// All of them.
    pub const ALL: [Planted; 4] = [
        Planted::AckBeforeFsync,
        Planted::PromiseForgotten,
        Planted::HandOverUnstopped,
        Planted::StaleView,
    ];

    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Planted::AckBeforeFsync => "ack-before-fsync",
            Planted::PromiseForgotten => "promise-forgotten",
            Planted::HandOverUnstopped => "hand-over-unstopped",
            Planted::StaleView => "stale-view",
        }
    }

    /// Whether this build can plant it: bugs inside of the crates need the feature `planted`.
    #[must_use]
    pub fn available(self) -> bool {
        let inside = matches!(self, Planted::PromiseForgotten | Planted::StaleView);
        cfg!(feature = "planted") || !inside
    }

    /// The troubles that bring it out. Other random ones come with them.
    pub(super) fn needs(self) -> &'static [Trouble] {
        use Trouble::{Crash, CrashMany, LeaderAlone, Maintain, Transfer};
        match self {
            Planted::AckBeforeFsync => &[CrashMany, CrashMany, Crash],
            Planted::PromiseForgotten => &[LeaderAlone, LeaderAlone, LeaderAlone],
            Planted::HandOverUnstopped => &[Transfer, Transfer, Transfer],
            Planted::StaleView => &[Maintain, Transfer, Transfer],
        }
    }
}

/// Plants a bug on this thread, or takes it away.
#[cfg(feature = "planted")]
pub(super) fn plant(bug: Option<Planted>) {
    use duractor::cluster::planted as cluster;
    use duractor_journal::planted::{Planted as Inside, plant};
    plant(match bug {
        Some(Planted::PromiseForgotten) => Some(Inside::PromiseForgotten),
        Some(_) | None => None,
    });
    cluster::plant(match bug {
        Some(Planted::StaleView) => Some(cluster::Planted::StaleView),
        Some(_) | None => None,
    });
}

#[cfg(not(feature = "planted"))]
pub(super) fn plant(_bug: Option<Planted>) {}
