//! How long calls took, from many tasks at once.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Fewer parts than tasks would make them wait for each other; more would cost memory.
const PARTS: usize = 16;
/// Longer calls count as this long, in nanoseconds: 10 minutes.
const LONGEST: u64 = 600_000_000_000;

/// A histogram of durations, in parts that tasks fill independently.
pub(crate) struct Latency {
    parts: Vec<Mutex<Histogram<u64>>>,
}

impl Latency {
    pub(crate) fn new() -> Result<Self, hdrhistogram::CreationError> {
        let part = |_| Histogram::new_with_bounds(1, LONGEST, 3).map(Mutex::new);
        Ok(Self { parts: (0..PARTS).map(part).collect::<Result<_, _>>()? })
    }

    /// Notes one call of the task with this number.
    pub(crate) fn record(&self, task: usize, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(LONGEST).clamp(1, LONGEST);
        let part = &self.parts[task % PARTS];
        part.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(nanos);
    }

    /// All parts together.
    pub(crate) fn total(&self) -> Summary {
        let mut all = self.parts[0].lock().unwrap_or_else(PoisonError::into_inner).clone();
        for part in &self.parts[1..] {
            // All parts have the same bounds, so they always fit.
            let _ = all.add(&*part.lock().unwrap_or_else(PoisonError::into_inner));
        }
        let micros = |quantile| all.value_at_quantile(quantile) as f64 / 1000.0;
        Summary { count: all.len(), p50_us: micros(0.5), p99_us: micros(0.99) }
    }
}

/// What a histogram says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub count: u64,
    pub p50_us: f64,
    pub p99_us: f64,
}
