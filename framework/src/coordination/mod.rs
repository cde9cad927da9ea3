//! Locks, semaphores and barriers of the cluster.
//!
//! ```text
//!   a session, anywhere                              the owner of the lock's shard
//!   Lock::try_acquire ── ticket ── Acquire ────────► permits: who holds, as events
//!   side: what it may believe ◄──── token ────────── lease: who lives, in memory
//!     └── keep: Renew, three times a lease ────────► leases: one in each shard, no events
//! ```
//!
//! What changes hands is an event of an entity, so it survives, and a fencing token is such an event's
//! sequence number. Whether a holder lives is not: leases are in the memory of the node that owns the
//! shard, by its monotonic clock, and a new owner gives everybody a full one.
//!
//! The modules, in an order in which each uses only those above it:
//!
//! | module | what it holds |
//! |---|---|
//! | `ids` | sessions and tickets |
//! | `lease` | the owner's side: which tickets count, who waits. Pure |
//! | `warden` | a node's leases, for each tenure of a shard |
//! | `permits`, `leases` | the entities |
//! | `side` | a session's side: what it may believe. Pure |
//! | `error` | what can go wrong |
//! | `options` | how a session is set up |
//! | `session` | what holds, and renews |
//! | `wanted` | its tickets, and giving them back |
//! | `deadlock` | sessions that wait for each other |
//! | `acquire` | taking permits; the guard |
//! | `lock`, `semaphore` | the ways in |
//! | `barrier` | barriers, and their entity |
//! | `sessions` | the sessions of a node |

mod acquire;
mod barrier;
mod deadlock;
mod error;
mod ids;
mod lease;
mod leases;
mod lock;
mod options;
mod permits;
mod semaphore;
mod session;
mod sessions;
mod side;
#[cfg(test)]
mod tests;
mod wanted;
mod warden;

pub use acquire::{Guard, HolderInfo};
pub use barrier::{Barrier, MAX_PARTIES};
pub use error::CoordinationError;
pub use ids::SessionId;
pub use lock::Lock;
pub use options::SessionOptions;
pub use permits::MAX_PERMITS;
pub use semaphore::Semaphore;
pub use session::Session;

pub(crate) use barrier::Barriers;
pub(crate) use leases::Leases;
pub(crate) use permits::{Locks, Permits, Semaphores};
pub(crate) use sessions::Sessions;
pub(crate) use warden::Warden;
