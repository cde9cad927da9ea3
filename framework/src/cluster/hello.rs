//! Who is who: what peers say to each other first, and whom this node lets in.

use duractor_journal::Member;

use super::{
    error::Refusal,
    shared::Shared,
    state::{ClusterState, Phase},
    wire::{ASKING, Message},
};

/// Tells a peer who this node is.
pub(super) fn say_hello(shared: &Shared, peer: Member) {
    if peer.incarnation != ASKING {
        let identity = shared.identity();
        let (cluster_id, cluster) = (identity.cluster_id, identity.cluster);
        let known = shared.gate.is_admitted(peer);
        shared.calls.tell(peer, &Message::Hello { cluster_id, cluster, known });
    }
}

/// Tells a peer that it is not let in.
pub(super) fn turn_away(shared: &Shared, peer: Member, refusal: Refusal) {
    shared.gate.expel(peer);
    let cluster_id = shared.identity().cluster_id;
    shared.calls.tell(peer, &Message::Refused { cluster_id, refusal });
}

/// Whether a peer belongs to this cluster.
pub(super) fn check_peer(
    shared: &Shared,
    peer: Member,
    cluster_id: u64,
    cluster: &str,
) -> Result<(), Refusal> {
    let mine = shared.identity();
    if cluster_id != mine.cluster_id || cluster != mine.cluster {
        return Err(Refusal::OtherCluster {
            reason: format!(
                "the data directory of node {} is of cluster {cluster:?} with id {cluster_id:016x}, \
                 and this is cluster {:?} with id {:016x}: give the node the directory that it had \
                 here, or an empty one, with which it joins as a replacement",
                peer.node, mine.cluster, mine.cluster_id
            ),
        });
    }
    check_standing(&shared.state(), peer)
}

/// Whether a peer is one that was removed or replaced, as far as this node knows.
pub(super) fn check_standing(state: &ClusterState, peer: Member) -> Result<(), Refusal> {
    if let Some(by) = state.newest(peer.node).filter(|newest| *newest > peer) {
        return Err(Refusal::Replaced { member: peer, by });
    }
    if state.phase_of(peer) == Some(Phase::Removed) {
        return Err(Refusal::Removed { member: peer });
    }
    Ok(())
}

/// A client's link is up.
pub(super) fn client_comes(shared: &Shared, client: Member, session: u64) {
    shared.guests.comes(client, session);
    shared.gate.admit(client, session);
    tell_clients(shared);
}

/// A client's link is down.
pub(super) fn client_goes(shared: &Shared, client: Member, session: u64) {
    if shared.guests.goes(client, session) {
        shared.gate.expel(client);
    }
}

/// Tells every client who the members are, where it does not know yet. A node that is out, or has no
/// state yet, says nothing.
pub(super) fn tell_clients(shared: &Shared) {
    let state = shared.state();
    if shared.out().is_some() || state.cluster_id.is_none() {
        return;
    }
    let untold = shared.guests.untold(state.revision);
    if untold.is_empty() {
        return;
    }
    let message = Message::Members {
        cluster_id: shared.identity().cluster_id,
        shards: shared.groups.shards(),
        revision: state.revision,
        members: state.present().into_iter().collect(),
    };
    for client in untold {
        // What does not get through now is said with the next tick.
        if shared.calls.tell(client, &message) {
            shared.guests.told(client, state.revision);
        }
    }
}
