//! Reading records: an entity's events in order, and a shard's records in commit order, each in
//! pieces of bounded size.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

use super::{
    access::{Access, Missed},
    codec::Decoder,
    files::{Files, Source},
    frame::{Header, Kind, verify},
    index::{Place, Run},
};
use crate::{
    disk::DiskFile,
    error::JournalError,
    id::{EntityId, Position, Seq, ShardId},
    port::ReplayRange,
    record::EventRecord,
};

/// About how many bytes of frames a piece is made from.
const PIECE_BYTES: u64 = 256 << 10;
/// Frames with a smaller gap between them are read together.
const GAP_BYTES: u64 = 4096;
/// Runs and batches that are looked up at a time in a segment's index.
const LOOKUP: usize = 1024;

/// A stretch of whole frames in a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    pub offset: u64,
    pub len: u64,
}

impl From<Run> for Extent {
    fn from(run: Run) -> Self {
        Extent { offset: run.offset, len: run.len.into() }
    }
}

/// Reads the extents (few large reads, where they lie close together) and hands each frame on.
pub(crate) fn read_frames(
    source: &Source,
    extents: &[Extent],
    access: Access,
    mut each: impl FnMut(&Header, &Bytes) -> Option<()>,
) -> Result<(), Missed> {
    let (path, file, salt): (_, &Arc<dyn DiskFile>, _) = match source {
        Source::Live(live) => (&live.path, &live.file, live.salt),
        Source::Sealed(sealed) => (&sealed.path, &sealed.file, sealed.header.salt),
    };
    let mut rest = extents;
    while let Some(first) = rest.first() {
        let (count, end) = together(rest);
        let mut buffer = vec![0; (end - first.offset) as usize];
        access.read(path, &**file, first.offset, &mut buffer)?;
        let buffer = Bytes::from(buffer);
        for extent in &rest[..count] {
            let mut at = extent.offset;
            while at < extent.offset + extent.len {
                let bytes = &buffer[(at - first.offset) as usize..];
                let (header, payload) = verify(bytes, salt, at)
                    .ok_or_else(|| JournalError::corrupt(path, at, "a frame does not verify"))?;
                each(&header, &buffer.slice_ref(payload))
                    .ok_or_else(|| JournalError::corrupt(path, at, "a frame has no meaning"))?;
                at += header.frame_bytes() as u64;
            }
        }
        rest = &rest[count..];
    }
    Ok(())
}

/// How many of the extents are worth reading at once, and where that read ends.
fn together(extents: &[Extent]) -> (usize, u64) {
    let start = extents[0].offset;
    let mut end = start + extents[0].len;
    let mut count = 1;
    for next in &extents[1..] {
        let next_end = next.offset + next.len;
        if next.offset < end || next.offset - end > GAP_BYTES || next_end - start > 2 * PIECE_BYTES
        {
            break;
        }
        end = next_end;
        count += 1;
    }
    (count, end)
}

/// Takes items from the front until they are worth a piece.
pub(crate) fn take_piece<T: Copy>(
    items: &mut VecDeque<T>,
    extent: impl Fn(T) -> Extent,
) -> Vec<Extent> {
    let (mut taken, mut bytes) = (Vec::new(), 0);
    while bytes < PIECE_BYTES
        && let Some(item) = items.pop_front()
    {
        let extent = extent(item);
        bytes += extent.len;
        taken.push(extent);
    }
    taken
}

/// An entity's events, from the oldest.
pub(crate) struct Replay {
    files: Arc<Files>,
    entity: EntityId,
    range: ReplayRange,
    /// `None` until the first piece is asked for.
    sources: Option<VecDeque<(Source, Vec<Run>)>>,
    /// Runs of the first source that are still to be read.
    runs: VecDeque<Run>,
    decoder: Decoder,
}

impl Replay {
    pub(crate) fn new(files: Arc<Files>, entity: EntityId, range: ReplayRange) -> Self {
        let decoder = Decoder::new(Some(entity.clone()));
        Self { files, entity, range, sources: None, runs: VecDeque::new(), decoder }
    }

    /// The next events, if they can be had without waiting; none at the end.
    pub(crate) fn next_cached(&mut self) -> Result<Vec<EventRecord>, Missed> {
        self.begin(Access::Cached)?;
        // What it did before it found that it would wait does not count.
        let before = (self.range, self.sources.clone(), self.runs.clone());
        let read = self.next_by(Access::Cached);
        if matches!(read, Err(Missed::Waits)) {
            (self.range, self.sources, self.runs) = before;
        }
        read
    }

    /// The next events; none at the end.
    pub(crate) fn next(&mut self) -> Result<Vec<EventRecord>, JournalError> {
        let read = self.begin(Access::Waiting).and_then(|()| self.next_by(Access::Waiting));
        read.map_err(Missed::into_error)
    }

    /// Finds out, once, which files hold the events.
    fn begin(&mut self, access: Access) -> Result<(), Missed> {
        if self.sources.is_none() {
            let (head, sources) = self.files.now().find(&self.entity, access)?;
            self.range.from = self.range.from.max(head.deleted_to.next());
            self.range.to = self.range.to.min(head.last_seq);
            self.sources = Some(sources.into());
        }
        Ok(())
    }

    fn next_by(&mut self, access: Access) -> Result<Vec<EventRecord>, Missed> {
        let mut records = Vec::new();
        while records.is_empty() && self.range.from <= self.range.to && self.range.max > 0 {
            let Some(source) = self.source() else {
                return Err(self.gap("the end of the log").into());
            };
            self.piece(&source, access, &mut records)?;
        }
        Ok(records)
    }

    /// Whether the last piece was given: there is no need to ask for another.
    pub(crate) fn is_done(&self) -> bool {
        self.sources.is_some() && (self.range.from > self.range.to || self.range.max == 0)
    }

    /// The source that holds the next event, with its runs at hand.
    fn source(&mut self) -> Option<Source> {
        let sources = self.sources.get_or_insert_default();
        while let Some((source, known)) = sources.front_mut() {
            if self.runs.is_empty() {
                let from = self.range.from;
                match &source {
                    Source::Live(live) => self.runs.extend(live.runs(&self.entity, from, LOOKUP)),
                    Source::Sealed(_) => {
                        let wanted = |run: &Run| run.last_seq >= from.0;
                        self.runs.extend(std::mem::take(known).into_iter().filter(wanted));
                    }
                }
            }
            if !self.runs.is_empty() {
                return Some(source.clone());
            }
            sources.pop_front();
        }
        None
    }

    fn piece(
        &mut self,
        source: &Source,
        access: Access,
        out: &mut Vec<EventRecord>,
    ) -> Result<(), Missed> {
        let extents = take_piece(&mut self.runs, Extent::from);
        let (decoder, range) = (&mut self.decoder, &mut self.range);
        let mut gap = None;
        read_frames(source, &extents, access, |header, frame| {
            let wanted = |seq: Seq| {
                if seq < range.from || seq > range.to || range.max == 0 {
                    return false;
                }
                if seq > range.from {
                    gap = gap.or(Some(seq));
                }
                range.from = seq.next();
                range.max -= 1;
                true
            };
            match header.kind {
                Kind::Batch => decoder.batch(header, frame, wanted, out),
                _ => Some(()),
            }
        })?;
        match gap {
            Some(seq) => Err(self.gap(&format!("event {seq}")).into()),
            None => Ok(()),
        }
    }

    fn gap(&self, found: &str) -> JournalError {
        let what = format!("events of {} are missing before {found}", self.entity);
        JournalError::corrupt("the log", 0, what)
    }
}

/// A shard's records in commit order.
pub(crate) struct Tail {
    files: Arc<Files>,
    shard: ShardId,
    after: Position,
    source: Option<Source>,
    places: VecDeque<Place>,
    decoder: Decoder,
}

impl Tail {
    pub(crate) fn new(files: Arc<Files>, shard: ShardId, after: Position) -> Self {
        let decoder = Decoder::new(None);
        Self { files, shard, after, source: None, places: VecDeque::new(), decoder }
    }

    /// The next records; none where all committed ones were given.
    pub(crate) fn next(&mut self) -> Result<Vec<EventRecord>, JournalError> {
        let mut records = Vec::new();
        while records.is_empty() {
            if self.places.is_empty() && !self.look_up()? {
                break;
            }
            let Some(source) = self.source.clone() else { break };
            let extents =
                take_piece(&mut self.places, |p| Extent { offset: p.offset, len: p.len.into() });
            let decoder = &mut self.decoder;
            read_frames(&source, &extents, Access::Waiting, |header, frame| {
                decoder.batch(header, frame, |_| true, &mut records)
            })
            .map_err(Missed::into_error)?;
            records.retain(|record| record.position > self.after);
            if let Some(last) = records.last() {
                self.after = last.position;
            }
        }
        Ok(records)
    }

    /// Finds the batches that follow `after` in the oldest file that has some.
    fn look_up(&mut self) -> Result<bool, JournalError> {
        for source in self.files.now().of(self.shard) {
            let places = match source {
                Source::Live(live) => live.order(self.shard, self.after, LOOKUP),
                Source::Sealed(sealed) => {
                    let mut places = sealed.order(self.shard, self.after)?;
                    places.retain(|place| place.last() > self.after);
                    places
                }
            };
            if !places.is_empty() {
                self.places = places.into();
                self.source = Some(source.clone());
                return Ok(true);
            }
        }
        Ok(false)
    }
}
