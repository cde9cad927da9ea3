//! What every benchmark works with.

use std::{
    error::Error,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use duractor_journal::Env;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tempfile::TempDir;

use crate::{
    probe::Probe,
    report::{Report, Row},
    system,
};

/// Whatever ends a benchmark early.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// What a frame has beside its event's payload, about: header, entity, numbers, name.
const FRAME_OVERHEAD: usize = 64;

/// Makes the folder that a run works in.
pub(crate) fn folder(dir: Option<&Path>) -> Result<TempDir, Failure> {
    let dir = match dir {
        Some(dir) => dir.to_owned(),
        None => PathBuf::from("target"),
    };
    fs::create_dir_all(&dir)?;
    if system::is_memory(&dir) {
        eprintln!(
            "bench: {} is in memory (tmpfs): fsync costs nothing there, so figures of writes mean \
             nothing. Give a folder on a disk with --dir.",
            dir.display()
        );
    }
    Ok(tempfile::Builder::new().prefix("bench-").tempdir_in(dir)?)
}

/// Removes the folder of a run. A log's thread may still be making a file in it.
pub(crate) fn remove(folder: TempDir) {
    let path = folder.keep();
    for _ in 0..1000 {
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return eprintln!("bench: {} is left: {error}", path.display()),
            Ok(()) => {}
        }
    }
}

/// One run of the program.
pub(crate) struct Run {
    pub env: Env,
    dir: PathBuf,
    probe_time: Duration,
    report: Mutex<Report>,
    folders: Mutex<u32>,
}

impl Run {
    pub(crate) fn new(dir: PathBuf, json: bool, probe_seconds: f64) -> Self {
        Self {
            env: Env::production(),
            dir,
            probe_time: Duration::from_secs_f64(probe_seconds),
            report: Mutex::new(Report::new(json)),
            folders: Mutex::new(0),
        }
    }

    /// A new empty folder.
    pub(crate) fn new_folder(&self) -> io::Result<PathBuf> {
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        *folders += 1;
        let path = self.dir.join(folders.to_string());
        fs::create_dir(&path)?;
        Ok(path)
    }

    /// Runs blocking work off the runtime's threads.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        self.env.offload(job).await.ok_or_else(|| "a blocking job was given up".into())
    }

    /// Measures the disk's raw rate now, for events of so many bytes.
    pub(crate) async fn probe(&self, event_bytes: usize) -> Result<Probe, Failure> {
        self.probes(event_bytes, 1).await
    }

    /// The same for so many files that are written at once: the rate of each.
    pub(crate) async fn probes(&self, event_bytes: usize, files: u32) -> Result<Probe, Failure> {
        let bar = self.progress("the disk's raw rate", None);
        let time = self.probe_time;
        let probe = |file: u32| {
            let path = self.dir.join(format!("probe-{file}.raw"));
            self.blocking(move || Probe::measure(&path, event_bytes + FRAME_OVERHEAD, time))
        };
        let probes = futures_util::future::try_join_all((0..files).map(probe)).await?;
        bar.finish_and_clear();
        let together = probes.into_iter().reduce(|all, one| Ok(all?.and(one?)));
        Ok(together.unwrap_or_else(|| Ok(Probe::default()))?)
    }

    /// Prints a result, with the disk's raw rate and the ratio of the result's rate to it.
    pub(crate) fn print(&self, row: Row, rate: f64, probe: Probe) -> io::Result<()> {
        let raw = probe.per_second();
        let row = row
            .number("fdatasync_per_s", raw)
            .number("fdatasync_p50_us", probe.p50_us())
            .number("ratio", rate / raw.max(f64::EPSILON));
        self.report.lock().unwrap_or_else(PoisonError::into_inner).print(&row)
    }

    /// A bar on the terminal, if a person watches. `length` is in whatever is counted; without it
    /// only the time goes by.
    pub(crate) fn progress(&self, what: &str, length: Option<u64>) -> ProgressBar {
        // Draws nothing where stderr is no terminal.
        let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
        let template = match length {
            Some(_) => "{spinner} {msg} [{bar:30}] {percent}% {elapsed}",
            None => "{spinner} {msg} {elapsed}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(what.to_owned());
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        bar
    }

    /// A bar that follows the time while `work` runs.
    pub(crate) async fn timed<T>(
        &self,
        what: &str,
        time: Duration,
        work: impl Future<Output = T>,
    ) -> T {
        let bar = self.progress(what, Some(time.as_millis() as u64));
        tokio::pin!(work);
        let mut ticks = tokio::time::interval(Duration::from_millis(200));
        loop {
            tokio::select! {
                biased;
                result = &mut work => {
                    bar.finish_and_clear();
                    return result;
                }
                _ = ticks.tick() => bar.set_position(bar.elapsed().as_millis() as u64),
            }
        }
    }
}

/// Measures in a fresh process of this program, which prints numbers on one line.
pub(crate) async fn measure_in_child(
    what: &str,
    dir: &Path,
    args: &[&str],
) -> Result<Vec<f64>, Failure> {
    let output = tokio::process::Command::new(std::env::current_exe()?)
        .args(["child", what])
        .arg(dir)
        .args(args)
        .stderr(std::process::Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await?;
    if !output.status.success() {
        return Err(format!("the child process ended with {}", output.status).into());
    }
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
}
