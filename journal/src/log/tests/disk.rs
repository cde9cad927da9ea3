//! A disk in memory that loses power in the middle of any operation.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use crate::disk::{Disk, DiskFile, DiskLock};

/// What is left of what was not synced.
#[derive(Debug, Clone, Copy)]
pub(super) enum Keep {
    Nothing,
    Everything,
    /// Every other sector that was written, and all names.
    Sectors,
}

#[derive(Default)]
struct File {
    durable: Vec<u8>,
    current: Vec<u8>,
}

type Names = BTreeMap<PathBuf, Arc<Mutex<File>>>;

#[derive(Default)]
struct State {
    durable: Names,
    current: Names,
    ops: u64,
    crash_at: Option<u64>,
    down: bool,
    /// Bytes that all files may have together.
    capacity: Option<usize>,
    syncs: u64,
}

/// The disk; clones are the same one.
#[derive(Clone, Default)]
pub(super) struct CrashDisk(Arc<Mutex<State>>);

struct Handle(CrashDisk, Arc<Mutex<File>>);
struct Lock;
impl DiskLock for Lock {}

fn off() -> io::Error {
    io::Error::other("the power is off")
}

impl CrashDisk {
    fn change<T>(&self, change: impl FnOnce(&mut State, bool) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.0.lock().unwrap();
        if state.down {
            return Err(off());
        }
        state.ops += 1;
        let crash = state.crash_at == Some(state.ops);
        state.down = crash;
        let done = change(&mut state, crash);
        if crash { Err(off()) } else { done }
    }

    /// The power fails in the operation number `n` from here.
    pub(super) fn crash_at(&self, n: u64) {
        let mut state = self.0.lock().unwrap();
        state.crash_at = Some(state.ops + n);
    }

    pub(super) fn is_down(&self) -> bool {
        self.0.lock().unwrap().down
    }

    pub(super) fn syncs(&self) -> u64 {
        self.0.lock().unwrap().syncs
    }

    /// From now on files can grow by so many bytes.
    pub(super) fn set_room(&self, room: Option<usize>) {
        let mut state = self.0.lock().unwrap();
        let used: usize = state.current.values().map(|f| f.lock().unwrap().current.len()).sum();
        state.capacity = room.map(|room| used + room);
    }

    /// The names of the files.
    pub(super) fn names(&self) -> Vec<String> {
        self.list(Path::new("/log")).unwrap()
    }

    /// The disk as the next process finds it.
    pub(super) fn after_crash(&self, keep: Keep) -> CrashDisk {
        self.0.lock().unwrap().down = true;
        self.copy(keep)
    }

    /// What would be found if the power failed now.
    pub(super) fn copy(&self, keep: Keep) -> CrashDisk {
        let state = self.0.lock().unwrap();
        let names = if matches!(keep, Keep::Nothing) { &state.durable } else { &state.current };
        let file = |file: &Arc<Mutex<File>>| {
            let file = file.lock().unwrap();
            let mut bytes = file.durable.clone();
            bytes.resize(bytes.len().max(file.current.len()), 0);
            for (n, sector) in file.current.chunks(512).enumerate() {
                if matches!(keep, Keep::Everything) || (matches!(keep, Keep::Sectors) && n % 2 == 0)
                {
                    bytes[n * 512..n * 512 + sector.len()].copy_from_slice(sector);
                }
            }
            Arc::new(Mutex::new(File { durable: bytes.clone(), current: bytes }))
        };
        let names: Names = names.iter().map(|(name, f)| (name.clone(), file(f))).collect();
        CrashDisk(Arc::new(Mutex::new(State {
            durable: names.clone(),
            current: names,
            ..State::default()
        })))
    }
}

impl Disk for CrashDisk {
    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.0.lock().unwrap();
        let inside = state.current.keys().filter_map(|path| path.strip_prefix(dir).ok());
        Ok(inside.map(|name| name.display().to_string()).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = Arc::new(Mutex::new(File::default()));
        self.change(|state, _| {
            state.current.insert(path.to_owned(), file.clone());
            Ok(Arc::new(Handle(self.clone(), file)) as _)
        })
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.0.lock().unwrap();
        let file = state.current.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(Handle(self.clone(), file.clone())))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|state, crash| {
            if !crash {
                let file = state.current.remove(from).ok_or(io::ErrorKind::NotFound)?;
                state.current.insert(to.to_owned(), file);
            }
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(|state, _| {
            state.current.remove(path);
            Ok(())
        })
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        self.change(|state, crash| {
            if !crash {
                state.durable = state.current.clone();
            }
            Ok(())
        })
    }

    fn lock(&self, _: &Path) -> io::Result<Box<dyn DiskLock>> {
        Ok(Box::new(Lock))
    }
}

impl DiskFile for Handle {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let file = self.1.lock().unwrap();
        let rest = file.current.get(offset as usize..).unwrap_or(&[]);
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn read_cached_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        // Now and then it would have to wait.
        let n = offset as usize / 64;
        Ok(n % 3 != 0 && self.read_at(offset, buf)? == buf.len())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.change(|state, crash| {
            let written = if crash { data.len() / 2 } else { data.len() };
            let end = offset as usize + written;
            let grows = end.saturating_sub(self.1.lock().unwrap().current.len());
            let used = || -> usize {
                state.current.values().map(|f| f.lock().unwrap().current.len()).sum()
            };
            if state.capacity.is_some_and(|capacity| grows > 0 && used() + grows > capacity) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let mut file = self.1.lock().unwrap();
            let len = file.current.len().max(end);
            file.current.resize(len, 0);
            file.current[offset as usize..end].copy_from_slice(&data[..written]);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.change(|state, crash| {
            state.syncs += 1;
            if !crash {
                let mut file = self.1.lock().unwrap();
                file.durable = file.current.clone();
            }
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.1.lock().unwrap().current.resize(len as usize, 0);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.1.lock().unwrap().current.len() as u64)
    }
}
