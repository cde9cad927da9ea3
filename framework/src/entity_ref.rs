//! References to entities: how commands get to them.

use std::{any::TypeId, future::IntoFuture, sync::Arc, time::Duration};

use duractor_journal::{EntityId, RequestId, Seq};
use futures_util::future::BoxFuture;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use crate::{
    command::Command,
    context::{Kinds, SideContext},
    delivery::{asked, told},
    effect::Handle,
    entity::{CommandSet, EventSourced},
    error::{AskError, NodeError},
    history::{Recorded, read},
    intent::Options,
    slot::Kind,
};

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

    /// Sends a command and waits for the reply: `entity.ask(Add { by: 2 }).await?`.
    ///
    /// The reply comes once everything that it depends on is committed. The command is sent when the
    /// result is awaited (or turned into a future); [`Ask`] has what can be said beside it.
    #[must_use = "the command is sent when this is awaited"]
    pub fn ask<C: Command>(&self, command: C) -> Ask<E, C>
    where
        E: Handle<C>,
    {
        let timeout = self.kind.settings().ask_timeout;
        Ask { entity: self.clone(), command, timeout, options: Options::default() }
    }

    /// Sends a command and does not wait. It was taken into the mailbox when this returns; what
    /// became of it is logged where it was refused.
    ///
    /// # Errors
    /// [`AskError::Busy`] and the like, where it was not taken; nothing has happened then.
    pub fn tell<C: Command>(&self, command: C) -> Result<(), AskError>
    where
        E: Handle<C>,
    {
        check_known::<E, C>()?;
        self.kind.offer(&self.id, told(command))
    }

    /// The entity's committed events with sequence numbers from `from` (the first has 1), at most
    /// `max` of them: for an audit trail, say. All that are returned are in memory at once, so ask
    /// for a long history page by page. Events that were deleted are left out. Reads the journal
    /// and does not bring the entity into memory.
    ///
    /// # Errors
    /// [`AskError::Journal`] where they cannot be read, [`AskError::Codec`] where one does not
    /// decode; [`AskError::NotOwner`] and the like, as a command, where this node cannot make sure
    /// that it has the newest ones.
    pub async fn history(&self, from: Seq, max: u64) -> Result<Vec<Recorded<E::Event>>, AskError> {
        let shared = &self.kind.shared;
        shared.confirm(self.id.shard(shared.journal.shards())).await?;
        self.local_history(from, max).await
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
        let (reply, answer) = oneshot::channel();
        let sent = check_known::<E, C>()
            .and_then(|()| kind.offer(&id, asked::<E, C>(command, options, reply)));
        Box::pin(async move {
            sent?;
            match timeout_at(deadline, answer).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(AskError::Lost { entity: id }),
                Err(_) => Err(AskError::Timeout { entity: id }),
            }
        })
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

fn check_known<E: Handle<C>, C: Command>() -> Result<(), AskError> {
    if E::Commands::contains(TypeId::of::<C>()) {
        return Ok(());
    }
    Err(AskError::UnknownCommand { kind: E::KIND.to_owned(), command: C::NAME.to_owned() })
}
