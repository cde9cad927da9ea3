//! A machine: a disk, and perhaps a process.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use duractor::{Node, cluster::Cluster};
use duractor_journal::NodeId;
use tokio::{sync::Notify, task::AbortHandle};

use super::{Boot, wires::Wires};
use crate::env::SimEnv;

/// A machine: a disk, and perhaps a process.
pub(crate) struct Place {
    pub(crate) id: NodeId,
    state: Mutex<PlaceState>,
    pub(super) frozen: AtomicBool,
    pub(super) changed: Notify,
}

pub(super) struct PlaceState {
    pub(super) sim: Arc<SimEnv>,
    pub(super) disks: u64,
    /// The process, from when it starts.
    pub(super) process: Option<Arc<Process>>,
    pub(super) life: Option<AbortHandle>,
}

/// A process, while it lives.
pub(crate) struct Process {
    pub(crate) node: NodeId,
    pub(crate) boot: Boot,
    pub(super) wires: Arc<Wires>,
    pub(super) dead: AtomicBool,
    pub(super) up: Mutex<Up>,
}

/// What of a process is up.
#[derive(Default, Clone)]
pub(crate) struct Up {
    pub(crate) cluster: Option<Cluster>,
    pub(crate) host: Option<Arc<Node>>,
}

impl Process {
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    pub(crate) fn up(&self) -> Up {
        self.lock().clone()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Up> {
        self.up.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    pub(super) fn new(id: NodeId, seed: u64) -> Self {
        let sim = Arc::new(SimEnv::new(seed));
        let state = PlaceState { sim, disks: 0, process: None, life: None };
        let (frozen, changed) = (AtomicBool::new(false), Notify::new());
        Self { id, state: Mutex::new(state), frozen, changed }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, PlaceState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sim(&self) -> Arc<SimEnv> {
        self.lock().sim.clone()
    }

    pub(crate) fn is_up(&self) -> bool {
        self.lock().process.is_some()
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Relaxed)
    }

    pub(super) async fn thawed(&self) {
        loop {
            let changed = self.changed.notified();
            if !self.is_frozen() {
                return;
            }
            changed.await;
        }
    }
}
