//! What is written down of one run.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{consistency::report::Trace, rng::Rng};

/// Only so many lines of a trace are kept: the newest.
const LINES: usize = 4_000;

/// What is written down of a run.
pub(super) struct Notes {
    inner: Mutex<Inner>,
    begun: Instant,
}

struct Inner {
    trace: Trace,
    /// Whether lines are kept.
    keeps: bool,
    lines: std::collections::VecDeque<String>,
    rng: Rng,
    clock: u64,
    faults: BTreeMap<&'static str, u64>,
    counts: BTreeMap<&'static str, u64>,
    violation: Option<String>,
}

impl Notes {
    pub(super) fn new(rng: Rng, keeps: bool) -> Self {
        let inner = Inner {
            trace: Trace::new(false),
            keeps,
            lines: std::collections::VecDeque::new(),
            rng,
            clock: 0,
            faults: BTreeMap::new(),
            counts: BTreeMap::new(),
            violation: None,
        };
        Self { inner: Mutex::new(inner), begun: Instant::now() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the run has been going on.
    pub(super) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// An instant later than all before.
    pub(super) fn tick(&self) -> u64 {
        let mut inner = self.lock();
        inner.clock += 1;
        inner.clock
    }

    pub(super) fn fork_rng(&self) -> Rng {
        self.lock().rng.fork()
    }

    /// Notes what is done: as part of the hash always, as text where lines are kept.
    pub(super) fn say(&self, mark: u64, text: impl FnOnce() -> String) {
        let now = self.elapsed();
        let mut inner = self.lock();
        inner.trace.mix(mark ^ (now.as_millis() as u64) << 32);
        if inner.keeps {
            let line = format!("{:>8.3} s  {}", now.as_secs_f64(), text());
            if inner.lines.len() == LINES {
                inner.lines.pop_front();
            }
            inner.lines.push_back(line);
        }
    }

    pub(super) fn fault(&self, kind: &'static str) {
        *self.lock().faults.entry(kind).or_default() += 1;
    }

    pub(super) fn count(&self, what: &'static str, by: u64) {
        *self.lock().counts.entry(what).or_default() += by;
    }

    /// The first violation counts.
    pub(super) fn violated(&self, what: String) {
        self.say(1, || format!("VIOLATION {}", what.lines().next().unwrap_or_default()));
        self.lock().violation.get_or_insert(what);
    }

    pub(super) fn is_violated(&self) -> bool {
        self.lock().violation.is_some()
    }

    pub(super) fn write_up(&self) -> Noted {
        let inner = self.lock();
        Noted {
            hash: inner.trace.hash,
            lines: inner.lines.iter().cloned().collect(),
            faults: inner.faults.clone(),
            counts: inner.counts.clone(),
            violation: inner.violation.clone(),
        }
    }
}

/// What a run left.
pub(super) struct Noted {
    pub(super) hash: u64,
    pub(super) lines: Vec<String>,
    pub(super) faults: BTreeMap<&'static str, u64>,
    pub(super) counts: BTreeMap<&'static str, u64>,
    pub(super) violation: Option<String>,
}

/// The first bytes of something, for a line of text.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(24).map(|byte| format!("{byte:02x}")).collect()
}

thread_local! {
    static MARKS: RefCell<Option<BTreeMap<&'static str, u64>>> = const { RefCell::new(None) };
}

/// Notes that something was looked at, and whether it was so: see
/// [`sometimes!`](crate::sometimes).
pub fn mark(name: &'static str, is: bool) {
    MARKS.with_borrow_mut(|marks| {
        if let Some(marks) = marks {
            *marks.entry(name).or_default() += u64::from(is);
        }
    });
}

/// Begins to note marks on this thread.
pub(super) fn begin_marks() {
    MARKS.set(Some(BTreeMap::new()));
}

/// The marks since then, each with how often it was so.
pub(super) fn take_marks() -> BTreeMap<&'static str, u64> {
    MARKS.take().unwrap_or_default()
}

/// A mark of coverage: that a rare way was taken at least once in all seeds of a
/// [`sim_test`](crate::sim::sim_test). Where a condition was looked at and was never so, the test fails: its
/// seeds do not test what they were meant to. Anywhere else it does nothing; it may stand in an entity's
/// handler.
///
/// ```
/// # let refused = true;
/// duractor_testkit::sometimes!(refused, "a withdrawal was refused");
/// ```
#[macro_export]
macro_rules! sometimes {
    ($is:expr, $name:literal) => {
        $crate::sim::mark($name, $is)
    };
}
