//! What can go wrong with locks, semaphores and barriers.

use std::time::Duration;

use duractor_journal::Effect as TookEffect;

use crate::error::{AskError, NodeError};

/// Why a lock, a semaphore's permits or a barrier could not be had.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CoordinationError {
    /// Others had it all the time that the caller was ready to wait.
    #[error("{name:?} was not free within {waited:?}")]
    Timeout {
        /// Of what.
        name: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// As many sessions as may wait for it do.
    #[error("too many wait for {name:?}: at most {limit} may")]
    TooManyWait {
        /// For what.
        name: String,
        /// The bound.
        limit: usize,
    },
    /// The session holds and waits for as much as one may.
    #[error("the session has {limit} tickets in {name:?}'s shard, and may not have more")]
    TooManyTickets {
        /// What it wanted.
        name: String,
        /// The bound.
        limit: usize,
    },
    /// The semaphore or barrier was used with another size, and is in use.
    #[error("{name:?} has the size {actual}, and not {wanted}, while it is in use")]
    OtherSize {
        /// Its name.
        name: String,
        /// Its size.
        actual: u32,
        /// What the caller took it for.
        wanted: u32,
    },
    /// A size, or a number of permits, that cannot be.
    #[error("{name:?} cannot have {wanted}: {reason}")]
    Invalid {
        /// Its name.
        name: String,
        /// What was wanted.
        wanted: u32,
        /// What is wrong.
        reason: &'static str,
    },
    /// It was lost: the session's lease ran out, because no renewal reached the shard's owner in time.
    /// Others may have had it since.
    #[error("{name:?} was lost: the session's lease ran out")]
    Lost {
        /// What was lost.
        name: String,
    },
    /// Sessions wait for each other in a circle, and this one began to wait last.
    #[error("a deadlock: {}", .cycle.join(" -> "))]
    Deadlock {
        /// Who holds what the one before it waits for: `LABEL holds KIND/NAME`.
        cycle: Vec<String>,
    },
    /// A party of the barrier gave up or died, so nobody passes.
    #[error("the barrier {name:?} is broken: a party gave up or died")]
    Broken {
        /// Its name.
        name: String,
        /// Which use of it.
        generation: u64,
    },
    /// The session has ended, or its node is shut down.
    #[error("the session has ended")]
    SessionEnded,
    /// The entity behind it did not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// There can be no such thing.
    #[error(transparent)]
    Node(#[from] NodeError),
}

impl CoordinationError {
    /// Whether something may have taken effect. An acquisition that failed has none that lasts: what it
    /// may have got is given back in the background, at the latest when a lease has passed.
    #[must_use]
    pub fn effect(&self) -> TookEffect {
        match self {
            CoordinationError::Ask(error) => error.effect(),
            CoordinationError::Lost { .. } | CoordinationError::Broken { .. } => {
                TookEffect::Unknown
            }
            _ => TookEffect::None,
        }
    }
}
