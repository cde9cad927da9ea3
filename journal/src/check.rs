//! Is a batch fit to be written? One answer for every implementation of the port.
//!
//! It looks at the batch alone; what the journal holds (epoch, expected sequence number) is checked
//! by the journal itself, after this.

use std::collections::BTreeSet;

use crate::{
    error::JournalError,
    id::Position,
    record::{AppendBatch, Limits, MAX_NAME_BYTES, MAX_TOGETHER, NewEvent},
};

/// What [`batch_bytes`] counts for a batch besides its texts: numbers, lengths and flags.
const BATCH_OVERHEAD: usize = 96;
/// What [`batch_bytes`] counts for an event besides its texts and its payload.
const EVENT_OVERHEAD: usize = 48;
/// What [`batch_bytes`] counts for the length of a text or of a payload.
const LENGTH_OVERHEAD: usize = 5;

/// Checks a batch before anything of it is written.
///
/// A batch has 1 to [`Limits::max_batch_events`] events (never more than
/// [`Position::MAX_RECORDS_PER_ENTRY`]); event names have 1 to [`MAX_NAME_BYTES`] bytes; tags,
/// metadata keys and metadata values at most as many; payloads and the whole batch keep to the
/// limits in bytes.
///
/// # Errors
/// [`JournalError::InvalidBatch`] for counts and texts, [`JournalError::TooLarge`] for bytes.
pub fn check_batch(batch: &AppendBatch, limits: &Limits) -> Result<(), JournalError> {
    let most = limits.max_batch_events.min(Position::MAX_RECORDS_PER_ENTRY);
    match batch.events.len() {
        0 => return Err(invalid(batch, "it has no events".into())),
        n if n > most => {
            return Err(invalid(batch, format!("it has {n} events, and at most {most} fit")));
        }
        _ => {}
    }
    for event in &batch.events {
        check_texts(event).map_err(|reason| invalid(batch, reason))?;
        check_size(batch, "event payload", event.payload.len(), limits.max_payload_bytes)?;
    }
    check_size(batch, "batch", batch_bytes(batch), limits.max_batch_bytes)
}

/// Checks batches that are to be written together, before anything of them is written: each as
/// [`check_batch`] does, all of one of `shards` shards, each of another entity, at most
/// [`MAX_TOGETHER`] of them. Together they have at most [`Limits::max_batch_events`] events, counting
/// one more for what binds them, and at most [`Limits::max_batch_bytes`] bytes.
///
/// # Errors
/// As [`check_batch`], for the batch that is too much.
pub fn check_together(
    batches: &[AppendBatch],
    limits: &Limits,
    shards: u16,
) -> Result<(), JournalError> {
    let most = limits.max_batch_events.min(Position::MAX_RECORDS_PER_ENTRY);
    let (mut events, mut bytes) = (1, 0);
    let mut entities = BTreeSet::new();
    for (n, batch) in batches.iter().enumerate() {
        check_batch(batch, limits)?;
        if n >= MAX_TOGETHER {
            let reason = format!("at most {MAX_TOGETHER} batches are written together");
            return Err(invalid(batch, reason));
        }
        if batch.entity.shard(shards) != batches[0].entity.shard(shards) {
            let reason = format!("it is of another shard than {}", batches[0].entity);
            return Err(invalid(batch, reason));
        }
        if !entities.insert(&batch.entity) {
            return Err(invalid(batch, "the entity has two of the batches".into()));
        }
        events += batch.events.len();
        if batches.len() > 1 && events > most {
            let reason = format!("with those before it there are more than {most} events");
            return Err(invalid(batch, reason));
        }
        bytes += batch_bytes(batch);
        check_size(batch, "batches", bytes, limits.max_batch_bytes)?;
    }
    Ok(())
}

/// How many bytes a batch takes at most, encoded: its texts and payloads, the reply of its request,
/// and a fixed allowance for the numbers and lengths of the batch, of each event and of each text.
///
/// An encoding may take less and must never take more; frame headers and padding come on top.
#[must_use]
pub fn batch_bytes(batch: &AppendBatch) -> usize {
    let request = batch
        .request
        .as_ref()
        .map_or(0, |request| 2 * LENGTH_OVERHEAD + request.id.as_str().len() + request.reply.len());
    let entity = batch.entity.kind().len() + batch.entity.key().len();
    BATCH_OVERHEAD + entity + request + batch.events.iter().map(event_bytes).sum::<usize>()
}

fn event_bytes(event: &NewEvent) -> usize {
    let tags: usize = event.tags.iter().map(|tag| LENGTH_OVERHEAD + tag.len()).sum();
    let metadata: usize = event
        .metadata
        .iter()
        .map(|(key, value)| 2 * LENGTH_OVERHEAD + key.len() + value.len())
        .sum();
    EVENT_OVERHEAD + event.name.len() + event.payload.len() + tags + metadata
}

fn check_texts(event: &NewEvent) -> Result<(), String> {
    if event.name.is_empty() {
        return Err("an event's name is empty".into());
    }
    check_text("event's name", &event.name)?;
    event.tags.iter().try_for_each(|tag| check_text("tag", tag))?;
    event.metadata.iter().try_for_each(|(key, value)| {
        check_text("metadata key", key)?;
        check_text("metadata value", value)
    })
}

fn check_text(what: &str, text: &str) -> Result<(), String> {
    if text.len() <= MAX_NAME_BYTES {
        return Ok(());
    }
    Err(format!("a {what} has {} bytes, and at most {MAX_NAME_BYTES} are allowed", text.len()))
}

fn check_size(
    batch: &AppendBatch,
    what: &'static str,
    bytes: usize,
    limit: usize,
) -> Result<(), JournalError> {
    if bytes <= limit {
        return Ok(());
    }
    Err(JournalError::TooLarge { entity: batch.entity.clone(), what, bytes, limit })
}

fn invalid(batch: &AppendBatch, reason: String) -> JournalError {
    JournalError::InvalidBatch { entity: batch.entity.clone(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EntityId, Seq, Term, Timestamp};

    fn batch(events: Vec<NewEvent>) -> AppendBatch {
        AppendBatch {
            entity: EntityId::new("k", "1").expect("valid"),
            epoch: Term(1),
            expected_seq: Seq::ZERO,
            timestamp: Timestamp(0),
            request: None,
            events,
        }
    }

    fn event(name: &str, payload: usize) -> NewEvent {
        NewEvent::new(name, 1, vec![0; payload])
    }

    fn limits() -> Limits {
        Limits { max_payload_bytes: 100, max_batch_events: 3, max_batch_bytes: 500 }
    }

    #[test]
    fn counts() {
        assert!(matches!(
            check_batch(&batch(vec![]), &limits()),
            Err(JournalError::InvalidBatch { .. })
        ));
        assert!(check_batch(&batch(vec![event("a", 0); 3]), &limits()).is_ok());
        assert!(matches!(
            check_batch(&batch(vec![event("a", 0); 4]), &limits()),
            Err(JournalError::InvalidBatch { .. })
        ));
        let wide = Limits { max_batch_events: usize::MAX, ..Limits::default() };
        let more = Position::MAX_RECORDS_PER_ENTRY + 1;
        assert!(matches!(
            check_batch(&batch(vec![event("a", 0); more]), &wide),
            Err(JournalError::InvalidBatch { .. })
        ));
    }

    #[test]
    fn texts() {
        let longest = "x".repeat(MAX_NAME_BYTES);
        let too_long = "x".repeat(MAX_NAME_BYTES + 1);
        let with = |name: &str, tag: &str, key: &str, value: &str| {
            let mut event = event(name, 0);
            event.tags.push(tag.into());
            event.metadata.insert(key.into(), value.into());
            check_batch(&batch(vec![event]), &Limits::default())
        };
        assert!(with(&longest, &longest, &longest, &longest).is_ok());
        assert!(with("n", "", "", "").is_ok());
        for result in [
            with("", "t", "k", "v"),
            with(&too_long, "t", "k", "v"),
            with("n", &too_long, "k", "v"),
            with("n", "t", &too_long, "v"),
            with("n", "t", "k", &too_long),
        ] {
            assert!(matches!(result, Err(JournalError::InvalidBatch { .. })), "{result:?}");
        }
    }

    #[test]
    fn sizes() {
        assert!(check_batch(&batch(vec![event("a", 100)]), &limits()).is_ok());
        assert!(matches!(
            check_batch(&batch(vec![event("a", 101)]), &limits()),
            Err(JournalError::TooLarge { what: "event payload", bytes: 101, limit: 100, .. })
        ));
        assert!(matches!(
            check_batch(&batch(vec![event("a", 100); 3]), &limits()),
            Err(JournalError::TooLarge { what: "batch", limit: 500, .. })
        ));
    }
}
