//! Clusters of real processes: what `crash` and `bench` do with more than one node.
//!
//! A parent starts node processes, which are this same program with the hidden command `node`. Each
//! has a data directory of its own, real links to the others, and a control connection to the
//! parent, over which it is told what to do. A node ends when its parent does.
//!
//! ```text
//!            control: a JSON line for each request and answer
//!   parent ──────────────┬──────────────┬──────────────┐
//!     │               node 1         node 2         node 3     one process each
//!     └─ proxy ◀────── links ─────── links ──────── links      (or straight to each other)
//! ```
//! Read downwards; each module uses only those above it:
//!
//! | module | what it holds |
//! |---|---|
//! | [`wire`] | what parent and node say to each other |
//! | [`control`] | the control connection, as the parent has it |
//! | [`proxy`] | the network between the nodes, which can be cut |
//! | [`child`] | one node process: start, kill, freeze, stop |
//! | [`owner`] | in the node: writes that take effect once, whoever leads |
//! | [`node`] | in the node: opens links and journal, does what it is told |
//! | [`whole`] | in the node: all that an application runs, with the cluster and entities |
//! | [`cluster`] | in the parent: all nodes of a cluster |
//! | [`client`] | in the parent: writes that follow the leaders |

pub mod child;
pub mod client;
pub mod cluster;
pub mod control;
pub mod node;
pub mod owner;
pub mod proxy;
pub mod whole;
pub mod wire;

pub use child::Child;
pub use client::Client;
pub use cluster::{Cluster, Setup};
pub use node::{Handler, Node};
pub use proxy::{Cut, Proxy};
pub use whole::{Application, WholeNode};

/// Whatever ends a tool early.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
