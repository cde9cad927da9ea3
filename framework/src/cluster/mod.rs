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
//! | [`properties`], [`event`], [`state`] | what members are, what happened to the cluster, and what it amounts to |
//! | `spread`, [`placement`] | which node keeps which shard. Pure |
//! | [`view`], `wanted`, [`checks`] | what the leader of shard 0 sees, what the state wants; what may be drained, removed, stopped. Pure |
//! | [`sight`], `sickness` | who sees whom; who had better lead nothing for a while. Pure |
//! | `noted`, [`plan`](mod@plan), [`balance`], [`forecast`], [`overview`] | what to record, the next steps, what to move for load, a dry run, how far it is. Pure |
//! | `identity`, `audit`, `damage` | the data directory: whose it is, what was done to it, setting it aside |
//! | `wire`, `calls` | what nodes say to each other |
//! | `gate` | nobody but members gets through to the journal |
//! | [`groups`], [`connect`] | what a journal and its links must be able to do |
//! | [`discovery`], `join` | finding other nodes, and asking to be let in |
//! | `records` | the state in the journal |
//! | `tenant` | what runs on top of the journal, and is asked before a group changes |
//! | `guests` | clients that are linked to this node |
//! | `shared`, `hello`, `probe`, `execute`, `decide`, `manager`, `desk` | what runs on every node |
//! | [`status`], `links`, `start`, `handle`, `operate` | the ways in: [`Cluster`] |
//! | `visit` | a client's side: who the members are, and the links to them |

mod audit;
pub mod balance;
mod calls;
pub mod checks;
pub mod connect;
mod damage;
mod decide;
mod desk;
pub mod discovery;
pub mod error;
pub mod event;
mod execute;
pub mod forecast;
mod gate;
pub mod groups;
mod guests;
mod handle;
mod hello;
mod identity;
mod join;
mod links;
mod manager;
mod noted;
mod operate;
pub mod overview;
pub mod placement;
pub mod plan;
mod probe;
pub mod properties;
mod records;
mod shared;
mod sickness;
pub mod sight;
mod spread;
mod start;
pub mod state;
pub mod status;
mod tenant;
pub mod view;
mod visit;
mod wanted;
mod wire;

pub use checks::DrainStatus;
pub use error::{ClusterError, Refusal};
pub use forecast::{Forecast, WhatIf};
pub use groups::Groups;
pub use handle::Cluster;
pub use overview::BalanceStatus;
pub use properties::{Affinity, DrainMode};
pub use start::Parts;
pub use state::{ClusterState, Phase};
pub use status::ClusterStatus;
pub(crate) use tenant::Tenant;
pub use visit::ClientParts;
pub(crate) use visit::Visit;
