//! The events after the snapshot, through the same `apply` that new events go through.
//!
//! Before: [`snapshot`](super::snapshot). Next: [`running`](super::running), or quarantine: what
//! cannot be read is never skipped, and missing events are never passed over.

use std::panic::{AssertUnwindSafe, catch_unwind};

use duractor_journal::{EventRecord, JournalError, ReplayRange, Seq};
use futures_util::StreamExt;

use super::Halt;
use crate::{
    core::{Core, window::Answered},
    entity::EventSourced,
    error::has_stopped,
    event::Event,
    intent::panic_text,
    meta::{Reserved, is_reserved},
    settings::EntitySettings,
    slot::Slot,
};

/// Brings a state up to the newest event.
pub(super) async fn replay<E: EventSourced>(
    slot: &Slot<E>,
    mut core: Box<Core<E>>,
) -> Result<Box<Core<E>>, Halt> {
    let journal = &slot.kind.shared.journal;
    let base = core.seq();
    let mut chunks = journal.replay(&slot.id, ReplayRange::from(base.next()));
    while let Some(chunk) = chunks.next().await {
        for record in chunk.map_err(halt)? {
            if core.seq() == base && record.seq > base.next() {
                let reason =
                    format!("event {} is missing: the next one is {}", base.next(), record.seq);
                return Err(Halt::Missing { least: Seq(record.seq.0 - 1), reason });
            }
            take(&mut core, record, slot.kind.settings())?;
        }
    }
    if core.seq() == base {
        // Nothing after the snapshot: is it the end, or is what follows deleted?
        let head = journal.head(&slot.id).await.map_err(halt)?;
        if head.last_seq != base {
            let reason = format!(
                "it has events up to {}, those up to {} are deleted, and the newest usable \
                 snapshot is at {base}",
                head.last_seq, head.deleted_to
            );
            return Err(Halt::Missing { least: head.deleted_to, reason });
        }
    }
    Ok(core)
}

/// Takes in one record, which must be the next.
fn take<E: EventSourced>(
    core: &mut Core<E>,
    record: EventRecord,
    settings: &EntitySettings,
) -> Result<(), Halt> {
    let seq = record.seq;
    if seq != core.seq().next() {
        let reason = format!("event {} is missing: the next one is {seq}", core.seq().next());
        return Err(Halt::Quarantine(reason));
    }
    let event = &record.event;
    let taken = catch_unwind(AssertUnwindSafe(|| {
        if is_reserved(&event.name) {
            let events = Reserved::decode(&event.name, event.schema_version, &event.payload)?;
            core.replay_reserved(events, seq, record.timestamp, settings);
            return Ok(());
        }
        let events = E::Event::decode(&event.name, event.schema_version, &event.payload)?;
        core.replay(&events, seq);
        Ok(())
    }));
    let reason = match taken {
        Ok(Ok(())) => {
            if let Some(request) = record.request {
                let (id, reply, at) = (request.id, request.reply, record.timestamp);
                core.replay_request(Answered { id, seq, at, reply }, settings);
            }
            return Ok(());
        }
        Ok(Err::<(), crate::CodecError>(error)) => error.to_string(),
        Err(panic) => format!("`apply` panicked: {}", panic_text(panic.as_ref())),
    };
    Err(Halt::Quarantine(format!("event {seq}: {reason}")))
}

/// What a failed read means.
fn halt(error: JournalError) -> Halt {
    match error {
        JournalError::Corrupt(_) => Halt::Quarantine(error.to_string()),
        error if has_stopped(&error) => Halt::NodeFailed(error.to_string()),
        error => Halt::Retry(error.to_string()),
    }
}
