//! A link's keeper: the actor above its session.
//!
//! ```text
//! overseer ── keeper ── NodeServer ── NodeSession ── connection
//!                                          └──────── the peer's gateway, as seen from here (the twin)
//! ```
//!
//! Each link has a NodeServer of its own: then the rules by which ractor_cluster chooses between
//! sessions of the same peer never apply, its cookie is known to the two sides alone, and what happens
//! to one session touches no other. A NodeServer cannot do without a listener: it is on loopback, and
//! nobody knows the cookie that would get through.
//!
//! The keeper monitors the twin. When the session ends, for whatever reason, the twin ends, the keeper
//! hears of it as any supervisor would, and announces the link's end.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, ActorStatus, SupervisionEvent};
use ractor_cluster::{
    NodeEventSubscription, NodeServer, NodeServerMessage, NodeSessionMessage,
    node::{NodeConnectionMode, NodeServerSessionInformation},
};

use super::{
    config::MAX_CONTROL_BYTES, connection::Wire, core::Core, forming::announce_if_whole,
    peer::Link, stream::SessionStream,
};

/// The longest message of a session: all Control frames that may be under way, a piece of a Data
/// frame, and what surrounds them.
const MAX_SESSION_MESSAGE: u64 = 2 * MAX_CONTROL_BYTES as u64 + (1 << 20);

enum KeeperMessage {
    /// The session is ready.
    Ready(ActorRef<NodeSessionMessage>),
    /// The session ended.
    Over,
}

// Local only: never sent to another node.
impl ractor::Message for KeeperMessage {}

struct Keeper {
    core: Arc<Core>,
    link: Arc<Link>,
}

/// Starts the session of a link on its connection. The link ends where it is not whole in time.
pub(crate) fn start(core: &Arc<Core>, link: &Arc<Link>, wire: Wire) {
    let (core, link) = (core.clone(), link.clone());
    tokio::spawn(async move {
        if let Err(reason) = spawn(&core, &link, wire).await {
            tracing::warn!(peer = %link.peer, reason, "a session did not start");
            return core.end(&link);
        }
        tokio::time::sleep(Duration::from_millis(core.config.handshake_ms)).await;
        if link.is_forming() {
            link.close("not all of its connections came in time");
            core.end(&link);
        }
    });
}

async fn spawn(core: &Arc<Core>, link: &Arc<Link>, wire: Wire) -> Result<(), String> {
    let Some(overseer) = core.overseer.get() else { return Err("not started".to_owned()) };
    let keeper = Keeper { core: core.clone(), link: link.clone() };
    let (keeper, _) = Actor::spawn_linked(None, keeper, wire, overseer.clone())
        .await
        .map_err(|error| error.to_string())?;
    link.set_keeper(keeper.get_cell());
    // It may have ended before its keeper was known.
    if !link.is_forming() && !link.is_up() {
        keeper.stop(None);
    }
    Ok(())
}

impl Actor for Keeper {
    type Msg = KeeperMessage;
    /// The session's server.
    type State = ActorRef<NodeServerMessage>;
    type Arguments = Wire;

    async fn pre_start(
        &self,
        myself: ActorRef<KeeperMessage>,
        wire: Wire,
    ) -> Result<Self::State, ActorProcessingErr> {
        let (me, boot, number) = (self.core.config.me, self.core.boot, self.link.number);
        // Names are only compared: no two servers anywhere may have the same.
        let server = NodeServer::new(
            0,
            self.link.cookie.clone(),
            format!("{me}-{boot:016x}-{number}"),
            format!("{me}-{boot:016x}-{number}"),
            None,
            Some(NodeConnectionMode::Isolated),
        )
        .with_listen_addr(IpAddr::V4(Ipv4Addr::LOCALHOST))
        .with_max_inbound_frame_size(MAX_SESSION_MESSAGE);
        let (server, _) = Actor::spawn_linked(None, server, (), myself.get_cell()).await?;
        server.cast(NodeServerMessage::SubscribeToEvents {
            id: "keeper".to_owned(),
            subscription: Box::new(Subscription(myself)),
        })?;
        server.cast(NodeServerMessage::ConnectionOpenedExternal {
            stream: Box::new(SessionStream { wire, link: self.link.clone() }),
            is_server: !self.link.dialled,
        })?;
        Ok(server)
    }

    async fn handle(
        &self,
        myself: ActorRef<KeeperMessage>,
        message: KeeperMessage,
        _: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            KeeperMessage::Ready(session) => self.ready(&myself, &session),
            KeeperMessage::Over => self.core.end(&self.link),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<KeeperMessage>,
        event: SupervisionEvent,
        server: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let ended = match event {
            SupervisionEvent::ActorFailed(actor, _)
            | SupervisionEvent::ActorTerminated(actor, ..) => actor.get_id(),
            _ => return Ok(()),
        };
        let twin = self.link.twin().map(|twin| twin.get_id());
        if Some(ended) == twin || ended == server.get_id() {
            self.core.end(&self.link);
        }
        Ok(())
    }
}

impl Keeper {
    /// The session is ready, so the actors of the peer are known: finds its gateway.
    fn ready(&self, myself: &ActorRef<KeeperMessage>, session: &ActorRef<NodeSessionMessage>) {
        let twin = session.get_cell().get_children().into_iter().find(|child| {
            let id = child.get_id();
            !id.is_local() && id.pid() == self.link.gateway
        });
        let Some(twin) = twin else {
            return self.link.close("the peer has no gateway");
        };
        myself.get_cell().monitor(twin.clone());
        self.link.set_twin(twin.clone().into());
        // One that ended before it was monitored tells nobody.
        if twin.get_status() >= ActorStatus::Stopping {
            return self.core.end(&self.link);
        }
        announce_if_whole(&self.core, &self.link);
    }
}

/// Passes on what happens to the one session of a server.
struct Subscription(ActorRef<KeeperMessage>);

impl NodeEventSubscription for Subscription {
    fn node_session_opened(&self, _: NodeServerSessionInformation) {}

    fn node_session_authenticated(&self, _: NodeServerSessionInformation) {}

    // The keeper is gone only where the link has ended already.
    fn node_session_ready(&self, session: NodeServerSessionInformation) {
        let _ = self.0.cast(KeeperMessage::Ready(session.actor));
    }

    fn node_session_disconnected(&self, _: NodeServerSessionInformation) {
        let _ = self.0.cast(KeeperMessage::Over);
    }
}

enum Nothing {}

// Local only: never sent to another node.
impl ractor::Message for Nothing {}

/// The supervisor of keepers and gateway: it outlives them.
struct Overseer;

impl Actor for Overseer {
    type Msg = Nothing;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Nothing>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Nothing>,
        event: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(actor, error) = event {
            tracing::error!(actor = %actor.get_id(), %error, "an actor of the links failed");
        }
        Ok(())
    }
}

/// Starts the overseer.
pub(crate) async fn oversee() -> Result<ActorCell, ractor::SpawnErr> {
    Ok(Actor::spawn(None, Overseer, ()).await?.0.get_cell())
}
