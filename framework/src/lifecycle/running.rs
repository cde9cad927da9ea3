//! Handling commands, one after the other, as long as there is room for what they write.
//!
//! Before: [`replay`](super::replay). Beside: [`persisting`](super::persisting), which takes what is
//! to be written and brings back what became of it. Next: [`stopping`](super::stopping).

use duractor_journal::Timestamp;
use ractor::{ActorProcessingErr, ActorRef};
use tokio::time::Instant;

use super::{End, Incarnation};
use crate::{
    core::Decision,
    entity::EventSourced,
    error::AskError,
    intent::BoxEnvelope,
    slot::{Note, Work},
};

/// Steps at one go; then other entities get their turn.
const BURST: usize = 64;

impl<E: EventSourced> Incarnation<E> {
    /// Does what the slot has to do.
    pub(super) fn run(&mut self, myself: &ActorRef<Note>) -> Result<(), ActorProcessingErr> {
        let shared = self.slot.kind.shared.clone();
        let (now, wall) = (Instant::now(), shared.env.clock.now());
        for _ in 0..BURST {
            if self.core.is_none() {
                return Ok(());
            }
            self.check_tenure();
            match self.slot.next(self.room()) {
                Work::Notices(notices) => self.resolve(notices),
                Work::Command(envelope) => {
                    if envelope.is_use() {
                        self.slot.usage.touch(shared.millis(now));
                    }
                    let wake = envelope.is_wake();
                    self.command(envelope, now, wall);
                    if wake {
                        self.woken();
                    }
                }
                // Looked at once more, as the slot wakes nobody who is awake.
                Work::Nothing if self.check_tenure() => {}
                Work::Nothing => {
                    self.confirm_reads();
                    return self.rest(myself);
                }
            }
            self.release();
        }
        self.confirm_reads();
        // The slot still counts as awake: nobody else sends this.
        myself.cast(Note::Wake).map_err(ActorProcessingErr::from)
    }

    fn command(&mut self, envelope: BoxEnvelope<E>, now: Instant, wall: Timestamp) {
        let Some(core) = &mut self.core else { return };
        if envelope.options().deadline.is_some_and(|deadline| deadline <= now) {
            let expired = AskError::Expired { entity: self.slot.id.clone() };
            return self.slot.refuse(envelope, expired);
        }
        tracing::trace!(entity = %self.slot.id, command = envelope.name(), "handling");
        let (decision, unstashed) = core.command(&self.slot.kind.rules, wall, envelope);
        self.slot.put_back(unstashed.into_iter());
        let is_step = core.is_held() || self.watch.is_some();
        match decision {
            Decision::Held => {}
            Decision::Submit(draft) => self.submit(draft),
            Decision::Considered(offer) => self.offer(offer),
            Decision::Crashed(envelope, reason) => {
                self.crashed_on(envelope.options().origin.as_deref());
                let entity = self.slot.id.clone();
                self.end = End::Crash(reason.clone());
                self.slot.refuse(envelope, AskError::Crashed { entity, reason });
            }
        }
        if is_step {
            self.watch(false);
        }
    }
}
