//! Slots: where an entity's commands wait, whichever incarnation will handle them.
//!
//! ```text
//!             push                 open               crash
//!   Vacant ─────────► Starting ─────────► Active ─────────► Restarting ──► Starting
//!                        │ poisoned         │ idle
//!                        ▼                  ▼
//!                    Quarantined           Gone (out of the directory; a sender makes a new slot)
//! ```
//!
//! The actor's own mailbox carries only [`Note`]s. The commands are in the slot's queue, so an actor
//! that leaves or dies takes none with it: whether it may leave is decided under the slot's lock,
//! and the next incarnation goes on with the same queue. A slot has at most one wake-up under way.

mod ending;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
};

use dashmap::DashMap;
use duractor_journal::{EntityId, JournalError, Seq, ShardId};
use ractor::ActorRef;

use crate::{
    core::Rules,
    entity::EventSourced,
    error::AskError,
    hold::{Hold, Reader},
    idle::{Idle, Usage, Used},
    intent::BoxEnvelope,
    meta::Errand,
    settings::EntitySettings,
    shadow::Shadows,
    shared::{ShardMessage, Shared},
    step::Settled,
};

/// Room for commands that an idle entity keeps.
const IDLE_CAPACITY: usize = 4;

/// What an entity's actor is told. Small, because the rest is in the slot.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Note {
    /// Look into the slot.
    Wake,
    /// Leave memory, if nothing is going on.
    Passivate,
    /// The timer with this number is due.
    Timer(u64),
    /// The snapshot that was being saved is, or cannot be.
    Saved,
}

// Local only: never sent to another node.
impl ractor::Message for Note {}

/// What an incarnation hears from the journal.
pub(crate) enum Notice {
    /// What became of the batch whose last event has this sequence number.
    Batch { last: Seq, result: Result<(), JournalError> },
    /// What became of this round of confirmations, for which reads wait.
    Confirmed { round: u64, result: Result<(), JournalError> },
    /// Whether the entity is on the agenda.
    Entered(Result<(), AskError>),
    /// A piece of work ended.
    Errand(Errand),
    /// What became of what the entity considered for a transaction.
    Settled(Settled),
}

/// What an actor can take from its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    Nothing,
    /// Steps of transactions: the entity is held, or has no room for what commands write.
    Steps,
    All,
}

/// What an actor does next.
pub(crate) enum Work<E: EventSourced> {
    Notices(Vec<Notice>),
    Command(BoxEnvelope<E>),
    /// The actor sleeps until it is woken.
    Nothing,
}

/// A command that was not taken, and why.
pub(crate) struct Refused<E: EventSourced> {
    pub(crate) error: AskError,
    pub(crate) envelope: BoxEnvelope<E>,
}

impl<E: EventSourced> From<Refused<E>> for AskError {
    fn from(refused: Refused<E>) -> Self {
        refused.error
    }
}

/// All entities of one kind on a node.
pub(crate) struct Kind<E: EventSourced> {
    pub(crate) rules: Rules<E>,
    pub(crate) shared: Arc<Shared>,
    /// Looked up; iterated only to close all, in the order of ids.
    pub(crate) slots: DashMap<EntityId, Arc<Slot<E>>>,
    pub(crate) active: AtomicUsize,
    pub(crate) shadows: Shadows<E>,
    idle: Mutex<Idle<Slot<E>>>,
}

/// One entity's place in memory.
pub(crate) struct Slot<E: EventSourced> {
    pub(crate) id: EntityId,
    pub(crate) shard: ShardId,
    pub(crate) kind: Arc<Kind<E>>,
    inner: Mutex<Inner<E>>,
    /// Commands that wait or are under way, and tasks that work for the entity. Grows only under
    /// the lock.
    load: AtomicU32,
    /// When commands were last handled, by [`Shared::millis`].
    pub(crate) usage: Usage,
    /// Failures in a row.
    pub(crate) failures: AtomicU32,
}

struct Inner<E: EventSourced> {
    phase: Phase,
    /// Counts the incarnations.
    generation: u32,
    /// Whether a [`Note::Wake`] is under way, or the actor is looking into the slot.
    awake: bool,
    queue: VecDeque<BoxEnvelope<E>>,
    notices: Vec<Notice>,
}

enum Phase {
    Vacant,
    Starting,
    Active(ActorRef<Note>),
    Restarting,
    Quarantined(Arc<str>),
    Gone,
}

impl<E: EventSourced> Kind<E> {
    pub(crate) fn new(entity: Arc<E>, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            rules: Rules::new(entity, shared.limits),
            shared,
            slots: DashMap::new(),
            active: AtomicUsize::new(0),
            shadows: Shadows::new(),
            idle: Mutex::new(Idle::new()),
        })
    }

    pub(crate) fn settings(&self) -> &EntitySettings {
        &self.rules.settings
    }

    /// Nobody locks a slot while holding this.
    pub(crate) fn idle(&self) -> MutexGuard<'_, Idle<Slot<E>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, slot: &Arc<Slot<E>>) {
        self.slots.remove_if(&slot.id, |_, known| Arc::ptr_eq(known, slot));
    }
}

impl<E: EventSourced> Slot<E> {
    pub(crate) fn new(id: &EntityId, kind: &Arc<Kind<E>>) -> Arc<Self> {
        Arc::new(Self {
            id: id.clone(),
            shard: id.shard(kind.shared.journal.shards()),
            kind: kind.clone(),
            inner: Mutex::new(Inner {
                phase: Phase::Vacant,
                generation: 0,
                awake: false,
                queue: VecDeque::new(),
                notices: Vec::new(),
            }),
            load: AtomicU32::new(0),
            usage: Usage::default(),
            failures: AtomicU32::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner<E>> {
        // No user code runs under the lock, so a panic there leaves nothing half-done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a command, and wakes or starts the entity. Gives it back where the slot was given up.
    pub(crate) fn push(
        self: &Arc<Self>,
        envelope: BoxEnvelope<E>,
    ) -> Result<Option<BoxEnvelope<E>>, Refused<E>> {
        let shared = &self.kind.shared;
        let mut inner = self.lock();
        match &inner.phase {
            Phase::Gone => return Ok(Some(envelope)),
            Phase::Quarantined(reason) => {
                let (entity, reason) = (self.id.clone(), reason.clone());
                let quarantined = AskError::Quarantined { entity, reason };
                let error = self.check_owned().err().unwrap_or(quarantined);
                return Err(Refused { error, envelope });
            }
            _ => {}
        }
        // Under the lock: whoever closes all slots, or gives up a shard, either finds this command or has closed before.
        let taken = shared.check_open().and_then(|()| self.check_owned());
        // A decision makes room, where all wait for it.
        let room = || if envelope.is_decision() { Ok(()) } else { self.check_room() };
        if let Err(error) = taken.and_then(|()| room()) {
            if matches!(inner.phase, Phase::Vacant) {
                // Made for this command alone: keep nothing of what is refused.
                inner.phase = Phase::Gone;
                self.kind.remove(self);
            }
            return Err(Refused { error, envelope });
        }
        self.load.fetch_add(1, Relaxed);
        shared.ledger.accept();
        shared.load.count(self.shard, &self.id);
        inner.add(envelope);
        if matches!(inner.phase, Phase::Vacant) {
            self.kind.active.fetch_add(1, Relaxed);
            shared.enter();
            self.start(&mut inner);
        }
        inner.wake();
        Ok(None)
    }

    /// This node's part in the entity's shard. `None` before the node has started.
    pub(crate) fn hold(&self) -> Option<&Hold> {
        self.kind.shared.shard(self.shard).map(|shard| &shard.hold)
    }

    fn check_owned(&self) -> Result<(), AskError> {
        self.hold().map_or(Err(AskError::ShuttingDown), Hold::check)
    }

    fn check_room(&self) -> Result<(), AskError> {
        let waiting = self.load.load(Relaxed) as usize;
        if waiting >= self.kind.settings().mailbox {
            return Err(AskError::Busy { entity: self.id.clone(), waiting });
        }
        let open = self.kind.shared.ledger.counts().open();
        if open >= self.kind.shared.max_open {
            return Err(AskError::NodeBusy { open });
        }
        Ok(())
    }

    /// Begins the next incarnation.
    fn start(self: &Arc<Self>, inner: &mut Inner<E>) {
        inner.phase = Phase::Starting;
        inner.generation += 1;
        inner.awake = false;
        inner.notices.clear();
        if let Some(shard) = self.kind.shared.shard(self.shard) {
            // It fails only once the shard's actor is gone, and then the node is, too.
            let _ = shard.actor.cast(ShardMessage::Start(self.clone()));
        }
    }
}

/// What the actor of the current incarnation does.
impl<E: EventSourced> Slot<E> {
    pub(crate) fn generation(&self) -> u32 {
        self.lock().generation
    }

    /// Recovery is done: from now on senders wake this actor.
    pub(crate) fn open(&self, actor: ActorRef<Note>) {
        let mut inner = self.lock();
        inner.phase = Phase::Active(actor);
        inner.wake();
    }

    /// The next thing to do; commands only where there is room for what they write.
    pub(crate) fn next(&self, room: Room) -> Work<E> {
        let mut inner = self.lock();
        if !inner.notices.is_empty() {
            return Work::Notices(mem::take(&mut inner.notices));
        }
        let fits = |next: &mut BoxEnvelope<E>| match room {
            Room::Nothing => false,
            Room::Steps => next.is_step(),
            Room::All => true,
        };
        if let Some(envelope) = inner.queue.pop_front_if(fits) {
            return Work::Command(envelope);
        }
        inner.awake = false;
        if inner.queue.is_empty() && inner.queue.capacity() > IDLE_CAPACITY {
            inner.queue.shrink_to(IDLE_CAPACITY);
        }
        Work::Nothing
    }

    /// Hears from the journal, on whatever thread.
    pub(crate) fn notice(&self, generation: u32, notice: Notice) {
        let mut inner = self.lock();
        if inner.generation == generation {
            inner.notices.push(notice);
            inner.wake();
        }
    }

    /// Puts commands back to the head of the queue, in their order.
    pub(crate) fn put_back(&self, envelopes: impl DoubleEndedIterator<Item = BoxEnvelope<E>>) {
        let mut inner = self.lock();
        let at = inner.steps();
        for envelope in envelopes.rev() {
            inner.queue.insert(at, envelope);
        }
    }

    /// Answers a command. It no longer counts against the mailbox.
    pub(crate) fn finish(&self, envelope: BoxEnvelope<E>) {
        // First, so that a caller that asks again at once finds its place free.
        self.load.fetch_sub(1, Relaxed);
        match envelope.send() {
            Some(sent) => self.kind.shared.ledger.finish(sent),
            None => tracing::error!(entity = %self.id, "a command was given no answer"),
        }
    }

    /// Refuses a command.
    pub(crate) fn refuse(&self, mut envelope: BoxEnvelope<E>, error: AskError) {
        envelope.refuse(error);
        self.finish(envelope);
    }

    /// A task begins that works for the entity: it counts as a command, and the entity is not idle.
    pub(crate) fn begin_task(&self) {
        let _inner = self.lock();
        self.load.fetch_add(1, Relaxed);
        self.kind.shared.enter();
    }

    /// Such a task ended.
    pub(crate) fn end_task(&self) {
        self.load.fetch_sub(1, Relaxed);
        self.kind.shared.leave();
    }
}

/// What an entity is told from outside.
impl<E: EventSourced> Slot<E> {
    /// Tells the actor something, if it is that of this generation.
    pub(crate) fn tell(&self, generation: u32, note: Note) -> bool {
        let inner = self.lock();
        match &inner.phase {
            Phase::Active(actor) if inner.generation == generation => actor.cast(note).is_ok(),
            _ => false,
        }
    }

    /// Whether an incarnation runs or is being started.
    pub(crate) fn is_active(&self) -> bool {
        matches!(self.lock().phase, Phase::Starting | Phase::Active(_))
    }

    /// Asks the actor to leave memory, if nothing is going on.
    pub(crate) fn ask_to_leave(&self) {
        if let Phase::Active(actor) = &self.lock().phase {
            // It fails only where the actor has died.
            let _ = actor.cast(Note::Passivate);
        }
    }
}

impl<E: EventSourced> Used for Slot<E> {
    fn usage(&self) -> &Usage {
        &self.usage
    }
}

impl<E: EventSourced> Reader for Slot<E> {
    fn confirmed(&self, generation: u32, round: u64, result: Result<(), JournalError>) {
        self.notice(generation, Notice::Confirmed { round, result });
    }
}

impl<E: EventSourced> Inner<E> {
    /// How many steps of transactions wait: they are at the head of the queue.
    fn steps(&self) -> usize {
        self.queue.iter().take_while(|envelope| envelope.is_step()).count()
    }

    /// Puts a command to the end of the queue, and a step to the end of the steps.
    fn add(&mut self, envelope: BoxEnvelope<E>) {
        if envelope.is_step() {
            let at = self.steps();
            return self.queue.insert(at, envelope);
        }
        self.queue.push_back(envelope);
    }

    /// Wakes the actor unless that is under way, or there is none: it looks when it is ready.
    fn wake(&mut self) {
        if let Phase::Active(actor) = &self.phase
            && !self.awake
        {
            // It fails only where the actor has died, and then the next one looks.
            self.awake = actor.cast(Note::Wake).is_ok();
        }
    }
}
