//! Singletons: tasks of which one runs in the whole cluster; and workers, which are several of them.
//!
//! A singleton belongs to a shard, as an entity does: its name says to which. Workers of one name belong
//! to different shards, as far as there are so many. The node that owns the
//! shard runs it, and stops it when it does not own the shard any more. Its fencing token is the epoch
//! under which the shard is owned, so a later run of it, on whatever node, has one that is as high or
//! higher.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Weak},
    time::Duration,
};

use duractor_journal::{EntityId, InvalidId, ShardId, Term, Timestamp};
use futures_util::{FutureExt, future::BoxFuture};
use tokio::time::{Instant, sleep};

use crate::{
    context::Kinds,
    entity::EventSourced,
    entity_ref::EntityRef,
    error::NodeError,
    hold::Hold,
    intent::{SideError, panic_text},
    shared::{Guest, Shared},
    task::AbortOnDrop,
};

/// The wait before a singleton that ended is started again; it doubles up to the second, and begins
/// anew once it ran for as long as that.
const RESTART_MIN: Duration = Duration::from_millis(100);
const RESTART_MAX: Duration = Duration::from_secs(10);
/// Hashed with the name, to spread singletons over the shards. Never stored.
const KIND: &str = "singleton";
/// Hashed with a worker's name and a shard, for the order in which shards get workers. Never stored.
const WORKER: &str = "worker";

type Run = dyn Fn(Singleton) -> BoxFuture<'static, Result<(), SideError>> + Send + Sync;

/// A singleton that is to run: see [`NodeBuilder::singleton`](crate::NodeBuilder::singleton).
#[derive(Clone)]
pub(crate) struct Plan {
    id: EntityId,
    place: Place,
    run: Arc<Run>,
}

/// Which shards it belongs to.
#[derive(Clone)]
enum Place {
    /// Its name says to which.
    Named,
    /// The worker with this number of those of a name.
    Worker { of: String, index: usize },
    /// One in each shard.
    Each,
}

impl Plan {
    pub(crate) fn new<F>(
        name: &str,
        run: impl Fn(Singleton) -> F + Send + Sync + 'static,
    ) -> Result<Self, NodeError>
    where
        F: Future<Output = Result<(), SideError>> + Send + 'static,
    {
        Ok(Self { id: EntityId::new(KIND, name)?, place: Place::Named, run: erased(run) })
    }

    /// So many workers.
    pub(crate) fn workers<F>(
        name: &str,
        count: usize,
        run: impl Fn(Singleton) -> F + Send + Sync + 'static,
    ) -> Vec<Result<Self, NodeError>>
    where
        F: Future<Output = Result<(), SideError>> + Send + 'static,
    {
        let run = erased(run);
        let worker = |index| {
            let place = Place::Worker { of: name.to_owned(), index };
            let id = EntityId::new(KIND, &format!("{name}-{index}"))?;
            Ok(Self { id, place, run: run.clone() })
        };
        (0..count).map(worker).collect()
    }

    /// A worker in each shard.
    pub(crate) fn each<F>(
        name: &str,
        run: impl Fn(Singleton) -> F + Send + Sync + 'static,
    ) -> Result<Self, NodeError>
    where
        F: Future<Output = Result<(), SideError>> + Send + 'static,
    {
        Ok(Self { id: EntityId::new(KIND, name)?, place: Place::Each, run: erased(run) })
    }

    /// Beside an entity, in its shard, with its key for a name.
    pub(crate) fn at<F>(id: EntityId, run: impl Fn(Singleton) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), SideError>> + Send + 'static,
    {
        Self { id, place: Place::Named, run: erased(run) }
    }

    pub(crate) fn name(&self) -> &str {
        self.id.key()
    }

    /// What is to run, where there are so many shards: names, numbers and shards.
    fn runs(&self, shards: u16) -> Result<Vec<(Arc<str>, usize, ShardId)>, InvalidId> {
        Ok(match &self.place {
            Place::Named => vec![(self.name().into(), 0, self.id.shard(shards))],
            Place::Worker { of, index } => {
                vec![(self.name().into(), *index, spread(of, *index, shards)?)]
            }
            Place::Each => {
                let each = |shard| (format!("{}@{shard}", self.name()).into(), shard, shard);
                let named = |(name, index, shard): (_, u16, u16)| {
                    (name, usize::from(index), ShardId(shard))
                };
                (0..shards).map(each).map(named).collect()
            }
        })
    }
}

fn erased<F>(run: impl Fn(Singleton) -> F + Send + Sync + 'static) -> Arc<Run>
where
    F: Future<Output = Result<(), SideError>> + Send + 'static,
{
    Arc::new(move |singleton| run(singleton).boxed())
}

/// The shard of a worker: shards get workers in an order that the name says, one after the other, so that
/// none has two before each has one.
fn spread(name: &str, index: usize, shards: u16) -> Result<ShardId, InvalidId> {
    let mut order = Vec::new();
    for shard in 0..shards {
        order.push((EntityId::new(WORKER, &format!("{shard}/{name}"))?.hash64(), shard));
    }
    order.sort_unstable();
    Ok(ShardId(order[index % order.len()].1))
}

/// A run of a singleton, or of a worker, on this node, while the node owns its shard.
#[derive(Clone)]
pub struct Singleton {
    name: Arc<str>,
    index: usize,
    shard: ShardId,
    token: Term,
    shared: Weak<Shared>,
    kinds: Weak<Kinds>,
}

impl Singleton {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which worker of its name it is, from 0; of one for each shard, the shard's number. 0 of a
    /// singleton.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// The shard that it belongs to.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The fencing token, 1 or more. Send it along with everything that is done in the outside world,
    /// and have the outside world refuse a lower one than it has seen: a process that stood still for a
    /// while may go on in the belief that it is the only one, until it looks at a clock.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.token.0
    }

    /// Whether the node still owns the singleton's shard, as far as it knows.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.shared.upgrade().is_some_and(|shared| {
            hold(&shared, self.shard).is_some_and(|hold| hold.is_held(self.token))
        })
    }

    /// Waits until the node shuts down: the time to finish. Where the shard is lost, the task is
    /// dropped at its next `await`, and nothing is waited for.
    pub async fn ending(&self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.closing().await;
        }
    }

    /// The node's wall-clock time.
    ///
    /// # Errors
    /// [`NodeError::ShuttingDown`]: the node is gone.
    pub(crate) fn now(&self) -> Result<Timestamp, NodeError> {
        let shared = self.shared.upgrade().ok_or(NodeError::ShuttingDown)?;
        Ok(shared.env.clock.now())
    }

    /// An entity, as [`Node::entity`](crate::Node::entity).
    ///
    /// # Errors
    /// [`NodeError`] where there can be no such entity, or the node is gone.
    pub fn entity<E: EventSourced>(&self, key: &str) -> Result<EntityRef<E>, NodeError> {
        let kinds = self.kinds.upgrade().ok_or(NodeError::ShuttingDown)?;
        EntityRef::find(&kinds, key)
    }
}

/// This node's part in a singleton's shard. `None` before the node has started.
fn hold(shared: &Shared, shard: ShardId) -> Option<&Hold> {
    shared.shard(shard).map(|shard| &shard.hold)
}

/// Starts to run a plan whenever this node owns its shards, until the node shuts down. The tasks end with
/// what is returned.
pub(crate) fn keep_all(shared: &Arc<Shared>, plan: &Plan) -> Result<Vec<AbortOnDrop>, NodeError> {
    let runs = plan.runs(shared.journal.shards())?.into_iter();
    let keep = |(name, index, shard)| {
        let kinds = shared.kinds.get().cloned().unwrap_or_default();
        let weak = Arc::downgrade(shared);
        let singleton = Singleton { name, index, shard, token: Term(0), shared: weak, kinds };
        AbortOnDrop::new(&tokio::spawn(keep(shared.clone(), singleton, plan.run.clone())))
    };
    Ok(runs.map(keep).collect())
}

async fn keep(shared: Arc<Shared>, template: Singleton, run: Arc<Run>) {
    let mut wait = RESTART_MIN;
    let Some(hold) = hold(&shared, template.shard) else { return };
    loop {
        let token = tokio::select! {
            biased;
            () = shared.closing() => return,
            token = hold.held() => token,
        };
        let began = Instant::now();
        let singleton = Singleton { token, ..template.clone() };
        let ended = once(&shared, hold, singleton, &run).await;
        let name = template.name();
        match ended {
            Ended::Closing => return,
            Ended::Lost => {
                tracing::info!(name, token = token.0, "a singleton stops: the shard is lost");
                wait = RESTART_MIN;
                continue;
            }
            Ended::Done => tracing::info!(name, "a singleton ended, and is started again"),
            Ended::Failed(error) => {
                tracing::warn!(name, error, "a singleton failed, and is started again");
            }
        }
        if began.elapsed() >= RESTART_MAX {
            wait = RESTART_MIN;
        }
        tokio::select! {
            biased;
            () = shared.closing() => return,
            () = sleep(wait) => {}
        }
        wait = (wait * 2).min(RESTART_MAX);
    }
}

enum Ended {
    Closing,
    Lost,
    Done,
    Failed(String),
}

/// One run.
async fn once(shared: &Arc<Shared>, hold: &Hold, singleton: Singleton, run: &Arc<Run>) -> Ended {
    let token = singleton.token;
    tracing::info!(name = singleton.name(), token = token.0, "a singleton starts");
    let (run, counted) = (run.clone(), Counted::begin(shared));
    let guest = Guest::enter(shared, hold.shard());
    if !hold.is_held(token) {
        return Ended::Lost;
    }
    let mut task = tokio::spawn(async move {
        let _until_the_end = (counted, guest);
        let ran = AssertUnwindSafe(async move { run(singleton).await }).catch_unwind().await;
        match ran {
            Ok(Ok(())) => Ended::Done,
            Ok(Err(error)) => Ended::Failed(error.to_string()),
            Err(panic) => Ended::Failed(panic_text(panic.as_ref())),
        }
    });
    let _ends_with_this = AbortOnDrop::new(&task);
    tokio::select! {
        biased;
        () = hold.lost(token) => {
            task.abort();
            // It ends at its next `await`; the node that gets the shard starts it anew after that.
            let _ = task.await;
            Ended::Lost
        }
        ended = &mut task => ended.unwrap_or_else(|error| Ended::Failed(error.to_string())),
        // It hears of it, too, and has the time of the shutdown to finish.
        () = shared.closing() => {
            let _ = task.await;
            Ended::Closing
        }
    }
}

/// Counts as work of the node while it lives, so that a shutdown waits for it.
struct Counted(Arc<Shared>);

impl Counted {
    fn begin(shared: &Arc<Shared>) -> Self {
        shared.enter();
        Self(shared.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_spread_evenly_and_stay_where_they_are() {
        for shards in [1, 3, 12, 256] {
            let mut counts = vec![0; usize::from(shards)];
            for index in 0..5 * usize::from(shards) {
                counts[usize::from(spread("mailer", index, shards).unwrap().0)] += 1;
            }
            assert!(counts.iter().all(|count| *count == 5), "{shards}: {counts:?}");
        }
        let first = |name| (0..4).map(|k| spread(name, k, 12).unwrap().0).collect::<Vec<_>>();
        assert_ne!(first("mailer"), first("biller"), "names begin at different shards");
    }
}
