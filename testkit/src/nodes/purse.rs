//! The entity of the transfers: it keeps every one that it took part in, and is never overdrawn.

use duractor::{Command, Context, Effect, EntitySettings, Event, EventSourced, Handle, Persist};
use serde::{Deserialize, Serialize};

/// What a purse holds in the beginning.
const BEGIN: i64 = 40;

/// A transfer put this into it, or took it out.
#[derive(Debug, Clone, PartialEq, Eq, Event)]
pub(crate) struct Shifted {
    pub(crate) transfer: u64,
    pub(crate) by: i64,
}

/// A purse's part of a transfer: says no where there is not enough.
#[derive(Debug, Clone, Command)]
#[command(reply = Result<i64, i64>)]
pub(crate) struct Shift {
    pub(crate) transfer: u64,
    pub(crate) by: i64,
}

/// Replies by how much the content has changed since the beginning.
#[derive(Debug, Clone, Command)]
#[command(reply = i64)]
pub(crate) struct Weigh;

/// Replies all transfers, in order.
#[derive(Debug, Clone, Command)]
#[command(reply = Vec<(u64, i64)>)]
pub(crate) struct Listing;

/// The entity.
pub(crate) struct Purse {
    pub(crate) settings: EntitySettings,
}

/// All transfers, in order.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Shifts(Vec<(u64, i64)>);

impl Shifts {
    fn change(&self) -> i64 {
        self.0.iter().map(|(_, by)| by).sum()
    }
}

impl EventSourced for Purse {
    const KIND: &'static str = "purse";
    type State = Shifts;
    type Event = Shifted;
    type Commands = (Shift, Weigh, Listing);

    fn apply(state: &mut Shifts, event: &Shifted) {
        state.0.push((event.transfer, event.by));
    }

    fn settings(&self) -> EntitySettings {
        self.settings.clone()
    }
}

impl Handle<Shift> for Purse {
    fn handle(&self, state: &Shifts, shift: Shift, _: &Context) -> Effect<Self, Result<i64, i64>> {
        let Shift { transfer, by } = shift;
        let change = state.change();
        if BEGIN + change + by < 0 {
            return Effect::veto(Err(change));
        }
        Self::persist(Shifted { transfer, by }).reply(|state| Ok(state.change()))
    }
}

impl Handle<Weigh> for Purse {
    fn handle(&self, state: &Shifts, _: Weigh, _: &Context) -> Effect<Self, i64> {
        Effect::reply(state.change())
    }
}

impl Handle<Listing> for Purse {
    fn handle(&self, state: &Shifts, _: Listing, _: &Context) -> Effect<Self, Vec<(u64, i64)>> {
        Effect::reply(state.0.clone())
    }
}
