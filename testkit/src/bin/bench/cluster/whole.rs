//! In a whole node: callers that go on, and what they saw.

use std::{
    collections::BTreeMap,
    future::IntoFuture,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use duractor::{EntitySettings, NodeBuilder, RequestId};
use duractor_testkit::{
    Rng,
    process::{self, Application, Cluster, WholeNode, wire::Request},
};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    entity::{self, Note, Notes},
    load::payload,
    run::Failure,
};

/// How long a node may take to answer.
const LIMIT: Duration = Duration::from_secs(30);
/// Entities may have so many commands waiting.
const MAILBOX: usize = 1 << 16;

/// What the parent tells a whole node to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Ask entities from here, wherever they run, until told to stop.
    Start(Callers),
    /// Answered with what the callers [`Saw`] since they were asked last.
    Look,
    /// End the callers. Answered with what they saw last.
    Stop,
    /// Answered with how many shards are yet to be moved, as the cluster's leader knows.
    Unbalanced,
}

/// Callers that each persist one thing after the other, under a request id.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Callers {
    /// Told apart from those of other nodes by this.
    pub name: String,
    pub callers: usize,
    pub entities: usize,
    pub event_bytes: usize,
    pub deadline_ms: u64,
}

/// What callers saw.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Saw {
    /// For each shard when answers came, in microseconds of the machine's clock.
    pub answers_us: BTreeMap<u16, Vec<u64>>,
    /// The longest call, in microseconds.
    pub worst_us: u64,
    pub errors: u64,
    /// One of the errors.
    pub error: Option<String>,
}

/// Serves until the parent is gone.
pub(crate) async fn run(config: &str) -> Result<(), Failure> {
    process::whole::run(config, Arc::new(Hosted::default())).await
}

#[derive(Default)]
struct Hosted {
    seen: Arc<Mutex<Saw>>,
    callers: Mutex<JoinSet<()>>,
}

impl Saw {
    fn answered(&mut self, shard: u16, took: Duration) {
        self.answers_us.entry(shard).or_default().push(now_us());
        self.worst_us = self.worst_us.max(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    fn failed(&mut self, error: String) {
        self.errors += 1;
        self.error = Some(error);
    }
}

/// The time since the machine started, by a clock that all its processes share.
pub(crate) fn now_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Application for Hosted {
    fn register(&self, builder: NodeBuilder) -> NodeBuilder {
        builder.register(Notes { settings: EntitySettings::default().mailbox(MAILBOX) })
    }

    fn handle(
        self: Arc<Self>,
        node: Arc<WholeNode>,
        request: Value,
    ) -> BoxFuture<'static, Result<Value, Failure>> {
        Box::pin(async move {
            let saw = match serde_json::from_value(request)? {
                Order::Unbalanced => {
                    let plan = node.cluster.plan().await?;
                    return Ok((plan.moves.len() + plan.unknown.len()).into());
                }
                Order::Start(callers) => {
                    self.start(&node, &callers)?;
                    Saw::default()
                }
                Order::Look => std::mem::take(&mut *lock(&self.seen)),
                Order::Stop => {
                    lock(&self.callers).abort_all();
                    std::mem::take(&mut *lock(&self.seen))
                }
            };
            Ok(serde_json::to_value(saw)?)
        })
    }
}

impl Hosted {
    fn start(&self, node: &WholeNode, load: &Callers) -> Result<(), Failure> {
        let entities = entity::references(&node.node, load.entities)?;
        let shards = node.cluster.groups().shards();
        let deadline = Duration::from_millis(load.deadline_ms);
        for caller in 0..load.callers {
            let (entities, seen) = (entities.clone(), self.seen.clone());
            let (name, data) = (format!("{}-{caller}", load.name), payload(load.event_bytes));
            lock(&self.callers).spawn(async move {
                let mut rng = Rng::new(caller as u64);
                for number in 0_u64.. {
                    let entity = &entities[rng.index(entities.len())];
                    let Ok(id) = RequestId::new(&format!("{name}-{number}")) else { return };
                    let note = Note { data: data.clone(), times: 1 };
                    let began = Instant::now();
                    let asked = entity.ask(note).request_id(id).timeout(deadline).into_future();
                    let answer = asked.await;
                    let mut seen = lock(&seen);
                    match answer {
                        Ok(_) => {
                            seen.answered(entity.id().shard(shards).0, began.elapsed());
                        }
                        Err(error) => seen.failed(error.to_string()),
                    }
                }
            });
        }
        Ok(())
    }
}

/// In the parent: has a whole node do something.
pub(crate) async fn ask<T: DeserializeOwned>(
    cluster: &Cluster,
    node: u32,
    order: &Order,
) -> Result<T, Failure> {
    let request = Request::Own(serde_json::to_value(order)?);
    Ok(cluster.running(node)?.call(&request, LIMIT).await?)
}
