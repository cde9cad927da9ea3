//! A simulated network: the `Transport` port of every node, over tokio's clock.
//!
//! # What can happen to frames
//!
//! Two nodes have at most one *session* at a time. It begins with a handshake and ends when one side
//! closes it, dies, or has heard nothing of the other for half a second; both hear of it, each at its
//! own time. Within a session, frames of one class arrive in the order in which they were sent, after
//! the delay of their direction and a jitter; frames of different classes overtake each other. What
//! is under way when the session ends may be lost.
//!
//! | fault | what it does |
//! |---|---|
//! | delay, jitter, slow line | each direction has its own; a slow one takes time for each byte |
//! | cut, one way or both | what is sent waits, as TCP sends again; after the silence the session ends, and what waited is lost |
//! | broken session | ends at once; frames under way are lost or arrive before the end |
//! | [`Stop::Killed`] | the peers hear at once |
//! | [`Stop::Crashed`] | the peers hear nothing any more |
//! | freeze | nothing reaches the node and nothing leaves it; then everything at once |
//! | full window | [`SendError::Full`] |
//! | [`NetConfig::loss`], [`NetConfig::duplicate`] | single frames vanish or arrive twice, and a cut ends no session: *more* than a transport may do, to test what is above it |
//!
//! Everything that is drawn follows from the seed, and nothing iterates over unordered collections.

mod line;
mod state;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
use duractor_journal::{
    Member, NodeId, Transport,
    transport::{Channel, Class, Receiver, SendError},
};
use tokio::{
    sync::Notify,
    task::AbortHandle,
    time::{Instant, sleep_until},
};

use self::state::{Call, State};

/// The longest frame: what the port demands at least.
const MAX_FRAME_BYTES: usize = 64 << 20;

/// How a network is. Times are in microseconds of the paused clock, which is kept in steps of a
/// millisecond: finer times decide the order only.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// The delay of each direction is drawn between these.
    pub delay_us: (u64, u64),
    /// Up to so much is added to each frame's delay.
    pub jitter_us: u64,
    /// Unheard of for so long, a peer is down (and up to a fifth more, drawn).
    pub silence_us: u64,
    /// A lost session is taken up again after a millisecond and up to so much.
    pub backoff_us: u64,
    /// As many bytes may be under way in a direction, for bulk and for everything else each.
    pub window_bytes: usize,
    /// This part of the frames vanishes within its session. Above 0 the network keeps less than the
    /// port promises.
    pub loss: f64,
    /// This part of the frames arrives twice. Above 0 the network keeps less than the port promises.
    pub duplicate: f64,
}

impl Default for NetConfig {
    fn default() -> Self {
        Self {
            delay_us: (100, 1_000),
            jitter_us: 500,
            silence_us: 500_000,
            backoff_us: 30_000,
            window_bytes: 4 << 20,
            loss: 0.0,
            duplicate: 0.0,
        }
    }
}

impl NetConfig {
    /// Whether the network keeps less than the port promises.
    #[must_use]
    pub fn raw(&self) -> bool {
        self.loss > 0.0 || self.duplicate > 0.0
    }
}

/// How a process ends, as its peers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The process alone: the operating system closes its connections.
    Killed,
    /// The machine: nobody tells the peers.
    Crashed,
}

/// What happened on a network, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetCounts {
    /// Frames that were sent.
    pub sent: u64,
    /// Frames that never arrived.
    pub lost: u64,
    /// Frames that arrived twice.
    pub duplicated: u64,
    /// Frames that were refused for want of room.
    pub full: u64,
    /// Sessions that began.
    pub sessions: u64,
    /// Ends of sessions, each side counted.
    pub sessions_lost: u64,
    /// Directions that were cut.
    pub cut: u64,
    /// Nodes that were frozen.
    pub frozen: u64,
}

/// A network of simulated nodes. Make it within the runtime that the nodes run in.
pub struct SimNetwork {
    shared: Arc<Shared>,
    carrier: AbortHandle,
}

struct Shared {
    state: Mutex<State>,
    /// Something is due earlier than the carrier knows.
    sooner: Notify,
}

impl SimNetwork {
    /// A network without nodes. What it draws follows from the seed.
    #[must_use]
    pub fn new(seed: u64, config: NetConfig) -> Arc<Self> {
        let state = Mutex::new(State::new(seed, config));
        let shared = Arc::new(Shared { state, sooner: Notify::new() });
        let carrier = tokio::spawn(carry(Arc::downgrade(&shared))).abort_handle();
        Arc::new(Self { shared, carrier })
    }

    /// The address by which a node is [reached](Transport::reach).
    #[must_use]
    pub fn address(node: NodeId) -> String {
        format!("node-{node}:1")
    }

    /// A process starts on a node: its transport. The one of the process before is dead.
    #[must_use]
    pub fn start(&self, member: Member) -> Arc<dyn Transport> {
        let boot = self.change(|state| state.start(member));
        Arc::new(SimTransport { shared: self.shared.clone(), member, boot })
    }

    /// The process on a node ends.
    pub fn stop(&self, node: NodeId, how: Stop) {
        self.change(|state| state.stop(node, how));
    }

    /// Nothing that `from` sends reaches `to` any more.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.change(|state| state.cut(from, to));
    }

    /// What `from` sends reaches `to` again.
    pub fn mend(&self, from: NodeId, to: NodeId) {
        self.change(|state| state.mend(from, to));
    }

    /// No line is cut or slow, no node frozen, and nothing vanishes any more.
    pub fn heal(&self) {
        self.change(|state| {
            let lines: Vec<_> = state.lines.keys().copied().collect();
            for (from, to) in lines {
                if let Some(line) = state.lines.get_mut(&(from, to)) {
                    line.ns_per_byte = 0;
                    line.delay_us = line.delay_us.min(1_000);
                }
                state.mend(from, to);
            }
            let nodes: Vec<_> = state.ends.keys().copied().collect();
            nodes.into_iter().for_each(|node| state.thaw(node));
            (state.config.loss, state.config.duplicate) = (0.0, 0.0);
            state.after_control.clear();
        });
    }

    /// A direction becomes slow: this delay, and this long for each byte.
    pub fn slow(&self, from: NodeId, to: NodeId, delay: Duration, ns_per_byte: u64) {
        self.change(|state| {
            if let Some(line) = state.lines.get_mut(&(from, to)) {
                (line.delay_us, line.ns_per_byte) = (delay.as_micros() as u64, ns_per_byte);
            }
        });
    }

    /// The session between two nodes breaks; they take it up again.
    pub fn break_session(&self, at: NodeId, peer: NodeId) {
        let calls = self.change(|state| state.break_session(at, peer));
        tell(calls);
    }

    /// Nothing reaches the node and nothing leaves it, until it is thawed.
    pub fn freeze(&self, node: NodeId) {
        self.change(|state| state.freeze(node));
    }

    /// Everything that waited for a frozen node reaches it, and what it sent leaves.
    pub fn thaw(&self, node: NodeId) {
        self.change(|state| state.thaw(node));
    }

    /// Whether a node is frozen.
    #[must_use]
    pub fn is_frozen(&self, node: NodeId) -> bool {
        self.shared.lock().ends.get(&node).is_some_and(|end| end.frozen)
    }

    /// Calls `then` right after the node has sent its `n`-th frame of [`Class::Control`] from now,
    /// within the call that sent it: the frame is under way, and nothing else has happened since.
    pub fn after_control(&self, node: NodeId, n: u64, then: impl FnOnce() + Send + 'static) {
        self.change(|state| drop(state.after_control.insert(node, (n.max(1), Box::new(then)))));
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> NetCounts {
        self.shared.lock().counts.clone()
    }

    /// A hash of every frame that arrived, with its time.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.shared.lock().hash
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        self.shared.change(change)
    }
}

impl Drop for SimNetwork {
    fn drop(&mut self) {
        self.carrier.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and wakes the carrier where something is due earlier than before.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        if state.next_at().is_some_and(|at| at < state.sleeps_until) {
            state.sleeps_until = 0;
            self.sooner.notify_one();
        }
        result
    }
}

/// Lets everything arrive at its time.
async fn carry(shared: Weak<Shared>) {
    loop {
        let Some(here) = shared.upgrade() else { return };
        let until = deliver(&here);
        let sooner = here.sooner.notified();
        match until {
            Some(until) => tokio::select! {
                biased;
                () = sooner => {}
                () = sleep_until(until) => {}
            },
            None => sooner.await,
        }
    }
}

/// Delivers what is due, and says when to come again.
fn deliver(shared: &Shared) -> Option<Instant> {
    loop {
        let mut state = shared.lock();
        let now = state.now();
        let Some(arrival) = state.pop(now) else {
            let next = state.next_at();
            state.sleeps_until = next.unwrap_or(u64::MAX);
            return next.map(|at| state.instant(at));
        };
        let calls = state.arrive(arrival);
        drop(state);
        tell(calls);
    }
}

fn tell(calls: Vec<Call>) {
    for (receiver, event) in calls {
        receiver.event(event);
    }
}

/// The transport of one process.
struct SimTransport {
    shared: Arc<Shared>,
    member: Member,
    boot: u64,
}

impl SimTransport {
    /// Changes the state unless the process has ended.
    fn alive<T>(&self, change: impl FnOnce(&mut State) -> T) -> Option<T> {
        self.shared.change(|state| {
            let end = state.ends.get(&self.member.node)?;
            (end.up && end.boot == self.boot).then(|| change(state))
        })
    }
}

impl Transport for SimTransport {
    fn me(&self) -> Member {
        self.member
    }

    fn max_frame_bytes(&self) -> usize {
        MAX_FRAME_BYTES
    }

    fn send(
        &self,
        to: Member,
        channel: Channel,
        class: Class,
        frame: Bytes,
    ) -> Result<(), SendError> {
        if frame.len() > MAX_FRAME_BYTES {
            return Err(SendError::TooLarge { bytes: frame.len(), limit: MAX_FRAME_BYTES });
        }
        let sent = self.alive(|state| {
            state.send(self.member, to, (channel, class), frame)?;
            let counted = state.after_control.get_mut(&self.member.node);
            let due = counted.is_some_and(|(left, _)| {
                *left -= u64::from(class == Class::Control);
                *left == 0
            });
            let then = due.then(|| state.after_control.remove(&self.member.node)).flatten();
            Ok(then)
        });
        match sent {
            None => Err(SendError::NotConnected),
            Some(Err(error)) => Err(error),
            Some(Ok(then)) => {
                if let Some((_, then)) = then {
                    then();
                }
                Ok(())
            }
        }
    }

    fn listen(&self, channel: Channel, receiver: Arc<dyn Receiver>) {
        let up = self.alive(|state| state.listen(self.member.node, channel, receiver.clone()));
        up.into_iter().flatten().for_each(|event| receiver.event(event));
    }

    fn reach(&self, address: &str) {
        let Some(node) = node_at(address).filter(|node| *node != self.member.node) else { return };
        self.alive(|state| {
            if let Some(end) = state.ends.get_mut(&self.member.node) {
                end.reach.insert(node);
            }
            state.attempt(self.member.node, node);
        });
    }

    fn forget(&self, address: &str) {
        let Some(node) = node_at(address) else { return };
        let calls = self.alive(|state| {
            let end = state.ends.get_mut(&self.member.node);
            end.is_some_and(|end| end.reach.remove(&node)).then(|| {
                // The other side may want the link itself, and takes it up again.
                state.break_session(self.member.node, node)
            })
        });
        tell(calls.flatten().unwrap_or_default());
    }

    fn peers(&self) -> Vec<Member> {
        self.alive(|state| state.sessions_of(self.member.node).map(|(_, peer)| peer).collect())
            .unwrap_or_default()
    }
}

fn node_at(address: &str) -> Option<NodeId> {
    address.strip_prefix("node-")?.strip_suffix(":1")?.parse().ok().map(NodeId)
}

#[cfg(test)]
mod tests;
