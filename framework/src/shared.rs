//! What all entities of a node share: its journal, its snapshot store, its limits and its status.

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use duractor_journal::{
    EntityId, Env, Journal, JournalError, Limits, Member, ShardId, Term, Timestamp,
};
use duractor_snapshot::SnapshotStore;
use futures_util::future::BoxFuture;
use ractor::{ActorCell, ActorRef};
use tokio::{
    sync::{Notify, Semaphore, mpsc, oneshot},
    time::Instant,
};

use crate::{
    cluster::Tenant,
    context::Kinds,
    delivery::Away,
    error::{AskError, has_stopped},
    hold::{Hold, Tenure},
    intent::{Options, Tell},
    ledger::Ledger,
    load::Load,
    replica::Replicas,
    route::{Arrived, Host, Router},
    step::RawStep,
    task::until,
};

/// How long commands wait for the claim of a shard that this node leads.
pub(crate) const CLAIM: Duration = Duration::from_secs(2);

/// The error for those that waited so long.
pub(crate) fn not_claimed(shard: ShardId) -> AskError {
    let reason = format!("this node leads it and could not claim it within {CLAIM:?}");
    AskError::Unavailable { shard, reason }
}

/// What a shard's actor is told.
pub(crate) enum ShardMessage {
    /// Spawn the actor of this entity.
    Start(Arc<dyn Startable>),
}

// Local only: never sent to another node.
impl ractor::Message for ShardMessage {}

/// An entity as its shard's actor sees it: something to spawn and to hear of again when its actor
/// ended.
pub(crate) trait Startable: Send + Sync {
    /// Spawns the actor, linked to its shard's. Does not wait for recovery.
    fn spawn(self: Arc<Self>, shard: ActorCell) -> BoxFuture<'static, Option<Spawned>>;

    /// The actor of this generation ended. `failure` is why, if it was not meant to.
    fn ended(self: Arc<Self>, generation: u32, failure: String);
}

/// A kind of entity as the node's actor sees it.
pub(crate) trait AnyKind: Send + Sync {
    /// The kind's name.
    fn name(&self) -> &'static str;

    /// How many entities are in memory.
    fn active(&self) -> usize;

    /// Takes a command that another node's caller sent.
    fn arrived(self: Arc<Self>, arrived: Arrived);

    /// So many of the shard's entities that were used most of late, with how much, the hottest first.
    fn hottest(&self, shard: ShardId, now: u64, n: usize) -> Vec<(u64, EntityId)>;

    /// Reads an entity's state, so that it starts soon when the shard comes to this node.
    fn make_ready(self: Arc<Self>, id: EntityId) -> BoxFuture<'static, ()>;

    /// Brings an entity into memory, where it looks for what it has to do.
    fn wake(self: Arc<Self>, id: &EntityId, tell: Tell);

    /// Takes a step of a transaction for an entity.
    fn step(self: Arc<Self>, entity: EntityId, step: RawStep, options: Options, reply: Away);

    /// Makes entities leave memory that were idle for too long, or are too many. `now` is in
    /// milliseconds of [`Shared::millis`].
    fn sweep(&self, now: u64);

    /// Makes every entity finish, or refuse what it has not begun, and leave memory.
    fn close_all(&self, refuse: bool);

    /// Makes every entity of a shard look at whether it may go on. What they have not begun is
    /// refused with `refuse`, where that is given, or is left to their next incarnations.
    fn evict(&self, shard: ShardId, refuse: Option<&AskError>);
}

/// Hears whether an entity is on the agenda.
pub(crate) type Entered = Box<dyn FnOnce(Result<(), AskError>) + Send>;

/// Which entities of the shards that this node owns have something to do without being called. What
/// `work` is only its entity knows.
pub(crate) trait Diary: Send + Sync {
    /// Sees to it, in the journal, that whoever owns the shard wakes the entity at `due` or earlier, or
    /// starts it at once.
    fn enter(
        &self,
        entity: &EntityId,
        shard: ShardId,
        due: Option<Timestamp>,
        remember: bool,
        done: Entered,
    );

    /// The entity is entered for that time, or an earlier one.
    fn note(&self, entity: &EntityId, shard: ShardId, due: Timestamp);

    /// The next thing that an entity, which is entered, has to do is then.
    fn plan(&self, entity: &EntityId, shard: ShardId, due: Timestamp);

    /// The entity is to be woken after that, whatever else.
    fn again(&self, entity: &EntityId, shard: ShardId, after: Duration);

    /// The entity need not be woken before `due`, or not at all.
    fn leave(&self, entity: &EntityId, shard: ShardId, due: Option<Timestamp>, forget: bool);

    /// It failed on a piece of work once more. Returns how often that was on this node.
    fn crashed(&self, entity: &EntityId, shard: ShardId, work: (u8, u64)) -> u32;

    /// How often it failed on it.
    fn crashes(&self, entity: &EntityId, shard: ShardId, work: (u8, u64)) -> u32;
}

/// An actor that was spawned.
pub(crate) struct Spawned {
    pub(crate) actor: ractor::ActorId,
    pub(crate) generation: u32,
}

/// A shard's actor and this node's part in the shard.
pub(crate) struct Shard {
    pub(crate) actor: ActorRef<ShardMessage>,
    pub(crate) hold: Hold,
}

/// What the node's follower of the shards' owners is told.
pub(crate) enum Told {
    /// An owner found out that its epoch is not in force: the shard is to be claimed anew under this
    /// leadership.
    Fenced { shard: ShardId, term: Term, epoch: Term },
    /// The shard is about to go to another node: what it runs here is to stop. `done` hears when it has.
    HandOver { shard: ShardId, to: Member, done: oneshot::Sender<()> },
    /// That is over, whatever came of it.
    HandedOver { shard: ShardId },
}

/// Something that runs because this node owns a shard.
pub(crate) struct Guest {
    shared: Arc<Shared>,
    shard: ShardId,
}

impl Guest {
    /// Counts until it is dropped.
    pub(crate) fn enter(shared: &Arc<Shared>, shard: ShardId) -> Self {
        if let Some(Shard { hold, .. }) = shared.shard(shard) {
            hold.enter();
        }
        Self { shared: shared.clone(), shard }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(Shard { hold, .. }) = self.shared.shard(self.shard) {
            hold.leave();
        }
    }
}

/// How a node is: it only ever goes to a later one.
#[derive(Debug, Default)]
struct Status {
    /// Shutting down.
    closing: OnceLock<()>,
    /// The journal stopped for good, and why.
    failed: OnceLock<Arc<str>>,
}

/// One node's parts.
pub(crate) struct Shared {
    pub(crate) env: Env,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) snapshots: Arc<dyn SnapshotStore>,
    /// The snapshot stores of other nodes, where there are any.
    pub(crate) replicas: Option<Arc<Replicas>>,
    /// The way to entities of other nodes, where there are any.
    pub(crate) router: Option<Arc<Router>>,
    pub(crate) limits: Limits,
    /// Recoveries that may run at once.
    pub(crate) permits: Arc<Semaphore>,
    /// Commands that may be open on the node at once.
    pub(crate) max_open: u64,
    pub(crate) ledger: Ledger,
    /// How much is asked of the shards.
    pub(crate) load: Arc<Load>,
    /// Instants are counted from here, to keep them small.
    pub(crate) start: Instant,
    pub(crate) shards: OnceLock<Vec<Shard>>,
    /// The node's follower of the shards' owners.
    pub(crate) follower: OnceLock<mpsc::UnboundedSender<Told>>,
    pub(crate) kinds: OnceLock<Weak<Kinds>>,
    /// Where commands arrive that come as bytes.
    pub(crate) host: OnceLock<Arc<dyn Host>>,
    /// Who is to be woken.
    pub(crate) diary: OnceLock<Arc<dyn Diary>>,
    /// What the cluster asks, as long as the node runs.
    pub(crate) tenant: OnceLock<Arc<dyn Tenant>>,
    status: Status,
    /// Entities in memory and tasks that work for them.
    busy: AtomicUsize,
    /// Woken when `busy` falls to 0.
    quiet: Notify,
    /// Woken when the node takes no more commands.
    closed: Notify,
    /// Woken once: when the node fails, or is down.
    pub(crate) failing: Notify,
}

impl Shared {
    pub(crate) fn new(
        env: Env,
        journal: Arc<dyn Journal>,
        snapshots: Arc<dyn SnapshotStore>,
        (replicas, router): (Option<Arc<Replicas>>, Option<Arc<Router>>),
        recoveries: usize,
        max_open: u64,
    ) -> Arc<Self> {
        let limits = journal.limits();
        let load = Arc::new(Load::new(journal.shards()));
        Arc::new(Self {
            load,
            env,
            journal,
            snapshots,
            replicas,
            router,
            limits,
            permits: Arc::new(Semaphore::new(recoveries.max(1))),
            max_open,
            ledger: Ledger::default(),
            start: Instant::now(),
            shards: OnceLock::new(),
            follower: OnceLock::new(),
            kinds: OnceLock::new(),
            host: OnceLock::new(),
            diary: OnceLock::new(),
            tenant: OnceLock::new(),
            status: Status::default(),
            busy: AtomicUsize::new(0),
            quiet: Notify::new(),
            closed: Notify::new(),
            failing: Notify::new(),
        })
    }

    /// A shard. `None` before the node has started.
    pub(crate) fn shard(&self, ShardId(shard): ShardId) -> Option<&Shard> {
        self.shards.get()?.get(usize::from(shard))
    }

    /// Milliseconds since the node started.
    pub(crate) fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_millis() as u64
    }

    /// Whether the node takes commands.
    pub(crate) fn check_open(&self) -> Result<(), AskError> {
        match self.refusal() {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    /// Why the node takes no commands; `None` where it does.
    pub(crate) fn refusal(&self) -> Option<AskError> {
        if let Some(cause) = self.status.failed.get() {
            return Some(AskError::NodeFailed { cause: cause.clone() });
        }
        self.status.closing.get().map(|()| AskError::ShuttingDown)
    }

    /// Takes no more commands. False where that was so already.
    pub(crate) fn close(&self) -> bool {
        let first = self.status.closing.set(()).is_ok();
        self.closed.notify_waiters();
        first
    }

    /// Waits until the node takes no more commands.
    pub(crate) async fn closing(&self) {
        until(&self.closed, || self.refusal().map(drop)).await;
    }

    /// The journal stopped for good: take no more commands, and tell the node's actor.
    pub(crate) fn fail(&self, cause: &str) {
        // A journal that is closed because the node shuts down has not failed.
        if self.status.closing.get().is_none() && self.status.failed.set(cause.into()).is_ok() {
            tracing::error!(cause, "the journal stopped for good, and so does the node");
            self.closed.notify_waiters();
            self.failing.notify_one();
        }
    }

    /// Waits until reads on this node see everything that was committed to a shard that it owns.
    pub(crate) async fn confirm(&self, shard: ShardId) -> Result<(), AskError> {
        let Some(Shard { hold, .. }) = self.shard(shard) else {
            return Err(AskError::ShuttingDown);
        };
        let Ok(tenure) = tokio::time::timeout(CLAIM, hold.tenure()).await else {
            return Err(not_claimed(shard));
        };
        let Tenure { epoch, for_ever } = tenure?;
        if for_ever {
            return Ok(());
        }
        let confirmed = self.journal.confirm(shard, epoch).await;
        confirmed.inspect_err(|error| self.refused(error)).map_err(AskError::journal)
    }

    /// Looks at what the journal refused: is it that it has stopped for good, or that another owner
    /// was installed?
    pub(crate) fn refused(&self, error: &JournalError) {
        if has_stopped(error) {
            return self.fail(&error.to_string());
        }
        let &JournalError::StaleEpoch { shard, stale, .. } = error else { return };
        let Some(Shard { hold, .. }) = self.shard(shard) else { return };
        match hold.fenced(stale) {
            // Nobody but another node on the same journal can have done that.
            Err(()) => self.fail(&error.to_string()),
            Ok(None) => {}
            Ok(Some(term)) => {
                tracing::warn!(%shard, %stale, "another owner was installed");
                self.tell_follower(Told::Fenced { shard, term, epoch: stale });
            }
        }
    }

    pub(crate) fn tell_follower(&self, told: Told) {
        if let Some(follower) = self.follower.get() {
            // It fails only where the node is down.
            let _ = follower.send(told);
        }
    }

    /// One entity or task more to wait for at shutdown.
    pub(crate) fn enter(&self) {
        self.busy.fetch_add(1, SeqCst);
    }

    /// One less.
    pub(crate) fn leave(&self) {
        if self.busy.fetch_sub(1, SeqCst) == 1 {
            self.quiet.notify_waiters();
        }
    }

    /// Waits until no entity is in memory and no task works for one. False where that took longer
    /// than `limit`.
    pub(crate) async fn quiet(&self, limit: Duration) -> bool {
        let quiet = until(&self.quiet, || (self.busy.load(SeqCst) == 0).then_some(()));
        tokio::time::timeout(limit, quiet).await.is_ok()
    }
}
