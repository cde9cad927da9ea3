//! The disk behind its lock: its files, its room, its rot, and what is left after a crash.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::xxh3_64;

use super::{
    faults::{DiskCounts, DiskFaults, Fault, Op, crashed},
    image::{Image, Keep},
    names::{FileId, Names},
};
use crate::rng::{Rng, STEP, mix};

#[derive(Debug, Clone, Default)]
pub(super) struct Inode {
    pub(super) image: Image,
    /// Where it is now, or was before it was removed.
    pub(super) path: PathBuf,
    linked: bool,
    handles: u32,
}

impl Inode {
    fn takes_space(&self) -> bool {
        self.linked || self.handles > 0
    }
}

/// Who asks: the boot since which a handle is open.
pub(super) type Boot = u64;

#[derive(Clone)]
pub(super) struct State {
    pub(super) names: Names,
    pub(super) inodes: BTreeMap<FileId, Inode>,
    next_id: FileId,
    pub(super) locks: BTreeSet<PathBuf>,
    pub(super) faults: DiskFaults,
    pub(super) counts: DiskCounts,
    pub(super) boot: Boot,
    pub(super) down: bool,
    pub(super) rng: Rng,
    trace: u64,
}

impl State {
    pub(super) fn new(seed: u64, faults: DiskFaults) -> Self {
        assert!(faults.sector_bytes > 0, "a sector has bytes");
        Self {
            names: Names::new(faults.unordered_names),
            inodes: BTreeMap::new(),
            next_id: 1,
            locks: BTreeSet::new(),
            faults,
            counts: DiskCounts::default(),
            boot: 1,
            down: false,
            rng: Rng::new(seed),
            trace: 0,
        }
    }

    /// Everything fails from now on.
    pub(super) fn scrap(&mut self) {
        self.down = true;
        self.names = Names::new(self.faults.unordered_names);
        self.inodes.clear();
        self.locks.clear();
    }

    // ----- what happens before every operation

    pub(super) fn note(&mut self, x: u64) {
        self.trace = mix(self.trace ^ x).wrapping_add(STEP);
    }

    pub(super) fn trace(&self) -> u64 {
        self.trace
    }

    /// Refuses those whose process is gone, and draws the fault that strikes the others.
    pub(super) fn begin(&mut self, boot: Boot, op: Op, path: &Path) -> io::Result<Option<Fault>> {
        self.admit(boot, op, xxh3_64(path.as_os_str().as_encoded_bytes()))?;
        let fault = self.faults.draw(op, path, &mut self.rng);
        Ok(fault.inspect(|fault| self.struck(*fault)))
    }

    /// As `begin`, for an operation on an open file.
    pub(super) fn begin_on(&mut self, boot: Boot, op: Op, id: FileId) -> io::Result<Option<Fault>> {
        self.admit(boot, op, id)?;
        let path = self.inodes.get(&id).map_or(Path::new(""), |inode| &inode.path);
        let fault = self.faults.draw(op, path, &mut self.rng);
        Ok(fault.inspect(|fault| self.struck(*fault)))
    }

    fn admit(&mut self, boot: Boot, op: Op, subject: u64) -> io::Result<()> {
        if self.down || boot != self.boot {
            return Err(crashed());
        }
        *self.counts.ops.entry(op).or_default() += 1;
        self.note(op as u64);
        self.note(subject);
        Ok(())
    }

    pub(super) fn struck(&mut self, fault: Fault) {
        *self.counts.faults.entry(fault).or_default() += 1;
        self.note(!(fault as u64));
    }

    /// Ends an operation. Where the power fails in it, what it did is volatile like the rest.
    pub(super) fn end<T>(&mut self, fault: Option<Fault>, done: io::Result<T>) -> io::Result<T> {
        match fault {
            Some(Fault::Crash) => {
                self.down = true;
                Err(crashed())
            }
            _ => done,
        }
    }

    /// As `begin`, for operations where a fault but a crash means: no effect.
    pub(super) fn begin_whole(
        &mut self,
        boot: Boot,
        op: Op,
        path: &Path,
    ) -> io::Result<Option<Fault>> {
        match self.begin(boot, op, path)? {
            Some(fault) if fault != Fault::Crash => Err(fault.error()),
            fault => Ok(fault),
        }
    }

    // ----- files

    pub(super) fn make(&mut self, path: &Path) -> io::Result<FileId> {
        if !self.names.has_parent(path) {
            return Err(not_found(path));
        }
        let id = self.next_id;
        self.next_id += 1;
        let inode = Inode { path: path.to_owned(), linked: true, ..Inode::default() };
        self.inodes.insert(id, inode);
        self.names.link(path, id);
        Ok(id)
    }

    pub(super) fn hold(&mut self, id: FileId) -> FileId {
        if let Some(inode) = self.inodes.get_mut(&id) {
            inode.handles += 1;
        }
        id
    }

    pub(super) fn close(&mut self, boot: Boot, id: FileId) {
        if boot != self.boot {
            return;
        }
        if let Some(inode) = self.inodes.get_mut(&id) {
            inode.handles -= 1;
            self.forget_if_gone(id);
        }
    }

    pub(super) fn unlink(&mut self, id: FileId) {
        if let Some(inode) = self.inodes.get_mut(&id) {
            inode.linked = false;
            self.forget_if_gone(id);
        }
    }

    /// Frees a file that nothing can reach any more, not even after a crash.
    fn forget_if_gone(&mut self, id: FileId) {
        let unused = self.inodes.get(&id).is_some_and(|inode| !inode.takes_space());
        if unused && !self.names.may_return(id) {
            self.inodes.remove(&id);
        }
    }

    /// As `forget_if_gone`, for all.
    pub(super) fn forget_gone(&mut self) {
        let names = &self.names;
        self.inodes.retain(|id, inode| inode.takes_space() || names.may_return(*id));
    }

    pub(super) fn image(&mut self, id: FileId) -> io::Result<&mut Image> {
        self.inodes.get_mut(&id).map(|inode| &mut inode.image).ok_or_else(crashed)
    }

    pub(super) fn unlock(&mut self, boot: Boot, path: &Path) {
        if boot == self.boot {
            self.locks.remove(path);
        }
    }

    // ----- room

    pub(super) fn sector(&self) -> usize {
        self.faults.sector_bytes
    }

    pub(super) fn used(&self) -> u64 {
        self.inodes.values().filter(|i| i.takes_space()).map(|i| i.image.len() as u64).sum()
    }

    pub(super) fn free(&self) -> usize {
        let free =
            self.faults.capacity_bytes.map_or(u64::MAX, |all| all.saturating_sub(self.used()));
        usize::try_from(free).unwrap_or(usize::MAX)
    }

    pub(super) fn full(&mut self) -> io::Error {
        self.struck(Fault::Full);
        Fault::Full.error()
    }

    // ----- rot

    /// The platter takes the bytes at another sector: no later sync undoes it.
    pub(super) fn misdirect(&mut self, id: FileId, at: usize, data: &[u8]) {
        let sector = self.sector();
        let places: Vec<(FileId, usize)> = self
            .names
            .files()
            .flat_map(|(_, file)| {
                let len = self.inodes.get(&file).map_or(0, |inode| inode.image.len());
                (0..len).step_by(sector).map(move |place| (file, place))
            })
            .filter(|&(file, place)| file != id || place / sector != at / sector)
            .collect();
        let Some(&(file, place)) = self.rng.pick(&places) else { return };
        // Bytes keep their place within the sector.
        let start = place + at % sector;
        self.spoil(file, start, data.len(), |i, _| data[i]);
    }

    pub(super) fn zero(&mut self, id: FileId, sector: usize) {
        let bytes = self.sector();
        self.spoil(id, sector * bytes, bytes, |_, _| 0);
    }

    fn spoil(&mut self, id: FileId, at: usize, len: usize, f: impl Fn(usize, u8) -> u8) {
        self.note(id);
        self.note(at as u64);
        if let Some(inode) = self.inodes.get_mut(&id) {
            inode.image.spoil(at..at + len, f);
        }
    }

    pub(super) fn zero_sector(&mut self, path: &Path, sector: usize) -> bool {
        let Some(id) = self.names.get(path) else { return false };
        self.zero(id, sector);
        true
    }

    pub(super) fn flip(&mut self, path: &Path, at: usize, bit: u32) -> bool {
        let Some(id) = self.names.get(path) else { return false };
        if self.inodes.get(&id).is_none_or(|inode| at >= inode.image.len()) {
            return false;
        }
        self.spoil(id, at, 1, |_, byte| byte ^ (1 << (bit % 8)));
        self.counts.flipped += 1;
        true
    }

    // ----- looking from outside

    pub(super) fn peek(&self, path: &Path, durable: bool) -> Option<Vec<u8>> {
        let id = if durable { self.names.durable(path) } else { self.names.get(path) }?;
        let image = &self.inodes.get(&id)?.image;
        Some(if durable { image.durable() } else { image.volatile() }.to_vec())
    }

    pub(super) fn files(&self) -> Vec<(PathBuf, u64)> {
        let len = |id| self.inodes.get(&id).map_or(0, |inode| inode.image.len() as u64);
        self.names.files().map(|(path, id)| (path.to_owned(), len(id))).collect()
    }

    // ----- the end of a process

    /// The power fails and comes back.
    pub(super) fn crash(&mut self, keep: Keep) {
        let Self { names, inodes, rng, faults, .. } = self;
        names.crash(keep, rng);
        for inode in inodes.values_mut() {
            inode.image.crash(keep, faults.sector_bytes, rng);
            inode.linked = false;
        }
        for (path, id) in names.files() {
            if let Some(inode) = inodes.get_mut(&id) {
                inode.linked = true;
                inode.path = path.to_owned();
            }
        }
        self.down = false;
        self.note(keep as u64);
        self.kill();
    }

    /// The process ends, the system lives on.
    pub(super) fn kill(&mut self) {
        self.boot += 1;
        self.locks.clear();
        for inode in self.inodes.values_mut() {
            inode.handles = 0;
        }
        self.forget_gone();
        self.note(self.boot);
    }
}

pub(super) fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display()))
}
