//! What can become of a transaction that was not carried out.

use bytes::Bytes;
use duractor_journal::{Effect as TookEffect, EntityId, ShardId};

use crate::{
    command::{Command, decode_reply},
    error::AskError,
};

/// Why a transaction has no replies. [`TransactionError::effect`] says whether it may have taken
/// effect: then all of it, and never a part of it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TransactionError {
    /// An entity said no ([`Effect::veto`](crate::Effect::veto)), so that nothing was carried out.
    #[error("{} said no", .0.entity)]
    Vetoed(Veto),
    /// An entity is held by another transaction. Nothing was carried out; try again. Only where the
    /// transaction's time was over, or [it was not to be tried again](crate::Transaction::once).
    #[error("{entity} is held by another transaction")]
    Conflict {
        /// The entity.
        entity: EntityId,
    },
    /// A command could not be carried out. Nothing was.
    #[error("the command for {entity} was not carried out: {error}")]
    Failed {
        /// Whose command.
        entity: EntityId,
        /// What went wrong. Whatever its own effect: of the transaction nothing took effect.
        error: AskError,
    },
    /// It was not decided in time, and is now decided: nothing was carried out.
    #[error("the transaction was not decided in time, and was aborted")]
    Aborted,
    /// The transaction has no commands, too many, or two for one entity.
    #[error("the transaction cannot be: {reason}")]
    Invalid {
        /// What is wrong.
        reason: String,
    },
    /// Whether the transaction was carried out is not known, or not yet. Where it has a
    /// [`request_id`](crate::Transaction::request_id), another one with the same id finds out, or does
    /// it then.
    #[error("whether the transaction was carried out is not known: {error}")]
    OutcomeUnknown {
        /// What happened.
        error: AskError,
    },
}

/// An entity's no, with its answer.
#[derive(Debug, Clone)]
pub struct Veto {
    pub(crate) entity: EntityId,
    pub(crate) reply: Bytes,
}

impl Veto {
    /// Who said no.
    #[must_use]
    pub fn entity(&self) -> &EntityId {
        &self.entity
    }

    /// The answer, where it answers this command.
    #[must_use]
    pub fn reply<C: Command>(&self) -> Option<C::Reply> {
        decode_reply::<C>(&self.reply).ok()
    }
}

impl TransactionError {
    /// Whether the transaction may have taken effect: with [`TookEffect::None`] nothing of it has, or
    /// will.
    #[must_use]
    pub fn effect(&self) -> TookEffect {
        match self {
            TransactionError::OutcomeUnknown { .. } => TookEffect::Unknown,
            _ => TookEffect::None,
        }
    }

    /// What the caller is told where an earlier attempt may have been carried out: whatever this one came
    /// to, that one may be under way still.
    pub(super) fn after_unknown(self, shard: ShardId) -> Self {
        if self.effect() == TookEffect::Unknown {
            return self;
        }
        let reason = format!("an earlier attempt may have been carried out; the last one: {self}");
        TransactionError::OutcomeUnknown { error: AskError::OutcomeUnknown { shard, reason } }
    }
}
