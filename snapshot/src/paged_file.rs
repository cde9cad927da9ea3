//! redb's storage on the disk seam, with a different idea of failure.
//!
//! redb gives up for good after any failed read or write: not even reads go on until the database
//! is opened again. A snapshot store must do better, so this adapter never shows it a failure:
//!
//! - What redb writes stays in memory until it asks for a sync. Then it goes to the file, and what
//!   went there is synced. Where that fails, it stays in memory, so that redb's view remains whole
//!   and reads go on; the caller asks [`PagedFile::settle`] after each commit whether it is durable.
//! - **Disk full**: what could not be written is kept and tried again by the next `settle`, in the
//!   order of the syncs, because redb relies on it.
//! - **Any other failed write, or a failed sync**: nothing is written ever again. What the
//!   operating system still has of it is unknown, so trying again could call lost data durable.
//! - **A failed read, or one past the end**: zeros. No page of redb's starts with zeros, so it
//!   finds that page damaged, and only that one.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt, io,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use duractor_journal::disk::DiskFile;

/// Why what was written is not durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unsettled {
    /// The disk is full; it will be tried again.
    Full(String),
    /// A write or sync failed: nothing is written any more.
    Failed(String),
}

/// What redb wrote between two syncs.
#[derive(Debug, Default, Clone)]
struct Epoch {
    /// Parts of the file, none overlapping another.
    parts: BTreeMap<u64, Vec<u8>>,
    /// The file's length, where it was changed: the least that it had, then the last.
    resized: Option<(u64, u64)>,
}

#[derive(Debug, Default)]
struct Pending {
    /// Synced by redb, not yet by the disk; oldest first. More than one only where the disk fails.
    sealed: VecDeque<Arc<Epoch>>,
    /// Not yet synced by redb.
    open: Epoch,
    /// The file's length as redb knows it.
    len: u64,
    unsettled: Option<Unsettled>,
}

/// A file as redb sees it.
pub(crate) struct PagedFile {
    file: Arc<dyn DiskFile>,
    pending: RwLock<Pending>,
    read_errors: AtomicU64,
}

impl PagedFile {
    pub(crate) fn new(file: Arc<dyn DiskFile>) -> io::Result<Self> {
        let pending = Pending { len: file.len()?, ..Pending::default() };
        Ok(Self { file, pending: RwLock::new(pending), read_errors: AtomicU64::new(0) })
    }

    /// How many reads the disk failed.
    pub(crate) fn read_errors(&self) -> u64 {
        self.read_errors.load(Ordering::Relaxed)
    }

    /// Writes what is left to write. Ok where everything that redb synced is durable.
    pub(crate) fn settle(&self) -> Result<(), Unsettled> {
        // redb has one writer, so nothing is added to `sealed` meanwhile; reads go on.
        loop {
            let epoch = {
                let pending = self.pending();
                if let Some(Unsettled::Failed(cause)) = &pending.unsettled {
                    return Err(Unsettled::Failed(cause.clone()));
                }
                match pending.sealed.front() {
                    Some(epoch) => epoch.clone(),
                    None => return Ok(()),
                }
            };
            let result = self.write_out(&epoch);
            let mut pending = self.pending_mut();
            if let Err(unsettled) = result {
                pending.unsettled = Some(unsettled.clone());
                return Err(unsettled);
            }
            pending.unsettled = None;
            pending.sealed.pop_front();
        }
    }

    fn write_out(&self, epoch: &Epoch) -> Result<(), Unsettled> {
        let write = || {
            if let Some((least, last)) = epoch.resized {
                if least < self.file.len()? {
                    self.file.set_len(least)?;
                }
                self.file.set_len(last)?;
            }
            epoch.parts.iter().try_for_each(|(offset, bytes)| self.file.write_at(*offset, bytes))
        };
        write().map_err(|error: io::Error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Unsettled::Full(error.to_string())
            }
            _ => Unsettled::Failed(format!("writing: {error}")),
        })?;
        self.file.sync_data().map_err(|error| Unsettled::Failed(format!("syncing: {error}")))
    }

    fn read_file(&self, offset: u64, out: &mut [u8]) {
        match self.file.read_at(offset, out) {
            Ok(read) => out[read..].fill(0),
            Err(error) => {
                self.read_errors.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%error, offset, bytes = out.len(), "a snapshot page is unreadable");
                out.fill(0);
            }
        }
    }

    fn pending(&self) -> RwLockReadGuard<'_, Pending> {
        // Nothing under the lock panics half-way through a change.
        self.pending.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn pending_mut(&self) -> RwLockWriteGuard<'_, Pending> {
        self.pending.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Epoch {
    fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.resized.is_none()
    }

    /// Lays this epoch's parts over `out`, which starts at `offset`.
    fn overlay(&self, offset: u64, out: &mut [u8]) {
        let end = offset + out.len() as u64;
        if let Some((least, _)) = self.resized {
            let cut = least.clamp(offset, end) - offset;
            out[cut as usize..].fill(0);
        }
        let first = self.parts.range(..=offset).next_back().map_or(offset, |(start, _)| *start);
        for (start, bytes) in self.parts.range(first..end) {
            let (from, to) = (offset.max(*start), end.min(start + bytes.len() as u64));
            if from < to {
                out[(from - offset) as usize..(to - offset) as usize]
                    .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
            }
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.clear(offset, offset.saturating_add(data.len() as u64));
        self.parts.insert(offset, data.to_vec());
    }

    fn resize(&mut self, len: u64) {
        self.clear(len, u64::MAX);
        let least = self.resized.map_or(len, |(least, _)| least.min(len));
        self.resized = Some((least, len));
    }

    /// Takes the bytes from `from` to `to` out of the parts.
    fn clear(&mut self, from: u64, to: u64) {
        let first = self.parts.range(..from).next_back().map_or(from, |(start, _)| *start);
        let touched: Vec<u64> = self.parts.range(first..to).map(|(start, _)| *start).collect();
        for start in touched {
            let Some(mut bytes) = self.parts.remove(&start) else { continue };
            let end = start + bytes.len() as u64;
            if end > to {
                self.parts.insert(to, bytes[(to - start) as usize..].to_vec());
            }
            if start < from {
                bytes.truncate((from - start) as usize);
                self.parts.insert(start, bytes);
            } else if end <= from {
                self.parts.insert(start, bytes);
            }
        }
    }
}

impl redb::StorageBackend for PagedFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.pending().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        // The lock is held across the read of the file, so that no epoch leaves memory between.
        let pending = self.pending();
        self.read_file(offset, out);
        pending.sealed.iter().for_each(|epoch| epoch.overlay(offset, out));
        pending.open.overlay(offset, out);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut pending = self.pending_mut();
        pending.len = len;
        pending.open.resize(len);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut pending = self.pending_mut();
        pending.len = pending.len.max(offset.saturating_add(data.len() as u64));
        pending.open.write(offset, data);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut pending = self.pending_mut();
        if !pending.open.is_empty() {
            let epoch = std::mem::take(&mut pending.open);
            pending.sealed.push_back(Arc::new(epoch));
        }
        drop(pending);
        // The one who commits asks again; redb must not hear of it.
        let _ = self.settle();
        Ok(())
    }
}

impl fmt::Debug for PagedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PagedFile").finish_non_exhaustive()
    }
}

/// The same file in redb's hands and in the store's.
#[derive(Debug, Clone)]
pub(crate) struct SharedPagedFile(pub(crate) Arc<PagedFile>);

impl redb::StorageBackend for SharedPagedFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use redb::StorageBackend;

    use super::*;

    /// A file with room for so many bytes.
    #[derive(Default)]
    struct Small(Mutex<(Vec<u8>, usize)>);

    impl Small {
        fn with<T>(&self, f: impl FnOnce(&mut (Vec<u8>, usize)) -> T) -> T {
            f(&mut self.0.lock().expect("not poisoned"))
        }
    }

    impl DiskFile for Small {
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
            self.with(|(bytes, _)| {
                let bytes = bytes.get(offset as usize..).unwrap_or_default();
                let n = bytes.len().min(buf.len());
                buf[..n].copy_from_slice(&bytes[..n]);
                Ok(n)
            })
        }

        fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.with(|(bytes, room)| {
                let end = offset as usize + data.len();
                if end > *room {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                bytes.resize(bytes.len().max(end), 0);
                bytes[offset as usize..end].copy_from_slice(data);
                Ok(())
            })
        }

        fn sync_data(&self) -> io::Result<()> {
            Ok(())
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.with(|(bytes, _)| bytes.resize(len as usize, 0));
            Ok(())
        }

        fn len(&self) -> io::Result<u64> {
            Ok(self.with(|(bytes, _)| bytes.len() as u64))
        }
    }

    /// Whatever is written, cut and synced, with room or without: reads see all of it, and once
    /// there is room the file has all that was synced.
    #[test]
    fn reads_see_every_write_whether_the_disk_took_it_or_not() {
        let mut random = 1u64;
        let mut below = move |n: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % n
        };
        for _ in 0..300 {
            let disk = Arc::new(Small::default());
            let file = PagedFile::new(disk.clone()).expect("opens");
            let (mut model, mut synced) = (Vec::new(), Vec::new());
            for step in 0..60u8 {
                disk.with(|(_, room)| *room = [50, 200, 1000][below(3) as usize]);
                match below(6) {
                    0 => {
                        let len = below(300);
                        file.set_len(len).expect("never fails");
                        model.resize(len as usize, 0);
                    }
                    1 => {
                        file.sync_data().expect("never fails");
                        synced.clone_from(&model);
                    }
                    _ => {
                        let (at, len) = (below(300) as usize, 1 + below(60) as usize);
                        file.write(at as u64, &vec![step; len]).expect("never fails");
                        model.resize(model.len().max(at + len), 0);
                        model[at..at + len].fill(step);
                    }
                }
                assert_eq!(file.len().expect("never fails"), model.len() as u64);
                let at = below(model.len() as u64 + 1) as usize;
                let mut got = vec![0xee; below((model.len() - at) as u64 + 1) as usize];
                file.read(at as u64, &mut got).expect("never fails");
                assert_eq!(got, model[at..at + got.len()]);
                if file.settle().is_ok() {
                    assert_eq!(disk.with(|(bytes, _)| bytes.clone()), synced);
                }
            }
            disk.with(|(_, room)| *room = 1000);
            assert_eq!(file.settle(), Ok(()));
            assert_eq!(disk.with(|(bytes, _)| bytes.clone()), synced);
        }
    }
}
