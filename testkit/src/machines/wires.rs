//! The links of a simulated node: those of the simulated network.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use duractor::cluster::{ClusterError, connect::Connect};
use duractor_journal::{Member, NodeId, Transport};
use futures_util::future::BoxFuture;

use crate::cluster::network::{SimNetwork, Stop};

/// The links of one process.
pub(crate) struct Wires {
    net: Arc<SimNetwork>,
    node: NodeId,
    /// The process has ended: what is left of it must not take its successor's place.
    dead: AtomicBool,
}

impl Wires {
    pub(crate) fn new(net: &Arc<SimNetwork>, node: NodeId) -> Arc<Self> {
        Arc::new(Self { net: net.clone(), node, dead: AtomicBool::new(false) })
    }

    /// The process ends.
    pub(crate) fn stop(&self, how: Stop) {
        if !self.dead.swap(true, Ordering::Relaxed) {
            self.net.stop(self.node, how);
        }
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }
}

impl Connect for Wires {
    fn connect(&self, me: Member) -> BoxFuture<'_, Result<Arc<dyn Transport>, ClusterError>> {
        let connected =
            if self.is_dead() { Err(ClusterError::Closed) } else { Ok(self.net.start(me)) };
        Box::pin(std::future::ready(connected))
    }

    fn disconnect(&self) -> BoxFuture<'_, ()> {
        if !self.is_dead() {
            self.net.stop(self.node, Stop::Killed);
        }
        Box::pin(std::future::ready(()))
    }
}
