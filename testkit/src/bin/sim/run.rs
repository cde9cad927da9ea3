//! Many seeds of one scenario, on all cores, and what is printed of them.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use duractor_testkit::consistency::{Report, Violation};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    Args,
    what::{Bug, What},
};

/// How many violations are printed in full.
const SHOWN: usize = 10;

/// What many seeds of one scenario gave.
pub(crate) struct Run {
    what: What,
    bug: Option<Bug>,
    first: u64,
    seeds: u64,
    seconds: f64,
    sum: Report,
    /// Seeds with what they violated, in order.
    violations: Vec<(u64, String)>,
    /// The trace hash of each seed, where they are wanted.
    hashes: BTreeMap<u64, u64>,
    /// All trace hashes, in any order, as one number.
    hash: u64,
}

pub(crate) fn run(args: &Args, what: What, bug: Option<Bug>) -> Run {
    let begun = Instant::now();
    let bar = progress(args, what);
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let result = Mutex::new(Run {
        what,
        bug,
        first: args.seed,
        seeds: 0,
        seconds: 0.0,
        sum: Report::default(),
        violations: Vec::new(),
        hashes: BTreeMap::new(),
        hash: 0,
    });
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= args.seeds {
                break;
            }
            let seed = args.seed + n;
            let report = one(args, what, bug, seed);
            let mut result = result.lock().unwrap_or_else(PoisonError::into_inner);
            result.take(args, seed, report);
            let enough = bug.is_some() && result.violations.len() >= args.finds;
            stop.fetch_or(enough, Ordering::Relaxed);
            bar.inc(1);
        }
    };
    let threads = if args.trace { 1 } else { args.threads.unwrap_or_else(cores) };
    std::thread::scope(|scope| {
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    bar.finish_and_clear();
    let mut run = result.into_inner().unwrap_or_else(PoisonError::into_inner);
    run.violations.sort();
    run.seconds = begun.elapsed().as_secs_f64();
    run
}

/// How many threads run at once.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn one(args: &Args, what: What, bug: Option<Bug>, seed: u64) -> Report {
    let mut report = what.run(seed, bug, args.trace);
    if args.twice && report.violation.is_none() {
        let again = what.run(seed, bug, args.trace);
        if again != report {
            let (one, other) = (report.trace, again.trace);
            let text = format!("two runs of the seed differ: {one:016x} and {other:016x}");
            report.violation = Some(Violation(text));
        }
    }
    report
}

/// Shows itself only to a person.
fn progress(args: &Args, what: What) -> ProgressBar {
    if args.trace {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg:9} {wide_bar} {pos}/{len} {per_sec} {eta}");
    let bar = ProgressBar::new(args.seeds).with_message(what.name());
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

pub(crate) fn header() -> String {
    format!(
        "{:<10}{:<20}{:>8}{:>10}{:>12}{:>10}{:>12}",
        "scenario", "planted", "seeds", "seeds/s", "violations", "acked", "checked"
    )
}

impl Run {
    fn take(&mut self, args: &Args, seed: u64, report: Report) {
        self.seeds += 1;
        self.sum.add(&report);
        // Each seed's hash is spread by itself, so that the order of threads does not matter.
        let spread = (report.trace ^ seed.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.hash = self.hash.wrapping_add(spread ^ (spread >> 29));
        if args.hashes {
            self.hashes.insert(seed, report.trace);
        }
        if let Some(violation) = report.violation {
            self.violations.push((seed, violation.0));
        }
    }

    /// Whether it is as it must be: no violation, but one where a bug was planted.
    pub(crate) fn is_good(&self) -> bool {
        self.violations.is_empty() != self.bug.is_some()
    }

    fn seeds_per_s(&self) -> f64 {
        self.seeds as f64 / self.seconds.max(1e-9)
    }

    pub(crate) fn scenario(&self) -> &'static str {
        self.what.name()
    }

    pub(crate) fn planted(&self) -> Option<&'static str> {
        self.bug.map(Bug::name)
    }

    /// How many seeds it took, in the middle of all findings, until the bug was found.
    pub(crate) fn median(&self) -> Option<u64> {
        let before = [self.first.wrapping_sub(1)];
        let seeds = before.into_iter().chain(self.violations.iter().map(|(seed, _)| *seed));
        let seeds: Vec<u64> = seeds.collect();
        let mut steps: Vec<u64> = seeds.windows(2).map(|w| w[1].wrapping_sub(w[0])).collect();
        steps.sort_unstable();
        steps.get(steps.len().saturating_sub(1) / 2).copied()
    }

    pub(crate) fn row(&self) -> String {
        let (planted, rate) = (self.planted().unwrap_or("-"), self.seeds_per_s());
        let (seeds, violations, sum) = (self.seeds, self.violations.len(), &self.sum);
        let (name, acked, checked) = (self.what.name(), sum.acked, sum.checked);
        let mut row = format!(
            "{name:<10}{planted:<20}{seeds:>8}{rate:>10.0}{violations:>12}{acked:>10}{checked:>12}"
        );
        let counts: Vec<String> =
            sum.faults.iter().chain(&sum.counts).map(|(kind, n)| format!("{kind} {n}")).collect();
        row.push_str(&format!("\n  lives {}, {}", sum.lives, counts.join(", ")));
        if self.bug.is_some() {
            row.push_str(&match (self.violations.first(), self.median()) {
                (Some((seed, what)), Some(median)) => {
                    format!("\n  found by seed {seed}, the median is {median} seeds: {what}")
                }
                _ => "\n  NOT FOUND".to_owned(),
            });
        }
        row
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        let shown = self.violations.iter().take(SHOWN);
        let hex = |hash: u64| format!("{hash:016x}");
        let mut json = json!({
            "scenario": self.what.name(),
            "planted": self.planted(),
            "seeds": self.seeds,
            "seeds_per_s": self.seeds_per_s(),
            "violations": self.violations.len(),
            "found": shown.map(|(seed, what)| json!({"seed": seed, "what": what})).collect::<Vec<_>>(),
            "lives": self.sum.lives,
            "faults": self.sum.faults,
            "counts": self.sum.counts,
            "acked": self.sum.acked,
            "checked": self.sum.checked,
            "hash": hex(self.hash),
        });
        if self.bug.is_some() {
            json["median_seeds"] = json!(self.median());
        }
        if !self.hashes.is_empty() {
            let hashes = self.hashes.iter().map(|(seed, hash)| (seed.to_string(), hex(*hash)));
            json["hashes"] = json!(hashes.collect::<BTreeMap<_, _>>());
        }
        json
    }

    /// The hash of each seed, a line for each.
    pub(crate) fn hashes(&self) -> impl Iterator<Item = String> + '_ {
        self.hashes.iter().map(|(seed, hash)| format!("{} {seed} {hash:016x}", self.what.name()))
    }

    /// Says what was violated, and how to see it again.
    pub(crate) fn tell(&self) {
        for (seed, what) in self.violations.iter().take(SHOWN) {
            let name = self.what.name();
            eprintln!("violation: seed {seed}: {what}");
            eprintln!("  replay: sim --replay {name}:{seed}");
        }
    }
}
