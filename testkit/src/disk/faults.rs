//! Which faults strike, and when.

use std::{collections::BTreeMap, io, path::Path};

use crate::rng::Rng;

/// An operation of the disk seam.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// [`Disk::create_dir_all`](duractor_journal::disk::Disk::create_dir_all).
    CreateDir,
    /// [`Disk::list`](duractor_journal::disk::Disk::list).
    List,
    /// [`Disk::create`](duractor_journal::disk::Disk::create).
    Create,
    /// [`Disk::open`](duractor_journal::disk::Disk::open).
    Open,
    /// [`Disk::rename`](duractor_journal::disk::Disk::rename).
    Rename,
    /// [`Disk::remove`](duractor_journal::disk::Disk::remove).
    Remove,
    /// [`Disk::sync_dir`](duractor_journal::disk::Disk::sync_dir).
    SyncDir,
    /// [`Disk::lock`](duractor_journal::disk::Disk::lock).
    Lock,
    /// [`DiskFile::read_at`](duractor_journal::disk::DiskFile::read_at).
    Read,
    /// [`DiskFile::write_at`](duractor_journal::disk::DiskFile::write_at).
    Write,
    /// [`DiskFile::set_len`](duractor_journal::disk::DiskFile::set_len).
    SetLen,
    /// [`DiskFile::sync_data`](duractor_journal::disk::DiskFile::sync_data).
    Sync,
    /// [`DiskFile::len`](duractor_journal::disk::DiskFile::len).
    Len,
}

impl Op {
    /// Whether the operation changes the disk, or what is durable of it. A crash between two others
    /// leaves nothing new to find.
    #[must_use]
    pub fn changes(self) -> bool {
        !matches!(self, Self::List | Self::Open | Self::Lock | Self::Read | Self::Len)
    }
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The operation fails with EIO. Of a write some first sectors land; a sync fails as by
    /// `DropPages` or `MarkClean`, drawn; any other has no effect.
    Eio,
    /// The operation fails with ENOSPC ([`io::ErrorKind::StorageFull`]), otherwise as `Eio`. For
    /// operations that take space: create, write, set length, sync.
    Full,
    /// A file's sync fails with EIO. Some sectors are durable, the others revert to what the disk
    /// holds.
    DropPages,
    /// A file's sync fails with EIO. Some sectors are durable; the others read as written, yet no
    /// later sync writes them, and the next crash loses them.
    MarkClean,
    /// A sync of a file or folder reports success and makes nothing durable. No storage engine
    /// survives this: it is for showing that a test would notice.
    Lie,
    /// A write reports success and lands at another sector of this or another file.
    Misdirect,
    /// A write reports success, but one of its sectors is zeros on the disk.
    ZeroSector,
    /// The power fails during the operation, which may be kept, lost or torn. Everything fails
    /// until [`SimDisk::restart`](super::SimDisk::restart).
    Crash,
}

impl Fault {
    fn strikes(self, op: Op) -> bool {
        match self {
            Self::Eio | Self::Crash => true,
            Self::Full => matches!(op, Op::Create | Op::Write | Op::SetLen | Op::Sync),
            Self::DropPages | Self::MarkClean => op == Op::Sync,
            Self::Lie => matches!(op, Op::Sync | Op::SyncDir),
            Self::Misdirect | Self::ZeroSector => op == Op::Write,
        }
    }

    /// The error that the operation returns.
    pub(super) fn error(self) -> io::Error {
        match self {
            Self::Full => io::Error::from_raw_os_error(ENOSPC),
            Self::Crash => crashed(),
            _ => io::Error::from_raw_os_error(EIO),
        }
    }
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// The error of everything that a crashed process still tries.
pub(super) fn crashed() -> io::Error {
    io::Error::other("simulated crash: this handle's process is gone")
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum When {
    Nth(u64),
    From(u64),
    Chance(f64),
}

/// One fault, and the operations that it strikes. Counting starts when the disk gets the rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    op: Option<Op>,
    file: Option<String>,
    when: When,
    fault: Fault,
    seen: u64,
}

impl Rule {
    /// Strikes every operation of this kind.
    ///
    /// # Panics
    /// If the fault cannot strike such an operation.
    #[must_use]
    pub fn on(op: Op, fault: Fault) -> Self {
        assert!(fault.strikes(op), "{fault:?} cannot strike {op:?}");
        Self { op: Some(op), file: None, when: When::From(1), fault, seen: 0 }
    }

    /// Strikes every operation that changes the disk and that the fault can strike.
    #[must_use]
    pub fn on_changes(fault: Fault) -> Self {
        Self { op: None, file: None, when: When::From(1), fault, seen: 0 }
    }

    /// The power fails in the `n`-th operation that changes the disk, counted from 1.
    #[must_use]
    pub fn crash(n: u64) -> Self {
        Self::on_changes(Fault::Crash).nth(n)
    }

    /// Only the `n`-th of them, counted from 1.
    #[must_use]
    pub fn nth(mut self, n: u64) -> Self {
        self.when = When::Nth(n);
        self
    }

    /// The `n`-th of them, counted from 1, and all after it.
    #[must_use]
    pub fn from(mut self, n: u64) -> Self {
        self.when = When::From(n);
        self
    }

    /// Each of them with this probability, from 0.0 to 1.0.
    #[must_use]
    pub fn chance(mut self, probability: f64) -> Self {
        self.when = When::Chance(probability);
        self
    }

    /// Only on files or folders whose present path contains `part`.
    #[must_use]
    pub fn file(mut self, part: impl Into<String>) -> Self {
        self.file = Some(part.into());
        self
    }

    fn strikes(&mut self, op: Op, path: &Path, rng: &mut Rng) -> bool {
        let of_op = self.op.map_or_else(|| op.changes(), |of| of == op);
        let of_file =
            self.file.as_ref().is_none_or(|part| path.to_string_lossy().contains(part.as_str()));
        if !of_op || !of_file || !self.fault.strikes(op) {
            return false;
        }
        self.seen += 1;
        match self.when {
            When::Nth(n) => self.seen == n,
            When::From(n) => self.seen >= n,
            When::Chance(probability) => rng.chance(probability),
        }
    }
}

/// How a simulated disk behaves. The default has no faults but what a crash does.
#[derive(Debug, Clone)]
pub struct DiskFaults {
    /// What the disk writes as a whole or not at all, in bytes: 512, or 4 096 for a disk that
    /// promises whole pages.
    pub sector_bytes: usize,
    /// How many bytes all files together may have. More is refused with ENOSPC.
    pub capacity_bytes: Option<u64>,
    /// Whether unsynced changes of names may be kept in any combination. If not, a crash keeps the
    /// first ones in the order they were made, as a journaling file system does.
    pub unordered_names: bool,
    /// What goes wrong. Of several rules that strike an operation the first decides.
    pub rules: Vec<Rule>,
}

impl Default for DiskFaults {
    fn default() -> Self {
        Self { sector_bytes: 512, capacity_bytes: None, unordered_names: false, rules: Vec::new() }
    }
}

impl DiskFaults {
    /// With one more rule.
    #[must_use]
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// With room for this many bytes in all files together.
    #[must_use]
    pub fn capacity(mut self, bytes: u64) -> Self {
        self.capacity_bytes = Some(bytes);
        self
    }

    /// With names that become durable in any order.
    #[must_use]
    pub fn unordered(mut self) -> Self {
        self.unordered_names = true;
        self
    }

    /// The fault that strikes this operation. Every rule counts it, also where another decides.
    pub(super) fn draw(&mut self, op: Op, path: &Path, rng: &mut Rng) -> Option<Fault> {
        let mut struck = None;
        for rule in &mut self.rules {
            if rule.strikes(op, path, rng) {
                struck = struck.or(Some(rule.fault));
            }
        }
        struck
    }
}

/// How often each operation was asked for, and each fault struck.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskCounts {
    pub(super) ops: BTreeMap<Op, u64>,
    pub(super) faults: BTreeMap<Fault, u64>,
    pub(super) flipped: u64,
}

impl DiskCounts {
    /// How often this operation was asked for, failed ones included.
    #[must_use]
    pub fn ops(&self, op: Op) -> u64 {
        self.ops.get(&op).copied().unwrap_or(0)
    }

    /// How many operations changed the disk: the places where [`Rule::crash`] can strike.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.ops.iter().filter(|(op, _)| op.changes()).map(|(_, count)| count).sum()
    }

    /// How often this fault struck, a full disk included.
    #[must_use]
    pub fn faults(&self, fault: Fault) -> u64 {
        self.faults.get(&fault).copied().unwrap_or(0)
    }

    /// How many bits were flipped.
    #[must_use]
    pub fn flipped(&self) -> u64 {
        self.flipped
    }
}
