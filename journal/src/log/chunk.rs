//! The pieces in which a checkpoint travels.
//!
//! ```text
//! chunk  = crc32c (4 bytes, little-endian, of all that follows) version shard index term epoch
//!          from record*
//! from   = the place that the chunk follows, as below, with its length before it
//! record = 1 writer_epoch position batch      a batch that is retained, its payload as in the log
//!        | 2 entity last_seq deleted_to       after the batches of an entity
//!        | 3                                  after the last entity
//! place  = 0 | 1 entity seq | 2 entity | 3    start; after a batch; after an entity; the end
//! ```
//! `index` and `term` name the entry at which the checkpoint is cut. Entities come in the order of
//! hash and id, an entity's batches in the order of sequence numbers. A chunk says where it begins,
//! so whoever receives it can tell that it fits what is there, from whichever replica it comes.

use bytes::Bytes;

use super::{
    codec::{BatchHead, Reader, decode_batch_head, put_bytes, put_entity, put_varint},
    entry::LogId,
    frame::Header,
};
use crate::{
    error::JournalError,
    id::{EntityId, Position, Seq, ShardId, Term},
};

const VERSION: u8 = 1;
const BATCH: u8 = 1;
const ENTITY: u8 = 2;
const END: u8 = 3;

/// How far an image was sent or received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Place {
    #[default]
    Start,
    /// Within an entity: after its batch that ends with this event.
    Batch(EntityId, Seq),
    /// After an entity.
    Entity(EntityId),
    /// After everything.
    End,
}

impl Place {
    /// As bytes, to be sent.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        match self {
            Place::Start => out.push(0),
            Place::Batch(entity, seq) => {
                out.push(1);
                put_entity(&mut out, entity);
                put_varint(&mut out, seq.0);
            }
            Place::Entity(entity) => {
                out.push(2);
                put_entity(&mut out, entity);
            }
            Place::End => out.push(3),
        }
        out.into()
    }

    /// Back from [`encode`](Self::encode). `None` means malformed.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Place> {
        let mut reader = Reader::new(bytes);
        let place = match reader.byte()? {
            0 => Place::Start,
            1 => Place::Batch(reader.entity()?, Seq(reader.varint()?)),
            2 => Place::Entity(reader.entity()?),
            3 => Place::End,
            _ => return None,
        };
        (reader.remaining() == 0).then_some(place)
    }
}

/// Where a shard is cut: a checkpoint holds what was written up to the entry `at`, that one
/// included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    pub shard: ShardId,
    pub at: LogId,
    /// The writer epoch in force there.
    pub epoch: Term,
}

impl Cut {
    /// Whether a record is within.
    pub(crate) fn holds(&self, position: Position) -> bool {
        position.index() <= self.at.index
    }
}

/// A chunk under construction.
pub(crate) struct ChunkBuilder {
    bytes: Vec<u8>,
    /// Where the records begin.
    start: usize,
}

impl ChunkBuilder {
    pub(crate) fn new(cut: &Cut, from: &Place) -> Self {
        let mut bytes = vec![0; 4];
        bytes.push(VERSION);
        for n in [u64::from(cut.shard.0), cut.at.index, cut.at.term, cut.epoch.0] {
            put_varint(&mut bytes, n);
        }
        put_bytes(&mut bytes, &from.encode());
        let start = bytes.len();
        Self { bytes, start }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.len() == self.start
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn batch(&mut self, header: &Header, payload: &[u8]) {
        self.bytes.push(BATCH);
        put_varint(&mut self.bytes, header.term.0);
        put_varint(&mut self.bytes, header.position.to_u64());
        put_bytes(&mut self.bytes, payload);
    }

    pub(crate) fn entity(&mut self, entity: &EntityId, last_seq: Seq, deleted_to: Seq) {
        self.bytes.push(ENTITY);
        put_entity(&mut self.bytes, entity);
        put_varint(&mut self.bytes, last_seq.0);
        put_varint(&mut self.bytes, deleted_to.0);
    }

    pub(crate) fn end(&mut self) {
        self.bytes.push(END);
    }

    pub(crate) fn finish(mut self) -> Bytes {
        let crc = crc32c::crc32c(&self.bytes[4..]);
        self.bytes[..4].copy_from_slice(&crc.to_le_bytes());
        self.bytes.into()
    }
}

/// One of a chunk's records.
pub(crate) enum Record<'a> {
    Batch { epoch: Term, position: Position, head: BatchHead, payload: &'a [u8] },
    Entity { entity: EntityId, last_seq: Seq, deleted_to: Seq },
    End,
}

/// A chunk that was received and verifies.
pub(crate) struct Chunk<'a> {
    pub cut: Cut,
    pub from: Place,
    records: Reader<'a>,
}

impl<'a> Chunk<'a> {
    /// Checks a chunk's checksum and reads its head.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`], naming the chunk.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, JournalError> {
        let sum = bytes.first_chunk::<4>().map(|sum| u32::from_le_bytes(*sum));
        if sum.is_none_or(|sum| sum != crc32c::crc32c(&bytes[4..])) {
            return Err(damaged("it does not verify"));
        }
        let mut reader = Reader::new(&bytes[4..]);
        if reader.byte() != Some(VERSION) {
            return Err(damaged("its version is unknown"));
        }
        Self::head(reader).ok_or_else(|| damaged("its head has no meaning"))
    }

    fn head(mut reader: Reader<'a>) -> Option<Self> {
        let shard = ShardId(u16::try_from(reader.varint()?).ok()?);
        let (index, term) = (reader.varint()?, reader.varint()?);
        let cut = Cut { shard, at: LogId { term, index }, epoch: Term(reader.varint()?) };
        Some(Self { cut, from: Place::decode(reader.bytes()?)?, records: reader })
    }

    /// The next record; `None` after the last.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`] where there is something else.
    pub(crate) fn next(&mut self) -> Result<Option<Record<'a>>, JournalError> {
        if self.records.remaining() == 0 {
            return Ok(None);
        }
        let record = Self::record(&mut self.records);
        record.map(Some).ok_or_else(|| damaged("a record has no meaning"))
    }

    fn record(reader: &mut Reader<'a>) -> Option<Record<'a>> {
        match reader.byte()? {
            BATCH => {
                let epoch = Term(reader.varint()?);
                let position = Position::from_u64(reader.varint()?);
                let payload = reader.bytes()?;
                let head = decode_batch_head(payload)?;
                Some(Record::Batch { epoch, position, head, payload })
            }
            ENTITY => {
                let entity = reader.entity()?;
                let (last_seq, deleted_to) = (Seq(reader.varint()?), Seq(reader.varint()?));
                Some(Record::Entity { entity, last_seq, deleted_to })
            }
            END => Some(Record::End),
            _ => None,
        }
    }
}

/// What is wrong with a chunk.
pub(crate) fn damaged(what: &str) -> JournalError {
    JournalError::corrupt("a chunk of a checkpoint", 0, what)
}
