//! A simulated disk: it loses, tears and spoils what real disks do, and all of it follows from a
//! seed.
//!
//! # What can happen to bytes
//!
//! A byte that was written is *volatile* until a sync of its file returned success; then it is
//! *durable*. A name (of a file or folder that was made, renamed or removed) is volatile until its
//! folder was synced. Reads see what is volatile. A process that dies alone ([`SimDisk::kill`])
//! loses nothing of it; a loss of power ([`SimDisk::crash`]) does, see [`Keep`]:
//!
//! - A **sector** (512 bytes) is written as a whole or not at all. Without a sync, sectors reach the
//!   disk in any order and at any time: after a crash each holds any one of the contents it had
//!   since the last sync, independently of the others.
//! - A file's **length** is, after a crash, any one of those it had since the last sync. What was
//!   not written below it reads as zeros.
//! - **Names** changed without a sync of the folder are kept as the first so many changes of the
//!   whole disk, as a journaling file system would; with [`DiskFaults::unordered`] in any
//!   combination. A rename is atomic. A file's sync does not make its name durable, nor does a
//!   folder's sync make the contents of its files so. A folder is a name in the folder above.
//! - Handles and locks of the crashed process are gone. Whatever it left behind can neither read nor
//!   write: each of its operations fails.
//!
//! # Faults, and what a storage engine must keep under each
//!
//! Invariants are those of the design: **A**, no acknowledged event is lost, reordered, changed or
//! duplicated; **S**, nothing is silently wrong.
//!
//! | fault | the operation | must keep |
//! |---|---|---|
//! | crash, at any operation | is kept, lost or torn | A and S, also for a crash during recovery |
//! | [`Fault::Eio`] on a write | fails; some first sectors landed | A and S: the write was not acknowledged, and is whole or absent later |
//! | [`Fault::Eio`] on a read | fails | S: a typed error; nothing is taken for absent or for the end of the log |
//! | [`Fault::Eio`] on a name | fails without effect | A and S |
//! | [`Fault::Full`], capacity | fails; a write's first bytes that fit landed | A and S; reads go on, writes resume when there is room |
//! | [`Fault::DropPages`] | sync fails; unsynced sectors revert | A and S: nothing that waited for it is acknowledged, not even after a second sync that succeeds |
//! | [`Fault::MarkClean`] | sync fails; unsynced sectors read well until the crash | as above: what reads well is not therefore durable |
//! | bit flip, [`Fault::ZeroSector`], [`Fault::Misdirect`] | succeeds, or none was made | S: refused or repaired, never returned as data, never cut off as a torn tail |
//! | [`Fault::Lie`] | sync succeeds, nothing is durable | nothing can be kept; a test that does not notice it tests nothing |
//!
//! # How it is built
//!
//! Each module uses only those above it: `image` (one file's bytes), `names` (files and folders),
//! `faults` (what strikes when), `state` (files, names and their end), `operation` (each operation of
//! the seam), `mount` (the seam itself), this one (what a test does to it).
//!
//! ```
//! use duractor_journal::disk::{Disk, DiskFile};
//! use duractor_testkit::{DiskFaults, Keep, SimDisk};
//! use std::path::Path;
//!
//! # fn main() -> std::io::Result<()> {
//! let disk = SimDisk::new(1, DiskFaults::default());
//! let file = disk.create(Path::new("/log"))?;
//! disk.sync_dir(Path::new("/"))?;
//! file.write_at(0, b"synced")?;
//! file.sync_data()?;
//! file.write_at(0, b"forgot")?;
//!
//! disk.crash_keeping(Keep::None);
//! assert_eq!(disk.peek(Path::new("/log")).as_deref(), Some(&b"synced"[..]));
//! assert!(file.write_at(0, b"ghost").is_err());
//! # Ok(())
//! # }
//! ```

pub mod contract;
mod faults;
mod image;
mod mount;
mod names;
mod operation;
mod state;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use duractor_journal::disk::{Disk, DiskFile, DiskLock};

pub use faults::{DiskCounts, DiskFaults, Fault, Op, Rule};
pub use image::Keep;
use mount::{Mount, Shared, lock};
use state::State;

/// A simulated disk, and what a test does to it. As a [`Disk`] it serves whichever process runs;
/// [`SimDisk::mount`] serves the present one only.
pub struct SimDisk {
    shared: Shared,
}

impl SimDisk {
    /// An empty disk. Whatever it draws follows from the seed. Every path begins at `/`, which is
    /// there from the start.
    #[must_use]
    pub fn new(seed: u64, faults: DiskFaults) -> Arc<Self> {
        Arc::new(Self { shared: Arc::new(Mutex::new(State::new(seed, faults))) })
    }

    /// The disk for the process that runs now. Once that crashed, or was killed, everything fails
    /// that goes through it: leftover tasks cannot touch the files of their successor.
    #[must_use]
    pub fn mount(&self) -> Arc<dyn Disk> {
        Arc::new(self.now())
    }

    fn now(&self) -> Mount {
        Mount { boot: self.state().boot, shared: Arc::clone(&self.shared) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared)
    }

    /// A copy with another seed for what is drawn from here on, so that one history can be crashed
    /// in many ways. Handles, locks and mounts are the original's alone.
    #[must_use]
    pub fn fork(&self, seed: u64) -> Arc<Self> {
        let mut state = self.state().clone();
        state.rng = crate::rng::Rng::new(seed);
        state.kill();
        Arc::new(Self { shared: Arc::new(Mutex::new(state)) })
    }

    // ----- the end of a process

    /// Loses power and starts again, keeping of unsynced changes what [`Keep::Random`] draws.
    pub fn crash(&self) {
        self.crash_keeping(Keep::Random);
    }

    /// Loses power and starts again. Also the way to choose what is kept after a crash point was
    /// reached.
    pub fn crash_keeping(&self, keep: Keep) {
        self.state().crash(keep);
    }

    /// Ends the process alone, as SIGKILL does: all that was written stays, synced or not; handles
    /// and locks are gone. Does nothing while the power is off.
    pub fn kill(&self) {
        let mut state = self.state();
        if !state.down {
            state.kill();
        }
    }

    /// The disk is gone for good, and whatever it held is out of memory, whoever still has a handle.
    pub fn scrap(&self) {
        self.state().scrap();
    }

    /// Turns the power off in the `n`-th operation from now that changes the disk, counted from 1.
    pub fn crash_at(&self, n: u64) {
        self.inject(Rule::crash(n));
    }

    /// Whether a crash point was reached: everything fails until [`SimDisk::restart`].
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.state().down
    }

    /// Turns the power on again after a crash point was reached; what is left is drawn. Returns
    /// whether it was off; if not, nothing happens.
    pub fn restart(&self) -> bool {
        let down = self.is_down();
        if down {
            self.crash();
        }
        down
    }

    // ----- faults

    /// Adds a rule. It counts operations from now.
    pub fn inject(&self, rule: Rule) {
        self.state().faults.rules.push(rule);
    }

    /// Drops all rules. A limited capacity stays.
    pub fn heal(&self) {
        self.state().faults.rules.clear();
    }

    /// Limits the bytes of all files together; `None` lifts the limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().faults.capacity_bytes = bytes;
    }

    /// Flips a bit (0 to 7) of a byte, wherever it is kept. `false` where the file has no such
    /// byte.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u32) -> bool {
        usize::try_from(offset).is_ok_and(|at| self.state().flip(path, at, bit))
    }

    /// Flips `n` bits, each bit of all files equally likely, and says which.
    pub fn flip_random_bits(&self, n: usize) -> Vec<Flip> {
        self.flip_random_bits_where(n, |_| true)
    }

    /// As [`SimDisk::flip_random_bits`], in the files that `of` chooses.
    pub fn flip_random_bits_where(&self, n: usize, of: impl Fn(&Path) -> bool) -> Vec<Flip> {
        let mut state = self.state();
        let mut files = state.files();
        files.retain(|(path, len)| *len > 0 && of(path));
        let all = files.iter().map(|(_, len)| len * 8).sum();
        let mut flips = Vec::new();
        for _ in 0..if all == 0 { 0 } else { n } {
            let mut bit = state.rng.below(all);
            let file = files.iter().find(|(_, len)| {
                let here = bit < len * 8;
                if !here {
                    bit -= len * 8;
                }
                here
            });
            let Some((path, _)) = file else { break };
            let flip = Flip { path: path.clone(), offset: bit / 8, bit: (bit % 8) as u32 };
            state.flip(path, flip.offset as usize, flip.bit);
            flips.push(flip);
        }
        flips
    }

    /// Zeroes the `sector`-th sector of a file, wherever it is kept. `false` where there is no such
    /// file.
    pub fn zero_sector(&self, path: &Path, sector: usize) -> bool {
        self.state().zero_sector(path, sector)
    }

    // ----- looking from outside: neither counted nor traced

    /// What reads see of a file now.
    #[must_use]
    pub fn peek(&self, path: &Path) -> Option<Vec<u8>> {
        self.state().peek(path, false)
    }

    /// What is durable under this name.
    #[must_use]
    pub fn peek_durable(&self, path: &Path) -> Option<Vec<u8>> {
        self.state().peek(path, true)
    }

    /// All files by path, and their lengths in bytes.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        self.state().files()
    }

    /// How many bytes the files take. A removed file takes its own until the last handle is gone.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state().used()
    }

    /// How often each operation was asked for, and each fault struck.
    #[must_use]
    pub fn counts(&self) -> DiskCounts {
        self.state().counts.clone()
    }

    /// A hash of everything that was done to the disk, in order. Two runs of a seed have the same.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.state().trace()
    }
}

/// A bit that was flipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flip {
    /// The file.
    pub path: PathBuf,
    /// The byte's place in the file.
    pub offset: u64,
    /// The bit, 0 to 7.
    pub bit: u32,
}

impl Disk for SimDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.now().create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.now().list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.now().create(path)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.now().open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.now().rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.now().remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.now().sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.now().lock(path)
    }
}
