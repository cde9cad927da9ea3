//! How the cluster is balanced, as the leader of shard 0 sees it. Pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    checks::{DrainStatus, drain_status},
    forecast::{Forecast, WhatIf, forecast},
    sight::{Sight, sights},
    state::{ClusterState, Phase},
    view::View,
};
use crate::load::ShardLoad;

/// How many of the shards and entities that are asked most are named.
const TOP: usize = 10;
/// A shard of which less is asked is not hot, in commands per second.
const HOT_SHARD_PER_S: u64 = 200;
/// A shard of which so many times as much is asked as of all on average is hot.
const HOT_TIMES: u64 = 3;
/// An entity of which less is asked is not hot, in commands per second.
const HOT_ENTITY_PER_S: u64 = 100;

/// How the cluster is balanced, as the leader of shard 0 sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BalanceStatus {
    /// The revision of the cluster's state that it follows from.
    pub revision: u64,
    /// Why nothing is moved for balance now, where that is so.
    pub held_back: Option<String>,
    /// How many shards have their replicas and their leader where they belong.
    pub in_place: usize,
    /// Shards that are being moved.
    pub moving: Vec<u16>,
    /// Shards that are to be moved.
    pub waiting: Vec<u16>,
    /// Shards that nobody reports to lead.
    pub unknown: Vec<u16>,
    /// The nodes that are drained, and how far they are.
    pub drains: Vec<DrainStatus>,
    /// Members whose replicas others have got because they were not reached for too long, as `2.1`.
    pub absent: Vec<String>,
    /// Who reaches whom, whose log is slow, and who leads nothing because of that.
    #[serde(default)]
    pub sights: Vec<Sight>,
    /// Commands per second, of all shards.
    pub commands_per_s: u64,
    /// Shards of which much more is asked than of others, the hottest first.
    pub hot_shards: Vec<HotShard>,
    /// Entities of which much is asked, the hottest first. Estimated from samples.
    pub hot_entities: Vec<HotEntity>,
}

/// A shard of which much more is asked than of others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HotShard {
    /// Which.
    pub shard: u16,
    /// Commands per second.
    pub commands_per_s: u64,
}

/// An entity of which much is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HotEntity {
    /// Its shard.
    pub shard: u16,
    /// Its kind and key, as `order/17`.
    pub entity: String,
    /// Commands per second, about.
    pub commands_per_s: u64,
}

/// Looks at everything.
pub(super) fn overview(state: &ClusterState, view: &View) -> BalanceStatus {
    // Without a supposition it cannot fail.
    let Forecast { moves, unknown, held_back, .. } =
        forecast(state, view, WhatIf::Nothing).unwrap_or_default();
    let moving: BTreeSet<u16> = view.busy.iter().map(|shard| shard.0).collect();
    let changing = view.groups.values().filter(|group| group.changing);
    let moving: BTreeSet<u16> =
        moving.into_iter().chain(changing.map(|group| group.shard.0)).collect();
    let waiting: BTreeSet<u16> = moves.iter().map(|one| one.shard).collect();
    let waiting: Vec<u16> = waiting.difference(&moving).copied().collect();
    let known = usize::from(state.shards).saturating_sub(unknown.len());
    let absent = state
        .members
        .iter()
        .filter(|(_, known)| known.absent_since_ms.is_some() && known.phase != Phase::Removed);
    let present = state.members.iter().filter(|(_, known)| known.phase != Phase::Removed);
    let loads: Vec<&ShardLoad> = view.loads.values().collect();
    BalanceStatus {
        revision: state.revision,
        held_back,
        in_place: known.saturating_sub(moving.len() + waiting.len()),
        moving: moving.into_iter().collect(),
        waiting,
        unknown,
        drains: present.filter_map(|(member, _)| drain_status(state, view, *member)).collect(),
        absent: absent.map(|(member, _)| member.to_string()).collect(),
        sights: sights(state, view),
        commands_per_s: loads.iter().map(|load| load.commands_per_s).sum(),
        hot_shards: hot_shards(&loads, u64::from(state.shards.max(1))),
        hot_entities: hot_entities(&loads),
    }
}

fn hot_shards(loads: &[&ShardLoad], shards: u64) -> Vec<HotShard> {
    let average = loads.iter().map(|load| load.commands_per_s).sum::<u64>() / shards;
    let least = HOT_SHARD_PER_S.max(HOT_TIMES * average);
    let hot = loads.iter().filter(|load| load.commands_per_s >= least);
    let mut hot: Vec<HotShard> = hot
        .map(|load| HotShard { shard: load.shard.0, commands_per_s: load.commands_per_s })
        .collect();
    hot.sort_by_key(|hot| (std::cmp::Reverse(hot.commands_per_s), hot.shard));
    hot.truncate(TOP);
    hot
}

fn hot_entities(loads: &[&ShardLoad]) -> Vec<HotEntity> {
    let of = |load: &&ShardLoad| {
        let shard = load.shard.0;
        let entity = move |(entity, commands_per_s): &(String, u64)| HotEntity {
            shard,
            entity: entity.clone(),
            commands_per_s: *commands_per_s,
        };
        load.entities.iter().map(entity).collect::<Vec<_>>()
    };
    let mut hot: Vec<HotEntity> = loads.iter().flat_map(of).collect();
    hot.retain(|hot| hot.commands_per_s >= HOT_ENTITY_PER_S);
    hot.sort_by(|a, b| {
        b.commands_per_s.cmp(&a.commands_per_s).then_with(|| a.entity.cmp(&b.entity))
    });
    hot.truncate(TOP);
    hot
}
