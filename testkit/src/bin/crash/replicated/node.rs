//! In the node: does what the parent tells it.

use std::{
    collections::BTreeMap,
    hash::Hasher,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use duractor_journal::{EventRecord, Journal, NewEvent, RequestId, Seq, ShardId};
use duractor_testkit::process::{self, Handler, Node, wire::Written};
use futures_util::future::BoxFuture;
use serde_json::Value;
use xxhash_rust::xxh3::Xxh3Default;

use super::order::{Image, Order, Stream};
use crate::{
    Failure,
    cli::Plant,
    findings::Findings,
    journal::read_all,
    mark::Mark,
    place::{ENTITIES, entity},
    transfer::host::Bare,
};

/// One batch in so many is done wrong, where that is wanted.
const PLANT_EVERY: u64 = 20;
/// Where a batch is said to be that was never written.
const NOWHERE: u64 = 1 << 40;

/// Serves until the parent is gone.
pub(crate) async fn run(config: &str) -> Result<(), Failure> {
    process::node::run(config, Arc::new(Worker::default())).await
}

#[derive(Default)]
struct Worker {
    batches: AtomicU64,
    entities: Bare,
}

impl Handler for Worker {
    fn handle(
        self: Arc<Self>,
        node: Arc<Node>,
        request: Value,
    ) -> BoxFuture<'static, Result<Value, Failure>> {
        Box::pin(async move {
            Ok(match serde_json::from_value(request)? {
                Order::Write { entity, firsts } => {
                    serde_json::to_value(self.write(&node, entity, firsts).await?)?
                }
                Order::Delete { entity: number, to } => {
                    node.owner.delete(&entity(number)?, Seq(to)).await?;
                    Value::Null
                }
                Order::Transfers(order) => self.entities.perform(&node, order).await?,
                Order::Read { whole } => serde_json::to_value(read(&node, whole).await?)?,
            })
        })
    }
}

impl Worker {
    async fn write(
        &self,
        node: &Node,
        number: usize,
        firsts: Vec<Mark>,
    ) -> Result<Written, Failure> {
        let mut batches: Vec<(RequestId, Vec<NewEvent>)> = Vec::new();
        // For each batch its place in what is written, if it is.
        let mut places = Vec::new();
        for first in firsts {
            let planted = match &node.config.plant {
                Some(plant) if self.batches.fetch_add(1, Ordering::Relaxed) % PLANT_EVERY == 7 => {
                    plant.as_str()
                }
                _ => "",
            };
            let id = format!("{}-{}", first.run, first.batch);
            if planted == Plant::Lose.name() {
                places.push(None);
                continue;
            }
            places.push(Some(batches.len()));
            batches.push((RequestId::new(&id)?, first.events()));
            if planted == Plant::Duplicate.name() {
                batches.push((RequestId::new(&format!("{id}-again"))?, first.events()));
            }
        }
        let written = node.owner.write(&entity(number)?, batches).await;
        let seq_at =
            |place: Option<usize>| place.map_or(Some(NOWHERE), |at| written.first_seqs[at]);
        let first_seqs = places.into_iter().map(seq_at).collect();
        Ok(Written { first_seqs, ..written })
    }
}

/// Everything that this replica holds, and that was committed anywhere before.
async fn read(node: &Node, whole: bool) -> Result<Image, Failure> {
    for shard in 0..node.journal.shards() {
        node.journal.barrier(ShardId(shard)).await?;
    }
    let mut hashes: BTreeMap<String, Xxh3Default> = BTreeMap::new();
    let mut findings = Findings::default();
    let each = |record: &EventRecord| {
        let hash = hashes.entry(record.entity.key().to_owned()).or_default();
        // All fields, in a form that is the same everywhere.
        hash.update(format!("{record:?}").as_bytes());
    };
    let mut streams = read_all(&node.journal, &mut findings, each).await?;
    let mut digests = Vec::new();
    for (number, stream) in streams.iter().enumerate() {
        let mut hash = hashes.remove(&number.to_string()).unwrap_or_default();
        hash.update(format!("{:?}", stream.head).as_bytes());
        digests.push(hash.finish());
    }
    if node.config.plant.as_deref() == Some(Plant::Differ.name()) && node.config.me.node.0 == 2 {
        streams[0].events.pop();
        digests[0] ^= 1;
    }
    let streams = if whole { streams.iter().map(Stream::from).collect() } else { Vec::new() };
    debug_assert_eq!(digests.len(), ENTITIES);
    Ok(Image { digests, wrong: findings.notes, streams })
}
