//! Opening what a node stands on, and starting its actors: the shards', the node's, and what follows the
//! shards' owners.

use std::{
    any::TypeId,
    collections::HashMap,
    path::Path,
    sync::{Arc, Weak},
    time::Duration,
};

use duractor_journal::{EntityId, Env, Journal, LogConfig, LogJournal, ShardId, id::check_kind};
use duractor_snapshot::{RedbSnapshots, SnapshotOptions, SnapshotStore};
use futures_util::future::{BoxFuture, join_all};

use super::Node;
use crate::{
    agenda::{Agenda, Agendas, keep as keep_agenda, nothing_in},
    codec::{Schema, SchemaError, check_schemas},
    command::Command,
    context::Kinds,
    coordination::SessionOptions,
    entity::{CommandSet, EventSourced},
    error::{AskError, NodeError},
    event::Event,
    follow::{AllKinds, Follower},
    hold::Hold,
    leader::Leader,
    meta::is_reserved,
    route::{Arrived, Host},
    shard::{Root, RootMessage, actor_error, start_root, start_shard},
    shared::{AnyKind, Shard, Shared},
    slot::Kind,
    step::DoTogether,
    task::AbortOnDrop,
    transact::local,
};

/// How often a node looks for idle entities: this often, or more often where an idle timeout is
/// short.
const SWEEP: Duration = Duration::from_secs(1);

pub(super) type Registration = Box<dyn FnOnce(&Arc<Shared>) -> Registered + Send + Sync>;

/// A kind twice: to look it up with its type, and to tell it what all kinds are told.
pub(super) struct Registered {
    pub(super) typed: Arc<dyn std::any::Any + Send + Sync>,
    pub(super) any: Arc<dyn AnyKind>,
    pub(super) idle_timeout: Duration,
}

pub(super) struct Entry {
    pub(super) kind: &'static str,
    pub(super) id: TypeId,
    pub(super) check: fn() -> Result<(), NodeError>,
    pub(super) register: Registration,
}

/// Opens what was not given.
pub(super) async fn stores(
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
pub(super) async fn assemble(
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
pub(super) fn check<E: EventSourced>() -> Result<(), NodeError> {
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
