//! The store's one writer: it takes what is queued, makes one transaction of it, and answers.

use std::sync::{
    Arc, PoisonError, RwLock, RwLockReadGuard,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use duractor_journal::{Effect, EntityId, disk::DiskLock};
use tokio::sync::{mpsc, oneshot};

use crate::{
    error::SnapshotError,
    file::{OnDamage, OpenFile, Place, WRITING},
    paged_file::Unsettled,
    port::{Criteria, Retention, Saved, Snapshot},
    tables::{self, Change, Done, Fault, Row},
    value::{self, Compression},
};

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct SnapshotOptions {
    /// How states are compressed. Default: lz4.
    pub compression: Compression,
    /// States of up to this many bytes are stored as they are. Default: 1024.
    pub compress_above_bytes: usize,
    /// Memory for pages of the file, in bytes. Default: 64 MiB.
    pub cache_bytes: usize,
    /// Saves that would make more than this many bytes wait are refused with
    /// [`SnapshotError::Busy`]. Default: 256 MiB.
    pub max_queued_bytes: usize,
    /// What to do with a damaged file. Default: set it aside.
    pub on_damage: OnDamage,
    /// Whether all pages are read and verified when the file is opened, which takes a second
    /// or a few for each GB. Without it a bit that flipped in redb's own lists can end the process,
    /// and end it again after each restart. Default: true.
    pub verify_on_open: bool,
}

impl Default for SnapshotOptions {
    fn default() -> Self {
        Self {
            compression: Compression::default(),
            compress_above_bytes: 1024,
            cache_bytes: 64 << 20,
            max_queued_bytes: 256 << 20,
            on_damage: OnDamage::default(),
            verify_on_open: true,
        }
    }
}

/// Bytes of states that one transaction takes up at most, beside its first save.
const GROUP_BYTES: usize = 16 << 20;
/// What a queued call counts for beside its states, in bytes.
pub(crate) const CALL_BYTES: usize = 256;

/// What the calls and the worker share.
pub(crate) struct Shared {
    file: RwLock<File>,
    /// False as long as the file never had a snapshot: then loads need not look.
    pub(crate) any: AtomicBool,
    pub(crate) closed: AtomicBool,
    pub(crate) damaged: AtomicU64,
    queued_bytes: AtomicUsize,
    max_queued_bytes: usize,
}

pub(crate) enum File {
    Open(OpenFile),
    /// It was found damaged while open, and opening it again failed with this.
    Broken(SnapshotError),
}

pub(crate) enum Call {
    Save {
        snapshots: Vec<Snapshot>,
        keep: Retention,
        bytes: usize,
        answer: Answer<Vec<Saved>>,
    },
    Delete {
        entity: EntityId,
        criteria: Criteria,
        answer: Answer<u64>,
    },
    /// A load met damage that redb does not get over: open the file again.
    Reopen,
    Shutdown {
        answer: oneshot::Sender<()>,
    },
}

pub(crate) type Answer<T> = oneshot::Sender<Result<T, SnapshotError>>;

impl Shared {
    pub(crate) fn new(file: OpenFile, options: &SnapshotOptions) -> Self {
        Self {
            any: AtomicBool::new(file.had_snapshots),
            damaged: AtomicU64::new(file.lost),
            file: RwLock::new(File::Open(file)),
            closed: AtomicBool::new(false),
            queued_bytes: AtomicUsize::new(0),
            max_queued_bytes: options.max_queued_bytes,
        }
    }

    pub(crate) fn file(&self) -> RwLockReadGuard<'_, File> {
        // Panics of redb are caught inside; the slot itself is only ever replaced whole.
        self.file.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, file: File) -> File {
        let mut slot = self.file.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *slot, file)
    }

    /// Makes room in the queue, or refuses.
    pub(crate) fn reserve(&self, bytes: usize) -> Result<(), SnapshotError> {
        let queued = self.queued_bytes.fetch_add(bytes, Ordering::AcqRel);
        // A save that is larger than the limit is taken by an idle store.
        if queued > 0 && queued + bytes > self.max_queued_bytes {
            self.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
            return Err(SnapshotError::Busy { queued_bytes: queued });
        }
        Ok(())
    }
}

impl Call {
    /// Answers that the store is closed.
    fn refuse(self) {
        // Whoever asked may have stopped waiting.
        match self {
            Call::Save { answer, .. } => drop(answer.send(Err(SnapshotError::Closed))),
            Call::Delete { answer, .. } => drop(answer.send(Err(SnapshotError::Closed))),
            Call::Shutdown { answer } => {
                let _ = answer.send(());
            }
            Call::Reopen => {}
        }
    }
}

/// Where the answer to a change goes.
enum Waiter {
    Save(Answer<Vec<Saved>>),
    Delete(Answer<u64>),
}

impl Waiter {
    /// A caller that stopped waiting does not undo the change.
    fn answer(self, result: Result<Done, SnapshotError>) {
        match (self, result) {
            (Waiter::Save(answer), Ok(Done::Saved(saved))) => drop(answer.send(Ok(saved))),
            (Waiter::Delete(answer), Ok(Done::Deleted(n))) => drop(answer.send(Ok(n))),
            (Waiter::Save(answer), Err(error)) => drop(answer.send(Err(error))),
            (Waiter::Delete(answer), Err(error)) => drop(answer.send(Err(error))),
            // Answers come in the order of the changes, so these do not meet.
            (Waiter::Save(_), Ok(Done::Deleted(_))) | (Waiter::Delete(_), Ok(Done::Saved(_))) => {}
        }
    }
}

/// What is done in one transaction.
#[derive(Default)]
struct Group {
    changes: Vec<Change>,
    waiters: Vec<Waiter>,
    bytes: usize,
    reopen: bool,
    shutdown: Vec<oneshot::Sender<()>>,
}

/// The one writer.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    place: Place,
    options: SnapshotOptions,
    /// Why nothing is written any more.
    failed: Option<String>,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, place: Place, options: SnapshotOptions) -> Self {
        Self { shared, place, options, failed: None }
    }

    /// Ends by a shutdown, or when the store is dropped.
    pub(crate) async fn run(
        mut self,
        mut calls: mpsc::UnboundedReceiver<Call>,
        lock: Box<dyn DiskLock>,
    ) {
        while let Some(call) = calls.recv().await {
            let mut group = Group::default();
            self.take(&mut group, call);
            while group.bytes < GROUP_BYTES && group.shutdown.is_empty() {
                match calls.try_recv() {
                    Ok(call) => self.take(&mut group, call),
                    Err(_) => break,
                }
            }
            self.perform(&mut group);
            if !group.shutdown.is_empty() {
                calls.close();
                while let Ok(call) = calls.try_recv() {
                    call.refuse();
                }
                self.close();
                drop(lock);
                for answer in group.shutdown {
                    // Whoever asked may have stopped waiting.
                    let _ = answer.send(());
                }
                return;
            }
        }
        self.close();
    }

    fn take(&self, group: &mut Group, call: Call) {
        match call {
            Call::Save { snapshots, keep, bytes, answer } => {
                self.shared.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
                let rows = snapshots.into_iter().map(|snapshot| self.encode(&snapshot)).collect();
                group.changes.push(Change::Save(rows, keep));
                group.waiters.push(Waiter::Save(answer));
                group.bytes += bytes;
            }
            Call::Delete { entity, criteria, answer } => {
                group.changes.push(Change::Delete(entity, criteria));
                group.waiters.push(Waiter::Delete(answer));
                self.shared.queued_bytes.fetch_sub(CALL_BYTES, Ordering::AcqRel);
                group.bytes += CALL_BYTES;
            }
            Call::Reopen => group.reopen = true,
            Call::Shutdown { answer } => group.shutdown.push(answer),
        }
    }

    fn encode(&self, snapshot: &Snapshot) -> Row {
        let key = value::key(&snapshot.entity, snapshot.seq);
        let (how, above) = (self.options.compression, self.options.compress_above_bytes);
        let value = value::encode(&key, snapshot, how, above);
        Row { entity: snapshot.entity.clone(), key, value }
    }

    fn perform(&mut self, group: &mut Group) {
        if group.reopen {
            self.reopen("a load met damage", false);
        }
        if group.changes.is_empty() {
            return;
        }
        let changes = std::mem::take(&mut group.changes);
        let waiters = std::mem::take(&mut group.waiters);
        match self.commit(&changes) {
            Ok(done) => waiters.into_iter().zip(done).for_each(|(w, done)| w.answer(Ok(done))),
            Err(error) => waiters.into_iter().for_each(|w| w.answer(Err(error.clone()))),
        }
    }

    fn commit(&mut self, changes: &[Change]) -> Result<Vec<Done>, SnapshotError> {
        if let Some(cause) = &self.failed {
            return Err(SnapshotError::Failed { cause: cause.clone() });
        }
        let reason = match &*self.shared.file() {
            File::Broken(_) => Some("it could not be opened before"),
            File::Open(file) if file.paged.read_errors() > 0 => Some("a page could not be read"),
            File::Open(_) => None,
        };
        if let Some(reason) = reason {
            self.reopen(reason, false);
        }
        let fault = match self.try_commit(changes)? {
            Ok(done) => return Ok(done),
            Err(fault) => fault,
        };
        // redb takes no more writes after a failed one. The file is opened again and verified; it
        // is sound then, or another one in its place.
        self.shared.damaged.fetch_add(1, Ordering::Relaxed);
        self.reopen(&fault.to_string(), true);
        // The first try may have been committed before it failed.
        let cause = match self.try_commit(changes) {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(fault)) => fault.to_string(),
            Err(error) if error.effect() == Effect::None => error.to_string(),
            Err(error) => return Err(error),
        };
        Err(SnapshotError::FailedUnderWay { cause })
    }

    /// The outer error is final, the inner one is damage that opening the file again may heal.
    fn try_commit(
        &mut self,
        changes: &[Change],
    ) -> Result<Result<Vec<Done>, Fault>, SnapshotError> {
        let shared = self.shared.clone();
        let slot = shared.file();
        let file = match &*slot {
            File::Open(file) => file,
            File::Broken(error) => return Err(error.clone()),
        };
        // What an earlier full disk left over goes first, and until it is written there is no use
        // in adding to it.
        let left_over = file.paged.settle();
        left_over.map_err(|unsettled| self.unsettled(unsettled, false))?;
        // Before the commit, so that no load that begins after it can miss it.
        shared.any.store(true, Ordering::Release);
        file.paged.strict(true);
        let applied = file.with(|db| tables::apply(db, changes));
        file.paged.strict(false);
        let settled = file.paged.settle();
        settled.map_err(|unsettled| self.unsettled(unsettled, true))?;
        Ok(applied.map(|(done, damaged)| {
            shared.damaged.fetch_add(damaged, Ordering::Relaxed);
            done
        }))
    }

    fn unsettled(&mut self, unsettled: Unsettled, under_way: bool) -> SnapshotError {
        match unsettled {
            Unsettled::Full(message) => SnapshotError::DiskFull { message },
            Unsettled::Failed(cause) => {
                tracing::error!(cause, "the snapshot store takes no more saves");
                self.failed = Some(cause.clone());
                if under_way {
                    SnapshotError::FailedUnderWay { cause }
                } else {
                    SnapshotError::Failed { cause }
                }
            }
        }
    }

    /// Closes the file and opens it again; `verify` has all of its pages checked.
    fn reopen(&mut self, reason: &str, verify: bool) {
        if self.failed.is_some() {
            return;
        }
        tracing::warn!(reason, path = %self.place.path.display(), "opening the snapshots again");
        if let File::Open(mut file) = self.shared.replace(File::Broken(SnapshotError::Closed)) {
            file.let_go();
        }
        let opened = self.place.open(verify);
        if let Ok(file) = &opened {
            self.shared.damaged.fetch_add(file.lost, Ordering::Relaxed);
        }
        if let Err(error) = &opened {
            tracing::error!(%error, "the snapshots cannot be opened again");
            if let SnapshotError::Io { doing: WRITING, .. } = error {
                // Opening it once more could call durable what the failed sync has lost.
                self.failed = Some(error.to_string());
            }
        }
        self.shared.replace(opened.map_or_else(File::Broken, File::Open));
    }

    fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        drop(self.shared.replace(File::Broken(SnapshotError::Closed)));
    }
}
