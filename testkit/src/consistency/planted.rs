//! Bugs that the tests must find. Most are wrapped around the disk: the code under test then is the
//! real one, and only what it asks of the disk is not done. The others are planted in the crates
//! themselves, by their feature `planted`.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use duractor_journal::disk::{Disk, DiskFile, DiskLock};

use super::Scenario;

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Planted {
    /// Writes are acknowledged first and fsynced later, before the next write.
    AckBeforeFsync,
    /// A bad frame with durable frames after it is cut off as if it were a torn tail.
    CutAtDamage,
    /// A snapshot's value is taken without a look at its checksum.
    UncheckedSnapshot,
    /// Frames verify in another file and at another place.
    UnboundFrames,
    /// What a torn tail left behind is not zeroed.
    LeftoverTail,
    /// The last group commit is fsynced on open and not written again.
    NoRewrite,
    /// Folders are not synced.
    NoDirSync,
    /// A full disk refuses one write, and not those that wait behind it.
    RefuseOneAlone,
}

impl Planted {
    /// All of them.
    pub const ALL: [Planted; 8] = [
        Planted::AckBeforeFsync,
        Planted::CutAtDamage,
        Planted::UncheckedSnapshot,
        Planted::UnboundFrames,
        Planted::LeftoverTail,
        Planted::NoRewrite,
        Planted::NoDirSync,
        Planted::RefuseOneAlone,
    ];

    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Planted::AckBeforeFsync => "ack-before-fsync",
            Planted::CutAtDamage => "cut-at-damage",
            Planted::UncheckedSnapshot => "unchecked-snapshot",
            Planted::UnboundFrames => "unbound-frames",
            Planted::LeftoverTail => "leftover-tail",
            Planted::NoRewrite => "no-rewrite",
            Planted::NoDirSync => "no-dir-sync",
            Planted::RefuseOneAlone => "refuse-one-alone",
        }
    }

    /// The bug of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Planted> {
        Planted::ALL.into_iter().find(|planted| planted.name() == name)
    }

    /// The scenarios that find it.
    #[must_use]
    pub fn found_by(self) -> &'static [Scenario] {
        match self {
            Planted::AckBeforeFsync | Planted::NoDirSync => &[Scenario::Log, Scenario::Snapshot],
            Planted::LeftoverTail | Planted::NoRewrite | Planted::RefuseOneAlone => {
                &[Scenario::Log]
            }
            Planted::CutAtDamage | Planted::UncheckedSnapshot | Planted::UnboundFrames => {
                &[Scenario::Flips]
            }
        }
    }

    /// Whether this build can plant it: bugs inside of the crates need the feature `planted`.
    #[must_use]
    pub fn available(self) -> bool {
        cfg!(feature = "planted") || self.on_disk()
    }

    fn on_disk(self) -> bool {
        use Planted::{AckBeforeFsync, NoDirSync, NoRewrite};
        matches!(self, AckBeforeFsync | NoRewrite | NoDirSync)
    }
}

/// Plants a bug of the crates on this thread, or takes it away.
#[cfg(feature = "planted")]
pub(super) fn plant(bug: Option<Planted>) {
    use duractor_journal::planted::Planted as InLog;
    duractor_journal::planted::plant(match bug {
        Some(Planted::CutAtDamage) => Some(InLog::CutAtDamage),
        Some(Planted::UnboundFrames) => Some(InLog::UnboundFrames),
        Some(Planted::RefuseOneAlone) => Some(InLog::RefuseOneAlone),
        Some(Planted::LeftoverTail) => Some(InLog::LeftoverTail),
        _ => None,
    });
    let unchecked = bug == Some(Planted::UncheckedSnapshot);
    duractor_snapshot::planted::plant_unchecked_values(unchecked);
}

#[cfg(not(feature = "planted"))]
pub(super) fn plant(_bug: Option<Planted>) {}

/// The disk, with a bug around it if it is one of the disk's.
pub(crate) fn wrap(disk: Arc<dyn Disk>, bug: Option<Planted>) -> Arc<dyn Disk> {
    match bug {
        Some(bug) if bug.on_disk() => Arc::new(Wrapped { disk, bug }),
        _ => disk,
    }
}

struct Wrapped {
    disk: Arc<dyn Disk>,
    bug: Planted,
}

impl Wrapped {
    fn file(&self, file: Arc<dyn DiskFile>, made: bool) -> Arc<dyn DiskFile> {
        let (late, making) = (AtomicBool::new(false), AtomicBool::new(made));
        Arc::new(WrappedFile { file, bug: self.bug, late, making })
    }
}

impl Disk for Wrapped {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.create(path).map(|file| self.file(file, true))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(path).map(|file| self.file(file, false))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if self.bug == Planted::NoDirSync { Ok(()) } else { self.disk.sync_dir(dir) }
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.disk.lock(path)
    }
}

struct WrappedFile {
    file: Arc<dyn DiskFile>,
    bug: Planted,
    /// A sync that was reported and not made yet.
    late: AtomicBool,
    /// The file was just made: its first sync belongs to that.
    making: AtomicBool,
}

impl WrappedFile {
    fn is_there(&self, offset: u64, data: &[u8]) -> bool {
        let mut there = vec![0; data.len()];
        self.file.read_exact_at(offset, &mut there).is_ok() && there == data
    }
}

impl DiskFile for WrappedFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        match self.bug {
            Planted::AckBeforeFsync if self.late.swap(false, Ordering::Relaxed) => {
                self.file.sync_data()?;
            }
            Planted::NoRewrite if self.is_there(offset, data) => return Ok(()),
            _ => {}
        }
        self.file.write_at(offset, data)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.bug == Planted::AckBeforeFsync && !self.making.swap(false, Ordering::Relaxed) {
            self.late.store(true, Ordering::Relaxed);
            return Ok(());
        }
        self.file.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}
