//! The folder: its log's settings and its entities' names.

use std::path::{Path, PathBuf};

use duractor_journal::{EntityId, InvalidId, LogConfig};
use duractor_testkit::Rng;

/// Tasks that write at once.
pub(crate) const TASKS: usize = 8;
/// Entities of each task of the bare journal; entities that are asked are everybody's.
pub(crate) const ENTITIES_EACH: usize = 4;
/// All entities.
pub(crate) const ENTITIES: usize = TASKS * ENTITIES_EACH;

/// Settings of the folder's log: segments that fill within a trial, or within several.
pub(crate) fn log_config(dir: &Path, folder_seed: u64) -> LogConfig {
    let mut rng = Rng::new(folder_seed);
    let mut config = LogConfig::new(log_dir(dir));
    config.segment_bytes = 64 << (10 + 2 * rng.below(4));
    config.fan_in = 2 + rng.index(3);
    config
}

/// Where the log is.
pub(crate) fn log_dir(dir: &Path) -> PathBuf {
    dir.join("log")
}

/// The entity with this number.
pub(crate) fn entity(number: usize) -> Result<EntityId, InvalidId> {
    EntityId::new("crash", &number.to_string())
}
