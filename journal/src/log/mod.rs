//! The segmented log: one per node, shared by all its shards.

pub(crate) mod build;
pub(crate) mod codec;
pub(crate) mod files;
pub(crate) mod frame;
pub(crate) mod index;
pub(crate) mod layout;
pub(crate) mod live;
pub(crate) mod scan;
pub(crate) mod sealed;
