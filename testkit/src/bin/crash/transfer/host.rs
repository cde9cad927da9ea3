//! In the node: hosts purses, and carries out transactions over those of all nodes.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use duractor::{
    EntityRef, EntitySettings, NodeBuilder, RequestId, Session, SessionOptions, TookEffect,
    TransactionError,
    cluster::{Cluster, DrainMode},
};
use duractor_journal::NodeId;
use duractor_testkit::{
    bank::{Listing, Parts, Purse, Shift, Weigh},
    process::{self, Application, Node, WholeNode},
};
use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::sync::OnceCell;

use super::{
    counter,
    order::{Ended, Order},
};
use crate::{Failure, cli::Plant, replicated::order::Order as AnyOrder};

/// One transfer in so many is done wrong, where that is wanted.
const PLANT_EVERY: u64 = 20;
/// Events between two snapshots: few, so that purses recover from snapshots too.
const SNAPSHOT_EVERY: u64 = 40;

/// What holds a lock is taken for dead after so long.
const LEASE: Duration = Duration::from_secs(1);

/// Serves as a whole node until the parent is gone.
pub(crate) async fn run(config: &str) -> Result<(), Failure> {
    process::whole::run(config, Arc::new(Whole::default())).await
}

/// A whole node's entities.
#[derive(Default)]
struct Whole {
    host: Host,
}

impl Application for Whole {
    fn register(&self, builder: NodeBuilder) -> NodeBuilder {
        builder.register(Purse { settings: settings() })
    }

    fn handle(
        self: Arc<Self>,
        node: Arc<WholeNode>,
        request: Value,
    ) -> BoxFuture<'static, Result<Value, Failure>> {
        Box::pin(async move {
            match serde_json::from_value(request)? {
                AnyOrder::Transfers(Order::Drain { node: which }) => {
                    drain(&node.cluster, which).await
                }
                AnyOrder::Transfers(Order::Resume { node: which }) => {
                    node.cluster.resume(NodeId(which), "the trial is over").await?;
                    Ok(Value::Null)
                }
                AnyOrder::Transfers(order) => self.host.perform(&node.node, None, order).await,
                _ => Err("whole nodes have entities only".into()),
            }
        })
    }
}

async fn drain(cluster: &Cluster, node: u32) -> Result<Value, Failure> {
    let drained = cluster.drain(NodeId(node), DrainMode::Leaderships, "a trial").await?;
    Ok(drained.safe_to_stop.into())
}

/// The entities of a node with journal and links alone, from the first order on.
#[derive(Default)]
pub(crate) struct Bare {
    entities: OnceCell<duractor::Node>,
    host: Host,
}

impl Bare {
    /// Does what the parent wants.
    pub(crate) async fn perform(&self, node: &Node, order: Order) -> Result<Value, Failure> {
        let entities = self.entities.get_or_try_init(|| start(node)).await?;
        self.host.perform(entities, node.config.plant.as_deref(), order).await
    }
}

/// What a node does with its entities.
#[derive(Default)]
struct Host {
    transfers: AtomicU64,
    session: OnceLock<Session>,
}

impl Host {
    async fn perform(
        &self,
        entities: &duractor::Node,
        plant: Option<&str>,
        order: Order,
    ) -> Result<Value, Failure> {
        Ok(match order {
            Order::Transfer { number, parts, named, timeout_ms } => {
                let timeout = Duration::from_millis(timeout_ms);
                let planted = self.planted(plant);
                if planted == Some(Plant::Lose.name()) {
                    return Ok(serde_json::to_value(Ended::Done)?);
                }
                let id = format!("transfer-{number}");
                if planted == Some(Plant::Duplicate.name()) {
                    let again = Some(format!("{id}-again"));
                    transfer(entities, number, parts.clone(), again, timeout).await?;
                }
                let id = Some(id).filter(|_| named);
                serde_json::to_value(transfer(entities, number, parts, id, timeout).await?)?
            }
            Order::Look { purses, timeout_ms } => {
                let timeout = Duration::from_millis(timeout_ms);
                serde_json::to_value(look(entities, purses, timeout).await?)?
            }
            Order::List { purse, timeout_ms } => {
                let ask = purse_of(entities, purse)?.ask(Listing);
                serde_json::to_value(ask.timeout(Duration::from_millis(timeout_ms)).await?)?
            }
            Order::Count { file, timeout_ms } => {
                let options = || SessionOptions::default().ttl(LEASE);
                let session = self.session.get_or_init(|| entities.open_session(options()));
                let timeout = Duration::from_millis(timeout_ms);
                serde_json::to_value(counter::count(session, &file, timeout).await?)?
            }
            Order::Drain { .. } | Order::Resume { .. } => return Err("not of bare nodes".into()),
        })
    }

    /// What is to be done wrong this time.
    fn planted<'a>(&self, plant: Option<&'a str>) -> Option<&'a str> {
        let nth = self.transfers.fetch_add(1, Ordering::Relaxed);
        plant.filter(|_| nth % PLANT_EVERY == 7)
    }
}

/// Events stay: a replaced bare node gets no snapshots that make up for them.
fn settings() -> EntitySettings {
    EntitySettings::default()
        .snapshot_every(SNAPSHOT_EVERY)
        .idle_timeout(Duration::from_millis(500))
}

async fn start(node: &Node) -> Result<duractor::Node, Failure> {
    let groups = node.journal.clone();
    let builder = duractor::Node::builder(&node.config.dir)
        .journal(node.journal.clone())
        .replicas(node.transport(), move |shard| groups.group(shard).voters)
        .register(Purse { settings: settings() });
    Ok(builder.start().await?)
}

fn purse_of(entities: &duractor::Node, purse: usize) -> Result<EntityRef<Purse>, Failure> {
    Ok(entities.entity::<Purse>(&purse.to_string())?)
}

async fn transfer(
    entities: &duractor::Node,
    number: u64,
    parts: Parts,
    id: Option<String>,
    timeout: Duration,
) -> Result<Ended, Failure> {
    let mut transaction = entities.transaction().timeout(timeout);
    if let Some(id) = id {
        transaction = transaction.request_id(RequestId::new(&id)?);
    }
    for (purse, by) in parts {
        transaction.ask(&purse_of(entities, purse)?, Shift { transfer: number, by });
    }
    Ok(match transaction.run().await {
        Ok(_) => Ended::Done,
        Err(TransactionError::Vetoed(_)) => Ended::Vetoed,
        Err(error) if error.effect() == TookEffect::None => Ended::Nothing(error.to_string()),
        Err(error) => Ended::Unknown(error.to_string()),
    })
}

async fn look(
    entities: &duractor::Node,
    purses: usize,
    timeout: Duration,
) -> Result<Vec<i64>, Failure> {
    let mut looks = entities.transaction().timeout(timeout);
    let mut tickets = Vec::new();
    for purse in 0..purses {
        tickets.push(looks.ask(&purse_of(entities, purse)?, Weigh));
    }
    let done = looks.run().await?;
    let gains = tickets.iter().map(|ticket| done.reply(ticket));
    Ok(gains.collect::<Result<_, _>>()?)
}
