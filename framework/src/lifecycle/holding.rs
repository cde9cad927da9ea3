//! An entity that a transaction holds: what it would write goes to whoever writes all together, and
//! where it is prepared and hears nothing, it asks what was decided.
//!
//! Beside: [`running`](super::running). What is decided is decided in
//! [`core::transact`](crate::core).

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{End, Incarnation};
use crate::{
    coordinator::{Resolve, coordinator},
    core::{Offer, Undecided},
    entity::EventSourced,
    error::AskError,
    intent::{Options, Step},
    post,
    slot::{Notice, Room, Slot},
    step::{Ready, Settle, Settled},
    stepping::Stepping,
    task::AbortOnDrop,
};

/// How long one question for the decision may take.
const ASK: Duration = Duration::from_secs(2);
/// The first wait before the decision is asked for again; it doubles up to the second.
const WAIT_MIN: Duration = Duration::from_millis(50);
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Asks for the decision on what is prepared.
pub(super) struct Watch {
    number: u64,
    _task: AbortOnDrop,
}

impl<E: EventSourced> Incarnation<E> {
    /// What may be taken from the mailbox now.
    pub(super) fn room(&self) -> Room {
        let settings = self.slot.kind.settings();
        match &self.core {
            Some(core) if matches!(self.end, End::No) && !core.has_failed() => {
                if core.is_held() || !core.has_room(settings) { Room::Steps } else { Room::All }
            }
            _ => Room::Nothing,
        }
    }

    /// Tells whoever writes all together what this entity would write.
    pub(super) fn offer(&mut self, offer: Offer) {
        let Offer { draft, reply, ready } = offer;
        let batch = draft.map(|draft| self.batch(draft));
        let (slot, generation) = (self.slot.clone(), self.generation);
        let settle = Settle::new(move |settled| slot.notice(generation, Notice::Settled(settled)));
        if let Err(Ready { settle, .. }) = ready.send(Ready { batch, reply, settle }) {
            // Nobody waits any more, so nothing is written.
            settle.settle(Settled::Aborted);
        }
    }

    /// Takes in what became of what was considered.
    pub(super) fn settled(&mut self, settled: Settled) {
        let Some(core) = &mut self.core else { return };
        if core.settle(&self.slot.kind.rules, settled) && matches!(self.end, End::No) {
            let reason = "whether a transaction was committed is not known".to_owned();
            self.end = End::Crash(reason);
        }
    }

    /// Sees to it that somebody asks for the decision where the entity is prepared, and nobody does
    /// where it is not. `recovered`: it has waited already, nobody knows how long.
    pub(super) fn watch(&mut self, recovered: bool) {
        let undecided = self.core.as_ref().and_then(|core| core.undecided());
        let number = undecided.as_ref().map(|undecided| undecided.number);
        if self.watch.as_ref().map(|watch| watch.number) == number {
            return;
        }
        self.watch = undecided.map(|mut undecided| {
            if recovered {
                undecided.patience = Duration::ZERO;
            }
            let number = undecided.number;
            let task = tokio::spawn(ask(self.slot.clone(), undecided));
            Watch { number, _task: AbortOnDrop::new(&task) }
        });
    }
}

/// Asks for the decision until it is there; the entity's decision ends this.
async fn ask<E: EventSourced>(slot: Arc<Slot<E>>, undecided: Undecided) {
    let Undecided { tx, number, patience } = undecided;
    sleep(patience).await;
    let shared = slot.kind.shared.clone();
    let resolve = Resolve { attempt: tx.attempt, entity: slot.id.clone(), number };
    let mut wait = WAIT_MIN;
    loop {
        let asked = match coordinator(&tx.id) {
            Ok(to) => post::ask(&shared, &to, &resolve, (true, Instant::now() + ASK)).await,
            Err(error) => Err(error),
        };
        match asked {
            Ok(commit) => {
                tracing::debug!(entity = %slot.id, id = tx.id, commit, "asked for the decision");
                decide(&slot, Step::Decide { tx: tx.clone(), number: Some(number), commit });
            }
            Err(error) => {
                tracing::debug!(entity = %slot.id, id = tx.id, %error, "no decision yet");
            }
        }
        let random = shared.env.entropy.next_u64() % (wait.as_millis() as u64 + 1);
        sleep(wait + Duration::from_millis(random)).await;
        wait = (wait * 2).min(WAIT_MAX);
    }
}

fn decide<E: EventSourced>(slot: &Arc<Slot<E>>, step: Step<E>) {
    let step = Stepping::boxed(step, "duractor.decide", Options::default(), None);
    if let Err(refused) = slot.kind.offer(&slot.id, step) {
        let error: AskError = refused.into();
        tracing::debug!(entity = %slot.id, %error, "the decision is not taken yet");
    }
}
