//! Which nodes keep which shard, and which of them should lead it. Pure.
//!
//! Rendezvous hashing with a bound: a shard goes to the nodes with the greatest hash of shard and
//! node, and no node gets more than its share. So shards are spread evenly, and when a node comes or
//! goes, most replicas stay where they are. The hash is pinned by a test: with another one, a new
//! release would move every replica.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use duractor_journal::{NodeId, ShardId};
use xxhash_rust::xxh3::xxh3_64;

/// Where a shard belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The nodes that keep it: as many as the replication factor, or all where there are fewer.
    pub voters: BTreeSet<NodeId>,
    /// Which of them should lead it.
    pub preferred: NodeId,
}

/// Where every shard belongs, by its number; empty where there are no nodes.
#[must_use]
pub fn place(nodes: &BTreeSet<NodeId>, shards: u16, replication: u8) -> Vec<Place> {
    let copies = usize::from(replication.max(1)).min(nodes.len());
    if copies == 0 {
        return Vec::new();
    }
    let mut wanted = quotas(nodes, usize::from(shards) * copies);
    let mut led: BTreeMap<NodeId, usize> = nodes.iter().map(|node| (*node, 0)).collect();
    let mut places = Vec::with_capacity(usize::from(shards));
    for shard in 0..shards {
        let left = usize::from(shards - shard);
        let voters = choose(ShardId(shard), copies, left, &wanted);
        for node in &voters {
            wanted.entry(*node).and_modify(|wanted| *wanted -= 1);
        }
        let preferred = |node: &&NodeId| (led[*node], Reverse(hash(ShardId(shard), **node)));
        let Some(preferred) = voters.iter().min_by_key(preferred).copied() else { continue };
        *led.entry(preferred).or_default() += 1;
        places.push(Place { voters, preferred });
    }
    even_out(&mut places, &mut led);
    places
}

/// Moves preferences from nodes that would lead more to nodes that would lead less, as long as that
/// helps: the first choice cannot know what is left to choose from later.
fn even_out(places: &mut [Place], led: &mut BTreeMap<NodeId, usize>) {
    let mut moved = true;
    while moved {
        moved = false;
        for place in places.iter_mut() {
            let least = place.voters.iter().min_by_key(|node| (led[*node], **node)).copied();
            let Some(least) = least.filter(|least| led[least] + 1 < led[&place.preferred]) else {
                continue;
            };
            *led.entry(place.preferred).or_default() -= 1;
            *led.entry(least).or_default() += 1;
            place.preferred = least;
            moved = true;
        }
    }
}

/// How many replicas each node gets: all as many, some one more.
fn quotas(nodes: &BTreeSet<NodeId>, replicas: usize) -> BTreeMap<NodeId, usize> {
    let (least, more) = (replicas / nodes.len(), replicas % nodes.len());
    let mut ranked: Vec<_> = nodes.iter().copied().collect();
    ranked.sort_by_key(|node| (Reverse(hash(ShardId(u16::MAX), *node)), *node));
    let quota = |(n, node): (usize, NodeId)| (node, least + usize::from(n < more));
    ranked.into_iter().enumerate().map(quota).collect()
}

/// The nodes of one shard: first those that must be in every shard that is left to get their quota,
/// then those with the greatest hash that have not got theirs. There are always enough of them.
fn choose(
    shard: ShardId,
    copies: usize,
    left: usize,
    wanted: &BTreeMap<NodeId, usize>,
) -> BTreeSet<NodeId> {
    let mut ranked: Vec<_> = wanted.iter().filter(|(_, wanted)| **wanted > 0).collect();
    ranked.sort_by_key(|(node, wanted)| (**wanted < left, Reverse(hash(shard, **node)), **node));
    ranked.into_iter().take(copies).map(|(node, _)| *node).collect()
}

fn hash(shard: ShardId, node: NodeId) -> u64 {
    let mut bytes = [0; 6];
    bytes[..2].copy_from_slice(&shard.0.to_le_bytes());
    bytes[2..].copy_from_slice(&node.0.to_le_bytes());
    xxh3_64(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: u32) -> BTreeSet<NodeId> {
        (1..=count).map(NodeId).collect()
    }

    fn spread(counts: impl Iterator<Item = usize>) -> usize {
        let counts: Vec<_> = counts.collect();
        counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0)
    }

    #[test]
    fn replicas_and_leaders_are_spread() {
        for count in 1..=12 {
            for shards in [1, 2, 3, 12, 64, 256] {
                for replication in [1, 2, 3, 5] {
                    let nodes = nodes(count);
                    let places = place(&nodes, shards, replication);
                    assert_eq!(places.len(), usize::from(shards));
                    let copies = usize::from(replication).min(nodes.len());
                    assert!(places.iter().all(|p| p.voters.len() == copies));
                    assert!(places.iter().all(|p| p.voters.contains(&p.preferred)));
                    let kept = |node| places.iter().filter(|p| p.voters.contains(node)).count();
                    let led =
                        |node: &NodeId| places.iter().filter(|p| p.preferred == *node).count();
                    let what = format!("{count} nodes, {shards} shards, {replication} copies");
                    assert!(spread(nodes.iter().map(kept)) <= 1, "{what}: replicas");
                    assert!(spread(nodes.iter().map(led)) <= 2, "{what}: leaders");
                }
            }
        }
    }

    #[test]
    fn few_replicas_move_when_a_node_comes() {
        for count in 3..=9 {
            let (before, after) = (place(&nodes(count), 64, 3), place(&nodes(count + 1), 64, 3));
            let moved: usize = before
                .iter()
                .zip(&after)
                .map(|(b, a)| a.voters.difference(&b.voters).count())
                .sum();
            // The new node's share must move; twice that is what the bound costs.
            let share = 64 * 3 / (count as usize + 1);
            assert!(moved <= 2 * share, "{count} nodes: {moved} moved, the share is {share}");
        }
    }

    #[test]
    fn the_placement_is_golden() {
        let voters = |place: &Place| place.voters.iter().map(|node| node.0).collect::<Vec<_>>();
        let rows: Vec<_> =
            place(&nodes(5), 6, 3).iter().map(|p| (voters(p), p.preferred.0)).collect();
        assert_eq!(rows, GOLDEN.map(|(voters, preferred)| (voters.to_vec(), preferred)));
    }

    const GOLDEN: [([u32; 3], u32); 6] = [
        ([1, 3, 5], 3),
        ([2, 4, 5], 4),
        ([1, 3, 4], 1),
        ([1, 2, 5], 2),
        ([3, 4, 5], 5),
        ([2, 3, 4], 2),
    ];

    #[test]
    fn without_nodes_there_is_no_place() {
        assert!(place(&BTreeSet::new(), 12, 3).is_empty());
    }
}
