//! Simulated machines, and the processes on them: each a whole node, with everything that an
//! application runs but for its seams. They start, form a cluster, crash, freeze and get other disks.
//!
//! | module | what it holds |
//! |---|---|
//! | `wires` | a node's links |
//! | `place` | a machine: a disk, and perhaps a process |
//! | `site` | what is done to machines |
//! | `life` | the life of a process |
//! | `whole` | whether a cluster is as it should be |

mod life;
mod place;
mod site;
mod whole;
mod wires;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use duractor_journal::NodeId;

pub(crate) use self::{
    place::{Place, Process},
    site::{Site, passes},
    whole::all_whole,
};
use crate::{
    cluster::network::{NetConfig, SimNetwork},
    rng::Rng,
};

/// Which start of a process this is, of all of a run.
pub(crate) type Boot = u64;

/// All machines of a run.
pub(crate) struct Machines {
    pub(crate) net: Arc<SimNetwork>,
    pub(crate) nodes: BTreeMap<NodeId, Place>,
    boots: AtomicU64,
}

impl Machines {
    /// So many machines with empty disks, numbered from 1.
    pub(crate) fn new(nodes: u32, net: NetConfig, rng: &mut Rng) -> Self {
        let net = SimNetwork::new(rng.next_u64(), net);
        let place = |n| (NodeId(n), Place::new(NodeId(n), rng.next_u64()));
        Self { net, nodes: (1..=nodes).map(place).collect(), boots: AtomicU64::new(0) }
    }

    /// Where all nodes listen.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.nodes.keys().map(|id| SimNetwork::address(*id)).collect()
    }

    fn next_boot(&self) -> Boot {
        self.boots.fetch_add(1, Ordering::Relaxed) + 1
    }
}
