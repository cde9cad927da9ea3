//! The image of a shard: its live records, entity by entity, cut exactly at an entry of its group's
//! log. What a replica gets that is too far behind, or whose files are damaged.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

use super::{
    access::{Access, Missed},
    chunk::{ChunkBuilder, Cut, Place},
    codec::decode_batch_head,
    cursor::Cursor,
    entry::LogId,
    files::{FileSet, Source},
    frame::{Header, Kind},
    index::Run,
    live::Live,
    read::{Extent, read_frames, take_piece},
};
use crate::{
    error::JournalError,
    id::{EntityId, Seq, ShardId, Term},
};

/// A chunk is not made larger, unless a single batch is.
const MAX_CHUNK_BYTES: usize = 256 << 10;

/// The image of a shard, given out in chunks. It keeps the files that it is made from, so their room
/// on disk is not given back before it is dropped. Its reads wait for the disk.
///
/// In memory it has 24 bytes for each entity in segments that are not sealed, and a piece of one
/// entity.
pub(crate) struct Image {
    cut: Cut,
    shards: u16,
    /// Keeps the files from being forgotten: the parts hold them.
    parts: Vec<Part>,
    place: Place,
    current: Option<Current>,
}

/// What one file has of the shard.
enum Part {
    /// A sealed file. `whole` where nothing in it is after the cut.
    Sealed { cursor: Cursor, whole: bool },
    /// A segment, with the entities in it, and the offset where the cut is.
    Live { live: Arc<Live>, entities: VecDeque<(u64, EntityId)>, end: u64 },
}

/// The entity that is being given out.
struct Current {
    entity: EntityId,
    /// Where its batches are, the oldest first.
    stretches: VecDeque<Stretch>,
    /// Batches that were read and not given out.
    batches: VecDeque<Batch>,
    /// Its newest event as of the cut, as far as known by now.
    last_seq: Seq,
    deleted_to: Seq,
    /// The last event of the last batch given out, or taken for given out.
    sent: Seq,
}

/// An entity's batches in one file.
struct Stretch {
    source: Source,
    runs: VecDeque<Run>,
    /// What the file says the newest event is.
    last_seq: Seq,
    /// Whether nothing of it is after the cut.
    whole: bool,
}

struct Batch {
    header: Header,
    payload: Bytes,
    first: Seq,
    last: Seq,
}

impl Image {
    /// The image as of the entry `at`, under whose writer epoch `epoch`. That entry must be applied
    /// here; what is applied later does not count. One exception: events that are deleted later may
    /// be missing already, and then the image says that they are deleted.
    ///
    /// # Errors
    /// As for any read of the log.
    pub(crate) fn open(
        files: &Arc<FileSet>,
        shards: u16,
        shard: ShardId,
        at: LogId,
        epoch: Term,
    ) -> Result<Image, JournalError> {
        let cut = Cut { shard, at, epoch };
        let mut parts = Vec::new();
        for source in files.of(shard) {
            parts.push(match source {
                Source::Live(live) => Part::live(live, shards, &cut),
                Source::Sealed(sealed) => {
                    let Some(row) = sealed.shard(shard) else { continue };
                    let whole = cut.holds(row.last);
                    let wanted = move |hash: u64| hash % u64::from(shards) == u64::from(shard.0);
                    Part::Sealed { cursor: Cursor::new(sealed.clone(), Box::new(wanted))?, whole }
                }
            });
        }
        Ok(Image { cut, shards, parts, place: Place::Start, current: None })
    }

    /// Goes on after what a receiver has: the [cursor](super::intake::Intake::cursor) of its intake,
    /// be it of chunks of this image or of another replica's.
    ///
    /// # Errors
    /// As for any read of the log; [`JournalError::Corrupt`] where the cursor is none.
    pub(crate) fn seek(&mut self, cursor: &[u8]) -> Result<(), JournalError> {
        let place = Place::decode(cursor).ok_or_else(|| super::chunk::damaged("no such place"))?;
        self.current = None;
        let entity = match &place {
            Place::Batch(entity, _) | Place::Entity(entity) => Some(entity.clone()),
            Place::Start | Place::End => None,
        };
        for part in &mut self.parts {
            part.seek(entity.as_ref(), &self.cut, self.shards)?;
        }
        match &place {
            Place::Entity(entity) => {
                for part in &mut self.parts {
                    part.take(entity)?;
                }
            }
            Place::Batch(entity, seq) => {
                let mut current = self.begin(entity.clone())?;
                current.sent = *seq;
                self.current = Some(current);
            }
            Place::Start | Place::End => {}
        }
        self.place = place;
        Ok(())
    }

    /// The next chunk, of at most `max_bytes` and 256 KiB unless a single batch is larger; `None`
    /// after the last. To be called where waiting for the disk is allowed.
    ///
    /// # Errors
    /// As for any read of the log; [`JournalError::Unavailable`] where the cut is so old that what
    /// was written and deleted since hides how the shard was then: cut later.
    pub(crate) fn next_chunk(&mut self, max_bytes: usize) -> Result<Option<Bytes>, JournalError> {
        if self.place == Place::End {
            return Ok(None);
        }
        let max = max_bytes.min(MAX_CHUNK_BYTES);
        let mut chunk = ChunkBuilder::new(&self.cut, &self.place);
        while chunk.is_empty() || chunk.len() < max {
            let Some(current) = &mut self.current else {
                let Some(entity) = self.least() else {
                    chunk.end();
                    self.place = Place::End;
                    break;
                };
                self.current = Some(self.begin(entity)?);
                continue;
            };
            match current.next(&self.cut, self.shards)? {
                Some(batch) if !chunk.is_empty() && chunk.len() + batch.payload.len() > max => {
                    current.batches.push_front(batch);
                    break;
                }
                Some(batch) => {
                    chunk.batch(&batch.header, &batch.payload);
                    current.sent = batch.last;
                    self.place = Place::Batch(current.entity.clone(), batch.last);
                }
                None => {
                    if current.last_seq > Seq::ZERO {
                        let deleted_to = current.deleted_to.min(current.last_seq);
                        chunk.entity(&current.entity, current.last_seq, deleted_to);
                        self.place = Place::Entity(current.entity.clone());
                    }
                    self.current = None;
                }
            }
        }
        Ok(Some(chunk.finish()))
    }

    /// The next entities of which events are deleted, and how far; none after the last. To be called
    /// where waiting for the disk is allowed, and not together with
    /// [`next_chunk`](Self::next_chunk).
    ///
    /// # Errors
    /// As for any read of the log.
    pub(crate) fn next_deleted(
        &mut self,
        most: usize,
    ) -> Result<Vec<(EntityId, Seq)>, JournalError> {
        let mut found = Vec::new();
        while found.len() < most
            && let Some(entity) = self.least()
        {
            let Current { entity, deleted_to, .. } = self.begin(entity)?;
            if deleted_to > Seq::ZERO {
                found.push((entity, deleted_to));
            }
        }
        Ok(found)
    }

    /// The next entity.
    fn least(&self) -> Option<EntityId> {
        self.parts.iter().filter_map(Part::front).min().map(|(_, entity)| entity.clone())
    }

    /// Gathers what the files have of an entity.
    fn begin(&mut self, entity: EntityId) -> Result<Current, JournalError> {
        let mut stretches = VecDeque::new();
        let mut deleted_to = None;
        for part in &mut self.parts {
            let Some((stretch, deleted)) = part.take(&entity)? else { continue };
            stretches.push_back(stretch);
            deleted_to = deleted_to.max(deleted);
        }
        let deleted_to = deleted_to.unwrap_or_default();
        for stretch in &mut stretches {
            // Where the file goes beyond the cut, all batches must be seen to know where it is.
            if stretch.whole {
                stretch.runs.retain(|run| run.last_seq > deleted_to.0);
            }
        }
        Ok(Current {
            entity,
            stretches,
            batches: VecDeque::new(),
            last_seq: Seq::ZERO,
            deleted_to,
            sent: Seq::ZERO,
        })
    }
}

impl Part {
    fn live(live: &Arc<Live>, shards: u16, cut: &Cut) -> Part {
        let (mut entities, end) = live.with(|index| {
            let ids = index.entities.keys().filter(|id| id.shard(shards) == cut.shard);
            let ids: Vec<_> = ids.map(|id| (id.hash64(), id.clone())).collect();
            let places = index.shards.get(&cut.shard).map_or(&[][..], |known| &known.places);
            let end = places.partition_point(|place| cut.holds(place.position));
            // What is noted from now on is after the cut, and after these in the file.
            let after = |place: &super::index::Place| place.offset + u64::from(place.len);
            (ids, end.checked_sub(1).map_or(0, |last| after(&places[last])))
        });
        entities.sort_unstable();
        Part::Live { live: live.clone(), entities: entities.into(), end }
    }

    fn front(&self) -> Option<(u64, &EntityId)> {
        match self {
            Part::Sealed { cursor, .. } => cursor.front(),
            Part::Live { entities, .. } => entities.front().map(|(hash, id)| (*hash, id)),
        }
    }

    /// Goes to the first entity that is not before this one.
    fn seek(
        &mut self,
        entity: Option<&EntityId>,
        cut: &Cut,
        shards: u16,
    ) -> Result<(), JournalError> {
        match (self, entity) {
            (Part::Sealed { cursor, .. }, Some(entity)) => cursor.seek(entity.hash64(), entity),
            (Part::Sealed { cursor, .. }, None) => cursor.rewind(),
            (part @ Part::Live { .. }, entity) => {
                if let Part::Live { live, .. } = part {
                    *part = Part::live(&live.clone(), shards, cut);
                }
                if let (Part::Live { entities, .. }, Some(entity)) = (part, entity) {
                    let hash = entity.hash64();
                    let at = entities.partition_point(|(h, id)| (*h, id) < (hash, entity));
                    entities.drain(..at);
                }
                Ok(())
            }
        }
    }

    /// What the file has of an entity and how far it says that it is deleted, if the entity is the
    /// one in front.
    fn take(&mut self, entity: &EntityId) -> Result<Option<(Stretch, Option<Seq>)>, JournalError> {
        match self {
            Part::Sealed { cursor, whole } => {
                let source = Source::Sealed(cursor.sealed().clone());
                let whole = *whole;
                Ok(cursor.take(entity)?.map(|index| {
                    let (runs, last_seq) = (index.runs.into(), index.last_seq);
                    (Stretch { source, runs, last_seq, whole }, index.deleted_to)
                }))
            }
            Part::Live { live, entities, end } => {
                if entities.front().is_none_or(|(_, front)| front != entity) {
                    return Ok(None);
                }
                entities.pop_front();
                let (runs, deleted_to) = live.with(|index| {
                    let Some(known) = index.entities.get(entity) else { return Default::default() };
                    let count = known.runs.partition_point(|run| run.offset < *end);
                    (known.runs[..count].iter().copied().collect(), known.deleted_to)
                });
                let runs: VecDeque<Run> = runs;
                let last_seq = runs.back().map_or(Seq::ZERO, |run| Seq(run.last_seq));
                let source = Source::Live(live.clone());
                Ok(Some((Stretch { source, runs, last_seq, whole: true }, deleted_to)))
            }
        }
    }
}

impl Current {
    /// The next batch that is retained; `None` after the last one up to the cut.
    fn next(&mut self, cut: &Cut, shards: u16) -> Result<Option<Batch>, JournalError> {
        loop {
            if let Some(batch) = self.batches.pop_front() {
                if !cut.holds(batch.header.position) {
                    self.cut_before(batch.first, cut)?;
                    continue;
                }
                self.last_seq = self.last_seq.max(batch.last);
                if batch.last <= self.deleted_to.max(self.sent) {
                    continue;
                }
                if batch.first > self.deleted_to.max(self.sent).next() {
                    return Err(self.gap(batch.first));
                }
                return Ok(Some(batch));
            }
            match self.stretches.front() {
                None => break,
                Some(stretch) if stretch.runs.is_empty() => self.end_stretch(cut)?,
                Some(_) => self.read(shards, cut)?,
            }
        }
        if self.last_seq > self.deleted_to.max(self.sent) {
            return Err(self.gap(self.last_seq.next()));
        }
        Ok(None)
    }

    /// The cut lies before this event.
    fn cut_before(&mut self, first: Seq, cut: &Cut) -> Result<(), JournalError> {
        self.batches.clear();
        self.stretches.clear();
        if self.last_seq.next() == first { Ok(()) } else { Err(self.hidden(cut)) }
    }

    /// All batches of the file were seen.
    fn end_stretch(&mut self, cut: &Cut) -> Result<(), JournalError> {
        let Some(stretch) = self.stretches.pop_front() else { return Ok(()) };
        if stretch.last_seq > self.last_seq && !stretch.whole {
            // Its newest events are deleted and gone: were they before the cut?
            return Err(self.hidden(cut));
        }
        self.last_seq = self.last_seq.max(stretch.last_seq);
        Ok(())
    }

    /// Reads some more batches.
    fn read(&mut self, shards: u16, cut: &Cut) -> Result<(), JournalError> {
        let Some(stretch) = self.stretches.front_mut() else { return Ok(()) };
        if stretch.whole {
            let sent = self.sent.0;
            while stretch.runs.front().is_some_and(|run| run.last_seq <= sent) {
                stretch.runs.pop_front();
            }
        }
        let extents = take_piece(&mut stretch.runs, Extent::from);
        let (entity, batches) = (&self.entity, &mut self.batches);
        let read = read_frames(&stretch.source, &extents, Access::Waiting, |header, payload| {
            let head = decode_batch_head(payload).filter(|_| header.kind == Kind::Batch)?;
            let fits = head.entity == *entity && entity.shard(shards) == cut.shard;
            let last = Seq(head.first_seq.0.checked_add(head.count - 1)?);
            let (header, payload) = (*header, payload.clone());
            fits.then(|| batches.push_back(Batch { header, payload, first: head.first_seq, last }))
        });
        read.map_err(Missed::into_error)
    }

    fn gap(&self, found: Seq) -> JournalError {
        let what = format!("events of {} are missing before event {found}", self.entity);
        JournalError::corrupt("the log", 0, what)
    }

    fn hidden(&self, cut: &Cut) -> JournalError {
        let reason = format!(
            "events of {} that were deleted since entry {} are gone, and which of them were written \
             before it is not known any more",
            self.entity, cut.at.index
        );
        JournalError::Unavailable { shard: cut.shard, reason }
    }
}
