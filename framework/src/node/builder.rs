//! Setting up a node.

mod tasks;

use std::{any::TypeId, collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use duractor_journal::{
    Env, Journal, Member, ShardId, Transport,
    id::{DEFAULT_SHARDS, MAX_SHARDS},
};
use duractor_snapshot::SnapshotStore;

use super::{
    Node,
    assemble::{Entry, Registered, Registration, assemble, check, stores},
};
use crate::{
    cluster::Cluster,
    coordination::{Barriers, Leases, Locks, Permits, Semaphores, SessionOptions, Warden},
    coordinator::Coordinator,
    entity::EventSourced,
    error::NodeError,
    leader::{Forward, Handlers, Leader, Setup},
    meta::is_reserved,
    replica::{Replicas, Voters},
    route::Router,
    schedule::Schedules,
    shared::Shared,
    singleton::Plan,
    slot::Kind,
};

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
            .register(Schedules)
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
