//! `audit.log` in the data directory: what a person made the node do that cannot be undone.

use std::{io, path::Path};

use duractor_journal::{Env, disk::create_dir_durably};

use super::{error::ClusterError, identity::file_error};

/// Its name.
pub(super) const FILE: &str = "audit.log";

/// Appends a line, durably. Lines are never changed or removed.
pub(super) fn write(env: &Env, dir: &Path, line: &str) -> Result<(), ClusterError> {
    let path = dir.join(FILE);
    let append = || {
        create_dir_durably(&*env.disk, dir)?;
        let file = match env.disk.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => env.disk.create(&path)?,
            other => other?,
        };
        let text = format!("{} {}\n", env.clock.now().0, line.replace('\n', " "));
        file.write_at(file.len()?, text.as_bytes())?;
        file.sync_data()?;
        env.disk.sync_dir(dir)
    };
    append().map_err(|error| file_error(path.clone(), &error))
}
