//! What a batch may hold.

use bytes::Bytes;

use super::{
    Provider,
    kit::{Kit, assert_error, entity, refused, sized_event},
};
use crate::{
    check::batch_bytes,
    error::{Effect, JournalError},
    id::{EntityId, Position},
    port::{Head, ReplayRange},
    record::{AppendBatch, MAX_NAME_BYTES, NewEvent, Request, RequestId},
};

/// Asserts that a batch for a new entity is refused without a trace, and returns the error.
async fn assert_refused<P: Provider>(kit: &Kit<'_, P>, batch: AppendBatch) -> JournalError {
    let id = batch.entity.clone();
    let error = refused(kit.journal().append(batch).await);
    assert_eq!(error.effect(), Effect::None, "{error}");
    assert_eq!(kit.head(&id).await, Head::default(), "{id} has a head after a refusal");
    assert!(kit.read(&id, ReplayRange::ALL).await.is_empty(), "{id} was written to");
    error
}

/// Appends events to a new entity and asserts that they come back.
async fn assert_kept<P: Provider>(kit: &Kit<'_, P>, id: &EntityId, events: Vec<NewEvent>) {
    let batch = kit.batch(id, 0, events.clone());
    kit.journal().append(batch).await.unwrap_or_else(|error| panic!("{id}: {error}"));
    let records = kit.read(id, ReplayRange::ALL).await;
    assert_eq!(records.len(), events.len(), "{id}");
    for (record, event) in records.into_iter().zip(events) {
        assert_eq!(record.event, event, "{id}: event {}", record.seq);
    }
}

/// A payload of the limit's size comes back whole; one byte more is refused and nothing is written.
pub async fn the_largest_payload_fits_and_no_larger<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let limit = kit.journal().limits().max_payload_bytes;
    assert_kept(&kit, &entity("largest"), vec![sized_event(limit)]).await;
    let id = entity("larger");
    let error = assert_refused(&kit, kit.batch(&id, 0, vec![sized_event(limit + 1)])).await;
    let JournalError::TooLarge { entity, bytes, limit: stated, .. } = error else {
        panic!("another error than expected: {error:?}");
    };
    assert_eq!((entity, bytes, stated), (id, limit + 1, limit));
}

/// A payload of no bytes is a payload.
pub async fn an_event_may_have_no_payload<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let events = vec![sized_event(0), sized_event(3), sized_event(0)];
    assert_kept(&kit, &entity("empty"), events).await;
    assert_kept(&kit, &entity("only empty"), vec![sized_event(0)]).await;
}

/// A batch of the most events is written; one with one more is refused.
pub async fn the_fullest_batch_fits_and_no_fuller<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let most = kit.journal().limits().max_batch_events.min(Position::MAX_RECORDS_PER_ENTRY);
    assert_kept(&kit, &entity("full"), vec![sized_event(4); most]).await;
    let fuller = kit.batch(&entity("fuller"), 0, vec![sized_event(4); most + 1]);
    assert_error!(assert_refused(&kit, fuller).await, JournalError::InvalidBatch { .. });
}

/// Events that each fit, and together do not; and a reply that does not.
pub async fn a_batch_of_too_many_bytes_is_refused<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let limits = kit.journal().limits();
    let mut batch = kit.batch(&entity("heavy"), 0, Vec::new());
    let event = sized_event(limits.max_payload_bytes);
    while batch_bytes(&batch) <= limits.max_batch_bytes
        && batch.events.len() < limits.max_batch_events
    {
        batch.events.push(event.clone());
    }
    if batch_bytes(&batch) > limits.max_batch_bytes {
        let error = assert_refused(&kit, batch.clone()).await;
        assert_error!(error, JournalError::TooLarge { .. });
        batch.events.pop();
        assert_kept(&kit, &entity("heavy"), batch.events).await;
    }
    let mut batch = kit.numbered(&entity("reply"), 0, 1);
    let reply = Bytes::from(vec![1; limits.max_batch_bytes + 1]);
    batch.request = Some(Request { id: RequestId::new("r").expect("valid"), reply });
    assert_error!(assert_refused(&kit, batch).await, JournalError::TooLarge { .. });
}

/// No events, no name, and names, tags and metadata that are too long are refused; the longest are
/// kept.
pub async fn malformed_batches_are_refused<P: Provider>(provider: &P) {
    let kit = Kit::open(provider).await;
    let id = entity("malformed");
    let longest = "n".repeat(MAX_NAME_BYTES);
    let too_long = "n".repeat(MAX_NAME_BYTES + 1);
    let event = |name: &str, tag: &str, key: &str, value: &str| {
        let mut event = NewEvent::new(name, 1, "payload");
        event.tags.push(tag.into());
        event.metadata.insert(key.into(), value.into());
        event
    };
    let malformed = [
        vec![],
        vec![event("", "t", "k", "v")],
        vec![event(&too_long, "t", "k", "v")],
        vec![event("n", &too_long, "k", "v")],
        vec![event("n", "t", &too_long, "v")],
        vec![event("n", "t", "k", "v"), event("n", "t", "k", &too_long)],
    ];
    for events in malformed {
        let error = assert_refused(&kit, kit.batch(&id, 0, events)).await;
        assert_error!(error, JournalError::InvalidBatch { .. });
    }
    assert_kept(&kit, &id, vec![event(&longest, &longest, &longest, &longest)]).await;
}
