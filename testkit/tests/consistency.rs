//! A short run of every consistency scenario, the same at every run; and every planted bug is found.
//! The binary `sim` runs as many seeds as one likes.

use duractor_testkit::consistency::{Planted, Report, Scenario};

fn sound(scenario: Scenario, seeds: std::ops::Range<u64>) {
    let mut sum = Report::default();
    for seed in seeds {
        let report = scenario.run(seed, None, false);
        if let Some(violation) = report.violation {
            let name = scenario.name();
            panic!("{violation}\nsim --scenario {name} --seed {seed} --seeds 1 --trace");
        }
        sum.add(&report);
    }
    println!("{scenario:?}: {sum:?}");
    assert!(sum.checked > 1_000 && sum.lives > 0, "{sum:?}");
}

#[test]
fn the_log_is_consistent() {
    sound(Scenario::Log, 0..150);
}

/// A process without power that never gets up, and writes that are given up because they waited for room at a
/// shutdown, were taken for faults of the log.
#[test]
fn what_a_full_or_dead_disk_does_is_no_violation() {
    for seed in [341, 493, 495] {
        let report = Scenario::Log.run(seed, None, false);
        assert_eq!(report.violation, None, "seed {seed}");
    }
}

#[test]
fn the_snapshots_are_consistent() {
    sound(Scenario::Snapshot, 0..100);
}

#[test]
fn rot_is_noticed() {
    sound(Scenario::Flips, 0..300);
}

#[test]
fn runs_of_a_seed_are_equal() {
    for scenario in Scenario::ALL {
        for seed in 0..15 {
            let (first, second) =
                (scenario.run(seed, None, false), scenario.run(seed, None, false));
            assert_eq!(first, second, "{scenario:?} {seed}");
        }
        let (one, other) = (scenario.run(1, None, false), scenario.run(2, None, false));
        assert_ne!(one.trace, other.trace, "{scenario:?}");
    }
}

/// How many seeds each bug is given.
fn patience(bug: Planted) -> u64 {
    match bug {
        Planted::LeftoverTail => 1_500,
        Planted::NoRewrite | Planted::UnboundFrames | Planted::CutAtDamage => 400,
        _ => 100,
    }
}

#[test]
fn every_planted_bug_is_found() {
    for bug in Planted::ALL {
        for scenario in bug.found_by() {
            let found = (0..patience(bug))
                .find_map(|seed| Some((seed, scenario.run(seed, Some(bug), false).violation?)));
            println!("{} by {}: {found:?}", bug.name(), scenario.name());
            assert!(found.is_some(), "{bug:?} was not found by {scenario:?}");
        }
    }
}
