//! What a seed gave: counts, faults, the violation.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Once,
};

use super::Planted;
use crate::{
    disk::{Fault, SimDisk},
    rng::{STEP, mix},
};

/// What must not be: the seed that showed it follows from the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The way of a check: a violation ends the seed.
pub(crate) type Checked<T = ()> = Result<T, Violation>;

/// A [`Violation`] as an error, with its text.
pub(crate) fn violated<T>(what: impl Into<String>) -> Checked<T> {
    Err(Violation(what.into()))
}

/// What one seed gave, or many together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Batches, saves and deletions that were acknowledged.
    pub acked: u64,
    /// Records and snapshots that were read back and compared.
    pub checked: u64,
    /// How often a process lived, or (of flips) how often files were damaged.
    pub lives: u64,
    /// Faults that struck, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// What else is worth counting, by name.
    pub counts: BTreeMap<&'static str, u64>,
    /// A hash of all that was done and answered: two runs of a seed have the same.
    pub trace: u64,
    /// What went wrong, if anything did.
    pub violation: Option<Violation>,
}

impl Report {
    /// Adds another seed's figures.
    pub fn add(&mut self, other: &Report) {
        self.acked += other.acked;
        self.checked += other.checked;
        self.lives += other.lives;
        for (sum, part) in [(&mut self.faults, &other.faults), (&mut self.counts, &other.counts)] {
            for (name, count) in part {
                *sum.entry(name).or_default() += count;
            }
        }
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(crate) fn fault(&mut self, kind: &'static str, count: u64) {
        if count > 0 {
            *self.faults.entry(kind).or_default() += count;
        }
    }

    /// Takes over what struck the disk.
    pub(crate) fn take_faults(&mut self, disk: &SimDisk) {
        const KINDS: [(Fault, &str); 8] = [
            (Fault::Eio, "eio"),
            (Fault::Full, "full"),
            (Fault::DropPages, "drop_pages"),
            (Fault::MarkClean, "mark_clean"),
            (Fault::Lie, "lie"),
            (Fault::Misdirect, "misdirect"),
            (Fault::ZeroSector, "zero_sector"),
            (Fault::Crash, "crash_in_operation"),
        ];
        let counts = disk.counts();
        KINDS.iter().for_each(|(fault, kind)| self.fault(kind, counts.faults(*fault)));
        self.fault("bit_flip", counts.flipped());
    }
}

/// Notes what is done: as a hash always, as text when asked for.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub(crate) hash: u64,
    pub(crate) print: bool,
}

impl Trace {
    pub(crate) fn new(print: bool) -> Self {
        Self { hash: 0, print }
    }

    pub(crate) fn mix(&mut self, number: u64) {
        self.hash = mix(self.hash ^ number).wrapping_add(STEP);
    }

    pub(crate) fn line(&self, text: impl FnOnce() -> String) {
        if self.print {
            eprintln!("{}", text());
        }
    }
}

thread_local! {
    static WATCHED: Cell<bool> = const { Cell::new(false) };
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Panics of a watched thread are noted and not printed. Those inside of redb are the snapshot
/// store's to contain.
fn watch_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // A panic while unwinding ends the process: this is the last chance to tell.
            let fatal = panic.payload_as_str().is_some_and(|text| text.contains("destructor"));
            if !WATCHED.get() || fatal {
                return before(panic);
            }
            if !panic.location().is_some_and(|at| at.file().contains("redb-")) {
                PANICS.with_borrow_mut(|panics| panics.push(panic.to_string()));
            }
        }));
    });
}

/// Runs a seed with a bug planted.
pub(super) fn checked(
    planted: Option<Planted>,
    seed: impl FnOnce(&mut Report) -> Checked,
) -> Report {
    super::planted::plant(planted);
    let report = watched(seed);
    super::planted::plant(None);
    report
}

/// Runs a seed, and makes a violation of every panic, also of those in tasks.
pub(crate) fn watched(seed: impl FnOnce(&mut Report) -> Checked) -> Report {
    watch_panics();
    PANICS.take();
    WATCHED.set(true);
    let mut report = Report::default();
    let run = catch_unwind(AssertUnwindSafe(|| seed(&mut report)));
    WATCHED.set(false);
    let panics = PANICS.take();
    report.violation = match run {
        Ok(Err(violation)) => Some(violation),
        _ if !panics.is_empty() => Some(Violation(format!("panic: {}", panics.join("; ")))),
        Err(_) => Some(Violation("panic".into())),
        Ok(Ok(())) => None,
    };
    report
}
