//! What the network knows, and what each arrival changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use duractor_journal::{
    Member, NodeId,
    transport::{Channel, Class, Event, Receiver, SendError},
};
use tokio::time::Instant;

use super::{
    NetConfig, NetCounts, Stop,
    line::{Line, Sent},
};
use crate::rng::{Rng, STEP, mix};

/// A process as the network sees it.
#[derive(Default)]
pub(super) struct End {
    pub(super) member: Option<Member>,
    pub(super) up: bool,
    /// Grows with each start: transports of earlier processes are dead.
    pub(super) boot: u64,
    pub(super) frozen: bool,
    receivers: BTreeMap<Channel, Arc<dyn Receiver>>,
    pub(super) reach: BTreeSet<NodeId>,
    /// What arrived while it was frozen.
    inbox: Vec<Arrival>,
    /// What it sent while it was frozen: it leaves when the process goes on.
    outbox: Vec<Sent>,
}

/// What happens at some time.
#[derive(Debug)]
pub(super) enum Arrival {
    Frame(Sent),
    /// The other end of a new session hears of it.
    Up {
        at: NodeId,
        peer: Member,
        session: u64,
    },
    /// One end hears that the other closed the session.
    Close {
        at: NodeId,
        peer: NodeId,
        session: u64,
    },
    /// Two nodes try to connect.
    Attempt(NodeId, NodeId),
    /// Nothing was heard for too long.
    Silence {
        from: NodeId,
        at: NodeId,
        since: u64,
    },
}

/// An event and who hears it.
pub(super) type Call = (Arc<dyn Receiver>, Event);

/// What happens after so many frames.
type Then = Box<dyn FnOnce() + Send>;

pub(super) struct State {
    base: Instant,
    pub(super) rng: Rng,
    pub(super) config: NetConfig,
    pub(super) ends: BTreeMap<NodeId, End>,
    pub(super) lines: BTreeMap<(NodeId, NodeId), Line>,
    queue: BTreeMap<(u64, u64), Arrival>,
    order: u64,
    sessions: u64,
    pub(super) counts: NetCounts,
    pub(super) hash: u64,
    /// What is next, and not earlier: the carrier sleeps until then.
    pub(super) sleeps_until: u64,
    /// Called when this node has sent so many more frames of [`Class::Control`].
    pub(super) after_control: BTreeMap<NodeId, (u64, Then)>,
}

impl State {
    pub(super) fn new(seed: u64, config: NetConfig) -> Self {
        Self {
            base: Instant::now(),
            rng: Rng::new(seed),
            config,
            ends: BTreeMap::new(),
            lines: BTreeMap::new(),
            queue: BTreeMap::new(),
            order: 0,
            sessions: 0,
            counts: NetCounts::default(),
            hash: 0,
            sleeps_until: 0,
            after_control: BTreeMap::new(),
        }
    }

    pub(super) fn now(&self) -> u64 {
        self.base.elapsed().as_micros() as u64
    }

    pub(super) fn instant(&self, us: u64) -> Instant {
        self.base + std::time::Duration::from_micros(us)
    }

    fn put(&mut self, at: u64, arrival: Arrival) {
        self.order += 1;
        self.queue.insert((at, self.order), arrival);
    }

    pub(super) fn next_at(&self) -> Option<u64> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next arrival that is due.
    pub(super) fn pop(&mut self, now: u64) -> Option<Arrival> {
        let first = self.queue.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    fn line(&mut self, from: NodeId, to: NodeId) -> &mut Line {
        if !self.lines.contains_key(&(from, to)) {
            let (least, most) = self.config.delay_us;
            let delay_us = least + self.rng.below(most.saturating_sub(least) + 1);
            let line = Line::new(delay_us, self.config.jitter_us);
            self.lines.insert((from, to), line);
        }
        self.lines.get_mut(&(from, to)).unwrap_or_else(|| unreachable!("just made"))
    }

    fn is_up(&self, node: NodeId) -> bool {
        self.ends.get(&node).is_some_and(|end| end.up)
    }

    fn is_frozen(&self, node: NodeId) -> bool {
        self.ends.get(&node).is_some_and(|end| end.frozen)
    }

    pub(super) fn note(&mut self, what: u64) {
        self.hash = mix(self.hash ^ what).wrapping_add(STEP);
    }

    // ----- processes

    pub(super) fn start(&mut self, member: Member) -> u64 {
        let others: Vec<NodeId> = self.ends.keys().copied().filter(|n| *n != member.node).collect();
        let end = self.ends.entry(member.node).or_default();
        let boot = end.boot + 1;
        *end = End { member: Some(member), up: true, boot, ..End::default() };
        for other in others {
            self.line(member.node, other);
            self.line(other, member.node);
            self.requiet(member.node, other);
            self.requiet(other, member.node);
        }
        boot
    }

    /// Ends a process. Its peers hear of it at once where the operating system lived on.
    pub(super) fn stop(&mut self, node: NodeId, how: Stop) {
        let Some(end) = self.ends.get_mut(&node) else { return };
        if !end.up {
            return;
        }
        *end = End { member: end.member, boot: end.boot, ..End::default() };
        self.after_control.remove(&node);
        // A handshake that was under way ends with the process: the next one must not take it for its
        // own, least of all as another member.
        self.queue.retain(|_, next| !matches!(next, Arrival::Up { at, .. } if *at == node));
        let peers: Vec<NodeId> = self.ends.keys().copied().filter(|n| *n != node).collect();
        for peer in peers {
            let session = self.line(node, peer).session.take();
            self.line(node, peer).held.clear();
            if let (Some((session, _)), Stop::Killed) = (session, how) {
                self.close(node, peer, session);
            }
            self.requiet(node, peer);
        }
    }

    pub(super) fn freeze(&mut self, node: NodeId) {
        let Some(end) = self.ends.get_mut(&node).filter(|end| end.up && !end.frozen) else {
            return;
        };
        end.frozen = true;
        self.counts.frozen += 1;
        self.requiet_all(node);
    }

    pub(super) fn thaw(&mut self, node: NodeId) {
        let Some(end) = self.ends.get_mut(&node).filter(|end| end.frozen) else { return };
        end.frozen = false;
        let (inbox, outbox) = (std::mem::take(&mut end.inbox), std::mem::take(&mut end.outbox));
        let now = self.now();
        inbox.into_iter().for_each(|arrival| self.put(now, arrival));
        outbox.into_iter().for_each(|sent| self.depart(sent));
        self.requiet_all(node);
    }

    // ----- lines

    pub(super) fn cut(&mut self, from: NodeId, to: NodeId) {
        let line = self.line(from, to);
        if !std::mem::replace(&mut line.cut, true) {
            self.counts.cut += 1;
        }
        self.requiet(from, to);
    }

    pub(super) fn mend(&mut self, from: NodeId, to: NodeId) {
        let line = self.line(from, to);
        line.cut = false;
        // What the sender's system sent again and again gets through now.
        let held = std::mem::take(&mut line.held);
        for sent in held {
            let now = self.now();
            let Self { lines, rng, .. } = self;
            let Some(line) = lines.get_mut(&(from, to)) else { break };
            let at = line.arrival_us(now, sent.class, 0, rng);
            self.put(at, Arrival::Frame(sent));
        }
        self.requiet(from, to);
    }

    fn requiet_all(&mut self, node: NodeId) {
        let others: Vec<NodeId> = self.ends.keys().copied().filter(|n| *n != node).collect();
        for other in others {
            self.requiet(node, other);
            self.requiet(other, node);
        }
    }

    /// Notes since when `to` hears nothing of `from`, or that it hears it again.
    fn requiet(&mut self, from: NodeId, to: NodeId) {
        let now = self.now();
        let quiet = self.line(from, to).cut || !self.is_up(from) || self.is_frozen(from);
        let patience = self.config.silence_us + self.rng.below(self.config.silence_us / 5 + 1);
        let line = self.line(from, to);
        match (quiet, line.quiet_since) {
            (true, None) => {
                line.quiet_since = Some(now);
                self.put(now + patience, Arrival::Silence { from, at: to, since: now });
            }
            (false, _) => {
                line.quiet_since = None;
                self.attempt(from, to);
            }
            (true, Some(_)) => {}
        }
    }

    // ----- sessions

    pub(super) fn attempt(&mut self, a: NodeId, b: NodeId) {
        let backoff = 1_000 + self.rng.below(self.config.backoff_us + 1);
        let (a, b) = (a.min(b), a.max(b));
        self.put(self.now() + backoff, Arrival::Attempt(a, b));
    }

    fn wanted(&self, a: NodeId, b: NodeId) -> bool {
        let reaches = |x: NodeId, y| self.ends.get(&x).is_some_and(|end| end.reach.contains(&y));
        let cut = |x, y| self.lines.get(&(x, y)).is_some_and(|line| line.cut);
        let well = |n| self.is_up(n) && !self.is_frozen(n);
        well(a) && well(b) && (reaches(a, b) || reaches(b, a)) && !cut(a, b) && !cut(b, a)
    }

    /// A handshake. What one end still takes for a session is replaced by the new one.
    fn connect(&mut self, a: NodeId, b: NodeId) -> Vec<Call> {
        let mut calls = Vec::new();
        let sessions = [self.line(a, b).session, self.line(b, a).session];
        let both = matches!(sessions, [Some((x, _)), Some((y, _))] if x == y);
        let opening = self.queue.values().any(|arrival| {
            matches!(arrival, Arrival::Up { at, peer, .. }
                if (*at, peer.node) == (a, b) || (*at, peer.node) == (b, a))
        });
        if both || opening || !self.wanted(a, b) {
            return calls;
        }
        for (at, peer) in [(a, b), (b, a)] {
            calls.extend(self.drop_session(at, peer));
        }
        let members = [a, b].map(|n| self.ends.get(&n).and_then(|end| end.member));
        let [Some(first), Some(second)] = members else { return calls };
        self.sessions += 1;
        let session = self.sessions;
        self.line(a, b).begin(session, second);
        calls.extend(self.calls(a, &Event::Up { peer: second, session }));
        let now = self.now();
        self.line(a, b);
        let Self { lines, rng, .. } = self;
        let Some(line) = lines.get_mut(&(a, b)) else { return calls };
        let at = line.after_all_us(now, rng);
        self.put(at, Arrival::Up { at: b, peer: first, session });
        self.counts.sessions += 1;
        calls
    }

    /// One end gives its session up.
    fn drop_session(&mut self, at: NodeId, peer: NodeId) -> Vec<Call> {
        let line = self.line(at, peer);
        line.held.clear();
        let Some((session, member)) = line.session.take() else { return Vec::new() };
        self.counts.sessions_lost += 1;
        self.calls(at, &Event::Down { peer: member, session })
    }

    /// One end gives its session up, and tells the other.
    pub(super) fn break_session(&mut self, at: NodeId, peer: NodeId) -> Vec<Call> {
        let session = self.line(at, peer).session;
        let calls = self.drop_session(at, peer);
        if let Some((session, _)) = session {
            self.close(at, peer, session);
            self.attempt(at, peer);
        }
        calls
    }

    /// The word that a session ended goes to the peer: after all frames, or ahead of them as a reset
    /// does.
    fn close(&mut self, from: NodeId, peer: NodeId, session: u64) {
        let now = self.now();
        let reset = self.rng.chance(0.5);
        self.line(from, peer);
        let Self { lines, rng, .. } = self;
        let Some(line) = lines.get_mut(&(from, peer)) else { return };
        let at = if reset { now + line.delay_us } else { line.after_all_us(now, rng) };
        self.put(at, Arrival::Close { at: peer, peer: from, session });
    }

    pub(super) fn calls(&self, at: NodeId, event: &Event) -> Vec<Call> {
        let Some(end) = self.ends.get(&at).filter(|end| end.up) else { return Vec::new() };
        end.receivers.values().map(|receiver| (receiver.clone(), event.clone())).collect()
    }

    /// Sets a receiver, and gives what it must hear of those that are up.
    pub(super) fn listen(
        &mut self,
        node: NodeId,
        channel: Channel,
        receiver: Arc<dyn Receiver>,
    ) -> Vec<Event> {
        if let Some(end) = self.ends.get_mut(&node) {
            end.receivers.insert(channel, receiver);
        }
        self.sessions_of(node).map(|(session, peer)| Event::Up { peer, session }).collect()
    }

    pub(super) fn sessions_of(&self, node: NodeId) -> impl Iterator<Item = (u64, Member)> + '_ {
        let from = (node, NodeId(0));
        let lines = self.lines.range(from..).take_while(move |((n, _), _)| *n == node);
        lines.filter_map(|(_, line)| line.session)
    }

    // ----- frames

    pub(super) fn send(
        &mut self,
        from: Member,
        to: Member,
        (channel, class): (Channel, Class),
        frame: Bytes,
    ) -> Result<(), SendError> {
        let window = self.config.window_bytes;
        let line = self.lines.get_mut(&(from.node, to.node)).ok_or(SendError::NotConnected)?;
        let session = match line.session {
            Some((session, peer)) if peer == to => session,
            _ => return Err(SendError::NotConnected),
        };
        if !line.has_room(class, frame.len(), window) {
            self.counts.full += 1;
            return Err(SendError::Full);
        }
        line.takes(class, frame.len());
        let sent = Sent { from, to, session, channel, class, frame, copy: false };
        match self.ends.get_mut(&from.node) {
            Some(end) if end.frozen => end.outbox.push(sent),
            _ => self.depart(sent),
        }
        Ok(())
    }

    fn depart(&mut self, sent: Sent) {
        let now = self.now();
        let (loss, duplicate) = (self.config.loss, self.config.duplicate);
        let Self { lines, rng, counts, .. } = self;
        let Some(line) = lines.get_mut(&(sent.from.node, sent.to.node)) else { return };
        counts.sent += 1;
        if loss > 0.0 && rng.chance(loss) {
            counts.lost += 1;
            line.gave(&sent);
            return;
        }
        let at = line.arrival_us(now, sent.class, sent.frame.len(), rng);
        let copy = (duplicate > 0.0 && rng.chance(duplicate))
            .then(|| (at + rng.below(20_000), Sent { copy: true, ..sent.clone() }));
        self.put(at, Arrival::Frame(sent));
        if let Some((at, copy)) = copy {
            self.counts.duplicated += 1;
            self.put(at, Arrival::Frame(copy));
        }
    }

    /// Lets something arrive. What is to be heard of it must be told outside of the lock.
    pub(super) fn arrive(&mut self, arrival: Arrival) -> Vec<Call> {
        let at = match &arrival {
            Arrival::Frame(sent) => Some(sent.to.node),
            Arrival::Up { at, .. } | Arrival::Close { at, .. } | Arrival::Silence { at, .. } => {
                Some(*at)
            }
            Arrival::Attempt(..) => None,
        };
        if let Some(end) = at.and_then(|at| self.ends.get_mut(&at)).filter(|end| end.frozen) {
            end.inbox.push(arrival);
            return Vec::new();
        }
        match arrival {
            Arrival::Frame(sent) => self.frame(sent),
            Arrival::Attempt(a, b) => self.connect(a, b),
            Arrival::Up { at, peer, session } => {
                // The other may be gone again: then its end is known by silence, or by a close.
                let other = self.line(peer.node, at).session.map(|(session, _)| session);
                if !self.is_up(at) || other != Some(session) {
                    // A try that came meanwhile may have stood back for this one.
                    self.attempt(at, peer.node);
                    return Vec::new();
                }
                self.line(at, peer.node).begin(session, peer);
                self.calls(at, &Event::Up { peer, session })
            }
            Arrival::Close { at, peer, session } => {
                if self.line(at, peer).session.is_none_or(|(now, _)| now != session) {
                    return Vec::new();
                }
                self.attempt(at, peer);
                self.drop_session(at, peer)
            }
            Arrival::Silence { from, at, since } => {
                let raw = self.config.raw() && self.is_up(from);
                if raw || self.line(from, at).quiet_since != Some(since) {
                    return Vec::new();
                }
                self.break_session(at, from)
            }
        }
    }

    fn frame(&mut self, sent: Sent) -> Vec<Call> {
        let (from, to) = (sent.from.node, sent.to.node);
        let raw = self.config.raw();
        let heard = self.line(to, from).session.is_some_and(|(session, _)| session == sent.session);
        let line = self.line(from, to);
        if line.cut {
            if raw || sent.copy {
                line.gave(&sent);
                self.counts.lost += 1;
            } else {
                line.held.push_back(sent);
            }
            return Vec::new();
        }
        line.gave(&sent);
        if !heard {
            self.counts.lost += 1;
            return Vec::new();
        }
        let place = (u64::from(from.0) << 40) | (u64::from(to.0) << 32) | sent.frame.len() as u64;
        self.note(place ^ (self.now() << 20));
        let Some(end) = self.ends.get(&to).filter(|end| end.up) else { return Vec::new() };
        let event = Event::Frame { from: sent.from, session: sent.session, frame: sent.frame };
        let receiver = end.receivers.get(&sent.channel).cloned();
        receiver.into_iter().map(|receiver| (receiver, event.clone())).collect()
    }
}
