//! A short run of journal groups on several simulated nodes, the same at every run; and planted bugs
//! are found. The binary `sim` runs as many seeds as one likes.

use duractor_testkit::{
    cluster::{self, Planted},
    consistency::Report,
};

/// Whether a run only did not come back in time, and nothing was wrong.
fn is_liveness(violation: &impl std::fmt::Display) -> bool {
    violation.to_string().starts_with("V:")
}

#[test]
fn the_invariants_hold() {
    let mut sum = Report::default();
    for seed in 0..100 {
        let report = cluster::run(seed, None, false);
        if let Some(violation) = &report.violation {
            panic!("{violation}\nsim --scenario journal --seed {seed} --seeds 1 --trace");
        }
        sum.add(&report);
    }
    println!("{sum:?}");
    assert!(sum.acked > 3_000 && sum.checked > 10_000, "{sum:?}");
    for kind in ["crash", "kill", "cut", "freeze", "disk_replaced", "frames_lost"] {
        assert!(sum.faults.contains_key(kind), "{kind} never struck: {sum:?}");
    }
}

#[test]
fn runs_of_a_seed_are_equal() {
    for seed in 0..12 {
        let (first, second) = (cluster::run(seed, None, false), cluster::run(seed, None, false));
        assert_eq!(first, second, "seed {seed}");
    }
    let (one, other) = (cluster::run(1, None, false), cluster::run(2, None, false));
    assert_ne!(one.trace, other.trace);
}

/// A run on another thread has the same trace: nothing of the thread's, or of earlier runs on it,
/// comes into it.
#[test]
fn threads_do_not_matter() {
    let traces = |seeds: [u64; 3]| {
        let run = move || seeds.map(|seed| (seed, cluster::run(seed, None, false).trace));
        let mut traces = std::thread::scope(|scope| scope.spawn(run).join().expect("no panic"));
        traces.sort_unstable();
        traces
    };
    assert_eq!(traces([5, 6, 7]), traces([7, 5, 6]));
}

/// How many seeds each bug is given: several times the median.
fn patience(bug: Planted) -> u64 {
    match bug {
        Planted::AckBeforeFsync | Planted::SkipEpochCheck | Planted::SkipSeqCheck => 40,
        _ => 600,
    }
}

#[test]
fn every_planted_bug_is_found() {
    for bug in Planted::ALL {
        // These two cost a group its service, and nothing else.
        let any = matches!(bug, Planted::WipedDisk | Planted::HalfCheckpoint);
        let found = (0..patience(bug)).find_map(|seed| {
            let violation = cluster::run(seed, Some(bug), false).violation;
            Some((seed, violation.filter(|found| any || !is_liveness(found))?))
        });
        println!("{}: {found:?}", bug.name());
        assert!(found.is_some(), "{bug:?} was not found");
    }
}
