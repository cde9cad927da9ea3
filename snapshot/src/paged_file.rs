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
//!   finds that page damaged, and only that one. Only for loads, though: what redb writes follows
//!   from what it reads, and what it repairs too. So while it opens the file or writes
//!   ([`PagedFile::strict`]) it does hear of a failed read, and after any the file is opened again
//!   before anything is written ([`PagedFile::refuse`]), for redb caches pages.
//! - **A block that changed since it was read or written**: a failed read. redb compares checksums
//!   only when it is asked to; so those of all blocks of 4 KiB are kept here (1 MiB for each GiB),
//!   and what was sound when the file was opened is either still sound or does not reach redb.

use std::{
    collections::VecDeque,
    fmt, io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use duractor_journal::disk::DiskFile;

use crate::epoch::Epoch;

/// Why what was written is not durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unsettled {
    /// The disk is full; it will be tried again.
    Full(String),
    /// A write or sync failed: nothing is written any more.
    Failed(String),
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
    strict: AtomicBool,
    /// Nothing goes to the file as long as this is set.
    held: AtomicBool,
    /// Every operation fails from now on.
    refused: AtomicBool,
    /// The header is shown with the marks of a crash in the middle of the last commit.
    distrusted: AtomicBool,
    /// Checksums of the file's blocks; [`UNKNOWN`] for those not seen yet.
    sums: Mutex<Vec<u32>>,
}

const BLOCK: usize = 4096;
const UNKNOWN: u32 = 0;
/// The byte of redb's header that holds these flags.
const FLAGS_AT: usize = 9;
const RECOVERY_REQUIRED: u8 = 2;
const TWO_PHASE_COMMIT: u8 = 4;

fn sum(block: &[u8]) -> u32 {
    match crc32c::crc32c(block) {
        UNKNOWN => 1,
        sum => sum,
    }
}

impl PagedFile {
    /// A file that redb is about to open: strict until [`PagedFile::strict`] says otherwise.
    pub(crate) fn new(file: Arc<dyn DiskFile>) -> io::Result<Self> {
        let pending = Pending { len: file.len()?, ..Pending::default() };
        Ok(Self {
            file,
            pending: RwLock::new(pending),
            read_errors: AtomicU64::new(0),
            strict: AtomicBool::new(true),
            held: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            distrusted: AtomicBool::new(false),
            sums: Mutex::default(),
        })
    }

    /// What redb writes stays in memory until [`PagedFile::release`].
    pub(crate) fn hold(&self) {
        self.held.store(true, Ordering::Release);
    }

    /// What redb writes goes to the file when it syncs; what it has written goes with the next
    /// [`PagedFile::settle`].
    pub(crate) fn release(&self) {
        self.held.store(false, Ordering::Release);
    }

    /// Has every operation fail from now on: nothing more is written.
    pub(crate) fn refuse(&self) {
        self.refused.store(true, Ordering::Release);
    }

    /// Has redb verify the last commit when it opens the file, and go back to the one before it
    /// where that does not verify, as after a crash.
    pub(crate) fn distrust_last_commit(&self) {
        self.distrusted.store(true, Ordering::Release);
    }

    /// Whether the header says that the last commit was made in two phases.
    pub(crate) fn two_phase(&self) -> io::Result<bool> {
        let mut flags = [0; FLAGS_AT + 1];
        redb::StorageBackend::read(self, 0, &mut flags)?;
        Ok(flags[FLAGS_AT] & TWO_PHASE_COMMIT != 0)
    }

    /// Takes over what another one knows of the same file, of which it has written nothing.
    pub(crate) fn inherit(&self, other: &PagedFile) {
        *self.sums() = std::mem::take(&mut *other.sums());
    }

    fn check_refused(&self) -> io::Result<()> {
        match self.refused.load(Ordering::Acquire) {
            true => Err(io::Error::other("the file is given up")),
            false => Ok(()),
        }
    }

    /// Whether redb hears of failed reads from now on.
    pub(crate) fn strict(&self, on: bool) {
        self.strict.store(on, Ordering::Release);
    }

    /// How many reads the disk failed.
    pub(crate) fn read_errors(&self) -> u64 {
        self.read_errors.load(Ordering::Relaxed)
    }

    /// Writes what is left to write. Ok where everything that redb synced is durable.
    pub(crate) fn settle(&self) -> Result<(), Unsettled> {
        if self.held.load(Ordering::Acquire) {
            return Ok(());
        }
        if let Err(error) = self.check_refused() {
            return Err(Unsettled::Failed(error.to_string()));
        }
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
            self.know(&epoch);
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

    fn read_file(&self, pending: &Pending, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let read = self.file.read_at(offset, out).and_then(|read| {
            out[read..].fill(0);
            self.compare(pending, offset, out)
        });
        if let Err(error) = read {
            self.read_errors.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%error, offset, bytes = out.len(), "a snapshot page is unreadable");
            if self.strict.load(Ordering::Acquire) {
                return Err(error);
            }
            out.fill(0);
        } else if offset == 0 && out.len() > FLAGS_AT && self.distrusted.load(Ordering::Acquire) {
            out[FLAGS_AT] = out[FLAGS_AT] & !TWO_PHASE_COMMIT | RECOVERY_REQUIRED;
        }
        Ok(())
    }

    /// Compares the whole blocks of what was read with what they were before.
    fn compare(&self, pending: &Pending, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut sums = self.sums();
        for (block, bytes) in whole_blocks(offset, bytes) {
            let from = block as u64 * BLOCK as u64;
            // What is being written reads as anything, and what is pending lies over it.
            let mut epochs = pending.sealed.iter().map(|epoch| &**epoch).chain([&pending.open]);
            if epochs.any(|epoch| epoch.touches(from, from + BLOCK as u64)) {
                continue;
            }
            if sums.len() <= block {
                sums.resize(block + 1, UNKNOWN);
            }
            match sums[block] {
                UNKNOWN => sums[block] = sum(bytes),
                known if known == sum(bytes) => {}
                _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "the page changed")),
            }
        }
        Ok(())
    }

    /// Takes up the checksums of what was written.
    fn know(&self, epoch: &Epoch) {
        let mut sums = self.sums();
        if let Some((least, _)) = epoch.resized {
            sums.truncate((least / BLOCK as u64) as usize);
        }
        for (offset, bytes) in &epoch.parts {
            let (first, end) =
                (*offset as usize / BLOCK, (*offset as usize + bytes.len()).div_ceil(BLOCK));
            if sums.len() < end {
                sums.resize(end, UNKNOWN);
            }
            // A block that was written in part is known when it is read again.
            sums[first..end].fill(UNKNOWN);
            for (block, bytes) in whole_blocks(*offset, bytes) {
                sums[block] = sum(bytes);
            }
        }
    }

    fn sums(&self) -> MutexGuard<'_, Vec<u32>> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pending(&self) -> RwLockReadGuard<'_, Pending> {
        // Nothing under the lock panics half-way through a change.
        self.pending.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn pending_mut(&self) -> RwLockWriteGuard<'_, Pending> {
        self.pending.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The whole blocks of `bytes`, which start at `offset`, by their number in the file.
fn whole_blocks(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let first = (offset as usize).div_ceil(BLOCK);
    let skipped = (first * BLOCK - offset as usize).min(bytes.len());
    bytes[skipped..].chunks_exact(BLOCK).enumerate().map(move |(n, block)| (first + n, block))
}

impl redb::StorageBackend for PagedFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.pending().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        // The lock is held across the read of the file, so that no epoch leaves memory between.
        let pending = self.pending();
        self.check_refused()?;
        self.read_file(&pending, offset, out)?;
        pending.sealed.iter().for_each(|epoch| epoch.overlay(offset, out));
        pending.open.overlay(offset, out);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_refused()?;
        let mut pending = self.pending_mut();
        pending.len = len;
        pending.open.resize(len);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check_refused()?;
        let mut pending = self.pending_mut();
        pending.len = pending.len.max(offset.saturating_add(data.len() as u64));
        pending.open.write(offset, data);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check_refused()?;
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
