//! A node: the journal, the snapshot store and the entities of one process.
//!
//! | module | what it holds |
//! |---|---|
//! | here | [`Node`], as it runs |
//! | `assemble` | opening what it stands on, and starting its actors |
//! | `builder` | [`NodeBuilder`]: what can be said before that; `builder/tasks`: of singletons and the like |

mod assemble;
mod builder;

pub use builder::NodeBuilder;

use std::{sync::Arc, time::Duration};

use crate::{
    cluster::{Cluster, Tenant},
    context::Kinds,
    coordination::{
        Barrier, CoordinationError, Lock, Semaphore, Session, SessionOptions, Sessions,
    },
    entity::EventSourced,
    entity_ref::{EntityRef, find_kind},
    error::NodeError,
    follow::AllKinds,
    gauges::publish,
    leader::Leader,
    ledger::LedgerCounts,
    shard::{Root, RootMessage, actor_error},
    shared::Shared,
    singleton::{Plan, keep_all},
    tenant::Entities,
    transact::Transaction,
};

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

    /// What became of the commands so far. The same is told once a second or more often, and at the end of a
    /// shutdown, to the recorder of the [`metrics`](https://docs.rs/metrics) crate that is in force on the
    /// node's threads: counters `duractor_commands_accepted_total`, `_replied_total`, `_rejected_total` and
    /// `_dead_lettered_total`, gauges `duractor_commands_open` and, by `kind`, `duractor_entities_active`;
    /// all with the label `node` in a cluster.
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
        publish(&self.shared, self.all.iter().map(AsRef::as_ref));
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
