//! Whether a cluster is as it should be.

use std::collections::BTreeSet;

use duractor::cluster::{Cluster, Phase, status::MemberStatus};
use duractor_journal::{Member, Role, ShardId};

use super::Site;

/// Whether every node is up, everybody who should be a member is one, and every group has all its
/// replicas: only then can any disk be lost without anything that was acknowledged.
pub(crate) fn all_whole<S: Site>(site: &S, shards: u16) -> bool {
    let clusters = site.machines().nodes.keys().map(|id| site.process(*id)?.0.up().cluster);
    let Some(clusters) = clusters.collect::<Option<Vec<_>>>() else { return false };
    let joined = |cluster: &Cluster| {
        let status = cluster.status();
        let settled = |member: &MemberStatus| member.phase == Phase::Joined && member.up;
        let members = &status.members;
        status.ready && members.len() == clusters.len() && members.iter().all(settled)
    };
    let present: BTreeSet<Member> = clusters.iter().map(Cluster::me).collect();
    let copies = |cluster: &Cluster| clusters.len().min(cluster.status().replication.into());
    let led = |shard| {
        let leads = |cluster: &&Cluster| cluster.groups().group(shard).role == Role::Leader;
        clusters.iter().filter(leads).max_by_key(|cluster| cluster.groups().group(shard).term)
    };
    let whole = |shard| {
        led(shard).is_some_and(|leader| {
            let group = leader.groups().group(shard);
            let voters = &group.voters;
            !group.changing && voters.len() == copies(leader) && voters.is_subset(&present)
        })
    };
    clusters.iter().all(joined) && (0..shards).map(ShardId).all(whole)
}
