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
    /// A writer's epoch is not checked when its batch is applied.
    EpochUnchecked,
    /// The expected sequence number is not checked when a batch is applied.
    SeqUnchecked,
    /// Of batches that go together those that fit are written, whatever becomes of the others.
    TogetherApart,
    /// A repeat of a request is taken for another write.
    DedupForgotten,
    /// Writes are acknowledged when they are written, without an fsync.
    AckBeforeFsync,
    /// A vote is given before it is durable.
    VoteNotSynced,
    /// A replica that was restarted votes at once, whatever it answered a leader before.
    PromiseForgotten,
    /// Reads at a leader ask neither its lease nor a quorum.
    StaleLeaderRead,
    /// A leader that restarts goes on leading its old term.
    LeaderRestore,
    /// The sender of a checkpoint ends it after the first piece.
    HalfCheckpoint,
    /// What is released to be purged is taken for deleted when its segment is sealed.
    PurgeRetained,
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
