//! Installing a checkpoint: the writer's part, for it decides where the log goes on.

use std::{
    io,
    sync::{Arc, PoisonError},
};

use tokio::sync::oneshot;

use super::Writer;
use crate::{
    error::JournalError,
    id::ShardId,
    log::{
        entry::{Entry, LogId},
        footer::Later,
        frame::Kind,
        intake::Staged as StagedCheckpoint,
        layout::FILE_HEADER_BYTES,
        live::Live,
        sealed::Sealed,
        shared::Flushed,
        spares::Spares,
        stored::{Stored, read_entries},
    },
};

impl Writer {
    /// Lets a checkpoint take the place of what there is of its shard: it gets the number after the
    /// current segment, and the log goes on in the one after that.
    ///
    /// Whether it counts is decided by one change of a name. Before that, an error leaves everything
    /// as it was; from the end of the segment on, an error stops the log. After a crash in between,
    /// either the checkpoint has its number, or the segment that waits as a spare.
    pub(super) fn install(
        &mut self,
        staged: StagedCheckpoint,
        done: oneshot::Sender<Result<(), JournalError>>,
    ) {
        self.commit();
        let (cut, later) = (staged.cut, staged.later);
        let membership = staged.membership.clone();
        let kept = self.prepare(&staged).and_then(|(kept, room)| {
            self.replace(staged, room)?;
            Ok(kept)
        });
        let kept = match kept {
            Ok(kept) => kept,
            Err(error) => return drop(done.send(Err(error))),
        };
        let group = self.shared.group(cut.shard).clone();
        let mut machine = group.machine();
        machine.restart(cut.epoch);
        self.shared.change(&group, |replica| {
            replica.installed(cut.at, cut.epoch, membership, later);
        });
        drop(machine);
        group.durable.notify_waiters();
        group.was_applied();
        self.carry_here();
        self.bring_over(cut.shard, kept, done);
        self.shared.work.notify_one();
    }

    /// The entries that stay, and the room that the next segment must have at its beginning.
    fn prepare(&self, staged: &StagedCheckpoint) -> Result<(Vec<Entry>, u64), JournalError> {
        self.shared.check_not_failed()?;
        let shard = staged.cut.shard;
        let applied = self.shared.group(shard).replica().applied;
        if let Some(applied) = applied.filter(|applied| applied.index > staged.cut.at.index) {
            let at = staged.cut.at.index;
            let reason =
                format!("entry {} is applied, and the checkpoint ends at {at}", applied.index);
            return Err(JournalError::Unavailable { shard, reason });
        }
        if !self.parked.is_empty() {
            let full = JournalError::DiskFull { message: "entries wait for room".into() };
            return Err(self.shared.room.lack().unwrap_or(full));
        }
        let cut = staged.cut.at;
        let diverges = self.shared.group(shard).replica().entries.diverges_after(cut);
        let kept = match staged.later {
            Later::Kept if !diverges => self.entries_before(shard, u64::MAX, Some(cut))?,
            Later::Kept | Later::Dropped => Vec::new(),
        };
        let carried = self.what_to_carry(self.active.id);
        let members = staged.membership.as_ref().map_or(0, |(_, members)| members.len());
        // The shard's own may grow by what comes with the checkpoint.
        let room = carried.iter().map(|(_, frame, _)| frame.len()).sum::<usize>() + members + 256;
        Ok((kept, room as u64))
    }

    /// The steps on disk.
    fn replace(&mut self, mut staged: StagedCheckpoint, room: u64) -> Result<(), JournalError> {
        let (shared, spares) = (self.shared.clone(), self.spares.clone());
        let mut spares = spares.lock().unwrap_or_else(PoisonError::into_inner);
        spares.prepare_for(&shared, room)?;
        let numbered = staged.number(spares.next_id());
        numbered.map_err(|e| JournalError::io("numbering a checkpoint in", shared.dir(), &e))?;
        let placed = self.place(staged, &mut spares, room);
        drop(spares);
        let (sealed, next) = placed.map_err(|error| {
            self.fail(&io::Error::other(error.to_string()));
            JournalError::FailedUnderWay { cause: error.to_string() }
        })?;
        let next = Arc::new(next);
        (self.active, self.end, self.carried) = (next.clone(), FILE_HEADER_BYTES, false);
        self.shared.files.change(|set| {
            set.sealed.push(sealed);
            set.live.push(next);
        });
        self.note_room();
        Ok(())
    }

    /// The steps that cannot be taken back.
    fn place(
        &mut self,
        staged: StagedCheckpoint,
        spares: &mut Spares,
        room: u64,
    ) -> Result<(Arc<Sealed>, Live), JournalError> {
        let shared = self.shared.clone();
        let (disk, dir) = (&*shared.env.disk, shared.dir());
        let failed = |error: io::Error| JournalError::io("installing a checkpoint in", dir, &error);
        self.control_frame(Kind::End);
        self.write_buffer().map_err(failed)?;
        self.note_room();
        let sealed = staged.publish(dir)?;
        // Until here the spare had the checkpoint's number.
        let mut next = spares.take(&shared, room)?;
        next.renumber(disk, dir, sealed.header.last + 1, shared.log_id).map_err(failed)?;
        spares.skip_to(next.id + 1);
        disk.sync_dir(dir).map_err(failed)?;
        Ok((sealed, next))
    }

    /// Writes entries again, which lie in segments that do not count for the shard any more.
    pub(super) fn bring_over(
        &mut self,
        shard: ShardId,
        entries: Vec<Entry>,
        done: oneshot::Sender<Result<(), JournalError>>,
    ) {
        let done: Flushed = Box::new(move |result| drop(done.send(result)));
        self.append(shard, entries, 0, done);
    }

    /// The entries of a shard that lie before its checkpoint.
    pub(super) fn left_behind(&self, shard: ShardId) -> Result<Vec<Entry>, JournalError> {
        let set = self.shared.files.now();
        let first = set.checkpoint(shard).map_or(0, |(sealed, _)| sealed.header.first);
        self.entries_before(shard, first, None)
    }

    /// The entries of a shard that lie in segments before this one, read from disk.
    fn entries_before(
        &self,
        shard: ShardId,
        segment: u64,
        after: Option<LogId>,
    ) -> Result<Vec<Entry>, JournalError> {
        let found = self.shared.group(shard).replica().entries.older_than(segment, after);
        let mut entries = Vec::with_capacity(found.len());
        for live in &self.shared.files.now().live {
            let here = found.iter().filter(|(_, spot)| spot.segment == live.id);
            let here: Vec<_> =
                here.map(|(id, spot)| Stored { shard, id: *id, spot: *spot }).collect();
            read_entries(live, &here, |entry, _| {
                entries.push(entry);
                Ok(())
            })?;
        }
        entries.sort_by_key(|entry| entry.id);
        Ok(entries)
    }
}
