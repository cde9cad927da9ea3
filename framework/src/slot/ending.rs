//! How incarnations end, and what becomes of the commands that wait.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use super::{Inner, Phase, Slot};
use crate::{entity::EventSourced, error::AskError, intent::BoxEnvelope};

/// The actor decides to leave, and stops.
impl<E: EventSourced> Slot<E> {
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

    /// The shard is not this node's, or not any more under the same epoch: leaves memory. Commands
    /// that wait are refused, or are for the next incarnation where the shard is this node's again.
    pub(crate) fn vacate_deposed(self: &Arc<Self>) {
        let mut inner = self.lock();
        let owned = self.check_owned();
        let refused = if owned.is_err() { mem::take(&mut inner.queue) } else { VecDeque::new() };
        if inner.queue.is_empty() {
            self.give_up(&mut inner);
        } else {
            self.start(&mut inner);
        }
        drop(inner);
        if let Err(error) = owned {
            self.refuse_all(refused, &error);
        }
    }

    /// The shard was not claimed in time: leaves memory, and refuses all that waits.
    pub(crate) fn vacate_refusing(self: &Arc<Self>, error: &AskError) {
        let mut inner = self.lock();
        let refused = mem::take(&mut inner.queue);
        self.give_up(&mut inner);
        drop(inner);
        self.refuse_all(refused, error);
    }

    /// Refuses all that waits.
    pub(crate) fn refuse_waiting(&self, error: &AskError) {
        let refused = mem::take(&mut self.lock().queue);
        self.refuse_all(refused, error);
    }

    fn refuse_all(&self, envelopes: VecDeque<BoxEnvelope<E>>, error: &AskError) {
        for envelope in envelopes {
            self.refuse(envelope, error.clone());
        }
    }

    fn give_up(self: &Arc<Self>, inner: &mut Inner<E>) {
        inner.phase = Phase::Gone;
        self.kind.remove(self);
        self.deactivated();
    }

    fn deactivated(&self) {
        self.kind.idle().remove(self);
        self.kind.active.fetch_sub(1, Relaxed);
        self.kind.shared.leave();
    }
}

/// What happens to an entity from outside.
impl<E: EventSourced> Slot<E> {
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

    /// The shard has another owner, or another epoch. The actor finds out by itself what that means;
    /// see [`Kind::evict`](crate::shared::AnyKind::evict) for `refuse`.
    pub(crate) fn evict(self: &Arc<Self>, refuse: Option<&AskError>) {
        let mut inner = self.lock();
        let refused = if refuse.is_some() { mem::take(&mut inner.queue) } else { VecDeque::new() };
        // What failed under the last owner says nothing of the next.
        self.failures.store(0, Relaxed);
        match inner.phase {
            Phase::Restarting if inner.queue.is_empty() => self.give_up(&mut inner),
            // Another owner may have mended what was wrong.
            Phase::Quarantined(_) => {
                inner.phase = Phase::Gone;
                self.kind.remove(self);
            }
            _ => inner.wake(),
        }
        drop(inner);
        #[cfg(feature = "planted")]
        if crate::planted::is(crate::planted::Planted::BufferDropped) {
            return;
        }
        if let Some(error) = refuse {
            self.refuse_all(refused, error);
        }
    }

    /// The node takes no more commands: finish and leave. With `refuse`, and where no actor is there
    /// to finish them, the commands that wait are refused.
    pub(crate) fn close(self: &Arc<Self>, refuse: bool) {
        let mut inner = self.lock();
        let restarting = matches!(inner.phase, Phase::Restarting);
        let refused =
            if refuse || restarting { mem::take(&mut inner.queue) } else { VecDeque::new() };
        match inner.phase {
            Phase::Restarting => self.give_up(&mut inner),
            Phase::Quarantined(_) => {
                inner.phase = Phase::Gone;
                self.kind.remove(self);
            }
            _ => inner.wake(),
        }
        drop(inner);
        let error = self.kind.shared.refusal().unwrap_or(AskError::ShuttingDown);
        self.refuse_all(refused, &error);
    }
}
