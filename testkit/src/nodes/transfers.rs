//! Transfers between purses, as transactions: what is put into one is taken out of others. At every
//! look at all purses at once, and in the end, nothing was lost or made; each transfer that was
//! acknowledged is in all of its purses once, and each that was refused in none; and no purse stays
//! held.

use std::{future::IntoFuture, sync::Arc, time::Duration};

use duractor::{EntityRef, Node, RequestId, TookEffect, TransactionError};
use duractor_journal::NodeId;
use tokio::time::{Instant, sleep};

use super::{clients::failed, world::World};
use crate::{
    bank::{Listing, Parts, Purse, Shift, Weigh},
    machines::{Process, Site},
    rng::Rng,
};

/// How often a transfer is tried before its client gives up.
const TRIES: usize = 20;
/// So much longer than its own time a transaction may take.
const LATER: Duration = Duration::from_secs(4);
/// Invariant V: so long may a purse be held after everything healed.
const FREE_WITHIN: Duration = Duration::from_secs(15);

/// A client that transfers, and looks, until the load ends.
pub(crate) struct Teller {
    world: Arc<World>,
    rng: Rng,
}

impl Teller {
    pub(crate) fn new(world: &Arc<World>) -> Self {
        Self { rng: world.fork_rng(), world: world.clone() }
    }

    pub(crate) async fn run(mut self) {
        while !self.world.is_ending() {
            match self.rng.below(10) {
                0..5 => self.transfer(true).await,
                5..7 => self.transfer(false).await,
                _ => self.look().await,
            }
            let ms = self.rng.below(self.world.plan.pause_ms + 1);
            sleep(Duration::from_millis(ms)).await;
        }
    }

    fn any(&mut self) -> Option<(Arc<Process>, Arc<Node>)> {
        let id = NodeId(1 + self.rng.below(u64::from(self.world.plan.nodes)) as u32);
        self.world.process(id)
    }

    /// Draws a transfer: its number.
    fn begin(&mut self) -> (u64, Parts) {
        self.world.book.begin(self.world.plan.purses, &mut self.rng)
    }

    /// With a request id it is tried until its outcome is known.
    async fn transfer(&mut self, named: bool) {
        let (number, parts) = self.begin();
        for _ in 0..if named { TRIES } else { 1 } {
            let id = RequestId::new(&format!("transfer-{number}")).ok().filter(|_| named);
            if self.try_once(number, &parts, id).await || self.world.is_ending() {
                return;
            }
            sleep(Duration::from_millis(3 + self.rng.below(40))).await;
        }
    }

    /// True where its end is known.
    async fn try_once(
        &mut self,
        number: u64,
        parts: &[(usize, i64)],
        id: Option<RequestId>,
    ) -> bool {
        let Some((process, host)) = self.any() else { return false };
        let patience = Duration::from_millis(200 + self.rng.below(2_000));
        let mut transaction = host.transaction().timeout(patience);
        if let Some(id) = id {
            transaction = transaction.request_id(id);
        }
        for (purse, by) in parts {
            let Some(purse) = find(&self.world, &host, *purse) else { return false };
            transaction.ask(&purse, Shift { transfer: number, by: *by });
        }
        let node = process.node;
        let ran = self.world.call(&process, patience + LATER, transaction.run()).await;
        let world = self.world.clone();
        match ran {
            Some(Ok(_)) => {
                world.say(60 ^ number << 8, || format!("transfer {number} at node {node}"));
                world.book.acked(number);
                true
            }
            Some(Err(error)) => {
                world
                    .say(61 ^ number << 8, || format!("transfer {number} at node {node}: {error}"));
                self.failed(&process, &error);
                if error.effect() == TookEffect::Unknown {
                    world.book.unknown(number);
                }
                matches!(error, TransactionError::Vetoed(_))
            }
            None => {
                if !process.is_dead() {
                    let what = "a transaction was not answered within its time and 4 s";
                    world.violated(format!("V: at node {node} {what}"));
                }
                world.book.unknown(number);
                false
            }
        }
    }

    fn failed(&self, process: &Process, error: &TransactionError) {
        match error {
            TransactionError::Failed { error, .. } | TransactionError::OutcomeUnknown { error } => {
                failed(&self.world, process, error);
            }
            TransactionError::Invalid { reason } => self.world.violated(format!("S: {reason}")),
            _ => {}
        }
    }

    /// Looks at all purses at once.
    async fn look(&mut self) {
        let Some((process, host)) = self.any() else { return };
        let patience = Duration::from_millis(200 + self.rng.below(1_000));
        let mut looks = host.transaction().timeout(patience);
        let mut tickets = Vec::new();
        for purse in 0..self.world.plan.purses {
            let Some(purse) = find(&self.world, &host, purse) else { return };
            tickets.push(looks.ask(&purse, Weigh));
        }
        match self.world.call(&process, patience + LATER, looks.run()).await {
            Some(Ok(done)) => {
                let changes: Result<Vec<i64>, _> =
                    tickets.iter().map(|ticket| done.reply(ticket)).collect();
                self.world.count("totals");
                match changes {
                    Ok(changes) if changes.iter().sum::<i64>() == 0 => {}
                    changes => self.world.violated(format!("L: a part is seen: {changes:?}")),
                }
            }
            Some(Err(error)) => self.failed(&process, &error),
            None => {}
        }
    }
}

fn find(world: &World, host: &Node, purse: usize) -> Option<EntityRef<Purse>> {
    match host.entity::<Purse>(&format!("purse-{purse}")) {
        Ok(entity) => Some(entity),
        Err(error) => {
            world.violated(format!("purse {purse} cannot be asked for: {error}"));
            None
        }
    }
}

/// Reads all purses at some node, once nobody holds them, and compares. Returns how many transfers were
/// checked.
pub(crate) async fn compare(world: &Arc<World>) -> Result<u64, String> {
    let mut rng = world.fork_rng();
    let until = Instant::now() + FREE_WITHIN;
    let mut purses = Vec::new();
    for purse in 0..world.plan.purses {
        let mut last = "nobody is up".to_owned();
        let found = loop {
            let id = NodeId(1 + rng.below(u64::from(world.plan.nodes)) as u32);
            if let Some((process, host)) = world.process(id)
                && let Some(entity) = find(world, &host, purse)
            {
                let ask = entity.ask(Listing).timeout(Duration::from_secs(2)).into_future();
                match world.call(&process, LATER, ask).await {
                    Some(Ok(found)) => break found,
                    Some(Err(error)) => last = error.to_string(),
                    None => {}
                }
            }
            if Instant::now() > until {
                return Err(format!("V: purse {purse} does not answer: {last}"));
            }
            sleep(Duration::from_millis(20)).await;
        };
        purses.push(found);
    }
    world.book.check(&purses)
}
