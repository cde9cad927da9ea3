//! The store's files: made, opened, locked, and set aside where they are damaged.
//!
//! | file | what it is |
//! |---|---|
//! | `snapshots.redb` | the store, under the name that the caller chose |
//! | `snapshots.redb.lock` | locked by the process that has the store open |
//! | `snapshots.redb.new` | a store in the making; removed when the store is opened |
//! | `snapshots.redb.damaged-1`, `-2`, … | stores that were set aside, for people to look at |

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use duractor_journal::disk::{Disk, DiskFile, DiskLock};
use redb::Database;

use crate::{
    error::SnapshotError,
    paged_file::{PagedFile, SharedPagedFile, Unsettled},
    tables::{self, Fault, contained},
};

/// What to do with a store whose file is damaged beyond opening.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnDamage {
    /// Rename it to `….damaged-N`, log that at error level and begin an empty store: snapshots are
    /// copies of what the events say. An entity whose events below a snapshot were deleted cannot
    /// be recovered then, and whoever recovers it must notice (see the crate's first page).
    #[default]
    SetAside,
    /// Fail with [`SnapshotError::Damaged`] and leave the file as it is, for a person to decide.
    Refuse,
}

/// Where the store is and how it is opened.
pub(crate) struct Place {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) path: PathBuf,
    pub(crate) cache_bytes: usize,
    pub(crate) on_damage: OnDamage,
}

/// What was being done where a write or sync of the file failed.
pub(crate) const WRITING: &str = "writing";

/// A read that failed may work the next time; damage stays. This many times it is tried again
/// before unreadable counts as damaged.
const READ_AGAIN: u32 = 3;

/// An open store.
#[derive(Debug)]
pub(crate) struct OpenFile {
    /// None only while it is dropped.
    db: Option<Database>,
    pub(crate) paged: Arc<PagedFile>,
    /// Whether it had snapshots when it was opened.
    pub(crate) had_snapshots: bool,
}

impl OpenFile {
    /// Works with the database. Panics of redb's become faults.
    pub(crate) fn with<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        contained(|| match &self.db {
            Some(db) => work(db),
            None => Err(Fault::Damaged("the file is closed".into())),
        })
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // redb writes on close, and may panic where the file is damaged.
        let db = self.db.take();
        let closed = contained(|| {
            drop(db);
            Ok(())
        });
        if let Err(fault) = closed {
            tracing::warn!(%fault, "the snapshots were not closed well");
        }
    }
}

impl Place {
    /// The file's path with something appended to its name.
    fn sibling(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(suffix);
        name.into()
    }

    fn dir(&self) -> &Path {
        match self.path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        }
    }

    fn io(&self, doing: &'static str, error: &io::Error) -> SnapshotError {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                SnapshotError::DiskFull { message: error.to_string() }
            }
            _ => SnapshotError::io(doing, &self.path, error),
        }
    }

    /// Makes the folder and takes the lock.
    pub(crate) fn lock(&self) -> Result<Box<dyn DiskLock>, SnapshotError> {
        self.make_dir().map_err(|e| self.io("making the folder of", &e))?;
        let path = self.sibling(".lock");
        self.disk.lock(&path).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => SnapshotError::Locked { path },
            _ => self.io("locking", &error),
        })
    }

    /// Makes the folder and those above it, each durable as a name in the one above.
    fn make_dir(&self) -> io::Result<()> {
        let (mut at, mut changed) = (self.dir(), Vec::new());
        while let Err(error) = self.disk.list(at) {
            let parent = match at.parent() {
                Some(parent) if error.kind() == io::ErrorKind::NotFound => parent,
                _ => return Err(error),
            };
            at = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            changed.push(at);
        }
        self.disk.create_dir_all(self.dir())?;
        changed.into_iter().rev().try_for_each(|parent| self.disk.sync_dir(parent))
    }

    /// Opens the store; makes it where there is none, and anew where it is damaged. `verify` reads
    /// all of it to find damage (about a second for each GB).
    pub(crate) fn open(&self, verify: bool) -> Result<OpenFile, SnapshotError> {
        self.remove_unfinished()?;
        let (mut made, mut read_again) = (false, 0);
        loop {
            let file = match self.disk.open(&self.path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound && !made => {
                    self.create()?;
                    made = true;
                    continue;
                }
                Err(error) => return Err(self.io("opening", &error)),
            };
            let paged = Arc::new(PagedFile::new(file).map_err(|e| self.io("opening", &e))?);
            let reason = match contained(|| self.open_tables(&paged, verify && !made)) {
                Ok((db, had_snapshots)) => {
                    return self.opened(OpenFile { db: Some(db), paged, had_snapshots });
                }
                Err(Fault::Newer(version)) => return Err(self.newer(version)),
                Err(Fault::Damaged(reason)) => reason,
            };
            self.settled(&paged)?;
            if paged.read_errors() > 0 && read_again < READ_AGAIN {
                read_again += 1;
            } else if made {
                // It was on disk a moment ago: the disk does not give back what it took.
                let message = format!("the new store does not open: {reason}");
                return Err(SnapshotError::Io {
                    doing: "reading",
                    path: self.path.clone(),
                    message,
                });
            } else {
                self.set_aside(reason)?;
            }
        }
    }

    /// redb writes when it opens a file. A full disk is no reason not to load.
    fn opened(&self, file: OpenFile) -> Result<OpenFile, SnapshotError> {
        match self.settled(&file.paged) {
            Err(error) if !matches!(error, SnapshotError::DiskFull { .. }) => Err(error),
            _ => Ok(file),
        }
    }

    fn open_tables(&self, paged: &Arc<PagedFile>, verify: bool) -> Result<(Database, bool), Fault> {
        let mut builder = Database::builder();
        builder.set_cache_size(self.cache_bytes);
        // redb would make a new database of an empty file, in place.
        if redb::StorageBackend::len(&**paged)? == 0 {
            return Err(Fault::Damaged("the file is empty".into()));
        }
        let mut db = builder.create_with_backend(SharedPagedFile(paged.clone()))?;
        if verify {
            db.check_integrity()?;
        }
        let had_snapshots = tables::check(&db)?;
        Ok((db, had_snapshots))
    }

    /// Makes an empty store under another name and renames it once it is durable: a crash leaves
    /// no store or a whole one.
    fn create(&self) -> Result<(), SnapshotError> {
        let unfinished = self.sibling(".new");
        let made = self.disk.create(&unfinished).map_err(|e| self.io("creating", &e))?;
        let result = self.fill(made).and_then(|()| {
            let renamed = self.disk.rename(&unfinished, &self.path);
            renamed.and_then(|()| self.disk.sync_dir(self.dir())).map_err(|e| self.io("naming", &e))
        });
        if result.is_err() {
            // It would be removed by the next open; on a full disk its space is wanted now.
            let _ = self.disk.remove(&unfinished);
        }
        result
    }

    fn fill(&self, file: Arc<dyn DiskFile>) -> Result<(), SnapshotError> {
        let paged = Arc::new(PagedFile::new(file).map_err(|e| self.io("creating", &e))?);
        let made = contained(|| {
            let db = Database::builder()
                .set_cache_size(self.cache_bytes)
                .create_with_backend(SharedPagedFile(paged.clone()))?;
            tables::create(&db)
        });
        self.settled(&paged)?;
        made.map_err(|fault| {
            let message = format!("{fault}, after {} failed reads", paged.read_errors());
            SnapshotError::Io { doing: "making", path: self.path.clone(), message }
        })
    }

    /// Whether all that redb wrote is on disk.
    fn settled(&self, paged: &PagedFile) -> Result<(), SnapshotError> {
        paged.settle().map_err(|unsettled| match unsettled {
            Unsettled::Full(message) => SnapshotError::DiskFull { message },
            Unsettled::Failed(message) => {
                SnapshotError::Io { doing: WRITING, path: self.path.clone(), message }
            }
        })
    }

    fn remove_unfinished(&self) -> Result<(), SnapshotError> {
        match self.disk.remove(&self.sibling(".new")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.io("removing an unfinished", &error))
            }
            _ => Ok(()),
        }
    }

    fn newer(&self, version: u32) -> SnapshotError {
        let reason = format!("it has format {version}, made by a later version");
        SnapshotError::Incompatible { path: self.path.clone(), reason }
    }

    fn damaged(&self, reason: String) -> SnapshotError {
        SnapshotError::Damaged { path: self.path.clone(), reason }
    }

    fn set_aside(&self, reason: String) -> Result<(), SnapshotError> {
        if self.on_damage == OnDamage::Refuse {
            return Err(self.damaged(reason));
        }
        let to = self.free_name()?;
        self.disk.rename(&self.path, &to).map_err(|e| self.io("setting aside", &e))?;
        self.disk.sync_dir(self.dir()).map_err(|e| self.io("setting aside", &e))?;
        tracing::error!(
            path = %self.path.display(),
            set_aside = %to.display(),
            reason,
            "the snapshot store is damaged: it is set aside and an empty one takes its place; \
             entities whose events were deleted may not be recoverable"
        );
        Ok(())
    }

    /// The first `….damaged-N` that is not there yet.
    fn free_name(&self) -> Result<PathBuf, SnapshotError> {
        let names = self.disk.list(self.dir()).map_err(|e| self.io("listing the folder of", &e))?;
        let taken = |path: &Path| {
            path.file_name()
                .is_some_and(|name| names.iter().any(|n| **n == *name.to_string_lossy()))
        };
        let mut candidates = (1u64..).map(|n| self.sibling(&format!(".damaged-{n}")));
        // The range does not end before a name is free.
        Ok(candidates.find(|path| !taken(path)).unwrap_or_else(|| self.sibling(".damaged-0")))
    }
}
