//! Benchmarks of clusters of real processes.
//!
//! | module | what it holds |
//! |---|---|
//! | `node` | in the node: load, filling, reading |
//! | `whole` | in a whole node: callers of entities |
//! | `start` | in the parent: a cluster, and what all benchmarks ask of it |
//! | `flow` | in the parent: a load that goes on, and its rate |
//! | `append`, `ask`, `replay`, `failover`, `handoff`, `rebalance`, `catchup`, `idle` | one benchmark each |

pub(crate) mod append;
pub(crate) mod ask;
pub(crate) mod catchup;
pub(crate) mod failover;
mod flow;
pub(crate) mod handoff;
pub(crate) mod idle;
mod node;
pub(crate) mod rebalance;
pub(crate) mod replay;
mod start;
mod whole;

use duractor_testkit::process::wire::NodeConfig;

use crate::run::Failure;

/// A node's process.
pub(crate) async fn node(config: &str) -> Result<(), Failure> {
    match serde_json::from_str::<NodeConfig>(config)?.whole {
        None => node::run(config).await,
        Some(_) => whole::run(config).await,
    }
}
