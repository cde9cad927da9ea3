//! References to entities: how commands get to them.

use std::{any::TypeId, future::IntoFuture, sync::Arc, time::Duration};

use bytes::Bytes;
use duractor_journal::{EntityId, NodeId, RequestId, Seq, ShardId};
use futures_util::future::BoxFuture;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    command::Command,
    context::{Kinds, SideContext},
    delivery::{asked, told},
    effect::Handle,
    entity::{CommandSet, EventSourced},
    error::{AskError, NodeError},
    follow_ups::FollowUps,
    history::{Recorded, read},
    intent::Options,
    look::look_at_meta,
    route::{Outgoing, Router, Way},
    shadow::Shadowed,
    slot::{Kind, Slot},
};

/// The wait between two attempts to make sure that this node has the newest events.
const LOOK: Duration = Duration::from_millis(20);

/// A reference to one entity, whether it is in memory or not. Cheap to clone.
pub struct EntityRef<E: EventSourced> {
    pub(crate) kind: Arc<Kind<E>>,
    pub(crate) id: EntityId,
}

impl<E: EventSourced> Clone for EntityRef<E> {
    fn clone(&self) -> Self {
        Self { kind: self.kind.clone(), id: self.id.clone() }
    }
}

impl<E: EventSourced> EntityRef<E> {
    /// The entity of a kind with this key.
    pub(crate) fn find(kinds: &Kinds, key: &str) -> Result<Self, NodeError> {
        let kind = find_kind::<E>(kinds)?;
        Ok(Self { kind, id: EntityId::new(E::KIND, key)? })
    }

    /// Which entity this is.
    #[must_use]
    pub fn id(&self) -> &EntityId {
        &self.id
    }

    /// Which node runs the entity now, as far as this one knows: `None` while no leader of its shard is
    /// known here. Commands find their way without it; it may be out of date when it is returned.
    #[must_use]
    pub fn owner(&self) -> Option<NodeId> {
        let shared = &self.kind.shared;
        let shard = self.id.shard(shared.journal.shards());
        let router = shared.router.as_ref()?;
        if self.kind.owns(shard) {
            return Some(router.me().node);
        }
        self.kind.believed(shard).or_else(|| router.known(shard)).map(|member| member.node)
    }

    /// Sends a command and waits for the reply: `entity.ask(Add { by: 2 }).await?`.
    ///
    /// The reply comes once everything that it depends on is committed. The command is sent when the
    /// result is awaited (or turned into a future); [`Ask`] has what can be said beside it.
    ///
    /// In a cluster any node may be asked: the command goes to the node that runs the entity, and
    /// while leadership moves it is tried again within the time that the caller gave. What may have
    /// taken effect is tried again only with a [`request_id`](Ask::request_id); without one the
    /// caller hears an error whose [`effect`](AskError::effect) is unknown.
    #[must_use = "the command is sent when this is awaited"]
    pub fn ask<C: Command>(&self, command: C) -> Ask<E, C>
    where
        E: Handle<C>,
    {
        let timeout = self.kind.settings().ask_timeout;
        Ask { entity: self.clone(), command, timeout, options: Options::default() }
    }

    /// Sends a command and does not wait. Where this node runs the entity, it was taken into the
    /// mailbox when this returns; otherwise it is on its way to the node that does, within the
    /// [`ask_timeout`](crate::EntitySettings::ask_timeout). What became of it is logged where it was
    /// refused.
    ///
    /// # Errors
    /// [`AskError::Busy`] and the like, where it was not taken; nothing has happened then.
    pub fn tell<C: Command>(&self, command: C) -> Result<(), AskError>
    where
        E: Handle<C>,
    {
        check_known::<E, C>()?;
        let shard = self.id.shard(self.kind.shared.journal.shards());
        if self.kind.shared.router.is_none() || self.kind.owns(shard) {
            return Ok(self.kind.offer(&self.id, told(command))?);
        }
        send_off::<C>(self.id.clone(), self.ask(command).into_future());
        Ok(())
    }

    /// The entity's committed events with sequence numbers from `from` (the first has 1), at most
    /// `max` of them: for an audit trail, say. All that are returned are in memory at once, so ask
    /// for a long history page by page. Events that were deleted are left out. Reads the journal
    /// and does not bring the entity into memory.
    ///
    /// In a cluster any node that has a replica of the shard reads its own, once that has everything
    /// that was committed before the call.
    ///
    /// # Errors
    /// [`AskError::Journal`] where they cannot be read, [`AskError::Codec`] where one does not
    /// decode; [`AskError::Unavailable`] and the like where this node could not make sure within the
    /// [`ask_timeout`](crate::EntitySettings::ask_timeout) that it has the newest ones.
    pub async fn history(&self, from: Seq, max: u64) -> Result<Vec<Recorded<E::Event>>, AskError> {
        let shared = &self.kind.shared;
        let shard = self.id.shard(shared.journal.shards());
        let give_up = Instant::now() + self.kind.settings().ask_timeout;
        loop {
            let made_sure = match &shared.router {
                Some(_) if !self.kind.owns(shard) => {
                    let barrier = shared.journal.barrier(shard).await;
                    barrier.map(drop).map_err(AskError::journal)
                }
                _ => shared.confirm(shard).await,
            };
            match made_sure {
                Ok(()) => return self.local_history(from, max).await,
                Err(AskError::NotOwner { .. } | AskError::Unavailable { .. })
                    if shared.router.is_some() && Instant::now() + LOOK < give_up =>
                {
                    sleep(LOOK).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What the entity has yet to do without being called: deliveries, reminders; and which deliveries
    /// were given up. Brings the entity into memory.
    ///
    /// # Errors
    /// As a command; [`AskError::NotOwner`] where another node runs the entity: ask there.
    pub async fn follow_ups(&self) -> Result<FollowUps, AskError> {
        look_at_meta(&self.kind, &self.id, FollowUps::of).await
    }

    /// [`history`](Self::history) as far as this node has it, whoever owns the entity: the newest
    /// events may be missing.
    ///
    /// # Errors
    /// [`AskError::Journal`] where they cannot be read, [`AskError::Codec`] where one does not
    /// decode.
    pub async fn local_history(
        &self,
        from: Seq,
        max: u64,
    ) -> Result<Vec<Recorded<E::Event>>, AskError> {
        read(self.kind.shared.journal.as_ref(), &self.id, from, max).await
    }
}

/// A command that is about to be sent: await it.
#[must_use = "the command is sent when this is awaited"]
pub struct Ask<E: EventSourced, C: Command> {
    entity: EntityRef<E>,
    command: C,
    timeout: Duration,
    options: Options,
}

impl<E: Handle<C>, C: Command> Ask<E, C> {
    /// Makes the command safe to retry: a repeat with the same request id gets the first reply and
    /// changes nothing, across restarts too. Only commands that wrote events are remembered; one that
    /// wrote none had no effect, and a repeat is simply handled again.
    pub fn request_id(mut self, id: RequestId) -> Self {
        self.options.request_id = Some(id);
        self
    }

    /// How long to wait, in place of
    /// [`EntitySettings::ask_timeout`](crate::EntitySettings::ask_timeout). A command that is still
    /// in the mailbox then is dropped.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Reads at the shard's owner on the owner's lease alone: without it a read also waits until the
    /// journal has confirmed that the node still leads. The answer is the newest as long as clocks run at one
    /// rate and the process did not stand still; otherwise it may be as old as that took. On one node, and for
    /// commands that write, it changes nothing.
    pub fn lease_read(mut self) -> Self {
        self.options.lease_read = true;
        self
    }

    /// Asks this node's own replica of the shard, whoever owns it: the answer may be old, and says how old
    /// by the entity's revision. Nothing is sent to another node, so this also works where no quorum can be
    /// reached. The command's handler may only look; see [`AskStale`].
    pub fn stale(self) -> AskStale<E, C> {
        AskStale { ask: self }
    }

    /// Refuses the command where the entity is not at this revision:
    /// [`AskError::RevisionMismatch`].
    pub fn expected_revision(mut self, revision: Seq) -> Self {
        self.options.expected_revision = Some(revision);
        self
    }
}

impl<E: Handle<C>, C: Command> IntoFuture for Ask<E, C> {
    type Output = Result<C::Reply, AskError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    /// Sends the command; the future waits for the reply.
    fn into_future(self) -> Self::IntoFuture {
        let Ask { entity: EntityRef { kind, id }, command, timeout, mut options } = self;
        let deadline = Instant::now() + timeout;
        options.deadline = Some(deadline);
        if let Some(router) = kind.shared.router.clone() {
            return Routed::begin(kind, router, id, command, (options, deadline));
        }
        let sent = offer(&kind, &id, command, options);
        Box::pin(async move { answer(sent?, &id, deadline).await })
    }
}

/// What a replica answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stale<R> {
    /// The handler's reply.
    pub reply: R,
    /// The revision that it saw. The entity may be further.
    pub revision: Seq,
}

/// A question to this node's replica: await it, as in `entity.ask(Get).stale().await?`.
///
/// The answer is of a state that the entity had, and never of one that is not committed. It includes what
/// this node has applied when the question comes. Two questions at one node see states in their order; at two
/// nodes they may not.
///
/// # Errors
/// [`AskError::NotARead`] where the handler wants an event, a timer or anything else than to answer;
/// [`AskError::Unavailable`] where this node has no replica of the shard, or lacks a snapshot. None of
/// them has any effect.
#[must_use = "the command is sent when this is awaited"]
pub struct AskStale<E: EventSourced, C: Command> {
    ask: Ask<E, C>,
}

impl<E: Handle<C>, C: Command> IntoFuture for AskStale<E, C> {
    type Output = Result<Stale<C::Reply>, AskError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Ask { entity: EntityRef { kind, id }, command, timeout, options } = self.ask;
        let deadline = Instant::now() + timeout;
        Box::pin(async move {
            check_known::<E, C>()?;
            kind.shared.check_open()?;
            let shard = id.shard(kind.shared.journal.shards());
            if !kind.shared.journal.has_replica(shard) {
                let reason = "this node has no replica of it".to_owned();
                return Err(AskError::Unavailable { shard, reason });
            }
            let (reply, answered) = oneshot::channel();
            let slot = Slot::new(&id, &kind);
            let looked = slot.look(asked::<E, C>(command, options, reply));
            match timeout_at(deadline, looked).await {
                Ok(revision) => {
                    let reply = answer(answered, &id, deadline).await?;
                    Ok(Stale { reply, revision })
                }
                Err(_) => Err(AskError::Timeout { entity: id }),
            }
        })
    }
}

/// Sends a command whose reply nobody waits for. What became of it is logged where it was refused.
pub(crate) fn send_off<C: Command>(
    entity: EntityId,
    sent: BoxFuture<'static, Result<C::Reply, AskError>>,
) {
    tokio::spawn(async move {
        if let Err(error) = sent.await {
            tracing::warn!(%entity, command = C::NAME, %error, "a command was not carried out");
        }
    });
}

type Answer<C> = oneshot::Receiver<Result<<C as Command>::Reply, AskError>>;

/// Puts a command into its entity's mailbox on this node.
fn offer<E: Handle<C>, C: Command>(
    kind: &Arc<Kind<E>>,
    id: &EntityId,
    command: C,
    options: Options,
) -> Result<Answer<C>, AskError> {
    check_known::<E, C>()?;
    let (reply, answer) = oneshot::channel();
    kind.offer(id, asked::<E, C>(command, options, reply))?;
    Ok(answer)
}

async fn answer<R>(
    answer: oneshot::Receiver<Result<R, AskError>>,
    entity: &EntityId,
    deadline: Instant,
) -> Result<R, AskError> {
    match timeout_at(deadline, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(AskError::Lost { entity: entity.clone() }),
        Err(_) => Err(AskError::Timeout { entity: entity.clone() }),
    }
}

/// A command on a node of a cluster: it goes to the shard's leader, wherever that is.
struct Routed<E: EventSourced> {
    kind: Arc<Kind<E>>,
    id: EntityId,
    shard: ShardId,
    payload: Bytes,
    options: Options,
    deadline: Instant,
    way: Way,
}

impl<E: EventSourced> Routed<E> {
    /// Sends it at once where this node runs the entity, so that commands keep their order.
    fn begin<C: Command>(
        kind: Arc<Kind<E>>,
        router: Arc<Router>,
        id: EntityId,
        command: C,
        (options, deadline): (Options, Instant),
    ) -> BoxFuture<'static, Result<C::Reply, AskError>>
    where
        E: Handle<C>,
    {
        let shard = id.shard(kind.shared.journal.shards());
        let payload = command.encode();
        let first = kind.owns(shard).then(|| offer(&kind, &id, command, options.clone()));
        Box::pin(async move {
            check_known::<E, C>()?;
            let payload = payload.map_err(AskError::Codec)?;
            let way = Way::new(Some(router), shard, options.request_id.is_some(), deadline);
            Self { kind, id, shard, payload, options, deadline, way }.run(first).await
        })
    }

    async fn run<C: Command>(
        mut self,
        mut first: Option<Result<Answer<C>, AskError>>,
    ) -> Result<C::Reply, AskError>
    where
        E: Handle<C>,
    {
        loop {
            let result = match first.take() {
                Some(sent) => self.here::<C>(sent).await,
                None => self.again::<C>().await,
            };
            match result {
                Ok(reply) => return Ok(reply),
                Err(error) => self.way.failed(error, || self.kind.shared.refusal()).await?,
            }
        }
    }

    async fn here<C: Command>(
        &mut self,
        sent: Result<Answer<C>, AskError>,
    ) -> Result<C::Reply, AskError> {
        self.way.here();
        answer(sent?, &self.id, self.deadline).await
    }

    /// Another try, wherever the entity is now.
    async fn again<C: Command>(&mut self) -> Result<C::Reply, AskError>
    where
        E: Handle<C>,
    {
        if self.kind.owns(self.shard) {
            let command = C::decode(C::VERSION, &self.payload).map_err(AskError::Codec)?;
            let sent = offer(&self.kind, &self.id, command, self.options.clone());
            return self.here::<C>(sent).await;
        }
        let outgoing = Outgoing {
            entity: &self.id,
            command: C::NAME,
            version: C::VERSION,
            payload: &self.payload,
            options: &self.options,
        };
        self.way.ask::<C>(&outgoing, self.kind.believed(self.shard)).await
    }
}

impl SideContext {
    /// An entity of this node, as [`Node::entity`](crate::Node::entity).
    ///
    /// # Errors
    /// [`NodeError`] where there can be no such entity, or the node is gone.
    pub fn entity<E: EventSourced>(&self, key: &str) -> Result<EntityRef<E>, NodeError> {
        let kinds = self.kinds.upgrade().ok_or(NodeError::ShuttingDown)?;
        EntityRef::find(&kinds, key)
    }
}

/// The kind that was registered for a type.
pub(crate) fn find_kind<E: EventSourced>(kinds: &Kinds) -> Result<Arc<Kind<E>>, NodeError> {
    let kind = kinds.get(&TypeId::of::<E>()).and_then(|kind| kind.clone().downcast().ok());
    kind.ok_or(NodeError::NotRegistered { kind: E::KIND })
}

/// Refuses a command that the kind does not list.
pub(crate) fn check_known<E: Handle<C>, C: Command>() -> Result<(), AskError> {
    if E::Commands::contains(TypeId::of::<C>()) {
        return Ok(());
    }
    Err(AskError::UnknownCommand { kind: E::KIND.to_owned(), command: C::NAME.to_owned() })
}
