//! A network in memory: sessions between nodes that reach each other's address.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use duractor::cluster::{ClusterError, connect::Connect};
use duractor_journal::{
    Member, Transport,
    transport::{Channel, Class, Event, Receiver, SendError},
};
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

#[derive(Default)]
struct State {
    /// Who listens at an address.
    at: BTreeMap<String, Member>,
    nodes: BTreeMap<Member, Node>,
    /// Pairs that do not reach each other.
    cut: BTreeSet<(Member, Member)>,
    next_session: u64,
}

struct Node {
    address: String,
    reaching: BTreeSet<String>,
    sessions: BTreeMap<Member, u64>,
    events: mpsc::UnboundedSender<(Option<Channel>, Event)>,
    receivers: Arc<Mutex<BTreeMap<Channel, Arc<dyn Receiver>>>>,
}

#[derive(Default)]
pub struct Network {
    state: Mutex<State>,
}

impl Network {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn is_up(&self, member: Member) -> bool {
        self.state.lock().unwrap().nodes.contains_key(&member)
    }

    fn up(self: &Arc<Self>, me: Member, address: String) -> Arc<Link> {
        let receivers: Arc<Mutex<BTreeMap<Channel, Arc<dyn Receiver>>>> = Arc::default();
        let (events, mut queue) = mpsc::unbounded_channel::<(Option<Channel>, Event)>();
        let ours = receivers.clone();
        tokio::spawn(async move {
            while let Some((channel, event)) = queue.recv().await {
                let told: Vec<_> = {
                    let all = ours.lock().unwrap();
                    let of = all.iter().filter(|(c, _)| channel.is_none_or(|only| only == **c));
                    of.map(|(_, receiver)| receiver.clone()).collect()
                };
                for receiver in told {
                    receiver.event(event.clone());
                }
            }
        });
        let node = Node {
            address: address.clone(),
            reaching: BTreeSet::new(),
            sessions: BTreeMap::new(),
            events,
            receivers,
        };
        let mut state = self.state.lock().unwrap();
        assert!(!state.at.contains_key(&address), "{address} is in use");
        state.at.insert(address, me);
        state.nodes.insert(me, node);
        drop(state);
        self.connect_all();
        Arc::new(Link { network: self.clone(), me })
    }

    fn down(&self, me: Member) {
        let mut state = self.state.lock().unwrap();
        let Some(node) = state.nodes.remove(&me) else { return };
        state.at.remove(&node.address);
        for other in state.nodes.values_mut() {
            if let Some(session) = other.sessions.remove(&me) {
                let _ = other.events.send((None, Event::Down { peer: me, session }));
            }
        }
    }

    /// Two nodes do not reach each other any more.
    pub fn cut(&self, one: Member, other: Member) {
        let mut state = self.state.lock().unwrap();
        for (me, peer) in [(one, other), (other, one)] {
            state.cut.insert((me, peer));
            let Some(node) = state.nodes.get_mut(&me) else { continue };
            if let Some(session) = node.sessions.remove(&peer) {
                let _ = node.events.send((None, Event::Down { peer, session }));
            }
        }
    }

    /// All reach each other again.
    pub fn mend(&self) {
        self.state.lock().unwrap().cut.clear();
        self.connect_all();
    }

    /// Makes the sessions that are asked for and not there.
    fn connect_all(&self) {
        let mut state = self.state.lock().unwrap();
        let mut wanted = Vec::new();
        for (me, node) in &state.nodes {
            for address in &node.reaching {
                if let Some(peer) = state.at.get(address)
                    && peer != me
                    && !node.sessions.contains_key(peer)
                    && !state.cut.contains(&(*me, *peer))
                {
                    wanted.push((*me, *peer));
                }
            }
        }
        for (a, b) in wanted {
            if state.nodes[&a].sessions.contains_key(&b) {
                continue;
            }
            state.next_session += 1;
            let session = state.next_session;
            for (me, peer) in [(a, b), (b, a)] {
                let node = state.nodes.get_mut(&me).unwrap();
                node.sessions.insert(peer, session);
                let _ = node.events.send((None, Event::Up { peer, session }));
            }
        }
    }
}

pub struct Link {
    network: Arc<Network>,
    me: Member,
}

impl Transport for Link {
    fn me(&self) -> Member {
        self.me
    }

    fn max_frame_bytes(&self) -> usize {
        64 << 20
    }

    fn send(&self, to: Member, channel: Channel, _: Class, frame: Bytes) -> Result<(), SendError> {
        let state = self.network.state.lock().unwrap();
        let me = state.nodes.get(&self.me).ok_or(SendError::NotConnected)?;
        let session = *me.sessions.get(&to).ok_or(SendError::NotConnected)?;
        let event = Event::Frame { from: self.me, session, frame };
        let _ = state.nodes[&to].events.send((Some(channel), event));
        Ok(())
    }

    fn listen(&self, channel: Channel, receiver: Arc<dyn Receiver>) {
        let state = self.network.state.lock().unwrap();
        let Some(node) = state.nodes.get(&self.me) else { return };
        node.receivers.lock().unwrap().insert(channel, receiver);
        for (peer, session) in &node.sessions {
            let event = Event::Up { peer: *peer, session: *session };
            let _ = node.events.send((Some(channel), event));
        }
    }

    fn reach(&self, address: &str) {
        let mut state = self.network.state.lock().unwrap();
        if let Some(node) = state.nodes.get_mut(&self.me) {
            node.reaching.insert(address.to_owned());
        }
        drop(state);
        self.network.connect_all();
    }

    fn forget(&self, address: &str) {
        let mut state = self.network.state.lock().unwrap();
        if let Some(node) = state.nodes.get_mut(&self.me) {
            node.reaching.remove(address);
        }
    }

    fn peers(&self) -> Vec<Member> {
        let state = self.network.state.lock().unwrap();
        let node = state.nodes.get(&self.me);
        node.map(|node| node.sessions.keys().copied().collect()).unwrap_or_default()
    }
}

/// A node's plug.
pub struct Wire {
    network: Arc<Network>,
    address: String,
    now: Mutex<Option<Member>>,
}

impl Wire {
    pub fn new(network: Arc<Network>, address: String) -> Arc<Self> {
        Arc::new(Self { network, address, now: Mutex::default() })
    }

    /// Pulls the plug, as when the process dies.
    pub fn pull(&self) {
        if let Some(me) = self.now.lock().unwrap().take() {
            self.network.down(me);
        }
    }
}

impl Connect for Wire {
    fn connect(&self, me: Member) -> BoxFuture<'_, Result<Arc<dyn Transport>, ClusterError>> {
        Box::pin(async move {
            self.pull();
            *self.now.lock().unwrap() = Some(me);
            Ok(self.network.up(me, self.address.clone()) as Arc<dyn Transport>)
        })
    }

    fn disconnect(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.pull() })
    }
}
