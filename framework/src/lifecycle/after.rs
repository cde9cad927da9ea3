//! What follows a commit: side effects, timers and snapshots.
//!
//! Called from [`persisting`](super::persisting). Tasks that are started here count as work of the
//! entity, so that it stays in memory and the node's shutdown waits for them.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::Bytes;
use duractor_journal::{Seq, Term};
use duractor_snapshot::{Retention, Saved, Snapshot};
use futures_util::FutureExt;

use super::Incarnation;
use crate::{
    context::SideContext,
    entity::EventSourced,
    intent::{After, BoxEnvelope, Side, TimerChange, panic_text},
    slot::{Note, Refused, Slot},
    task::AbortOnDrop,
};

/// A timer that is running.
pub(super) struct Timer<E: EventSourced> {
    name: String,
    command: BoxEnvelope<E>,
    _task: AbortOnDrop,
}

/// Counts as work of the entity while it lives.
struct Task<E: EventSourced>(Arc<Slot<E>>);

impl<E: EventSourced> Task<E> {
    fn begin(slot: &Arc<Slot<E>>) -> Self {
        slot.begin_task();
        Self(slot.clone())
    }
}

impl<E: EventSourced> Drop for Task<E> {
    fn drop(&mut self) {
        self.0.end_task();
    }
}

impl<E: EventSourced> Incarnation<E> {
    /// Does what a command asked for beside events and answer.
    pub(super) fn after(&mut self, after: After<E>, revision: Seq) {
        if let Some(committed) = after.kept {
            self.follow_up(committed);
        }
        for side in after.sides {
            self.side(side, revision);
        }
        for change in after.timers {
            match change {
                TimerChange::Cancel { name } => self.cancel_timer(&name),
                TimerChange::Set { name, after, command } => self.set_timer(name, after, command),
            }
        }
    }

    fn side(&self, side: Side, revision: Seq) {
        let Some(kinds) = self.slot.kind.shared.kinds.get() else { return };
        let context = SideContext { entity: self.slot.id.clone(), revision, kinds: kinds.clone() };
        let log = |context: &SideContext, error: &dyn std::fmt::Display| {
            let (entity, revision) = (&context.entity, context.revision);
            tracing::warn!(%entity, %revision, %error, "a side effect failed");
        };
        match side {
            Side::Call(call) => {
                if let Err(error) = call(&context) {
                    log(&context, &error);
                }
            }
            Side::Task(make) => {
                let counted = Task::begin(&self.slot);
                tokio::spawn(async move {
                    let run = async { make(context.clone()).await };
                    match AssertUnwindSafe(run).catch_unwind().await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => log(&context, &error),
                        Err(panic) => log(&context, &panic_text(panic.as_ref())),
                    }
                    drop(counted);
                });
            }
        }
    }

    fn cancel_timer(&mut self, name: &str) {
        self.timers.retain(|_, timer| timer.name != name);
    }

    fn set_timer(&mut self, name: String, after: Duration, command: BoxEnvelope<E>) {
        self.cancel_timer(&name);
        let (slot, generation, number) = (self.slot.clone(), self.generation, self.next_timer);
        self.next_timer += 1;
        let fire = async move {
            tokio::time::sleep(after).await;
            slot.tell(generation, Note::Timer(number));
        };
        let task = AbortOnDrop::new(&tokio::spawn(fire));
        self.timers.insert(number, Timer { name, command, _task: task });
    }

    /// Puts a timer's command into the mailbox.
    pub(super) fn timer_fired(&mut self, number: u64) {
        // It may have been cancelled in the meantime.
        let Some(timer) = self.timers.remove(&number) else { return };
        let Timer { name, command, .. } = timer;
        if let Some(core) = &mut self.core {
            core.timer_is_gone(&name);
        }
        if let Err(Refused { error, .. }) = self.slot.kind.offer(&self.slot.id, command) {
            tracing::warn!(entity = %self.slot.id, name, %error, "a timer's command was refused");
        }
    }

    /// Saves a snapshot, and what follows from that: see [`spread`].
    pub(super) fn save(&mut self, state: Bytes, seq: Seq) {
        let Some(core) = &mut self.core else { return };
        core.snapshot_saved(true);
        let shared = self.slot.kind.shared.clone();
        let settings = self.slot.kind.settings();
        let snapshot = Snapshot {
            entity: self.slot.id.clone(),
            seq,
            timestamp: shared.env.clock.now(),
            schema_version: settings.state_version,
            state,
        };
        let retention = Retention::newest(settings.keep_snapshots);
        let (counted, generation) = (Task::begin(&self.slot), self.generation);
        let epoch = self.tenure.epoch;
        tokio::spawn(async move {
            let slot = &counted.0;
            match shared.snapshots.save(vec![snapshot.clone()], retention).await {
                Ok(saved) => {
                    tracing::debug!(entity = %slot.id, %seq, "snapshot saved");
                    if let Some(saved) = saved.first() {
                        spread(slot, snapshot, *saved, epoch).await;
                    }
                }
                Err(error) => tracing::warn!(entity = %slot.id, %seq, %error, "no snapshot saved"),
            }
            slot.tell(generation, Note::Saved);
            drop(counted);
        });
    }

    /// The next snapshot may be taken.
    pub(super) fn snapshot_saved(&mut self) {
        if let Some(core) = &mut self.core {
            core.snapshot_saved(false);
        }
    }
}

/// Sends a snapshot that was saved to the other replicas, and deletes the events that no snapshot
/// needs.
async fn spread<E: EventSourced>(slot: &Slot<E>, snapshot: Snapshot, saved: Saved, epoch: Term) {
    let settings = slot.kind.settings();
    let (to, sharing) = match &slot.kind.shared.replicas {
        None => (saved.oldest, None),
        Some(replicas) => {
            let shared = replicas.share(slot.shard, snapshot, settings.keep_snapshots, saved).await;
            let Some((to, sharing)) = shared else {
                tracing::debug!(entity = %slot.id, "no quorum has the snapshot yet");
                return;
            };
            (to, Some(sharing))
        }
    };
    if settings.delete_events {
        delete_events(slot, to, epoch).await;
    }
    drop(sharing);
}

async fn delete_events<E: EventSourced>(slot: &Slot<E>, to: Seq, epoch: Term) {
    match slot.kind.shared.journal.delete_to(&slot.id, to, epoch).await {
        Ok(()) => tracing::debug!(entity = %slot.id, %to, "events deleted"),
        Err(error) => tracing::warn!(entity = %slot.id, %to, %error, "events not deleted"),
    }
}
