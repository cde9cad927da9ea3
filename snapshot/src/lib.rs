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
//! | `value` | a snapshot as a key and a value, and how they are verified |
//! | `epoch` | what is written between two syncs |
//! | `paged_file` | redb's storage on the disk seam: failures of the disk end here |
//! | `tables` | what is done inside redb: saves, deletes, the lookup |
//! | `salvage` | a file verified before redb acts on it; a damaged one read, and let go |
//! | `file` | the file: made, opened, locked, set aside where it is damaged |
//! | `worker` | the one writer: a transaction of all that is queued, and what follows a failure |
//! | [`store`] | [`RedbSnapshots`]: the port in one redb file |
//! | `contract` | the suite that every implementation of the port passes |
//!
//! On disk, one redb file holds the table `snapshots`, its entries in the order of entity and
//! sequence number:
//!
//! ```text
//! snapshots.redb
//!   meta       "format" → version u32 · crc32c u32
//!   snapshots  kind length · kind · key length · key · sequence number (big-endian)
//!                → format · compression · schema version · crc32c · sequence number
//!                  · timestamp · state length · state, compressed or not
//! ```
//! The bytes are drawn in full in `value.rs`. redb does not verify the pages that it reads, so the
//! checksum in every value is what makes a damaged state impossible; it covers the key, so that a
//! value in the wrong place does not verify either.
//!
//! # What losing a snapshot means
//!
//! A snapshot is a copy: the events are the truth. So this crate never lets a damaged snapshot stop
//! an entity. A value that does not verify counts as absent, and recovery goes on with an older
//! snapshot or with all events.
//!
//! A damaged file is never written to: redb trusts its pages, and acting on a spoilt one can end the
//! process in a way that nothing can catch. So when the file is opened, all of its pages are
//! verified ([`SnapshotOptions::verify_on_open`]), and from then on a page that changed by itself
//! counts as one that cannot be read. Where damage is found, the values on sound pages are copied to a
//! new file, which takes the place of the damaged one; that one is renamed to `….damaged-N` and kept
//! as it was. How many snapshots were saved is logged, and the rest counts as absent.
//! [`OnDamage::Refuse`] has the store refuse instead, and leave the file to a person.
//!
//! There is one case where absent snapshots cannot be made up for: **events at or below a snapshot
//! were deleted, and then the snapshot is lost.** The events that are left do not make up the
//! state. The store cannot see this, the one who recovers can: `Head::deleted_to` of the journal is
//! above the sequence number of the snapshot that [`load`](SnapshotStore::load) returned (zero for
//! none). That entity must be quarantined, never be started with the state that the remaining
//! events happen to give.

#[cfg(feature = "contract")]
pub mod contract;
mod epoch;
pub mod error;
mod file;
pub mod memory;
mod paged_file;
#[cfg(feature = "planted")]
#[doc(hidden)]
pub mod planted;
pub mod port;
mod salvage;
pub mod store;
mod tables;
mod value;
mod worker;

pub use error::SnapshotError;
pub use file::OnDamage;
pub use memory::MemorySnapshots;
pub use port::{Criteria, MAX_STATE_BYTES, Retention, Saved, Snapshot, SnapshotStore};
pub use store::RedbSnapshots;
pub use value::Compression;
pub use worker::SnapshotOptions;
