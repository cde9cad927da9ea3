//! What is in stock, and what was sent away.

#![allow(missing_docs, reason = "the names of fields and variants say what they are")]

use std::collections::BTreeMap;

use duractor::prelude::*;
use serde::{Deserialize, Serialize};

/// The one depot's key.
pub const DEPOT: &str = "main";

/// Articles and how many of each.
pub type Pieces = Vec<(String, u32)>;

/// What can happen in a depot.
#[derive(Debug, Clone, PartialEq, Eq, Event)]
pub enum DepotEvent {
    #[event(name = "stocked")]
    Stocked { sku: String, pieces: u64 },
    #[event(name = "dispatched")]
    Dispatched { order: String, pieces: Pieces },
    #[event(name = "taken-back")]
    TakenBack { order: String, pieces: Pieces },
}

/// A depot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Depot {
    pub stock: BTreeMap<String, u64>,
    /// Parcels that were sent.
    pub parcels: u64,
    /// And those of them that were taken back.
    pub taken_back: u64,
}

/// More pieces have come.
#[derive(Debug, Clone, Command, Deserialize)]
#[command(reply = Depot, name = "stock")]
#[serde(deny_unknown_fields)]
pub struct Stock {
    pub sku: String,
    pub pieces: u64,
}

/// Sends an order's pieces, all or none. Answered with the parcel's number.
#[derive(Debug, Clone, Command)]
#[command(reply = Result<String, OutOfStock>, name = "dispatch")]
pub struct Dispatch {
    pub order: String,
    pub pieces: Pieces,
}

/// An order's parcel was stopped: the pieces are in stock again.
#[derive(Debug, Clone, Command)]
#[command(reply = (), name = "take-back")]
pub struct TakeBack {
    pub order: String,
    pub pieces: Pieces,
}

#[derive(Debug, Clone, Command)]
#[command(reply = Depot, name = "look")]
pub struct LookInto;

/// The depot refuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{sku:?} is out of stock")]
pub struct OutOfStock {
    pub sku: String,
}

/// All depots.
pub struct Depots;

impl EventSourced for Depots {
    const KIND: &'static str = "depot";
    type State = Depot;
    type Event = DepotEvent;
    type Commands = (Stock, Dispatch, TakeBack, LookInto);

    fn apply(depot: &mut Depot, event: &DepotEvent) {
        match event {
            DepotEvent::Stocked { sku, pieces } => {
                let stock = depot.stock.entry(sku.clone()).or_default();
                *stock = stock.saturating_add(*pieces);
            }
            DepotEvent::Dispatched { pieces, .. } => {
                for (sku, count) in pieces {
                    let stock = depot.stock.entry(sku.clone()).or_default();
                    *stock = stock.saturating_sub((*count).into());
                }
                depot.parcels += 1;
            }
            DepotEvent::TakenBack { pieces, .. } => {
                for (sku, count) in pieces {
                    *depot.stock.entry(sku.clone()).or_default() += u64::from(*count);
                }
                depot.taken_back += 1;
            }
        }
    }

    /// Every checkout of half a day is a sender of its own, and is told from the others.
    fn settings(&self) -> EntitySettings {
        EntitySettings::default().snapshot_every(1000).senders(200_000)
    }
}

impl Handle<Stock> for Depots {
    fn handle(&self, _: &Depot, Stock { sku, pieces }: Stock, _: &Context) -> Effect<Self, Depot> {
        Self::persist(DepotEvent::Stocked { sku, pieces }).reply(Depot::clone)
    }
}

impl Handle<Dispatch> for Depots {
    fn handle(
        &self,
        depot: &Depot,
        Dispatch { order, pieces }: Dispatch,
        _: &Context,
    ) -> Effect<Self, Result<String, OutOfStock>> {
        let has = |sku: &String| depot.stock.get(sku).copied().unwrap_or_default();
        if let Some((sku, _)) = pieces.iter().find(|(sku, count)| has(sku) < u64::from(*count)) {
            return Effect::reply(Err(OutOfStock { sku: sku.clone() }));
        }
        Self::persist(DepotEvent::Dispatched { order, pieces })
            .reply(|depot| Ok(format!("parcel-{}", depot.parcels)))
    }
}

impl Handle<TakeBack> for Depots {
    fn handle(
        &self,
        _: &Depot,
        TakeBack { order, pieces }: TakeBack,
        _: &Context,
    ) -> Effect<Self, ()> {
        Self::persist(DepotEvent::TakenBack { order, pieces }).no_reply()
    }
}

impl Handle<LookInto> for Depots {
    fn handle(&self, depot: &Depot, _: LookInto, _: &Context) -> Effect<Self, Depot> {
        Effect::reply(depot.clone())
    }
}
