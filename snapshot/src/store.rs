//! [`RedbSnapshots`]: the port in one redb file.
//!
//! ```text
//! save, delete ─▶ queue ─▶ one worker ─▶ one transaction for all that is queued ─▶ one fsync ─▶ answers
//! load ─────────────────▶ one range of the table, on the calling thread
//! ```
//! Loads are not offloaded: a hot one takes a few microseconds, less than handing it over would,
//! and recovery of many entities asks for nothing else. A cold one reads a page or a few.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

use duractor_journal::{EntityId, Env};
use futures_util::future::{self, BoxFuture};
use tokio::sync::{mpsc, oneshot};

use crate::{
    error::SnapshotError,
    file::Place,
    port::{Criteria, Retention, Saved, Snapshot, SnapshotStore, check_sizes},
    tables,
    worker::{CALL_BYTES, Call, File, Shared, SnapshotOptions, Worker},
};

/// Snapshots in one redb file.
///
/// ```no_run
/// # async fn example() -> Result<(), duractor_snapshot::SnapshotError> {
/// use duractor_journal::Env;
/// use duractor_snapshot::{RedbSnapshots, SnapshotOptions};
/// let env = Env::production();
/// let store = RedbSnapshots::open("data/snapshots.redb", SnapshotOptions::default(), env).await?;
/// # Ok(())
/// # }
/// ```
pub struct RedbSnapshots {
    shared: Arc<Shared>,
    queue: mpsc::UnboundedSender<Call>,
}

impl RedbSnapshots {
    /// Opens the store in the file at `path`; makes it and its folder where there is none.
    ///
    /// All pages are read and verified, unless
    /// [`verify_on_open`](SnapshotOptions::verify_on_open) is switched off; after a crash redb does
    /// that once more.
    ///
    /// # Errors
    /// [`SnapshotError::Locked`] where another process has it open; what else the file system or
    /// the file's version forbids. A damaged file is no error unless
    /// [`OnDamage::Refuse`](crate::OnDamage::Refuse) is asked for.
    pub async fn open(
        path: impl Into<PathBuf>,
        options: SnapshotOptions,
        env: Env,
    ) -> Result<Arc<Self>, SnapshotError> {
        let place = Place {
            disk: env.disk.clone(),
            path: path.into(),
            cache_bytes: options.cache_bytes,
            on_damage: options.on_damage,
            verify_on_open: options.verify_on_open,
        };
        let opened = env.offload(move || {
            let lock = place.lock()?;
            let file = place.open(false)?;
            Ok((place, lock, file))
        });
        let (place, lock, file) = opened.await.unwrap_or(Err(SnapshotError::Closed))?;
        let shared = Arc::new(Shared::new(file, &options));
        let (queue, calls) = mpsc::unbounded_channel();
        let worker = Worker::new(shared.clone(), place, options);
        env.offload.worker("duractor-snapshots", Box::pin(worker.run(calls, lock)));
        Ok(Arc::new(Self { shared, queue }))
    }

    fn load_now(
        &self,
        entity: &EntityId,
        criteria: Criteria,
    ) -> Result<Option<Snapshot>, SnapshotError> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(SnapshotError::Closed);
        }
        if !self.shared.any.load(Ordering::Acquire) {
            return Ok(None);
        }
        let (found, unread) = match &*self.shared.file() {
            File::Open(file) => {
                let found = file.with(|db| tables::load(db, entity, criteria));
                (found, file.paged.read_errors() > 0)
            }
            File::Broken(error) => return Err(error.clone()),
        };
        match found {
            Ok(mut found) => {
                // A page that could not be read hides keys, also later on, from redb's cache.
                if unread && found.snapshot.is_none() {
                    found.damaged += 1;
                    tables::report(entity, "a page could not be read");
                }
                self.shared.damaged.fetch_add(found.damaged, Ordering::Relaxed);
                Ok(found.snapshot)
            }
            Err(fault) => {
                self.shared.damaged.fetch_add(1, Ordering::Relaxed);
                tables::report(entity, &fault.to_string());
                if fault.is_poison() {
                    let _ = self.queue.send(Call::Reopen);
                }
                Ok(None)
            }
        }
    }

    /// Hands a call to the worker; the future waits for its answer.
    fn call<T: Send + 'static>(
        &self,
        call: Call,
        answer: oneshot::Receiver<Result<T, SnapshotError>>,
    ) -> BoxFuture<'static, Result<T, SnapshotError>> {
        let taken = !self.shared.closed.load(Ordering::Acquire) && self.queue.send(call).is_ok();
        Box::pin(async move {
            if !taken {
                return Err(SnapshotError::Closed);
            }
            // A worker that goes away without an answer may have been in the middle of it.
            answer.await.unwrap_or_else(|_| {
                Err(SnapshotError::FailedUnderWay { cause: "the store's worker ended".into() })
            })
        })
    }
}

impl SnapshotStore for RedbSnapshots {
    fn save(
        &self,
        snapshots: Vec<Snapshot>,
        retention: Retention,
    ) -> BoxFuture<'static, Result<Vec<Saved>, SnapshotError>> {
        let bytes =
            CALL_BYTES + snapshots.iter().map(|s| s.state.len() + CALL_BYTES).sum::<usize>();
        if let Err(error) = check_sizes(&snapshots).and_then(|()| self.shared.reserve(bytes)) {
            return Box::pin(future::ready(Err(error)));
        }
        let (tx, rx) = oneshot::channel();
        self.call(Call::Save { snapshots, keep: retention, bytes, answer: tx }, rx)
    }

    fn load(
        &self,
        entity: &EntityId,
        criteria: Criteria,
    ) -> BoxFuture<'static, Result<Option<Snapshot>, SnapshotError>> {
        Box::pin(future::ready(self.load_now(entity, criteria)))
    }

    fn delete(
        &self,
        entity: &EntityId,
        criteria: Criteria,
    ) -> BoxFuture<'static, Result<u64, SnapshotError>> {
        if let Err(error) = self.shared.reserve(CALL_BYTES) {
            return Box::pin(future::ready(Err(error)));
        }
        let (tx, rx) = oneshot::channel();
        self.call(Call::Delete { entity: entity.clone(), criteria, answer: tx }, rx)
    }

    fn damaged(&self) -> u64 {
        self.shared.damaged.load(Ordering::Relaxed)
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        let (tx, rx) = oneshot::channel();
        self.shared.closed.store(true, Ordering::Release);
        let sent = self.queue.send(Call::Shutdown { answer: tx });
        Box::pin(async move {
            if sent.is_ok() {
                // An error says that the worker has ended already.
                let _ = rx.await;
            }
        })
    }
}
