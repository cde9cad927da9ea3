//! Many seeds of a test, and what is said of the first that fails.

use std::{
    collections::BTreeMap,
    fmt::Write,
    ops::Range,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    builder::{Passes, Sim},
    run::{Outcome, Scenario, run_one},
    world::World,
};
use crate::rng::mix;

/// How many runs the search for fewer faults may take.
const SHRINK_RUNS: usize = 60;
/// How many lines of the trace are printed, and a quarter of it after the command that fails.
const TRACE_LINES: usize = 40;
/// From so many seeds on a mark that was never so fails the test.
const MARKS_FROM: u64 = 50;

/// What the environment says.
struct Wanted {
    seeds: Range<u64>,
    /// One seed alone, by `SIM_SEED`.
    replay: bool,
    threads: usize,
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} must be a number, and is {value:?}")))
}

fn wanted(sim: &Sim) -> Wanted {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = number("SIM_THREADS").map_or(sim.threads.unwrap_or(cores), |n| n as usize);
    if let Some(seed) = number("SIM_SEED") {
        return Wanted { seeds: seed..seed + 1, replay: true, threads: 1 };
    }
    let seeds =
        number("SIM_SEEDS").map_or(sim.seeds.clone(), |n| sim.seeds.start..sim.seeds.start + n);
    Wanted { seeds, replay: false, threads: threads.max(1) }
}

/// What all seeds gave.
#[derive(Default)]
struct Sum {
    runs: u64,
    checked: u64,
    virtual_ms: u64,
    faults: BTreeMap<&'static str, u64>,
    marks: BTreeMap<&'static str, u64>,
    /// Of all traces, in any order.
    hash: u64,
    failed: Option<Outcome>,
}

impl Sum {
    fn add(&mut self, outcome: Outcome) {
        self.runs += 1;
        self.checked += outcome.checked;
        self.virtual_ms += outcome.virtual_ms;
        self.hash = self.hash.wrapping_add(mix(outcome.trace_hash ^ mix(outcome.seed)));
        for (sum, part) in [(&mut self.faults, &outcome.faults), (&mut self.marks, &outcome.marks)]
        {
            part.iter().for_each(|(name, count)| *sum.entry(name).or_default() += count);
        }
        let earlier = self.failed.as_ref().is_none_or(|failed| outcome.seed < failed.seed);
        if outcome.violation.is_some() && earlier {
            self.failed = Some(outcome);
        }
    }
}

pub(super) fn run_all<T: Passes>(sim: &Sim, name: &str, test: &(impl AsyncFn(World) -> T + Sync)) {
    let Wanted { seeds, replay, threads } = wanted(sim);
    let (next, sum) = (AtomicU64::new(seeds.start), Mutex::new(Sum::default()));
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= seeds.end {
            return;
        }
        let outcome = run_one(&Scenario { sim, seed, only: None, keeps: replay }, test);
        if outcome.violation.is_some() {
            next.store(seeds.end, Ordering::Relaxed);
        }
        sum.lock().unwrap_or_else(PoisonError::into_inner).add(outcome);
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    match sum.failed {
        Some(failed) if replay => panic!("{}", replayed(name, &failed)),
        Some(failed) => panic!("{}", tell(sim, name, test, sum.runs, failed)),
        None => println!(
            "{name}: {} seeds, {} commands checked, {} s of virtual time, faults {:?}, marks {:?}, \
             trace {:016x}",
            sum.runs,
            sum.checked,
            sum.virtual_ms / 1_000,
            sum.faults,
            sum.marks,
            sum.hash
        ),
    }
    let never = sum.marks.iter().filter(|(_, count)| **count == 0).map(|(name, _)| *name);
    let never: Vec<_> = never.collect();
    let enough = !replay && sum.runs >= MARKS_FROM;
    assert!(
        never.is_empty() || !enough,
        "{name}: in {} seeds it was never so: {never:?}",
        sum.runs
    );
}

/// What is said of a seed that was asked for.
fn replayed(name: &str, failed: &Outcome) -> String {
    let (seed, what) = (failed.seed, failed.violation.as_deref().unwrap_or_default());
    format!("{name} failed with seed {seed}\n\n{}\n\nviolation: {what}\n", failed.trace.join("\n"))
}

/// What is said of a seed that failed.
fn tell<T: Passes>(
    sim: &Sim,
    name: &str,
    test: &(impl AsyncFn(World) -> T + Sync),
    runs: u64,
    failed: Outcome,
) -> String {
    let (seed, all) = (failed.seed, failed.struck.len());
    let small = shrink(sim, test, failed);
    let what = small.violation.as_deref().unwrap_or_default();
    let mut text = format!("{name} failed with seed {seed}, the first of {runs} that were run\n\n");
    // A String takes everything.
    let _ = writeln!(text, "violation: {what}\n");
    if all > 0 {
        let left = small.struck.len();
        let _ = writeln!(text, "{left} of the {all} faults that struck are enough for it:");
        for struck in &small.struck {
            let _ = writeln!(text, "  {struck}");
        }
    }
    let lines = telling(&small);
    let _ =
        writeln!(text, "\n{} of the {} lines of what happened:", lines.len(), small.trace.len());
    for line in lines {
        let _ = writeln!(text, "  {line}");
    }
    let _ = writeln!(text, "\nreplay: SIM_SEED={seed} cargo test {name}");
    text
}

/// The lines of the trace that tell most: what happened to machines, and to the entity that shows the
/// violation, up to some time after the command that does. The newest ones where no command is named.
fn telling(failed: &Outcome) -> Vec<&String> {
    let what = failed.violation.as_deref().unwrap_or_default();
    let mut parts = what.split(": ").skip(1);
    let (entity, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let command = rest.split(',').next().unwrap_or_default();
    let asked = format!(" {entity}: {command} ");
    let trace = &failed.trace;
    let Some(at) = trace.iter().rposition(|line| line.contains(&asked)) else {
        return trace[trace.len().saturating_sub(TRACE_LINES)..].iter().collect();
    };
    let told =
        |line: &&String| !line.contains(": ") || line.contains(entity) || is_of_machines(line);
    let after = trace[at + 1..].iter().filter(told).take(TRACE_LINES / 4);
    let mut lines: Vec<_> = trace[..=at].iter().rev().filter(told).take(TRACE_LINES).collect();
    lines.reverse();
    lines.extend(after);
    lines
}

/// Whether a line of the trace is of a node or a fault, and not of an entity.
fn is_of_machines(line: &str) -> bool {
    ["  node ", "  fault ", "  cut ", "  VIOLATION "].iter().any(|begin| line.contains(begin))
}

/// Leaves out faults as long as the seed still fails in the same way: first many at once, then fewer.
fn shrink<T: Passes>(sim: &Sim, test: &impl AsyncFn(World) -> T, failed: Outcome) -> Outcome {
    let seed = failed.seed;
    let run = |only| run_one(&Scenario { sim, seed, only, keeps: true }, test);
    let kind = |outcome: &Outcome| {
        let text = outcome.violation.as_deref()?;
        Some(text.split(':').next().unwrap_or_default().to_owned())
    };
    let (wanted, mut runs) = (kind(&failed), 1);
    let mut best = run(None);
    if kind(&best) != wanted {
        // Two runs of the seed differ, which is a finding of its own.
        let differs = format!(
            "{:?}; a second run of the seed differs: {:?}",
            failed.violation, best.violation
        );
        return Outcome { violation: Some(differs), ..best };
    }
    let mut at_once = best.struck.len();
    while at_once > 0 {
        let numbers: Vec<usize> = best.struck.iter().map(|struck| struck.number).collect();
        let smaller = numbers.chunks(at_once).find_map(|out| {
            runs += 1;
            let only = numbers.iter().copied().filter(|number| !out.contains(number)).collect();
            let outcome = (runs <= SHRINK_RUNS).then(|| run(Some(only)))?;
            (kind(&outcome) == wanted).then_some(outcome)
        });
        match smaller {
            Some(smaller) => best = smaller,
            None => at_once /= 2,
        }
        at_once = at_once.min(best.struck.len());
    }
    best
}
