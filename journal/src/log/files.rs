//! The files that the log is made of right now, and questions that are put to all of them.
//!
//! Readers take the set as it is and keep it: files that are replaced meanwhile stay readable
//! through it.

use std::sync::{Arc, PoisonError, RwLock};

use super::{
    access::{Access, Missed},
    index::{EntityIndex, Run},
    live::Live,
    scan::verify_frames,
    sealed::Sealed,
};
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

    /// Reads all frames of the file, and says how many there are.
    pub(crate) fn verify(&self) -> Result<u64, JournalError> {
        match self {
            Source::Live(live) => verify_frames(&live.path, &*live.file, live.salt, live.end()),
            Source::Sealed(sealed) => {
                verify_frames(&sealed.path, &*sealed.file, sealed.header.salt, sealed.len)
            }
        }
    }

    fn has_deletions(&self) -> bool {
        match self {
            Source::Live(live) => live.with(|index| index.deletions > 0),
            Source::Sealed(sealed) => sealed.trailer.deletions > 0,
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
    /// ones, each with the runs that are known already.
    pub(crate) fn find(&self, entity: &EntityId, access: Access) -> Result<Found, Missed> {
        let mut head = Head::default();
        let mut sources = Vec::new();
        let mut deleted = None;
        for source in self.sources().rev() {
            let Some((first, known)) = source.head(entity, access)? else { continue };
            head.last_seq = head.last_seq.max(known.last_seq);
            deleted = deleted.max(known.deleted_to);
            let Some(first) = first else { continue };
            sources.push((source, known.runs));
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

    /// The newest deletion of an entity in files after the segment `after`.
    pub(crate) fn deleted_after(
        &self,
        entity: &EntityId,
        after: u64,
    ) -> Result<Option<Seq>, JournalError> {
        let mut deleted = None;
        let newer = |source: &Source| source.last_segment() > after && source.has_deletions();
        for source in self.sources().filter(newer) {
            let head = source.head(entity, Access::Waiting).map_err(Missed::into_error)?;
            deleted = deleted.max(head.and_then(|(_, known)| known.deleted_to));
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
