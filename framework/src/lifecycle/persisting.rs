//! Between the core and the journal: batches out, commits in, and whatever waited for them.
//!
//! Beside: [`running`](super::running). What follows an answer is in [`after`](super::after).

use std::sync::atomic::Ordering::Relaxed;

use duractor_journal::{AppendBatch, Appended};

use super::{End, Incarnation};
use crate::{
    core::{
        Draft,
        pipeline::{Held, Released},
    },
    entity::EventSourced,
    slot::Notice,
};

impl<E: EventSourced> Incarnation<E> {
    /// A batch as the journal takes it, under this incarnation's epoch.
    pub(super) fn batch(&self, draft: Draft) -> AppendBatch {
        let Draft { expected, timestamp, request, events, .. } = draft;
        AppendBatch {
            entity: self.slot.id.clone(),
            epoch: self.tenure.epoch,
            expected_seq: expected,
            timestamp,
            request,
            events,
        }
    }

    /// Hands a batch to the journal, once the entity is on the agenda if it has to be.
    pub(super) fn submit(&mut self, draft: Draft) {
        if self.errands.may_write(draft.due) { self.write(draft) } else { self.hold_back(draft) }
    }

    pub(super) fn write(&mut self, draft: Draft) {
        let (last, batch) = (draft.last, self.batch(draft));
        let shared = &self.slot.kind.shared;
        let (slot, generation) = (self.slot.clone(), self.generation);
        let done = move |result: Result<Appended, _>| {
            slot.notice(generation, Notice::Batch { last, result: result.map(|_| ()) });
        };
        shared.journal.submit(batch, Box::new(done));
    }

    /// Takes in what the journal said.
    pub(super) fn resolve(&mut self, notices: Vec<Notice>) {
        for notice in notices {
            let Some(core) = &mut self.core else { return };
            match notice {
                Notice::Batch { last, result } => {
                    if let Err(error) = &result {
                        self.slot.kind.shared.refused(error);
                    }
                    core.resolve(last, result);
                }
                Notice::Confirmed { round, result } => core.pipeline().confirmed(round, result),
                Notice::Entered(result) => self.entered(result),
                Notice::Errand(errand) => self.errand_done(&errand),
                Notice::Settled(settled) => self.settled(settled),
            }
        }
    }

    /// Gives out the answers that wait no more.
    pub(super) fn release(&mut self) {
        while let Some(core) = &mut self.core
            && let Some(Released { held, error }) = core.release()
        {
            let Held { until, envelope, after, passivate, snapshot, .. } = held;
            // The state of a batch that was refused never was.
            let snapshot = snapshot.filter(|_| error.is_none());
            match (envelope, error) {
                (Some(envelope), Some(error)) => self.slot.refuse(envelope, error),
                (Some(envelope), None) => {
                    self.worked();
                    self.slot.finish(envelope);
                    self.after(after, until);
                }
                (None, Some(_)) => {}
                (None, None) => self.after(after, until),
            }
            if let Some(image) = snapshot {
                self.save(image, until);
            }
            if passivate && matches!(self.end, End::No) {
                self.end = End::Passivate;
            }
        }
    }

    fn worked(&mut self) {
        if std::mem::take(&mut self.untried) {
            self.slot.failures.store(0, Relaxed);
        }
    }
}
