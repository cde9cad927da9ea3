//! In the parent: writes that follow the leaders.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{
    cluster::Cluster,
    control::CallError,
    wire::{Request, Written},
};

/// How long an answer is waited for before another node is tried.
const PATIENCE: Duration = Duration::from_millis(400);
/// Between two tries, where nobody knows of a leader.
const PAUSE: Duration = Duration::from_millis(2);

/// Sends writes to whoever leads, until they are acknowledged. Knows of each shard who answered
/// last.
pub struct Client {
    cluster: Arc<Cluster>,
    leaders: Vec<AtomicU32>,
}

/// What a write needed more than one try for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// For each batch the sequence number of its first event, where it was acknowledged.
    pub first_seqs: Vec<Option<u64>>,
    /// What the last node said.
    pub trouble: String,
}

impl Client {
    /// A client of this cluster.
    #[must_use]
    pub fn new(cluster: Arc<Cluster>) -> Self {
        let leaders = (0..cluster.setup().shards).map(|_| AtomicU32::new(1)).collect();
        Self { cluster, leaders }
    }

    /// Who was the leader of a shard when it answered last.
    #[must_use]
    pub fn leader(&self, shard: u16) -> u32 {
        self.leaders[usize::from(shard)].load(Ordering::Relaxed)
    }

    /// Sends a request that the nodes answer with [`Written`] until all its batches are
    /// acknowledged: returns their first sequence numbers.
    ///
    /// # Errors
    /// It is not done when `give_up` says so, which is asked after each try.
    pub async fn write(
        &self,
        shard: u16,
        request: Value,
        give_up: impl Fn() -> bool,
    ) -> Result<Vec<u64>, Unfinished> {
        let request = Request::Own(request);
        let mut unfinished = Unfinished::default();
        loop {
            match self.ask::<Written>(shard, &request).await {
                Ok(written) => {
                    merge(&mut unfinished.first_seqs, &written.first_seqs);
                    match written.trouble {
                        None => return Ok(written.first_seqs.into_iter().flatten().collect()),
                        Some(trouble) => {
                            unfinished.trouble = trouble;
                            self.went_wrong(shard, written.leader.map(|member| member.node.0))
                                .await;
                        }
                    }
                }
                Err(error) => {
                    unfinished.trouble = format!("node {}: {error}", self.leader(shard));
                    self.went_wrong(shard, None).await;
                }
            }
            if give_up() {
                return Err(unfinished);
            }
        }
    }

    /// The same for a request that is answered without a value, and can be repeated.
    ///
    /// # Errors
    /// As [`write`](Self::write): with what the last node said.
    pub async fn repeat(
        &self,
        shard: u16,
        request: Value,
        give_up: impl Fn() -> bool,
    ) -> Result<(), String> {
        let request = Request::Own(request);
        loop {
            let Err(error) = self.ask::<()>(shard, &request).await else { return Ok(()) };
            let trouble = format!("node {}: {error}", self.leader(shard));
            self.went_wrong(shard, None).await;
            if give_up() {
                return Err(trouble);
            }
        }
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        shard: u16,
        request: &Request,
    ) -> Result<T, CallError> {
        self.cluster.running(self.leader(shard))?.call(request, PATIENCE).await
    }

    /// Turns to another node: to the leader if it is known, to the next one otherwise.
    async fn went_wrong(&self, shard: u16, leader: Option<u32>) {
        let nodes = self.cluster.setup().nodes;
        let asked = self.leader(shard);
        let next = match leader {
            Some(leader) if leader != asked && (1..=nodes).contains(&leader) => leader,
            _ => asked % nodes + 1,
        };
        // Somebody else may have found the leader meanwhile.
        let known = &self.leaders[usize::from(shard)];
        let _ = known.compare_exchange(asked, next, Ordering::Relaxed, Ordering::Relaxed);
        if leader.is_none() {
            sleep(PAUSE).await;
        }
    }
}

/// What is acknowledged once stays so.
fn merge(known: &mut Vec<Option<u64>>, new: &[Option<u64>]) {
    known.resize(known.len().max(new.len()), None);
    for (known, new) in known.iter_mut().zip(new) {
        *known = known.or(*new);
    }
}

/// A moment that is set once: until then nobody gives up.
#[derive(Debug, Default)]
pub struct Deadline(std::sync::OnceLock<Instant>);

impl Deadline {
    /// So much time from now on. Does nothing where it was set before.
    pub fn set(&self, from_now: Duration) {
        let _ = self.0.set(Instant::now() + from_now);
    }

    /// Whether it was set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.get().is_some()
    }

    /// Whether the time is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.get().is_some_and(|end| Instant::now() > *end)
    }
}
