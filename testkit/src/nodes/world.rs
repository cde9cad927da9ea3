//! The nodes of a run, and what is done to them: start, crash, freeze, another disk.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use duractor::{Env, Node, cluster::Cluster};
use duractor_journal::NodeId;
use tokio::{
    sync::Notify,
    task::AbortHandle,
    time::{Instant, sleep, timeout},
};

use super::{
    Planted,
    errands::Errands,
    history::{History, Moment},
    locks::Locks,
    plan::Plan,
    resource::{Boot, Resource},
    wires::Wires,
};
use crate::{
    bank::Book,
    cluster::network::{SimNetwork, Stop},
    consistency::{self, report::Trace},
    env::SimEnv,
    rng::Rng,
};

/// Longer than any run: whoever waits has a bound of its own.
const LONGEST: Duration = Duration::from_secs(3_600);

/// Everything of one run.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(super) planted: Option<Planted>,
    pub(crate) net: Arc<SimNetwork>,
    pub(crate) nodes: BTreeMap<NodeId, Place>,
    pub(crate) resource: Arc<Resource>,
    pub(crate) locks: Locks,
    pub(crate) book: Book,
    pub(crate) errands: Errands,
    notes: Mutex<Notes>,
    /// Clients and troubles end.
    ending: AtomicBool,
    /// A violation was found.
    pub(crate) over: Notify,
    begun: Instant,
}

/// What is written down of a run.
pub(crate) struct Notes {
    pub(crate) history: History,
    pub(crate) trace: Trace,
    rng: Rng,
    pub(crate) faults: BTreeMap<&'static str, u64>,
    pub(crate) counts: BTreeMap<&'static str, u64>,
    pub(crate) violation: Option<String>,
    boots: Boot,
}

/// A machine: a disk, and perhaps a process.
pub(crate) struct Place {
    pub(crate) id: NodeId,
    state: Mutex<PlaceState>,
    frozen: AtomicBool,
    changed: Notify,
}

struct PlaceState {
    sim: Arc<SimEnv>,
    disks: u64,
    /// The process, from when it starts.
    process: Option<Arc<Process>>,
    life: Option<AbortHandle>,
}

/// A process, while it lives.
pub(crate) struct Process {
    pub(crate) node: NodeId,
    pub(crate) boot: Boot,
    pub(super) wires: Arc<Wires>,
    dead: AtomicBool,
    up: Mutex<Up>,
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

impl World {
    pub(crate) fn new(
        plan: Plan,
        planted: Option<Planted>,
        mut rng: Rng,
        print: bool,
    ) -> Arc<Self> {
        let net = SimNetwork::new(rng.next_u64(), plan.net.clone());
        let place = |n| (NodeId(n), Place::new(NodeId(n), rng.next_u64()));
        let nodes = (1..=plan.nodes).map(place).collect();
        let notes = Notes {
            history: History::default(),
            trace: Trace::new(print),
            rng: rng.fork(),
            faults: BTreeMap::new(),
            counts: BTreeMap::new(),
            violation: None,
            boots: 0,
        };
        Arc::new(Self {
            plan,
            planted,
            net,
            nodes,
            resource: Arc::default(),
            locks: Locks::default(),
            book: Book::default(),
            errands: Errands::default(),
            notes: Mutex::new(notes),
            ending: AtomicBool::new(false),
            over: Notify::new(),
            begun: Instant::now(),
        })
    }

    // ----- notes

    pub(crate) fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tick(&self) -> Moment {
        self.notes().history.tick()
    }

    pub(crate) fn fork_rng(&self) -> Rng {
        self.notes().rng.fork()
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    pub(crate) fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    /// Notes what is done: as part of the hash always, as text when asked for.
    pub(crate) fn say(&self, mark: u64, text: impl FnOnce() -> String) {
        let now = self.begun.elapsed();
        let mut notes = self.notes();
        notes.trace.mix(mark ^ (now.as_millis() as u64) << 32);
        notes.trace.line(|| format!("{:>8.3} s  {}", now.as_secs_f64(), text()));
    }

    pub(crate) fn fault(&self, kind: &'static str) {
        *self.notes().faults.entry(kind).or_default() += 1;
    }

    pub(crate) fn count(&self, what: &'static str) {
        *self.notes().counts.entry(what).or_default() += 1;
    }

    /// Ends the run with a violation; the first one counts.
    pub(crate) fn violated(&self, what: impl Into<String>) {
        let what = what.into();
        self.say(1, || format!("VIOLATION {what}"));
        for process in self.processes() {
            let Some(cluster) = process.up().cluster else { continue };
            let (node, peers) = (process.node, cluster.transport().peers());
            self.say(0, || format!("node {node} sees {peers:?}: {:?}", cluster.status()));
        }
        self.notes().violation.get_or_insert(what);
        self.over.notify_one();
    }

    // ----- processes

    pub(crate) fn place(&self, id: NodeId) -> &Place {
        &self.nodes[&id]
    }

    /// The process on a node whose entities can be asked.
    pub(crate) fn process(&self, id: NodeId) -> Option<(Arc<Process>, Arc<Node>)> {
        let process = self.place(id).lock().process.clone()?;
        let host = process.up().host?;
        Some((process, host))
    }

    /// All processes, whatever of them is up.
    pub(crate) fn processes(&self) -> Vec<Arc<Process>> {
        self.nodes.values().filter_map(|place| place.lock().process.clone()).collect()
    }

    /// Starts a process on a node where there is none: [`super::life::live`] is its life.
    pub(crate) fn start(self: &Arc<Self>, id: NodeId, form: bool) {
        let boot = {
            let mut notes = self.notes();
            notes.boots += 1;
            notes.boots
        };
        let mut state = self.place(id).lock();
        if state.process.is_some() {
            return;
        }
        let process = Arc::new(Process {
            node: id,
            boot,
            wires: Wires::new(&self.net, id),
            dead: AtomicBool::new(false),
            up: Mutex::default(),
        });
        state.process = Some(process.clone());
        state.sim.disk().restart();
        let (world, sim) = (self.clone(), state.sim.clone());
        let life =
            tokio::spawn(async move { super::life::live(&world, &process, &sim, form).await });
        state.life = Some(life.abort_handle());
        drop(state);
        self.say(2, || format!("node {id} starts as process {boot}"));
    }

    pub(super) fn place_of(&self, boot: Boot) -> Option<NodeId> {
        self.processes().iter().find(|process| process.boot == boot).map(|process| process.node)
    }

    pub(super) fn env(&self, sim: &SimEnv) -> Env {
        let mut env = sim.env();
        let late = self.planted == Some(Planted::AckBeforeFsync);
        let bug = late.then_some(consistency::Planted::AckBeforeFsync);
        env.disk = consistency::wrap(env.disk, bug);
        env
    }

    /// Ends a node's process, if there is one.
    pub(crate) fn stop(self: &Arc<Self>, id: NodeId, how: Stop) {
        let place = self.place(id);
        let (process, life, sim) = {
            let mut state = place.lock();
            (state.process.take(), state.life.take(), state.sim.clone())
        };
        match how {
            Stop::Killed => sim.kill(),
            Stop::Crashed => sim.crash(),
        }
        if let Some(process) = process {
            process.dead.store(true, Ordering::Relaxed);
            process.wires.stop(how);
            self.resource.stopped(process.boot);
            self.say(5, || format!("node {id}: process {} {how:?}", process.boot));
            tokio::spawn(bury(process, life));
        }
        place.frozen.store(false, Ordering::Relaxed);
        place.changed.notify_waiters();
    }

    /// Shuts a node's process down in good order.
    pub(crate) async fn shut_down(self: &Arc<Self>, id: NodeId) {
        let Some((process, host)) = self.process(id) else { return };
        self.say(6, || format!("node {id}: process {} shuts down", process.boot));
        // Nobody waits for a process that was killed meanwhile.
        if self.call(&process, LONGEST, host.shutdown()).await.is_none() {
            return;
        }
        let ledger = host.ledger();
        if ledger.open() != 0 && !process.is_dead() {
            self.violated(format!("the ledger of node {id} does not balance: {ledger:?}"));
        }
        if let Some(cluster) = process.up().cluster {
            self.call(&process, LONGEST, cluster.shutdown()).await;
        }
        if !process.is_dead() {
            self.stop(id, Stop::Killed);
        }
    }

    pub(crate) fn restart_after(self: &Arc<Self>, id: NodeId, ms: u64) {
        let world = self.clone();
        tokio::spawn(async move {
            sleep(Duration::from_millis(ms)).await;
            world.start(id, false);
        });
    }

    pub(crate) fn freeze(self: &Arc<Self>, id: NodeId, ms: u64) {
        let place = self.place(id);
        if place.lock().process.is_none() || place.frozen.swap(true, Ordering::Relaxed) {
            return;
        }
        self.say(7, || format!("node {id} freezes for {ms} ms"));
        self.net.freeze(id);
        let world = self.clone();
        tokio::spawn(async move {
            sleep(Duration::from_millis(ms)).await;
            world.thaw(id);
        });
    }

    pub(crate) fn thaw(&self, id: NodeId) {
        let place = self.place(id);
        if place.frozen.swap(false, Ordering::Relaxed) {
            self.say(8, || format!("node {id} goes on"));
            self.net.thaw(id);
            place.changed.notify_waiters();
        }
    }

    /// Takes a node's disk away and gives it an empty one. Its process must have ended.
    pub(crate) fn replace_disk(&self, id: NodeId) {
        let mut state = self.place(id).lock();
        state.disks += 1;
        let seed = state.sim.seed().wrapping_add(state.disks);
        state.sim = Arc::new(SimEnv::new(seed));
        drop(state);
        self.say(9, || format!("node {id} has an empty disk"));
    }

    /// Makes a call at a process. `None` where the process ended before it answered, or did not
    /// answer for `patience`.
    pub(crate) async fn call<T>(
        &self,
        process: &Process,
        patience: Duration,
        call: impl Future<Output = T>,
    ) -> Option<T> {
        let place = self.place(process.node);
        place.thawed().await;
        let mut call = std::pin::pin!(timeout(patience, call));
        let answer = loop {
            let changed = place.changed.notified();
            if process.is_dead() {
                return None;
            }
            tokio::select! {
                biased;
                () = changed => {}
                answer = &mut call => break answer.ok()?,
            }
        };
        // The answer of a frozen process reaches nobody until it goes on.
        place.thawed().await;
        (!process.is_dead()).then_some(answer)
    }
}

/// Ends what is left in memory of a process that has ended; it reaches neither disk nor network.
async fn bury(process: Arc<Process>, life: Option<AbortHandle>) {
    if let Some(life) = life {
        life.abort();
    }
    let up = std::mem::take(&mut *process.lock());
    if let Some(host) = up.host {
        host.kill().await;
    }
    if let Some(cluster) = up.cluster {
        cluster.shutdown().await;
    }
}

impl Place {
    fn new(id: NodeId, seed: u64) -> Self {
        let sim = Arc::new(SimEnv::new(seed));
        let state = PlaceState { sim, disks: 0, process: None, life: None };
        let (frozen, changed) = (AtomicBool::new(false), Notify::new());
        Self { id, state: Mutex::new(state), frozen, changed }
    }

    fn lock(&self) -> MutexGuard<'_, PlaceState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sim(&self) -> Arc<SimEnv> {
        self.lock().sim.clone()
    }

    pub(crate) fn is_up(&self) -> bool {
        self.lock().process.is_some()
    }

    async fn thawed(&self) {
        loop {
            let changed = self.changed.notified();
            if !self.frozen.load(Ordering::Relaxed) {
                return;
            }
            changed.await;
        }
    }
}
