//! The writer: one for the whole log. It takes what is queued, writes it, syncs it, and only then
//! tells those who wait: group commit, without a timer.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
};

use tokio::sync::mpsc::UnboundedReceiver;

use super::{
    chunk::Cut,
    frame::{HEADER_BYTES, Header, Kind, stamp},
    index::Place,
    intake::Staged as StagedCheckpoint,
    layout::{FILE_HEADER_BYTES, RESERVED_BYTES},
    live::Live,
    sealed::Sealed,
    shared::{Done, Pending, Shared, SharedLock, State, Task, appended},
    spares::Spares,
};
use crate::{
    error::JournalError,
    id::{Position, ShardId, Term},
    port::Appended,
};

/// Most writes in one group commit.
const MAX_WRITES: usize = 8192;
/// Most bytes in one group commit, beside those of its last write.
const MAX_COMMIT_BYTES: usize = 4 << 20;
/// Most records of a shard that share a log index.
const MAX_ENTRY_RECORDS: u32 = 1024;

/// A write that stands in the buffer.
struct Staged {
    pending: Pending,
    place: Place,
}

/// The writer's own state.
pub(crate) struct Writer {
    /// Dropped before the queue: who sees the queue closed finds the directory free.
    #[expect(dead_code, reason = "held, not used")]
    lock: SharedLock,
    shared: Arc<Shared>,
    spares: Arc<Mutex<Spares>>,
    queue: UnboundedReceiver<Task>,
    /// Taken from the queue for this group commit.
    tasks: VecDeque<Task>,
    active: Arc<Live>,
    /// Where the next group commit goes.
    end: u64,
    buffer: Vec<u8>,
    staged: Vec<Staged>,
    /// Each shard's last position, and how many records share its log index.
    last: Vec<(Position, u32)>,
    touched: Vec<bool>,
    closed: bool,
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        spares: Arc<Mutex<Spares>>,
        (queue, lock): (UnboundedReceiver<Task>, SharedLock),
        (active, end): (Arc<Live>, u64),
        last: &[Position],
    ) -> Self {
        Self {
            touched: vec![false; last.len()],
            last: last.iter().map(|position| (*position, 0)).collect(),
            lock,
            shared,
            spares,
            queue,
            tasks: VecDeque::new(),
            active,
            end,
            buffer: Vec::new(),
            staged: Vec::new(),
            closed: false,
        }
    }

    /// Works until the log is closed, fails, or is dropped.
    pub(crate) async fn run(mut self) {
        // What was found is durable now. And the next group commit begins elsewhere than one that
        // was cut off, so nothing that may be left of that one can chain to it.
        if let Err(error) = self.mark() {
            self.fail(&error);
        }
        let mut taken = Vec::new();
        while !self.closed && self.queue.recv_many(&mut taken, MAX_WRITES).await > 0 {
            self.tasks.extend(taken.drain(..));
            Self::wait_for_sealing(&self.shared).await;
            // Each group commit gives every shard a new log index.
            self.last.iter_mut().for_each(|(_, records)| *records = 0);
            while let Some(task) = self.tasks.pop_front() {
                self.perform(task);
            }
            self.commit();
        }
        self.shared.stop(State::Closed);
        self.shared.wake_all();
    }

    fn perform(&mut self, task: Task) {
        match task {
            Task::Write(pending) => self.write(pending),
            Task::Roll(done) => {
                self.commit();
                let rolled = self.roll(0);
                drop(done.send(rolled));
            }
            Task::Install(staged, done) => {
                self.commit();
                let installed = self.install(*staged);
                drop(done.send(installed));
            }
            Task::Close => self.close(),
        }
    }

    /// Full segments keep an index in memory until they are sealed: do not outrun that.
    async fn wait_for_sealing(shared: &Shared) {
        while shared.files.now().live.len() > shared.config.unsealed_segments + 1
            && !shared.sealing_stuck.load(Ordering::Acquire)
            && !shared.is_stopped()
        {
            tracing::debug!("appends wait for segments to be sealed");
            shared.sealed_one.notified().await;
        }
    }

    /// Stages a write, and commits what is staged where that is enough.
    fn write(&mut self, pending: Pending) {
        if let Err(failed) = self.shared.check_not_failed() {
            return self.tell(pending, Err(failed));
        }
        let bytes = pending.frame.len() as u64;
        if self.end + self.buffer.len() as u64 + bytes + RESERVED_BYTES > self.active.capacity {
            self.commit();
            if let Err(error) = self.roll(bytes) {
                return self.refuse(pending, error);
            }
        }
        self.stage(pending);
        if self.buffer.len() >= MAX_COMMIT_BYTES {
            self.commit();
        }
    }

    fn stage(&mut self, mut pending: Pending) {
        let position = self.next_position(pending.shard, pending.records);
        let offset = self.end + self.buffer.len() as u64;
        let header = Header {
            len: (pending.frame.len() - HEADER_BYTES) as u32,
            flush: self.end as u32,
            kind: pending.kind,
            shard: pending.shard,
            position,
            term: pending.term,
        };
        stamp(&mut pending.frame, self.active.salt, offset, header);
        self.buffer.extend_from_slice(&pending.frame);
        let len = pending.frame.len() as u32;
        pending.frame = Vec::new();
        let place = Place { position, records: pending.records, offset, len };
        self.staged.push(Staged { pending, place });
    }

    /// The shard's next position: in the log index that this group commit gave it, while it fits.
    fn next_position(&mut self, shard: ShardId, records: u32) -> Position {
        let (last, used) = &mut self.last[usize::from(shard.0)];
        let position = if *used == 0 || *used + records > MAX_ENTRY_RECORDS {
            *used = 0;
            Position::new(last.index() + 1, 0)
        } else {
            Position::from_u64(last.to_u64() + 1)
        };
        *used += records;
        *last = Position::from_u64(position.to_u64() + u64::from(records) - 1);
        position
    }

    /// Makes what is staged durable and tells those who wait.
    fn commit(&mut self) {
        if self.staged.is_empty() {
            return;
        }
        let written = self
            .active
            .file
            .write_at(self.end, &self.buffer)
            .and_then(|()| self.active.file.sync_data());
        if let Err(error) = written {
            return self.fail(&error);
        }
        self.end += self.buffer.len() as u64;
        self.buffer.clear();
        self.publish();
        let mut staged = std::mem::take(&mut self.staged);
        for Staged { pending, place } in staged.drain(..) {
            let result = appended(&pending, place.position);
            self.touched[usize::from(pending.shard.0)] = true;
            self.tell(pending, Ok(result));
        }
        self.staged = staged;
        for (shard, touched) in self.shared.shards.iter().zip(&mut self.touched) {
            if std::mem::take(touched) {
                shard.committed.notify_waiters();
            }
        }
    }

    /// Notes what is staged in the segment's index, from where readers find it.
    fn publish(&self) {
        self.active.with(|index| {
            for Staged { pending, place } in &self.staged {
                match (&pending.what, pending.kind) {
                    (Some((entity, first, last)), Kind::Batch) => {
                        index.batch(entity, (*first, *last), pending.shard, pending.term, *place);
                    }
                    (Some((entity, _, to)), _) => {
                        index.delete(entity, *to, pending.shard, pending.term, place.position);
                    }
                    (None, _) => {
                        index.shard(pending.shard, pending.term, place.position);
                    }
                }
            }
        });
        for Staged { pending, .. } in &self.staged {
            let completed = &self.shared.shards[usize::from(pending.shard.0)].completed;
            completed.fetch_max(pending.ticket, Ordering::Release);
        }
    }

    fn tell(&self, pending: Pending, result: Result<Appended, JournalError>) {
        self.shared.queued_bytes.fetch_sub(pending.queued_bytes, Ordering::Relaxed);
        pending.done.tell(result);
    }

    /// A write or an fsync failed: nothing is written any more. What was in it may be on disk or
    /// not.
    fn fail(&mut self, error: &io::Error) {
        let cause = format!("{}: {error}", self.active.path.display());
        tracing::error!(%cause, "the log has failed and takes no more writes");
        let shared = self.shared.clone();
        let queued = shared.alone(|_| {
            shared.stop(State::Failed(cause.clone()));
            self.take_queue()
        });
        for Staged { pending, .. } in std::mem::take(&mut self.staged) {
            self.tell(pending, Err(JournalError::FailedUnderWay { cause: cause.clone() }));
        }
        self.buffer.clear();
        self.refuse_tasks(queued, &JournalError::Failed { cause });
        self.shared.wake_all();
    }

    /// There is no room for this write. It and all that follow it are refused, for they were
    /// accepted counting on it; later ones are taken again.
    fn refuse(&mut self, pending: Pending, error: JournalError) {
        #[cfg(feature = "planted")]
        if crate::planted::is(crate::planted::Planted::RefuseOneAlone) {
            return self.tell(pending, Err(error));
        }
        let shared = self.shared.clone();
        let queued = shared.alone(|shards| {
            shards.iter_mut().for_each(|shard| shard.forget());
            self.take_queue()
        });
        self.tell(pending, Err(error.clone()));
        self.refuse_tasks(queued, &error);
    }

    fn take_queue(&mut self) -> Vec<Task> {
        let queued = std::iter::from_fn(|| self.queue.try_recv().ok());
        self.tasks.drain(..).chain(queued).collect()
    }

    fn refuse_tasks(&mut self, tasks: Vec<Task>, error: &JournalError) {
        for task in tasks {
            match task {
                Task::Write(pending) => self.tell(pending, Err(error.clone())),
                Task::Roll(done) | Task::Install(_, done) => drop(done.send(Err(error.clone()))),
                Task::Close => self.close(),
            }
        }
    }

    /// Ends the segment and goes on in the next, with room for a frame of `bytes`.
    fn roll(&mut self, bytes: u64) -> Result<(), JournalError> {
        self.shared.check_not_failed()?;
        let spare =
            self.spares.lock().unwrap_or_else(PoisonError::into_inner).take(&self.shared, bytes);
        let next = match spare {
            Ok(next) => Arc::new(next),
            Err(error) => return Err(self.no_room(&error)),
        };
        self.control_frame(Kind::End);
        if let Err(error) = self.write_control() {
            self.fail(&error);
            return Err(JournalError::Failed { cause: error.to_string() });
        }
        self.active = next.clone();
        self.end = FILE_HEADER_BYTES;
        self.shared.files.change(|set| set.live.push(next));
        self.shared.work.notify_one();
        Ok(())
    }

    /// Lets a checkpoint take the place of what there is of its shard: it gets the number after the
    /// current segment, and the log goes on in the one after that.
    ///
    /// Whether it counts is decided by one change of a name. Before that, an error leaves everything
    /// as it was; from the end of the segment on, an error stops the log. After a crash anywhere
    /// between, the segment that waits as a spare is the next one, or the checkpoint has its number.
    fn install(&mut self, mut staged: StagedCheckpoint) -> Result<(), JournalError> {
        self.shared.check_not_failed()?;
        let (shared, spares) = (self.shared.clone(), self.spares.clone());
        let mut spares = spares.lock().unwrap_or_else(PoisonError::into_inner);
        let next = spares.peek(&shared).map_err(|error| self.no_room(&error))?;
        let number = next.id;
        let named = staged.number(number);
        named.map_err(|e| JournalError::io("numbering a checkpoint in", shared.dir(), &e))?;
        let cut = staged.cut;
        let placed = self.place(staged, &mut spares);
        let (sealed, next) = placed.map_err(|error| {
            self.fail(&io::Error::other(error.to_string()));
            JournalError::FailedUnderWay { cause: error.to_string() }
        })?;
        drop(spares);
        let next = Arc::new(next);
        (self.active, self.end) = (next.clone(), FILE_HEADER_BYTES);
        self.shared.files.change(|set| {
            set.sealed.push(sealed);
            set.live.push(next);
        });
        self.installed(&cut);
        self.shared.work.notify_one();
        Ok(())
    }

    /// The steps of an installation that cannot be taken back.
    fn place(
        &mut self,
        staged: StagedCheckpoint,
        spares: &mut Spares,
    ) -> Result<(Arc<Sealed>, Live), JournalError> {
        let shared = self.shared.clone();
        let (disk, dir) = (&*shared.env.disk, shared.dir());
        let failed = |error: io::Error| JournalError::io("installing a checkpoint in", dir, &error);
        self.control_frame(Kind::End);
        self.write_control().map_err(failed)?;
        let sealed = staged.publish(dir)?;
        // Until here the spare had the checkpoint's number.
        let mut next = spares.take(&shared, 0).map_err(failed)?;
        next.renumber(disk, dir, sealed.header.last + 1, shared.log_id).map_err(failed)?;
        spares.skip_to(next.id + 1);
        disk.sync_dir(dir).map_err(failed)?;
        Ok((sealed, next))
    }

    /// The shard stands where the checkpoint was cut.
    fn installed(&mut self, cut: &Cut) {
        let at = usize::from(cut.shard.0);
        self.last[at] = (cut.last(), 0);
        let mut heads = self.shared.shards[at].lock();
        heads.forget();
        heads.epoch = cut.epoch;
        drop(heads);
        self.shared.shards[at].committed.notify_waiters();
    }

    fn no_room(&self, error: &io::Error) -> JournalError {
        tracing::warn!(%error, "no new segment: writes are refused until there is one");
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                JournalError::DiskFull { message: error.to_string() }
            }
            _ => JournalError::io("making a segment in", self.shared.dir(), error),
        }
    }

    /// Closes in good order.
    fn close(&mut self) {
        self.closed = true;
        self.commit();
        if self.shared.check_not_failed().is_ok()
            && let Err(error) = self.mark()
        {
            tracing::warn!(%error, "the log was closed without its mark");
        }
    }

    /// Says on disk that everything before is durable, so that damage is told from a torn tail.
    fn mark(&mut self) -> io::Result<()> {
        #[cfg(feature = "planted")]
        if crate::planted::is(crate::planted::Planted::LeftoverTail) {
            return Ok(());
        }
        if self.end + HEADER_BYTES as u64 > self.active.capacity {
            return Ok(());
        }
        self.control_frame(Kind::Mark);
        self.write_control()
    }

    fn control_frame(&mut self, kind: Kind) {
        let mut frame = [0; HEADER_BYTES];
        let header = Header {
            len: 0,
            flush: self.end as u32,
            kind,
            shard: ShardId(0),
            position: Position::ZERO,
            term: Term(0),
        };
        stamp(&mut frame, self.active.salt, self.end, header);
        self.buffer.extend_from_slice(&frame);
    }

    fn write_control(&mut self) -> io::Result<()> {
        self.active.file.write_at(self.end, &self.buffer)?;
        self.active.file.sync_data()?;
        self.end += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// A claim, as it waits for the writer.
pub(crate) fn claim(shard: ShardId, term: Term, ticket: u64, done: Done) -> Pending {
    Pending {
        kind: Kind::Claim,
        shard,
        term,
        what: None,
        records: 1,
        ticket,
        queued_bytes: HEADER_BYTES,
        frame: vec![0; HEADER_BYTES],
        done,
    }
}
