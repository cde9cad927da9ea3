//! Everything of one run: its machines, what runs on them, and what is written down.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use duractor::{Env, NodeBuilder};
use duractor_journal::NodeId;
use tokio::{sync::Notify, time::Instant};

use super::{
    Planted,
    errands::Errands,
    history::{History, Moment},
    life,
    locks::Locks,
    plan::Plan,
    resource::Resource,
};
use crate::{
    bank::Book,
    consistency::{self, report::Trace},
    env::SimEnv,
    machines::{Boot, Machines, Process, Site},
    rng::Rng,
};

/// Everything of one run.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(super) planted: Option<Planted>,
    pub(crate) machines: Machines,
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
}

impl World {
    pub(crate) fn new(
        plan: Plan,
        planted: Option<Planted>,
        mut rng: Rng,
        print: bool,
    ) -> Arc<Self> {
        let machines = Machines::new(plan.nodes, plan.net.clone(), &mut rng);
        let notes = Notes {
            history: History::default(),
            trace: Trace::new(print),
            rng: rng.fork(),
            faults: BTreeMap::new(),
            counts: BTreeMap::new(),
            violation: None,
        };
        Arc::new(Self {
            plan,
            planted,
            machines,
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

    pub(super) fn place_of(&self, boot: Boot) -> Option<NodeId> {
        self.processes().iter().find(|process| process.boot == boot).map(|process| process.node)
    }
}

impl Site for World {
    fn machines(&self) -> &Machines {
        &self.machines
    }

    fn say(&self, mark: u64, text: impl FnOnce() -> String) {
        World::say(self, mark, text);
    }

    fn violated(&self, what: String) {
        World::violated(self, what);
    }

    fn not_up(&self) {
        self.count("starts_failed");
    }

    fn stopped(&self, boot: Boot) {
        self.resource.stopped(boot);
    }

    fn env(&self, sim: &SimEnv) -> Env {
        let mut env = sim.env();
        let late = self.planted == Some(Planted::AckBeforeFsync);
        let bug = late.then_some(consistency::Planted::AckBeforeFsync);
        env.disk = consistency::wrap(env.disk, bug);
        env
    }

    fn config(&self, id: NodeId) -> Vec<(&'static str, String)> {
        life::config(self, id)
    }

    fn host(self: &Arc<Self>, builder: NodeBuilder, process: &Process) -> NodeBuilder {
        life::host(self, builder, process.boot)
    }
}
