//! The coordinator of a transaction over several shards: an entity that keeps what was decided.
//!
//! It is a register. Whoever drives the transaction asks it to commit once all entities are prepared;
//! an entity that is prepared and hears nothing asks it what was decided, and then an attempt of which
//! nothing is known is decided as aborted, so that it can never be committed any more. Nobody is told
//! of a decision before it is in the journal.
//!
//! Its key is the request id of the transaction, so that a retry finds what an earlier try did: of all
//! attempts under one key one at most is committed.

use std::collections::BTreeSet;

use bytes::Bytes;
use duractor_journal::EntityId;
use serde::{Deserialize, Serialize};

use crate::{
    Command, Event,
    codec::CodecError,
    context::Context,
    effect::{Effect, Handle},
    entity::EventSourced,
    error::AskError,
};

/// The kind of the coordinators.
pub(crate) const COORDINATOR: &str = "duractor.transaction";

/// Attempts under one key that came to nothing and are remembered. With more, none is committed.
const MAX_ABORTED: usize = 1024;

pub(crate) struct Coordinator;

/// The coordinator of the transactions with this id.
///
/// # Errors
/// Where the id cannot be a key.
pub(crate) fn coordinator(id: &str) -> Result<EntityId, AskError> {
    EntityId::new(COORDINATOR, id).map_err(|error| {
        let (name, reason) = (COORDINATOR.to_owned(), error.to_string());
        AskError::Codec(CodecError::Encode { name, reason })
    })
}

/// A participant, and under which number it was prepared. Stored: its fields stay in this order.
pub(crate) type Prepared = (EntityId, u64);

#[derive(Debug, Clone, PartialEq, Eq, Event)]
pub(crate) enum Decided {
    /// This attempt is committed: with these participants, and this is what their commands answered.
    #[event(name = "committed")]
    Committed { attempt: u64, parts: Vec<Prepared>, replies: Vec<Bytes> },
    /// This one never will be.
    #[event(name = "aborted")]
    Aborted { attempt: u64 },
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Decisions {
    committed: Option<(u64, Vec<Prepared>, Vec<Bytes>)>,
    aborted: BTreeSet<u64>,
}

/// All participants are prepared: decide.
#[derive(Debug, Clone, Command)]
#[command(reply = Verdict, name = "commit")]
pub(crate) struct Commit {
    pub(crate) attempt: u64,
    pub(crate) parts: Vec<Prepared>,
    pub(crate) replies: Vec<Bytes>,
}

/// What was decided. New ones are added at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Verdict {
    /// This attempt is committed.
    Committed,
    /// Another attempt was: this is what it answered. This one is aborted.
    Another(Vec<Bytes>),
    /// It is aborted.
    Aborted,
}

/// A participant that is prepared asks whether it is committed. Where nothing is decided, it is not,
/// and never will be.
#[derive(Debug, Clone, Command)]
#[command(reply = bool, name = "resolve")]
pub(crate) struct Resolve {
    pub(crate) attempt: u64,
    pub(crate) entity: EntityId,
    pub(crate) number: u64,
}

/// What the attempt answered that was committed, if one was.
#[derive(Debug, Clone, Command)]
#[command(reply = Option<Vec<Bytes>>, name = "look")]
pub(crate) struct Look {}

impl EventSourced for Coordinator {
    const KIND: &'static str = COORDINATOR;
    type State = Decisions;
    type Event = Decided;
    type Commands = (Commit, Resolve, Look);

    fn apply(state: &mut Decisions, event: &Decided) {
        match event {
            Decided::Committed { attempt, parts, replies } => {
                state.committed = Some((*attempt, parts.clone(), replies.clone()));
            }
            Decided::Aborted { attempt } => {
                state.aborted.insert(*attempt);
            }
        }
    }
}

impl Handle<Commit> for Coordinator {
    fn handle(&self, state: &Decisions, commit: Commit, _: &Context) -> Effect<Self, Verdict> {
        match &state.committed {
            Some((attempt, ..)) if *attempt == commit.attempt => {
                return Effect::reply(Verdict::Committed);
            }
            Some((.., replies)) => return Effect::reply(Verdict::Another(replies.clone())),
            None => {}
        }
        if state.aborted.contains(&commit.attempt) || state.aborted.len() >= MAX_ABORTED {
            return Effect::reply(Verdict::Aborted);
        }
        #[allow(unused_mut, reason = "a planted bug changes it")]
        let Commit { attempt, mut parts, replies } = commit;
        #[cfg(feature = "planted")]
        if crate::planted::is(crate::planted::Planted::CoordinatorForgets) {
            parts.pop();
        }
        Effect::persist(Decided::Committed { attempt, parts, replies })
            .reply_with(Verdict::Committed)
    }
}

impl Handle<Resolve> for Coordinator {
    fn handle(&self, state: &Decisions, resolve: Resolve, _: &Context) -> Effect<Self, bool> {
        let Resolve { attempt, entity, number } = resolve;
        match &state.committed {
            Some((committed, parts, _)) if *committed == attempt => {
                // Another number is of a preparation that came too late: its command was carried out.
                return Effect::reply(parts.contains(&(entity, number)));
            }
            Some(_) => return Effect::reply(false),
            None => {}
        }
        if state.aborted.contains(&attempt) || state.aborted.len() >= MAX_ABORTED {
            return Effect::reply(false);
        }
        Effect::persist(Decided::Aborted { attempt }).reply_with(false)
    }
}

impl Handle<Look> for Coordinator {
    fn handle(&self, state: &Decisions, _: Look, _: &Context) -> Effect<Self, Option<Vec<Bytes>>> {
        Effect::reply(state.committed.as_ref().map(|(.., replies)| replies.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

    #[test]
    fn decisions_keep_their_bytes() {
        let entity = EntityId::new("account", "1").unwrap();
        golden::<Decided>(&[
            (
                &[Decided::Committed {
                    attempt: 7,
                    parts: vec![(entity, 3)],
                    replies: vec![Bytes::from_static(b"r")],
                }],
                "committed",
                1,
                "",
            ),
            (&[Decided::Aborted { attempt: 7 }], "aborted", 1, ""),
        ]);
    }
}
