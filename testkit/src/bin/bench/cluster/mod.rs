//! Benchmarks of clusters of real processes.
//!
//! | module | what it holds |
//! |---|---|
//! | `node` | in the node: load, filling, reading |
//! | `start` | in the parent: a cluster, and what all benchmarks ask of it |
//! | `flow` | in the parent: a load that goes on, and its rate |
//! | `append`, `ask`, `replay`, `failover`, `catchup`, `idle` | one benchmark each |

pub(crate) mod append;
pub(crate) mod ask;
pub(crate) mod catchup;
pub(crate) mod failover;
mod flow;
pub(crate) mod idle;
pub(crate) mod node;
pub(crate) mod replay;
mod start;
