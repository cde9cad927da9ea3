//! The gate: journal groups and entities hear only of peers that belong to this very cluster.
//!
//! A link proves a cluster's name and a node's number. It does not prove that the node's disk is the
//! one that the cluster knows: it may be of another cluster of that name, or of a member that was
//! removed. So peers tell each other who they are on [`Channel::Cluster`], which the gate lets
//! through, and everything else passes only in a session that was admitted. A client that is admitted
//! gets through to entities alone, and is no peer.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak},
};

use bytes::Bytes;
use duractor_journal::{
    Member, Transport,
    transport::{Channel, Class, Event, Receiver, SendError},
};

use crate::link::is_client;

/// A transport that is closed to peers that were not admitted.
pub(super) struct Gate {
    inner: Arc<dyn Transport>,
    /// The session in which a peer was admitted.
    admitted: RwLock<BTreeMap<Member, u64>>,
    filters: Mutex<BTreeMap<Channel, Arc<Filter>>>,
    me: Weak<Gate>,
}

/// Stands before a channel's receiver.
struct Filter {
    channel: Channel,
    gate: Weak<Gate>,
    receiver: Arc<dyn Receiver>,
    /// Sessions that are up below, and whether the receiver was told. Locked while it is told of
    /// `Up` and `Down`, so that they cannot overtake each other.
    sessions: RwLock<BTreeMap<Member, (u64, bool)>>,
}

impl Gate {
    pub(super) fn new(inner: Arc<dyn Transport>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            inner,
            admitted: RwLock::default(),
            filters: Mutex::default(),
            me: me.clone(),
        })
    }

    /// Lets a peer's session through.
    pub(super) fn admit(&self, peer: Member, session: u64) {
        self.admitted.write().unwrap_or_else(PoisonError::into_inner).insert(peer, session);
        for filter in self.filters().iter().filter(|filter| may_use(peer, filter.channel)) {
            filter.open(peer, session);
        }
    }

    /// Lets a peer through no more.
    pub(super) fn expel(&self, peer: Member) {
        self.admitted.write().unwrap_or_else(PoisonError::into_inner).remove(&peer);
        for filter in self.filters() {
            filter.close(peer);
        }
    }

    /// Whether a peer's session is let through.
    pub(super) fn is_admitted(&self, peer: Member) -> bool {
        self.admitted.read().unwrap_or_else(PoisonError::into_inner).contains_key(&peer)
    }

    fn admits(&self, peer: Member, session: u64, channel: Channel) -> bool {
        let admitted = self.admitted.read().unwrap_or_else(PoisonError::into_inner);
        admitted.get(&peer) == Some(&session) && may_use(peer, channel)
    }

    fn filters(&self) -> Vec<Arc<Filter>> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Channel, Arc<Filter>>> {
        self.filters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a peer that is admitted gets through to.
fn may_use(peer: Member, channel: Channel) -> bool {
    !is_client(peer) || channel == Channel::Entities
}

impl Transport for Gate {
    fn me(&self) -> Member {
        self.inner.me()
    }

    fn max_frame_bytes(&self) -> usize {
        self.inner.max_frame_bytes()
    }

    fn send(
        &self,
        to: Member,
        channel: Channel,
        class: Class,
        frame: Bytes,
    ) -> Result<(), SendError> {
        if channel != Channel::Cluster && !(self.is_admitted(to) && may_use(to, channel)) {
            return Err(SendError::NotConnected);
        }
        self.inner.send(to, channel, class, frame)
    }

    fn listen(&self, channel: Channel, receiver: Arc<dyn Receiver>) {
        if channel == Channel::Cluster {
            return self.inner.listen(channel, receiver);
        }
        let (gate, sessions) = (self.me.clone(), RwLock::default());
        let filter = Arc::new(Filter { channel, gate, receiver, sessions });
        self.lock().insert(channel, filter.clone());
        self.inner.listen(channel, filter);
    }

    fn reach(&self, address: &str) {
        self.inner.reach(address);
    }

    fn forget(&self, address: &str) {
        self.inner.forget(address);
    }

    fn peers(&self) -> Vec<Member> {
        let mut peers = self.inner.peers();
        peers.retain(|peer| self.is_admitted(*peer) && !is_client(*peer));
        peers
    }

    fn phi(&self, peer: Member) -> Option<f64> {
        self.inner.phi(peer)
    }
}

impl Filter {
    fn open(&self, peer: Member, session: u64) {
        let mut sessions = self.sessions.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry @ &mut (_, false)) = sessions.get_mut(&peer)
            && entry.0 == session
        {
            self.receiver.event(Event::Up { peer, session });
            entry.1 = true;
        }
    }

    fn close(&self, peer: Member) {
        let mut sessions = self.sessions.write().unwrap_or_else(PoisonError::into_inner);
        if let Some((session, told @ true)) = sessions.get_mut(&peer) {
            *told = false;
            self.receiver.event(Event::Down { peer, session: *session });
        }
    }
}

impl Receiver for Filter {
    fn event(&self, event: Event) {
        match event {
            Event::Frame { from, session, .. } => {
                let sessions = self.sessions.read().unwrap_or_else(PoisonError::into_inner);
                let passes = sessions.get(&from) == Some(&(session, true));
                drop(sessions);
                if passes {
                    self.receiver.event(event);
                }
            }
            Event::Up { peer, session } => {
                self.close(peer);
                let mut sessions = self.sessions.write().unwrap_or_else(PoisonError::into_inner);
                sessions.insert(peer, (session, false));
                drop(sessions);
                if self.gate.upgrade().is_some_and(|gate| gate.admits(peer, session, self.channel))
                {
                    self.open(peer, session);
                }
            }
            Event::Down { peer, session } => {
                let mut sessions = self.sessions.write().unwrap_or_else(PoisonError::into_inner);
                if sessions.get(&peer).is_some_and(|(up, _)| *up == session)
                    && let Some((_, true)) = sessions.remove(&peer)
                {
                    self.receiver.event(event);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands events on as it is told to.
    #[derive(Default)]
    struct Below(Mutex<Option<Arc<dyn Receiver>>>);

    impl Below {
        fn event(&self, event: Event) {
            let receiver = self.0.lock().unwrap().clone();
            receiver.expect("somebody listens").event(event);
        }
    }

    const PEER: Member = Member::new(2, 1);

    impl Transport for Below {
        fn me(&self) -> Member {
            Member::new(1, 1)
        }

        fn max_frame_bytes(&self) -> usize {
            100
        }

        fn send(&self, _: Member, _: Channel, _: Class, _: Bytes) -> Result<(), SendError> {
            Ok(())
        }

        fn listen(&self, _: Channel, receiver: Arc<dyn Receiver>) {
            *self.0.lock().unwrap() = Some(receiver);
        }

        fn reach(&self, _: &str) {}

        fn forget(&self, _: &str) {}

        fn peers(&self) -> Vec<Member> {
            vec![PEER]
        }
    }

    #[derive(Default)]
    struct Heard(Mutex<Vec<Event>>);

    impl Receiver for Heard {
        fn event(&self, event: Event) {
            self.0.lock().unwrap().push(event);
        }
    }

    impl Heard {
        fn take(&self) -> Vec<Event> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    fn setup() -> (Arc<Below>, Arc<Gate>, Arc<Heard>) {
        let below = Arc::new(Below::default());
        let gate = Gate::new(below.clone());
        let heard = Arc::new(Heard::default());
        gate.listen(Channel::Journal, heard.clone());
        (below, gate, heard)
    }

    fn up(session: u64) -> Event {
        Event::Up { peer: PEER, session }
    }

    fn down(session: u64) -> Event {
        Event::Down { peer: PEER, session }
    }

    fn frame(session: u64) -> Event {
        Event::Frame { from: PEER, session, frame: Bytes::from_static(b"x") }
    }

    #[test]
    fn nothing_passes_before_the_peer_is_admitted() {
        let (below, gate, heard) = setup();
        let send = |channel| gate.send(PEER, channel, Class::Data, Bytes::new());
        below.event(up(7));
        below.event(frame(7));
        assert_eq!(heard.take(), []);
        assert_eq!(gate.peers(), []);
        assert_eq!(send(Channel::Journal), Err(SendError::NotConnected));
        assert_eq!(send(Channel::Cluster), Ok(()), "how else should it be admitted");
        gate.admit(PEER, 7);
        gate.admit(PEER, 7);
        below.event(frame(7));
        assert_eq!(heard.take(), [up(7), frame(7)]);
        assert_eq!((gate.peers(), send(Channel::Journal)), (vec![PEER], Ok(())));
        below.event(down(7));
        assert_eq!(heard.take(), [down(7)]);
    }

    #[test]
    fn a_session_is_admitted_not_a_peer() {
        let (below, gate, heard) = setup();
        below.event(up(7));
        gate.admit(PEER, 7);
        below.event(down(7));
        // The cluster's channel has not heard of the end yet.
        below.event(up(8));
        below.event(frame(8));
        assert_eq!(heard.take(), [up(7), down(7)]);
        gate.admit(PEER, 8);
        assert_eq!(heard.take(), [up(8)]);
        // One that is late is of no account.
        below.event(down(7));
        assert_eq!(heard.take(), []);
    }

    #[test]
    fn admission_may_come_before_the_channel_hears_of_the_session() {
        let (below, gate, heard) = setup();
        gate.admit(PEER, 7);
        below.event(up(7));
        assert_eq!(heard.take(), [up(7)]);
    }

    /// The planted bug of this module: to let a client through like a member. It could vote.
    #[test]
    fn a_client_gets_through_to_entities_alone() {
        let client = Member::new(crate::link::FIRST_CLIENT + 1, 1);
        for (channel, passes) in [
            (Channel::Journal, false),
            (Channel::Snapshots, false),
            (Channel::Leader, false),
            (Channel::Entities, true),
        ] {
            let below = Arc::new(Below::default());
            let gate = Gate::new(below.clone());
            let heard = Arc::new(Heard::default());
            gate.listen(channel, heard.clone());
            below.event(Event::Up { peer: client, session: 7 });
            gate.admit(client, 7);
            let frame = Bytes::from_static(b"x");
            below.event(Event::Frame { from: client, session: 7, frame });
            assert_eq!(!heard.take().is_empty(), passes, "{channel:?}");
            assert_eq!(gate.send(client, channel, Class::Data, Bytes::new()).is_ok(), passes);
            // Admitted before the channel hears of it, too.
            below.event(Event::Down { peer: client, session: 7 });
            heard.take();
            gate.admit(client, 8);
            below.event(Event::Up { peer: client, session: 8 });
            assert_eq!(!heard.take().is_empty(), passes, "{channel:?}");
        }
    }

    #[test]
    fn who_is_expelled_is_down() {
        let (below, gate, heard) = setup();
        below.event(up(7));
        gate.admit(PEER, 7);
        gate.expel(PEER);
        below.event(frame(7));
        assert_eq!(heard.take(), [up(7), down(7)]);
        below.event(down(7));
        assert_eq!((heard.take(), gate.peers()), (vec![], vec![]));
    }
}
