//! What the parent tells a node to do.

use duractor_journal::{Head, Seq};
use serde::{Deserialize, Serialize};

use crate::{mark::Mark, streams::ReadStream};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Append these batches to an entity, in order.
    Write { entity: usize, firsts: Vec<Mark> },
    /// Delete an entity's events up to `to`.
    Delete { entity: usize, to: u64 },
    /// What entities are for.
    Transfers(crate::transfer::order::Order),
    /// Read everything, with every event where `whole`: answered with [`Image`].
    Read { whole: bool },
}

/// What a replica holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Image {
    /// For each entity a hash over all that is known of it: every byte of its records, their
    /// positions and epochs, its head.
    pub digests: Vec<u64>,
    /// What does not fit together within this replica.
    pub wrong: Vec<String>,
    /// Each entity's events, where they were asked for.
    pub streams: Vec<Stream>,
}

/// An entity as a node read it; [`ReadStream`] for the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stream {
    last_seq: u64,
    deleted_to: u64,
    /// Sequence number and mark.
    events: Vec<(u64, Option<Fields>)>,
}

/// Run, batch, index and count of a mark: by their places, for there are many.
type Fields = (u32, u64, u16, u16);

impl From<&ReadStream> for Stream {
    fn from(read: &ReadStream) -> Self {
        let event = |(seq, mark): &(u64, Option<Mark>)| {
            (*seq, mark.map(|mark| (mark.run, mark.batch, mark.index, mark.count)))
        };
        Self {
            last_seq: read.head.last_seq.0,
            deleted_to: read.head.deleted_to.0,
            events: read.events.iter().map(event).collect(),
        }
    }
}

impl From<&Stream> for ReadStream {
    fn from(stream: &Stream) -> Self {
        let mark = |(run, batch, index, count)| Mark { run, batch, index, count };
        let events = stream.events.iter().map(|(seq, event)| (*seq, event.map(mark)));
        let head = Head { last_seq: Seq(stream.last_seq), deleted_to: Seq(stream.deleted_to) };
        ReadStream { head, events: events.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_come_back() {
        let mark = Mark { run: 1, batch: 2, index: 3, count: 4 };
        let head = Head { last_seq: Seq(9), deleted_to: Seq(7) };
        let read = ReadStream { head, events: vec![(8, Some(mark)), (9, None)] };
        let text = serde_json::to_string(&Stream::from(&read)).expect("JSON");
        let stream: Stream = serde_json::from_str(&text).expect("a stream");
        assert_eq!(ReadStream::from(&stream), read);
    }
}
