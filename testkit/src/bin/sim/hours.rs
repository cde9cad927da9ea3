//! Long runs: worker processes, one for each core, take turns with the scenarios until the time is over.
//! Processes and not threads, so that one that dies or grows takes nothing else with it.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::Write as _,
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::{Args, report, what::What};

/// How long one worker process is to take: long enough that its start does not count, short enough that
/// progress is seen.
const SLICE: Duration = Duration::from_secs(20);
/// How many seeds the first process of a scenario gets.
const FIRST_SEEDS: u64 = 50;

/// What a scenario gave so far.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) seeds: u64,
    pub(crate) acked: u64,
    pub(crate) checked: u64,
    pub(crate) faults: BTreeMap<String, u64>,
    pub(crate) counts: BTreeMap<String, u64>,
    /// Seeds with what they violated.
    pub(crate) violations: Vec<(u64, String)>,
    /// How long processes worked on it, all together.
    worked: Duration,
    next: u64,
}

impl Tally {
    /// Seeds a second of one process.
    pub(crate) fn rate(&self) -> f64 {
        self.seeds as f64 / self.worked.as_secs_f64().max(1e-9)
    }

    fn take(&mut self, result: &Value, worked: Duration) {
        let number = |name: &str| result[name].as_u64().unwrap_or(0);
        self.seeds += number("seeds");
        self.acked += number("acked");
        self.checked += number("checked");
        self.worked += worked;
        let nothing = Map::new();
        for (sum, name) in [(&mut self.faults, "faults"), (&mut self.counts, "counts")] {
            for (kind, count) in result[name].as_object().unwrap_or(&nothing) {
                *sum.entry(kind.clone()).or_default() += count.as_u64().unwrap_or(0);
            }
        }
        for found in result["found"].as_array().into_iter().flatten() {
            let text = found["what"].as_str().unwrap_or_default().to_owned();
            self.violations.push((found["seed"].as_u64().unwrap_or(0), text));
        }
    }

    fn json(&self, what: What) -> Value {
        let found = self.violations.iter().map(|(seed, what)| json!({"seed": seed, "what": what}));
        json!({
            "scenario": what.name(),
            "seeds": self.seeds,
            "seeds_per_s": self.rate(),
            "violations": self.violations.len(),
            "found": found.collect::<Vec<_>>(),
            "faults": self.faults,
            "counts": self.counts,
            "acked": self.acked,
            "checked": self.checked,
        })
    }
}

/// All scenarios of a long run.
pub(crate) type Tallies = Vec<(What, Tally)>;

struct Hunt<'a> {
    args: &'a Args,
    until: Instant,
    tallies: Mutex<Tallies>,
    bar: ProgressBar,
}

/// Runs for so long. Whether nothing was violated.
///
/// # Errors
/// A worker process does not do what it should, or a file cannot be written.
pub(crate) fn run(args: &Args, hours: f64) -> Result<bool, String> {
    let begun = Instant::now();
    let tally = |what: &What| (*what, Tally { next: args.seed, ..Tally::default() });
    let hunt = Hunt {
        args,
        until: begun + Duration::from_secs_f64(hours * 3_600.0),
        tallies: Mutex::new(args.scenario.0.iter().map(tally).collect()),
        bar: progress(),
    };
    let threads = args.threads.unwrap_or_else(crate::run::cores).max(1);
    let results = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| hunt.work())).collect();
        workers.into_iter().map(|worker| worker.join()).collect::<Vec<_>>()
    });
    hunt.bar.finish_and_clear();
    for result in results {
        result.map_err(|_| "a worker thread ended by a panic".to_owned())??;
    }
    let tallies = hunt.tallies.into_inner().unwrap_or_else(PoisonError::into_inner);
    for (what, tally) in &tallies {
        if args.json {
            println!("{}", tally.json(*what));
        } else {
            println!("{}", report::row(*what, tally));
        }
    }
    if let Some(file) = &args.report {
        let text = report::page(&tallies, begun.elapsed(), threads);
        std::fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(tallies.iter().all(|(_, tally)| tally.violations.is_empty()))
}

fn progress() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}");
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(200));
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
}

impl Hunt<'_> {
    fn work(&self) -> Result<(), String> {
        while Instant::now() < self.until {
            let (at, what, first, seeds) = self.next();
            let begun = Instant::now();
            let result = self.one(what, first, seeds)?;
            let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
            let tally = &mut tallies[at].1;
            let before = tally.violations.len();
            tally.take(&result, begun.elapsed());
            let new = tally.violations[before..].to_vec();
            self.bar.set_message(report::line(&tallies));
            drop(tallies);
            self.note(what, &new)?;
        }
        Ok(())
    }

    /// What has been worked on least is next, with as many seeds as fit into a slice.
    fn next(&self) -> (usize, What, u64, u64) {
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        let least = tallies.iter().enumerate().min_by_key(|(_, (_, tally))| {
            // Those that others just took come later.
            (
                tally.worked + SLICE * u32::from(tally.next > self.args.seed + tally.seeds),
                tally.next,
            )
        });
        let at = least.map_or(0, |(at, _)| at);
        let (what, tally) = &mut tallies[at];
        let left = self.until.saturating_duration_since(Instant::now()).min(SLICE);
        let fits = (tally.rate() * left.as_secs_f64()) as u64;
        let seeds = if tally.seeds == 0 { FIRST_SEEDS } else { fits.max(1) };
        let first = tally.next;
        tally.next += seeds;
        (at, *what, first, seeds)
    }

    /// One worker process.
    fn one(&self, what: What, first: u64, seeds: u64) -> Result<Value, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.args(["--scenario", what.name(), "--json", "--threads", "1"]);
        command.args(["--seed", &first.to_string(), "--seeds", &seeds.to_string()]);
        if self.args.twice {
            command.arg("--twice");
        }
        let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(text.trim()).map_err(|error| {
            let (name, last) = (what.name(), first + seeds - 1);
            let said = String::from_utf8_lossy(&output.stderr);
            let said: Vec<_> = said.lines().rev().take(20).collect();
            let said: Vec<_> = said.into_iter().rev().collect();
            format!(
                "{name}, seeds {first} to {last}: the worker process ended with {} ({error}):\n{}",
                output.status,
                said.join("\n")
            )
        })
    }

    /// Appends seeds that failed to the file for them, at once: a long run may be stopped.
    fn note(&self, what: What, found: &[(u64, String)]) -> Result<(), String> {
        if found.is_empty() {
            return Ok(());
        }
        let file = &self.args.failures;
        let write = || {
            let mut out = OpenOptions::new().create(true).append(true).open(file)?;
            for (seed, text) in found {
                let text = text.lines().next().unwrap_or_default();
                writeln!(out, "{}:{seed} {text}", what.name())?;
            }
            std::io::Result::Ok(())
        };
        write().map_err(|error| format!("{}: {error}", file.display()))
    }
}
