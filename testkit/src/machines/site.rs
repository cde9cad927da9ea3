//! What is done to machines: start, crash, freeze, another disk.

use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use duractor::{AskError, Env, Node, NodeBuilder};
use duractor_journal::NodeId;
use tokio::{
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::{Boot, Machines, Place, Process, life, wires::Wires};
use crate::{cluster::network::Stop, env::SimEnv};

/// Longer than any run: whoever waits has a bound of its own.
const LONGEST: Duration = Duration::from_secs(3_600);

/// How many turns the tasks of a run get to end.
const CLOSING_TURNS: usize = 2_000;

/// Where machines stand: who says what they run, and sees what happens to them.
pub(crate) trait Site: Send + Sync + Sized + 'static {
    fn machines(&self) -> &Machines;

    /// Notes what is done: the mark always, the text when asked for.
    fn say(&self, mark: u64, text: impl FnOnce() -> String);

    /// Notes that something is that must not be.
    fn violated(&self, what: String);

    /// Notes that a process did not come up, and will try again.
    fn not_up(&self);

    /// Notes that a process has ended.
    fn stopped(&self, boot: Boot);

    /// The seams of a process.
    fn env(&self, sim: &SimEnv) -> Env {
        sim.env()
    }

    /// A node's configuration.
    fn config(&self, id: NodeId) -> Vec<(&'static str, String)>;

    /// What an application does with a node.
    fn host(self: &Arc<Self>, builder: NodeBuilder, process: &Process) -> NodeBuilder;

    // ----- what is there

    fn place(&self, id: NodeId) -> &Place {
        &self.machines().nodes[&id]
    }

    /// The process on a node whose entities can be asked.
    fn process(&self, id: NodeId) -> Option<(Arc<Process>, Arc<Node>)> {
        let process = self.place(id).lock().process.clone()?;
        let host = process.up().host?;
        Some((process, host))
    }

    /// All processes, whatever of them is up.
    fn processes(&self) -> Vec<Arc<Process>> {
        let places = self.machines().nodes.values();
        places.filter_map(|place| place.lock().process.clone()).collect()
    }

    // ----- what is done

    /// Starts a process on a node where there is none: [`life::live`] is its life.
    fn start(self: &Arc<Self>, id: NodeId, form: bool) {
        let boot = self.machines().next_boot();
        let mut state = self.place(id).lock();
        if state.process.is_some() {
            return;
        }
        let process = Arc::new(Process {
            node: id,
            boot,
            wires: Wires::new(&self.machines().net, id),
            dead: AtomicBool::new(false),
            up: Mutex::default(),
        });
        state.process = Some(process.clone());
        state.sim.disk().restart();
        let (site, sim) = (self.clone(), state.sim.clone());
        let life = tokio::spawn(async move { life::live(&site, &process, &sim, form).await });
        state.life = Some(life.abort_handle());
        drop(state);
        self.say(2, || format!("node {id} starts as process {boot}"));
    }

    /// Ends a node's process, if there is one.
    fn stop(&self, id: NodeId, how: Stop) {
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
            self.stopped(process.boot);
            self.say(5, || format!("node {id}: process {} {how:?}", process.boot));
            tokio::spawn(bury(process, life));
        }
        place.frozen.store(false, Ordering::Relaxed);
        place.changed.notify_waiters();
    }

    /// Shuts a node's process down in good order.
    fn shut_down(&self, id: NodeId) -> impl Future<Output = ()> + Send {
        async move {
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
    }

    fn restart_after(self: &Arc<Self>, id: NodeId, ms: u64) {
        let site = self.clone();
        tokio::spawn(async move {
            sleep(Duration::from_millis(ms)).await;
            site.start(id, false);
        });
    }

    fn freeze(self: &Arc<Self>, id: NodeId, ms: u64) {
        let place = self.place(id);
        if place.lock().process.is_none() || place.frozen.swap(true, Ordering::Relaxed) {
            return;
        }
        self.say(7, || format!("node {id} freezes for {ms} ms"));
        self.machines().net.freeze(id);
        let site = self.clone();
        tokio::spawn(async move {
            sleep(Duration::from_millis(ms)).await;
            site.thaw(id);
        });
    }

    fn thaw(&self, id: NodeId) {
        let place = self.place(id);
        if place.frozen.swap(false, Ordering::Relaxed) {
            self.say(8, || format!("node {id} goes on"));
            self.machines().net.thaw(id);
            place.changed.notify_waiters();
        }
    }

    /// Takes a node's disk away and gives it an empty one. Its process must have ended.
    fn replace_disk(&self, id: NodeId) {
        let mut state = self.place(id).lock();
        state.disks += 1;
        state.sim.disk().scrap();
        let seed = state.sim.seed().wrapping_add(state.disks);
        state.sim = Arc::new(SimEnv::new(seed));
        drop(state);
        self.say(9, || format!("node {id} has an empty disk"));
    }

    /// The network and all machines are well again. Nodes that are down stay down.
    fn mend(&self) {
        self.say(70, || "everything heals".into());
        self.machines().net.heal();
        self.machines().nodes.values().for_each(|place| self.mend_one(place));
    }

    fn mend_one(&self, place: &Place) {
        place.sim().disk().heal();
        place.sim().disk().set_capacity(None);
        place.sim().set_skew_ms(0);
        self.thaw(place.id);
    }

    /// Everything is well again, and every node is up.
    fn heal(self: &Arc<Self>) {
        self.say(70, || "everything heals".into());
        self.machines().net.heal();
        for place in self.machines().nodes.values() {
            self.mend_one(place);
            self.start(place.id, false);
        }
    }

    /// The end of a run: ends every process, so that as little as possible of it is left in memory.
    fn close(&self) -> impl Future<Output = ()> + Send {
        async move {
            self.machines().nodes.keys().for_each(|id| self.stop(*id, Stop::Killed));
            // What is left of the processes ends, as far as that needs no time: a task that a planted bug has
            // spin would keep time from passing.
            for _ in 0..CLOSING_TURNS {
                tokio::task::yield_now().await;
            }
            self.machines().nodes.values().for_each(|place| place.sim().disk().scrap());
        }
    }

    /// Makes a call at a process. `None` where the process ended before it answered, or did not
    /// answer for `patience`.
    fn call<T: Send>(
        &self,
        process: &Process,
        patience: Duration,
        call: impl Future<Output = T> + Send,
    ) -> impl Future<Output = Option<T>> + Send {
        async move {
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

/// Whether an error may be while things go wrong, and something else is so in a moment.
pub(crate) fn passes(error: &AskError) -> bool {
    use AskError as E;
    matches!(
        error,
        E::Busy { .. }
            | E::NodeBusy { .. }
            | E::Timeout { .. }
            | E::Expired { .. }
            | E::Aborted { .. }
            | E::NotOwner { .. }
            | E::OutcomeUnknown { .. }
            | E::Unavailable { .. }
            | E::ShuttingDown
            | E::Remote { .. }
            | E::Lost { .. }
    )
}
