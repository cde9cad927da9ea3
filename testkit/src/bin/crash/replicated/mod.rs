//! Clusters of real processes.
//!
//! | module | what it holds |
//! |---|---|
//! | `order` | what the parent tells a node to do |
//! | `node` | in the node: does it |
//! | `load` | in the parent: writers that follow the leaders |
//! | `faults` | what is done to a cluster |
//! | `trials` | load, faults, healing, verification |

pub(crate) mod faults;
pub(crate) mod load;
pub(crate) mod node;
pub(crate) mod order;
pub(crate) mod trials;
