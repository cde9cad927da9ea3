//! How likely it is that a peer that is silent is there no more: phi-accrual failure detection, after
//! Hayashibara, Défago, Yared and Katayama, "The φ Accrual Failure Detector" (SRDS 2004). Pure.
//!
//! Signs of life come at intervals. Taken as normally distributed, those of the last seconds say how
//! likely an interval is that is longer than the present silence: with probability 10^-phi. So a peer
//! behind a steady line is given up sooner than one whose signs come irregularly.

use std::collections::VecDeque;

/// As many intervals count: 10 s at the default of 100 ms. Akka keeps 1000, of a second each.
const WINDOW: usize = 100;
/// With fewer nothing is said. 1 s.
const ENOUGH: usize = 10;

/// At this phi a peer is taken for gone: one in 10^8 silences is as long by chance, if intervals are
/// as assumed. Akka's default as well.
pub(crate) const THRESHOLD: f64 = 8.0;

/// The intervals between signs of life of one peer.
#[derive(Debug)]
pub(crate) struct Arrivals {
    window: VecDeque<u32>,
    sum: u64,
    squares: u64,
    /// The standard deviation is taken for no less, in milliseconds: a process may not be scheduled
    /// for some tens of them, which a quiet window knows nothing of.
    least_deviation_ms: f64,
    /// A longer interval counts as this: its cause was another.
    longest_ms: u32,
}

impl Arrivals {
    /// For signs of life every `heartbeat_ms`, where a silence of `silence_ms` is the end in any case.
    /// The least deviation is half of the heartbeat. So with the defaults (100, 500) a peer with steady
    /// signs is given up after 380 ms.
    pub(crate) fn new(heartbeat_ms: u64, silence_ms: u64) -> Self {
        Self {
            window: VecDeque::with_capacity(WINDOW),
            sum: 0,
            squares: 0,
            least_deviation_ms: heartbeat_ms as f64 / 2.0,
            longest_ms: u32::try_from(silence_ms).unwrap_or(u32::MAX),
        }
    }

    /// A sign of life came, so long after the one before.
    pub(crate) fn note(&mut self, interval_ms: u64) {
        let interval = u32::try_from(interval_ms).unwrap_or(u32::MAX).min(self.longest_ms);
        if self.window.len() == WINDOW
            && let Some(oldest) = self.window.pop_front().map(u64::from)
        {
            self.sum -= oldest;
            self.squares -= oldest * oldest;
        }
        self.window.push_back(interval);
        self.sum += u64::from(interval);
        self.squares += u64::from(interval) * u64::from(interval);
    }

    /// The phi of a silence of so long; `None` while too little is known.
    pub(crate) fn phi(&self, silent_ms: u64) -> Option<f64> {
        let count = self.window.len();
        if count < ENOUGH {
            return None;
        }
        let mean = self.sum as f64 / count as f64;
        let variance = (self.squares as f64 / count as f64 - mean * mean).max(0.0);
        let deviation = variance.sqrt().max(self.least_deviation_ms);
        Some(-log10_tail((silent_ms as f64 - mean) / deviation))
    }
}

/// The decimal logarithm of the probability that a standard normal variable is greater than `z`. By
/// the logistic approximation of Bowling et al. (2009), as Akka and Cassandra do; in logarithms, so
/// that it does not end where a double does.
fn log10_tail(z: f64) -> f64 {
    let power = z * (1.5976 + 0.070_566 * z * z);
    // log(1 / (1 + e^power)), without overflow.
    let natural = if power > 30.0 { -power } else { -power.exp().ln_1p() };
    natural / std::f64::consts::LN_10
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(intervals: impl IntoIterator<Item = u64>) -> Arrivals {
        let mut arrivals = Arrivals::new(100, 500);
        intervals.into_iter().for_each(|ms| arrivals.note(ms));
        arrivals
    }

    /// After how many milliseconds of silence a peer is given up, if at all before the bound.
    fn given_up(arrivals: &Arrivals) -> Option<u64> {
        (0..=500).find(|ms| arrivals.phi(*ms).is_some_and(|phi| phi >= THRESHOLD))
    }

    #[test]
    fn little_says_nothing() {
        assert_eq!(of([100; 9]).phi(10_000), None);
        assert!(of([100; 10]).phi(10_000).is_some());
    }

    #[test]
    fn phi_grows_with_the_silence() {
        let arrivals = of([100; 50]);
        let phi = |ms| arrivals.phi(ms).expect("enough is known");
        assert!(
            (phi(100) - 0.301).abs() < 0.001,
            "at the mean half of all are longer: {}",
            phi(100)
        );
        // The normal distribution's tail at 2 deviations is 0.0228.
        assert!((phi(200) - 1.64).abs() < 0.05, "{}", phi(200));
        let all: Vec<_> = (0..=2_000).step_by(10).map(phi).collect();
        assert!(all.windows(2).all(|pair| pair[0] < pair[1]), "it never falls: {all:?}");
        assert!(phi(100_000).is_finite());
    }

    #[test]
    fn a_steady_peer_is_given_up_sooner_than_an_irregular_one() {
        let steady = given_up(&of([100; 100]));
        assert!(steady.is_some_and(|ms| (350..=400).contains(&ms)), "{steady:?}");
        let loose = given_up(&of((0..100).map(|n| if n % 2 == 0 { 30 } else { 170 })));
        assert!(loose > steady, "{loose:?}");
        let wild = given_up(&of((0..100).map(|n| if n % 3 == 0 { 400 } else { 50 })));
        assert_eq!(wild, None, "the fixed bound is first");
    }

    #[test]
    fn what_is_long_past_is_forgotten() {
        let mut arrivals = of((0..100).map(|n| if n % 3 == 0 { 400 } else { 50 }));
        (0..100).for_each(|_| arrivals.note(100));
        assert_eq!(given_up(&arrivals), given_up(&of([100; 100])));
    }

    #[test]
    fn a_pause_of_this_process_does_not_spoil_the_picture() {
        let mut arrivals = of([100; 99]);
        arrivals.note(3_600_000);
        assert!(given_up(&arrivals).is_some_and(|ms| ms < 460), "{:?}", given_up(&arrivals));
    }
}
