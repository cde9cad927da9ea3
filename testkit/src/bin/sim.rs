//! Runs the crash-consistency scenarios over many seeds, on all cores.

use std::{
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use clap::Parser;
use duractor_testkit::consistency::{Planted, Report, Scenario};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::time::Instant;

/// How many violations are printed in full.
const SHOWN: usize = 10;

/// Tests the log and the snapshot store on a simulated disk that crashes and fails.
///
/// Each seed is one history: a random configuration, random load, and several lives of a process
/// that end by a power failure at some disk operation, by a kill, or in good order. After each,
/// everything is read and compared with what was acknowledged. The same seed gives the same run.
///
/// Exits with 1 where a violation was found, or where a planted bug was not.
#[derive(Debug, Parser)]
#[command(version)]
#[command(after_help = "Examples:
  sim --scenario all --seeds 20000         test everything
  sim --scenario log --seed 17 --seeds 1 --trace
                                           replay one seed, every step printed
  sim --planted all --seeds 5000           show that the tests find bugs; those inside of the
                                           crates need a build with --features planted")]
struct Args {
    /// What to run: log, snapshot, flips (rot in closed files) or all.
    #[arg(long, default_value = "all", value_parser = scenarios)]
    scenario: Scenarios,
    /// How many seeds of each scenario.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Plant this bug, or each of them (all), and stop at the first seed that finds it.
    #[arg(long, value_name = "NAME", value_parser = bugs)]
    planted: Option<Bugs>,
    /// One JSON object for each result instead of a table.
    #[arg(long)]
    json: bool,
    /// Print every step to standard error; on one thread.
    #[arg(long)]
    trace: bool,
    /// Worker threads; one for each core unless set.
    #[arg(long)]
    threads: Option<usize>,
}

#[derive(Debug, Clone)]
struct Scenarios(Vec<Scenario>);

fn scenarios(name: &str) -> Result<Scenarios, String> {
    let found: Vec<_> =
        Scenario::ALL.into_iter().filter(|s| name == "all" || s.name() == name).collect();
    if found.is_empty() { Err("log, snapshot, flips or all".into()) } else { Ok(Scenarios(found)) }
}

#[derive(Debug, Clone)]
struct Bugs(Vec<Planted>);

fn bugs(name: &str) -> Result<Bugs, String> {
    match Planted::from_name(name) {
        Some(bug) if bug.available() => Ok(Bugs(vec![bug])),
        Some(_) => Err("this one needs a build with --features planted".into()),
        None if name == "all" => {
            Ok(Bugs(Planted::ALL.into_iter().filter(|bug| bug.available()).collect()))
        }
        None => Err(format!("one of all, {}", Planted::ALL.map(Planted::name).join(", "))),
    }
}

/// Many seeds of one scenario.
struct Run {
    scenario: Scenario,
    planted: Option<Planted>,
    seeds: u64,
    seconds: f64,
    sum: Report,
    /// Seeds with what they violated, in order.
    violations: Vec<(u64, String)>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.trace {
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
            .without_time()
            .with_writer(std::io::stderr)
            .init();
    }
    let mut good = true;
    if !args.json {
        println!("{}", header());
    }
    for (scenario, planted) in wanted(&args) {
        let run = run(&args, scenario, planted);
        good &= run.violations.is_empty() != planted.is_some();
        if args.json {
            println!("{}", run.json())
        } else {
            println!("{}", run.row())
        }
        if planted.is_none() {
            run.tell();
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn wanted(args: &Args) -> Vec<(Scenario, Option<Planted>)> {
    let scenarios = &args.scenario.0;
    match &args.planted {
        None => scenarios.iter().map(|scenario| (*scenario, None)).collect(),
        Some(Bugs(bugs)) => {
            let found_by = |bug: &Planted| {
                let by = bug.found_by().iter().filter(|by| scenarios.contains(by));
                by.map(|by| (*by, Some(*bug))).collect::<Vec<_>>()
            };
            bugs.iter().flat_map(found_by).collect()
        }
    }
}

fn run(args: &Args, scenario: Scenario, planted: Option<Planted>) -> Run {
    let begun = Instant::now();
    let bar = progress(args, scenario);
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let result = Mutex::new((0, Report::default(), Vec::new()));
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= args.seeds {
                break;
            }
            let seed = args.seed + n;
            let report = scenario.run(seed, planted, args.trace);
            let mut result = result.lock().unwrap_or_else(PoisonError::into_inner);
            result.0 += 1;
            result.1.add(&report);
            if let Some(violation) = report.violation {
                result.2.push((seed, violation.0));
                stop.fetch_or(planted.is_some(), Ordering::Relaxed);
            }
            bar.inc(1);
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if args.trace { 1 } else { args.threads.unwrap_or(cores) };
    std::thread::scope(|scope| {
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    bar.finish_and_clear();
    let (seeds, sum, mut violations) = result.into_inner().unwrap_or_else(PoisonError::into_inner);
    violations.sort();
    Run { scenario, planted, seeds, seconds: begun.elapsed().as_secs_f64(), sum, violations }
}

/// Shows itself only to a person.
fn progress(args: &Args, scenario: Scenario) -> ProgressBar {
    if args.trace {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg:9} {wide_bar} {pos}/{len} {per_sec} {eta}");
    let bar = ProgressBar::new(args.seeds).with_message(scenario.name());
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn header() -> String {
    format!(
        "{:<10}{:<20}{:>8}{:>10}{:>12}{:>10}{:>12}",
        "scenario", "planted", "seeds", "seeds/s", "violations", "acked", "checked"
    )
}

impl Run {
    fn seeds_per_s(&self) -> f64 {
        self.seeds as f64 / self.seconds.max(1e-9)
    }

    fn planted(&self) -> Option<&'static str> {
        self.planted.map(Planted::name)
    }

    fn row(&self) -> String {
        let (planted, rate) = (self.planted().unwrap_or("-"), self.seeds_per_s());
        let (seeds, violations, sum) = (self.seeds, self.violations.len(), &self.sum);
        let (name, acked, checked) = (self.scenario.name(), sum.acked, sum.checked);
        let mut row = format!(
            "{name:<10}{planted:<20}{seeds:>8}{rate:>10.0}{violations:>12}{acked:>10}{checked:>12}"
        );
        let counts: Vec<String> =
            sum.faults.iter().chain(&sum.counts).map(|(kind, n)| format!("{kind} {n}")).collect();
        row.push_str(&format!("\n  lives {}, {}", sum.lives, counts.join(", ")));
        if self.planted.is_some() {
            row.push_str(&match self.violations.first() {
                Some((seed, what)) => format!("\n  found by seed {seed}: {what}"),
                None => "\n  NOT FOUND".to_owned(),
            });
        }
        row
    }

    fn json(&self) -> serde_json::Value {
        let shown = self.violations.iter().take(SHOWN);
        json!({
            "scenario": self.scenario.name(),
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
        })
    }

    /// Says what was violated, and how to see it again.
    fn tell(&self) {
        for (seed, what) in self.violations.iter().take(SHOWN) {
            let name = self.scenario.name();
            eprintln!("violation: seed {seed}: {what}");
            eprintln!("  replay: sim --scenario {name} --seed {seed} --seeds 1 --trace");
        }
    }
}
