//! The simulation itself: what is drawn, and that a seed is a run.

use super::*;
use crate::cluster::plan::Trouble;

#[test]
fn every_trouble_is_drawn_and_every_bug_gets_what_brings_it_out() {
    let mut drawn = std::collections::BTreeSet::new();
    for seed in 0..200 {
        drawn.extend(Plan::draw(&mut Rng::new(seed), None).troubles);
    }
    assert_eq!(drawn.into_iter().collect::<Vec<_>>(), Trouble::ALL);
    for bug in Planted::ALL {
        let plan = Plan::draw(&mut Rng::new(1), Some(bug));
        assert!(bug.needs().iter().all(|needed| plan.troubles.contains(needed)), "{bug:?}");
        assert_eq!(Planted::from_name(bug.name()), Some(bug));
    }
}

#[test]
fn every_shard_has_a_probe() {
    for seed in 0..50 {
        let mut rng = Rng::new(seed);
        let plan = Plan::draw(&mut rng, None);
        let ids = entities(&plan, &mut rng);
        let shards = plan.log.shards;
        let probes = &ids[ids.len() - usize::from(shards)..];
        let of: Vec<u16> = probes.iter().map(|id| id.shard(shards).0).collect();
        assert_eq!(of, (0..shards).collect::<Vec<_>>());
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
    }
}
