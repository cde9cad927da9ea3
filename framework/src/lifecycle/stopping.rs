//! The end of an incarnation: leaving memory, crashing, being started again.
//!
//! Before: [`running`](super::running). Whether an incarnation may leave is decided under the slot's
//! lock, so no command is lost: it either keeps the entity here, or starts the next incarnation.

use std::{
    mem,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use duractor_journal::JournalError;
use ractor::{ActorProcessingErr, ActorRef};

use super::{End, Incarnation};
use crate::{
    entity::EventSourced,
    error::AskError,
    settings::EntitySettings,
    slot::{Note, Slot},
};

impl<E: EventSourced> Incarnation<E> {
    /// Nothing to do for now. If this incarnation is to end, it does once nothing is under way.
    pub(super) fn rest(&mut self, myself: &ActorRef<Note>) -> Result<(), ActorProcessingErr> {
        let Some(core) = &mut self.core else { return Ok(()) };
        // What it has considered may be in the journal soon: it hears of that, and ends then.
        if !core.pipeline().is_empty() || core.is_considering() {
            return Ok(());
        }
        if let (Some(error), false) = (core.pipeline().failed(), matches!(self.end, End::Deposed)) {
            if is_about_shard(error) {
                // No fault of the entity's: it is not made to wait longer each time.
                self.slot.failures.store(0, Relaxed);
            }
            self.end = match error {
                // The node is about to hear of it. Until then the next incarnation is told the same.
                JournalError::NotLeader { .. } | JournalError::StaleEpoch { .. } => End::Deposed,
                error => End::Crash(error.to_string()),
            };
        }
        match mem::replace(&mut self.end, End::No) {
            End::No => {
                if let Some(error) = self.slot.kind.shared.refusal() {
                    self.close(&error, myself);
                }
                Ok(())
            }
            End::Passivate => {
                self.slot.put_back(core.take_stash().into_iter());
                self.leave_agenda(true);
                self.leave(myself);
                self.slot.vacate();
                Ok(())
            }
            End::Deposed => {
                self.slot.put_back(core.take_stash().into_iter());
                self.leave(myself);
                self.slot.vacate_deposed();
                Ok(())
            }
            End::Crash(reason) => {
                self.slot.put_back(core.take_stash().into_iter());
                self.come_back();
                self.core = None;
                self.timers.clear();
                self.errands.clear();
                self.watch = None;
                Err(reason.into())
            }
        }
    }

    /// Leaves memory if nothing is going on: on behalf of the idle timeout or the active limit.
    pub(super) fn passivate(&mut self, myself: &ActorRef<Note>) {
        let idle = matches!(self.end, End::No)
            && self.timers.is_empty()
            && !self.errands.is_busy()
            && !self.slot.kind.settings().remember
            && self.core.as_ref().is_some_and(|core| core.is_idle());
        if idle && self.slot.vacate_if_idle() {
            tracing::debug!(entity = %self.slot.id, "passivated");
            self.leave_agenda(false);
            self.leave(myself);
        }
    }

    /// The node takes no more commands: leave once the queue is empty.
    fn close(&mut self, error: &AskError, myself: &ActorRef<Note>) {
        let Some(core) = &mut self.core else { return };
        for envelope in core.take_stash() {
            self.slot.refuse(envelope, error.clone());
        }
        if core.is_held() {
            // Nobody decides any more, here. The next owner asks.
            self.slot.refuse_waiting(error);
        }
        if self.slot.vacate_if_empty() {
            self.leave(myself);
        }
    }

    /// From here on the slot is not ours.
    fn leave(&mut self, myself: &ActorRef<Note>) {
        self.core = None;
        self.timers.clear();
        self.errands.clear();
        self.watch = None;
        myself.stop(None);
    }
}

/// Whether the shard could not be written to, whichever entity had tried.
fn is_about_shard(error: &JournalError) -> bool {
    matches!(
        error,
        JournalError::NotLeader { .. }
            | JournalError::StaleEpoch { .. }
            | JournalError::OutcomeUnknown { .. }
            | JournalError::Unavailable { .. }
    )
}

/// The actor of this generation ended. Unless it was meant to, another one starts after a while.
pub(super) fn ended<E: EventSourced>(slot: &Arc<Slot<E>>, generation: u32, failure: &str) {
    if !slot.died(generation) {
        return;
    }
    let shared = &slot.kind.shared;
    if shared.refusal().is_some() {
        return slot.close(true);
    }
    let failures = slot.failures.fetch_add(1, Relaxed);
    let delay = backoff(slot.kind.settings(), failures, shared.env.entropy.next_u64());
    tracing::warn!(entity = %slot.id, failure, ?delay, "the entity failed and starts again");
    let slot = slot.clone();
    tokio::spawn(async move {
        tokio::time::sleep(delay).await;
        slot.restart();
    });
}

/// How long to wait after so many failures in a row: doubled each time, and spread by half to one
/// and a half so that many entities do not start again at once.
fn backoff(settings: &EntitySettings, failures: u32, random: u64) -> Duration {
    let doubled = settings.restart_min.saturating_mul(1 << failures.min(20));
    let delay = doubled.min(settings.restart_max);
    let spread = 0.5 + (random >> 11) as f64 / (1u64 << 53) as f64;
    delay.mul_f64(spread).min(settings.restart_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_limit_and_are_spread() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(3));
        let settings = EntitySettings::default().restart_backoff(min, max);
        let middle = |failures| backoff(&settings, failures, 1 << 63).as_millis();
        assert_eq!([middle(0), middle(1), middle(4), middle(5)], [100, 200, 1600, 3000]);
        assert_eq!(middle(u32::MAX), 3000);
        assert_eq!(backoff(&settings, 0, 0).as_millis(), 50);
        assert_eq!(backoff(&settings, 0, u64::MAX).as_millis(), 150);
        assert_eq!(backoff(&settings, 9, u64::MAX), max);
    }
}
