//! All seams of one node, simulated: disk, clock, entropy and offload, from one seed.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use duractor_journal::{
    Env, Timestamp,
    env::{Clock, Entropy, Offload},
};
use futures_util::future::BoxFuture;
use tokio::{
    runtime,
    task::AbortHandle,
    time::{Instant, Sleep, sleep_until},
};

use crate::{
    disk::{DiskFaults, SimDisk},
    rng::{Rng, STEP, mix},
};

/// What the simulated clock shows first: 14 November 2023, 22:13:20 UTC.
pub const SIM_START: Timestamp = Timestamp(1_700_000_000_000);

/// The simulated seams of one node, which outlive its process: make one per node, and take an
/// [`Env`] from it for each start of the node.
pub struct SimEnv {
    seed: u64,
    disk: Arc<SimDisk>,
    clock: Arc<SimClock>,
    entropy: Arc<SimEntropy>,
    offload: Arc<Inline>,
}

impl SimEnv {
    /// Seams with a disk that has no faults but what a crash does. Use it within one runtime with
    /// a paused clock, as [`run_sim`] makes it.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with_faults(seed, DiskFaults::default())
    }

    /// Seams with a disk that behaves so.
    #[must_use]
    pub fn with_faults(seed: u64, faults: DiskFaults) -> Self {
        let mut rng = Rng::new(seed);
        let disk = SimDisk::new(rng.next_u64(), faults);
        let entropy = SimEntropy { state: AtomicU64::new(rng.next_u64()) };
        let clock = SimClock::default();
        // Time counts from here where there is a runtime already.
        clock.now();
        let (clock, entropy) = (Arc::new(clock), Arc::new(entropy));
        Self { seed, disk, clock, entropy, offload: Arc::default() }
    }

    /// The seams for the process that runs now. After a crash take new ones: through the old ones
    /// the disk cannot be reached any more.
    #[must_use]
    pub fn env(&self) -> Env {
        Env {
            clock: Arc::clone(&self.clock) as _,
            entropy: Arc::clone(&self.entropy) as _,
            disk: self.disk.mount(),
            offload: Arc::clone(&self.offload) as _,
        }
    }

    /// The seed that everything follows from.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The node's disk.
    #[must_use]
    pub fn disk(&self) -> &Arc<SimDisk> {
        &self.disk
    }

    /// Sets how far the node's clock is ahead of the others, in milliseconds; below 0 it is behind.
    pub fn set_skew_ms(&self, skew_ms: i64) {
        self.clock.skew_ms.store(skew_ms, Ordering::Relaxed);
    }

    /// Holds the node's workers up for so long from now, as a disk does that is slow to sync: what
    /// is handed to them waits.
    pub fn stall(&self, time: Duration) {
        let mut until = self.offload.stalled.lock().unwrap_or_else(PoisonError::into_inner);
        *until = Some(Instant::now() + time);
    }

    /// Loses power: workers are aborted before their next step, and the disk keeps what it draws.
    pub fn crash(&self) {
        self.offload.abort();
        self.disk.crash();
    }

    /// Ends the process alone, as SIGKILL does: workers are aborted before their next step, and
    /// the disk keeps everything.
    pub fn kill(&self) {
        self.offload.abort();
        self.disk.kill();
    }
}

/// Runs a test on simulated seams, on one thread and with tokio's clock paused: it jumps to the
/// next timer when nothing else is left to do. A panic is reported with the seed.
///
/// ```
/// use duractor_testkit::run_sim;
///
/// let waited_ms = run_sim(7, async |sim| {
///     let before = sim.env().clock.now();
///     tokio::time::sleep(std::time::Duration::from_secs(3_600)).await;
///     sim.env().clock.now().0 - before.0
/// });
/// assert_eq!(waited_ms, 3_600_000);
/// ```
///
/// # Panics
/// If the test does, or if the operating system gives no runtime.
pub fn run_sim<T>(seed: u64, test: impl AsyncFnOnce(SimEnv) -> T) -> T {
    run_sim_with(seed, DiskFaults::default(), test)
}

/// As [`run_sim`], on a disk that behaves so.
///
/// # Panics
/// As [`run_sim`] does.
pub fn run_sim_with<T>(seed: u64, faults: DiskFaults, test: impl AsyncFnOnce(SimEnv) -> T) -> T {
    let _told = TellSeed(seed);
    let runtime = runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime for the simulation");
    runtime.block_on(async { test(SimEnv::with_faults(seed, faults)).await })
}

struct TellSeed(u64);

impl Drop for TellSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with seed {}: the same run follows from run_sim({0}, ..)", self.0);
        }
    }
}

/// Follows tokio's clock from [`SIM_START`].
#[derive(Default)]
struct SimClock {
    /// Tokio's time when this clock showed its start.
    base: OnceLock<Instant>,
    skew_ms: AtomicI64,
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        // Without a runtime tokio would tell the real time.
        let passed = runtime::Handle::try_current().map_or(0, |_| {
            let now = Instant::now();
            now.saturating_duration_since(*self.base.get_or_init(|| now)).as_millis() as u64
        });
        let now = SIM_START.0.saturating_add(passed);
        Timestamp(now.saturating_add_signed(self.skew_ms.load(Ordering::Relaxed)))
    }
}

struct SimEntropy {
    state: AtomicU64,
}

impl Entropy for SimEntropy {
    fn next_u64(&self) -> u64 {
        mix(self.state.fetch_add(STEP, Ordering::Relaxed))
    }
}

/// Runs jobs at once, and workers as tasks of the runtime.
#[derive(Default)]
struct Inline {
    workers: Mutex<Vec<AbortHandle>>,
    /// Until when workers are held up.
    stalled: Arc<Mutex<Option<Instant>>>,
}

impl Inline {
    fn abort(&self) {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        for worker in workers.drain(..) {
            worker.abort();
        }
    }
}

impl Offload for Inline {
    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        job();
    }

    fn worker(&self, _name: &str, work: BoxFuture<'static, ()>) {
        let work = Worker { work, stalled: self.stalled.clone(), waits: None };
        let worker = tokio::spawn(work).abort_handle();
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.retain(|worker| !worker.is_finished());
        workers.push(worker);
    }
}

/// A worker that goes on only while nothing holds it up.
struct Worker {
    work: BoxFuture<'static, ()>,
    stalled: Arc<Mutex<Option<Instant>>>,
    waits: Option<Pin<Box<Sleep>>>,
}

impl Future for Worker {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(waits) = &mut self.waits {
                if waits.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                self.waits = None;
            }
            let until = *self.stalled.lock().unwrap_or_else(PoisonError::into_inner);
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => self.waits = Some(Box::pin(sleep_until(until))),
                None => return self.work.as_mut().poll(context),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn clock(sim: &SimEnv) -> u64 {
        sim.env().clock.now().0 - SIM_START.0
    }

    #[test]
    fn the_clock_follows_tokios_and_its_skew() {
        run_sim(1, async |sim| {
            assert_eq!(clock(&sim), 0);
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            assert_eq!(clock(&sim), 1_500);
            sim.set_skew_ms(250);
            assert_eq!(clock(&sim), 1_750);
            sim.set_skew_ms(-1_000);
            assert_eq!(clock(&sim), 500);
        });
        assert_eq!(clock(&SimEnv::new(1)), 0, "no runtime, no time");
    }

    #[test]
    fn entropy_follows_from_the_seed() {
        let draw = |seed| {
            let env = SimEnv::new(seed).env();
            [env.entropy.next_u64(), env.entropy.next_u64()]
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert_ne!(draw(1)[0], draw(1)[1]);
    }

    #[test]
    fn jobs_run_at_once() {
        run_sim(1, async |sim| {
            let job = sim.env().offload(|| 7);
            assert_eq!(job.await, Some(7));
        });
    }

    /// A worker that appends to a file for ever.
    fn start_worker(sim: &SimEnv) -> std::io::Result<()> {
        let env = sim.env();
        let file = env.disk.create(Path::new("/log"))?;
        env.disk.sync_dir(Path::new("/"))?;
        let work = async move {
            for at in 0.. {
                if file.write_at(at, b"x").and_then(|()| file.sync_data()).is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        env.offload.worker("appender", Box::pin(work));
        Ok(())
    }

    #[test]
    fn workers_end_with_their_process() -> std::io::Result<()> {
        run_sim(1, async |sim| {
            start_worker(&sim)?;
            tokio::time::sleep(Duration::from_millis(95)).await;
            let written = sim.disk().peek(Path::new("/log"));
            assert_eq!(written.as_ref().map(Vec::len), Some(10));
            let old = sim.env();
            sim.crash();
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(sim.disk().peek(Path::new("/log")), written);
            assert!(old.disk.open(Path::new("/log")).is_err());
            assert!(sim.env().disk.open(Path::new("/log")).is_ok());
            Ok(())
        })
    }

    #[test]
    fn a_stalled_worker_waits() -> std::io::Result<()> {
        run_sim(1, async |sim| {
            start_worker(&sim)?;
            tokio::time::sleep(Duration::from_millis(95)).await;
            let written = |sim: &SimEnv| sim.disk().peek(Path::new("/log")).map(|log| log.len());
            assert_eq!(written(&sim), Some(10));
            sim.stall(Duration::from_millis(100));
            tokio::time::sleep(Duration::from_millis(90)).await;
            assert_eq!(written(&sim), Some(10));
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(written(&sim) > Some(10));
            Ok(())
        })
    }

    #[test]
    fn runs_of_a_seed_are_equal() {
        let run = |seed| {
            run_sim(seed, async |sim| {
                start_worker(&sim).map_err(|error| error.kind())?;
                let env = sim.env();
                tokio::time::sleep(Duration::from_millis(env.entropy.next_u64() % 1_000)).await;
                sim.crash();
                Ok::<_, std::io::ErrorKind>((sim.disk().trace_hash(), clock(&sim)))
            })
        };
        assert_eq!(run(3), run(3));
        assert_ne!(run(3), run(4));
    }
}
