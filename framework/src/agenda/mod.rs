//! The agendas: which entities of a shard have something to do without being called, and when.
//!
//! ```text
//! an entity ── enter ──► Agenda (an entity of the shard, in the journal) ──► its Book (in memory)
//!     ▲                                                                         │ due
//!     └──────────────────────────── wake ◄──────────────────────────────────────┘
//! ```
//!
//! An entity's entry is committed *before* the batch that makes it needed, and removed some time after
//! it is not needed any more: a wake-up too many harms nothing, one too few loses work. So whoever
//! takes the shard, after a crash, a move or a restart, reads in the agenda whom to wake. An entity
//! that is entered already for an early enough time writes nothing.
//!
//! | | |
//! |---|---|
//! | `entity.rs` | the agenda in the journal |
//! | `book.rs` | when to wake whom; pure |
//! | `keeper.rs` | reads the agenda when the shard is this node's, and wakes |

mod book;
mod entity;
mod keeper;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use duractor_journal::{EntityId, InvalidId, ShardId, Timestamp};
use tokio::{sync::Notify, time::Instant};

use self::{
    book::Book,
    entity::{Enter, Leave, agenda_of},
};
pub(crate) use self::{entity::Agenda, keeper::keep};
use crate::{
    command::Command,
    delivery::{Away, away},
    effect::Handle,
    error::AskError,
    intent::Options,
    shared::{AnyKind, Diary, Entered, Shared},
    slot::{Kind, Refused},
};

/// The agendas of a node's shards.
pub(crate) struct Agendas {
    shared: Weak<Shared>,
    kind: Weak<Kind<Agenda>>,
    kinds: Weak<Vec<Arc<dyn AnyKind>>>,
    shards: Vec<OfShard>,
}

/// One shard's.
struct OfShard {
    agenda: EntityId,
    book: Mutex<Book>,
    changed: Notify,
}

impl OfShard {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Agendas {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        kind: &Arc<Kind<Agenda>>,
        kinds: &Arc<Vec<Arc<dyn AnyKind>>>,
    ) -> Result<Arc<Self>, InvalidId> {
        let count = shared.journal.shards();
        let of = |shard| {
            let agenda = agenda_of(ShardId(shard), count)?;
            Ok(OfShard { agenda, book: Mutex::default(), changed: Notify::new() })
        };
        Ok(Arc::new(Self {
            shared: Arc::downgrade(shared),
            kind: Arc::downgrade(kind),
            kinds: Arc::downgrade(kinds),
            shards: (0..count).map(of).collect::<Result<_, _>>()?,
        }))
    }

    fn of(&self, shard: ShardId) -> Option<&OfShard> {
        self.shards.get(usize::from(shard.0))
    }

    fn change(&self, shard: ShardId, change: impl FnOnce(&mut Book)) {
        let Some(of) = self.of(shard) else { return };
        change(&mut of.book());
        of.changed.notify_one();
    }

    /// Gives the shard's agenda a command. `done` hears what became of it.
    fn ask<C: Command>(&self, shard: ShardId, command: C, done: Entered)
    where
        Agenda: Handle<C>,
    {
        let (Some(of), Some(kind)) = (self.of(shard), self.kind.upgrade()) else {
            return done(Err(AskError::ShuttingDown));
        };
        let reply = Away::new(of.agenda.clone(), move |answer| done(answer.map(drop)));
        let envelope = away::<Agenda, C>(command, Options::default(), reply);
        if let Err(Refused { error, mut envelope }) = kind.offer(&of.agenda, envelope) {
            envelope.refuse(error);
            envelope.send();
        }
    }
}

impl Diary for Agendas {
    fn enter(
        &self,
        entity: &EntityId,
        shard: ShardId,
        due: Option<Timestamp>,
        remember: bool,
        done: Entered,
    ) {
        let (shared, id) = (self.shared.clone(), entity.clone());
        let entered = move |result: Result<(), AskError>| {
            if let (Ok(()), Some(due), Some(shared)) = (&result, due, shared.upgrade())
                && let Some(diary) = shared.diary.get()
            {
                diary.note(&id, shard, due);
            }
            done(result);
        };
        let enter = Enter { entity: entity.clone(), due, remember };
        self.ask(shard, enter, Box::new(entered));
    }

    fn note(&self, entity: &EntityId, shard: ShardId, due: Timestamp) {
        self.change(shard, |book| book.enter(entity, due));
    }

    fn plan(&self, entity: &EntityId, shard: ShardId, due: Timestamp) {
        self.change(shard, |book| book.plan(entity, due));
    }

    fn again(&self, entity: &EntityId, shard: ShardId, after: Duration) {
        let Some(shared) = self.shared.upgrade() else { return };
        let at = shared.millis(Instant::now() + after);
        self.change(shard, |book| book.again(entity, at));
    }

    fn leave(&self, entity: &EntityId, shard: ShardId, due: Option<Timestamp>, forget: bool) {
        self.change(shard, |book| match due {
            Some(due) => book.plan(entity, due),
            None => book.remove(entity),
        });
        let leave = Leave { entity: entity.clone(), due, forget };
        let id = entity.clone();
        let done = move |result: Result<(), AskError>| {
            if let Err(error) = result {
                // It is woken once more some time, and leaves then.
                tracing::debug!(entity = %id, %error, "not taken off the agenda");
            }
        };
        self.ask(shard, leave, Box::new(done));
    }

    fn crashed(&self, entity: &EntityId, shard: ShardId, work: (u8, u64)) -> u32 {
        self.of(shard).map_or(0, |of| of.book().crashed(entity, work))
    }

    fn crashes(&self, entity: &EntityId, shard: ShardId, work: (u8, u64)) -> u32 {
        self.of(shard).map_or(0, |of| of.book().crashes(entity, work))
    }
}
