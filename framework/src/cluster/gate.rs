//! The gate: journal groups and entities hear only of peers that belong to this very cluster.
//!
//! A link proves a cluster's name and a node's number. It does not prove that the node's disk is the
//! one that the cluster knows: it may be of another cluster of that name, or of a member that was
//! removed. So peers tell each other who they are on [`Channel::Cluster`], which the gate lets
//! through, and everything else passes only in a session that was admitted.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak},
};

use bytes::Bytes;
use duractor_journal::{
    Member, Transport,
    transport::{Channel, Class, Event, Receiver, SendError},
};

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
        for filter in self.filters() {
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

    fn admits(&self, peer: Member, session: u64) -> bool {
        let admitted = self.admitted.read().unwrap_or_else(PoisonError::into_inner);
        admitted.get(&peer) == Some(&session)
    }

    fn filters(&self) -> Vec<Arc<Filter>> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Channel, Arc<Filter>>> {
        self.filters.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        if channel != Channel::Cluster && !self.is_admitted(to) {
            return Err(SendError::NotConnected);
        }
        self.inner.send(to, channel, class, frame)
    }

    fn listen(&self, channel: Channel, receiver: Arc<dyn Receiver>) {
        if channel == Channel::Cluster {
            return self.inner.listen(channel, receiver);
        }
        let filter = Filter { gate: self.me.clone(), receiver, sessions: RwLock::default() };
        let filter = Arc::new(filter);
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
        peers.retain(|peer| self.is_admitted(*peer));
        peers
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
                if self.gate.upgrade().is_some_and(|gate| gate.admits(peer, session)) {
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
