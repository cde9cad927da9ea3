//! The snapshot store of Duractor: states of entities, so that recovery need not replay every
//! event.
//!
//! Start here, then read downwards; each module uses only those above it:
//!
//! | module | what it holds |
//! |---|---|
//! | [`error`] | what can go wrong, and whether the save may have happened |
//! | [`port`] | [`Snapshot`], [`Criteria`] and the [`SnapshotStore`] trait: save, load, delete |
//! | [`memory`] | the port in memory |
//!
//! # What losing a snapshot means
//!
//! A snapshot is a copy: the events are the truth. So this crate never lets a damaged snapshot stop
//! an entity. A value that does not verify counts as absent, and recovery goes on with an older
//! snapshot or with all events.
//!
//! There is one case where that is not enough: **events at or below a snapshot were deleted, and
//! then the snapshot is lost.** The events that are left do not make up the state. The store cannot
//! see this, the one who recovers can: `Head::deleted_to` of the journal is above the sequence
//! number of the snapshot that [`load`](SnapshotStore::load) returned (zero for none). That entity
//! must be quarantined, never be started with the state that the remaining events happen to give.

pub mod error;
pub mod memory;
pub mod port;

pub use error::SnapshotError;
pub use memory::MemorySnapshots;
pub use port::{Criteria, MAX_STATE_BYTES, Retention, Saved, Snapshot, SnapshotStore};
