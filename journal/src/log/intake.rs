//! Receiving a checkpoint: chunks go into a new sealed file, which takes the place of all that older
//! files have of the shard when it is installed.
//!
//! ```text
//! Intake::begin → take(chunk)* → finish → Staged ─ the writer ─► installed
//! ```
//! Until it is installed the file has a temporary name: it is removed when it is given up, and
//! when the log is opened after a crash.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    build::{Builder, ShardMark},
    chunk::{Chunk, Cut, Place, Record, damaged},
    codec::BatchHead,
    entry::LogId,
    footer::{Checkpoint, Later},
    frame::{HEADER_BYTES, Header, Kind},
    layout::{FileHeader, FileKind, sealed_name},
    sealed::Sealed,
};
use crate::{
    disk::{Disk, DiskFile},
    env::Env,
    error::JournalError,
    id::{EntityId, Position, Seq, ShardId, Term},
};

/// Where checkpoints are received.
#[derive(Clone)]
pub(crate) struct Site {
    pub env: Env,
    /// The log's folder, and what its files have in common.
    pub dir: PathBuf,
    pub log_id: u64,
    pub shards: u16,
}

/// A checkpoint that is being received. Its calls wait for the disk.
///
/// In memory it has the rows of the file's index: 16 bytes an entity and 24 a batch.
pub(crate) struct Intake {
    site: Site,
    cut: Cut,
    temporary: Temporary,
    header: FileHeader,
    /// None where a write failed: the file is good for nothing.
    builder: Option<Builder<Arc<dyn DiskFile>>>,
    place: Place,
    /// The batch being added, and the last event of the current entity that was taken.
    frame: Vec<u8>,
    last_seq: Seq,
    /// The current entity's events before this one that are missing must turn out to be deleted.
    missing_to: Seq,
}

impl Intake {
    /// Begins to receive the checkpoint of a shard that is cut at the entry `at`, where the writer
    /// epoch `epoch` was in force.
    ///
    /// # Errors
    /// [`JournalError::DiskFull`], [`JournalError::Io`]: nothing is left behind.
    pub(crate) fn begin(
        site: Site,
        shard: ShardId,
        at: LogId,
        epoch: Term,
    ) -> Result<Intake, JournalError> {
        let salt = site.env.entropy.next_u64();
        let path = site.dir.join(format!("checkpoint-{}-{salt:016x}.tmp", shard.0));
        let file = site.env.disk.create(&path).map_err(|e| failed(&path, &e))?;
        let header = FileHeader {
            kind: FileKind::Sealed,
            first: 0,
            last: 0,
            generation: 1,
            salt,
            log_id: site.log_id,
        };
        Ok(Intake {
            cut: Cut { shard, at, epoch },
            temporary: Temporary { disk: site.env.disk.clone(), path, file: file.clone() },
            header,
            builder: Some(Builder::new(file, header)),
            place: Place::Start,
            frame: Vec::new(),
            last_seq: Seq::ZERO,
            missing_to: Seq::ZERO,
            site,
        })
    }

    /// How far it has come: what an image must go on [after](super::image::Image::seek), when a link
    /// was lost.
    pub(crate) fn cursor(&self) -> Bytes {
        self.place.encode()
    }

    /// Whether the last chunk was taken.
    #[cfg(feature = "contract")]
    pub(crate) fn is_complete(&self) -> bool {
        self.place == Place::End
    }

    /// Takes a chunk.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`] where the chunk is damaged, [`JournalError::Unavailable`] where it
    /// belongs to another checkpoint or does not follow what was taken: nothing of it counts, and
    /// another chunk may follow. [`JournalError::DiskFull`], [`JournalError::Io`] and damage within a
    /// chunk that verifies: this intake takes no more.
    pub(crate) fn take(&mut self, chunk: &[u8]) -> Result<(), JournalError> {
        let mut chunk = Chunk::read(chunk)?;
        if chunk.cut != self.cut {
            return Err(self.refuse("the chunk belongs to another checkpoint"));
        }
        if chunk.from != self.place {
            return Err(self.refuse("the chunk does not follow what was received"));
        }
        let Some(mut builder) = self.builder.take() else {
            return Err(self.refuse("receiving the checkpoint has failed"));
        };
        while let Some(record) = chunk.next()? {
            self.record(&mut builder, record)?;
        }
        self.builder = Some(builder);
        Ok(())
    }

    fn record(
        &mut self,
        builder: &mut Builder<Arc<dyn DiskFile>>,
        record: Record<'_>,
    ) -> Result<(), JournalError> {
        match record {
            Record::Batch { epoch, position, head, payload } => {
                self.check_batch(&head, position)?;
                self.frame.clear();
                self.frame.resize(HEADER_BYTES, 0);
                self.frame.extend_from_slice(payload);
                let header = Header {
                    len: payload.len() as u32,
                    flush: 0,
                    kind: Kind::Batch,
                    shard: self.cut.shard,
                    position,
                    term: epoch,
                };
                let last = head.first_seq.plus(head.count - 1);
                let added = builder.batch(header, &self.frame, (head.first_seq.0, last.0));
                added.map_err(|e| failed(&self.temporary.path, &e))?;
                self.last_seq = last;
                self.place = Place::Batch(head.entity, last);
            }
            Record::Entity { entity, last_seq, deleted_to } => {
                self.check_entity(&entity, last_seq, deleted_to)?;
                let deleted = Some(deleted_to).filter(|to| *to > Seq::ZERO);
                let added = builder.entity(&entity, last_seq, deleted);
                added.map_err(|e| failed(&self.temporary.path, &e))?;
                (self.last_seq, self.missing_to) = (Seq::ZERO, Seq::ZERO);
                self.place = Place::Entity(entity);
            }
            Record::End => match self.place {
                Place::Start | Place::Entity(_) => self.place = Place::End,
                Place::Batch(..) | Place::End => return Err(damaged("it ends within an entity")),
            },
        }
        Ok(())
    }

    fn check_batch(&mut self, head: &BatchHead, position: Position) -> Result<(), JournalError> {
        let first = head.first_seq;
        if first == Seq::ZERO || first.0.checked_add(head.count).is_none() {
            return Err(damaged("a batch has no sequence numbers"));
        }
        if !self.cut.holds(position) {
            return Err(damaged("a batch was written after the cut"));
        }
        match &self.place {
            Place::Batch(entity, _) if *entity == head.entity => {}
            Place::Batch(..) => return Err(damaged("an entity has no end")),
            _ => self.check_order(&head.entity)?,
        }
        if first <= self.last_seq {
            return Err(damaged("an entity's batches are not in order"));
        }
        if first > self.last_seq.next() {
            self.missing_to = Seq(first.0 - 1);
        }
        Ok(())
    }

    fn check_entity(
        &self,
        entity: &EntityId,
        last_seq: Seq,
        deleted_to: Seq,
    ) -> Result<(), JournalError> {
        match &self.place {
            Place::Batch(current, _) if current == entity => {}
            Place::Batch(..) => return Err(damaged("an entity has no end")),
            _ => self.check_order(entity)?,
        }
        let complete =
            self.last_seq == last_seq || (self.last_seq < last_seq && deleted_to == last_seq);
        if !complete || last_seq == Seq::ZERO || deleted_to > last_seq {
            return Err(damaged("an entity's newest events are missing"));
        }
        if self.missing_to > deleted_to {
            return Err(damaged("events of an entity are missing"));
        }
        Ok(())
    }

    fn check_order(&self, entity: &EntityId) -> Result<(), JournalError> {
        let follows = match &self.place {
            Place::Start => true,
            Place::Entity(before) => (before.hash64(), before) < (entity.hash64(), entity),
            Place::Batch(..) | Place::End => false,
        };
        if !follows {
            return Err(damaged("entities are not in order"));
        }
        if entity.shard(self.site.shards) != self.cut.shard {
            return Err(damaged("an entity belongs to another shard"));
        }
        Ok(())
    }

    fn refuse(&self, reason: &str) -> JournalError {
        JournalError::Unavailable { shard: self.cut.shard, reason: reason.into() }
    }

    /// Completes the file, on disk. `membership` is that of the group as of the cut.
    ///
    /// # Errors
    /// [`JournalError::Unavailable`] before the last chunk was taken; [`JournalError::DiskFull`],
    /// [`JournalError::Io`]. The file is removed.
    pub(crate) fn finish(
        mut self,
        membership: Option<(LogId, Bytes)>,
        later: Later,
    ) -> Result<Staged, JournalError> {
        let builder = self.builder.take().filter(|_| self.place == Place::End);
        let Some(builder) = builder else {
            return Err(self.refuse("the checkpoint is not complete"));
        };
        let mark = ShardMark {
            last: Position::new(self.cut.at.index, 0),
            epoch: self.cut.epoch,
            term: Term(self.cut.at.term),
            checkpoint: Some(Checkpoint { membership: membership.clone(), later }),
        };
        let written = builder
            .finish(&BTreeMap::from([(self.cut.shard, mark)]))
            .and_then(|()| self.temporary.file.sync_data());
        written.map_err(|e| failed(&self.temporary.path, &e))?;
        let (cut, header, temporary) = (self.cut, self.header, self.temporary);
        Ok(Staged { cut, membership, later, header, temporary })
    }
}

fn failed(path: &Path, error: &io::Error) -> JournalError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            JournalError::DiskFull { message: error.to_string() }
        }
        _ => JournalError::io("receiving a checkpoint into", path, error),
    }
}

/// A checkpoint that is complete and on disk, and does not count yet. Dropped, it is removed.
pub(crate) struct Staged {
    pub cut: Cut,
    pub membership: Option<(LogId, Bytes)>,
    pub later: Later,
    header: FileHeader,
    temporary: Temporary,
}

impl Staged {
    /// Gives it its number, while its name is still the temporary one.
    ///
    /// # Errors
    /// What the disk says; nothing is changed then.
    pub(crate) fn number(&mut self, segment: u64) -> io::Result<()> {
        (self.header.first, self.header.last) = (segment, segment);
        self.temporary.file.write_at(0, &self.header.to_bytes())?;
        self.temporary.file.sync_data()
    }

    /// Gives it its own name, durably: from here on it counts.
    ///
    /// # Errors
    /// What the disk says, or what is wrong with the file. Whether it counts is not known then: the
    /// log must stop.
    pub(crate) fn publish(self, dir: &Path) -> Result<Arc<Sealed>, JournalError> {
        let Temporary { disk, path: from, file } = &self.temporary;
        let to = dir.join(sealed_name(self.header.first, self.header.last, 1));
        let renamed = disk.rename(from, &to).and_then(|()| disk.sync_dir(dir));
        renamed.map_err(|error| JournalError::io("installing", &to, &error))?;
        Sealed::open(to, file.clone()).map(Arc::new)
    }
}

/// A file under a temporary name, removed with its owner.
struct Temporary {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Best effort: what is left is removed when the log is opened. Once the file has its own
        // name, there is none under this one.
        let _ = self.disk.remove(&self.path);
    }
}
