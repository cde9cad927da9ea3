//! A peer's signs of life, as a link hears them.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

use tokio::time::Instant;

use super::{config::LinkConfig, phi::Arrivals};

/// What was heard of a peer, and when.
pub(crate) struct Pulse {
    heard: AtomicBool,
    /// For how long nothing was heard, in milliseconds, as counted here.
    silent_ms: AtomicU64,
    /// How signs of life came, and when the last one did.
    arrivals: Mutex<(Arrivals, Option<Instant>)>,
}

impl Pulse {
    pub(crate) fn new(config: &LinkConfig) -> Self {
        let arrivals = Arrivals::new(config.heartbeat_ms, config.silence_ms);
        Self {
            heard: AtomicBool::new(true),
            silent_ms: AtomicU64::new(0),
            arrivals: Mutex::new((arrivals, None)),
        }
    }

    fn arrivals(&self) -> MutexGuard<'_, (Arrivals, Option<Instant>)> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something came from the peer.
    pub(crate) fn heard(&self) {
        if !self.heard.load(SeqCst) {
            self.heard.store(true, SeqCst);
        }
    }

    /// A sign of life came.
    pub(crate) fn beats(&self) {
        let now = Instant::now();
        let mut arrivals = self.arrivals();
        if let Some(last) = arrivals.1.replace(now) {
            arrivals.0.note(now.saturating_duration_since(last).as_millis() as u64);
        }
    }

    /// Counts on for so long, unless the peer was heard of since the last call. For how long it was not.
    pub(crate) fn count_silence(&self, ms: u64) -> u64 {
        let silent_ms = match self.heard.swap(false, SeqCst) {
            true => 0,
            false => self.silent_ms.load(SeqCst) + ms,
        };
        self.silent_ms.store(silent_ms, SeqCst);
        silent_ms
    }

    /// How likely it is that the peer is gone.
    pub(crate) fn phi(&self) -> Option<f64> {
        self.arrivals().0.phi(self.silent_ms.load(SeqCst))
    }
}
