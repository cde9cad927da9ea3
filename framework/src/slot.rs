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

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use dashmap::DashMap;
use duractor_journal::{Appended, EntityId, JournalError, Seq};
use ractor::ActorRef;

use crate::{
    core::Rules,
    entity::EventSourced,
    error::AskError,
    idle::{Idle, Seen},
    intent::BoxEnvelope,
    settings::EntitySettings,
    shared::{AnyKind, Shared, ShardMessage},
};

/// Room for commands that an idle entity keeps.
const IDLE_CAPACITY: usize = 0;

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

/// What became of a batch.
pub(crate) struct Notice {
    /// The sequence number of the batch's last event.
    pub(crate) last: Seq,
    pub(crate) result: Result<Appended, JournalError>,
}

/// What an actor does next.
pub(crate) enum Work<E: EventSourced> {
    Notices(Vec<Notice>),
    Command(BoxEnvelope<E>),
    /// The actor sleeps until it is woken.
    Nothing,
}

/// All entities of one kind on a node.
pub(crate) struct Kind<E: EventSourced> {
    pub(crate) rules: Rules<E>,
    pub(crate) shared: Arc<Shared>,
    /// Looked up; iterated only to close all, in the order of ids.
    slots: DashMap<EntityId, Arc<Slot<E>>>,
    active: AtomicUsize,
    idle: Mutex<Idle<Slot<E>>>,
}

/// One entity's place in memory.
pub(crate) struct Slot<E: EventSourced> {
    pub(crate) id: EntityId,
    pub(crate) kind: Arc<Kind<E>>,
    inner: Mutex<Inner<E>>,
    /// Commands that wait or are under way, and tasks that work for the entity. Grows only under
    /// the lock.
    load: AtomicU32,
    /// When commands were last handled, in milliseconds of [`Shared::millis`].
    pub(crate) last_used: AtomicU64,
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
    pub(crate) fn new(entity: E, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            rules: Rules::new(entity, shared.limits),
            shared,
            slots: DashMap::new(),
            active: AtomicUsize::new(0),
            idle: Mutex::new(Idle::new()),
        })
    }

    pub(crate) fn settings(&self) -> &EntitySettings {
        &self.rules.settings
    }

    /// Puts a command into its entity's mailbox.
    pub(crate) fn offer(
        self: &Arc<Self>,
        id: &EntityId,
        mut envelope: BoxEnvelope<E>,
    ) -> Result<(), AskError> {
        loop {
            self.shared.check_open()?;
            match self.slot(id).push(envelope)? {
                None => return Ok(()),
                // The slot was just given up: its place in the directory is free, or soon will be.
                Some(again) => envelope = again,
            }
        }
    }

    fn slot(self: &Arc<Self>, id: &EntityId) -> Arc<Slot<E>> {
        // Cloned out of the directory at once: nobody locks a slot while holding a directory lock.
        if let Some(slot) = self.slots.get(id) {
            return slot.clone();
        }
        self.slots.entry(id.clone()).or_insert_with(|| Slot::new(id, self)).clone()
    }

    /// The slot, if the entity has one.
    pub(crate) fn find(&self, id: &EntityId) -> Option<Arc<Slot<E>>> {
        self.slots.get(id).map(|slot| slot.clone())
    }

    pub(crate) fn remove(&self, slot: &Arc<Slot<E>>) {
        self.slots.remove_if(&slot.id, |_, known| Arc::ptr_eq(known, slot));
    }

    /// How many entities are in memory.
    pub(crate) fn active(&self) -> usize {
        self.active.load(Relaxed)
    }

    /// An incarnation is ready: it can be made to leave from now on.
    pub(crate) fn activated(&self, slot: &Arc<Slot<E>>, generation: u32, now: u64) {
        slot.last_used.store(now, Relaxed);
        self.idle().insert(now, Arc::downgrade(slot), generation);
        if self.excess() > 0 {
            self.evict(u64::MAX, now);
        }
    }

    /// How many entities more than the limit are in memory.
    fn excess(&self) -> usize {
        let limit = self.settings().active_limit.unwrap_or(usize::MAX);
        self.active.load(Relaxed).saturating_sub(limit)
    }

    /// Asks the entity that was idle longest, if it was since `limit`, to leave.
    fn evict(&self, limit: u64, now: u64) -> bool {
        let mut idle = self.idle();
        let Some((slot, generation)) = idle.pop(limit, |slot, generation| slot.seen(generation))
        else {
            return false;
        };
        // It may refuse: it is looked at again like one that was used now.
        idle.insert(now, Arc::downgrade(&slot), generation);
        drop(idle);
        slot.tell(generation, Note::Passivate);
        true
    }

    fn idle(&self) -> MutexGuard<'_, Idle<Slot<E>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E: EventSourced> AnyKind for Kind<E> {
    fn sweep(&self, now: u64) {
        let timeout = self.settings().idle_timeout.as_millis() as u64;
        if let Some(limit) = now.checked_sub(timeout) {
            while self.evict(limit, now) {}
        }
        for _ in 0..self.excess() {
            self.evict(u64::MAX, now);
        }
    }

    /// Makes every entity finish, or refuse what it has not begun, and leave memory.
    fn close_all(&self, refuse: bool) {
        let mut slots: Vec<_> = self.slots.iter().map(|entry| entry.value().clone()).collect();
        slots.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        for slot in slots {
            slot.close(refuse);
        }
    }
}

impl<E: EventSourced> Slot<E> {
    fn new(id: &EntityId, kind: &Arc<Kind<E>>) -> Arc<Self> {
        Arc::new(Self {
            id: id.clone(),
            kind: kind.clone(),
            inner: Mutex::new(Inner {
                phase: Phase::Vacant,
                generation: 0,
                awake: false,
                queue: VecDeque::new(),
                notices: Vec::new(),
            }),
            load: AtomicU32::new(0),
            last_used: AtomicU64::new(0),
            failures: AtomicU32::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner<E>> {
        // No user code runs under the lock, so a panic there leaves nothing half-done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a command, and wakes or starts the entity. Gives it back where the slot was given up.
    fn push(
        self: &Arc<Self>,
        envelope: BoxEnvelope<E>,
    ) -> Result<Option<BoxEnvelope<E>>, AskError> {
        let shared = &self.kind.shared;
        let mut inner = self.lock();
        match &inner.phase {
            Phase::Gone => return Ok(Some(envelope)),
            Phase::Quarantined(reason) => {
                let (entity, reason) = (self.id.clone(), reason.clone());
                return Err(AskError::Quarantined { entity, reason });
            }
            _ => {}
        }
        // Under the lock: whoever closes all slots either finds this command or has closed before.
        shared.check_open()?;
        self.check_room()?;
        self.load.fetch_add(1, Relaxed);
        shared.ledger.accept();
        inner.queue.push_back(envelope);
        if matches!(inner.phase, Phase::Vacant) {
            self.kind.active.fetch_add(1, Relaxed);
            shared.enter();
            self.start(&mut inner);
        }
        inner.wake();
        Ok(None)
    }

    fn check_room(&self) -> Result<(), AskError> {
        let waiting = self.load.load(Relaxed) as usize;
        let open = self.kind.shared.ledger.counts().open();
        if waiting < self.kind.settings().mailbox && open < self.kind.shared.max_open {
            return Ok(());
        }
        Err(AskError::Busy { entity: self.id.clone(), waiting })
    }

    /// Begins the next incarnation.
    fn start(self: &Arc<Self>, inner: &mut Inner<E>) {
        inner.phase = Phase::Starting;
        inner.generation += 1;
        inner.awake = false;
        inner.notices.clear();
        if let Some(shard) = self.kind.shared.shard(&self.id) {
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
    pub(crate) fn next(&self, room: bool) -> Work<E> {
        let mut inner = self.lock();
        if !inner.notices.is_empty() {
            return Work::Notices(mem::take(&mut inner.notices));
        }
        if room && let Some(envelope) = inner.queue.pop_front() {
            return Work::Command(envelope);
        }
        inner.awake = false;
        if inner.queue.is_empty() && inner.queue.capacity() > IDLE_CAPACITY {
            inner.queue.shrink_to(IDLE_CAPACITY);
        }
        Work::Nothing
    }

    /// Hears what became of a batch, on the journal's thread.
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
        for envelope in envelopes.rev() {
            inner.queue.push_front(envelope);
        }
    }

    /// Answers a command. It no longer counts against the mailbox.
    pub(crate) fn finish(&self, envelope: BoxEnvelope<E>) {
        match envelope.send() {
            Some(sent) => self.kind.shared.ledger.finish(sent),
            None => tracing::error!(entity = %self.id, "a command was given no answer"),
        }
        self.load.fetch_sub(1, Relaxed);
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

    /// Leaves memory if there is nothing at all to do. The caller is the actor, and stops if so.
    pub(crate) fn vacate_if_idle(self: &Arc<Self>) -> bool {
        let mut inner = self.lock();
        if self.load.load(Relaxed) > 0 || !inner.notices.is_empty() {
            return false;
        }
        self.give_up(&mut inner);
        true
    }

    /// Leaves memory if no command waits. The caller is the actor, and stops if so.
    pub(crate) fn vacate_if_empty(self: &Arc<Self>) -> bool {
        let mut inner = self.lock();
        if !inner.queue.is_empty() || !inner.notices.is_empty() {
            return false;
        }
        self.give_up(&mut inner);
        true
    }

    /// Leaves memory now; commands that wait are for the next incarnation, which starts at once.
    pub(crate) fn vacate(self: &Arc<Self>) {
        let mut inner = self.lock();
        if inner.queue.is_empty() {
            self.give_up(&mut inner);
        } else {
            self.start(&mut inner);
        }
    }

    /// The stored events cannot be made into a state: nobody gets an answer from this entity.
    pub(crate) fn quarantine(&self, reason: &str) {
        let reason: Arc<str> = reason.into();
        let queue = {
            let mut inner = self.lock();
            inner.phase = Phase::Quarantined(reason.clone());
            mem::take(&mut inner.queue)
        };
        for envelope in queue {
            let (entity, reason) = (self.id.clone(), reason.clone());
            self.refuse(envelope, AskError::Quarantined { entity, reason });
        }
        self.deactivated();
    }

    fn give_up(self: &Arc<Self>, inner: &mut Inner<E>) {
        inner.phase = Phase::Gone;
        self.kind.remove(self);
        self.deactivated();
    }

    fn deactivated(&self) {
        self.kind.active.fetch_sub(1, Relaxed);
        self.kind.shared.leave();
    }
}

/// What happens to an entity from outside.
impl<E: EventSourced> Slot<E> {
    /// Tells the actor something, if it is that of this generation.
    pub(crate) fn tell(&self, generation: u32, note: Note) -> bool {
        let inner = self.lock();
        match &inner.phase {
            Phase::Active(actor) if inner.generation == generation => actor.cast(note).is_ok(),
            _ => false,
        }
    }

    /// The actor of this generation died. True where another is to be started after a while.
    pub(crate) fn died(self: &Arc<Self>, generation: u32) -> bool {
        let mut inner = self.lock();
        let alive = matches!(inner.phase, Phase::Starting | Phase::Active(_));
        if !alive || inner.generation != generation {
            return false;
        }
        inner.phase = Phase::Restarting;
        true
    }

    fn seen(&self, generation: u32) -> Seen {
        let inner = self.lock();
        match inner.phase {
            Phase::Active(_) if inner.generation == generation => {
                Seen::UsedAt(self.last_used.load(Relaxed))
            }
            _ => Seen::Gone,
        }
    }

    /// The delay is over.
    pub(crate) fn restart(self: &Arc<Self>) {
        let mut inner = self.lock();
        match inner.phase {
            Phase::Restarting if inner.queue.is_empty() => self.give_up(&mut inner),
            Phase::Restarting => self.start(&mut inner),
            _ => {}
        }
    }

    /// Ends a quarantine. False where there is none.
    pub(crate) fn release(self: &Arc<Self>) -> bool {
        let mut inner = self.lock();
        let quarantined = matches!(inner.phase, Phase::Quarantined(_));
        if quarantined {
            inner.phase = Phase::Gone;
            self.kind.remove(self);
        }
        quarantined
    }

    /// The node takes no more commands: finish and leave. With `refuse`, and where no actor is there
    /// to finish them, the commands that wait are refused.
    pub(crate) fn close(self: &Arc<Self>, refuse: bool) {
        let mut inner = self.lock();
        let restarting = matches!(inner.phase, Phase::Restarting);
        let refused = if refuse || restarting { mem::take(&mut inner.queue) } else { VecDeque::new() };
        match inner.phase {
            Phase::Restarting => self.give_up(&mut inner),
            Phase::Quarantined(_) => {
                inner.phase = Phase::Gone;
                self.kind.remove(self);
            }
            _ => inner.wake(),
        }
        drop(inner);
        for envelope in refused {
            self.refuse(envelope, self.kind.shared.refusal().unwrap_or(AskError::ShuttingDown));
        }
    }
}

impl<E: EventSourced> Inner<E> {
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
