//! The event log of Duractor: bytes only, it never sees a user's type.
//!
//! Start here, then read downwards; each module uses only those above it:
//!
//! | module | what it holds |
//! |---|---|
//! | [`id`] | entities, shards, sequence numbers, positions, terms |
//! | [`record`] | what is written and what is read back |
//! | [`error`] | what can go wrong, and whether the write may have happened |
//! | [`disk`], [`env`](mod@env), [`transport`] | the seams to the outside world |
//! | [`port`] | the [`Journal`] trait: append, replay, head, delete, tail |
//! | [`check`] | whether a batch is fit to be written |
//! | [`group`] | what others see of a shard's group of replicas |
//! | [`memory`] | the port in memory |
//! | [`log`] | the port in files: the segmented log |
//! | [`contract`] | the suite that every implementation of the port passes |

pub mod check;
#[cfg(feature = "contract")]
pub mod contract;
pub mod disk;
pub mod env;
pub mod error;
pub mod group;
pub mod id;
pub mod log;
pub mod memory;
#[cfg(feature = "planted")]
#[doc(hidden)]
pub mod planted;
pub mod port;
pub mod record;
pub mod transport;

pub use env::Env;
pub use error::{Corruption, Effect, JournalError};
pub use group::{GroupStatus, LogJournal, Replication, Role, Timing};
pub use id::{EntityId, InvalidId, Position, Seq, ShardId, Term, Timestamp};
#[cfg(feature = "contract")]
#[doc(hidden)]
pub use log::probe;
pub use log::{LogConfig, LogUsage};
pub use memory::MemoryJournal;
pub use port::{
    Ack, AllDone, AppendDone, Appended, Deletions, Head, Journal, Ownership, Ownerships,
    RecordChunks, ReplayRange,
};
pub use record::{AppendBatch, EventRecord, Limits, NewEvent, Request, RequestId};
pub use transport::{Member, NodeId, Transport};
