//! A node: the journal, the snapshot store and the entities of one process.

use std::{
    any::TypeId,
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use duractor_journal::{
    EntityId, Env, Journal, LogConfig, LogJournal, Member, ShardId, Transport,
    id::{DEFAULT_SHARDS, MAX_SHARDS, check_kind},
};
use duractor_snapshot::{RedbSnapshots, SnapshotOptions, SnapshotStore};

use futures_util::future::{BoxFuture, join_all};

use crate::{
    agenda::{Agenda, Agendas, keep as keep_agenda, nothing_in},
    cluster::{Cluster, Tenant},
    codec::{Schema, SchemaError, check_schemas},
    command::Command,
    context::Kinds,
    coordination::{
        Barrier, Barriers, CoordinationError, Leases, Lock, Locks, Permits, Semaphore, Semaphores,
        Session, SessionOptions, Sessions, Warden,
    },
    coordinator::Coordinator,
    entity::{CommandSet, EventSourced},
    entity_ref::{EntityRef, find_kind},
    error::{AskError, NodeError},
    event::Event,
    follow::{AllKinds, Follower},
    hold::Hold,
    intent::SideError,
    leader::{Forward, Handlers, Leader, Leadership, Setup},
    ledger::LedgerCounts,
    meta::is_reserved,
    replica::{Replicas, Voters},
    route::{Arrived, Host, Router},
    shard::{Root, RootMessage, actor_error, start_root, start_shard},
    shared::{AnyKind, Shard, Shared},
    singleton::{Plan, Singleton, keep_all},
    slot::Kind,
    step::DoTogether,
    task::AbortOnDrop,
    tenant::Entities,
    transact::{Transaction, local},
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
    sessions: Arc<Sessions>,
    session: SessionOptions,
    leader: Leader,
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
            quiet: false,
            kinds: Vec::new(),
            singletons: Vec::new(),
            session: SessionOptions::default(),
            handlers: Vec::new(),
            forward: None,
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

    /// The node's own session, which [`lock`](Self::lock) and the like use. Its lease and its label are
    /// those of [`NodeBuilder::session`].
    #[must_use]
    pub fn session(&self) -> &Session {
        self.sessions.own(&self.shared, &self.kinds, &self.session)
    }

    /// Opens another session: with a lease of its own, and which ends by itself.
    #[must_use]
    pub fn open_session(&self, options: SessionOptions) -> Session {
        self.sessions.open(&self.shared, &self.kinds, options)
    }

    /// The lock of this name, for the node's own session.
    ///
    /// # Errors
    /// As [`Session::lock`].
    pub fn lock(&self, name: &str) -> Result<Lock, CoordinationError> {
        self.session().lock(name)
    }

    /// The semaphore of this name with so many permits, for the node's own session.
    ///
    /// # Errors
    /// As [`Session::semaphore`].
    pub fn semaphore(&self, name: &str, permits: u32) -> Result<Semaphore, CoordinationError> {
        self.session().semaphore(name, permits)
    }

    /// The barrier of this name for so many parties, for the node's own session.
    ///
    /// # Errors
    /// As [`Session::barrier`].
    pub fn barrier(&self, name: &str, parties: u32) -> Result<Barrier, CoordinationError> {
        self.session().barrier(name, parties)
    }

    /// The cluster's leader: who it is, and what only it does.
    #[must_use]
    pub fn leader(&self) -> &Leader {
        &self.leader
    }

    /// Commands on several entities, of which all are carried out or none: see [`Transaction`].
    pub fn transaction(&self) -> Transaction {
        Transaction::new(self.shared.clone())
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
        if self.shared.check_open().is_ok() {
            self.sessions.settle().await;
            if let Some(cluster) = &self.cluster {
                cluster.step_down_as_configured().await;
            }
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
        let (shared, kinds) = (Arc::downgrade(&self.shared), Arc::downgrade(&self.all));
        let tenant: Arc<dyn Tenant> = Arc::new(Entities { shared, kinds });
        cluster.occupy(Arc::downgrade(&tenant));
        // It is set here alone.
        let _ = self.shared.tenant.set(tenant);
    }

    fn run_singletons(self, plans: Vec<Plan>) -> Result<Self, NodeError> {
        for plan in plans {
            for task in keep_all(&self.shared, &plan)? {
                self.root.cast(RootMessage::Keep(task)).map_err(actor_error)?;
            }
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
    /// Whether entities do nothing without being called: for a node that only looks.
    quiet: bool,
    kinds: Vec<Entry>,
    singletons: Vec<Result<Plan, NodeError>>,
    session: SessionOptions,
    handlers: Vec<AddHandler>,
    forward: Option<Arc<dyn Forward>>,
}

type AddHandler = Box<dyn FnOnce(&mut Handlers) -> Result<(), NodeError> + Send + Sync>;

impl NodeBuilder {
    /// Adds a kind of entity.
    pub fn register<E: EventSourced>(self, entity: E) -> Self {
        self.register_arc(Arc::new(entity))
    }

    pub(crate) fn quiet(self) -> Self {
        Self { quiet: true, ..self }
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

    /// Adds workers: tasks `name-0`, `name-1` and so on, `count` of them, each a
    /// [`singleton`](Self::singleton). They are spread over the shards one after the other, so that no
    /// shard has two before each has one, and with the shards over the nodes. Register them with the same
    /// count on every node. Raise the count at will; where it is lowered while nodes are upgraded, the
    /// last ones go on until the last node is.
    ///
    /// ```
    /// # use duractor::{Node, Singleton};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// let node = Node::builder(dir.path())
    ///     .workers("mailer", 3, async |worker: Singleton| {
    ///         println!("{} is number {}", worker.name(), worker.index());
    ///         worker.ending().await;
    ///         Ok(())
    ///     })
    ///     .start()
    ///     .await?;
    /// node.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn workers<F>(
        mut self,
        name: &str,
        count: usize,
        run: impl Fn(Singleton) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), SideError>> + Send + 'static,
    {
        self.singletons.extend(Plan::workers(name, count, run));
        self
    }

    /// Adds a worker for each shard, `name@0` and so on, which runs where the shard's entities do:
    /// [`Singleton::shard`](crate::Singleton::shard) says which. For work on what the shard has, as its
    /// log. Otherwise as a [`singleton`](Self::singleton).
    pub fn shard_workers<F>(
        mut self,
        name: &str,
        run: impl Fn(Singleton) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), SideError>> + Send + 'static,
    {
        self.singletons.push(Plan::each(name, run));
        self
    }

    /// Adds a handler that only the cluster's leader runs: any node calls it by
    /// [`Leader::forward`](crate::Leader::forward), the leader also by
    /// [`Leader::call`](crate::Leader::call). Register it on every node. It is dropped at its next
    /// `await` when the node ceases to lead.
    ///
    /// ```
    /// # use duractor::{Command, Node, Leadership};
    /// # use std::time::Duration;
    /// #[derive(Command)]
    /// #[command(reply = u64)]
    /// struct NextInvoice {
    ///     year: u32,
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// let node = Node::builder(dir.path())
    ///     .leader_handler(async |_: Leadership, next: NextInvoice| u64::from(next.year) * 1000)
    ///     .start()
    ///     .await?;
    /// let number = node.leader().forward(NextInvoice { year: 2 }, Duration::from_secs(5)).await?;
    /// assert_eq!(number, 2000);
    /// node.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn leader_handler<C, F>(
        mut self,
        handler: impl Fn(Leadership, C) -> F + Send + Sync + 'static,
    ) -> Self
    where
        C: crate::Command,
        F: Future<Output = C::Reply> + Send + 'static,
    {
        self.handlers.push(Box::new(move |handlers| handlers.add(handler)));
        self
    }

    /// How calls get to the leader, in place of the cluster's links.
    pub fn leader_forward(self, forward: Arc<dyn Forward>) -> Self {
        Self { forward: Some(forward), ..self }
    }

    /// The lease and the label of the node's own session, for locks and the like.
    pub fn session(self, session: SessionOptions) -> Self {
        Self { session, ..self }
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
        let reserved = self.kinds.iter().find(|entry| is_reserved(entry.kind));
        if let Some(Entry { kind, .. }) = reserved {
            return Err(NodeError::ReservedKind { kind });
        }
        let warden = Arc::new(Warden::default());
        self.with_own_kinds(&warden).begin(&warden).await
    }

    /// The kinds that every node has.
    fn with_own_kinds(self, warden: &Arc<Warden>) -> Self {
        self.register(Leases::new(warden.clone()))
            .register(Permits::<Locks>::new(warden.clone()))
            .register(Permits::<Semaphores>::new(warden.clone()))
            .register(Barriers::new(warden.clone()))
            .register(Coordinator)
    }

    async fn begin(self, warden: &Warden) -> Result<Node, NodeError> {
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

        let mut handlers = Handlers::default();
        self.handlers.into_iter().try_for_each(|add| add(&mut handlers))?;

        let (journal, snapshots) =
            stores(self.journal, self.snapshots, &self.dir, &self.env, self.shards).await?;
        let transport = self.replicas.as_ref().map(|(transport, _)| transport.clone());
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
        let env = self.env.clone();
        let shared = Shared::new(
            self.env,
            journal.clone(),
            snapshots.clone(),
            away,
            self.recoveries,
            self.max_open,
        );
        warden.attach(&shared);
        let (cluster, forward) = (self.cluster.clone(), self.forward);
        let leader = Leader::new(&shared, Setup { cluster, transport, handlers, forward }, &env);
        let own = (self.shutdown_timeout, self.session, leader);
        let mut started = assemble(shared, self.kinds, own, listening, self.quiet).await;
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
}

/// Opens what was not given.
async fn stores(
    journal: Option<Arc<dyn Journal>>,
    snapshots: Option<Arc<dyn SnapshotStore>>,
    dir: &Path,
    env: &Env,
    shards: u16,
) -> Result<(Arc<dyn Journal>, Arc<dyn SnapshotStore>), NodeError> {
    tracing::debug!(dir = %dir.display(), "opening");
    let journal: Arc<dyn Journal> = match journal {
        Some(journal) => journal,
        None => {
            let mut config = LogConfig::new(dir.join("log"));
            config.shards = shards;
            LogJournal::open(config, env.clone()).await?
        }
    };
    let snapshots: Arc<dyn SnapshotStore> = match snapshots {
        Some(snapshots) => snapshots,
        None => {
            let path = dir.join("snapshots.redb");
            let opened = RedbSnapshots::open(path, SnapshotOptions::default(), env.clone()).await;
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

/// Starts the actors over open stores, and claims the shards that are this node's.
async fn assemble(
    shared: Arc<Shared>,
    entries: Vec<Entry>,
    (shutdown_timeout, session, leader): (Duration, SessionOptions, Leader),
    listening: Option<AbortOnDrop>,
    quiet: bool,
) -> Result<Node, NodeError> {
    let mut kinds: Kinds = HashMap::new();
    let mut all: Vec<Arc<dyn AnyKind>> = Vec::new();
    let mut sweep = SWEEP;
    let agenda = Kind::new(Arc::new(Agenda), shared.clone());
    kinds.insert(TypeId::of::<Agenda>(), agenda.clone());
    all.push(agenda.clone());
    for entry in entries {
        let Registered { typed, any, idle_timeout } = (entry.register)(&shared);
        kinds.insert(entry.id, typed);
        all.push(any);
        sweep = sweep.min(idle_timeout / 4).max(Duration::from_millis(10));
    }
    let (kinds, all) = (Arc::new(kinds), Arc::new(all));
    let agendas = Agendas::new(&shared, &agenda, &all)?;
    // They are set here alone.
    let _ = shared.kinds.set(Arc::downgrade(&kinds));
    let host: Arc<dyn Host> =
        Arc::new(Desk { shared: Arc::downgrade(&shared), kinds: Arc::downgrade(&all) });
    let _ = shared.host.set(host.clone());
    if !quiet {
        let _ = shared.diary.set(agendas.clone());
    }
    let root = start_root(shared.clone(), all.clone(), sweep).await?;
    let follower = match follow(&shared, &root, &all).await {
        Ok(follower) => follower,
        Err(error) => {
            let _ = root.stop_and_wait(None, None).await;
            shared.failing.notify_one();
            return Err(error);
        }
    };
    if let Some(router) = &shared.router {
        router.host(host);
    }
    let following = AbortOnDrop::new(&tokio::spawn(follower.run()));
    for task in [Some(following), listening].into_iter().flatten() {
        root.cast(RootMessage::Keep(task)).map_err(actor_error)?;
    }
    for shard in (0..shared.journal.shards()).filter(|_| !quiet).map(ShardId) {
        let nothing = nothing_in(&shared, &agendas, shard).await;
        let keeper = keep_agenda(shared.clone(), agendas.clone(), shard, nothing);
        let keeper = tokio::spawn(keeper);
        root.cast(RootMessage::Keep(AbortOnDrop::new(&keeper))).map_err(actor_error)?;
    }
    tracing::info!(shards = shared.journal.shards(), kinds = all.len(), "the node is up");
    let sessions = Arc::default();
    Ok(Node {
        shared,
        kinds,
        all,
        root,
        cluster: None,
        shutdown_timeout,
        sessions,
        session,
        leader,
    })
}

/// Where commands arrive that travel as bytes: of other nodes' callers, and the framework's own.
struct Desk {
    shared: Weak<Shared>,
    kinds: Weak<Vec<Arc<dyn AnyKind>>>,
}

impl Host for Desk {
    fn make_ready(&self, entities: Vec<EntityId>) -> BoxFuture<'static, ()> {
        let kinds = self.kinds.upgrade().unwrap_or_default();
        let ready = entities.into_iter().filter_map(move |id| {
            let kind = kinds.iter().find(|kind| kind.name() == id.kind())?;
            Some(kind.clone().make_ready(id))
        });
        Box::pin(async move { drop(join_all(ready).await) })
    }

    fn arrived(&self, arrived: Arrived) {
        let (Some(shared), Some(kinds)) = (self.shared.upgrade(), self.kinds.upgrade()) else {
            return arrived.reply.send(Err(AskError::ShuttingDown));
        };
        if arrived.command == DoTogether::NAME {
            return local::arrived(shared, self.kinds.clone(), arrived);
        }
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
    let check = |what, known: &[Schema]| {
        let taken = known.iter().find(|schema| is_reserved(schema.name));
        let taken = taken.map_or(Ok(()), |taken| Err(SchemaError::Reserved { name: taken.name }));
        taken.and_then(|()| check_schemas(known)).map_err(|error| schemas(what, error))
    };
    check("events", E::Event::schemas())?;
    check("commands", &E::Commands::schemas())
}
