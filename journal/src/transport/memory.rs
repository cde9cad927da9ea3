//! The port in memory: nodes of one process, for tests.
//!
//! Nothing is lost while a session lasts, and nothing is delayed beyond the runtime's own turns. Each
//! node has one task that hands out what arrives: first who came and went, then Control, Data, Bulk.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use tokio::sync::Notify;

use super::{Channel, Class, Event, Member, Receiver, SendError, Transport};

/// Bytes of one class that may be under way to a peer. One frame alone may be longer.
const WINDOW: usize = 4 << 20;
/// The longest frame.
const MAX_FRAME: usize = 64 << 20;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A network in memory. Cheap to clone; all clones are the same network.
#[derive(Clone, Default)]
pub struct MemoryNetwork(Arc<Net>);

#[derive(Default)]
struct Net {
    world: Mutex<World>,
    next_session: AtomicU64,
}

#[derive(Default)]
struct World {
    /// Who is at an address.
    nodes: BTreeMap<String, Arc<Node>>,
    /// Who wants a link with whom: the member, and the address.
    wishes: BTreeSet<(Member, String)>,
}

struct Node {
    me: Member,
    inbox: Mutex<Inbox>,
    arrived: Notify,
}

#[derive(Default)]
struct Inbox {
    stopped: bool,
    /// Frames wait.
    held: bool,
    receivers: BTreeMap<u8, Arc<dyn Receiver>>,
    sessions: BTreeMap<Member, Session>,
    news: VecDeque<News>,
    frames: [VecDeque<Arrived>; 3],
}

struct Session {
    number: u64,
    /// Whether its beginning was announced.
    up: bool,
    peer: Weak<Node>,
    /// Whose wish it was, and for which address.
    wish: Option<String>,
    /// Bytes on their way to the peer.
    under_way: Arc<[AtomicU64; 3]>,
}

enum News {
    Up(Member, u64),
    Down(Member, u64),
    /// To a new receiver only.
    Announce(u8, Member, u64),
}

struct Arrived {
    from: Member,
    session: u64,
    channel: u8,
    frame: Bytes,
    under_way: Arc<[AtomicU64; 3]>,
}

impl MemoryNetwork {
    /// A network without nodes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a node at an address, in place of the one that is there. Needs a tokio runtime.
    #[must_use]
    pub fn start(&self, me: Member, address: &str) -> Arc<MemoryTransport> {
        self.stop(address);
        let node = Arc::new(Node { me, inbox: Mutex::default(), arrived: Notify::new() });
        tokio::spawn(hand_out(node.clone()));
        lock(&self.0.world).nodes.insert(address.to_owned(), node.clone());
        self.0.connect_all();
        Arc::new(MemoryTransport { net: self.0.clone(), node })
    }

    /// Ends the node at an address, as if its process died.
    pub fn stop(&self, address: &str) {
        let mut world = lock(&self.0.world);
        let Some(node) = world.nodes.remove(address) else { return };
        world.wishes.retain(|(member, _)| *member != node.me);
        let peers: Vec<_> = lock(&node.inbox).sessions.keys().copied().collect();
        for peer in peers {
            node.end(peer);
        }
        lock(&node.inbox).stopped = true;
        node.arrived.notify_one();
    }

    /// Makes frames to the node at an address wait, until [`release`](Self::release).
    pub fn hold(&self, address: &str) {
        self.set_held(address, true);
    }

    /// Lets frames through again.
    pub fn release(&self, address: &str) {
        self.set_held(address, false);
    }

    fn set_held(&self, address: &str, held: bool) {
        if let Some(node) = lock(&self.0.world).nodes.get(address) {
            lock(&node.inbox).held = held;
            node.arrived.notify_one();
        }
    }
}

impl Net {
    /// Begins every session that somebody wishes for and that is not there.
    fn connect_all(&self) {
        let world = lock(&self.world);
        for (member, address) in &world.wishes {
            let wishing = world.nodes.values().find(|node| node.me == *member);
            if let (Some(from), Some(to)) = (wishing, world.nodes.get(address))
                && from.me != to.me
                && !lock(&from.inbox).sessions.contains_key(&to.me)
            {
                let number = self.next_session.fetch_add(1, SeqCst) + 1;
                from.begin(number, to, Some(address.clone()));
                to.begin(number, from, None);
            }
        }
    }
}

impl Node {
    fn begin(&self, number: u64, peer: &Arc<Node>, wish: Option<String>) {
        let mut inbox = lock(&self.inbox);
        let under_way = Arc::default();
        let session = Session { number, up: false, peer: Arc::downgrade(peer), wish, under_way };
        inbox.sessions.insert(peer.me, session);
        inbox.news.push_back(News::Up(peer.me, number));
        drop(inbox);
        self.arrived.notify_one();
    }

    /// Ends the session with a peer, on both sides. What is under way is lost.
    fn end(&self, peer: Member) {
        let other = self.forget(peer).and_then(|session| session.peer.upgrade());
        if let Some(other) = other {
            other.forget(self.me);
        }
    }

    fn forget(&self, peer: Member) -> Option<Session> {
        let mut inbox = lock(&self.inbox);
        let session = inbox.sessions.remove(&peer)?;
        for frames in &mut inbox.frames {
            frames.retain(|arrived| arrived.session != session.number);
        }
        if session.up {
            inbox.news.push_back(News::Down(peer, session.number));
        } else {
            inbox.news.retain(|news| !matches!(news, News::Up(_, n) if *n == session.number));
        }
        drop(inbox);
        self.arrived.notify_one();
        Some(session)
    }

    /// What is to be handed out next, and to whom.
    fn next(&self) -> Option<(Vec<Arc<dyn Receiver>>, Event, Option<Spent>)> {
        let mut inbox = lock(&self.inbox);
        if let Some(news) = inbox.news.pop_front() {
            let all = || inbox.receivers.values().cloned().collect();
            let (to, event) = match news {
                News::Up(peer, session) => (all(), Event::Up { peer, session }),
                News::Down(peer, session) => (all(), Event::Down { peer, session }),
                News::Announce(channel, peer, session) => (
                    inbox.receivers.get(&channel).cloned().into_iter().collect(),
                    Event::Up { peer, session },
                ),
            };
            if let Event::Up { peer, session } = event
                && let Some(there) = inbox.sessions.get_mut(&peer)
                && there.number == session
            {
                there.up = true;
            }
            return Some((to, event, None));
        }
        if inbox.held {
            return None;
        }
        let class = inbox.frames.iter().position(|frames| !frames.is_empty())?;
        let Arrived { from, session, channel, frame, under_way } =
            inbox.frames[class].pop_front()?;
        let spent = Spent { under_way, class, bytes: frame.len() as u64 };
        let to = inbox.receivers.get(&channel).cloned().into_iter().collect();
        Some((to, Event::Frame { from, session, frame }, Some(spent)))
    }
}

/// Bytes that are under way until this is dropped.
struct Spent {
    under_way: Arc<[AtomicU64; 3]>,
    class: usize,
    bytes: u64,
}

impl Drop for Spent {
    fn drop(&mut self) {
        self.under_way[self.class].fetch_sub(self.bytes, SeqCst);
    }
}

async fn hand_out(node: Arc<Node>) {
    loop {
        let arrived = node.arrived.notified();
        while let Some((receivers, event, _spent)) = node.next() {
            for receiver in receivers {
                receiver.event(event.clone());
            }
            tokio::task::yield_now().await;
        }
        if lock(&node.inbox).stopped {
            return;
        }
        arrived.await;
    }
}

/// A node's transport in memory.
pub struct MemoryTransport {
    net: Arc<Net>,
    node: Arc<Node>,
}

impl Transport for MemoryTransport {
    fn me(&self) -> Member {
        self.node.me
    }

    fn max_frame_bytes(&self) -> usize {
        MAX_FRAME
    }

    fn send(
        &self,
        to: Member,
        channel: Channel,
        class: Class,
        frame: Bytes,
    ) -> Result<(), SendError> {
        let bytes = frame.len();
        if bytes > MAX_FRAME {
            return Err(SendError::TooLarge { bytes, limit: MAX_FRAME });
        }
        let inbox = lock(&self.node.inbox);
        let session = inbox.sessions.get(&to).filter(|session| session.up);
        let session = session.ok_or(SendError::NotConnected)?;
        let peer = session.peer.upgrade().ok_or(SendError::NotConnected)?;
        let (number, under_way) = (session.number, session.under_way.clone());
        drop(inbox);
        let used = under_way[class as usize].load(SeqCst) as usize;
        if used + bytes > WINDOW && used > WINDOW / 2 {
            return Err(SendError::Full);
        }
        let mut theirs = lock(&peer.inbox);
        if theirs.sessions.get(&self.node.me).is_none_or(|session| session.number != number) {
            return Err(SendError::NotConnected);
        }
        under_way[class as usize].fetch_add(bytes as u64, SeqCst);
        let (from, channel) = (self.node.me, channel as u8);
        let arrived = Arrived { from, session: number, channel, frame, under_way };
        theirs.frames[class as usize].push_back(arrived);
        drop(theirs);
        peer.arrived.notify_one();
        Ok(())
    }

    fn listen(&self, channel: Channel, receiver: Arc<dyn Receiver>) {
        let mut inbox = lock(&self.node.inbox);
        inbox.receivers.insert(channel as u8, receiver);
        let up: Vec<_> = inbox
            .sessions
            .iter()
            .filter(|(_, session)| session.up)
            .map(|(peer, session)| News::Announce(channel as u8, *peer, session.number))
            .collect();
        // Before the end of a session that is about to be announced.
        for news in up.into_iter().rev() {
            inbox.news.push_front(news);
        }
        drop(inbox);
        self.node.arrived.notify_one();
    }

    fn reach(&self, address: &str) {
        lock(&self.net.world).wishes.insert((self.node.me, address.to_owned()));
        self.net.connect_all();
    }

    fn forget(&self, address: &str) {
        let mut world = lock(&self.net.world);
        world.wishes.remove(&(self.node.me, address.to_owned()));
        let inbox = lock(&self.node.inbox);
        let wished = inbox.sessions.iter().find(|(_, s)| s.wish.as_deref() == Some(address));
        let peer = wished.map(|(peer, _)| *peer);
        drop(inbox);
        if let Some(peer) = peer {
            self.node.end(peer);
        }
    }

    fn peers(&self) -> Vec<Member> {
        let inbox = lock(&self.node.inbox);
        inbox.sessions.iter().filter(|(_, session)| session.up).map(|(peer, _)| *peer).collect()
    }
}
