//! What can go wrong with a command and with a node, and whether the command may have taken effect.

use std::sync::Arc;

use duractor_journal::{
    Effect as TookEffect, EntityId, InvalidId, JournalError, Member, Seq, ShardId,
};
use duractor_snapshot::SnapshotError;

use crate::codec::{CodecError, SchemaError};

/// Why a command has no reply. [`AskError::effect`] says whether it may have taken effect.
///
/// A refusal by the entity's own rules is not here: it is a reply (`reply = Result<_, _>`).
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// The command is not in the entity's `Commands`.
    #[error("{kind:?} takes no command {command:?}")]
    UnknownCommand {
        /// The kind of entity.
        kind: String,
        /// The command's stable name.
        command: String,
    },
    /// As many commands as the entity's mailbox may hold are waiting. Try again later.
    #[error("{entity} is busy: {waiting} commands are waiting")]
    Busy {
        /// The entity.
        entity: EntityId,
        /// How many wait or are under way.
        waiting: usize,
    },
    /// As many commands as the node may hold are waiting. Try again later.
    #[error("the node is busy: {open} commands are waiting")]
    NodeBusy {
        /// How many wait or are under way.
        open: u64,
    },
    /// No answer within the time that the caller gave. The command may be carried out later.
    #[error("{entity} did not answer in time")]
    Timeout {
        /// The entity.
        entity: EntityId,
    },
    /// The caller's time was over before the entity came to the command. It was dropped.
    #[error("{entity} came to the command too late: its time was over")]
    Expired {
        /// The entity.
        entity: EntityId,
    },
    /// The entity is at another revision than the caller expected.
    #[error("the entity is at revision {actual}, not at the expected {expected}")]
    RevisionMismatch {
        /// What the caller expected.
        expected: Seq,
        /// What it is.
        actual: Seq,
    },
    /// The entity's stored events cannot be made into its state. It takes no commands until the
    /// cause is mended; see [`Node::release`](crate::Node::release).
    #[error("{entity} is quarantined: {reason}")]
    Quarantined {
        /// The entity.
        entity: EntityId,
        /// What does not fit.
        reason: Arc<str>,
    },
    /// The handler, or `apply`, panicked on this command, or what it gave cannot be written. The
    /// entity restarts from its events.
    #[error("{entity} failed on this command: {reason}")]
    Crashed {
        /// The entity.
        entity: EntityId,
        /// The panic's text, or what cannot be written.
        reason: String,
    },
    /// A bound of the entity's settings was reached by this command.
    #[error("{entity} refused the command: more than {limit} {what}")]
    LimitReached {
        /// The entity.
        entity: EntityId,
        /// What there would be too many of, as `"stashed commands"`.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// Another entity delivers a command of which it is not known any more whether it was carried out:
    /// too many senders came since. See [`EntitySettings::senders`](crate::EntitySettings::senders).
    #[error("{entity} does not know any more whether it carried out this delivery")]
    Forgotten {
        /// The entity.
        entity: EntityId,
    },
    /// The command was asked of a replica ([`Ask::stale`](crate::Ask::stale)), and its handler wants more
    /// than to look: an event, a timer, a side effect. Nothing was done.
    #[error("{entity} is only looked at here, and the command would change something")]
    NotARead {
        /// The entity.
        entity: EntityId,
    },
    /// The effect is for an entity that cannot be: its key is not allowed.
    #[error(transparent)]
    InvalidId(InvalidId),
    /// The request id was used before for another command.
    #[error("the request id was used before for another command: {0}")]
    RequestIdReused(CodecError),
    /// The command does not encode or decode.
    #[error(transparent)]
    Codec(CodecError),
    /// The journal refused this command's events.
    #[error(transparent)]
    Journal(JournalError),
    /// The journal refused events that this command's depend on.
    #[error("an earlier command of the entity was not committed: {cause}")]
    Aborted {
        /// Why the earlier one was not.
        cause: String,
        /// Whether this command may have taken effect.
        effect: TookEffect,
    },
    /// Another node runs the shard's entities, or none does for now. Go to the leader; where it is
    /// not known, ask again soon: a new one is found within a second or so.
    #[error("this node does not own {shard}{}", .leader.map(|l| format!("; {l} does")).unwrap_or_default())]
    NotOwner {
        /// The entity's shard.
        shard: ShardId,
        /// Who leads the shard, as far as this node knows.
        leader: Option<Member>,
    },
    /// The command's events were handed to the shard's replicas, and then this node ceased to lead
    /// them: the events may have been committed, or may still be.
    #[error("whether the command's events were committed to {shard} is not known: {reason}")]
    OutcomeUnknown {
        /// The entity's shard.
        shard: ShardId,
        /// What happened.
        reason: String,
    },
    /// The shard cannot be served now, as where no quorum of its replicas is reachable.
    #[error("{shard} is not available: {reason}")]
    Unavailable {
        /// The entity's shard.
        shard: ShardId,
        /// Why.
        reason: String,
    },
    /// The entity's node, another one, says something that has no form of its own here: an error of its
    /// journal, or that it does not know the kind of entity.
    #[error("node {node}: {error}")]
    Remote {
        /// Which node.
        node: Member,
        /// What it said.
        error: String,
        /// Whether the command may have taken effect.
        effect: TookEffect,
    },
    /// The effect has something that cannot be in a transaction: there an effect is events and an
    /// answer.
    #[error("{entity} answered a command of a transaction with an effect that has {what}")]
    NotInTransaction {
        /// The entity.
        entity: EntityId,
        /// What, as `"timers"`.
        what: &'static str,
    },
    /// The command cannot be carried out with the others of its transaction.
    #[error("{entity} cannot take part: {reason}")]
    NotTogether {
        /// The entity.
        entity: EntityId,
        /// Why.
        reason: String,
    },
    /// The node is shutting down, or is shut down.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// The node's journal stopped for good, so the node takes no more commands.
    #[error("the node has failed: {cause}")]
    NodeFailed {
        /// What the journal said.
        cause: Arc<str>,
    },
    /// The entity was torn down before it answered.
    #[error("{entity} was torn down before it answered")]
    Lost {
        /// The entity.
        entity: EntityId,
    },
}

impl AskError {
    /// What an error of the journal means to a caller.
    pub(crate) fn journal(error: JournalError) -> Self {
        match error {
            JournalError::NotLeader { shard, leader } => AskError::NotOwner { shard, leader },
            JournalError::OutcomeUnknown { shard, reason } => {
                AskError::OutcomeUnknown { shard, reason }
            }
            JournalError::Unavailable { shard, reason } => AskError::Unavailable { shard, reason },
            error => AskError::Journal(error),
        }
    }

    /// Whether the command may have taken effect: with [`TookEffect::None`] it has not, and may be
    /// tried again; with [`TookEffect::Unknown`] retry only with the same request id.
    #[must_use]
    pub fn effect(&self) -> TookEffect {
        match self {
            AskError::Timeout { .. }
            | AskError::Lost { .. }
            | AskError::OutcomeUnknown { .. }
            | AskError::Forgotten { .. } => TookEffect::Unknown,
            AskError::Journal(error) => error.effect(),
            AskError::Aborted { effect, .. } | AskError::Remote { effect, .. } => *effect,
            _ => TookEffect::None,
        }
    }
}

/// Why a node does not start, or has no such entity. Nothing was written.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// A kind, key or request id is not allowed.
    #[error(transparent)]
    InvalidId(#[from] InvalidId),
    /// Two entities were registered under one kind.
    #[error("the kind {kind:?} was registered twice")]
    DuplicateKind {
        /// The kind.
        kind: &'static str,
    },
    /// The kind's name is the framework's.
    #[error("the kind {kind:?} is taken: those that begin with `duractor.` are the framework's")]
    ReservedKind {
        /// The kind.
        kind: &'static str,
    },
    /// Two singletons have one name.
    #[error("the singleton {name:?} was added twice")]
    DuplicateSingleton {
        /// The name.
        name: String,
    },
    /// A schedule's expression is none, or names a time that never comes.
    #[error("the schedule {name:?}: {expression:?} is no cron expression: {reason}")]
    InvalidSchedule {
        /// The schedule's name.
        name: String,
        /// What it was given.
        expression: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Two handlers of the leader take one command.
    #[error("two handlers of the leader take {name:?}")]
    DuplicateHandler {
        /// The command's name.
        name: &'static str,
    },
    /// The kind was not registered on this node.
    #[error("the kind {kind:?} is not registered on this node")]
    NotRegistered {
        /// The kind.
        kind: &'static str,
    },
    /// Names or versions of a kind's events or commands do not fit together.
    #[error("the {what} of {kind:?}: {error}")]
    Schemas {
        /// The kind.
        kind: &'static str,
        /// `"events"` or `"commands"`.
        what: &'static str,
        /// What is wrong.
        error: SchemaError,
    },
    /// The journal did not open.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The snapshot store did not open.
    #[error(transparent)]
    Snapshots(#[from] SnapshotError),
    /// An actor of the node did not start.
    #[error("an actor of the node did not start: {reason}")]
    Actor {
        /// Why.
        reason: String,
    },
    /// The node is shutting down, or is shut down.
    #[error("the node is shutting down")]
    ShuttingDown,
}

impl NodeError {
    /// Nothing was written, whatever went wrong.
    #[must_use]
    pub fn effect(&self) -> TookEffect {
        TookEffect::None
    }
}

/// Whether a journal that gave this error takes nothing any more.
pub(crate) fn has_stopped(error: &JournalError) -> bool {
    matches!(
        error,
        JournalError::Closed | JournalError::Failed { .. } | JournalError::FailedUnderWay { .. }
    )
}
