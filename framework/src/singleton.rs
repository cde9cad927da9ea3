//! Singletons: tasks of which one runs in the whole cluster.
//!
//! A singleton belongs to a shard, as an entity does: its name says to which. The node that owns the
//! shard runs it, and stops it when it does not own the shard any more. Its fencing token is the epoch
//! under which the shard is owned, so a later run of it, on whatever node, has one that is as high or
//! higher.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Weak},
    time::Duration,
};

use duractor_journal::{EntityId, Term};
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

type Run = dyn Fn(Singleton) -> BoxFuture<'static, Result<(), SideError>> + Send + Sync;

/// A singleton that is to run: see [`NodeBuilder::singleton`](crate::NodeBuilder::singleton).
#[derive(Clone)]
pub(crate) struct Plan {
    id: EntityId,
    run: Arc<Run>,
}

impl Plan {
    pub(crate) fn new<F>(
        name: &str,
        run: impl Fn(Singleton) -> F + Send + Sync + 'static,
    ) -> Result<Self, NodeError>
    where
        F: Future<Output = Result<(), SideError>> + Send + 'static,
    {
        let run: Arc<Run> = Arc::new(move |singleton| run(singleton).boxed());
        Ok(Self { id: EntityId::new(KIND, name)?, run })
    }

    pub(crate) fn name(&self) -> &str {
        self.id.key()
    }
}

/// A run of a singleton on this node, while the node owns the singleton's shard.
#[derive(Clone)]
pub struct Singleton {
    id: EntityId,
    token: Term,
    shared: Weak<Shared>,
    kinds: Weak<Kinds>,
}

impl Singleton {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.id.key()
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
            hold(&shared, &self.id).is_some_and(|hold| hold.is_held(self.token))
        })
    }

    /// Waits until the node shuts down: the time to finish. Where the shard is lost, the task is
    /// dropped at its next `await`, and nothing is waited for.
    pub async fn ending(&self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.closing().await;
        }
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
fn hold<'a>(shared: &'a Shared, id: &EntityId) -> Option<&'a Hold> {
    shared.shard(id.shard(shared.journal.shards())).map(|shard| &shard.hold)
}

/// Runs a singleton whenever this node owns its shard, until the node shuts down.
pub(crate) async fn keep(shared: Arc<Shared>, plan: Plan) {
    let mut wait = RESTART_MIN;
    let Some(hold) = hold(&shared, &plan.id) else { return };
    loop {
        let token = tokio::select! {
            biased;
            () = shared.closing() => return,
            token = hold.held() => token,
        };
        let began = Instant::now();
        let ended = once(&shared, hold, &plan, token).await;
        let name = plan.name();
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
async fn once(shared: &Arc<Shared>, hold: &Hold, plan: &Plan, token: Term) -> Ended {
    let (id, kinds) = (plan.id.clone(), shared.kinds.get().cloned().unwrap_or_default());
    let singleton = Singleton { id, token, shared: Arc::downgrade(shared), kinds };
    tracing::info!(name = plan.name(), token = token.0, "a singleton starts");
    let (run, counted) = (plan.run.clone(), Counted::begin(shared));
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
