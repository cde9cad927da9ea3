//! The segmented log: one per node, shared by all its shards.
//!
//! The way of an entry, from top to bottom: a group hands it to `group_log`; `writer` stamps its
//! `frame`s, writes and syncs them with all others that wait, and tells the group. When Raft has
//! committed it, `apply` decides its writes on what `heads` says, and notes those that take effect in
//! the segment's `index` (`live`), where `read` finds them through `files`.
//! When the segment is full, `maintain` seals it (`seal`, `build`) into a file that is sorted
//! by entity and has an index on disk (`sealed`), and merges such files by `policy`. `image` gives
//! out a shard's live records in `chunk`s, and `intake` makes a file of them that replaces what
//! another log has of the shard. `open` finds out after a crash what there is, and `scan` where the
//! log ends.

pub(crate) mod access;
pub(crate) mod codec;
pub(crate) mod entry;
pub(crate) mod frame;
pub(crate) mod layout;

pub(crate) mod entries;
pub(crate) mod footer;
pub(crate) mod index;
pub(crate) mod marks;
pub(crate) mod scan;
pub(crate) mod sealed;

pub(crate) mod build;
pub(crate) mod cursor;
pub(crate) mod live;

pub(crate) mod files;
pub(crate) mod options;
mod pace;
pub(crate) mod policy;
pub(crate) mod read;
pub(crate) mod seal;
pub(crate) mod verify;

pub(crate) mod chunk;
pub(crate) mod image;
pub(crate) mod intake;

pub(crate) mod heads;

pub(crate) mod apply;
pub(crate) mod group_state;
pub(crate) mod stored;

pub(crate) mod recover;

pub(crate) mod open;
pub(crate) mod shared;
pub(crate) mod spares;

pub(crate) mod maintain;
pub(crate) mod streams;
pub(crate) mod writer;

pub(crate) mod group_log;
pub(crate) mod node_log;

#[cfg(feature = "contract")]
#[doc(hidden)]
pub mod probe;

#[cfg(test)]
mod tests;

pub use options::{LogConfig, LogUsage};
