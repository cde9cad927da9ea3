//! Crash-consistency of the log and of the snapshot store on the simulated disk.
//!
//! One seed is one history: a configuration, a load, and several lives of a process, each of which
//! ends by a crash at some disk operation, by a kill, or in good order. After each life everything
//! is read and compared with a model of what the store has acknowledged. Invariants **A** (an
//! acknowledged event is never lost, reordered, changed or duplicated) and **S** (nothing is
//! silently wrong) of the design are what is checked.
//!
//! Start here, then read downwards; each module uses only those above it:
//!
//! | module | what it holds |
//! |---|---|
//! | `report` | what a seed gave: counts, faults, the violation |
//! | `planted` | bugs that the tests must find, most of them wrapped around the disk |
//! | `plan` | what a life meets: faults, the place of the crash, how it ends |
//! | `content` | random batches whose records say where they belong |
//! | `model` | what the log may hold, from what it answered |
//! | `read` | reads everything and asks the model |
//! | [`log`] | the lives of a log |
//! | [`snapshot`] | the lives of a snapshot store |
//! | [`flips`] | bits that rot in files that were closed in good order |
//!
//! The binary `sim` runs them over many seeds.

#[cfg(test)]
mod checkpoint;
mod content;
pub mod flips;
pub mod log;
mod model;
mod plan;
mod planted;
mod read;
pub(crate) mod report;
pub mod snapshot;

pub(crate) use flips::frames;
pub use planted::Planted;
pub(crate) use planted::wrap;
pub use report::{Report, Violation};

/// What is run over many seeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// Lives of a log, see [`log`].
    Log,
    /// Lives of a snapshot store, see [`snapshot`].
    Snapshot,
    /// Rot in the files of both, see [`flips`].
    Flips,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Scenario; 3] = [Scenario::Log, Scenario::Snapshot, Scenario::Flips];

    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Log => "log",
            Scenario::Snapshot => "snapshot",
            Scenario::Flips => "flips",
        }
    }

    /// Runs one seed. `trace` prints every step to standard error.
    #[must_use]
    pub fn run(self, seed: u64, planted: Option<Planted>, trace: bool) -> Report {
        match self {
            Scenario::Log => log::run(seed, planted, trace),
            Scenario::Snapshot => snapshot::run(seed, planted, trace),
            Scenario::Flips => flips::run(seed, planted, trace),
        }
    }
}
