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

use duractor_journal::{Env, JournalError, Member, NodeId, Replication, ShardId};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::{
    Planted,
    history::{History, Moment},
    network::{SimNetwork, Stop},
    owner::Owners,
    plan::Plan,
    subject::{Open, Subject},
};
use crate::{
    consistency::{self, report::Trace},
    env::SimEnv,
    rng::Rng,
};

/// A call that is not answered after this time is given up: its outcome is unknown.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// Everything of one run.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) planted: Option<Planted>,
    pub(crate) net: Arc<SimNetwork>,
    open: Open,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    notes: Mutex<Notes>,
    /// Clients and troubles end.
    pub(crate) ending: AtomicBool,
    /// A violation was found, or everything is over.
    pub(crate) over: Notify,
    begun: tokio::time::Instant,
}

/// What is written down of a run.
pub(crate) struct Notes {
    pub(crate) history: History,
    pub(crate) trace: Trace,
    pub(crate) rng: Rng,
    pub(crate) faults: BTreeMap<&'static str, u64>,
    pub(crate) violation: Option<String>,
    /// Who led each shard when somebody last knew.
    pub(crate) leaders: Vec<NodeId>,
    /// All nodes lose power at the next acknowledgement.
    pub(crate) crash_at_ack: bool,
}

/// A node: a disk, and perhaps a process.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    state: Mutex<NodeState>,
    frozen: AtomicBool,
    changed: Notify,
}

struct NodeState {
    sim: Arc<SimEnv>,
    incarnation: u32,
    disks: u64,
    /// Grows with every start and every end of a process.
    boot: u64,
    process: Option<Arc<Process>>,
    opening: bool,
    /// Whether the disk was made to fail, or to rot.
    failing: bool,
    damaged: bool,
    /// The process refused the disk, or was refused by it.
    ruined: bool,
}

/// A process, while it lives.
pub(crate) struct Process {
    pub(crate) node: NodeId,
    pub(crate) member: Member,
    pub(crate) subject: Arc<dyn Subject>,
    pub(crate) owners: Owners,
    dead: AtomicBool,
}

impl Process {
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }
}

impl World {
    pub(crate) fn new(
        plan: Plan,
        planted: Option<Planted>,
        open: Open,
        (mut rng, print): (Rng, bool),
        history: History,
    ) -> Arc<Self> {
        let net = SimNetwork::new(rng.next_u64(), plan.net.clone());
        let shards = usize::from(plan.log.shards);
        let node = |n| {
            let sim = Arc::new(SimEnv::with_faults(rng.next_u64(), plan.disk.clone()));
            (NodeId(n), Node::new(NodeId(n), sim))
        };
        let nodes = (1..=plan.nodes).map(node).collect();
        let notes = Notes {
            history,
            trace: Trace::new(print),
            rng: rng.fork(),
            faults: BTreeMap::new(),
            violation: None,
            leaders: vec![NodeId(1); shards],
            crash_at_ack: false,
        };
        Arc::new(Self {
            plan,
            planted,
            net,
            open,
            nodes,
            notes: Mutex::new(notes),
            ending: AtomicBool::new(false),
            over: Notify::new(),
            begun: tokio::time::Instant::now(),
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

    /// Ends the run with a violation; the first one counts.
    pub(crate) fn violated(&self, what: impl Into<String>) {
        let what = what.into();
        self.say(1, || format!("VIOLATION {what}"));
        self.notes().violation.get_or_insert(what);
        self.over.notify_one();
    }

    pub(crate) fn check(&self, found: Result<(), String>) {
        if let Err(what) = found {
            self.violated(what);
        }
    }

    // ----- processes

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[&id]
    }

    pub(crate) fn process(&self, id: NodeId) -> Option<Arc<Process>> {
        self.nodes.get(&id)?.lock().process.clone()
    }

    pub(crate) fn processes(&self) -> Vec<Arc<Process>> {
        self.nodes.values().filter_map(|node| node.lock().process.clone()).collect()
    }

    pub(crate) fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.plan.log.shards).map(ShardId)
    }

    /// Starts a node's process, unless it runs.
    pub(crate) async fn start(self: &Arc<Self>, id: NodeId) {
        let node = self.node(id);
        let (boot, sim, member) = {
            let mut state = node.lock();
            if state.process.is_some() || state.opening || state.ruined {
                return;
            }
            state.opening = true;
            state.boot += 1;
            (state.boot, state.sim.clone(), Member { node: id, incarnation: state.incarnation })
        };
        self.say(2, || format!("node {id} starts as {member}"));
        sim.disk().restart();
        let transport = self.net.start(member);
        for other in self.nodes.keys() {
            transport.reach(&SimNetwork::address(*other));
        }
        let mut replication = Replication::new(transport);
        replication.timing = self.plan.timing;
        let opening = (self.open)(self.plan.log.clone(), self.env(&sim), replication);
        let opened = timeout(Duration::from_secs(30), opening).await;
        {
            let mut state = node.lock();
            if state.boot != boot {
                return;
            }
            state.opening = false;
            if let Ok(Ok(subject)) = opened {
                let owners = Owners::new(self.plan.log.shards);
                let dead = AtomicBool::new(false);
                let process = Arc::new(Process { node: id, member, subject, owners, dead });
                state.process = Some(process.clone());
                drop(state);
                super::owner::start(self, &process);
                return;
            }
        }
        match opened {
            Ok(Err(error)) => self.not_opened(id, &error),
            _ => self.violated(format!("S: node {id} never opened its log")),
        }
    }

    fn env(&self, sim: &SimEnv) -> Env {
        let mut env = sim.env();
        let late = self.planted == Some(Planted::AckBeforeFsync);
        let bug = late.then_some(consistency::Planted::AckBeforeFsync);
        env.disk = consistency::wrap(env.disk, bug);
        env
    }

    fn not_opened(self: &Arc<Self>, id: NodeId, error: &JournalError) {
        self.say(3, || format!("node {id} does not open: {error}"));
        let (failing, damaged) = {
            let state = self.node(id).lock();
            (state.failing, state.damaged)
        };
        match error {
            JournalError::Corrupt(_) if damaged => self.ruin(id),
            JournalError::Io { .. } | JournalError::Read { .. } | JournalError::Failed { .. }
                if failing =>
            {
                self.stop(id, Stop::Killed);
                self.restart_after(id, 20);
            }
            _ => self.violated(format!("S: node {id} does not open: {error}")),
        }
    }

    /// The node's process refuses its disk: it stays down until it has another.
    fn ruin(&self, id: NodeId) {
        self.stop(id, Stop::Killed);
        self.node(id).lock().ruined = true;
    }

    /// Ends a node's process, if there is one. Safe to be called from anywhere.
    pub(crate) fn stop(&self, id: NodeId, how: Stop) {
        let node = self.node(id);
        let (process, sim) = {
            let mut state = node.lock();
            state.boot += 1;
            state.opening = false;
            (state.process.take(), state.sim.clone())
        };
        if let Some(process) = &process {
            process.dead.store(true, Ordering::Relaxed);
        }
        match how {
            Stop::Killed => sim.kill(),
            Stop::Crashed => sim.crash(),
        }
        self.net.stop(id, how);
        node.frozen.store(false, Ordering::Relaxed);
        node.changed.notify_waiters();
        self.say(4, || format!("node {id}: {how:?}"));
        // Whoever stops it may be within a call of the journal: it is dropped from elsewhere.
        if process.is_some() {
            tokio::spawn(async move { drop(process) });
        }
    }

    pub(crate) fn restart_after(self: &Arc<Self>, id: NodeId, ms: u64) {
        let world = self.clone();
        tokio::spawn(async move {
            sleep(Duration::from_millis(ms)).await;
            world.start(id).await;
        });
    }

    pub(crate) fn freeze(self: &Arc<Self>, id: NodeId, ms: u64) {
        let node = self.node(id);
        if node.lock().process.is_none() || node.frozen.swap(true, Ordering::Relaxed) {
            return;
        }
        self.say(5, || format!("node {id} freezes for {ms} ms"));
        self.net.freeze(id);
        let world = self.clone();
        tokio::spawn(async move {
            sleep(Duration::from_millis(ms)).await;
            world.thaw(id);
        });
    }

    pub(crate) fn thaw(&self, id: NodeId) {
        let node = self.node(id);
        if node.frozen.swap(false, Ordering::Relaxed) {
            self.say(6, || format!("node {id} goes on"));
            self.net.thaw(id);
            node.changed.notify_waiters();
        }
    }

    /// Takes a node's disk away and gives it an empty one. Its process must have ended.
    pub(crate) fn replace_disk(&self, id: NodeId) {
        let mut state = self.node(id).lock();
        state.disks += 1;
        let seed = state.sim.seed().wrapping_add(state.disks);
        state.sim = Arc::new(SimEnv::with_faults(seed, self.plan.disk.clone()));
        if self.planted != Some(Planted::WipedDisk) {
            state.incarnation += 1;
        }
        (state.failing, state.damaged, state.ruined) = (false, false, false);
    }

    // ----- calls

    /// Makes a call at a process. `None` where the process ended before it answered, or did not
    /// answer for [`PATIENCE`].
    pub(crate) async fn call<T>(
        &self,
        process: &Process,
        call: impl Future<Output = T>,
    ) -> Option<T> {
        let node = self.node(process.node);
        node.thawed().await;
        let mut call = std::pin::pin!(timeout(PATIENCE, call));
        let answer = loop {
            let changed = node.changed.notified();
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
        node.thawed().await;
        (!process.is_dead()).then_some(answer)
    }

    /// Looks at an error that a living process gave: whether it may be, and what follows.
    pub(crate) fn failed(self: &Arc<Self>, process: &Process, error: &JournalError) {
        use JournalError as E;
        if process.is_dead() {
            return;
        }
        let id = process.node;
        let (failing, damaged) = {
            let state = self.node(id).lock();
            (state.failing, state.damaged)
        };
        match error {
            E::NotLeader { .. }
            | E::Unavailable { .. }
            | E::OutcomeUnknown { .. }
            | E::StaleEpoch { .. }
            | E::WrongExpectedSeq { .. }
            | E::Membership { .. }
            | E::Busy { .. } => {}
            E::Corrupt(_) if damaged => {
                self.say(7, || format!("node {id} is ruined: {error}"));
                self.ruin(id);
            }
            E::Failed { .. } | E::FailedUnderWay { .. } | E::Io { .. } | E::Read { .. }
                if failing || damaged =>
            {
                self.say(8, || format!("node {id} has failed: {error}"));
                self.stop(id, Stop::Killed);
                self.restart_after(id, 20);
            }
            _ => self.violated(format!("S: node {id} answered: {error}")),
        }
    }
}

impl Node {
    fn new(id: NodeId, sim: Arc<SimEnv>) -> Self {
        let state = NodeState {
            sim,
            incarnation: 1,
            disks: 0,
            boot: 0,
            process: None,
            opening: false,
            failing: false,
            damaged: false,
            ruined: false,
        };
        let (frozen, changed) = (AtomicBool::new(false), Notify::new());
        Self { id, state: Mutex::new(state), frozen, changed }
    }

    fn lock(&self) -> MutexGuard<'_, NodeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sim(&self) -> Arc<SimEnv> {
        self.lock().sim.clone()
    }

    pub(crate) fn member(&self) -> Member {
        Member { node: self.id, incarnation: self.lock().incarnation }
    }

    pub(crate) fn is_ruined(&self) -> bool {
        self.lock().ruined
    }

    pub(crate) fn is_up(&self) -> bool {
        self.lock().process.is_some()
    }

    /// From here on failures of its disk are expected.
    pub(crate) fn disk_fails(&self) {
        self.lock().failing = true;
    }

    /// From here on its disk may not verify.
    pub(crate) fn disk_rots(&self) {
        self.lock().damaged = true;
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
