//! Links between nodes: the transport of a real cluster.
//!
//! Start here, then read downwards; each module uses only those above it:
//!
//! | module | what it holds |
//! |---|---|
//! | `refusal` | why connections are refused: counted and logged |
//! | `who` | who a certificate names: a node, or a client |
//! | `tls` | mutual TLS 1.3 |
//! | `config` | what links are set up with |
//! | [`dev`] | certificates for development |
//! | `wire`, `parcel` | the bytes: messages of the handshake, records after it |
//! | `connection` | TLS or plain; how one is cut off that others use |
//! | `handshake` | who is it, and is it really now |
//! | `credit` | how much may be under way |
//! | `phi`, `pulse` | how likely a silent peer is gone, and signs of life as they come |
//! | `receivers` | who listens on which channel |
//! | `peer` | a link: what waits to be sent, what came |
//! | `hub` | begin and end of sessions, as others hear of them |
//! | `core` | which links there are, which of two is kept |
//! | `gateway` | the one actor that peers can send to |
//! | `stream` | the session's connection, as ractor_cluster takes it |
//! | `lane` | a connection of its own for Data or Bulk frames |
//! | `forming` | from a link's first connection to its announcement; signs of life |
//! | `keeper` | the actor above a link's session |
//! | `listener`, `dialer` | where connections come from |
//!
//! A link is one session with one peer, over up to three connections that the same side dials:
//!
//! ```text
//!  Control ─► parcels ─► ractor_cluster session: gateway to gateway ─┐
//!  Data    ─► records ─► a connection of its own (or the session)  ──┼─► mutual TLS 1.3, TCP
//!  Bulk    ─► records ─► a connection of its own                   ──┘
//! ```
//!
//! It is announced when all of them stand, and ends when one of them breaks or the peer is silent
//! for too long: longer than is likely by how regularly it was heard, and at the latest after
//! [`silence_ms`](LinkConfig::silence_ms). The end always takes the same way: the session's connection is cut off, so the
//! session's actors end, so the [supervisor](Links::monitor) of the peer's gateway hears of it, and
//! then receivers hear `Down`.
//!
//! ```
//! # #[tokio::main(flavor = "multi_thread", worker_threads = 2)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! use duractor::link::{LinkConfig, Links, Membership, Security, dev::DevCa};
//! use duractor_journal::{Member, Transport};
//! use futures_util::StreamExt;
//!
//! let ca = DevCa::create(dir.path(), "shop")?;
//! let config = |node| -> Result<LinkConfig, Box<dyn std::error::Error>> {
//!     let files = Security::Tls(ca.node(node)?);
//!     Ok(LinkConfig::new(Member::new(node, 1), "shop", "127.0.0.1:0".parse()?, files))
//! };
//! let one = Links::start(config(1)?).await?;
//! let two = Links::start(config(2)?).await?;
//! let mut membership = one.membership();
//! one.reach(&two.address().to_string());
//! let peer = two.me();
//! assert_eq!(membership.next().await, Some(Membership::PeerUp { peer }));
//! one.shutdown().await;
//! two.shutdown().await;
//! # Ok(())
//! # }
//! ```

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use duractor_journal::{
    Member, Transport,
    transport::{Channel, Class, Receiver, SendError},
};
use ractor::{Actor, ActorCell};
use tokio::{net::TcpListener, task::AbortHandle};

mod config;
mod connection;
mod core;
mod credit;
pub mod dev;
mod dialer;
mod forming;
mod gateway;
mod handshake;
mod hub;
mod keeper;
mod lane;
mod listener;
mod parcel;
mod peer;
mod phi;
mod pulse;
mod receivers;
mod refusal;
mod stream;
mod tls;
mod who;
mod wire;

pub use config::{DataLane, LinkConfig, LinkError, Security};
pub use hub::{Membership, MembershipEvents};
pub use refusal::{Refusal, Refusals};
pub use tls::{TlsError, TlsFiles};
pub use who::FIRST_CLIENT;
pub(crate) use who::{draw_client, is_client};

use self::{core::Core, gateway::Gateway};

/// A node's links to others: the [`Transport`] of a real cluster.
///
/// Call [`shutdown`](Self::shutdown) when done: dropping it stops nothing.
pub struct Links {
    core: Arc<Core>,
    address: SocketAddr,
    /// `None` for a client.
    accepting: Option<AbortHandle>,
}

impl Links {
    /// Reads the certificates, listens, and takes connections from now on; a client listens nowhere.
    /// Dials nobody: see [`Transport::reach`].
    ///
    /// # Errors
    /// [`LinkError`]; nothing runs then.
    pub async fn start(config: LinkConfig) -> Result<Arc<Self>, LinkError> {
        config.check()?;
        let tls = match &config.security {
            Security::Insecure => None,
            Security::Tls(files) => Some(load(&config, files.clone()).await?),
        };
        let listener = match is_client(config.me) {
            true => None,
            false => Some(listen_at(config.listen).await?),
        };
        let core = Core::new(config, tls);
        let overseer = keeper::oversee().await.map_err(actor_error)?;
        let weak = Arc::downgrade(&core);
        let (gateway, _) = Actor::spawn_linked(None, Gateway, weak, overseer.clone())
            .await
            .map_err(actor_error)?;
        // Both are set here alone.
        let _ = core.gateway.set(gateway);
        let _ = core.overseer.set(overseer);
        let (accepting, address) = match listener {
            Some((listener, address)) => {
                let accepting = tokio::spawn(listener::run(core.clone(), listener));
                (Some(accepting.abort_handle()), address)
            }
            None => (None, SocketAddr::from(([0, 0, 0, 0], 0))),
        };
        let (me, secure) = (core.config.me, core.tls.is_some());
        tracing::info!(%me, %address, secure, "links are up");
        Ok(Arc::new(Self { core, address, accepting }))
    }

    /// Where this node listens. `0.0.0.0:0` for a client, which listens nowhere.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often connections were refused, by reason.
    #[must_use]
    pub fn refusals(&self) -> Refusals {
        self.core.book.counts()
    }

    /// Peers that come, go and come back, from now on. Those that are up come first.
    #[must_use]
    pub fn membership(&self) -> MembershipEvents {
        self.core.hub.follow(|| self.core.links())
    }

    /// Lets an actor supervise a peer: when the link is lost, it hears
    /// [`ActorTerminated`](ractor::SupervisionEvent::ActorTerminated) (or `ActorFailed`) of the
    /// peer's gateway, which this returns. `None` where there is no link with the peer now.
    ///
    /// That holds for one session. For the next one, call it again when the peer is back.
    #[must_use]
    pub fn monitor(&self, peer: Member, supervisor: &ActorCell) -> Option<ActorCell> {
        let link = self.core.link(peer).filter(|link| link.is_up())?;
        let gateway = link.twin()?;
        supervisor.monitor(gateway.clone());
        // One that ended before it was monitored tells nobody.
        link.is_up().then_some(gateway)
    }

    /// Ends all links, tells receivers, and takes no more. Frames that are under way may be lost.
    pub async fn shutdown(&self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
        self.core.close();
        if let Some(overseer) = self.core.overseer.get() {
            let _ = overseer.stop_and_wait(None, None).await;
        }
    }
}

async fn listen_at(listen: SocketAddr) -> Result<(TcpListener, SocketAddr), LinkError> {
    let cannot = |error| LinkError::Listen { listen, error };
    let listener = TcpListener::bind(listen).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    Ok((listener, address))
}

async fn load(config: &LinkConfig, files: TlsFiles) -> Result<tls::Tls, LinkError> {
    let (cluster, me) = (config.cluster.clone(), config.me);
    let clock = config.env.clock.clone();
    let loaded = config.env.offload(move || tls::load(&files, (&cluster, me), clock)).await;
    let stopped = || LinkError::Actor { reason: "the runtime is shutting down".to_owned() };
    Ok(loaded.ok_or_else(stopped)??)
}

fn actor_error(error: ractor::SpawnErr) -> LinkError {
    LinkError::Actor { reason: error.to_string() }
}

impl Transport for Links {
    fn me(&self) -> Member {
        self.core.config.me
    }

    fn max_frame_bytes(&self) -> usize {
        self.core.config.max_frame_bytes
    }

    /// As the trait says. Control frames are limited to
    /// [`control_window_bytes`](LinkConfig::control_window_bytes).
    fn send(
        &self,
        to: Member,
        channel: Channel,
        class: Class,
        frame: Bytes,
    ) -> Result<(), SendError> {
        let limit = match class {
            Class::Control => self.core.config.control_window_bytes - 64,
            Class::Data | Class::Bulk => self.core.config.max_frame_bytes,
        };
        if frame.len() > limit {
            return Err(SendError::TooLarge { bytes: frame.len(), limit });
        }
        let link = self.core.link(to).filter(|link| link.is_up());
        link.ok_or(SendError::NotConnected)?.send(channel, class, frame)
    }

    /// As the trait says. Not to be called by a receiver while it takes an event.
    fn listen(&self, channel: Channel, receiver: Arc<dyn Receiver>) {
        self.core.hub.listen(channel, receiver, || self.core.links());
    }

    fn reach(&self, address: &str) {
        let (core, address) = (self.core.clone(), address.to_owned());
        self.core.add_dial(&address.clone(), || {
            tokio::spawn(dialer::keep(core, address)).abort_handle()
        });
    }

    /// As the trait says. A link that the peer dialled stays.
    fn forget(&self, address: &str) {
        self.core.drop_dial(address);
    }

    /// As the trait says. Clients are no peers.
    fn peers(&self) -> Vec<Member> {
        let links = self.core.links();
        let up = links.iter().filter(|link| link.is_up() && !is_client(link.peer));
        up.map(|link| link.peer).collect()
    }

    fn phi(&self, peer: Member) -> Option<f64> {
        self.core.link(peer).filter(|link| link.is_up())?.pulse.phi()
    }
}
