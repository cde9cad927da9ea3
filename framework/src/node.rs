//! A node: the journal, the snapshot store and the entities of one process.

use std::{
    any::TypeId,
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use duractor_journal::{
    Env, Journal, LogConfig, LogJournal, Member, ShardId, Transport,
    id::{DEFAULT_SHARDS, MAX_SHARDS, check_kind},
};
use duractor_snapshot::{RedbSnapshots, SnapshotOptions, SnapshotStore};

use crate::{
    cluster::{Cluster, Tenant},
    codec::check_schemas,
    context::Kinds,
    entity::{CommandSet, EventSourced},
    entity_ref::{EntityRef, find_kind},
    error::{AskError, NodeError},
    event::Event,
    follow::{AllKinds, Follower},
    hold::Hold,
    intent::SideError,
    ledger::LedgerCounts,
    replica::{Replicas, Voters},
    route::{Arrived, Host, Router},
    shard::{Root, RootMessage, actor_error, start_root, start_shard},
    shared::{AnyKind, Shard, Shared},
    singleton::{Plan, Singleton, keep},
    slot::Kind,
    task::AbortOnDrop,
    tenant::Entities,
};

/// How often a node looks for idle entities: this often, or more often where an idle timeout is
/// short.
const SWEEP: Duration = Duration::from_secs(1);

/// A running node. Cheap to clone; all clones are the same node.
///
/// Call [`shutdown`](Node::shutdown) before the process ends: it finishes what was accepted. A
/// process that dies without it loses nothing that was acknowledged. Dropping a node does not stop
/// it.
#[derive(Clone)]
pub struct Node {
    shared: Arc<Shared>,
    kinds: Arc<Kinds>,
    all: AllKinds,
    root: Root,
    cluster: Option<Cluster>,
    shutdown_timeout: Duration,
}

impl Node {
    /// Sets up a node whose files are in `dir`.
    pub fn builder(dir: impl Into<PathBuf>) -> NodeBuilder {
        NodeBuilder {
            dir: dir.into(),
            env: Env::production(),
            journal: None,
            snapshots: None,
            replicas: None,
            cluster: None,
            shards: DEFAULT_SHARDS,
            recoveries: 50,
            max_open: 1 << 18,
            shutdown_timeout: Duration::from_secs(30),
            kinds: Vec::new(),
            singletons: Vec::new(),
        }
    }

    /// The entity of a kind with this key. It need not exist: one without events is in the default
    /// state.
    ///
    /// # Errors
    /// [`NodeError::NotRegistered`], [`NodeError::InvalidId`].
    pub fn entity<E: EventSourced>(&self, key: &str) -> Result<EntityRef<E>, NodeError> {
        EntityRef::find(&self.kinds, key)
    }

    /// Ends an entity's quarantine: the next command recovers it anew. For use once the cause is
    /// mended, as when the events were repaired from elsewhere. False where it is not quarantined.
    ///
    /// # Errors
    /// As [`entity`](Self::entity).
    pub fn release<E: EventSourced>(&self, key: &str) -> Result<bool, NodeError> {
        let entity = self.entity::<E>(key)?;
        let kind = find_kind::<E>(&self.kinds)?;
        Ok(kind.find(entity.id()).is_some_and(|slot| slot.release()))
    }

    /// What became of the commands so far.
    #[must_use]
    pub fn ledger(&self) -> LedgerCounts {
        self.shared.ledger.counts()
    }

    /// How many entities of a kind are in memory.
    ///
    /// # Errors
    /// [`NodeError::NotRegistered`].
    pub fn active<E: EventSourced>(&self) -> Result<usize, NodeError> {
        Ok(find_kind::<E>(&self.kinds)?.active())
    }

    /// In a cluster, hands this node's leaderships to others first, within `cluster.hand_over_ms`, so that
    /// its shards are served on at once. Takes no more commands, answers every accepted one, saves the snapshots that are due, stops
    /// the entities and closes journal and snapshot store. Commands that are not done within the
    /// builder's `shutdown_timeout` are refused. Returns when all that is done, also where another
    /// call did it.
    pub async fn shutdown(&self) {
        if let Some(cluster) = self.cluster.as_ref().filter(|_| self.shared.refusal().is_none()) {
            cluster.step_down_as_configured().await;
        }
        if self.shared.close() {
            tracing::info!("the node is shutting down");
        }
        self.close_all(false);
        if !self.shared.quiet(self.shutdown_timeout).await {
            tracing::warn!("the node was not quiet in time: what is left is refused");
            self.close_all(true);
        }
        // Ends the entities that are left; they answer their callers on the way.
        let _ = self.root.stop_and_wait(None, None).await;
        self.shared.journal.shutdown().await;
        self.shared.snapshots.shutdown().await;
        tracing::info!(ledger = ?self.ledger(), "the node is shut down");
    }

    /// The cluster asks this node's entities before it changes a group that is led here.
    fn occupy(&mut self, cluster: &Cluster) {
        cluster.measure(Arc::downgrade(&self.shared.load));
        self.cluster = Some(cluster.clone());
        let tenant: Arc<dyn Tenant> = Arc::new(Entities(Arc::downgrade(&self.shared)));
        cluster.occupy(Arc::downgrade(&tenant));
        // It is set here alone.
        let _ = self.shared.tenant.set(tenant);
    }

    fn run_singletons(self, plans: Vec<Plan>) -> Result<Self, NodeError> {
        for plan in plans {
            let task = tokio::spawn(keep(self.shared.clone(), plan));
            self.root.cast(RootMessage::Keep(AbortOnDrop::new(&task))).map_err(actor_error)?;
        }
        Ok(self)
    }

    /// Ends the node at once and finishes nothing, as if the process died: for tests. Callers that
    /// wait hear [`AskError::Lost`](crate::AskError::Lost) or
    /// [`AskError::ShuttingDown`](crate::AskError::ShuttingDown). The journal and the snapshot store
    /// stay open.
    pub async fn kill(&self) {
        self.shared.close();
        let _ = self.root.kill_and_wait(None).await;
        self.close_all(true);
    }

    fn close_all(&self, refuse: bool) {
        for kind in self.all.iter() {
            kind.close_all(refuse);
        }
    }
}

type Registration = Box<dyn FnOnce(&Arc<Shared>) -> Registered + Send + Sync>;

/// A kind twice: to look it up with its type, and to tell it what all kinds are told.
struct Registered {
    typed: Arc<dyn std::any::Any + Send + Sync>,
    any: Arc<dyn AnyKind>,
    idle_timeout: Duration,
}

struct Entry {
    kind: &'static str,
    id: TypeId,
    check: fn() -> Result<(), NodeError>,
    register: Registration,
}

/// Sets up a node: made by [`Node::builder`], turned into a node by [`start`](NodeBuilder::start).
#[must_use = "a node runs from `start` on"]
pub struct NodeBuilder {
    dir: PathBuf,
    env: Env,
    journal: Option<Arc<dyn Journal>>,
    snapshots: Option<Arc<dyn SnapshotStore>>,
    replicas: Option<(Arc<dyn Transport>, Voters)>,
    cluster: Option<Cluster>,
    shards: u16,
    recoveries: usize,
    max_open: u64,
    shutdown_timeout: Duration,
    kinds: Vec<Entry>,
    singletons: Vec<Result<Plan, NodeError>>,
}

impl NodeBuilder {
    /// Adds a kind of entity.
    pub fn register<E: EventSourced>(self, entity: E) -> Self {
        self.register_arc(Arc::new(entity))
    }

    pub(crate) fn register_arc<E: EventSourced>(mut self, entity: Arc<E>) -> Self {
        let register: Registration = Box::new(move |shared| {
            let kind = Kind::new(entity, shared.clone());
            let idle_timeout = kind.settings().idle_timeout;
            Registered { typed: kind.clone(), any: kind, idle_timeout }
        });
        let (kind, id) = (E::KIND, TypeId::of::<E>());
        self.kinds.push(Entry { kind, id, check: check::<E>, register });
        self
    }

    /// Adds a singleton: a task of which one runs in the whole cluster, on whichever node owns the shard
    /// that its name belongs to, so that singletons spread over the nodes. Register it on every node
    /// that may run it. On one node it simply runs.
    ///
    /// It is meant to run for as long as the node does: one that returns, fails or panics is started
    /// again after 100 ms, doubling up to 10 s. When the node shuts down,
    /// [`Singleton::ending`](crate::Singleton::ending) tells it, and the shutdown waits for it. When its shard goes to
    /// another node it is dropped at its next `await`.
    ///
    /// No two nodes run it at once as long as clocks run at one rate and no process stands still: a
    /// leader that hears of no quorum stops within its lease, before another one can be elected. What
    /// must hold without that condition needs [`Singleton::token`](crate::Singleton::token).
    ///
    /// ```
    /// # use duractor::{Node, Singleton};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// let node = Node::builder(dir.path())
    ///     .singleton("nightly-report", async |singleton: Singleton| {
    ///         println!("{} runs here, with token {}", singleton.name(), singleton.token());
    ///         singleton.ending().await;
    ///         Ok(())
    ///     })
    ///     .start()
    ///     .await?;
    /// node.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn singleton<F>(
        mut self,
        name: &str,
        run: impl Fn(Singleton) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), SideError>> + Send + 'static,
    {
        self.singletons.push(Plan::new(name, run));
        self
    }

    /// The seams to the outside world: time, entropy, files. The real ones unless set.
    pub fn env(self, env: Env) -> Self {
        Self { env, ..self }
    }

    /// The journal. The one in the node's folder unless set.
    pub fn journal(self, journal: Arc<dyn Journal>) -> Self {
        Self { journal: Some(journal), ..self }
    }

    /// The snapshot store. The one in the node's folder unless set.
    pub fn snapshots(self, snapshots: Arc<dyn SnapshotStore>) -> Self {
        Self { snapshots: Some(snapshots), ..self }
    }

    /// That the journal is replicated: how to reach the other nodes, and who votes in a shard's group
    /// now. Snapshots follow to them, and events are deleted only where a quorum does without. Without
    /// it the node takes itself for the only one.
    pub fn replicas(
        self,
        transport: Arc<dyn Transport>,
        voters: impl Fn(ShardId) -> BTreeSet<Member> + Send + Sync + 'static,
    ) -> Self {
        Self { replicas: Some((transport, Arc::new(voters))), ..self }
    }

    /// Makes the node one of a cluster's: its journal is the cluster's, and snapshots follow to the
    /// other nodes. The cluster is shut down after the node.
    pub fn cluster(self, cluster: &Cluster) -> Self {
        let groups = cluster.groups();
        let builder = Self { cluster: Some(cluster.clone()), ..self };
        builder
            .journal(cluster.journal())
            .replicas(cluster.transport(), move |shard| groups.group(shard).voters)
    }

    /// How many shards the key space is cut into: 1 to 256, fixed when the folder is first used. 12
    /// unless set.
    pub fn shards(self, shards: u16) -> Self {
        Self { shards: shards.clamp(1, MAX_SHARDS), ..self }
    }

    /// How many entities recover at once. 50 unless set.
    pub fn recoveries(self, recoveries: usize) -> Self {
        Self { recoveries, ..self }
    }

    /// How many commands may be accepted and unanswered on the node; beyond it,
    /// [`AskError::NodeBusy`](crate::AskError::NodeBusy). 262 144 unless set.
    pub fn max_open(self, commands: u64) -> Self {
        Self { max_open: commands, ..self }
    }

    /// How long [`Node::shutdown`] waits for what was accepted. 30 seconds unless set.
    pub fn shutdown_timeout(self, shutdown_timeout: Duration) -> Self {
        Self { shutdown_timeout, ..self }
    }

    /// Opens the folder, claims the shards that this node leads (on one node: all) and takes
    /// commands for them.
    ///
    /// # Errors
    /// [`NodeError`] says what is wrong with the kinds or the folder.
    pub async fn start(self) -> Result<Node, NodeError> {
        let mut names: Vec<_> = self.kinds.iter().map(|entry| entry.kind).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(NodeError::DuplicateKind { kind: twice[0] });
        }
        self.kinds.iter().try_for_each(|entry| (entry.check)())?;
        let singletons = self.singletons.iter().cloned().collect::<Result<Vec<_>, _>>()?;
        let mut names: Vec<_> = singletons.iter().map(|plan| plan.name().to_owned()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(NodeError::DuplicateSingleton { name: twice[0].clone() });
        }

        let (journal, snapshots) = self.stores().await?;
        let (away, listening) = match self.replicas {
            None => ((None, None), None),
            Some((transport, voters)) => {
                let router = Router::start(transport.clone(), journal.shards(), &self.env);
                let (replicas, task) = Replicas::start(
                    transport,
                    voters,
                    journal.clone(),
                    snapshots.clone(),
                    &self.env,
                );
                ((Some(replicas), Some(router)), Some(task))
            }
        };
        let shared = Shared::new(
            self.env,
            journal.clone(),
            snapshots.clone(),
            away,
            self.recoveries,
            self.max_open,
        );
        let mut started = assemble(shared, self.kinds, self.shutdown_timeout, listening).await;
        if let (Ok(node), Some(cluster)) = (&mut started, &self.cluster) {
            node.occupy(cluster);
        }
        let started = started.and_then(|node| node.run_singletons(singletons));
        if started.is_err() {
            // Whoever tries again must find the folder free.
            journal.shutdown().await;
            snapshots.shutdown().await;
        }
        started
    }

    async fn stores(&self) -> Result<(Arc<dyn Journal>, Arc<dyn SnapshotStore>), NodeError> {
        tracing::debug!(dir = %self.dir.display(), "opening");
        let journal: Arc<dyn Journal> = match &self.journal {
            Some(journal) => journal.clone(),
            None => {
                let mut config = LogConfig::new(self.dir.join("log"));
                config.shards = self.shards;
                LogJournal::open(config, self.env.clone()).await?
            }
        };
        let snapshots: Arc<dyn SnapshotStore> = match &self.snapshots {
            Some(snapshots) => snapshots.clone(),
            None => {
                let path = self.dir.join("snapshots.redb");
                let opened =
                    RedbSnapshots::open(path, SnapshotOptions::default(), self.env.clone()).await;
                match opened {
                    Ok(snapshots) => snapshots,
                    Err(error) => {
                        journal.shutdown().await;
                        return Err(error.into());
                    }
                }
            }
        };
        Ok((journal, snapshots))
    }
}

/// Starts the actors over open stores, and claims the shards that are this node's.
async fn assemble(
    shared: Arc<Shared>,
    entries: Vec<Entry>,
    shutdown_timeout: Duration,
    listening: Option<AbortOnDrop>,
) -> Result<Node, NodeError> {
    let mut kinds: Kinds = HashMap::new();
    let mut all = Vec::new();
    let mut sweep = SWEEP;
    for entry in entries {
        let Registered { typed, any, idle_timeout } = (entry.register)(&shared);
        kinds.insert(entry.id, typed);
        all.push(any);
        sweep = sweep.min(idle_timeout / 4).max(Duration::from_millis(10));
    }
    let (kinds, all) = (Arc::new(kinds), Arc::new(all));
    let root = start_root(shared.clone(), all.clone(), sweep).await?;
    let follower = match follow(&shared, &root, &all).await {
        Ok(follower) => follower,
        Err(error) => {
            let _ = root.stop_and_wait(None, None).await;
            shared.failing.notify_one();
            return Err(error);
        }
    };
    // It is set here alone.
    let _ = shared.kinds.set(Arc::downgrade(&kinds));
    if let Some(router) = &shared.router {
        router.host(Arc::new(Desk(Arc::downgrade(&all))));
    }
    let following = AbortOnDrop::new(&tokio::spawn(follower.run()));
    for task in [Some(following), listening].into_iter().flatten() {
        root.cast(RootMessage::Keep(task)).map_err(actor_error)?;
    }
    tracing::info!(shards = shared.journal.shards(), kinds = all.len(), "the node is up");
    Ok(Node { shared, kinds, all, root, cluster: None, shutdown_timeout })
}

/// Where commands of other nodes' callers arrive.
struct Desk(Weak<Vec<Arc<dyn AnyKind>>>);

impl Host for Desk {
    fn arrived(&self, arrived: Arrived) {
        let Some(kinds) = self.0.upgrade() else {
            return arrived.reply.send(Err(AskError::ShuttingDown));
        };
        match kinds.iter().find(|kind| kind.name() == arrived.entity.kind()) {
            Some(kind) => kind.clone().arrived(arrived),
            None => {
                let (kind, command) = (arrived.entity.kind().to_owned(), arrived.command);
                arrived.reply.send(Err(AskError::UnknownCommand { kind, command }));
            }
        }
    }
}

/// Starts the shards' actors, and claims the shards that are this node's.
async fn follow(
    shared: &Arc<Shared>,
    root: &Root,
    kinds: &AllKinds,
) -> Result<Follower, NodeError> {
    let mut shards = Vec::new();
    for shard in 0..shared.journal.shards() {
        let hold = Hold::new(ShardId(shard));
        shards.push(Shard { actor: start_shard(root).await?, hold });
    }
    // They are set here alone.
    let _ = shared.shards.set(shards);
    Ok(Follower::start(shared.clone(), kinds.clone()).await?)
}

/// Checks the names of a kind, its events and its commands.
fn check<E: EventSourced>() -> Result<(), NodeError> {
    let kind = E::KIND;
    check_kind(kind)?;
    let schemas = |what, error| NodeError::Schemas { kind, what, error };
    check_schemas(E::Event::schemas()).map_err(|error| schemas("events", error))?;
    check_schemas(&E::Commands::schemas()).map_err(|error| schemas("commands", error))
}
