//! A disk in memory that keeps what is durable apart from what is not, fails on demand and
//! crashes; and an environment around it in which everything runs on the test's own thread.
#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use duractor_journal::{
    EntityId, Env, Seq, Timestamp,
    disk::{Disk, DiskFile, DiskLock},
    env::Offload,
};
use duractor_snapshot::{RedbSnapshots, Snapshot, SnapshotError, SnapshotOptions};
use futures_util::future::BoxFuture;

/// Repeatable randomness (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

#[derive(Clone, Default)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Unsynced changes in order; `None` data is a change of length.
    log: Vec<(u64, Option<Vec<u8>>)>,
}

impl Inode {
    fn change(bytes: &mut Vec<u8>, (at, data): &(u64, Option<Vec<u8>>)) {
        let at = *at as usize;
        match data {
            None => bytes.resize(at, 0),
            Some(data) => {
                bytes.resize(bytes.len().max(at + data.len()), 0);
                bytes[at..at + data.len()].copy_from_slice(data);
            }
        }
    }
}

/// What happens to the operations that change something.
#[derive(Clone, Copy, Default, PartialEq)]
pub(crate) enum Fault {
    #[default]
    None,
    /// From the n-th on, all fail: the machine is gone.
    CrashAt(u64),
    /// The n-th fails.
    FailAt(u64),
    /// No file may grow past this many bytes in all.
    Capacity(usize),
    /// Reads fail.
    FailReads,
    /// Syncs fail.
    FailSyncs,
}

#[derive(Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    locked: Vec<PathBuf>,
    fault: Fault,
    operations: u64,
    used: usize,
}

#[derive(Clone, Default)]
pub(crate) struct MemDisk(Arc<Mutex<State>>);

impl MemDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("not poisoned")
    }

    pub(crate) fn set_fault(&self, fault: Fault) {
        let mut state = self.state();
        state.fault = fault;
        state.operations = 0;
    }

    pub(crate) fn operations(&self) -> u64 {
        self.state().operations
    }

    /// How many bytes are in use: those of every page that was ever written.
    pub(crate) fn used(&self) -> usize {
        self.state().used
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let name = |path: &PathBuf| path.file_name().map(|n| n.to_string_lossy().into_owned());
        self.state().names.keys().filter_map(name).collect()
    }

    pub(crate) fn read(&self, path: &Path) -> Vec<u8> {
        let state = self.state();
        state.inodes[state.names[path]].now.clone()
    }

    /// Puts a file there, durably.
    pub(crate) fn put(&self, path: &Path, bytes: Vec<u8>) {
        let mut state = self.state();
        state.inodes.push(Inode { durable: bytes.clone(), now: bytes, log: Vec::new() });
        let inode = state.inodes.len() - 1;
        state.names.insert(path.into(), inode);
        state.durable_names.insert(path.into(), inode);
    }

    /// Changes a file under whoever has it open.
    pub(crate) fn change(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let inode = state.names[path];
        change(&mut state.inodes[inode].now);
    }

    /// The disk after the machine crashed: of the unsynced changes, each kept or not by chance.
    pub(crate) fn crashed(&self, random: &mut Random) -> MemDisk {
        let state = self.state();
        let mut after = State { inodes: state.inodes.clone(), ..State::default() };
        let keep = random.below(3);
        let mut kept = || keep == 0 || keep == 1 && random.below(2) == 0;
        for inode in &mut after.inodes {
            for change in std::mem::take(&mut inode.log) {
                if kept() {
                    Inode::change(&mut inode.durable, &change);
                }
            }
            inode.now = inode.durable.clone();
        }
        after.names = state.durable_names.clone();
        for (path, inode) in &state.names {
            if !after.names.contains_key(path) && kept() {
                after.names.insert(path.clone(), *inode);
            }
        }
        after.durable_names = after.names.clone();
        MemDisk(Arc::new(Mutex::new(after)))
    }
}

impl State {
    /// Counts an operation that changes something, and fails it if it is its turn.
    fn step(&mut self) -> io::Result<()> {
        self.operations += 1;
        match self.fault {
            Fault::CrashAt(n) if self.operations >= n => Err(io::Error::other("crashed")),
            Fault::FailAt(n) if self.operations == n => Err(io::Error::other("a planned failure")),
            _ => Ok(()),
        }
    }
}

impl Disk for MemDisk {
    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        let name = |path: &PathBuf| path.file_name().map(|n| n.to_string_lossy().into_owned());
        Ok(inside.filter_map(name).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.step()?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.inodes.push(Inode::default());
        let inode = state.inodes.len() - 1;
        state.names.insert(path.into(), inode);
        Ok(Arc::new(MemFile { disk: self.clone(), inode }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state();
        let inode = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(MemFile { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        let inode = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.into(), inode);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.step()?;
        state.names.remove(path);
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let mut state = self.state();
        if state.locked.iter().any(|locked| locked == path) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.locked.push(path.into());
        Ok(Box::new(MemLock { disk: self.clone(), path: path.into() }))
    }
}

struct MemLock {
    disk: MemDisk,
    path: PathBuf,
}

impl DiskLock for MemLock {}

impl Drop for MemLock {
    fn drop(&mut self) {
        let path = &self.path;
        self.disk.state().locked.retain(|locked| locked != path);
    }
}

struct MemFile {
    disk: MemDisk,
    inode: usize,
}

impl MemFile {
    fn change(&self, at: u64, data: Option<&[u8]>) -> io::Result<()> {
        let mut state = self.disk.state();
        state.step()?;
        let inode = &state.inodes[self.inode];
        let end = at as usize + data.map_or(0, <[u8]>::len);
        // A change of length alone takes no room, as in a sparse file.
        let grown = if data.is_some() { end.saturating_sub(inode.now.len().min(end)) } else { 0 };
        let fresh = match data {
            Some(data)
                if inode.now.get(at as usize..end).is_some_and(|b| b.iter().all(|b| *b == 0)) =>
            {
                data.len()
            }
            _ => grown,
        };
        if let Fault::Capacity(most) = state.fault
            && state.used + fresh > most
        {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.used += fresh;
        let change = (at, data.map(<[u8]>::to_vec));
        let inode = &mut state.inodes[self.inode];
        Inode::change(&mut inode.now, &change);
        inode.log.push(change);
        Ok(())
    }
}

impl DiskFile for MemFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let state = self.disk.state();
        if state.fault == Fault::FailReads {
            return Err(io::Error::other("a planned failure"));
        }
        let bytes = state.inodes[self.inode].now.get(offset as usize..).unwrap_or_default();
        let n = bytes.len().min(buf.len());
        buf[..n].copy_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(offset, Some(data))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.step()?;
        if state.fault == Fault::FailSyncs {
            return Err(io::Error::other("a planned failure"));
        }
        let inode = &mut state.inodes[self.inode];
        inode.durable = inode.now.clone();
        inode.log.clear();
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(len, None)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().inodes[self.inode].now.len() as u64)
    }
}

/// Runs jobs at once, and workers as tasks.
struct Inline;

impl Offload for Inline {
    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        job();
    }

    fn worker(&self, _name: &str, work: BoxFuture<'static, ()>) {
        tokio::spawn(work);
    }
}

pub(crate) fn path() -> PathBuf {
    PathBuf::from("/data/snapshots.redb")
}

pub(crate) async fn open(disk: &MemDisk) -> Result<Arc<RedbSnapshots>, SnapshotError> {
    open_with(disk, SnapshotOptions { cache_bytes: 1 << 20, ..SnapshotOptions::default() }).await
}

pub(crate) async fn open_with(
    disk: &MemDisk,
    options: SnapshotOptions,
) -> Result<Arc<RedbSnapshots>, SnapshotError> {
    let env = Env { disk: Arc::new(disk.clone()), offload: Arc::new(Inline), ..Env::production() };
    RedbSnapshots::open(path(), options, env).await
}

pub(crate) fn id(key: &str) -> EntityId {
    EntityId::new("order", key).expect("a valid id")
}

/// The one snapshot that there can be of an entity at a sequence number.
pub(crate) fn snap(key: &str, seq: u64) -> Snapshot {
    let state = format!("{key} at {seq}, ").repeat((seq % 7 * 40) as usize);
    Snapshot {
        entity: id(key),
        seq: Seq(seq),
        timestamp: Timestamp(seq * 10),
        schema_version: 1,
        state: Bytes::from(state),
    }
}
