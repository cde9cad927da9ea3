//! In the node: hosts purses on its journal, and carries out transactions over those of all nodes.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use duractor::{EntityRef, EntitySettings, RequestId, TookEffect, TransactionError};
use duractor_testkit::{
    bank::{Listing, Parts, Purse, Shift, Weigh},
    process::Node,
};
use serde_json::Value;
use tokio::sync::OnceCell;

use super::order::{Ended, Order};
use crate::{Failure, cli::Plant};

/// One transfer in so many is done wrong, where that is wanted.
const PLANT_EVERY: u64 = 20;
/// Events between two snapshots: few, so that purses recover from snapshots too.
const SNAPSHOT_EVERY: u64 = 40;

/// The entities of a node, from the first order on.
#[derive(Default)]
pub(crate) struct Host {
    entities: OnceCell<duractor::Node>,
    transfers: AtomicU64,
}

impl Host {
    /// Does what the parent wants.
    pub(crate) async fn perform(&self, node: &Node, order: Order) -> Result<Value, Failure> {
        let entities = self.entities.get_or_try_init(|| start(node)).await?;
        Ok(match order {
            Order::Transfer { number, parts, named, timeout_ms } => {
                let timeout = Duration::from_millis(timeout_ms);
                let planted = self.planted(node);
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
        })
    }
}

impl Host {
    /// What is to be done wrong this time.
    fn planted<'a>(&self, node: &'a Node) -> Option<&'a str> {
        let nth = self.transfers.fetch_add(1, Ordering::Relaxed);
        node.config.plant.as_deref().filter(|_| nth % PLANT_EVERY == 7)
    }
}

async fn start(node: &Node) -> Result<duractor::Node, Failure> {
    let groups = node.journal.clone();
    // Events stay: nobody here sees to it that a replaced node gets the snapshots that make up for them.
    let settings = EntitySettings::default()
        .snapshot_every(SNAPSHOT_EVERY)
        .idle_timeout(Duration::from_millis(500));
    let builder = duractor::Node::builder(&node.config.dir)
        .journal(node.journal.clone())
        .replicas(node.transport(), move |shard| groups.group(shard).voters)
        .register(Purse { settings });
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
