//! What all parts of a node's links share: which links there are, and which of two is kept.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use duractor_journal::{Member, NodeId};
use ractor::{ActorCell, ActorRef};
use tokio::task::AbortHandle;

use super::{
    config::LinkConfig,
    handshake::Met,
    hub::Hub,
    parcel::Parcel,
    peer::Link,
    refusal::{Book, Refusal, Refused},
    tls::Tls,
    who::{FIRST_CLIENT, is_client},
    wire::{Purpose, Speaker, Token},
};

/// Sessions with a peer that ended, as many as are remembered: so that the peer is told of the one
/// that it may still think is there.
const LOST: usize = 4;

#[derive(Default)]
struct Table {
    closed: bool,
    /// At most one link with each node, and with each client.
    links: BTreeMap<Member, Arc<Link>>,
    /// Looked up, never iterated.
    by_token: HashMap<Token, Arc<Link>>,
    lost: BTreeMap<NodeId, Vec<Token>>,
    dials: BTreeMap<String, AbortHandle>,
}

impl Table {
    /// How many links there are with clients.
    fn clients(&self) -> usize {
        self.links.range(Member::new(FIRST_CLIENT, 0)..).count()
    }
}

/// Under what a link is found: a node has one, whatever its incarnation. A client is one process, and
/// the incarnation is a part of what it has drawn.
fn seat(peer: Member) -> Member {
    if is_client(peer) { peer } else { Member { node: peer.node, incarnation: 0 } }
}

fn named(met: &Met) -> &str {
    met.name.as_deref().unwrap_or("a client without a certificate")
}

/// What all parts share.
pub(crate) struct Core {
    pub(crate) config: LinkConfig,
    pub(crate) tls: Option<Tls>,
    /// Drawn when the process started: tells a restarted node from one that dials again.
    pub(crate) boot: u64,
    pub(crate) book: Book,
    pub(crate) hub: Hub,
    pub(crate) gateway: OnceLock<ActorRef<Parcel>>,
    /// The supervisor of all links' keepers.
    pub(crate) overseer: OnceLock<ActorCell>,
    table: Mutex<Table>,
    next_number: AtomicU64,
}

impl Core {
    pub(crate) fn new(config: LinkConfig, tls: Option<Tls>) -> Arc<Self> {
        let boot = config.env.entropy.next_u64();
        Arc::new(Self {
            config,
            tls,
            boot,
            book: Book::default(),
            hub: Hub::default(),
            gateway: OnceLock::new(),
            overseer: OnceLock::new(),
            table: Mutex::default(),
            next_number: AtomicU64::new(1),
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn speaker(&self) -> Speaker {
        Speaker {
            cluster: self.config.cluster.clone(),
            member: self.config.me,
            boot: self.boot,
            gateway: self.gateway.get().map_or(0, |gateway| gateway.get_id().pid()),
        }
    }

    pub(crate) fn by_token(&self, token: &Token) -> Option<Arc<Link>> {
        self.table().by_token.get(token).cloned()
    }

    /// The link with a member, announced or not.
    pub(crate) fn link(&self, peer: Member) -> Option<Arc<Link>> {
        self.table().links.get(&seat(peer)).filter(|link| link.peer == peer).cloned()
    }

    /// All links, in the order of their nodes; clients come last.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        self.table().links.values().cloned().collect()
    }

    /// Whether a dial may go to this address.
    pub(crate) fn may_dial(&self, ip: IpAddr) -> bool {
        self.tls.is_some() || ip.is_loopback()
    }

    /// A session that was dialled here and has met its peer: a link to be formed, and the sessions
    /// with it that were lost.
    pub(crate) fn begin_dialled(&self, met: &Met) -> Result<(Arc<Link>, Vec<Token>), Refused> {
        let link = self.begin(met, true)?;
        let lost = self.table().lost.get(&met.peer.node).cloned().unwrap_or_default();
        Ok((link, lost))
    }

    /// A session that a peer dialled: a link to be formed.
    pub(crate) fn begin_accepted(&self, met: &Met) -> Result<Arc<Link>, Refused> {
        self.begin(met, false)
    }

    fn begin(&self, met: &Met, dialled: bool) -> Result<Arc<Link>, Refused> {
        let mut table = self.table();
        if table.closed {
            return Err(Refused::new(Refusal::Closing, "no more links"));
        }
        let old = table.links.get(&seat(met.peer)).cloned();
        if let Some(old) = &old {
            let there = There { boot: old.boot, token: old.token, dialled: old.dialled };
            if !takes_over(self.config.me.node, &there, met, dialled) {
                return Err(Refused::new(Refusal::Duplicate, format!("with {}", met.peer)));
            }
        }
        if is_client(met.peer) && old.is_none() && table.clients() >= self.config.max_clients {
            let detail = format!("{} are, and {} is one more", table.clients(), named(met));
            return Err(Refused::new(Refusal::Clients, detail));
        }
        let number = self.next_number.fetch_add(1, SeqCst);
        let link = Link::new(met, number, dialled, &self.config, self.hub.receivers.clone());
        table.links.insert(seat(met.peer), link.clone());
        table.by_token.insert(link.token, link.clone());
        drop(table);
        if is_client(met.peer) {
            tracing::info!(peer = %met.peer, name = named(met), number, "a client comes");
        }
        if let Some(old) = old {
            let restarted = old.boot != met.boot;
            old.close(if restarted { "the peer was restarted" } else { "the peer dialled again" });
            self.end(&old);
        }
        Ok(link)
    }

    /// The link that a connection of a lane belongs to.
    pub(crate) fn lane_of(&self, met: &Met) -> Result<Arc<Link>, Refused> {
        let (Purpose::Data(token) | Purpose::Bulk(token)) = met.purpose else {
            return Err(Refused::new(Refusal::Protocol, "a session is no lane"));
        };
        self.by_token(&token)
            .filter(|link| {
                (link.peer, link.boot, link.dialled) == (met.peer, met.boot, false)
                    && link.is_forming()
            })
            .ok_or_else(|| Refused::new(Refusal::NoSession, format!("of {}", met.peer)))
    }

    /// Ends a link: announces it, after all its frames, and frees what it holds.
    pub(crate) fn end(&self, link: &Arc<Link>) {
        if !self.hub.down(link) {
            return;
        }
        {
            let mut table = self.table();
            table.by_token.remove(&link.token);
            let place = seat(link.peer);
            if table.links.get(&place).is_some_and(|there| Arc::ptr_eq(there, link)) {
                table.links.remove(&place);
            }
            // Of use to who dials, and nobody dials clients: of these there is no end.
            if !is_client(link.peer) {
                let lost = table.lost.entry(link.peer.node).or_default();
                lost.push(link.token);
                let surplus = lost.len().saturating_sub(LOST);
                lost.drain(..surplus);
            }
        }
        link.dismantle();
    }

    /// Remembers the task that keeps a link to an address. False where there is one already.
    pub(crate) fn add_dial(&self, address: &str, start: impl FnOnce() -> AbortHandle) -> bool {
        let mut table = self.table();
        if table.closed || table.dials.contains_key(address) {
            return false;
        }
        let task = start();
        table.dials.insert(address.to_owned(), task);
        true
    }

    /// Ends the task that keeps a link to an address.
    pub(crate) fn drop_dial(&self, address: &str) -> bool {
        let task = self.table().dials.remove(address);
        task.inspect(AbortHandle::abort).is_some()
    }

    /// Takes no more links and ends those that are there.
    pub(crate) fn close(&self) {
        let links = {
            let mut table = self.table();
            table.closed = true;
            for task in std::mem::take(&mut table.dials).into_values() {
                task.abort();
            }
            table.links.values().cloned().collect::<Vec<_>>()
        };
        for link in links {
            link.close("this node shuts down its links");
            self.end(&link);
        }
        self.hub.close();
    }
}

/// A link that has begun: it ends if its beginning does not come to an end.
pub(crate) struct Begun {
    core: Arc<Core>,
    link: Mutex<Option<Arc<Link>>>,
}

impl Begun {
    pub(crate) fn new(core: &Arc<Core>) -> Self {
        Self { core: core.clone(), link: Mutex::default() }
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<Link>>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, link: &Arc<Link>) {
        *self.slot() = Some(link.clone());
    }

    pub(crate) fn keep(self) {
        self.slot().take();
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let link = self.slot().take();
        if let Some(link) = link {
            self.core.end(&link);
        }
    }
}

/// The link that is there already.
struct There {
    boot: u64,
    token: Token,
    dialled: bool,
}

/// Whether a new session with a peer takes the place of the one that is there. Both sides come to
/// the same result whatever the order in which they learn of the two:
///
/// * a peer that was restarted knows nothing of the old one;
/// * who dials while it has a session does not go on: it has one;
/// * a peer that says it lost the old one did lose it;
/// * of two that were dialled at once from both sides, the one dialled by the lower node stays;
/// * a peer that dials twice knows what it does: the later one counts.
fn takes_over(me: NodeId, there: &There, new: &Met, dialled: bool) -> bool {
    if there.boot != new.boot {
        return true;
    }
    if dialled {
        return false;
    }
    new.lost.contains(&there.token) || !there.dialled || new.peer.node < me
}

#[cfg(test)]
mod tests {
    use super::{super::config::DataLane, *};

    fn met(peer: u32, boot: u64, lost: Vec<Token>) -> Met {
        Met {
            peer: Member::new(peer, 1),
            boot,
            gateway: 0,
            purpose: Purpose::Session,
            data_lane: DataLane::Own,
            token: [0; 16],
            cookie: String::new(),
            lost,
            name: None,
        }
    }

    #[test]
    fn of_two_sessions_both_sides_keep_the_same() {
        let there = |dialled| There { boot: 7, token: [1; 16], dialled };
        let takes = |me, dialled_there, new: &Met, dialled| {
            takes_over(NodeId(me), &there(dialled_there), new, dialled)
        };
        // Nodes 1 and 2 dialled at once. Each has its own session and is told of the other's.
        assert!(!takes(1, true, &met(2, 7, vec![]), false), "node 1 keeps what it dialled");
        assert!(takes(2, true, &met(1, 7, vec![]), false), "and node 2 gives up its own");
        // Node 2 has lost the session that node 1 dialled, and node 1 does not know yet.
        assert!(takes(1, true, &met(2, 7, vec![[9; 16], [1; 16]]), false));
        // A restarted peer.
        assert!(takes(1, true, &met(2, 8, vec![]), false));
        assert!(takes(1, true, &met(2, 8, vec![]), true));
        // A dial that was overtaken.
        assert!(!takes(1, false, &met(2, 7, vec![]), true));
    }
}
