//! How long what is to be written waits until it is durable.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant};

/// What was measured counts for so long: a log that nobody writes to is not slow.
const COUNTS: Duration = Duration::from_secs(10);

/// How fast a log is.
#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<Measured>);

#[derive(Debug, Default)]
struct Measured {
    /// Something waits since then.
    since: Option<Instant>,
    /// How long it took lately, smoothed over some group commits.
    lately_ms: u64,
    ended: Option<Instant>,
}

impl Pace {
    fn lock(&self) -> MutexGuard<'_, Measured> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is to be written.
    pub(crate) fn begins(&self) {
        self.lock().since.get_or_insert_with(Instant::now);
    }

    /// A group commit is durable. `more` says whether something waits, and is asked in the lock: what begins
    /// at the same time must not be missed.
    pub(crate) fn ends(&self, more: impl FnOnce() -> bool) {
        let now = Instant::now();
        let mut measured = self.lock();
        let Some(since) = measured.since.take() else { return };
        let took_ms = now.saturating_duration_since(since).as_millis() as u64;
        measured.lately_ms = (3 * measured.lately_ms + took_ms) / 4;
        measured.ended = Some(now);
        measured.since = more().then_some(now);
    }

    /// How long it takes, in milliseconds: what waits now, or what it took lately.
    pub(crate) fn delay_ms(&self) -> u64 {
        let measured = self.lock();
        let waits = measured.since.map_or(0, |since| since.elapsed().as_millis() as u64);
        let counts = measured.ended.is_some_and(|ended| ended.elapsed() < COUNTS);
        waits.max(if counts { measured.lately_ms } else { 0 })
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_waits_and_what_took_long_counts() {
        let pace = Pace::default();
        assert_eq!(pace.delay_ms(), 0);
        pace.begins();
        advance(Duration::from_millis(700)).await;
        pace.begins();
        assert_eq!(pace.delay_ms(), 700, "the oldest counts");
        advance(Duration::from_millis(100)).await;
        pace.ends(|| false);
        assert_eq!(pace.delay_ms(), 200, "a quarter of 800 ms");
        for _ in 0..20 {
            pace.begins();
            advance(Duration::from_millis(2)).await;
            pace.ends(|| false);
        }
        assert!(pace.delay_ms() < 4, "{}", pace.delay_ms());
        // Slow again, and then nothing is written any more.
        pace.begins();
        advance(Duration::from_millis(8_000)).await;
        pace.ends(|| false);
        assert!(pace.delay_ms() >= 2_000);
        advance(COUNTS).await;
        assert_eq!(pace.delay_ms(), 0);
    }
}
