//! The entity test kit.
mod tree;
mod stores;
mod observe;
mod checks;
mod ran;
mod bench;
mod builder;
mod kit;

pub use builder::EntityTestKitBuilder;
pub use checks::Check;
pub use kit::EntityTestKit;
pub use ran::{Happened, Ran};
pub use stores::Fail;
