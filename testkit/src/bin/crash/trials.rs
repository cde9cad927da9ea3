//! The parent: start, kill, verify.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::Duration,
};

use duractor_journal::Env;
use duractor_testkit::Rng;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::{
    io::AsyncReadExt,
    process::Command,
    time::{Instant, sleep},
};

use crate::{
    Failure,
    cli::{Args, Target},
    commands::Commands,
    entity,
    findings::Findings,
    journal,
    lines::Line,
    streams::Streams,
};

/// Runs all trials and prints the result.
pub(crate) async fn run(args: &Args, dir: &Path) -> Result<ExitCode, Failure> {
    let seed = args.seed.unwrap_or_else(|| Env::production().entropy.next_u64() >> 16);
    if !args.json {
        println!("seed {seed}");
    }
    let bar = progress(args.trials);
    let (began, mut rng, mut findings) = (Instant::now(), Rng::new(seed), Findings::default());
    let mut folder: Option<Folder> = None;
    let mut trials = 0;
    while trials < args.trials && findings.is_clean() {
        let mut current = match folder.take() {
            Some(folder) => folder,
            None => Folder::new(dir.join("node"), rng.next_u64())?,
        };
        if let Err(failure) = current.trial(args, trials as u32, &mut rng, &mut findings).await {
            findings.other(|| format!("trial {trials}: {failure}"));
        }
        trials += 1;
        current.trials += 1;
        if current.trials < args.rounds {
            folder = Some(current);
        } else {
            fs::remove_dir_all(&current.dir)?;
        }
        bar.set_message(format!("{} acknowledged", findings.acked));
        bar.inc(1);
    }
    bar.finish_and_clear();
    report(args, seed, trials, &findings, began.elapsed(), None);
    Ok(if findings.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(crate) fn progress(trials: u64) -> ProgressBar {
    // Draws nothing where stderr is no terminal.
    let bar = ProgressBar::with_draw_target(Some(trials), ProgressDrawTarget::stderr());
    let template = "{spinner} {pos}/{len} kills [{bar:30}] {elapsed}, {msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// What only clusters have.
pub(crate) struct OfCluster<'a> {
    pub replicas_equal: bool,
    /// How often each was done.
    pub faults: &'a BTreeMap<&'static str, u64>,
    pub slowest_ms: u64,
}

pub(crate) fn report(
    args: &Args,
    seed: u64,
    trials: u64,
    findings: &Findings,
    took: Duration,
    cluster: Option<&OfCluster<'_>>,
) {
    let Findings { acked, lost, duplicated, other, notes } = findings;
    let seconds = (took.as_secs_f64() * 10.0).round() / 10.0;
    let target = args.target.name();
    if args.json {
        let mut result = serde_json::json!({
            "target": target, "nodes": args.nodes, "trials": trials, "acked": acked, "lost": lost,
            "duplicated": duplicated, "other": other, "seed": seed, "seconds": seconds,
        });
        if let Some(OfCluster { replicas_equal, faults, slowest_ms }) = cluster {
            result["scenario"] = args.scenario.name().into();
            result["replicas_equal"] = (*replicas_equal).into();
            result["faults"] = serde_json::json!(faults);
            result["slowest_ms"] = (*slowest_ms).into();
        }
        println!("{result}");
    } else {
        let what = if cluster.is_some() { "trials" } else { "kills" };
        println!(
            "{trials} {what} in {seconds} s: {acked} events acknowledged, {lost} lost, \
             {duplicated} duplicated, {other} otherwise wrong"
        );
        if let Some(OfCluster { replicas_equal, faults, slowest_ms }) = cluster {
            let equal = if *replicas_equal { "equal" } else { "NOT EQUAL" };
            println!("replicas {equal}; serving again after {slowest_ms} ms at most; {faults:?}");
        }
    }
    for note in notes {
        eprintln!("crash: {note}");
    }
    if !findings.is_clean() {
        let segments =
            args.segment_kib.map_or(String::new(), |kib| format!(" --segment-kib {kib}"));
        let scenario = args.scenario.name();
        let (nodes, rounds, trials) = (args.nodes, args.rounds, args.trials);
        let plant = args.plant.map_or(String::new(), |plant| format!(" --plant {}", plant.name()));
        eprintln!(
            "crash: again with: crash --target {target} --scenario {scenario} --nodes {nodes} --trials {trials} \
             --rounds {rounds} --seed {seed}{segments}{plant}"
        );
    }
}

/// A folder that lives for some trials, and what must be in it.
struct Folder {
    dir: PathBuf,
    seed: u64,
    trials: u64,
    streams: Streams,
    commands: Commands,
}

impl Folder {
    fn new(dir: PathBuf, seed: u64) -> Result<Self, Failure> {
        fs::create_dir(&dir)?;
        let (streams, commands) = (Streams::new(), Commands::new());
        Ok(Self { dir, seed, trials: 0, streams, commands })
    }

    async fn trial(
        &mut self,
        args: &Args,
        run: u32,
        rng: &mut Rng,
        findings: &mut Findings,
    ) -> Result<(), Failure> {
        let printed = Line::read(&self.killed(args, run, rng).await?)?;
        match args.target {
            Target::Journal => {
                self.streams.printed(&printed, findings);
                let read = journal::read(&self.dir, self.seed, findings).await?;
                self.streams.compare(run, &read, findings);
            }
            Target::Entity => {
                self.commands.printed(&printed, findings);
                let commands = &mut self.commands;
                entity::verify(&self.dir, self.seed, rng, commands, findings).await?;
            }
        }
        Ok(())
    }

    /// Starts a worker, kills it at a random instant, and returns what it printed until then.
    async fn killed(&self, args: &Args, run: u32, rng: &mut Rng) -> Result<Vec<u8>, Failure> {
        let mut worker = Command::new(std::env::current_exe()?);
        worker.arg("worker").arg(&self.dir).args(["--target", args.target.name()]);
        worker.args(["--folder-seed", &self.seed.to_string()]);
        worker.args(["--seed", &rng.next_u64().to_string(), "--run", &run.to_string()]);
        if let Some(plant) = args.plant {
            worker.args(["--plant", plant.name()]);
        }
        // Every fourth kill comes within 15 ms, while the worker still recovers.
        let part = rng.below(1_000_000) as f64 / 1e6;
        let delay = Duration::from_secs_f64(0.002 + 0.198 * part * part);
        let mut worker =
            worker.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let mut pipe = worker.stdout.take().ok_or("the worker has no pipe")?;
        let mut printed = Vec::new();
        let reading = pipe.read_to_end(&mut printed);
        let kill = async {
            sleep(delay).await;
            // Fails where the worker ended by itself, which its status tells better.
            let _ = worker.start_kill();
        };
        let ((), read) = tokio::join!(kill, reading);
        read?;
        let status = worker.wait().await?;
        match std::os::unix::process::ExitStatusExt::signal(&status) {
            Some(9) => Ok(printed),
            _ => Err(format!("the worker ended by itself, with {status}").into()),
        }
    }
}
