//! Runs the simulated scenarios over many seeds, on all cores.

mod hours;
mod report;
mod run;
mod what;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

use self::{
    run::{Run, header, run},
    what::{Bug, What},
};

/// Tests the log, the snapshot store, journal groups and clusters of whole nodes in simulations.
///
/// Of the log and the snapshot store, each seed is one history on a simulated disk: random load, and
/// several lives of a process that end by a power failure at some disk operation, by a kill, or in
/// good order. Of journal groups, each seed is a cluster of several nodes with simulated disks,
/// network and clocks, under load while things go wrong; of whole nodes as well, with entities,
/// singletons, and members that come and go. In the end everything is read and compared with what was
/// acknowledged. The same seed gives the same run.
///
/// Exits with 1 where a violation was found, or where a planted bug was not.
#[derive(Debug, Parser)]
#[command(version)]
#[command(after_help = "Examples:
  sim --scenario all --seeds 20000         test everything
  sim --hours 8 --report night.md          the same for a night, and a page about it
  sim --replay log:17                      run one seed, every step printed
  sim --scenario journal --seeds 1000 --twice
                                           run every seed twice, and compare the traces
  sim --planted all --seeds 5000 --json    show that the tests find bugs; those inside of the
                                           crates need a build with --features planted")]
struct Args {
    /// What to run: log, snapshot, flips (rot in closed files), journal (groups on several nodes),
    /// cluster (whole nodes) or all.
    #[arg(long, default_value = "all", value_parser = scenarios)]
    scenario: Scenarios,
    /// How many seeds of each scenario.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Plant this bug, or each of them (all), and stop when it is found.
    #[arg(long, value_name = "NAME", value_parser = bugs)]
    planted: Option<String>,
    /// Look for a planted bug until this many seeds have found it, and say what the median is.
    #[arg(long, default_value_t = 1)]
    finds: usize,
    /// One JSON object for each result instead of a table.
    #[arg(long)]
    json: bool,
    /// Print every step to standard error; on one thread.
    #[arg(long)]
    trace: bool,
    /// Run every seed twice; two runs that differ are a violation.
    #[arg(long)]
    twice: bool,
    /// Print the trace hash of each seed, or put it into the JSON.
    #[arg(long)]
    hashes: bool,
    /// Worker threads; with --hours, worker processes. One for each core unless set.
    #[arg(long)]
    threads: Option<usize>,
    /// Run the scenarios in turns for so long, over seeds from --seed on.
    #[arg(long, value_name = "H", conflicts_with_all = ["seeds", "planted", "trace", "hashes"])]
    hours: Option<f64>,
    /// Where --hours appends seeds that failed.
    #[arg(long, value_name = "FILE", default_value = "sim-failures.txt")]
    failures: PathBuf,
    /// Where --hours writes a page about what it did.
    #[arg(long, value_name = "FILE", requires = "hours")]
    report: Option<PathBuf>,
    /// Replay a seed, every step printed.
    #[arg(long, value_name = "SCENARIO:SEED", value_parser = replay, conflicts_with_all = ["hours", "seed", "seeds", "scenario"])]
    replay: Option<(What, u64)>,
}

#[derive(Debug, Clone)]
struct Scenarios(Vec<What>);

fn scenarios(name: &str) -> Result<Scenarios, String> {
    let found: Vec<_> = What::all().filter(|w| name == "all" || w.name() == name).collect();
    if found.is_empty() {
        let names: Vec<_> = What::all().map(What::name).collect();
        return Err(format!("one of all, {}", names.join(", ")));
    }
    Ok(Scenarios(found))
}

fn replay(text: &str) -> Result<(What, u64), String> {
    let parts = text.split_once(':').ok_or("a scenario and a seed, as in journal:17")?;
    let Scenarios(found) = scenarios(parts.0)?;
    let seed = parts.1.parse().map_err(|error| format!("{:?}: {error}", parts.1))?;
    match found[..] {
        [what] => Ok((what, seed)),
        _ => Err("one scenario".into()),
    }
}

fn bugs(name: &str) -> Result<String, String> {
    let bugs: Vec<Bug> = What::all().flat_map(What::bugs).collect();
    let of_name = |bug: &&Bug| name == "all" || bug.name() == name;
    if bugs.iter().filter(of_name).any(|bug| bug.available()) {
        return Ok(name.to_owned());
    }
    if bugs.iter().any(|bug| bug.name() == name) {
        return Err("this one needs a build with --features planted".into());
    }
    let names: std::collections::BTreeSet<_> = bugs.iter().map(|bug| bug.name()).collect();
    Err(format!("one of all, {}", names.into_iter().collect::<Vec<_>>().join(", ")))
}

fn main() -> ExitCode {
    let mut args = Args::parse();
    if let Some((what, seed)) = args.replay {
        (args.scenario, args.seed, args.seeds, args.trace) = (Scenarios(vec![what]), seed, 1, true);
    }
    if args.trace {
        tracing_subscriber::fmt()
            .with_env_filter(std::env::var("RUST_LOG").unwrap_or_else(|_| {
                "warn,duractor=debug,duractor_journal=debug,duractor_snapshot=debug".into()
            }))
            .without_time()
            .with_writer(std::io::stderr)
            .init();
    }
    if !args.json {
        println!("{}", header());
    }
    if let Some(hours) = args.hours {
        return match hours::run(&args, hours) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("sim: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let mut good = true;
    let mut runs = Vec::new();
    for (what, bug) in wanted(&args) {
        let run = run(&args, what, bug);
        good &= run.is_good();
        if args.json {
            println!("{}", run.json());
        } else {
            println!("{}", run.row());
            run.hashes().for_each(|line| println!("{line}"));
        }
        if bug.is_none() {
            run.tell();
        }
        runs.push(run);
    }
    if args.planted.is_some() && args.json {
        println!("{}", catalogue(&runs));
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// All planted bugs together, as the last line.
fn catalogue(runs: &[Run]) -> serde_json::Value {
    let name = |run: &Run| format!("{}/{}", run.scenario(), run.planted().unwrap_or_default());
    let missed: Vec<_> = runs.iter().filter(|run| run.median().is_none()).map(name).collect();
    let medians = runs.iter().map(|run| (name(run), run.median()));
    serde_json::json!({
        "planted": runs.len(),
        "found": runs.len() - missed.len(),
        "missed": missed,
        "median_seeds": medians.collect::<std::collections::BTreeMap<_, _>>(),
    })
}

/// What is to be run; with bugs, each in the scenarios that find it.
fn wanted(args: &Args) -> Vec<(What, Option<Bug>)> {
    let of = |what: What| match &args.planted {
        None => vec![(what, None)],
        Some(name) => {
            let bugs = what.bugs().into_iter();
            let wanted = |bug: &Bug| bug.available() && (name == "all" || bug.name() == name);
            bugs.filter(wanted).map(|bug| (what, Some(bug))).collect()
        }
    };
    args.scenario.0.iter().flat_map(|what| of(*what)).collect()
}
