//! Going through the entities of a sealed file in order.

use std::{collections::VecDeque, sync::Arc};

use super::{
    access::{Access, Missed},
    index::EntityIndex,
    sealed::Sealed,
};
use crate::{error::JournalError, id::EntityId};

/// Says by an entity's hash whether it is wanted: the frames of others are never read.
pub(crate) type Wanted = Box<dyn Fn(u64) -> bool + Send>;

/// A place in a sealed file, between two entities. Reads wait for the disk.
pub(crate) struct Cursor {
    sealed: Arc<Sealed>,
    wanted: Wanted,
    /// The next page to read.
    page: u64,
    /// Rows of the page before it that are still to come.
    rows: VecDeque<(u64, u64)>,
    front: Option<(u64, EntityId, EntityIndex)>,
}

impl Cursor {
    /// In front of the first entity that is wanted.
    pub(crate) fn new(sealed: Arc<Sealed>, wanted: Wanted) -> Result<Self, JournalError> {
        let mut cursor = Self { sealed, wanted, page: 0, rows: VecDeque::new(), front: None };
        cursor.step()?;
        Ok(cursor)
    }

    /// Behind the last entity of the file, which is not read.
    pub(crate) fn at_end(sealed: Arc<Sealed>) -> Self {
        let (page, wanted) = (sealed.trailer.pages, Box::new(|_| false));
        Self { sealed, wanted, page, rows: VecDeque::new(), front: None }
    }

    /// The file.
    pub(crate) fn sealed(&self) -> &Arc<Sealed> {
        &self.sealed
    }

    /// The entity in front, and its hash.
    pub(crate) fn front(&self) -> Option<(u64, &EntityId)> {
        self.front.as_ref().map(|(hash, entity, _)| (*hash, entity))
    }

    /// What the file knows of the entity, if it is the one in front; the cursor goes on.
    pub(crate) fn take(&mut self, entity: &EntityId) -> Result<Option<EntityIndex>, JournalError> {
        if self.front.as_ref().is_none_or(|(_, front, _)| front != entity) {
            return Ok(None);
        }
        let taken = self.front.take().map(|(_, _, index)| index);
        self.step()?;
        Ok(taken)
    }

    /// Goes to the first entity that is wanted.
    pub(crate) fn rewind(&mut self) -> Result<(), JournalError> {
        self.page = 0;
        self.rows.clear();
        self.step()
    }

    /// Goes to the first entity that is not before this one.
    pub(crate) fn seek(&mut self, hash: u64, entity: &EntityId) -> Result<(), JournalError> {
        let page = self.sealed.first_page_reaching(hash, Access::Waiting);
        self.page = page.map_err(Missed::into_error)?.unwrap_or(self.sealed.trailer.pages);
        self.rows.clear();
        self.step()?;
        while self.front().is_some_and(|front| front < (hash, entity)) {
            self.step()?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), JournalError> {
        self.front = None;
        while self.front.is_none() {
            let Some((hash, offset)) = self.rows.pop_front() else {
                if self.page == self.sealed.trailer.pages {
                    break;
                }
                let rows = self.sealed.page(self.page, Access::Waiting);
                self.rows.extend(rows.map_err(Missed::into_error)?);
                self.page += 1;
                continue;
            };
            if (self.wanted)(hash) {
                let found = self.sealed.entity_at(offset, Access::Waiting);
                let (entity, index) = found.map_err(Missed::into_error)?;
                self.front = Some((hash, entity, index));
            }
        }
        Ok(())
    }
}
