//! Money transfers between entities of a cluster of real processes.
//!
//! | module | what it holds |
//! |---|---|
//! | `order` | what the parent has a node do |
//! | `host` | in the node: its entities, and transactions over them |
//! | `load` | in the parent: tellers who transfer and look |
//! | `trials` | load, faults, healing, verification |

pub(crate) mod host;
mod load;
pub(crate) mod order;
pub(crate) mod trials;
