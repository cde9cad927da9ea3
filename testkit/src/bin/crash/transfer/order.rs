//! What the parent has a node do with its entities.

use std::path::PathBuf;

use duractor_testkit::bank::Parts;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Make a transfer: answered with [`Ended`]. With `named` it has a request id.
    Transfer { number: u64, parts: Parts, named: bool, timeout_ms: u64 },
    /// Look at so many purses in one transaction: answered with what each has gained, or why not.
    Look { purses: usize, timeout_ms: u64 },
    /// All transfers of a purse: answered with them.
    List { purse: usize, timeout_ms: u64 },
    /// Count one higher in this file, under a lock: answered with [`Counted`](super::counter::Counted).
    Count { file: PathBuf, timeout_ms: u64 },
    /// Take a node's leaderships away, and say whether it may be stopped. For whole nodes.
    Drain { node: u32 },
    /// Use it again.
    Resume { node: u32 },
}

/// What became of a transfer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Ended {
    Done,
    /// A purse had not enough.
    Vetoed,
    /// It had no effect, and why.
    Nothing(String),
    /// It may have had an effect.
    Unknown(String),
}
