//! A run: its nodes, and what a test does to them.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use duractor::{EventSourced, Handle, Node, NodeBuilder, cluster::Cluster};
use duractor_journal::NodeId;
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    ask::SimEntity,
    builder::Setup,
    nemesis::{self, Nemesis, Struck},
    notes::Notes,
    subject::Subjects,
};
use crate::{
    cluster::network::{SimNetwork, Stop},
    disk::SimDisk,
    env::SimEnv,
    machines::{Boot, Machines, Process, Site},
    rng::Rng,
};

/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(10);

/// A cluster of simulated nodes, in the hands of a test. Cheap to clone.
///
/// Nodes have numbers from 1. All of them are up, and every shard has a leader, when a test begins. Time
/// is virtual: it passes only where something waits for it.
#[derive(Clone)]
pub struct World {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) setup: Setup,
    pub(super) seed: u64,
    /// Which faults of the nemesis strike; all unless set.
    pub(super) only: Option<Vec<usize>>,
    struck: Mutex<Vec<Struck>>,
    pub(super) notes: Notes,
    pub(super) subjects: Subjects,
    machines: Machines,
    tasks: Mutex<JoinSet<()>>,
    ending: AtomicBool,
    /// A violation was found.
    pub(super) over: Notify,
}

impl Inner {
    pub(super) fn new(setup: Setup, seed: u64, only: Option<Vec<usize>>, keeps: bool) -> Arc<Self> {
        let mut rng = Rng::new(seed);
        let machines = Machines::new(setup.nodes, setup.net.clone(), &mut rng);
        Arc::new(Self {
            machines,
            setup,
            seed,
            only,
            struck: Mutex::default(),
            notes: Notes::new(rng, keeps),
            subjects: Subjects::default(),
            tasks: Mutex::default(),
            ending: AtomicBool::new(false),
            over: Notify::new(),
        })
    }

    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    pub(super) fn struck(&self) -> MutexGuard<'_, Vec<Struck>> {
        self.struck.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many nodes cannot be asked.
    pub(super) fn down(&self) -> usize {
        let places = self.machines.nodes.values();
        places.filter(|place| place.is_frozen() || self.process(place.id).is_none()).count()
    }

    pub(super) fn cut_for(self: &Arc<Self>, lines: Vec<(NodeId, NodeId)>, time: Duration) {
        lines.iter().for_each(|(from, to)| self.machines.net.cut(*from, *to));
        let inner = self.clone();
        tokio::spawn(async move {
            sleep(time).await;
            lines.iter().for_each(|(from, to)| inner.machines.net.mend(*from, *to));
        });
    }

    pub(super) fn take_tasks(&self) -> JoinSet<()> {
        std::mem::take(&mut *self.tasks())
    }

    /// Any node that is up.
    pub(super) fn any(&self, rng: &mut Rng) -> Option<(Arc<Process>, Arc<Node>)> {
        let nodes: Vec<_> = self.machines.nodes.keys().copied().collect();
        rng.pick(&nodes).and_then(|id| self.process(*id))
    }
}

impl Site for Inner {
    fn machines(&self) -> &Machines {
        &self.machines
    }

    fn say(&self, mark: u64, text: impl FnOnce() -> String) {
        self.notes.say(mark, text);
    }

    fn violated(&self, what: String) {
        self.notes.violated(what);
        self.over.notify_one();
    }

    fn not_up(&self) {
        self.notes.count("starts_failed", 1);
    }

    fn stopped(&self, _: Boot) {}

    fn config(&self, id: NodeId) -> Vec<(&'static str, String)> {
        let mut values = vec![
            ("node.number", id.0.to_string()),
            ("node.data_dir", "/data".into()),
            ("cluster.name", "simulated".into()),
            ("cluster.shards", self.setup.shards.to_string()),
            ("net.listen", SimNetwork::address(id)),
            ("discovery.seeds", self.machines.addresses().join(",")),
            // Twice as long as by default: what an idle cluster does is most of what a run costs.
            ("timing.heartbeat_ms", "100".into()),
            ("timing.election_min_ms", "300".into()),
            ("timing.election_max_ms", "600".into()),
            // Small, so that full ones are compacted within a run too.
            ("log.segment_bytes", (64 << 10).to_string()),
            ("timing.settle_ms", "300".into()),
            ("timing.join_timeout_ms", "5000".into()),
            ("timing.operation_timeout_ms", "5000".into()),
        ];
        values.extend(self.setup.config.iter().cloned());
        values
    }

    fn host(self: &Arc<Self>, builder: NodeBuilder, _: &Process) -> NodeBuilder {
        (self.setup.app)(builder, &World { inner: self.clone() })
    }
}

impl World {
    // ----- what there is

    /// The seed of this run.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.inner.seed
    }

    /// How many nodes there are, up or not.
    #[must_use]
    pub fn nodes(&self) -> u32 {
        self.inner.setup.nodes
    }

    /// How much virtual time has passed.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.inner.notes.elapsed()
    }

    /// Random numbers that follow from the seed, others at each call. The only ones that a test may use.
    #[must_use]
    pub fn rng(&self) -> Rng {
        self.inner.notes.fork_rng()
    }

    /// A node's entities, singletons, locks and so on; `None` while it is not up. What is asked of it
    /// directly is not among what is checked in the end: see [`entity`](Self::entity).
    ///
    /// # Panics
    /// If there is no node with this number, as all that take one.
    #[must_use]
    pub fn node(&self, node: u32) -> Option<Arc<Node>> {
        Some(self.inner.process(self.id(node))?.1)
    }

    /// A node's place in the cluster; `None` while it is not up.
    #[must_use]
    pub fn cluster(&self, node: u32) -> Option<Cluster> {
        self.inner.process(self.id(node))?.0.up().cluster
    }

    /// Whether a node's entities can be asked.
    #[must_use]
    pub fn is_up(&self, node: u32) -> bool {
        self.node(node).is_some()
    }

    /// A node's disk, for faults that are not named here.
    #[must_use]
    pub fn disk(&self, node: u32) -> Arc<SimDisk> {
        self.sim(node).disk().clone()
    }

    /// Whether the test is at its end: loops of clients end then.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.inner.is_ending()
    }

    fn sim(&self, node: u32) -> Arc<SimEnv> {
        self.inner.place(self.id(node)).sim()
    }

    fn id(&self, node: u32) -> NodeId {
        assert!((1..=self.nodes()).contains(&node), "there is no node {node} of {}", self.nodes());
        NodeId(node)
    }

    // ----- what a test does

    /// An entity, to be asked as an application would: through any node, again and again with one
    /// request id until the outcome is known. What it is asked and answers is checked in the end.
    #[must_use]
    pub fn entity<E: EventSourced>(&self, key: impl Into<String>) -> SimEntity<E> {
        SimEntity::new(self, key.into())
    }

    /// Asks an entity: `world.entity::<E>(key).ask(command)`.
    ///
    /// # Errors
    /// As [`SimEntity::ask`].
    pub async fn ask<E: Handle<C>, C: duractor::Command>(
        &self,
        key: impl Into<String>,
        command: C,
    ) -> Result<C::Reply, duractor::AskError> {
        self.entity::<E>(key).ask(command).await
    }

    /// Has so many clients do something at once, each again and again until the test ends, with a drawn
    /// pause of up to 50 ms in between. They get their number, from 0.
    pub fn clients<F: Future<Output = ()> + Send + 'static>(
        &self,
        count: usize,
        client: impl Fn(World, usize) -> F + Send + Sync + 'static,
    ) {
        let client = Arc::new(client);
        for number in 0..count {
            let (world, client) = (self.clone(), client.clone());
            self.spawn(async move {
                let mut rng = world.rng();
                while !world.is_ending() {
                    client(world.clone(), number).await;
                    sleep(Duration::from_millis(rng.below(50))).await;
                }
            });
        }
    }

    /// Has something done beside the test. It must come to an end within a minute (of virtual time) after
    /// the test does.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.inner.tasks().spawn(task);
    }

    /// Lets time pass.
    pub async fn advance(&self, time: Duration) {
        sleep(time).await;
    }

    /// Waits until something is so. Where it is not within this time, that is a violation.
    pub async fn until(&self, what: &str, within: Duration, mut is: impl AsyncFnMut() -> bool) {
        let end = Instant::now() + within;
        while !is().await {
            if Instant::now() > end {
                return self.fail(format!("it is never so that {what}, not in {within:?}"));
            }
            sleep(LOOK).await;
        }
    }

    /// Ends the run: something is that must not be. A panic does the same.
    pub fn fail(&self, what: impl Into<String>) {
        self.inner.violated(what.into());
    }

    /// Adds a line to the trace.
    pub fn say(&self, line: impl Into<String>) {
        let line = line.into();
        let mark = line.bytes().fold(100, |sum, byte| crate::rng::mix(sum ^ u64::from(byte)));
        self.inner.say(mark, || line);
    }

    // ----- what goes wrong

    /// Has things go wrong at random from now until the test ends.
    pub fn nemesis(&self, nemesis: Nemesis) {
        let inner = self.inner.clone();
        self.spawn(nemesis::strike(inner, nemesis));
    }

    /// A node loses power: what was not synced may be gone.
    pub fn crash(&self, node: u32) {
        self.stop(node, Stop::Crashed, "crash");
    }

    /// A node's process is killed: what it wrote is there.
    pub fn kill(&self, node: u32) {
        self.stop(node, Stop::Killed, "kill");
    }

    fn stop(&self, node: u32, how: Stop, fault: &'static str) {
        self.inner.notes.fault(fault);
        self.inner.stop(self.id(node), how);
    }

    /// A node is shut down in good order.
    pub async fn shut_down(&self, node: u32) {
        self.inner.notes.fault("shut_down");
        self.inner.shut_down(self.id(node)).await;
    }

    /// Starts a node that is not up.
    pub fn restart(&self, node: u32) {
        self.inner.start(self.id(node), false);
    }

    /// Nothing gets from a side to the other any more, in either direction, until [`heal`](Self::heal).
    pub fn partition(&self, one: &[u32], other: &[u32]) {
        self.inner.notes.fault("partition");
        self.inner.say(53, || format!("{one:?} and {other:?} are cut off from each other"));
        for (a, b) in one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b))) {
            self.inner.machines.net.cut(self.id(a), self.id(b));
            self.inner.machines.net.cut(self.id(b), self.id(a));
        }
    }

    /// Nothing gets from a node to another any more, in this direction, until [`heal`](Self::heal).
    pub fn cut(&self, from: u32, to: u32) {
        self.inner.notes.fault("cut");
        self.inner.say(53, || format!("cut from node {from} to {to}"));
        self.inner.machines.net.cut(self.id(from), self.id(to));
    }

    /// Frames from a node to another take so long from now on.
    pub fn slow_link(&self, from: u32, to: u32, delay: Duration) {
        self.inner.notes.fault("slow_link");
        self.inner.say(57, || format!("from node {from} to {to} it takes {delay:?}"));
        self.inner.machines.net.slow(self.id(from), self.id(to), delay, 0);
    }

    /// Nothing reaches a node and nothing leaves it for a while, as where a machine stands still.
    pub fn freeze(&self, node: u32, time: Duration) {
        self.inner.notes.fault("freeze");
        self.inner.freeze(self.id(node), time.as_millis() as u64);
    }

    /// Sets how far a node's clock is ahead of the others, in milliseconds; below 0 it is behind.
    pub fn skew_clock(&self, node: u32, ms: i64) {
        self.inner.notes.fault("skew");
        self.inner.say(58, || format!("node {node}'s clock is {ms} ms ahead"));
        self.sim(node).set_skew_ms(ms);
    }

    /// A node's disk is full from now on, until [`heal`](Self::heal).
    pub fn fill_disk(&self, node: u32) {
        self.inner.notes.fault("disk_full");
        self.inner.say(59, || format!("node {node}'s disk is full"));
        let disk = self.disk(node);
        disk.set_capacity(Some(disk.used_bytes()));
    }

    /// A node's disk does not answer for a while.
    pub fn stall_disk(&self, node: u32, time: Duration) {
        self.inner.notes.fault("disk_slow");
        self.inner.say(60, || format!("node {node}'s disk stands still for {time:?}"));
        self.sim(node).stall(time);
    }

    /// A node loses power and its disk; it comes back with an empty one. Where others are without theirs as
    /// well, or not up to date, what was acknowledged may be gone: that is not the cluster's fault.
    pub fn replace_disk(&self, node: u32) {
        self.crash(node);
        self.inner.notes.fault("disk_replaced");
        self.inner.replace_disk(self.id(node));
        self.restart(node);
    }

    /// The network and the disks are well again, no clock is wrong, nobody is frozen. Nodes that are down
    /// stay down.
    pub fn heal(&self) {
        self.inner.mend();
    }

    /// How often each fault struck so far.
    #[must_use]
    pub fn faults(&self) -> BTreeMap<&'static str, u64> {
        self.inner.notes.write_up().faults
    }
}
