//! The disk seam over the simulated disk.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use duractor_journal::disk::{Disk, DiskFile, DiskLock};

use super::{
    names::FileId,
    state::{Boot, State},
};

pub(super) type Shared = Arc<Mutex<State>>;

pub(super) fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    // A test that panicked with the disk locked fails by itself; its disk is still worth a look.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The disk as one process sees it.
pub(super) struct Mount {
    pub(super) shared: Shared,
    pub(super) boot: Boot,
}

impl Mount {
    fn file(&self, id: FileId) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { shared: Arc::clone(&self.shared), boot: self.boot, id })
    }
}

impl Disk for Mount {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        lock(&self.shared).create_dir_all(self.boot, dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        lock(&self.shared).list(self.boot, dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let id = lock(&self.shared).create(self.boot, path)?;
        Ok(self.file(id))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let id = lock(&self.shared).open(self.boot, path)?;
        Ok(self.file(id))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        lock(&self.shared).rename(self.boot, from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        lock(&self.shared).remove(self.boot, path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        lock(&self.shared).sync_dir(self.boot, dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        lock(&self.shared).lock(self.boot, path)?;
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(SimLock { shared, boot: self.boot, path: path.to_owned() }))
    }
}

struct SimFile {
    shared: Shared,
    boot: Boot,
    id: FileId,
}

impl DiskFile for SimFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        lock(&self.shared).read(self.boot, self.id, offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        lock(&self.shared).write(self.boot, self.id, offset, data)
    }

    fn sync_data(&self) -> io::Result<()> {
        lock(&self.shared).sync(self.boot, self.id)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        lock(&self.shared).set_len(self.boot, self.id, len)
    }

    fn len(&self) -> io::Result<u64> {
        lock(&self.shared).len(self.boot, self.id)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        lock(&self.shared).close(self.boot, self.id);
    }
}

struct SimLock {
    shared: Shared,
    boot: Boot,
    path: PathBuf,
}

impl DiskLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        lock(&self.shared).unlock(self.boot, &self.path);
    }
}
