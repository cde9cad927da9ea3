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
    /// Locks are not fenced: their tokens are counted in the owner's memory.
    LockUnfenced,
    /// Leases of locks run by the wall clock.
    LeaseByWallClock,
    /// A new owner takes holders whose leases it does not know for dead.
    LeaseNotGivenAnew,
    /// What was acquired for a caller who gave up stays acquired.
    AcquireNotUndone,
    /// The coordinator of a transaction forgets one of its participants.
    CoordinatorForgets,
    /// An entity that is prepared for a transaction has forgotten it when it recovers.
    PreparedForgotten,
    /// Who takes a shard does not look whether an entity of it has something to do.
    ReminderLost,
    /// Nor whether one is remembered.
    RememberedForgotten,
    /// A receiver takes each delivery for new.
    DeliveryRepeated,
    /// An entity that has something to do is not put on the agenda.
    AgendaSkipped,
    /// Shards are moved on what was reported long ago, whatever has become of them.
    StaleView,
    /// A shard's entities are run from the election on, before the claim is applied.
    HostedEarly,
    /// Who does not lead a shard any more goes on with it.
    StopForgotten,
    /// What waits for the next owner of a shard is dropped.
    BufferDropped,
}

impl Planted {
    /// All of them.
    pub const ALL: [Planted; 17] = [
        Planted::AckBeforeFsync,
        Planted::PromiseForgotten,
        Planted::HandOverUnstopped,
        Planted::LockUnfenced,
        Planted::LeaseByWallClock,
        Planted::LeaseNotGivenAnew,
        Planted::AcquireNotUndone,
        Planted::CoordinatorForgets,
        Planted::PreparedForgotten,
        Planted::ReminderLost,
        Planted::RememberedForgotten,
        Planted::DeliveryRepeated,
        Planted::AgendaSkipped,
        Planted::StaleView,
        Planted::HostedEarly,
        Planted::StopForgotten,
        Planted::BufferDropped,
    ];

    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Planted::AckBeforeFsync => "ack-before-fsync",
            Planted::PromiseForgotten => "promise-forgotten",
            Planted::HandOverUnstopped => "hand-over-unstopped",
            Planted::StaleView => "stale-view",
            Planted::HostedEarly => "hosted-early",
            Planted::StopForgotten => "stop-forgotten",
            Planted::BufferDropped => "buffer-dropped",
            Planted::LockUnfenced => "lock-unfenced",
            Planted::LeaseByWallClock => "lease-by-wall-clock",
            Planted::LeaseNotGivenAnew => "lease-not-given-anew",
            Planted::AcquireNotUndone => "acquire-not-undone",
            Planted::CoordinatorForgets => "coordinator-forgets",
            Planted::PreparedForgotten => "prepared-forgotten",
            Planted::ReminderLost => "reminder-lost",
            Planted::RememberedForgotten => "remembered-forgotten",
            Planted::DeliveryRepeated => "delivery-repeated",
            Planted::AgendaSkipped => "agenda-skipped",
        }
    }

    /// Whether this build can plant it: bugs inside of other crates need the feature `planted`.
    #[must_use]
    pub fn available(self) -> bool {
        let outside = matches!(self, Planted::AckBeforeFsync | Planted::HandOverUnstopped);
        cfg!(feature = "planted") || outside
    }

    /// Whether transfers bring it out.
    pub(super) fn is_transfer(self) -> bool {
        matches!(self, Planted::CoordinatorForgets | Planted::PreparedForgotten)
    }

    /// The troubles that bring it out. Other random ones come with them.
    pub(super) fn needs(self) -> &'static [Trouble] {
        use Trouble::{
            Break, Crash, CrashMany, Cut, Freeze, Kill, LeaderAlone, Maintain, Skew, Transfer,
        };
        match self {
            Planted::AckBeforeFsync => &[CrashMany, CrashMany, Crash],
            Planted::PromiseForgotten => &[LeaderAlone, LeaderAlone, LeaderAlone],
            Planted::HandOverUnstopped => &[Transfer, Transfer, Transfer],
            Planted::StaleView => &[Maintain, Transfer, Transfer],
            Planted::HostedEarly => &[LeaderAlone, Kill, Crash],
            Planted::StopForgotten => &[LeaderAlone, LeaderAlone, Cut],
            Planted::BufferDropped => &[Transfer, Transfer, Transfer],
            Planted::LockUnfenced | Planted::LeaseNotGivenAnew => &[Transfer, Transfer, Kill],
            Planted::LeaseByWallClock => &[Skew, Skew, Skew],
            Planted::AcquireNotUndone => &[Cut, Freeze],
            Planted::CoordinatorForgets => &[Break],
            Planted::PreparedForgotten => &[Kill, Transfer, Transfer],
            Planted::ReminderLost | Planted::RememberedForgotten => &[Transfer, Kill],
            Planted::DeliveryRepeated | Planted::AgendaSkipped => &[CrashMany, Transfer, Kill],
        }
    }
}

/// Plants a bug on this thread, or takes it away.
#[cfg(feature = "planted")]
pub(super) fn plant(bug: Option<Planted>) {
    use duractor::planted::Planted as Framework;
    use duractor_journal::planted::Planted as Inside;
    duractor_journal::planted::plant(match bug {
        Some(Planted::PromiseForgotten) => Some(Inside::PromiseForgotten),
        Some(_) | None => None,
    });
    duractor::planted::plant(match bug {
        Some(Planted::LockUnfenced) => Some(Framework::TokenInMemory),
        Some(Planted::LeaseByWallClock) => Some(Framework::LeaseByWallClock),
        Some(Planted::LeaseNotGivenAnew) => Some(Framework::LeaseNotGivenAnew),
        Some(Planted::AcquireNotUndone) => Some(Framework::AcquireNotUndone),
        Some(Planted::CoordinatorForgets) => Some(Framework::CoordinatorForgets),
        Some(Planted::PreparedForgotten) => Some(Framework::PreparedForgotten),
        Some(Planted::ReminderLost) => Some(Framework::ReminderLost),
        Some(Planted::RememberedForgotten) => Some(Framework::RememberedForgotten),
        Some(Planted::DeliveryRepeated) => Some(Framework::DeliveryRepeated),
        Some(Planted::AgendaSkipped) => Some(Framework::AgendaSkipped),
        Some(Planted::StaleView) => Some(Framework::StaleView),
        Some(Planted::HostedEarly) => Some(Framework::HostedEarly),
        Some(Planted::StopForgotten) => Some(Framework::StopForgotten),
        Some(Planted::BufferDropped) => Some(Framework::BufferDropped),
        Some(_) | None => None,
    });
}

#[cfg(not(feature = "planted"))]
pub(super) fn plant(_bug: Option<Planted>) {}
