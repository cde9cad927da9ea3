//! What an entity does without being called: its deliveries go out, its reminders come due.
//!
//! Beside: [`persisting`](super::persisting), which leaves here the batches whose entity is not on the
//! agenda yet. Each piece of work is a task of the incarnation's and ends with it; the next incarnation
//! begins it anew, from what is committed.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use duractor_journal::{JournalError, Timestamp};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

use super::{Halt, Incarnation};
use crate::{
    commands::{Raw, door},
    core::Draft,
    delivery::Away,
    entity::EventSourced,
    error::AskError,
    intent::{BoxEnvelope, Options},
    look::note,
    meta::{Call, Errand, Origin, outbox::Pending},
    outcome,
    post::carry,
    slot::{Notice, Slot},
    task::AbortOnDrop,
};

/// So many pieces of work of one entity go on at once.
const AT_ONCE: usize = 16;
/// The first wait before something is tried again; it doubles up to the second.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// An entity that ended with work to do comes back after so long.
const COME_BACK: Duration = Duration::from_millis(200);

/// An incarnation's work. Takes no memory until there is some.
pub(super) struct Errands<E: EventSourced> {
    inner: Option<Box<Inner>>,
    _entity: std::marker::PhantomData<fn() -> E>,
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

impl<E: EventSourced> Default for Errands<E> {
    fn default() -> Self {
        Self { inner: None, _entity: std::marker::PhantomData }
    }
}

impl<E: EventSourced> Errands<E> {
    /// Whether a batch need not wait for the agenda.
    pub(super) fn may_write(&self, due: Option<Timestamp>) -> bool {
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
        if core.meta().is_empty() || self.slot.kind.shared.refusal().is_some() {
            return;
        }
        let inner = self.errands.inner.get_or_insert_default();
        inner.committed = inner.committed.max(committed);
        let now = self.slot.kind.shared.env.clock.now();
        self.begin_deliveries();
        self.begin_reminders(now);
        self.plan(now);
    }

    /// It was woken: by a caller's time, or because somebody took the shard.
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
            if !inner.running.contains_key(&errand) {
                let work = deliver(self.slot.clone(), *number, pending.clone());
                let task = begin(&self.slot, self.generation, errand.clone(), work);
                inner.running.insert(errand, task);
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

/// What tells a piece of work from others of the entity.
fn work_of(origin: &Origin) -> Option<(u8, u64)> {
    match origin {
        Origin::Delivery { .. } => None,
        Origin::Outcome { number, .. } => Some((0, *number)),
        Origin::Reminder { id, .. } => Some((1, *id)),
    }
}

fn refusal(shard: duractor_journal::ShardId, error: AskError) -> JournalError {
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

/// The waits between tries.
struct Pause(Duration);

impl Pause {
    async fn wait(&mut self) {
        sleep(self.0).await;
        self.0 = (self.0 * 2).min(RETRY_MAX);
    }
}

/// Gives a delivery to its receiver, and notes that it is done, or what came of it.
async fn deliver<E: EventSourced>(slot: Arc<Slot<E>>, number: u64, pending: Pending) {
    let settings = slot.kind.settings();
    let (mut refused, mut pause) = (0, Pause(RETRY_MIN));
    let outcome = loop {
        let origin = Origin::Delivery {
            from: slot.id.clone(),
            number,
            since: pending.since,
            wants_reply: pending.then.is_some(),
        };
        let (shared, tries) = (&slot.kind.shared, (true, Instant::now() + settings.ask_timeout));
        let error = match carry(shared, &pending.to, &pending.call, Some(origin), tries).await {
            Ok(reply) => break Ok(reply),
            Err(error) => error,
        };
        if slot.kind.shared.refusal().is_some() {
            return;
        }
        let is_final = matches!(error, AskError::Forgotten { .. });
        refused += u32::from(is_refusal(&error));
        let (entity, to, command) = (&slot.id, &pending.to, &pending.call.command);
        if is_final || refused >= settings.delivery_attempts {
            tracing::error!(%entity, %to, command, number, %error, "a delivery is given up");
            break Err(error.to_string());
        }
        tracing::warn!(%entity, %to, command, number, %error, "not delivered yet");
        pause.wait().await;
    };
    record(&slot, number, &pending, outcome).await;
}

/// Whether trying again is unlikely to help: the receiver was there and did not take it.
fn is_refusal(error: &AskError) -> bool {
    !matches!(
        error,
        AskError::Busy { .. }
            | AskError::NodeBusy { .. }
            | AskError::Timeout { .. }
            | AskError::Expired { .. }
            | AskError::Quarantined { .. }
            | AskError::Aborted { .. }
            | AskError::NotOwner { .. }
            | AskError::OutcomeUnknown { .. }
            | AskError::Unavailable { .. }
            | AskError::ShuttingDown
            | AskError::NodeFailed { .. }
            | AskError::Lost { .. }
    )
}

async fn record<E: EventSourced>(
    slot: &Arc<Slot<E>>,
    number: u64,
    pending: &Pending,
    outcome: Result<Bytes, String>,
) {
    let given_up = outcome.as_ref().err().cloned();
    let origin = Origin::Outcome { number, given_up };
    let Some(then) = &pending.then else { return noted(slot, origin).await };
    let payload = match outcome::payload(&pending.to, number, outcome) {
        Ok(payload) => payload,
        Err(error) => return give_up(slot, origin, &error.to_string()).await,
    };
    let call = Call { command: then.command.clone(), version: then.version, payload };
    handle(slot, origin, call).await;
}

async fn remind<E: EventSourced>(slot: Arc<Slot<E>>, id: u64, name: String, call: Call) {
    tracing::debug!(entity = %slot.id, name, "a reminder is due");
    handle(&slot, Origin::Reminder { id, given_up: None }, call).await;
}

/// Has the entity handle a command of its own, until it did or it is clear that it cannot.
async fn handle<E: EventSourced>(slot: &Arc<Slot<E>>, origin: Origin, call: Call) {
    let limit = slot.kind.settings().delivery_attempts;
    let diary = slot.kind.shared.diary.get();
    let crashes = work_of(&origin)
        .zip(diary)
        .map_or(0, |(work, diary)| diary.crashes(&slot.id, slot.shard, work));
    if crashes >= limit {
        return give_up(slot, origin, "its handler fails each time").await;
    }
    let (mut refused, mut pause) = (0, Pause(RETRY_MIN));
    while let Err(error) = offer(slot, &origin, &call).await {
        if slot.kind.shared.refusal().is_some() {
            return;
        }
        refused += u32::from(is_refusal(&error));
        if refused >= limit {
            return give_up(slot, origin, &error.to_string()).await;
        }
        tracing::warn!(entity = %slot.id, command = call.command, %error, "not handled yet");
        pause.wait().await;
    }
}

async fn offer<E: EventSourced>(
    slot: &Arc<Slot<E>>,
    origin: &Origin,
    call: &Call,
) -> Result<(), AskError> {
    let Call { command, version, payload } = call.clone();
    let (kind, id) = (&slot.kind, &slot.id);
    let Some(door) = door::<E>(&command) else {
        return Err(AskError::UnknownCommand { kind: E::KIND.to_owned(), command });
    };
    let (tell, told) = oneshot::channel();
    let reply = Away::new(id.clone(), move |answer: Result<Bytes, AskError>| {
        // Nobody waits where the incarnation has ended.
        let _ = tell.send(answer.map(drop));
    });
    let options = Options { origin: Some(Box::new(origin.clone())), ..Options::default() };
    // Where it cannot be read, `told` says so.
    if let Some(envelope) = door(Raw { version, payload, options, reply }) {
        kind.offer(id, envelope)?;
    }
    told.await.unwrap_or_else(|_| Err(AskError::Lost { entity: id.clone() }))
}

async fn give_up<E: EventSourced>(slot: &Arc<Slot<E>>, origin: Origin, reason: &str) {
    tracing::error!(entity = %slot.id, ?origin, reason, "given up");
    let given_up = Some(reason.to_owned());
    let origin = match origin {
        Origin::Outcome { number, .. } => Origin::Outcome { number, given_up },
        Origin::Reminder { id, .. } => Origin::Reminder { id, given_up },
        delivery @ Origin::Delivery { .. } => delivery,
    };
    noted(slot, origin).await;
}

/// Writes that it is done.
async fn noted<E: EventSourced>(slot: &Arc<Slot<E>>, origin: Origin) {
    let mut pause = Pause(RETRY_MIN);
    loop {
        let (tell, told) = oneshot::channel();
        let envelope: BoxEnvelope<E> = note(origin.clone(), tell);
        let result = match slot.kind.offer(&slot.id, envelope) {
            Ok(()) => told.await.unwrap_or(Err(AskError::ShuttingDown)),
            Err(refused) => Err(refused.into()),
        };
        match result {
            Ok(()) => return,
            Err(_) if slot.kind.shared.refusal().is_some() => return,
            Err(error) => tracing::debug!(entity = %slot.id, %error, "not noted yet"),
        }
        pause.wait().await;
    }
}
