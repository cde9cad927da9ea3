//! Journal groups: the replicas of a shard's log on several nodes, kept equal by Raft.
//!
//! The engine is openraft; nothing of it is seen outside this folder. From the bottom to the top:
//!
//! | file | what it holds |
//! |---|---|
//! | `status.rs` | what others see of a group |
//! | `runtime.rs` | openraft's runtime: tokio's, but deterministic |
//! | `types.rs` | openraft's types for us, and ours for it |
//! | `wire.rs` | messages between replicas, as bytes |
//! | `peers.rs` | requests and answers over the transport |
//! | `lease.rs` | for how long a leader may count on being the only one |
//! | `network.rs` | openraft's network: entries in a pipeline, votes, transfers |
//! | `checkpoint.rs` | a shard's image on its way to another replica |
//! | `store.rs` | openraft's log: the group's part of the node's log |
//! | `machine.rs` | openraft's state machine: applying entries |
//! | `propose.rs` | writes that wait, put together into entries |
//! | `hub.rs` | which replicas run, who owns the shards, and who listens |
//! | `standing.rs` | whether a replica that hears nothing still belongs to its group |
//! | `replica.rs` | one replica: its parts, how it is, reads |
//! | `inbound.rs` | requests of other replicas |
//! | `members.rs` | making a group, changing its members, handing it over |
//! | `actor.rs` | the actor of a replica, and what goes on around its engine |
//! | `supervisor.rs` | the actor above the replicas of a node |
//! | `journal.rs` | `LogJournal`: the port on top of all that |

pub(crate) mod status;

pub(crate) mod runtime;

pub(crate) mod types;

pub(crate) mod wire;

pub(crate) mod lease;
pub(crate) mod peers;
pub(crate) mod propose;

pub(crate) mod checkpoint;
pub(crate) mod hub;
pub(crate) mod inbound;
pub(crate) mod machine;
pub(crate) mod network;
pub(crate) mod replica;
pub(crate) mod standing;
pub(crate) mod store;

pub(crate) mod actor;
pub(crate) mod members;
pub(crate) mod supervisor;

pub(crate) mod journal;

#[cfg(test)]
mod tests;

pub use journal::LogJournal;
pub use status::{GroupStatus, Replication, Role, Timing};
