//! The store's files: made, opened, locked, and set aside where they are damaged.
//!
//! | file | what it is |
//! |---|---|
//! | `snapshots.redb` | the store, under the name that the caller chose |
//! | `snapshots.redb.lock` | locked by the process that has the store open |
//! | `snapshots.redb.new` | a store in the making; removed when the store is opened |
//! | `snapshots.redb.salvaged` | what was saved of a damaged store; takes its place |
//! | `snapshots.redb.damaged-1`, `-2`, … | stores that were set aside, for people to look at |

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use duractor_journal::disk::{Disk, DiskFile, DiskLock, create_dir_durably};
use redb::Database;

use crate::{
    error::SnapshotError,
    paged_file::{PagedFile, SharedPagedFile, Unsettled},
    salvage,
    tables::{self, Fault, contained},
};

/// What to do with a store whose file is damaged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnDamage {
    /// Copy what verifies to a new store, rename the damaged one to `….damaged-N` and log that at
    /// error level: snapshots are copies of what the events say. An entity whose events below a snapshot were deleted cannot
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
    pub(crate) verify_on_open: bool,
}

/// What was being done where a write or sync of the file failed.
pub(crate) const WRITING: &str = "writing";

/// What is appended to the name of a store in the making, and of what was salvaged.
const NEW: &str = ".new";
const SALVAGED: &str = ".salvaged";

/// A transaction that fills the new store has about so many bytes.
const COPY_BYTES: usize = 4 << 20;

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
    /// Snapshots that were lost with the damaged file whose place it took.
    pub(crate) lost: u64,
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

impl OpenFile {
    /// Closes it without writing, because of damage.
    pub(crate) fn let_go(&mut self) {
        if let Some(db) = self.db.take() {
            salvage::let_go(db, &self.paged);
        }
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if self.paged.read_errors() > 0 {
            self.let_go();
        }
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
        create_dir_durably(&*self.disk, self.dir())
            .map_err(|e| self.io("making the folder of", &e))?;
        // A process that died may have left names that are not durable.
        self.disk.sync_dir(self.dir()).map_err(|e| self.io("syncing the folder of", &e))?;
        let path = self.sibling(".lock");
        self.disk.lock(&path).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => SnapshotError::Locked { path },
            _ => self.io("locking", &error),
        })
    }

    /// Opens the store; makes it where there is none, and anew where it is damaged. `verify` reads
    /// all of it to find damage, whatever the options say.
    pub(crate) fn open(&self, verify: bool) -> Result<OpenFile, SnapshotError> {
        self.remove_unfinished()?;
        let verify = verify || self.verify_on_open;
        let (mut made, mut lost, mut read_again) = (false, 0, 0);
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
            let paged = || {
                // Nothing is written to a file before it is known to be sound.
                let paged = PagedFile::new(file.clone()).map_err(|e| self.io("opening", &e))?;
                paged.hold();
                Ok(Arc::new(paged))
            };
            let (probed, paged) = (paged()?, paged()?);
            let probe = if verify && !made { self.probe(&probed) } else { Ok(()) };
            let opened = probe.and_then(|()| {
                paged.inherit(&probed);
                self.open_tables(&paged)
            });
            let reason = match opened {
                Ok((db, had_snapshots)) => {
                    return self.opened(OpenFile { db: Some(db), paged, had_snapshots, lost });
                }
                Err(Fault::Newer(version)) => return Err(self.newer(version)),
                Err(Fault::Damaged(reason)) => reason,
            };
            if paged.read_errors() + probed.read_errors() > 0 && read_again < READ_AGAIN {
                // What cannot be read may be sound: nothing is repaired for it.
                read_again += 1;
                continue;
            }
            if made {
                // It was on disk a moment ago: the disk does not give back what it took.
                let message = format!("the new store does not open: {reason}");
                return Err(SnapshotError::Io {
                    doing: "reading",
                    path: self.path.clone(),
                    message,
                });
            }
            lost += self.set_aside(reason)?;
            made = true;
        }
    }

    fn probe(&self, paged: &Arc<PagedFile>) -> Result<(), Fault> {
        // redb would make a new database of an empty file.
        if redb::StorageBackend::len(&**paged)? == 0 {
            return Err(Fault::Damaged("the file is empty".into()));
        }
        salvage::probe(paged, self.cache_bytes)
    }

    fn open_tables(&self, paged: &Arc<PagedFile>) -> Result<(Database, bool), Fault> {
        if redb::StorageBackend::len(&**paged)? == 0 {
            return Err(Fault::Damaged("the file is empty".into()));
        }
        let db = contained(|| {
            let mut builder = Database::builder();
            builder.set_cache_size(self.cache_bytes);
            Ok(builder.create_with_backend(SharedPagedFile(paged.clone()))?)
        })?;
        match contained(|| tables::check(&db)) {
            Ok(had_snapshots) => Ok((db, had_snapshots)),
            Err(fault) => {
                salvage::let_go(db, paged);
                Err(fault)
            }
        }
    }

    /// redb writes when it opens a file. A full disk is no reason not to load.
    fn opened(&self, file: OpenFile) -> Result<OpenFile, SnapshotError> {
        file.paged.strict(false);
        file.paged.release();
        match self.settled(&file.paged) {
            Err(error) if !matches!(error, SnapshotError::DiskFull { .. }) => Err(error),
            _ => Ok(file),
        }
    }

    /// Makes an empty store under another name and renames it once it is durable: a crash leaves
    /// no store or a whole one. What was salvaged from a damaged store waits where a crash came
    /// between two renames, and goes first.
    fn create(&self) -> Result<(), SnapshotError> {
        let salvaged = self.sibling(SALVAGED);
        let renamed = self.disk.rename(&salvaged, &self.path);
        match renamed.and_then(|()| self.disk.sync_dir(self.dir())) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(self.io("naming", &error)),
        }
        let unfinished = self.sibling(NEW);
        self.make(&unfinished, |_| Ok(()))?;
        let renamed = self.disk.rename(&unfinished, &self.path);
        let named = renamed.and_then(|()| self.disk.sync_dir(self.dir()));
        if named.is_err() {
            let _ = self.disk.remove(&unfinished);
        }
        named.map_err(|e| self.io("naming", &e))
    }

    /// Makes a store at `path` with what `fill` puts there; it is durable, its name is not.
    fn make<T>(
        &self,
        path: &Path,
        fill: impl FnOnce(&Database) -> Result<T, Fault>,
    ) -> Result<T, SnapshotError> {
        let file = self.disk.create(path).map_err(|e| self.io("creating", &e))?;
        let result = self.fill(file, fill);
        if result.is_err() {
            // It would be removed by the next open; on a full disk its space is wanted now.
            let _ = self.disk.remove(path);
        }
        result
    }

    fn fill<T>(
        &self,
        file: Arc<dyn DiskFile>,
        fill: impl FnOnce(&Database) -> Result<T, Fault>,
    ) -> Result<T, SnapshotError> {
        let paged = Arc::new(PagedFile::new(file).map_err(|e| self.io("creating", &e))?);
        let made = contained(|| {
            let db = Database::builder()
                .set_cache_size(self.cache_bytes)
                .create_with_backend(SharedPagedFile(paged.clone()))?;
            tables::create(&db)?;
            fill(&db)
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
        self.remove(NEW)?;
        // As long as the store is there, what was salvaged from it may not be whole.
        match self.disk.open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            _ => self.remove(SALVAGED),
        }
    }

    fn remove(&self, suffix: &str) -> Result<(), SnapshotError> {
        match self.disk.remove(&self.sibling(suffix)) {
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

    /// Puts a store with what can be saved in the place of the damaged one. Returns how many
    /// snapshots are known to be lost.
    fn set_aside(&self, reason: String) -> Result<u64, SnapshotError> {
        if self.on_damage == OnDamage::Refuse {
            return Err(self.damaged(reason));
        }
        let (salvaged, to) = (self.sibling(SALVAGED), self.free_name()?);
        let (mut saved, mut lost) = (0, 0);
        self.make(&salvaged, |db| {
            let (mut rows, mut bytes) = (Vec::new(), 0);
            let damaged = self.disk.open(&self.path)?;
            lost = salvage::values(&*damaged, |row| {
                (saved, bytes) = (saved + 1, bytes + row.0.len() + row.1.len());
                rows.push(row);
                if bytes > COPY_BYTES {
                    bytes = 0;
                    tables::put(db, &std::mem::take(&mut rows))?;
                }
                Ok::<(), Fault>(())
            })?;
            tables::put(db, &rows)
        })?;
        // Each name is durable before the next one changes, so that a crash finds the damaged
        // store or all that was saved of it.
        let sync = || self.disk.sync_dir(self.dir());
        let rename = |from: &Path, to: &Path| self.disk.rename(from, to).and_then(|()| sync());
        let renamed = sync()
            .and_then(|()| rename(&self.path, &to))
            .and_then(|()| rename(&salvaged, &self.path));
        renamed.map_err(|e| self.io("setting aside", &e))?;
        tracing::error!(
            path = %self.path.display(),
            set_aside = %to.display(),
            reason,
            saved,
            lost,
            "the snapshot store is damaged: it is set aside, and a new one has what could be saved; \
             entities whose events were deleted may not be recoverable"
        );
        Ok(lost)
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
