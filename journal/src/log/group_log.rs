//! One group's part of the node's log: what Raft's log and state machine are built on.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::sync::{mpsc, oneshot};

pub(crate) use super::{apply::Outcome, group_state::GroupState, shared::Flushed};
use super::{
    apply::{Fetched, Machine, Need, Pause, Placed, fetch},
    codec::Name,
    entries::{Lookup, Spot},
    entry::{Body, Entry, LogId},
    files::FileSet,
    group_state::Group,
    image::Image,
    intake::{Intake, Site, Staged},
    live::Live,
    shared::{Shared, Task},
    stored::{Stored, read_entries},
};
use crate::{
    env::Env,
    error::JournalError,
    id::{EntityId, Seq, ShardId, Term},
    port::{Deletions, Head},
};

/// Entities in one piece of [`GroupLog::deletions`].
const DELETIONS: usize = 1024;

/// A handle on a group's log. Clones are the same log.
///
/// The log's methods ([`append`](Self::append) to [`read`](Self::read)) are called in order by one
/// task, and those of the state machine ([`apply`](Self::apply)) by one other.
#[derive(Clone)]
pub(crate) struct GroupLog {
    shared: Arc<Shared>,
    group: Arc<Group>,
    queue: mpsc::UnboundedSender<Task>,
}

impl GroupLog {
    pub(crate) fn new(
        shared: Arc<Shared>,
        shard: ShardId,
        queue: mpsc::UnboundedSender<Task>,
    ) -> Self {
        let group = shared.group(shard).clone();
        Self { shared, group, queue }
    }

    pub(crate) fn shard(&self) -> ShardId {
        self.group.shard
    }

    /// An error where writes are not taken.
    pub(crate) fn check_open(&self) -> Result<(), JournalError> {
        self.shared.check_open()
    }

    /// How far the log is.
    pub(crate) fn state(&self) -> GroupState {
        self.group.replica().state()
    }

    /// Adds entries that follow the last one: they can be [read](Self::read) at once. `done` hears
    /// when they are durable. After an error nothing more can be written; whether they are on disk
    /// shows when the log is opened again, unless the error says that they are not.
    pub(crate) fn append(&self, entries: Vec<Entry>, done: Flushed) {
        if let Err(error) = self.shared.check_open() {
            return done(Err(error));
        }
        let follow = self.shared.change(&self.group, |replica| {
            entries.iter().all(|entry| replica.entries.push(entry.clone()))
        });
        if !follow {
            let cause = format!("entries of {} do not follow one another", self.group.shard);
            return done(Err(JournalError::Failed { cause }));
        }
        let bytes = entries.iter().map(Entry::bytes).sum();
        self.shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.shared.pace.begins();
        self.send(Task::Append { shard: self.group.shard, entries, bytes, done });
    }

    /// Writes down whom the replica promised what. The promise may be given when `done` hears that
    /// it is durable.
    pub(crate) fn save_vote(&self, vote: Bytes, done: Flushed) {
        if let Err(error) = self.shared.check_open() {
            return done(Err(error));
        }
        self.send(Task::Vote { shard: self.group.shard, vote, done });
    }

    fn send(&self, task: Task) {
        if let Err(mpsc::error::SendError(task)) = self.queue.send(task) {
            let error = self.shared.check_open().err().unwrap_or(JournalError::Closed);
            match task {
                Task::Append { bytes, done, .. } => {
                    self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
                    done(Err(error));
                }
                Task::Vote { done, .. } | Task::Mark(done) => done(Err(error)),
                Task::Roll(_)
                | Task::Install(..)
                | Task::BringOver(..)
                | Task::Close
                | Task::Stop => {}
            }
        }
    }

    /// Forgets the entries after `last`. On disk they are superseded by what is appended next; until
    /// then they come back when the log is opened again.
    pub(crate) fn truncate_after(&self, last: Option<LogId>) {
        self.shared.change(&self.group, |replica| replica.entries.truncate_after(last));
    }

    /// Raft needs no entry up to here any more. They are gone for it at once, and on disk when their
    /// segments are sealed; until then they come back when the log is opened again.
    pub(crate) fn purge(&self, upto: LogId) {
        let purged = self.shared.change(&self.group, |replica| {
            let before = replica.entries.purged();
            if let Some(upto) = Some(upto).min(replica.applied) {
                replica.entries.purge(upto);
            }
            replica.entries.purged() > before
        });
        if purged {
            self.shared.work.notify_one();
        }
    }

    /// The entries from `from` to before `to`, those that are there: about `max_bytes` of them, and at
    /// least one where there is one. The newest come from memory.
    ///
    /// # Errors
    /// [`JournalError::Unavailable`] where the first one is purged; as for reads.
    pub(crate) async fn read(
        &self,
        from: u64,
        to: u64,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, JournalError> {
        let places = {
            let replica = self.group.replica();
            let end = replica.entries.last().map_or(0, |id| id.index + 1);
            if from >= to.min(end) {
                return Ok(Vec::new());
            }
            match replica.entries.look_up(from, to.min(end), max_bytes) {
                Some(Lookup::Memory(entries)) => return Ok(entries),
                Some(Lookup::Disk(places)) => places,
                None => return Err(self.purged()),
            }
        };
        // Taken after the places: a segment that has one and is not in it any more was sealed.
        let set = self.shared.files.now();
        let Some(first) = places.first() else { return Ok(Vec::new()) };
        let live = live_of(&set, first.1).ok_or_else(|| self.purged())?;
        let of_one = places.iter().take_while(|(_, spot)| spot.segment == live.id);
        let shard = self.group.shard;
        let wanted: Vec<_> =
            of_one.map(|(id, spot)| Stored { shard, id: *id, spot: *spot }).collect();
        let job = move || {
            let mut entries = Vec::with_capacity(wanted.len());
            read_entries(&live, &wanted, |entry, _| {
                entries.push(entry);
                Ok(())
            })?;
            Ok(entries)
        };
        self.shared.env.offload(job).await.unwrap_or(Err(JournalError::Closed))
    }

    fn purged(&self) -> JournalError {
        let shard = self.group.shard;
        JournalError::Unavailable { shard, reason: "the entries are purged".into() }
    }

    /// The last entry that is durable.
    pub(crate) fn durable(&self) -> Option<LogId> {
        self.group.replica().entries.durable()
    }

    /// Whether this entry is here and durable; not where it is purged.
    pub(crate) fn has_durable(&self, id: LogId) -> bool {
        self.group.replica().entries.spot(id).is_some()
    }

    /// Whether entries of so many bytes may be proposed, or accepted from a leader. Once
    /// [appended](Self::append) they are written, however long it takes until there is room.
    ///
    /// # Errors
    /// [`JournalError::Busy`], [`JournalError::DiskFull`], [`JournalError::Io`] where no segment can be
    /// made, [`JournalError::Closed`], [`JournalError::Failed`].
    pub(crate) fn admit(&self, bytes: usize) -> Result<(), JournalError> {
        self.shared.admit(bytes)
    }

    /// Applies committed entries, which follow those that are applied: waits until they are durable
    /// here, decides each write, and shows readers what took effect. Says what became of each write,
    /// entry by entry.
    ///
    /// # Errors
    /// Where the log stops, or a read that a decision needs fails. Then the entries up to
    /// [`GroupState::applied`] are applied, and it can be called again with those that follow.
    pub(crate) async fn apply(
        &self,
        entries: Vec<Entry>,
    ) -> Result<Vec<Vec<Outcome>>, JournalError> {
        let Some(last) = entries.last().map(|entry| entry.id) else { return Ok(Vec::new()) };
        self.wait_until_durable(last).await?;
        let mut outcomes = Vec::with_capacity(entries.len());
        let mut membership = None;
        let mut applied = None;
        let mut failed = None;
        for (entry, spot) in entries.iter().zip(self.spots(&entries)) {
            match self.apply_one(entry, spot).await {
                Ok(outcome) => outcomes.push(outcome),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
            applied = Some(entry.id);
            if let Body::Membership(members) = &entry.body {
                membership = Some((entry.id, members.clone()));
            }
        }
        if let Some(upto) = applied {
            self.applied(upto, membership);
        }
        failed.map_or(Ok(outcomes), Err)
    }

    async fn wait_until_durable(&self, last: LogId) -> Result<(), JournalError> {
        loop {
            let notified = self.group.durable.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.durable() >= Some(last) {
                return Ok(());
            }
            self.shared.check_open()?;
            notified.await;
        }
    }

    fn spots(&self, entries: &[Entry]) -> Vec<Option<Spot>> {
        let replica = self.group.replica();
        let next = replica.applied.map_or(0, |id| id.index + 1);
        let follows = |(entry, index): (&Entry, u64)| {
            let spot = replica.entries.spot(entry.id)?;
            (entry.id.index == index).then_some(spot)
        };
        entries.iter().zip(next..).map(follows).collect()
    }

    async fn apply_one(
        &self,
        entry: &Entry,
        spot: Option<Spot>,
    ) -> Result<Vec<Outcome>, JournalError> {
        let unknown = || {
            let cause = format!("entry {} of {} is not next", entry.id.index, self.group.shard);
            JournalError::Failed { cause }
        };
        let spot = spot.ok_or_else(unknown)?;
        let live = live_of(&self.shared.files.now(), spot).ok_or_else(unknown)?;
        let placed = Placed { entry, spot, live: &live };
        loop {
            let applied = self.group.machine().apply(&placed, &self.shared.files);
            match applied {
                Ok(outcomes) => return Ok(outcomes),
                Err(Pause::Failed(error)) => return Err(error),
                Err(Pause::Needs(need)) => {
                    let fetched = self.fetch(need).await?;
                    self.group.machine().fetched(fetched);
                }
            }
        }
    }

    async fn fetch(&self, need: Need) -> Result<Fetched, JournalError> {
        let files = self.shared.files.clone();
        let job = move || fetch(&files, need);
        self.shared.env.offload(job).await.unwrap_or(Err(JournalError::Closed))
    }

    fn applied(&self, upto: LogId, membership: Option<(LogId, Bytes)>) {
        let mut machine = self.group.machine();
        let Machine { epoch, amended, deletions, .. } = &mut *machine;
        self.shared.change(&self.group, |replica| {
            replica.applied = Some(upto);
            replica.epoch = *epoch;
            replica.amended.append(amended);
            replica.deletions.append(deletions);
            if membership.is_some() {
                replica.membership = membership;
            }
        });
        drop(machine);
        self.group.was_applied();
    }

    /// The entity's head, as far as the group is applied. May wait for the disk.
    pub(crate) fn head_of(&self, entity: &EntityId) -> Result<Head, JournalError> {
        let mut machine = self.group.machine();
        if let Some((_, head)) = machine.heads.get(Name::of(entity)) {
            return Ok(*head);
        }
        let head = self.shared.files.now().head(entity)?;
        machine.heads.put(entity.clone(), head);
        Ok(head)
    }
}

/// Checkpoints.
impl GroupLog {
    pub(crate) fn env(&self) -> &Env {
        &self.shared.env
    }

    /// The image of the shard as of an entry that is applied here, to give to another replica.
    ///
    /// # Errors
    /// As for any read.
    pub(crate) async fn image(&self, at: LogId, epoch: Term) -> Result<Image, JournalError> {
        let (files, shards) = (self.shared.files.now(), self.shared.config.shards);
        let shard = self.group.shard;
        let job = move || Image::open(&files, shards, shard, at, epoch);
        self.shared.env.offload(job).await.unwrap_or(Err(JournalError::Closed))
    }

    /// The entities of which events are deleted, as far as the group is applied here.
    pub(crate) async fn deletions(&self) -> Deletions {
        let GroupState { applied, epoch, .. } = self.state();
        let Some(at) = applied else { return stream::empty().boxed() };
        let image = match self.image(at, epoch).await {
            Ok(image) => image,
            Err(error) => return stream::iter([Err(error)]).boxed(),
        };
        let env = self.shared.env.clone();
        stream::unfold(Some(image), move |image| next_deleted(env.clone(), image)).boxed()
    }

    /// Begins to receive a checkpoint that is cut at `at`.
    ///
    /// # Errors
    /// As [`Intake::begin`].
    pub(crate) fn intake(&self, at: LogId, epoch: Term) -> Result<Intake, JournalError> {
        let shared = &self.shared;
        let (env, dir) = (shared.env.clone(), shared.dir().clone());
        let site = Site { env, dir, log_id: shared.log_id, shards: shared.config.shards };
        Intake::begin(site, self.group.shard, at, epoch)
    }

    /// Lets a checkpoint take the place of all that there is of the shard: the log then begins after
    /// the cut, and everything up to the cut counts as applied. Nothing may be applied meanwhile. All
    /// of it or nothing, also after a crash.
    ///
    /// # Errors
    /// [`JournalError::DiskFull`], [`JournalError::Io`]: nothing has changed. After
    /// [`JournalError::FailedUnderWay`] the log has stopped, and whether the checkpoint counts shows
    /// when it is opened again.
    pub(crate) async fn install(&self, staged: Staged) -> Result<(), JournalError> {
        let why = || self.shared.check_open().err().unwrap_or(JournalError::Closed);
        let (done, installed) = oneshot::channel();
        let task = Task::Install(Box::new(staged), done);
        self.queue.send(task).map_err(|_| why())?;
        installed.await.map_err(|_| why())?
    }
}

async fn next_deleted(
    env: Env,
    image: Option<Image>,
) -> Option<(Result<Vec<(EntityId, Seq)>, JournalError>, Option<Image>)> {
    let mut image = image?;
    let job = move || (image.next_deleted(DELETIONS), image);
    match env.offload(job).await {
        Some((Ok(found), _)) if found.is_empty() => None,
        Some((Ok(found), image)) => Some((Ok(found), Some(image))),
        Some((Err(error), _)) => Some((Err(error), None)),
        None => Some((Err(JournalError::Closed), None)),
    }
}

fn live_of(set: &FileSet, spot: Spot) -> Option<Arc<Live>> {
    set.live.iter().rev().find(|live| live.id == spot.segment).cloned()
}
