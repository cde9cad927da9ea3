//! The files that the log is made of right now, and questions that are put to all of them.
//!
//! Readers take the set as it is and keep it: files that are replaced meanwhile stay readable
//! through it.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, PoisonError, RwLock},
};

use super::{
    access::{Access, Missed},
    footer::ShardRow,
    index::{EntityIndex, Run},
    live::Live,
    sealed::Sealed,
};
use crate::{
    error::JournalError,
    id::{EntityId, Seq, ShardId},
    port::Head,
};

/// A file to read from.
#[derive(Clone)]
pub(crate) enum Source {
    Live(Arc<Live>),
    Sealed(Arc<Sealed>),
}

impl Source {
    /// The first segment whose frames the file holds.
    pub(crate) fn first_segment(&self) -> u64 {
        match self {
            Source::Live(live) => live.id,
            Source::Sealed(sealed) => sealed.header.first,
        }
    }

    /// The last segment whose frames the file holds.
    pub(crate) fn last_segment(&self) -> u64 {
        match self {
            Source::Live(live) => live.id,
            Source::Sealed(sealed) => sealed.header.last,
        }
    }

    /// The newest deletion of an entity in the file, by entries up to `upto`. What a sealed file has is
    /// within that: it was sealed so.
    fn deleted_by(&self, entity: &EntityId, upto: u64) -> Result<Option<Seq>, JournalError> {
        match self {
            Source::Live(live) => Ok(live.with(|index| index.deleted_by(entity, upto))),
            Source::Sealed(sealed) if sealed.trailer.deletions == 0 => Ok(None),
            Source::Sealed(sealed) => {
                let known = sealed.entity(entity, Access::Waiting).map_err(Missed::into_error)?;
                Ok(known.and_then(|known| known.deleted_to))
            }
        }
    }

    /// What the file knows of an entity, and the sequence number of its oldest event there. Runs
    /// come with it from a sealed file, where they are few.
    pub(crate) fn head(
        &self,
        entity: &EntityId,
        access: Access,
    ) -> Result<Option<(Option<Seq>, EntityIndex)>, Missed> {
        match self {
            Source::Live(live) => Ok(live.head(entity)),
            Source::Sealed(sealed) => {
                Ok(sealed.entity(entity, access)?.map(|index| (index.first_seq(), index)))
            }
        }
    }
}

/// An entity's head, and the files that hold its events.
pub(crate) type Found = (Head, Vec<(Source, Vec<Run>)>);

/// All files. Never changed, only replaced: by [`Files::change`], which keeps the two lists in the
/// order of segments. Sealed files and segments form one chain of segment numbers, in which a
/// sealed file may lie between segments.
///
/// Where a file *replaces* a shard, it begins with all that the shard has: no older file is asked
/// for it.
#[derive(Clone, Default)]
pub(crate) struct FileSet {
    pub sealed: Vec<Arc<Sealed>>,
    /// The last one is written to.
    pub live: Vec<Arc<Live>>,
    /// All of them, the oldest first.
    chain: Vec<Source>,
    /// Where in the chain a shard begins that was replaced.
    floors: BTreeMap<ShardId, usize>,
    /// How many shards there are.
    shards: u16,
}

impl FileSet {
    /// Brings everything in order after the lists were changed.
    fn arrange(&mut self) {
        self.sealed.sort_by_key(|sealed| sealed.header.first);
        self.live.sort_by_key(|live| live.id);
        let sealed = self.sealed.iter().cloned().map(Source::Sealed);
        self.chain = sealed.chain(self.live.iter().cloned().map(Source::Live)).collect();
        self.chain.sort_by_key(Source::first_segment);
        self.floors.clear();
        for (at, source) in self.chain.iter().enumerate() {
            let Source::Sealed(sealed) = source else { continue };
            let replaced = sealed.shards.iter().filter(|row| row.replaces());
            self.floors.extend(replaced.map(|row| (row.shard, at)));
        }
    }

    /// All files, the oldest first.
    pub(crate) fn sources(&self) -> &[Source] {
        &self.chain
    }

    /// The files that count for a shard, the oldest first.
    pub(crate) fn of(&self, shard: ShardId) -> &[Source] {
        let from = self.floors.get(&shard).copied().unwrap_or(0);
        &self.chain[from..]
    }

    /// The files that count for an entity, the oldest first.
    fn of_entity(&self, entity: &EntityId) -> &[Source] {
        // As a rule no shard was replaced, and no hash is needed.
        if self.floors.is_empty() { &self.chain } else { self.of(entity.shard(self.shards)) }
    }

    /// Whether a file after the segment `after` replaces the shard: then what is in this segment
    /// and before counts for nothing.
    pub(crate) fn replaced_after(&self, shard: ShardId, after: u64) -> bool {
        self.floors.get(&shard).is_some_and(|at| self.chain[*at].first_segment() > after)
    }

    /// The file that replaces a shard, and what it says of it: the newest, if there are more.
    pub(crate) fn checkpoint(&self, shard: ShardId) -> Option<(&Arc<Sealed>, &ShardRow)> {
        let Source::Sealed(sealed) = &self.chain[*self.floors.get(&shard)?] else { return None };
        Some((sealed, sealed.shard(shard)?))
    }

    /// How many events of a sealed file count for nothing because their shard was replaced.
    pub(crate) fn replaced_events(&self, sealed: &Sealed) -> u64 {
        let gone = |row: &&ShardRow| self.replaced_after(row.shard, sealed.header.last);
        sealed.shards.iter().filter(gone).map(|row| row.events).sum()
    }

    /// How many shards there are.
    pub(crate) fn shards(&self) -> u16 {
        self.shards
    }

    /// The oldest full segment that `may` be sealed.
    pub(crate) fn sealable(&self, may: impl Fn(&Live) -> bool) -> Option<&Arc<Live>> {
        let (_, full) = self.live.split_last()?;
        full.iter().find(|live| may(live))
    }

    /// The sealed files in stretches without a segment between them, as ranges of
    /// [`sealed`](Self::sealed): only such may be merged.
    pub(crate) fn neighbours(&self) -> Vec<Range<usize>> {
        let mut stretches: Vec<Range<usize>> = Vec::new();
        for (at, sealed) in self.sealed.iter().enumerate() {
            let before = at.checked_sub(1).map(|before| self.sealed[before].header.last);
            match stretches.last_mut() {
                Some(stretch) if before == Some(sealed.header.first - 1) => stretch.end = at + 1,
                _ => stretches.push(at..at + 1),
            }
        }
        stretches
    }

    /// An entity's head, and its sources from the oldest on that hold events after the deleted
    /// ones, each with the runs that are known already.
    pub(crate) fn find(&self, entity: &EntityId, access: Access) -> Result<Found, Missed> {
        let mut head = Head::default();
        let mut sources = Vec::new();
        let mut deleted = None;
        for source in self.of_entity(entity).iter().rev() {
            let Some((first, known)) = source.head(entity, access)? else { continue };
            head.last_seq = head.last_seq.max(known.last_seq);
            deleted = deleted.max(known.deleted_to);
            let Some(first) = first else { continue };
            sources.push((source.clone(), known.runs));
            if first <= deleted.unwrap_or_default().next() {
                break;
            }
        }
        head.deleted_to = deleted.unwrap_or_default();
        sources.reverse();
        Ok((head, sources))
    }

    /// An entity's head, on a thread that may wait.
    pub(crate) fn head(&self, entity: &EntityId) -> Result<Head, JournalError> {
        self.find(entity, Access::Waiting).map(|(head, _)| head).map_err(Missed::into_error)
    }

    /// The newest deletion of an entity in files after the segment `after`, by entries that a mark on
    /// disk tells of: `marked` has how far these go, by shard. What was deleted by later ones must stay,
    /// for after a crash it may count again.
    pub(crate) fn deleted_after(
        &self,
        entity: &EntityId,
        after: u64,
        marked: &[Option<u64>],
    ) -> Result<Option<Seq>, JournalError> {
        let shard = usize::from(entity.shard(self.shards).0);
        let Some(upto) = marked.get(shard).copied().flatten() else { return Ok(None) };
        let mut deleted = None;
        let newer = |source: &&Source| source.last_segment() > after;
        for source in self.of_entity(entity).iter().filter(newer) {
            deleted = deleted.max(source.deleted_by(entity, upto)?);
        }
        Ok(deleted)
    }
}

/// The current set of files.
pub(crate) struct Files {
    current: RwLock<Arc<FileSet>>,
}

impl Files {
    /// No files yet, of a log with so many shards.
    pub(crate) fn new(shards: u16) -> Self {
        Self { current: RwLock::new(Arc::new(FileSet { shards, ..FileSet::default() })) }
    }

    /// The set as it is now.
    pub(crate) fn now(&self) -> Arc<FileSet> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the set by a changed copy: files may be added and removed in any order.
    pub(crate) fn change(&self, change: impl FnOnce(&mut FileSet)) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let mut set = FileSet::clone(&current);
        change(&mut set);
        set.arrange();
        *current = Arc::new(set);
    }
}
