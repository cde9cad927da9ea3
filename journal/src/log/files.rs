//! The files that the log is made of right now, and questions that are put to all of them.
//!
//! Readers take the set as it is and keep it: files that are replaced meanwhile stay readable
//! through it.

use std::sync::{Arc, PoisonError, RwLock};

use super::{index::EntityIndex, live::Live, sealed::Sealed};
use crate::{
    error::JournalError,
    id::{EntityId, Seq},
    port::Head,
};

/// A file to read from.
#[derive(Clone)]
pub(crate) enum Source {
    Live(Arc<Live>),
    Sealed(Arc<Sealed>),
}

impl Source {
    /// The last segment whose frames the file holds.
    pub(crate) fn last_segment(&self) -> u64 {
        match self {
            Source::Live(live) => live.id,
            Source::Sealed(sealed) => sealed.header.last,
        }
    }

    fn has_deletions(&self) -> bool {
        match self {
            Source::Live(live) => live.with(|index| index.deletions > 0),
            Source::Sealed(sealed) => sealed.trailer.deletions > 0,
        }
    }

    /// What the file knows of an entity: the sequence number of its oldest event there, and the
    /// rest without runs.
    pub(crate) fn head(
        &self,
        entity: &EntityId,
    ) -> Result<Option<(Option<Seq>, EntityIndex)>, JournalError> {
        match self {
            Source::Live(live) => Ok(live.head(entity)),
            Source::Sealed(sealed) => Ok(sealed.entity(entity)?.map(|index| {
                let first = index.first_seq();
                (first, EntityIndex { runs: Vec::new(), ..index })
            })),
        }
    }
}

/// All files, the oldest first. Never changed, only replaced.
#[derive(Clone, Default)]
pub(crate) struct FileSet {
    pub sealed: Vec<Arc<Sealed>>,
    /// The last one is written to.
    pub live: Vec<Arc<Live>>,
}

impl FileSet {
    /// The files from the oldest to the newest.
    pub(crate) fn sources(&self) -> impl DoubleEndedIterator<Item = Source> + '_ {
        let sealed = self.sealed.iter().cloned().map(Source::Sealed);
        sealed.chain(self.live.iter().cloned().map(Source::Live))
    }

    /// An entity's head, and its sources from the oldest on that hold events after the deleted
    /// ones.
    pub(crate) fn find(&self, entity: &EntityId) -> Result<(Head, Vec<Source>), JournalError> {
        let mut head = Head::default();
        let mut sources = Vec::new();
        let mut deleted = None;
        for source in self.sources().rev() {
            let Some((first, known)) = source.head(entity)? else { continue };
            head.last_seq = head.last_seq.max(known.last_seq);
            deleted = deleted.max(known.deleted_to);
            let Some(first) = first else { continue };
            sources.push(source);
            if first <= deleted.unwrap_or_default().next() {
                break;
            }
        }
        head.deleted_to = deleted.unwrap_or_default();
        sources.reverse();
        Ok((head, sources))
    }

    /// The newest deletion of an entity in files after the segment `after`.
    pub(crate) fn deleted_after(
        &self,
        entity: &EntityId,
        after: u64,
    ) -> Result<Option<Seq>, JournalError> {
        let mut deleted = None;
        let newer = |source: &Source| source.last_segment() > after && source.has_deletions();
        for source in self.sources().filter(newer) {
            deleted = deleted.max(source.head(entity)?.and_then(|(_, known)| known.deleted_to));
        }
        Ok(deleted)
    }
}

/// The current set of files.
#[derive(Default)]
pub(crate) struct Files {
    current: RwLock<Arc<FileSet>>,
}

impl Files {
    /// The set as it is now.
    pub(crate) fn now(&self) -> Arc<FileSet> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the set by a changed copy.
    pub(crate) fn change(&self, change: impl FnOnce(&mut FileSet)) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let mut set = FileSet::clone(&current);
        change(&mut set);
        *current = Arc::new(set);
    }
}
