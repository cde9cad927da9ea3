//! Whose a data directory is: the file `identity` in it.
//!
//! ```text
//! {"format":1,"cluster_id":...,"cluster":"orders","node":2,"incarnation":1,"shards":12,...}
//! crc32c 0a1b2c3d
//! ```
//!
//! One line of JSON, and a line with its checksum. Written whole under another name, synced and
//! renamed, so there is always the old one or the new one.

use std::{
    io,
    path::{Path, PathBuf},
};

use duractor_journal::{
    Member,
    disk::{Disk, create_dir_durably},
};
use serde::{Deserialize, Serialize};

use super::error::ClusterError;
use crate::config::Config;

const FILE: &str = "identity";
const FORMAT: u32 = 1;

/// How far a node is with becoming a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Stage {
    /// It forms a new cluster, and has not finished.
    Forming,
    /// It is a member.
    Member,
    /// It is made the only node of a new cluster, and its log still has the old voters.
    Forcing,
    /// Its log has it as the only voter, and the cluster's state does not know yet.
    Forced,
}

/// Whose a data directory is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {
    format: u32,
    /// The cluster's id.
    pub(super) cluster_id: u64,
    /// The cluster's name.
    pub(super) cluster: String,
    /// The node's number.
    pub(super) node: u32,
    /// Which disk of the node, from 1.
    pub(super) incarnation: u32,
    /// Into how many shards the cluster is cut.
    pub(super) shards: u16,
    /// How far it is.
    pub(super) stage: Stage,
    /// Other members that were seen, with their addresses: where to look after a restart.
    pub(super) peers: Vec<(Member, String)>,
}

impl Identity {
    /// A new one.
    #[must_use]
    pub(super) fn new(config: &Config, cluster_id: u64, incarnation: u32, stage: Stage) -> Self {
        Self {
            format: FORMAT,
            cluster_id,
            cluster: config.cluster.name.clone(),
            node: config.node.number,
            incarnation,
            shards: config.cluster.shards,
            stage,
            peers: Vec::new(),
        }
    }

    /// The member that the directory belongs to.
    #[must_use]
    pub(super) fn member(&self) -> Member {
        Member::new(self.node, self.incarnation)
    }

    /// The identity in a directory; `None` where there is none.
    ///
    /// # Errors
    /// [`ClusterError::File`] where it cannot be read or does not verify.
    pub(super) fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Self>, ClusterError> {
        let path = dir.join(FILE);
        let bytes = match read_file(disk, &path) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            Err(error) => return Err(file_error(path, &error)),
        };
        parse(&bytes).map(Some).map_err(|reason| ClusterError::File {
            path,
            reason: format!(
                "{reason}. Nothing says whose this directory is: take the file from a backup, or \
                 move the directory away and start the node with an empty one, as a replacement"
            ),
        })
    }

    /// Writes it, whole or not at all, durably.
    ///
    /// # Errors
    /// [`ClusterError::File`]; then the old one is there, or this one.
    pub(super) fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<(), ClusterError> {
        let path = dir.join(FILE);
        let line = serde_json::to_string(self).map_err(|error| ClusterError::File {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        let text = format!("{line}\ncrc32c {:08x}\n", crc32c::crc32c(line.as_bytes()));
        create_dir_durably(disk, dir)
            .and_then(|()| write_whole(disk, dir, FILE, text.as_bytes()))
            .map_err(|error| file_error(path, &error))
    }

    /// Checks that a directory belongs to the node that is configured.
    ///
    /// # Errors
    /// [`ClusterError::WrongIdentity`] says what to do.
    pub(super) fn check(&self, config: &Config) -> Result<(), ClusterError> {
        let refuse = |reason: String| {
            Err(ClusterError::WrongIdentity { dir: config.node.data_dir.clone(), reason })
        };
        let (name, number) = (&config.cluster.name, config.node.number);
        if self.cluster != *name {
            return refuse(format!(
                "it belongs to cluster {:?}, and cluster.name is {name:?}: name the folder of this \
                 cluster, or correct the name",
                self.cluster
            ));
        }
        if self.node != number {
            return refuse(format!(
                "it belongs to node {}, and node.number is {number}: name this node's own folder, \
                 or correct the number",
                self.node
            ));
        }
        if self.stage == Stage::Forcing {
            return refuse(
                "making it the only node of a new cluster was not finished: do that again".into(),
            );
        }
        Ok(())
    }
}

fn parse(bytes: &[u8]) -> Result<Identity, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text".to_owned())?;
    let (line, sum) = text.split_once('\n').ok_or("it is cut short")?;
    let expected = format!("crc32c {:08x}\n", crc32c::crc32c(line.as_bytes()));
    if sum != expected {
        return Err("its checksum does not verify".into());
    }
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let Format { format } = serde_json::from_str(line).map_err(|error| error.to_string())?;
    if format != FORMAT {
        return Err(format!("it has format {format}, and this release reads format {FORMAT}"));
    }
    serde_json::from_str(line).map_err(|error| error.to_string())
}

/// A file's contents; `None` where there is none.
fn read_file(disk: &dyn Disk, path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = vec![0; usize::try_from(file.len()?.min(1 << 20)).unwrap_or(0)];
    file.read_exact_at(0, &mut bytes)?;
    Ok(Some(bytes))
}

fn write_whole(disk: &dyn Disk, dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.tmp"));
    match disk.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&temporary)?;
    file.write_at(0, bytes)?;
    file.sync_data()?;
    disk.rename(&temporary, &dir.join(name))?;
    disk.sync_dir(dir)
}

/// A file of the data directory that does not read or write.
pub(super) fn file_error(path: impl Into<PathBuf>, error: &io::Error) -> ClusterError {
    ClusterError::File { path: path.into(), reason: error.to_string() }
}

/// The first file in a data directory that somebody's data may be in; `None` where it is empty.
pub(super) fn first_file(disk: &dyn Disk, dir: &Path) -> Result<Option<String>, ClusterError> {
    for (sub, dir) in [("", dir.to_owned()), ("log/", dir.join("log"))] {
        let names = match disk.list(&dir) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(file_error(dir, &error)),
        };
        // What a process may leave that died before it had an identity.
        let left = [concat!("identity", ".tmp"), super::audit::FILE];
        if let Some(name) = names.into_iter().find(|name| !left.contains(&name.as_str())) {
            return Ok(Some(format!("{sub}{name}")));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use duractor_journal::disk::StdDisk;

    use super::*;

    #[test]
    fn it_comes_back_and_no_flipped_bit_is_taken() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = dir.path().join("deep/data");
        assert_eq!(Identity::read(&StdDisk, &at).expect("nothing there"), None);
        let mut identity = Identity::new(&Config::default(), 7, 2, Stage::Member);
        identity.peers.push((Member::new(1, 1), "a:1".into()));
        identity.write(&StdDisk, &at).expect("writes");
        identity.write(&StdDisk, &at).expect("writes again");
        assert_eq!(Identity::read(&StdDisk, &at).expect("reads"), Some(identity.clone()));

        let path = at.join(FILE);
        let good = std::fs::read(&path).expect("reads");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, bad).expect("writes");
            let error = Identity::read(&StdDisk, &at).expect_err("a flipped bit is found");
            assert!(matches!(error, ClusterError::File { .. }), "{error}");
        }
        std::fs::write(&path, &good[..good.len() / 2]).expect("writes");
        assert!(Identity::read(&StdDisk, &at).is_err());
    }

    #[test]
    fn the_folder_of_another_is_refused_with_what_to_do() {
        let config = Config::default();
        let mine = Identity::new(&config, 7, 1, Stage::Member);
        assert!(mine.check(&config).is_ok());
        let refused = |change: fn(&mut Identity)| {
            let mut other = mine.clone();
            change(&mut other);
            other.check(&config).expect_err("refused").to_string()
        };
        assert!(refused(|i| i.node = 2).contains("it belongs to node 2, and node.number is 1"));
        assert!(refused(|i| i.cluster = "x".into()).contains("belongs to cluster \"x\""));
        assert!(refused(|i| i.stage = Stage::Forcing).contains("do that again"));
    }

    #[test]
    fn an_empty_folder_is_told_from_one_with_data() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = || first_file(&StdDisk, dir.path()).expect("lists");
        assert_eq!(first(), None);
        std::fs::write(dir.path().join("identity.tmp"), "x").expect("writes");
        assert_eq!(first(), None);
        std::fs::create_dir(dir.path().join("log")).expect("makes");
        assert_eq!(first(), None);
        std::fs::write(dir.path().join("log/META"), "x").expect("writes");
        assert_eq!(first(), Some("log/META".into()));
    }
}
