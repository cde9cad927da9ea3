//! An entity's history: the events that made its state, as the journal has them.

use duractor_journal::{EntityId, EventRecord, Journal, ReplayRange, RequestId, Seq, Timestamp};
use futures_util::StreamExt;

use crate::{error::AskError, event::Event, meta::is_reserved};

/// An event as it was written: see [`EntityRef::history`](crate::EntityRef::history).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded<V> {
    /// Its sequence number. Where an upcaster makes several events of an old one, they share it.
    pub seq: Seq,
    /// When it happened, by the clock of the node that wrote it.
    pub timestamp: Timestamp,
    /// The request id of the command that wrote it: on the last event of that command.
    pub request_id: Option<RequestId>,
    /// The event, brought up to the newest version of its schema.
    pub event: V,
}

/// Reads an entity's committed events, `max` stored ones at most.
pub(crate) async fn read<V: Event>(
    journal: &dyn Journal,
    entity: &EntityId,
    from: Seq,
    max: u64,
) -> Result<Vec<Recorded<V>>, AskError> {
    let mut chunks = journal.replay(entity, ReplayRange { max, ..ReplayRange::from(from) });
    let mut events = Vec::new();
    while let Some(chunk) = chunks.next().await {
        let records = chunk.map_err(AskError::Journal)?;
        // What the framework keeps is its own.
        for record in records.into_iter().filter(|it| !is_reserved(&it.event.name)) {
            events.extend(decode(record)?);
        }
    }
    Ok(events)
}

fn decode<V: Event>(record: EventRecord) -> Result<impl Iterator<Item = Recorded<V>>, AskError> {
    let EventRecord { seq, timestamp, request, event, .. } = record;
    let events = V::decode(&event.name, event.schema_version, &event.payload);
    let events = events.map_err(AskError::Codec)?.into_iter();
    let request_id = request.map(|request| request.id);
    Ok(events.map(move |event| Recorded { seq, timestamp, request_id: request_id.clone(), event }))
}
