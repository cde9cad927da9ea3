//! Bugs to plant in the log, for tests that must find them. Each holds for the thread that sets it.

use std::cell::Cell;

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// Whatever does not verify is cut off as a torn tail, whatever stands after it.
    CutAtDamage,
    /// Checksums cover neither the file nor the place in it.
    UnboundFrames,
    /// What is left of a torn tail stays, and whatever verifies belongs to the log.
    LeftoverTail,
    /// A full disk refuses one write, and not those that were accepted counting on it.
    RefuseOneAlone,
    /// A writer's epoch is not checked when its batch is applied.
    EpochUnchecked,
    /// The expected sequence number is not checked when a batch is applied.
    SeqUnchecked,
    /// A repeat of a request is taken for another write.
    DedupForgotten,
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
