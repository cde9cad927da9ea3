//! The log under groups: random histories that end by a power failure, and the cases that such
//! histories meet too seldom.

#![allow(clippy::unwrap_used, reason = "tests")]

mod cases;
mod disk;
mod history;
mod model;

use std::{path::Path, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use self::disk::CrashDisk;
use super::{
    entry::Entry,
    group_log::GroupLog,
    node_log::{NodeLog, PurgeWish},
    options::LogConfig,
};
use crate::{
    env::{Entropy, Env, Offload},
    error::JournalError,
};

/// Everything on one thread.
struct Inline;

impl Offload for Inline {
    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        job();
    }

    fn worker(&self, _: &str, work: BoxFuture<'static, ()>) {
        tokio::spawn(work);
    }
}

struct Counter(std::sync::atomic::AtomicU64);

impl Entropy for Counter {
    fn next_u64(&self) -> u64 {
        self.0.fetch_add(0x9e37_79b9_7f4a_7c15, std::sync::atomic::Ordering::Relaxed)
    }
}

fn env(disk: &CrashDisk, seed: u64) -> Env {
    Env {
        disk: Arc::new(disk.clone()),
        offload: Arc::new(Inline),
        entropy: Arc::new(Counter(seed.wrapping_mul(7919).into())),
        ..Env::production()
    }
}

fn config() -> LogConfig {
    let mut config = LogConfig::new(Path::new("/log"));
    config.shards = 2;
    config.segment_bytes = 16 << 10;
    config.merged_bytes = 64 << 10;
    config.unsealed_segments = 1;
    config.recent_bytes = 4 << 10;
    config.cached_heads = 8;
    config
}

type Opened = (Arc<NodeLog>, mpsc::UnboundedReceiver<PurgeWish>);

async fn open(disk: &CrashDisk, seed: u64) -> Result<Opened, JournalError> {
    NodeLog::open(config(), env(disk, seed)).await
}

/// Releases what the log asks for, as far as it is applied.
fn release(log: &Arc<NodeLog>, mut wishes: mpsc::UnboundedReceiver<PurgeWish>) {
    let log = Arc::downgrade(log);
    tokio::spawn(async move {
        while let Some(wish) = wishes.recv().await {
            let Some(log) = log.upgrade() else { return };
            let group = log.group(wish.shard);
            if let Some(applied) = group.state().applied {
                group.purge(applied);
            }
        }
    });
}

async fn append(group: &GroupLog, entries: Vec<Entry>) -> Result<(), JournalError> {
    let (done, durable) = oneshot::channel();
    group.append(entries, Box::new(move |result| drop(done.send(result))));
    durable.await.unwrap()
}

async fn vote(group: &GroupLog, vote: u64) -> Result<(), JournalError> {
    let (done, durable) = oneshot::channel();
    let bytes = vote.to_le_bytes().to_vec().into();
    group.save_vote(bytes, Box::new(move |result| drop(done.send(result))));
    durable.await.unwrap()
}
