//! Where shards belong: what must hold of every set of nodes, whatever they weigh and wherever they are.

use std::collections::{BTreeMap, BTreeSet};

use duractor::cluster::{
    Affinity,
    placement::{Place, Placement, Site, place},
    properties::Properties,
};
use duractor_journal::{NodeId, ShardId};
use proptest::prelude::*;

fn site(zone: u8, rack: u8, weight: u32) -> Site {
    let (zone, rack) = (format!("z{zone}"), format!("r{rack}"));
    Site { properties: Properties { zone, rack, weight, ..Properties::default() }, leads: true }
}

fn placement(sites: &[Site], shards: u16, replication: u8) -> Placement {
    let sites = sites.iter().cloned().enumerate();
    let sites = sites.map(|(n, site)| (NodeId(n as u32 + 1), site)).collect();
    Placement { sites, shards, replication, ..Placement::default() }
}

/// How a shard's replicas are spread over zones, or over the racks of a zone: the counts, sorted.
fn counts(nodes: impl Iterator<Item = String>) -> Vec<usize> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for name in nodes {
        *counts.entry(name).or_default() += 1;
    }
    let mut counts: Vec<usize> = counts.into_values().collect();
    counts.sort_unstable();
    counts
}

/// The best that can be: each gets one more in turn, as long as it has room.
fn best(sizes: &BTreeMap<String, usize>, mut want: usize) -> Vec<usize> {
    let mut given: BTreeMap<&String, usize> = BTreeMap::new();
    while want > 0 {
        let mut any = false;
        for (name, size) in sizes {
            let given = given.entry(name).or_default();
            if want > 0 && *given < *size {
                *given += 1;
                want -= 1;
                any = true;
            }
        }
        if !any {
            break;
        }
    }
    let mut counts: Vec<usize> = given.into_values().filter(|count| *count > 0).collect();
    counts.sort_unstable();
    counts
}

fn kept(places: &[Place]) -> BTreeMap<NodeId, usize> {
    let mut kept = BTreeMap::new();
    for node in places.iter().flat_map(|place| &place.voters) {
        *kept.entry(*node).or_insert(0) += 1;
    }
    kept
}

fn sites() -> impl Strategy<Value = Vec<Site>> {
    let one = (0..4_u8, 0..3_u8, prop_oneof![Just(100), Just(50), Just(200), 1..1_000_u32]);
    prop::collection::vec(one.prop_map(|(zone, rack, weight)| site(zone, rack, weight)), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn every_shard_has_its_replicas_spread_as_well_as_can_be(
        sites in sites(),
        shards in 1..65_u16,
        replication in 1..6_u8,
    ) {
        let placement = placement(&sites, shards, replication);
        let places = placement.places();
        prop_assert_eq!(places.len(), usize::from(shards));
        let all: BTreeMap<String, usize> = placement.sites.values().fold(BTreeMap::new(), |mut all, site| {
            *all.entry(site.properties.zone.clone()).or_default() += 1;
            all
        });
        let copies = usize::from(replication).min(sites.len());
        for place in &places {
            prop_assert_eq!(place.voters.len(), copies);
            prop_assert!(place.voters.contains(&place.preferred));
            let of = |node: &NodeId| placement.sites[node].properties.clone();
            let zones = counts(place.voters.iter().map(|node| of(node).zone));
            prop_assert_eq!(&zones, &best(&all, copies), "zones of {:?}", place);
            for zone in all.keys() {
                let here = |node: &&NodeId| of(node).zone == *zone;
                let racks = counts(place.voters.iter().filter(here).map(|node| of(node).rack));
                let mut sizes: BTreeMap<String, usize> = BTreeMap::new();
                for site in placement.sites.values().filter(|site| site.properties.zone == *zone) {
                    *sizes.entry(site.properties.rack.clone()).or_default() += 1;
                }
                let want = racks.iter().sum();
                prop_assert_eq!(&racks, &best(&sizes, want), "racks of {} in {:?}", zone, place);
            }
        }
    }

    #[test]
    fn nodes_get_their_share_by_weight_within_one(
        weights in prop::collection::vec(prop_oneof![Just(100), Just(200), 20..400_u32], 1..10),
        shards in 1..129_u16,
        replication in 1..5_u8,
    ) {
        let sites: Vec<Site> = weights.iter().map(|weight| site(0, 0, *weight)).collect();
        let places = placement(&sites, shards, replication).places();
        let kept = kept(&places);
        // A node keeps each shard at most once. What is over goes to the others by weight.
        let copies = usize::from(replication).min(sites.len());
        let mut total = (usize::from(shards) * copies) as f64;
        let mut free: BTreeSet<usize> = (0..sites.len()).collect();
        loop {
            let weight: f64 = free.iter().map(|n| f64::from(weights[*n])).sum();
            let full = |n: &usize| f64::from(weights[*n]) / weight * total > f64::from(shards) + 1e-9;
            let Some(n) = free.iter().copied().find(full) else {
                for n in &free {
                    let share = f64::from(weights[*n]) / weight * total;
                    let has = kept.get(&NodeId(*n as u32 + 1)).copied().unwrap_or(0) as f64;
                    prop_assert!((has - share).abs() <= 1.0 + 1e-6, "node {}: {has}, not {share}", n + 1);
                }
                break;
            };
            free.remove(&n);
            total -= f64::from(shards);
            prop_assert_eq!(kept[&NodeId(n as u32 + 1)], usize::from(shards));
        }
    }

    #[test]
    fn who_does_not_lead_is_not_asked_to(
        sites in sites(),
        out in prop::collection::btree_set(0..12_usize, 0..6),
        shards in 1..33_u16,
    ) {
        let mut placement = placement(&sites, shards, 3);
        let before = placement.places();
        for (n, site) in placement.sites.values_mut().enumerate() {
            site.leads = !out.contains(&n);
        }
        let after = placement.places();
        for (before, after) in before.iter().zip(&after) {
            prop_assert_eq!(&before.voters, &after.voters, "no replica moves for it");
            let leads = |node: &NodeId| placement.sites[node].leads;
            let any = after.voters.iter().any(leads);
            prop_assert!(!any || leads(&after.preferred));
        }
    }
}

#[test]
fn nodes_that_are_alike_are_placed_as_ever() {
    let nodes: BTreeSet<NodeId> = (1..=7).map(NodeId).collect();
    let plain = place(&nodes, 64, 3);
    // Whatever they weigh, and wherever they are, as long as it is the same.
    let sites: Vec<Site> = (1..=7).map(|_| site(2, 1, 300)).collect();
    assert_eq!(placement(&sites, 64, 3).places(), plain);
}

fn moved(before: &[Place], after: &[Place]) -> usize {
    before.iter().zip(after).map(|(b, a)| a.voters.difference(&b.voters).count()).sum()
}

#[test]
fn few_replicas_move_when_a_node_comes_or_goes() {
    for zones in [1, 3] {
        for count in [3, 6, 9] {
            let sites: Vec<Site> = (0..=count).map(|n| site((n % zones) as u8, 0, 100)).collect();
            let before = placement(&sites[..count], 64, 3).places();
            let after = placement(&sites, 64, 3).places();
            let share = 64 * 3 / (count + 1);
            for moved in [moved(&before, &after), moved(&after, &before)] {
                assert!(
                    moved <= 2 * share,
                    "{count} nodes in {zones} zones: {moved}, share {share}"
                );
            }
        }
    }
}

#[test]
fn a_shard_that_is_bound_is_where_it_had_better_be() {
    let mut sites: Vec<Site> = (0..6).map(|n| site(n % 3, 0, 100)).collect();
    for n in [1, 4] {
        sites[n].properties.roles.insert("fast".into());
    }
    let mut placement = placement(&sites, 12, 3);
    let nodes = |nodes: &[u32]| nodes.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
    let bound = [
        (ShardId(3), Affinity::Nodes(vec![NodeId(6), NodeId(1), NodeId(2)])),
        (ShardId(4), Affinity::Role("fast".into())),
        (ShardId(5), Affinity::Zone("z1".into())),
        (ShardId(6), Affinity::Nodes(vec![NodeId(99)])),
    ];
    placement.affinity = bound.into_iter().collect();
    let places = placement.places();
    assert_eq!((&places[3].voters, places[3].preferred), (&nodes(&[1, 2, 6]), NodeId(6)));
    assert!(places[4].voters.is_superset(&nodes(&[2, 5])), "{:?}", places[4]);
    assert!(nodes(&[2, 5]).contains(&places[4].preferred));
    assert!(places[5].voters.is_superset(&nodes(&[2, 5])), "nodes 2 and 5 are zone 1");
    assert_eq!(places[6].voters.len(), 3, "nobody fits, so others have it");
    // The others even out what the bound ones have.
    let kept = kept(&places);
    assert!(kept.values().all(|count| (5..=7).contains(count)), "{kept:?}");
    // A node that is drained does not lead, though it is named first.
    placement.sites.get_mut(&NodeId(6)).expect("there").leads = false;
    assert_eq!(placement.places()[3].preferred, NodeId(1));
}

#[test]
fn the_newest_version_leads_where_that_is_asked_for() {
    let mut sites: Vec<Site> = (0..5).map(|_| site(0, 0, 100)).collect();
    for (n, version) in ["1.9.0", "1.10.0", "1.9.0", "", "1.10.0-rc.1"].iter().enumerate() {
        sites[n].properties.version = (*version).into();
    }
    let mut placement = placement(&sites, 24, 3);
    placement.newest_leads = true;
    let rank = |node: &NodeId| [2, 4, 2, 1, 3][node.0 as usize - 1];
    for place in placement.places() {
        let best = place.voters.iter().map(rank).max().expect("there are voters");
        assert_eq!(rank(&place.preferred), best, "{place:?}");
    }
}

#[test]
fn in_turn_means_in_turn() {
    let sites: Vec<Site> = (0..4).map(|n| site(n, 0, 100)).collect();
    let mut placement = placement(&sites, 6, 3);
    placement.modulo = true;
    let voters: Vec<Vec<u32>> =
        placement.places().iter().map(|p| p.voters.iter().map(|node| node.0).collect()).collect();
    assert_eq!(voters, [[1, 2, 3], [2, 3, 4], [1, 3, 4], [1, 2, 4], [1, 2, 3], [2, 3, 4]]);
}
