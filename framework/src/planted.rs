//! Bugs to plant in the framework, for simulations that must find them. Each holds for the thread that
//! sets it.

use std::cell::Cell;

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// Fencing tokens are counted in the owner's memory.
    TokenInMemory,
    /// Leases run by the wall clock.
    LeaseByWallClock,
    /// A new owner takes holders whose leases it does not know for dead.
    LeaseNotGivenAnew,
    /// What was acquired for a caller who gave up stays acquired.
    AcquireNotUndone,
    /// The coordinator of a transaction forgets the last of its participants.
    CoordinatorForgets,
    /// An entity that was prepared for a transaction has forgotten it when it recovers.
    PreparedForgotten,
    /// Who takes a shard does not look at its agenda for what is due.
    ReminderLost,
    /// Nor for the entities that are remembered.
    RememberedForgotten,
    /// A receiver takes each delivery for new.
    DeliveryRepeated,
    /// An entity is not put on the agenda.
    AgendaSkipped,
    /// Groups are changed on what was reported long ago, whatever has become of them.
    StaleView,
    /// A shard's entities are run from the election on, before the leader has claimed the shard and has
    /// applied what came before.
    HostedEarly,
    /// Who does not lead a shard any more goes on with it.
    StopForgotten,
    /// What waits for the next owner of a shard is dropped.
    BufferDropped,
}

thread_local! {
    static PLANTED: Cell<Option<Planted>> = const { Cell::new(None) };
}

/// Plants a bug on this thread; `None` takes it away.
pub fn plant(bug: Option<Planted>) {
    PLANTED.set(bug);
}

pub(crate) fn is(bug: Planted) -> bool {
    PLANTED.get() == Some(bug)
}
