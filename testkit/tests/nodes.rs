//! A short run of clusters of whole simulated nodes, the same at every run; and planted bugs are found.
//! The binary `sim` runs as many seeds as one likes.

use duractor_testkit::{
    consistency::Report,
    nodes::{self, Planted},
};

#[test]
fn the_invariants_hold() {
    let mut sum = Report::default();
    for seed in 0..24 {
        let report = nodes::run(seed, None, false);
        if let Some(violation) = &report.violation {
            panic!("{violation}\nsim --scenario cluster --seed {seed} --seeds 1 --trace");
        }
        sum.add(&report);
    }
    println!("{sum:?}");
    let outside = sum.counts.get("asks_from_outside").copied().unwrap_or(0);
    assert!(outside > 100, "a client from outside asks: {sum:?}");
    assert!(sum.acked > 2_000 && sum.checked > 2_000, "{sum:?}");
    for kind in ["crash", "kill", "cut", "freeze", "transfer", "disk_replaced", "leave", "restart"]
    {
        assert!(sum.faults.contains_key(kind), "{kind} never struck: {sum:?}");
    }
}

#[test]
fn runs_of_a_seed_are_equal() {
    for seed in 100..104 {
        let (first, second) = (nodes::run(seed, None, false), nodes::run(seed, None, false));
        assert_eq!(first, second, "seed {seed}");
    }
}

#[test]
fn every_planted_bug_is_found() {
    for bug in Planted::ALL {
        // Seed 12 with this bug has an agenda recover again and again in no time: it never ends.
        let first = if bug == Planted::HandOverUnstopped { 13 } else { 0 };
        let found = (first..200).find_map(|seed| {
            let violation = nodes::run(seed, Some(bug), false).violation?;
            Some((seed, violation))
        });
        println!("{}: {found:?}", bug.name());
        assert!(found.is_some(), "{bug:?} was not found");
    }
}

/// Cause: a question to a lock waited in its queue for up to 60 s, and one that was sent while a link broke
/// and came up again was lost without a word to its caller. Consequence: a session that waited for a lock
/// waited on for a minute when it was free. Fix: it asks again every 5 s, which keeps its place.
#[test]
fn a_lost_question_to_a_lock_is_asked_again() {
    let report = nodes::run(711_236, None, false);
    assert_eq!(report.violation, None);
}
