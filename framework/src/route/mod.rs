//! Commands on their way to the node that runs the entity, and their answers on the way back.
//!
//! ```text
//!   caller's node                                        the shard's leader
//!   Ask ── Router::ask ── Frame::Ask ───────────────────► Host::arrived ── the entity's mailbox
//!    ▲        │ NotOwner: learns who leads, tries there                         │
//!    └────────┴────────── Frame::Answer ◄──────────────── Away ◄────────────────┘
//! ```
//!
//! A frame arrives at most once. What is lost with a link has an unknown outcome; whether it is tried
//! again is for [`Trail`] to say, which sees to it that a caller is never told that nothing happened
//! when an earlier try may have done something.

mod trail;
mod way;
mod wire;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use duractor_journal::{
    EntityId, Env, Member, RequestId, Seq, ShardId, Transport,
    transport::{Channel, Class, Event, Receiver},
};
use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout_at};

use self::trail::{Next, Trail};
pub(crate) use self::way::Way;
use self::wire::{Ask, Frame, Refusal, Sender};
use crate::{
    delivery::Away,
    error::AskError,
    intent::Options,
    link::is_client,
    meta::{Origin, is_reserved},
    pending::Pending,
};

/// Commands to other nodes that wait for their answers at once. More are refused.
const MAX_WAITING: usize = 1 << 18;

/// Entities that are made ready for one hand-over.
pub(crate) const MAX_READY: usize = 256;

/// A command of another node's caller.
pub(crate) struct Arrived {
    pub(crate) entity: EntityId,
    pub(crate) command: String,
    pub(crate) version: u16,
    pub(crate) payload: Bytes,
    pub(crate) options: Options,
    pub(crate) reply: Away,
}

/// Takes commands that arrive. Must not block.
pub(crate) trait Host: Send + Sync {
    fn arrived(&self, arrived: Arrived);

    /// Reads entities that will be needed.
    fn make_ready(&self, entities: Vec<EntityId>) -> BoxFuture<'static, ()>;
}

/// A command that is sent to another node.
pub(crate) struct Outgoing<'a> {
    pub(crate) entity: &'a EntityId,
    pub(crate) command: &'a str,
    pub(crate) version: u16,
    pub(crate) payload: &'a Bytes,
    pub(crate) options: &'a Options,
}

/// A node's way to the entities of other nodes, and theirs to its own.
pub(crate) struct Router {
    transport: Arc<dyn Transport>,
    shards: u16,
    host: OnceLock<Arc<dyn Host>>,
    pending: Pending<Result<Bytes, Refusal>>,
    /// Who leads each shard, as other nodes said last; 0 where none did.
    leaders: Vec<AtomicU64>,
}

impl Router {
    /// Listens to the others from now on.
    pub(crate) fn start(transport: Arc<dyn Transport>, shards: u16, env: &Env) -> Arc<Self> {
        let router = Arc::new(Self {
            transport,
            shards,
            host: OnceLock::new(),
            pending: Pending::new(env.entropy.next_u64()),
            leaders: (0..shards).map(|_| AtomicU64::new(0)).collect(),
        });
        router.transport.listen(Channel::Entities, Arc::new(Ear(Arc::downgrade(&router))));
        router
    }

    /// Who takes what arrives. Before it is set, callers are told to come again.
    pub(crate) fn host(&self, host: Arc<dyn Host>) {
        // It is set once.
        let _ = self.host.set(host);
    }

    pub(crate) fn me(&self) -> Member {
        self.transport.me()
    }

    /// Takes in who leads a shard.
    pub(crate) fn learn(&self, shard: ShardId, leader: Option<Member>) {
        if let Some(known) = self.leaders.get(usize::from(shard.0)) {
            known.store(leader.map_or(0, Member::to_u64), Relaxed);
        }
    }

    /// Who leads a shard, as other nodes said last.
    pub(crate) fn known(&self, shard: ShardId) -> Option<Member> {
        let known = self.leaders.get(usize::from(shard.0))?.load(Relaxed);
        (known != 0).then(|| Member::from_u64(known))
    }

    /// Whom to ask for a shard's leader, or its entities: who is known to lead by one of the `hints`, or
    /// was the leader, or anyone. Nobody twice before everybody was asked once: a hint may be about a
    /// node that is gone, and who knows better may be any of the others.
    pub(crate) fn target(
        &self,
        shard: ShardId,
        hints: [Option<Member>; 2],
        asked: &mut Asked,
    ) -> Option<Member> {
        let peers = self.transport.peers();
        let hints: Vec<_> = hints.into_iter().chain([self.known(shard)]).flatten().collect();
        let next = asked.next(self.me(), &hints, &peers);
        next.or_else(|| {
            asked.round.clear();
            asked.next(self.me(), &hints, &peers)
        })
    }

    /// Gives a command to an entity of another node, and waits for what becomes of it: the reply as
    /// [`encode_reply`](crate::encode_reply) makes it.
    pub(crate) async fn ask(
        &self,
        to: Member,
        outgoing: &Outgoing<'_>,
        deadline: Instant,
    ) -> Result<Bytes, AskError> {
        let Outgoing { entity, command, version, payload, options } = outgoing;
        let shard = entity.shard(self.shards);
        let full = |open: usize| AskError::NodeBusy { open: open as u64 };
        let mut question = self.pending.ask(to, MAX_WAITING).map_err(full)?;
        let left = deadline.saturating_duration_since(Instant::now());
        let ask = Ask {
            id: question.id,
            kind: entity.kind().to_owned(),
            key: entity.key().to_owned(),
            command: (*command).to_owned(),
            version: *version,
            timeout_ms: left.as_millis() as u64,
            request_id: options.request_id.as_ref().map(|id| RequestId::as_str(id).to_owned()),
            expected_revision: options.expected_revision.map(|revision| revision.0),
            payload: (*payload).clone(),
            lease_read: options.lease_read,
        };
        let unavailable = |why: String| AskError::Unavailable { shard, reason: why };
        let frame = match options.origin.as_deref() {
            Some(Origin::Delivery { from, number, since, wants_reply }) => {
                let (kind, key) = (from.kind().to_owned(), from.key().to_owned());
                let (number, since, wants_reply) = (*number, since.0, *wants_reply);
                Frame::Deliver { ask, sender: Sender { kind, key, number, since, wants_reply } }
            }
            _ => Frame::Ask(ask),
        };
        let frame = frame.encode().map_err(unavailable)?;
        if let Err(error) = self.transport.send(to, Channel::Entities, Class::Data, frame) {
            return Err(unavailable(format!("node {to}: {error}")));
        }
        match timeout_at(deadline, &mut question.answer).await {
            Ok(Ok(answer)) => {
                answer.map_err(|refusal| refusal.error(to, entity, command, self.shards))
            }
            Ok(Err(_)) => {
                let reason = format!("the link to node {to} was lost before it answered");
                Err(AskError::OutcomeUnknown { shard, reason })
            }
            Err(_) => Err(AskError::Timeout { entity: (*entity).clone() }),
        }
    }

    fn answer(&self, to: Member, id: u64, answer: Result<Bytes, AskError>) {
        let answer = answer.map_err(|error| Refusal::from(&error));
        let sent = Frame::Answer { id, answer }.encode().and_then(|frame| {
            let sent = self.transport.send(to, Channel::Entities, Class::Data, frame);
            sent.map_err(|error| error.to_string())
        });
        if let Err(error) = sent {
            // Its caller hears of the lost link, or waits until its time is over.
            tracing::debug!(%to, error, "an answer is not sent");
        }
    }

    fn arrived(self: &Arc<Self>, from: Member, ask: Ask, origin: Option<Box<Origin>>) {
        let (entity, request_id) = match ask.target() {
            Ok(target) => target,
            Err(error) => return tracing::error!(%from, error, "a malformed command"),
        };
        // What the framework says to itself is not for clients: locks' and transactions' entities take
        // their word for granted.
        if is_client(from) && (is_reserved(entity.kind()) || is_reserved(&ask.command)) {
            let (kind, command) = (entity.kind().to_owned(), ask.command);
            return self.answer(from, ask.id, Err(AskError::UnknownCommand { kind, command }));
        }
        let Some(host) = self.host.get() else {
            let shard = entity.shard(self.shards);
            return self.answer(from, ask.id, Err(AskError::NotOwner { shard, leader: None }));
        };
        let (router, id) = (Arc::downgrade(self), ask.id);
        let reply = Away::new(entity.clone(), move |answer| {
            if let Some(router) = router.upgrade() {
                router.answer(from, id, answer);
            }
        });
        let options = Options {
            request_id,
            expected_revision: ask.expected_revision.map(Seq),
            lease_read: ask.lease_read,
            deadline: Some(Instant::now() + Duration::from_millis(ask.timeout_ms)),
            origin,
        };
        let Ask { command, version, payload, .. } = ask;
        host.arrived(Arrived { entity, command, version, payload, options, reply });
    }

    /// Has another node read these entities. Returns when it has, or will not; at `deadline` at the latest.
    pub(crate) async fn ready(&self, to: Member, entities: &[EntityId], deadline: Instant) {
        let Ok(mut question) = self.pending.ask(to, usize::MAX) else { return };
        let id = question.id;
        let entities = entities.iter().map(|id| (id.kind().to_owned(), id.key().to_owned()));
        let frame = Frame::Ready { id, entities: entities.collect() }.encode();
        let sent = frame
            .map(|frame| self.transport.send(to, Channel::Entities, Class::Data, frame).is_ok());
        if sent == Ok(true) {
            // It only makes things faster: what became of it does not matter.
            let _ = timeout_at(deadline, &mut question.answer).await;
        }
    }

    fn make_ready(self: &Arc<Self>, from: Member, id: u64, entities: Vec<(String, String)>) {
        let ids = entities.iter().take(MAX_READY).map(|(kind, key)| EntityId::new(kind, key));
        let ids: Vec<_> = ids.flatten().collect();
        let (router, host) = (Arc::downgrade(self), self.host.get().cloned());
        tokio::spawn(async move {
            if let Some(host) = host {
                host.make_ready(ids).await;
            }
            if let Some(router) = router.upgrade() {
                router.answer(from, id, Ok(Bytes::new()));
            }
        });
    }

    fn frame(self: &Arc<Self>, from: Member, frame: &Bytes) {
        match Frame::decode(frame) {
            Ok(Frame::Ask(ask)) => self.arrived(from, ask, None),
            Ok(Frame::Deliver { .. } | Frame::Ready { .. }) if is_client(from) => {
                tracing::warn!(%from, "a client may ask, and nothing else: not heard");
            }
            Ok(Frame::Deliver { ask, sender }) => match sender.origin() {
                Ok(origin) => self.arrived(from, ask, Some(Box::new(origin))),
                Err(error) => tracing::error!(%from, error, "a malformed delivery"),
            },
            Ok(Frame::Ready { id, entities }) => self.make_ready(from, id, entities),
            Ok(Frame::Answer { id, answer }) => self.pending.answered(from, id, answer),
            Err(error) => tracing::error!(%from, error, "a malformed message for entities"),
        }
    }
}

/// Whom a command was sent to.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// The last one.
    pub(crate) last: Option<Member>,
    /// Since everybody was asked.
    round: BTreeSet<Member>,
}

impl Asked {
    /// It is sent there now.
    pub(crate) fn note(&mut self, to: Member) {
        self.last = Some(to);
        self.round.insert(to);
    }

    fn next(&self, me: Member, hints: &[Member], peers: &[Member]) -> Option<Member> {
        let alone = peers.iter().all(|peer| Some(*peer) == self.last);
        let fit = |member: &&Member| {
            let just_asked = Some(**member) == self.last && !alone;
            **member != me && !self.round.contains(member) && !just_asked
        };
        let after = peers.iter().filter(|peer| Some(**peer) > self.last);
        hints.iter().chain(after).chain(peers).find(fit).copied()
    }
}

/// What the transport tells.
struct Ear(Weak<Router>);

impl Receiver for Ear {
    fn event(&self, event: Event) {
        let Some(router) = self.0.upgrade() else { return };
        match event {
            Event::Up { .. } => {}
            Event::Down { peer, .. } => router.pending.lost(peer),
            Event::Frame { from, frame, .. } => router.frame(from, &frame),
        }
    }
}
