//! The pieces of work themselves: a delivery on its way, a reminder that is due.
//!
//! Before: [`errands`](super::errands), which begins them. Each goes on until what came of it is
//! committed, and is dropped with its incarnation.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

use crate::{
    commands::{Raw, door},
    delivery::Away,
    entity::EventSourced,
    error::AskError,
    intent::{BoxEnvelope, Options},
    look::note,
    meta::{Call, Origin, outbox::Pending},
    outcome,
    post::carry,
    slot::Slot,
};

/// The first wait before something is tried again; it doubles up to the second.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// What tells a piece of work from others of the entity.
pub(super) fn work_of(origin: &Origin) -> Option<(u8, u64)> {
    match origin {
        Origin::Delivery { .. } => None,
        Origin::Outcome { number, .. } => Some((0, *number)),
        Origin::Reminder { id, .. } => Some((1, *id)),
    }
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
pub(super) async fn deliver<E: EventSourced>(slot: Arc<Slot<E>>, number: u64, pending: Pending) {
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

pub(super) async fn remind<E: EventSourced>(slot: Arc<Slot<E>>, id: u64, name: String, call: Call) {
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
