//! The configuration of a node: one typed [`Config`] from a file, the environment and flags.
//!
//! Each of these wins over those before it: defaults, a TOML file, variables named
//! `DURACTOR_SECTION_KEY`, flags named `--section-key` (feature `cli`). Every key has a default, and
//! [`keys::KEYS`] is the one list of them: flags, variables, checks and help all come from it. A key
//! that nobody knows is refused, and so is a value out of range; all problems are told at once.
//!
//! ```
//! use duractor::config::{Config, Loader};
//!
//! let config = Loader::new()
//!     .text("node1.toml", "[node]\nnumber = 1\n[cluster]\nname = \"orders\"\n")
//!     .variables([("DURACTOR_TIMING_HEARTBEAT_MS", "40")])
//!     .load()?;
//! assert_eq!((config.cluster.name.as_str(), config.timing.heartbeat_ms), ("orders", 40));
//! assert!(config.explain().contains("the variable DURACTOR_TIMING_HEARTBEAT_MS"));
//!
//! let refused = Loader::new().text("node1.toml", "[cluster]\nshards = 1000").load();
//! let why = refused.expect_err("there are at most 256").to_string();
//! assert!(why.contains("cluster.shards = 1000 (node1.toml): allowed are 1 to 256"), "{why}");
//! # Ok::<(), duractor::config::ConfigError>(())
//! ```

mod error;
#[cfg(feature = "cli")]
mod flags;
pub mod keys;
mod load;
mod sections;
mod sources;
mod version;

pub use error::{ConfigError, Problem};
#[cfg(feature = "cli")]
pub use flags::Flags;
pub use load::Loader;
pub use sections::{
    ClusterSection, Config, DiscoverySection, LogSection, NetSection, NodeSection, TimingSection,
    TlsSection,
};
pub use version::Version;
