//! In the node: does what the benchmark tells it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use duractor::EntitySettings;
use duractor_journal::{EntityId, Env, Journal, NewEvent, RequestId, Seq, ShardId};
use duractor_testkit::process::{self, Handler, Node};
use futures_util::{TryStreamExt, future::BoxFuture, stream::FuturesOrdered};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    append::{self, Load},
    ask,
    entity::Notes,
    latency::Summary,
    load::{self, Events, Log, payload},
    replay::{read, shuffle},
    run::Failure,
    system,
};

/// Batches that are under way while a log is filled.
const FILL_AT_ONCE: usize = 1024;

/// What the parent tells a node to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Measure this load here, at the leader of all groups: answered with a [`Summary`].
    Load(Load),
    /// Append events one by one, in turns over these entities, at the leader of all groups.
    Fill { entities: usize, each: usize, event_bytes: usize },
    /// Wait until everything is here that is committed.
    Barrier,
    /// Read these entities: answered with [`Read`].
    Read { entities: usize, readers: usize, seconds: f64, cold: bool, drop_caches: bool },
    /// Start writers that go on, at the leader of all groups.
    Flow { writers: usize, event_bytes: usize },
    /// How many events those wrote so far. An error where one of them failed.
    Flown,
    /// Host entities on this node's journal.
    Host { callers: usize },
    /// Ask entities from here, wherever they run: answered with a [`Summary`].
    Ask(ask::Load),
    /// Write one event under a request id, if this node leads.
    Write { entity: usize, request: String, event_bytes: usize },
}

/// What was read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Read {
    pub events: u64,
    pub seconds: f64,
    pub cpu: f64,
    pub disk_bytes: u64,
    pub cold_by: Option<String>,
}

/// Serves until the parent is gone.
pub(crate) async fn run(config: &str) -> Result<(), Failure> {
    process::node::run(config, Arc::new(Worker::default())).await
}

#[derive(Default)]
struct Worker {
    host: Mutex<Option<duractor::Node>>,
    flown: Arc<AtomicU64>,
    flow: Mutex<JoinSet<Result<(), Failure>>>,
}

impl Handler for Worker {
    fn handle(
        self: Arc<Self>,
        node: Arc<Node>,
        request: Value,
    ) -> BoxFuture<'static, Result<Value, Failure>> {
        Box::pin(async move { self.perform(&node, serde_json::from_value(request)?).await })
    }
}

impl Worker {
    async fn perform(&self, node: &Node, order: Order) -> Result<Value, Failure> {
        let journal = &node.journal;
        Ok(match order {
            Order::Load(load) => {
                let calls: Summary = load.run(&Log::claim(journal.clone()).await?).await?.calls;
                serde_json::to_value(calls)?
            }
            Order::Fill { entities, each, event_bytes } => {
                let log = Log::claim(journal.clone()).await?;
                fill(&log, entities, each, &Events::new(event_bytes, 1)).await?;
                Value::Null
            }
            Order::Barrier => {
                for shard in 0..journal.shards() {
                    journal.barrier(ShardId(shard)).await?;
                }
                Value::Null
            }
            Order::Read { entities, readers, seconds, cold, drop_caches } => {
                let limit = Duration::from_secs_f64(seconds);
                let cold = cold.then_some(drop_caches);
                serde_json::to_value(read_all(node, entities, readers, limit, cold).await?)?
            }
            Order::Flow { writers, event_bytes } => {
                self.start_flow(&Log::claim(journal.clone()).await?, writers, event_bytes)?;
                Value::Null
            }
            Order::Flown => {
                let mut flow = self.flow.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(ended) = flow.try_join_next() {
                    ended??;
                }
                self.flown.load(Ordering::Relaxed).into()
            }
            Order::Host { callers } => {
                let host = host(node, callers).await?;
                *self.host.lock().unwrap_or_else(PoisonError::into_inner) = Some(host);
                Value::Null
            }
            Order::Ask(load) => {
                let host = self.host.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let host = host.ok_or("this node hosts no entities")?;
                serde_json::to_value(load.run(&host).await?.calls)?
            }
            Order::Write { entity, request, event_bytes } => {
                let event = NewEvent::new("noted", 1, payload(event_bytes));
                let batch = (RequestId::new(&request)?, vec![event]);
                serde_json::to_value(node.owner.write(&entity_of(entity)?, vec![batch]).await)?
            }
        })
    }

    fn start_flow(&self, log: &Log, writers: usize, event_bytes: usize) -> Result<(), Failure> {
        let events = Events::new(event_bytes, 1);
        for entity in load::entities("flow", writers)? {
            let (log, events, flown) = (log.clone(), events.clone(), self.flown.clone());
            let mut flow = self.flow.lock().unwrap_or_else(PoisonError::into_inner);
            flow.spawn(async move {
                let note = |_| {
                    flown.fetch_add(1, Ordering::Relaxed);
                    true
                };
                append::write(log, vec![(entity, Seq::ZERO)], &events, note).await
            });
        }
        Ok(())
    }
}

async fn host(node: &Node, callers: usize) -> Result<duractor::Node, Failure> {
    let groups = node.journal.clone();
    let settings = EntitySettings::default().mailbox(callers.max(1024));
    let builder = duractor::Node::builder(&node.config.dir)
        .journal(node.journal.clone())
        .replicas(node.transport(), move |shard| groups.group(shard).voters)
        .register(Notes { settings });
    Ok(builder.start().await?)
}

/// The entity with this number, of those that [`Order::Write`] writes to.
pub(crate) fn entity_of(number: usize) -> Result<EntityId, Failure> {
    Ok(EntityId::new("written", &number.to_string())?)
}

async fn fill(log: &Log, entities: usize, each: usize, events: &Events) -> Result<(), Failure> {
    let entities = load::entities("bench", entities)?;
    let mut under_way = FuturesOrdered::new();
    for round in 0..each {
        for entity in &entities {
            if under_way.len() == FILL_AT_ONCE {
                under_way.try_next().await?;
            }
            let batch = log.batch(entity, Seq(round as u64), events);
            under_way.push_back(log.journal.append(batch));
        }
    }
    while under_way.try_next().await?.is_some() {}
    Ok(())
}

async fn read_all(
    node: &Node,
    entities: usize,
    readers: usize,
    limit: Duration,
    cold: Option<bool>,
) -> Result<Read, Failure> {
    let log = Log::reading(node.journal.clone());
    let mut entities = load::entities("bench", entities)?;
    shuffle(&mut entities);
    let (dir, env) = (node.config.dir.join("log"), Env::production());
    let mut cold_by = None;
    if let Some(whole) = cold {
        let dropped = env.offload(move || system::drop_cache(&dir, whole)).await;
        cold_by = Some(dropped.ok_or("a blocking job was given up")??.to_owned());
    } else {
        env.offload(move || system::fill_cache(&dir))
            .await
            .ok_or("a blocking job was given up")??;
        read(&log, &entities, readers, limit).await?;
    }
    let (began, disk) = (Instant::now(), system::disk_read_bytes());
    let cpu = system::cpu_seconds()?;
    let events = read(&log, &entities, readers, limit).await?;
    Ok(Read {
        events,
        seconds: began.elapsed().as_secs_f64(),
        cpu: system::cpu_seconds()? - cpu,
        disk_bytes: system::disk_read_bytes() - disk,
        cold_by,
    })
}
