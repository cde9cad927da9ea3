//! A cluster: which nodes it has, how a node becomes one of them, and which of them keep what.
//!
//! The cluster's state is an entity of shard 0, so it is ordered, durable and replicated like
//! everything else, and every change of it is an event with a reason and a time. Whoever leads shard
//! 0 decides what to do next ([`plan`](mod@plan), pure) and has it done by the groups' leaders. Every
//! node follows shard 0, and so knows the members, their addresses, and who was removed.
//!
//! ```text
//!             empty directory                              identity
//!  bootstrap ───────────────► forming ─► all groups with this voter ─► member
//!  start ──► ask the seeds ─► joining: learner of shard 0 ─► caught up ─► joined: gets its share
//!                                                                          │ leave, remove
//!  removed: never comes back ◄── no group counts on it ◄── replicas move ◄─┘
//! ```
//!
//! The modules, in an order in which each uses only those above it:
//!
//! | module | what it holds |
//! |---|---|
//! | [`error`] | what can go wrong, and what to do |
//! | [`event`], [`state`] | what happened to the cluster, and what it amounts to |
//! | [`placement`], [`plan`](mod@plan) | which node keeps which shard; the next steps. Pure |
//! | `identity`, `audit`, `damage` | the data directory: whose it is, what was done to it, setting it aside |
//! | `wire`, `calls` | what nodes say to each other |
//! | `gate` | nobody but members gets through to the journal |
//! | [`groups`], [`connect`] | what a journal and its links must be able to do |
//! | [`discovery`], `join` | finding other nodes, and asking to be let in |
//! | `records` | the state in the journal |
//! | `tenant` | what runs on top of the journal, and is asked before a group changes |
//! | `shared`, `hello`, `execute`, `manager`, `desk` | what runs on every node |
//! | [`status`], `links`, `start`, `handle` | the ways in: [`Cluster`] |

mod audit;
mod calls;
pub mod connect;
mod damage;
mod desk;
pub mod discovery;
pub mod error;
pub mod event;
mod execute;
mod gate;
pub mod groups;
mod handle;
mod hello;
mod identity;
mod join;
mod links;
mod manager;
pub mod placement;
pub mod plan;
mod records;
mod shared;
mod start;
pub mod state;
pub mod status;
mod tenant;
mod wire;

pub use error::{ClusterError, Refusal};
pub use groups::Groups;
pub use handle::Cluster;
pub use start::Parts;
pub use state::{ClusterState, Phase};
pub use status::ClusterStatus;
pub(crate) use tenant::Tenant;
