//! What the cluster's state asks of the placement. Pure.

use super::{
    placement::{Placement, Site},
    state::ClusterState,
    view::View,
};

/// What is to be placed, and where it can be.
#[must_use]
pub(super) fn placement(state: &ClusterState, view: &View) -> Placement {
    let site = |node| {
        let member = state.newest(node)?;
        let known = state.members.get(&member)?;
        let sick = view.sick.contains_key(&member);
        let leads = known.drain.is_none() && !view.is_stopping(member) && !sick;
        Some((node, Site { properties: known.properties.clone(), leads }))
    };
    Placement {
        sites: state.placed_nodes().into_iter().filter_map(site).collect(),
        shards: state.shards,
        replication: state.replication,
        modulo: state.settings.modulo,
        newest_leads: state.settings.newest_leads,
        affinity: state.settings.affinity.clone(),
        leaders: state.settings.leaders.iter().map(|(shard, wish)| (*shard, wish.node)).collect(),
    }
}
