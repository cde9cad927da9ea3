//! The seams: everything through which the outside world reaches Duractor.
//!
//! Time, entropy, disk and offload are here; the transport joins them when nodes talk. Production
//! uses [`Env::production`]; a simulation brings its own, and then a whole run follows from one
//! seed. Code of Duractor never goes around them (clippy's `disallowed-methods` sees to that).
//! Monotonic time is tokio's clock, which a simulation pauses.

use std::{
    future::Future,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use crate::{
    disk::{Disk, StdDisk},
    id::Timestamp,
};

/// Wall-clock time. Monotonic time (delays, deadlines) is tokio's.
pub trait Clock: Send + Sync + 'static {
    /// Now, in milliseconds since 1970.
    fn now(&self) -> Timestamp;
}

/// Randomness.
pub trait Entropy: Send + Sync + 'static {
    /// A random number, each value equally likely.
    fn next_u64(&self) -> u64;
}

/// Where blocking work goes, so that it does not block an async worker thread.
pub trait Offload: Send + Sync + 'static {
    /// Runs a job that blocks for a while, as a read of a file.
    fn run(&self, job: Box<dyn FnOnce() + Send>);

    /// Runs a long-lived worker whose future blocks: on a thread of its own in production, as a
    /// task in a simulation. It ends when the future does.
    fn worker(&self, name: &str, work: BoxFuture<'static, ()>);
}

/// The seams of one node, handed to everything that it is made of. Cheap to clone.
#[derive(Clone)]
pub struct Env {
    /// Wall-clock time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// Blocking work.
    pub offload: Arc<dyn Offload>,
}

impl Env {
    /// The operating system's clock, randomness and files; tokio's blocking threads.
    #[must_use]
    pub fn production() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            disk: Arc::new(StdDisk),
            offload: Arc::new(Threads),
        }
    }

    /// Runs `job` by the offload seam and hands back what it returned; `None` where the job
    /// panicked or the runtime is shutting down.
    pub fn offload<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Option<T>> + Send + 'static {
        let (tx, rx) = oneshot::channel();
        self.offload.run(Box::new(move || {
            // The receiver may have lost interest; the job has run all the same.
            let _ = tx.send(job());
        }));
        async move { rx.await.ok() }
    }
}

struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(since.as_millis() as u64)
    }
}

struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn next_u64(&self) -> u64 {
        use std::hash::{BuildHasher, RandomState};
        // std seeds each thread's RandomState from the operating system and steps it on every use;
        // hashing a changing value spreads the steps over all 64 bits.
        RandomState::new().hash_one(std::thread::current().id())
    }
}

struct Threads;

impl Offload for Threads {
    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        tokio::task::spawn_blocking(job);
    }

    fn worker(&self, name: &str, work: BoxFuture<'static, ()>) {
        let spawned =
            std::thread::Builder::new().name(name.to_owned()).spawn(move || block_on(work));
        if let Err(error) = spawned {
            tracing::error!(%error, name, "no thread for a worker");
        }
    }
}

/// Drives one future on this thread, parking between polls.
fn block_on(work: BoxFuture<'static, ()>) {
    match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => tracing::error!(%error, "no runtime for a worker"),
    }
}
