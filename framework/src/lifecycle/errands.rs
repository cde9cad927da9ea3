//! What an entity does without being called: its deliveries go out, its reminders come due.
//!
//! Beside: [`persisting`](super::persisting), which leaves here the batches whose entity is not on the
//! agenda yet. Each piece of work is a task of the incarnation's and ends with it; the next incarnation
//! begins it anew, from what is committed.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    mem,
    sync::Arc,
    time::Duration,
};

use duractor_journal::{JournalError, ShardId, Timestamp};
use tokio::sync::oneshot;

use super::{
    Halt, Incarnation,
    work::{deliver, remind, work_of},
};
use crate::{
    core::Draft,
    entity::EventSourced,
    error::AskError,
    meta::{Errand, Origin},
    slot::{Notice, Slot},
    task::AbortOnDrop,
};

/// So many pieces of work of one entity go on at once.
const AT_ONCE: usize = 16;
/// An entity that ended with work to do comes back after so long.
const COME_BACK: Duration = Duration::from_millis(200);

/// An incarnation's work. Takes no memory until there is some.
#[derive(Default)]
pub(super) struct Errands {
    inner: Option<Box<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// The entity is on the agenda for this time, or earlier.
    entered: Option<Timestamp>,
    /// It is being entered for this one.
    entering: Option<Timestamp>,
    /// Batches that wait for that.
    held: VecDeque<Draft>,
    /// Deliveries up to this number are committed.
    committed: u64,
    running: BTreeMap<Errand, AbortOnDrop>,
}

impl Errands {
    /// Whether a batch need not wait for the agenda.
    pub(super) fn may_write(&self, due: Option<Timestamp>) -> bool {
        #[cfg(feature = "planted")]
        if crate::planted::is(crate::planted::Planted::AgendaSkipped) {
            return true;
        }
        match &self.inner {
            None => due.is_none(),
            Some(inner) => inner.held.is_empty() && inner.covers(due),
        }
    }

    /// Whether something goes on.
    pub(super) fn is_busy(&self) -> bool {
        let busy = |inner: &Inner| !inner.running.is_empty() || !inner.held.is_empty();
        self.inner.as_deref().is_some_and(busy)
    }

    /// Nothing more is begun; batches that wait for the agenda hear what becomes of it.
    pub(super) fn stop(&mut self) {
        if let Some(inner) = &mut self.inner {
            inner.running.clear();
        }
    }

    pub(super) fn clear(&mut self) {
        self.inner = None;
    }
}

impl Inner {
    fn covers(&self, due: Option<Timestamp>) -> bool {
        due.is_none_or(|due| self.entered.is_some_and(|entered| entered <= due))
    }
}

/// The agenda.
impl<E: EventSourced> Incarnation<E> {
    /// Keeps a batch until the entity is on the agenda for its time.
    pub(super) fn hold_back(&mut self, draft: Draft) {
        self.errands.inner.get_or_insert_default().held.push_back(draft);
        self.enter();
    }

    fn enter(&mut self) {
        let Some(inner) = &mut self.errands.inner else { return };
        let Some(due) = inner.held.iter().filter_map(|draft| draft.due).min() else { return };
        let Some(diary) = self.slot.kind.shared.diary.get() else { return };
        if inner.entering.is_some() {
            return;
        }
        inner.entering = Some(due);
        let (slot, generation) = (self.slot.clone(), self.generation);
        let done = move |result| slot.notice(generation, Notice::Entered(result));
        diary.enter(&self.slot.id, self.slot.shard, Some(due), false, Box::new(done));
    }

    /// The entity is on the agenda, or could not be entered.
    pub(super) fn entered(&mut self, result: Result<(), AskError>) {
        let Some(inner) = &mut self.errands.inner else { return };
        let due = inner.entering.take();
        if let Err(error) = result {
            let error = refusal(self.slot.shard, error);
            let held = mem::take(&mut inner.held);
            let Some(core) = &mut self.core else { return };
            for draft in held {
                core.resolve(draft.last, Err(error.clone()));
            }
            return;
        }
        inner.entered = [inner.entered, due].into_iter().flatten().min();
        while let Some(inner) = &mut self.errands.inner
            && inner.held.front().is_some_and(|draft| inner.covers(draft.due))
            && let Some(draft) = inner.held.pop_front()
        {
            self.write(draft);
        }
        self.enter();
    }

    /// The incarnation leaves memory with everything committed. With `forget` it was asked to stay
    /// away.
    pub(super) fn leave_agenda(&mut self, forget: bool) {
        let Some(core) = &self.core else { return };
        let forget = forget && self.slot.kind.settings().remember;
        let due = core.meta().due();
        let meta = core.meta();
        let used = meta.outbox().is_some_and(|it| it.last() > 0)
            || meta.reminders().is_some_and(|it| it.last() > 0);
        let known = used || self.errands.inner.as_ref().is_some_and(|it| it.entered.is_some());
        let (id, shard) = (&self.slot.id, self.slot.shard);
        let Some(diary) = self.slot.kind.shared.diary.get() else { return };
        if forget || (known && due != Some(Timestamp(0))) {
            diary.leave(id, shard, due, forget);
        } else if known {
            diary.again(id, shard, Duration::ZERO);
        }
    }

    /// The incarnation ends before its time: where there is work, the entity comes back.
    pub(super) fn come_back(&self) {
        let Some(core) = &self.core else { return };
        let remembered = self.slot.kind.settings().remember;
        if !remembered && core.meta().due().is_none() {
            return;
        }
        if let Some(diary) = self.slot.kind.shared.diary.get() {
            diary.again(&self.slot.id, self.slot.shard, COME_BACK);
        }
    }
}

/// Sees to it that an entity comes back after a restart or a move.
pub(super) async fn remember<E: EventSourced>(slot: &Slot<E>) -> Result<(), Halt> {
    let Some(diary) = slot.kind.shared.diary.get() else { return Ok(()) };
    let (tell, told) = oneshot::channel();
    let done = move |result| {
        // Nobody waits where the actor was killed.
        let _ = tell.send(result);
    };
    diary.enter(&slot.id, slot.shard, None, true, Box::new(done));
    match told.await.unwrap_or(Err(AskError::ShuttingDown)) {
        Ok(()) => Ok(()),
        Err(AskError::NotOwner { .. }) => Err(Halt::Deposed),
        Err(error) => Err(Halt::Retry(format!("it could not be put on the agenda: {error}"))),
    }
}

/// The work.
impl<E: EventSourced> Incarnation<E> {
    /// Everything up to here is committed: begins what is to be done now.
    pub(super) fn follow_up(&mut self, committed: u64) {
        let Some(core) = &self.core else { return };
        let shared = &self.slot.kind.shared;
        let quiet = shared.diary.get().is_none() || shared.refusal().is_some();
        if core.meta().is_empty() || quiet {
            return;
        }
        let inner = self.errands.inner.get_or_insert_default();
        inner.committed = inner.committed.max(committed);
        let now = self.slot.kind.shared.env.clock.now();
        self.begin_deliveries();
        self.begin_reminders(now);
        self.plan(now);
    }

    /// It was recovered: all that it has is committed.
    pub(super) fn take_up(&mut self) {
        let outbox = self.core.as_ref().and_then(|core| core.meta().outbox());
        self.follow_up(outbox.map_or(0, |outbox| outbox.last()));
    }

    /// It was woken: its time has come, or this node took the shard.
    pub(super) fn woken(&mut self) {
        let Some(core) = &mut self.core else { return };
        if core.meta().due().is_none() {
            let settled = core.pipeline().is_empty() && !self.errands.is_busy();
            if settled && !self.slot.kind.settings().remember {
                if let Some(inner) = &mut self.errands.inner {
                    inner.entered = None;
                }
                if let Some(diary) = self.slot.kind.shared.diary.get() {
                    diary.leave(&self.slot.id, self.slot.shard, None, false);
                }
            }
            return;
        }
        self.follow_up(0);
    }

    /// A piece of work ended.
    pub(super) fn errand_done(&mut self, errand: &Errand) {
        if let Some(inner) = &mut self.errands.inner {
            inner.running.remove(errand);
        }
        self.follow_up(0);
    }

    /// One delivery to each receiver at a time, so that each gets them in their order.
    fn begin_deliveries(&mut self) {
        let (Some(core), Some(inner)) = (&self.core, &mut self.errands.inner) else { return };
        let Some(outbox) = core.meta().outbox() else { return };
        for (number, pending) in outbox.pending().range(..=inner.committed) {
            if inner.running.len() >= AT_ONCE {
                return;
            }
            let errand = Errand::To(pending.to.clone());
            if let Entry::Vacant(free) = inner.running.entry(errand.clone()) {
                let work = deliver(self.slot.clone(), *number, pending.clone());
                free.insert(begin(&self.slot, self.generation, errand, work));
            }
        }
    }

    fn begin_reminders(&mut self, now: Timestamp) {
        let (Some(core), Some(inner)) = (&self.core, &mut self.errands.inner) else { return };
        let Some(reminders) = core.meta().reminders() else { return };
        for (name, reminder) in reminders.by_name() {
            let errand = Errand::Reminder(reminder.id);
            let is_due = reminder.due <= now && !inner.running.contains_key(&errand);
            if is_due && inner.running.len() < 2 * AT_ONCE {
                let (slot, call) = (self.slot.clone(), reminder.call.clone());
                let work = remind(slot, reminder.id, name.clone(), call);
                let task = begin(&self.slot, self.generation, errand.clone(), work);
                inner.running.insert(errand, task);
            }
        }
    }

    /// Says when the next reminder is due.
    fn plan(&self, now: Timestamp) {
        let reminders = self.core.as_ref().and_then(|core| core.meta().reminders());
        let due = reminders.into_iter().flat_map(|it| it.by_name().values()).map(|it| it.due);
        if let Some(next) = due.filter(|due| *due > now).min()
            && let Some(diary) = self.slot.kind.shared.diary.get()
        {
            diary.plan(&self.slot.id, self.slot.shard, next);
        }
    }

    /// A handler crashed on a piece of work: counted, so that it is not tried for ever.
    pub(super) fn crashed_on(&self, origin: Option<&Origin>) {
        if let (Some(work), Some(diary)) =
            (origin.and_then(work_of), self.slot.kind.shared.diary.get())
        {
            diary.crashed(&self.slot.id, self.slot.shard, work);
        }
    }
}

fn refusal(shard: ShardId, error: AskError) -> JournalError {
    match error {
        AskError::NotOwner { shard, leader } => JournalError::NotLeader { shard, leader },
        error => {
            let reason = format!("the entity could not be put on the shard's agenda: {error}");
            JournalError::Unavailable { shard, reason }
        }
    }
}

fn begin<E: EventSourced>(
    slot: &Arc<Slot<E>>,
    generation: u32,
    errand: Errand,
    work: impl Future<Output = ()> + Send + 'static,
) -> AbortOnDrop {
    let slot = slot.clone();
    AbortOnDrop::new(&tokio::spawn(async move {
        work.await;
        slot.notice(generation, Notice::Errand(errand));
    }))
}
