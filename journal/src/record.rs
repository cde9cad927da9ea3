//! What is written and what is read back: events and batches of them.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::{EntityId, Position, Seq, Term, Timestamp};

/// Longest request id, in bytes of UTF-8.
pub const MAX_REQUEST_ID_BYTES: usize = 128;
/// Longest event name, tag, metadata key and metadata value, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 255;

/// Most batches that are written together.
pub const MAX_TOGETHER: usize = 64;

/// A request id: a command's idempotency key, chosen by the caller. A repeat of a command with the
/// same request id takes effect once.
///
/// 1 to [`MAX_REQUEST_ID_BYTES`] bytes of UTF-8, compared byte by byte.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(Arc<str>);

/// A text that is no [`RequestId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a request id has 1 to {MAX_REQUEST_ID_BYTES} bytes, and this one has {bytes}")]
pub struct InvalidRequestId {
    /// Its length in bytes.
    pub bytes: usize,
}

impl RequestId {
    /// Checks the length.
    ///
    /// # Errors
    /// [`InvalidRequestId`] where it is empty or longer than [`MAX_REQUEST_ID_BYTES`].
    pub fn new(id: &str) -> Result<Self, InvalidRequestId> {
        if id.is_empty() || id.len() > MAX_REQUEST_ID_BYTES {
            return Err(InvalidRequestId { bytes: id.len() });
        }
        Ok(Self(id.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The request that a batch answers: kept in the journal with its reply, so that a retry gets the
/// first reply, after a restart or a failover too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The caller's idempotency key.
    pub id: RequestId,
    /// The encoded reply to it.
    pub reply: Bytes,
}

/// An event to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// The event's stable name: what its payload is decoded by.
    pub name: Arc<str>,
    /// The version of the payload's schema.
    pub schema_version: u16,
    /// Labels to find the event by in projections.
    pub tags: Vec<String>,
    /// Whatever else belongs to the event and not to its payload, as a trace id.
    pub metadata: BTreeMap<String, String>,
    /// The encoded event. At most [`Limits::max_payload_bytes`].
    pub payload: Bytes,
}

impl NewEvent {
    /// An event without tags and metadata.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, schema_version: u16, payload: impl Into<Bytes>) -> Self {
        Self {
            name: name.into(),
            schema_version,
            tags: Vec::new(),
            metadata: BTreeMap::new(),
            payload: payload.into(),
        }
    }
}

/// Events of one entity that are written together: all of them or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendBatch {
    /// Whose events these are.
    pub entity: EntityId,
    /// The writer epoch: the term that [`claim`](crate::Journal::claim) gave.
    pub epoch: Term,
    /// The entity's highest sequence number before this batch. The batch is refused where it is
    /// another.
    pub expected_seq: Seq,
    /// When the events happened, by the writer's clock.
    pub timestamp: Timestamp,
    /// The request that these events answer, if it carries an id.
    pub request: Option<Request>,
    /// 1 to [`Limits::max_batch_events`] events.
    pub events: Vec<NewEvent>,
}

/// An event as the journal keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRecord {
    /// Whose event this is.
    pub entity: EntityId,
    /// Its place in the entity's stream.
    pub seq: Seq,
    /// Its place in the shard's commit order.
    pub position: Position,
    /// The writer epoch that it was written under.
    pub epoch: Term,
    /// When it happened, by the writer's clock.
    pub timestamp: Timestamp,
    /// The request that the batch answers: on the last event of the batch only.
    pub request: Option<Request>,
    /// The event itself.
    pub event: NewEvent,
}

/// What an append may hold at most. An append over a limit is refused before anything is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one event's payload. 1 MiB unless set.
    pub max_payload_bytes: usize,
    /// Events in one batch. 4096 unless set; never more than [`Position::MAX_RECORDS_PER_ENTRY`].
    pub max_batch_events: usize,
    /// Bytes of one batch, encoded. 16 MiB unless set.
    pub max_batch_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_payload_bytes: 1024 * 1024,
            max_batch_events: 4096,
            max_batch_bytes: 16 * 1024 * 1024,
        }
    }
}
