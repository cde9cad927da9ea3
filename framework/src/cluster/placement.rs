//! Which nodes keep which shard, and which of them should lead it. Pure.
//!
//! Rendezvous hashing with a bound: a shard goes to the nodes with the greatest hash of shard and
//! node, and no node gets more than its share. So shards are spread evenly, and when a node comes or
//! goes, most replicas stay where they are. The hash is pinned by a test: with another one, a new
//! release would move every replica.
//!
//! Zones are chosen first, then racks within each zone, then nodes within each rack, each time in the
//! same way (`spread.rs`). A node's share follows from its weight beside those in its
//! rack. Where nobody gives a zone, a rack or a weight, there is one zone with one rack and all nodes
//! in it are alike.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use duractor_journal::{NodeId, ShardId};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    properties::{Affinity, Properties},
    spread::{Part, divide},
};
use crate::config::Version;

/// Where a shard belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The nodes that keep it: as many as the replication factor, or all where there are fewer.
    pub voters: BTreeSet<NodeId>,
    /// Those of them that may lead it.
    pub candidates: BTreeSet<NodeId>,
    /// Which of those should lead it.
    pub preferred: NodeId,
}

/// A node, as far as it matters to what it keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// What it is.
    pub properties: Properties,
    /// Whether it may lead: it is not drained, and not about to stop.
    pub leads: bool,
}

impl Default for Site {
    fn default() -> Self {
        Self { properties: Properties::default(), leads: true }
    }
}

/// What is to be placed, and where it can be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// The nodes.
    pub sites: BTreeMap<NodeId, Site>,
    /// How many shards there are.
    pub shards: u16,
    /// On how many nodes each is kept.
    pub replication: u8,
    /// Shard after shard to node after node, whatever the nodes are: for tests.
    pub modulo: bool,
    /// Only nodes of the newest version among a shard's may lead it.
    pub newest_leads: bool,
    /// Where shards had better be.
    pub affinity: BTreeMap<ShardId, Affinity>,
    /// Who had better lead.
    pub leaders: BTreeMap<ShardId, NodeId>,
}

/// Where every shard belongs, by its number, on nodes that are all alike; empty where there are none.
#[must_use]
pub fn place(nodes: &BTreeSet<NodeId>, shards: u16, replication: u8) -> Vec<Place> {
    let sites = nodes.iter().map(|node| (*node, Site::default())).collect();
    Placement { sites, shards, replication, ..Placement::default() }.places()
}

impl Placement {
    /// Where every shard belongs, by its number; empty where there are no nodes.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        let copies = usize::from(self.replication.max(1)).min(self.sites.len());
        if copies == 0 {
            return Vec::new();
        }
        let voters = if self.modulo { self.in_turn(copies) } else { self.spread(copies) };
        let mut led: BTreeMap<NodeId, u64> = self.sites.keys().map(|node| (*node, 0)).collect();
        let mut places = Vec::with_capacity(voters.len());
        for (n, voters) in voters.into_iter().enumerate() {
            let shard = ShardId(n as u16);
            let candidates = self.candidates(shard, &voters);
            let choice = |node: &&NodeId| (self.burden(&led, **node), Reverse(hash(shard, **node)));
            let Some(preferred) = candidates.iter().min_by_key(choice).copied() else { continue };
            *led.entry(preferred).or_default() += 1;
            places.push(Place { voters, candidates, preferred });
        }
        self.even_out(&mut places, &mut led);
        // Last, so that a wish moves the leadership of its shard and no other.
        for (shard, node) in &self.leaders {
            if let Some(place) = places.get_mut(usize::from(shard.0))
                && place.candidates.contains(node)
            {
                place.preferred = *node;
            }
        }
        places
    }

    /// What a node would lead with one shard more, beside its weight.
    fn burden(&self, led: &BTreeMap<NodeId, u64>, node: NodeId) -> u128 {
        let count = u128::from(led.get(&node).copied().unwrap_or(0)) + 1;
        (count << 32) / u128::from(self.weight(node))
    }

    fn weight(&self, node: NodeId) -> u64 {
        self.sites.get(&node).map_or(1, |site| u64::from(site.properties.weight.max(1)))
    }

    /// Moves preferences from nodes that would lead more to nodes that would lead less, as long as that
    /// helps: the first choice cannot know what is left to choose from later.
    fn even_out(&self, places: &mut [Place], led: &mut BTreeMap<NodeId, u64>) {
        let mut moved = true;
        while moved {
            moved = false;
            for place in places.iter_mut() {
                let choice = |node: &&NodeId| (self.burden(led, **node), **node);
                let Some(least) = place.candidates.iter().min_by_key(choice).copied() else {
                    continue;
                };
                let mut without = led.clone();
                without.entry(place.preferred).and_modify(|led| *led -= 1);
                if self.burden(led, least) >= self.burden(&without, place.preferred) {
                    continue;
                }
                *led = without;
                *led.entry(least).or_default() += 1;
                place.preferred = least;
                moved = true;
            }
        }
    }

    /// Who of a shard's voters may lead it. Never nobody: where none may, all may.
    fn candidates(&self, shard: ShardId, voters: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let site = |node: &NodeId| self.sites.get(node);
        let mut fit = voters.clone();
        let mut narrow = |wanted: &dyn Fn(&NodeId) -> bool| {
            let some: BTreeSet<NodeId> = fit.iter().copied().filter(|node| wanted(node)).collect();
            if !some.is_empty() {
                fit = some;
            }
            fit.clone()
        };
        let able = narrow(&|node| site(node).is_some_and(|site| site.leads));
        if self.newest_leads {
            let version = |node: &NodeId| -> Option<Version> { site(node)?.properties.version() };
            let newest = able.iter().map(version).max().flatten();
            narrow(&|node| version(node) == newest);
        }
        match self.affinity.get(&shard) {
            Some(Affinity::Nodes(nodes)) => {
                let first = nodes.iter().find(|node| fit.contains(node)).copied();
                first.map_or(fit, |first| [first].into())
            }
            Some(affinity) => narrow(&|node| self.matches(affinity, *node)),
            None => fit,
        }
    }

    fn matches(&self, affinity: &Affinity, node: NodeId) -> bool {
        let Some(Site { properties, .. }) = self.sites.get(&node) else { return false };
        match affinity {
            Affinity::Nodes(nodes) => nodes.contains(&node),
            Affinity::Role(role) => properties.roles.contains(role),
            Affinity::Zone(zone) => properties.zone == *zone,
        }
    }

    fn in_turn(&self, copies: usize) -> Vec<BTreeSet<NodeId>> {
        let nodes: Vec<NodeId> = self.sites.keys().copied().collect();
        let of = |shard: usize| (0..copies).map(|n| nodes[(shard + n) % nodes.len()]).collect();
        (0..usize::from(self.shards)).map(of).collect()
    }

    /// First the shards that had better be somewhere, then the others around them.
    fn spread(&self, copies: usize) -> Vec<BTreeSet<NodeId>> {
        let mut voters: Vec<BTreeSet<NodeId>> = vec![BTreeSet::new(); usize::from(self.shards)];
        let mut given: BTreeMap<NodeId, usize> = BTreeMap::new();
        for (shard, affinity) in &self.affinity {
            let Some(voters) = voters.get_mut(usize::from(shard.0)) else { continue };
            *voters = self.bound(*shard, affinity, copies);
            for node in voters.iter() {
                *given.entry(*node).or_default() += 1;
            }
        }
        let free = (0..self.shards).map(ShardId).filter(|s| !self.affinity.contains_key(s));
        let wants: Vec<(ShardId, usize)> = free.map(|shard| (shard, copies)).collect();
        let nodes: Vec<NodeId> = self.sites.keys().copied().collect();
        self.divide(&wants, &nodes, &given, &mut voters, Level::Zones);
        voters
    }

    /// Divides what shards want among nodes: by zones, then by racks, then one by one.
    fn divide(
        &self,
        wants: &[(ShardId, usize)],
        nodes: &[NodeId],
        given: &BTreeMap<NodeId, usize>,
        voters: &mut [BTreeSet<NodeId>],
        level: Level,
    ) {
        let name =
            |node: &NodeId| self.sites.get(node).map(|site| level.of(&site.properties, *node));
        let mut groups: BTreeMap<Name<'_>, Vec<NodeId>> = BTreeMap::new();
        for node in nodes {
            if let Some(name) = name(node) {
                groups.entry(name).or_default().push(*node);
            }
        }
        let part = |nodes: &Vec<NodeId>| Part {
            weight: nodes.iter().map(|node| self.weight(*node)).sum(),
            size: nodes.len(),
            given: nodes.iter().filter_map(|node| given.get(node)).sum(),
        };
        let parts: Vec<Part> = groups.values().map(part).collect();
        let names: Vec<Name<'_>> = groups.keys().copied().collect();
        let counts = divide(wants, &parts, |shard, n| match names[n] {
            Name::Node(node) => hash(shard, node),
            Name::Group(name) => hash_of_name(shard, name),
        });
        for (n, (name, nodes)) in groups.iter().enumerate() {
            let counted = wants.iter().zip(&counts).map(|((shard, _), counts)| (*shard, counts[n]));
            let wants: Vec<_> = counted.filter(|(_, want)| *want > 0).collect();
            match (name, level.next()) {
                (Name::Node(node), _) => {
                    for (shard, _) in wants {
                        voters[usize::from(shard.0)].insert(*node);
                    }
                }
                (Name::Group(_), next) => self.divide(&wants, nodes, given, voters, next),
            }
        }
    }

    /// The nodes of a shard that had better be somewhere: those that fit first, spread over zones and
    /// racks, and others where they are not enough.
    fn bound(&self, shard: ShardId, affinity: &Affinity, copies: usize) -> BTreeSet<NodeId> {
        let mut chosen: BTreeSet<NodeId> = BTreeSet::new();
        let alike = |chosen: &BTreeSet<NodeId>, node: NodeId, with_rack: bool| {
            let Some(site) = self.sites.get(&node) else { return 0 };
            let place = |other: &&NodeId| {
                self.sites.get(other).is_some_and(|other| {
                    other.properties.zone == site.properties.zone
                        && (!with_rack || other.properties.rack == site.properties.rack)
                })
            };
            chosen.iter().filter(place).count()
        };
        while chosen.len() < copies {
            let left = self.sites.keys().copied().filter(|node| !chosen.contains(node));
            let next = left.min_by_key(|node| {
                let (zone, rack) = (alike(&chosen, *node, false), alike(&chosen, *node, true));
                (!self.matches(affinity, *node), zone, rack, Reverse(hash(shard, *node)), *node)
            });
            let Some(next) = next else { break };
            chosen.insert(next);
        }
        chosen
    }
}

/// What nodes are divided by.
#[derive(Debug, Clone, Copy)]
enum Level {
    Zones,
    Racks,
    Nodes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Name<'a> {
    Group(&'a str),
    Node(NodeId),
}

impl Level {
    fn of(self, properties: &Properties, node: NodeId) -> Name<'_> {
        match self {
            Level::Zones => Name::Group(&properties.zone),
            Level::Racks => Name::Group(&properties.rack),
            Level::Nodes => Name::Node(node),
        }
    }

    fn next(self) -> Self {
        match self {
            Level::Zones => Level::Racks,
            Level::Racks | Level::Nodes => Level::Nodes,
        }
    }
}

fn hash(shard: ShardId, node: NodeId) -> u64 {
    let mut bytes = [0; 6];
    bytes[..2].copy_from_slice(&shard.0.to_le_bytes());
    bytes[2..].copy_from_slice(&node.0.to_le_bytes());
    xxh3_64(&bytes)
}

fn hash_of_name(shard: ShardId, name: &str) -> u64 {
    let bytes: Vec<u8> = shard.0.to_le_bytes().into_iter().chain(name.bytes()).collect();
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
