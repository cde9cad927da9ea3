//! The writer: one for the whole log. It takes what is queued, writes it, syncs it, and only then
//! tells those who wait: group commit, without a timer.
//!
//! Every segment begins with what is carried over of each group, and group commits take along how
//! far the groups are applied. Entries that find no room wait until there is some; votes and marks
//! go on in the room that is kept for them.

mod install;

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::mpsc::UnboundedReceiver,
    time::{Instant, sleep, timeout_at},
};

use super::{
    entries::Spot,
    entry::{Body, Entry, LogId},
    frame::{HEADER_BYTES, Header, Kind, stamp},
    group_state::{Mark, Marked},
    layout::{FILE_HEADER_BYTES, RESERVED_BYTES},
    live::Live,
    marks::{encode_applied, encode_begin, encode_carried, encode_vote},
    shared::{Flushed, Shared, SharedLock, State, Task},
    spares::{RETRY, Spares},
};
use crate::{
    error::JournalError,
    id::{Position, ShardId, Term},
};

/// Most tasks that are taken from the queue at a time.
const MAX_TASKS: usize = 8192;
/// Most bytes in one group commit, beside those of its last entry.
const MAX_COMMIT_BYTES: usize = 4 << 20;
/// How long a group commit waits for segments to be sealed: a fraction of a heartbeat interval.
const SEALING_PATIENCE: Duration = Duration::from_millis(10);

/// What stands in the buffer, and who hears of it.
enum Staged {
    Entries { shard: ShardId, spots: Vec<(LogId, Spot)>, bytes: usize, done: Option<Flushed> },
    Vote { shard: ShardId, vote: Bytes, done: Flushed },
    Marked { shard: ShardId, marked: Marked },
    Told(Flushed),
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
    /// Entries for which there is no room now, in order.
    parked: Vec<Task>,
    active: Arc<Live>,
    /// Where the next group commit goes.
    end: u64,
    /// Whether the segment has what is carried over, or the buffer has.
    carried: bool,
    buffer: Vec<u8>,
    staged: Vec<Staged>,
    closed: bool,
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        spares: Arc<Mutex<Spares>>,
        (queue, lock): (UnboundedReceiver<Task>, SharedLock),
        (active, end): (Arc<Live>, u64),
    ) -> Self {
        let writer = Self {
            lock,
            shared,
            spares,
            queue,
            tasks: VecDeque::new(),
            parked: Vec::new(),
            active,
            end,
            carried: false,
            buffer: Vec::new(),
            staged: Vec::new(),
            closed: false,
        };
        writer.note_room();
        writer
    }

    /// Works until the log is closed, fails, or is dropped.
    pub(crate) async fn run(mut self) {
        // What was found is durable now. And the next group commit begins elsewhere than one that
        // was cut off, so nothing that may be left of that one can chain to it.
        if let Err(error) = self.mark_end() {
            self.fail(&error);
        }
        while !self.closed && self.take_tasks().await {
            Self::wait_for_sealing(&self.shared).await;
            while let Some(task) = self.tasks.pop_front() {
                self.perform(task);
            }
            self.commit();
        }
        self.shared.stop(State::Closed);
        self.refuse_all(&JournalError::Closed);
        self.shared.wake_all();
    }

    /// Waits for tasks; false where there will be none. Those that were put off come first.
    async fn take_tasks(&mut self) -> bool {
        let mut taken = Vec::new();
        let more = if self.parked.is_empty() {
            self.queue.recv_many(&mut taken, MAX_TASKS).await > 0
        } else {
            tokio::select! {
                biased;
                count = self.queue.recv_many(&mut taken, MAX_TASKS) => count > 0,
                () = sleep(RETRY) => true,
            }
        };
        self.tasks.extend(self.parked.drain(..).chain(taken));
        more
    }

    fn perform(&mut self, task: Task) {
        if let Err(failed) = self.shared.check_not_failed() {
            return self.refuse(task, &failed);
        }
        if self.closed {
            return self.refuse(task, &JournalError::Closed);
        }
        match task {
            // Entries of a group keep their order.
            append @ Task::Append { .. } if !self.parked.is_empty() => self.parked.push(append),
            Task::Append { shard, entries, bytes, done } => {
                self.append(shard, entries, bytes, done);
            }
            Task::Vote { shard, vote, done } => self.vote(shard, vote, done),
            Task::Mark(done) => match self.mark_all() {
                Ok(()) => self.staged.push(Staged::Told(done)),
                Err(error) => done(Err(error)),
            },
            Task::Roll(done) => {
                self.commit();
                let rolled = self.roll(0);
                self.commit();
                drop(done.send(rolled.and_then(|()| self.shared.check_not_failed())));
            }
            Task::Install(staged, done) => self.install(*staged, done),
            Task::BringOver(shard, done) => match self.left_behind(shard) {
                Ok(entries) => self.bring_over(shard, entries, done),
                Err(error) => drop(done.send(Err(error))),
            },
            Task::Close => self.close(),
            Task::Stop => self.closed = true,
        }
        if self.buffer.len() >= MAX_COMMIT_BYTES {
            self.commit();
        }
    }

    /// Full segments keep an index in memory until they are sealed: do not outrun that. But never
    /// wait for what must wait itself: for groups that have yet to release their entries. And never
    /// for long: votes and the answers to heartbeats wait here, too. A merge may take seconds; a
    /// leader whose followers were silent for so long would be deposed.
    async fn wait_for_sealing(shared: &Shared) {
        let until = Instant::now() + SEALING_PATIENCE;
        while shared.sealing_is_due()
            && !shared.sealing_stuck.load(Ordering::Acquire)
            && !shared.is_stopped()
        {
            tracing::trace!("appends wait for segments to be sealed");
            if timeout_at(until, shared.sealed_one.notified()).await.is_err() {
                return;
            }
        }
    }

    /// Stages entries, those that have room.
    fn append(&mut self, shard: ShardId, entries: Vec<Entry>, bytes: usize, done: Flushed) {
        let mut entries = VecDeque::from(entries);
        let mut spots = Vec::with_capacity(entries.len());
        while let Some(entry) = entries.front() {
            let begin = encode_begin(entry);
            let ops = match &entry.body {
                Body::Ops(ops) => ops.bytes().len(),
                Body::Blank | Body::Membership(_) => 0,
            };
            let len = begin.len() + ops;
            if !self.fits(len, true) {
                // What is staged of these entries goes into this segment.
                let staged = std::mem::take(&mut spots);
                self.staged.push(Staged::Entries { shard, spots: staged, bytes: 0, done: None });
                if let Err(error) = self.make_room(len, true) {
                    return self.park(error, (shard, entries.into(), bytes, done));
                }
            }
            spots.push((entry.id, self.stage_entry(shard, entry, begin, len)));
            entries.pop_front();
        }
        self.staged.push(Staged::Entries { shard, spots, bytes, done: Some(done) });
    }

    /// Puts off entries until there is room for them; some before them may be written already.
    fn park(
        &mut self,
        error: JournalError,
        (shard, entries, bytes, done): (ShardId, Vec<Entry>, usize, Flushed),
    ) {
        let under_way = |error: JournalError| match error {
            JournalError::FailedUnderWay { cause } => JournalError::FailedUnderWay { cause },
            error => JournalError::FailedUnderWay { cause: error.to_string() },
        };
        let done: Flushed = Box::new(move |result| done(result.map_err(under_way)));
        let task = Task::Append { shard, entries, bytes, done };
        if self.shared.check_not_failed().is_err() {
            return self.refuse(task, &error);
        }
        tracing::debug!(%error, "entries wait for room");
        self.parked.push(task);
    }

    fn stage_entry(&mut self, shard: ShardId, entry: &Entry, begin: Vec<u8>, len: usize) -> Spot {
        let spot = Spot {
            segment: self.active.id,
            offset: self.end + self.buffer.len() as u64,
            len: len as u32,
        };
        let index = entry.id.index;
        self.push_frame(Kind::Entry, shard, Position::new(index, 0), Term(entry.id.term), &begin);
        if let Body::Ops(ops) = &entry.body {
            let start = self.buffer.len();
            self.buffer.extend_from_slice(ops.bytes());
            let mut at = start;
            while let Some(header) = Header::parse_unstamped(&self.buffer[at..]) {
                let position = Position::new(index, header.position.offset());
                let header = Header { flush: self.end as u32, position, ..header };
                let next = at + header.frame_bytes();
                stamp(&mut self.buffer[at..next], self.active.salt, self.end + at as u64, header);
                at = next;
                if at == self.buffer.len() {
                    break;
                }
            }
        }
        spot
    }

    fn vote(&mut self, shard: ShardId, vote: Bytes, done: Flushed) {
        let frame = encode_vote(&vote);
        if !self.fits(frame.len(), false)
            && let Err(error) = self.make_room(frame.len(), false)
        {
            tracing::error!(%error, "no room for a vote");
            return done(Err(error));
        }
        self.push_frame(Kind::Vote, shard, Position::ZERO, Term(0), &frame);
        self.staged.push(Staged::Vote { shard, vote, done });
    }

    /// Whether the segment has room for frames of `bytes`.
    fn has_room(&self, bytes: usize) -> bool {
        let used = self.end + (self.buffer.len() + bytes) as u64 + RESERVED_BYTES;
        used <= self.active.capacity
    }

    /// Whether frames of `bytes` go into the segment as it is. Entries leave some room, unless the
    /// next segment is at hand.
    fn fits(&self, bytes: usize, entries: bool) -> bool {
        let next_is_here = self.shared.room.spare.load(Ordering::Acquire) > 0;
        let kept = if entries && !next_is_here { self.shared.reserve() as usize } else { 0 };
        self.carried && self.has_room(bytes + kept)
    }

    /// Makes room for frames of `bytes` in this segment or the next.
    fn make_room(&mut self, bytes: usize, entries: bool) -> Result<(), JournalError> {
        if !self.carried && !self.carry_here() {
            self.commit();
            return match self.roll(bytes as u64) {
                Err(_) if !entries && self.has_room(bytes) => Ok(()),
                rolled => rolled,
            };
        }
        if entries && !self.fits(bytes, true) {
            self.spares().prepare_for(&self.shared, bytes as u64)?;
        }
        if self.fits(bytes, entries) {
            return Ok(());
        }
        self.commit();
        self.roll(bytes as u64)
    }

    fn spares(&self) -> std::sync::MutexGuard<'_, Spares> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stages what is carried over into this segment. False where it has no room for that.
    fn carry_here(&mut self) -> bool {
        let carried = self.what_to_carry(self.active.id);
        self.carried = self.has_room(carried.iter().map(|(_, frame, _)| frame.len()).sum());
        if self.carried {
            self.stage_carried(carried);
        }
        self.carried
    }

    /// Stages marks for all groups, so that nothing before this segment is needed for them.
    fn mark_all(&mut self) -> Result<(), JournalError> {
        let staged = if self.carried { self.marks() } else { self.carry_here() };
        if staged {
            return Ok(());
        }
        self.commit();
        self.roll(0)
    }

    fn what_to_carry(&self, segment: u64) -> Vec<(ShardId, Vec<u8>, Mark<()>)> {
        let of = |group: &Arc<super::group_state::Group>| {
            let mark = group.replica().carry(segment)?;
            let frame = encode_carried(&mark.what);
            Some((group.shard, frame, mark.done()))
        };
        self.shared.groups.iter().filter_map(of).collect()
    }

    fn stage_carried(&mut self, carried: Vec<(ShardId, Vec<u8>, Mark<()>)>) {
        for (shard, frame, mark) in carried {
            self.shared.group(shard).replica().stage(&mark);
            self.push_frame(Kind::Group, shard, Position::ZERO, Term(0), &frame);
            self.staged.push(Staged::Marked { shard, marked: mark.marked });
        }
    }

    /// Stages how far the groups are applied, where that is new. False where some had no room: the
    /// next segment begins with it.
    fn marks(&mut self) -> bool {
        let mut all = true;
        for n in 0..self.shared.groups.len() {
            let group = self.shared.groups[n].clone();
            if !group.unmarked.swap(false, Ordering::AcqRel) {
                continue;
            }
            let mut replica = group.replica();
            let Some(mark) = replica.mark(self.active.id) else { continue };
            let frame = encode_applied(&mark.what);
            if !self.has_room(frame.len()) {
                group.unmarked.store(true, Ordering::Release);
                all = false;
                continue;
            }
            replica.stage(&mark);
            drop(replica);
            self.push_frame(Kind::Applied, group.shard, Position::ZERO, Term(0), &frame);
            self.staged.push(Staged::Marked { shard: group.shard, marked: mark.marked });
        }
        all
    }

    /// Makes what is staged durable and tells those who wait.
    fn commit(&mut self) {
        if self.staged.is_empty() {
            return;
        }
        if self.carried {
            self.marks();
        }
        if !self.buffer.is_empty()
            && let Err(error) = self.write_buffer()
        {
            return self.fail(&error);
        }
        self.note_room();
        let mut staged = std::mem::take(&mut self.staged);
        for what in &mut staged {
            self.publish(what);
        }
        self.shared.pace.ends(|| self.shared.queued_bytes.load(Ordering::Relaxed) > 0);
        for what in staged.drain(..) {
            match what {
                Staged::Entries { done: Some(done), .. }
                | Staged::Vote { done, .. }
                | Staged::Told(done) => done(Ok(())),
                Staged::Entries { .. } | Staged::Marked { .. } => {}
            }
        }
        self.staged = staged;
    }

    /// Notes that what was staged is durable.
    fn publish(&self, staged: &mut Staged) {
        match staged {
            Staged::Entries { shard, spots, bytes, .. } => {
                let group = self.shared.group(*shard);
                self.shared.change(group, |replica| {
                    for (id, spot) in &*spots {
                        replica.entries.place(*id, *spot);
                    }
                });
                group.durable.notify_waiters();
                self.shared.queued_bytes.fetch_sub(*bytes, Ordering::Relaxed);
            }
            Staged::Vote { shard, vote, .. } => {
                self.shared.group(*shard).replica().vote = Some(std::mem::take(vote));
            }
            Staged::Marked { shard, marked } => {
                let deletions = self.shared.group(*shard).replica().is_marked(marked.clone());
                self.shared.count_dead(deletions);
            }
            Staged::Told(_) => {}
        }
    }

    fn note_room(&self) {
        let room = self.active.capacity.saturating_sub(self.end + RESERVED_BYTES);
        self.shared.room.active.store(room, Ordering::Release);
        self.active.written.store(self.end, Ordering::Release);
    }

    /// A write or an fsync failed: nothing is written any more. What was in it may be on disk or
    /// not.
    fn fail(&mut self, error: &io::Error) {
        let cause = format!("{}: {error}", self.active.path.display());
        tracing::error!(%cause, "the log has failed and takes no more writes");
        self.shared.stop(State::Failed(cause.clone()));
        self.buffer.clear();
        for staged in std::mem::take(&mut self.staged) {
            match staged {
                Staged::Entries { done: Some(done), .. }
                | Staged::Vote { done, .. }
                | Staged::Told(done) => {
                    done(Err(JournalError::FailedUnderWay { cause: cause.clone() }));
                }
                Staged::Entries { .. } | Staged::Marked { .. } => {}
            }
        }
        self.refuse_all(&JournalError::Failed { cause });
        self.shared.wake_all();
    }

    /// Refuses everything that waits.
    fn refuse_all(&mut self, error: &JournalError) {
        let queued = std::iter::from_fn(|| self.queue.try_recv().ok());
        let tasks: Vec<_> =
            self.parked.drain(..).chain(self.tasks.drain(..)).chain(queued).collect();
        for task in tasks {
            self.refuse(task, error);
        }
    }

    fn refuse(&mut self, task: Task, error: &JournalError) {
        match task {
            Task::Append { bytes, done, .. } => {
                self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
                done(Err(error.clone()));
            }
            Task::Vote { done, .. } | Task::Mark(done) => done(Err(error.clone())),
            Task::Roll(done) | Task::Install(_, done) | Task::BringOver(_, done) => {
                drop(done.send(Err(error.clone())));
            }
            Task::Close | Task::Stop => self.closed = true,
        }
    }

    /// Ends the segment and goes on in the next, with room for frames of `bytes` after what is
    /// carried over. The buffer is empty.
    fn roll(&mut self, bytes: u64) -> Result<(), JournalError> {
        self.shared.check_not_failed()?;
        let taken = {
            let mut spares = self.spares();
            let carried = self.what_to_carry(spares.next_id());
            let room = carried.iter().map(|(_, frame, _)| frame.len() as u64).sum::<u64>() + bytes;
            spares.take(&self.shared, room).map(|next| (next, carried))
        };
        let (next, carried) = taken.inspect_err(|error| {
            tracing::warn!(%error, "no new segment: entries are refused until there is one");
        })?;
        self.control_frame(Kind::End);
        if let Err(error) = self.write_buffer() {
            self.fail(&error);
            return Err(JournalError::Failed { cause: error.to_string() });
        }
        self.note_room();
        let next = Arc::new(next);
        self.active = next.clone();
        self.end = FILE_HEADER_BYTES;
        self.carried = true;
        self.stage_carried(carried);
        self.shared.files.change(|set| set.live.push(next));
        self.note_room();
        let full = self.shared.files.now().live.len() - 1;
        if full > self.shared.config.unsealed_segments {
            tracing::warn!(segments = full, "more full segments than wanted wait to be sealed");
        }
        self.shared.work.notify_one();
        Ok(())
    }

    /// Closes in good order.
    fn close(&mut self) {
        self.closed = true;
        if self.shared.groups.iter().any(|group| group.unmarked.load(Ordering::Acquire)) {
            let _ = if self.carried { self.marks() } else { self.carry_here() };
        }
        self.commit();
        if self.shared.check_not_failed().is_ok()
            && let Err(error) = self.mark_end()
        {
            tracing::warn!(%error, "the log was closed without its mark");
        }
    }

    /// Says on disk that everything before is durable, so that damage is told from a torn tail.
    fn mark_end(&mut self) -> io::Result<()> {
        #[cfg(feature = "planted")]
        if crate::planted::is(crate::planted::Planted::LeftoverTail) {
            return Ok(());
        }
        if self.end + HEADER_BYTES as u64 > self.active.capacity {
            return Ok(());
        }
        self.control_frame(Kind::Mark);
        self.write_buffer()?;
        self.note_room();
        Ok(())
    }

    fn control_frame(&mut self, kind: Kind) {
        self.push_frame(kind, ShardId(0), Position::ZERO, Term(0), &[0; HEADER_BYTES]);
    }

    /// Puts a frame with room for its header in front into the buffer, stamped for its place.
    fn push_frame(
        &mut self,
        kind: Kind,
        shard: ShardId,
        position: Position,
        term: Term,
        frame: &[u8],
    ) {
        let (start, len) = (self.buffer.len(), (frame.len() - HEADER_BYTES) as u32);
        let header = Header { len, flush: self.end as u32, kind, shard, position, term };
        self.buffer.extend_from_slice(frame);
        let offset = self.end + start as u64;
        stamp(&mut self.buffer[start..], self.active.salt, offset, header);
    }

    fn write_buffer(&mut self) -> io::Result<()> {
        self.active.file.write_at(self.end, &self.buffer)?;
        self.sync()?;
        self.end += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        #[cfg(feature = "planted")]
        if crate::planted::is(crate::planted::Planted::AckBeforeFsync) {
            return Ok(());
        }
        self.active.file.sync_data()
    }
}
