//! In the parent: tellers who transfer between purses and look at all of them, at any node.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use duractor_testkit::{
    Rng,
    bank::{Book, Parts},
    process::{Cluster, client::Deadline, wire::Request},
};
use tokio::{task::JoinSet, time::sleep};

use super::{
    counter::Counted,
    order::{Ended, Order},
};
use crate::Failure;

/// Tellers who work at once.
const TELLERS: usize = 6;
/// So much longer than a transaction's own time its answer may take.
const LATER: Duration = Duration::from_secs(3);

/// What tellers share.
pub(super) struct Bank {
    pub(super) cluster: Arc<Cluster>,
    pub(super) book: Book,
    pub(super) purses: usize,
    /// The counter that a lock guards.
    pub(super) counter: PathBuf,
    pub(super) counts: Counts,
}

/// How often it was counted.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) acked: AtomicU64,
    pub(super) unknown: AtomicU64,
}

/// All tellers, at work.
pub(super) struct Load {
    tellers: JoinSet<Result<(), String>>,
    stop: Arc<Deadline>,
}

impl Load {
    pub(super) fn start(bank: &Arc<Bank>, rng: &mut Rng) -> Self {
        let (mut tellers, stop) = (JoinSet::new(), Arc::new(Deadline::default()));
        for _ in 0..TELLERS {
            let mut teller = Teller { bank: bank.clone(), rng: rng.fork(), stop: stop.clone() };
            tellers.spawn(async move { teller.run().await });
        }
        Self { tellers, stop }
    }

    /// Has each teller end what it is at, within so long; returns what was wrong.
    pub(super) async fn finish(mut self, longest: Duration) -> Result<Vec<String>, Failure> {
        self.stop.set(longest);
        let mut wrong = Vec::new();
        while let Some(teller) = self.tellers.join_next().await {
            wrong.extend(teller?.err());
        }
        Ok(wrong)
    }
}

struct Teller {
    bank: Arc<Bank>,
    rng: Rng,
    stop: Arc<Deadline>,
}

impl Teller {
    async fn run(&mut self) -> Result<(), String> {
        while !self.stop.is_set() {
            match self.rng.below(10) {
                0..5 => self.transfer(true).await?,
                5..7 => self.transfer(false).await?,
                7 => drop(self.count().await),
                _ => self.look().await?,
            }
        }
        // Everybody is served again.
        self.transfer(true).await?;
        while let Err(trouble) = self.count().await {
            if self.stop.is_over() {
                return Err(format!("nobody can count: {trouble}"));
            }
        }
        Ok(())
    }

    async fn count(&mut self) -> Result<(), String> {
        let timeout_ms = 300 + self.rng.below(1_500);
        let order = Order::Count { file: self.bank.counter.clone(), timeout_ms };
        let counted = self.at_any::<Counted>(order, timeout_ms).await;
        let counts = &self.bank.counts;
        match counted {
            Ok(Counted::Done) => {
                counts.acked.fetch_add(1, Relaxed);
                Ok(())
            }
            Ok(Counted::FencedOff) => Err("another holder came in between".to_owned()),
            Ok(Counted::NotHeld(trouble)) => Err(trouble),
            Err(trouble) => {
                counts.unknown.fetch_add(1, Relaxed);
                Err(trouble)
            }
        }
    }

    /// A named transfer is tried, at one node after the other, until its end is known.
    async fn transfer(&mut self, named: bool) -> Result<(), String> {
        let (number, parts) = self.bank.book.begin(self.bank.purses, &mut self.rng);
        loop {
            let ended = self.try_once(number, &parts, named).await;
            let trouble = match ended {
                Ok(Ended::Done) => {
                    self.bank.book.acked(number);
                    return Ok(());
                }
                Ok(Ended::Vetoed) => return Ok(()),
                Ok(Ended::Nothing(trouble)) => trouble,
                Ok(Ended::Unknown(trouble)) | Err(trouble) => {
                    self.bank.book.unknown(number);
                    trouble
                }
            };
            if !named {
                return Ok(());
            }
            if self.stop.is_over() {
                return Err(format!("transfer {number} does not end: {trouble}"));
            }
            sleep(Duration::from_millis(5 + self.rng.below(20))).await;
        }
    }

    async fn try_once(&mut self, number: u64, parts: &Parts, named: bool) -> Result<Ended, String> {
        let timeout_ms = 300 + self.rng.below(1_500);
        let order = Order::Transfer { number, parts: parts.clone(), named, timeout_ms };
        self.at_any(order, timeout_ms).await
    }

    async fn look(&mut self) -> Result<(), String> {
        let timeout_ms = 300 + self.rng.below(1_500);
        let order = Order::Look { purses: self.bank.purses, timeout_ms };
        // Where nobody answers there is nothing to compare.
        let Ok(gains) = self.at_any::<Vec<i64>>(order, timeout_ms).await else { return Ok(()) };
        match gains.iter().sum::<i64>() {
            0 => Ok(()),
            sum => Err(format!("a look shows {sum} too much: {gains:?}")),
        }
    }

    async fn at_any<T: serde::de::DeserializeOwned>(
        &mut self,
        order: Order,
        timeout_ms: u64,
    ) -> Result<T, String> {
        let nodes: Vec<u32> = self.bank.cluster.nodes().collect();
        let node = nodes[self.rng.index(nodes.len())];
        ask(&self.bank.cluster, node, order, timeout_ms).await
    }
}

/// Has a node do something.
pub(super) async fn ask<T: serde::de::DeserializeOwned>(
    cluster: &Cluster,
    node: u32,
    order: Order,
    timeout_ms: u64,
) -> Result<T, String> {
    let order = crate::replicated::order::Order::Transfers(order);
    let order = serde_json::to_value(order).map_err(|error| error.to_string())?;
    let longest = Duration::from_millis(timeout_ms) + LATER;
    let child = cluster.running(node).map_err(|error| error.to_string())?;
    let done = child.call(&Request::Own(order), longest).await;
    done.map_err(|error| format!("node {node}: {error}"))
}
