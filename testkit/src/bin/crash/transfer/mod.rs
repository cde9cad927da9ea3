//! Money transfers between entities of a cluster of real processes, and a counter outside that a lock
//! guards.
//!
//! | module | what it holds |
//! |---|---|
//! | `counter` | what the lock guards |
//! | `order` | what the parent has a node do |
//! | `host` | in the node: its entities, and transactions over them |
//! | `load` | in the parent: tellers who transfer and look, and who count |
//! | `trials` | load, faults, healing, verification |

mod counter;
pub(crate) mod host;
mod load;
pub(crate) mod order;
pub(crate) mod trials;
