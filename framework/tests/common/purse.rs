//! A purse that is never overdrawn.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::time::Duration;

use duractor::{Command, Context, Effect, EntitySettings, Event, EventSourced, Handle, Persist};

#[derive(Event)]
pub enum Changed {
    Moved { by: i64 },
}

/// Puts in, or takes out; where there is not enough, says how much there is.
#[derive(Command)]
#[command(reply = Result<i64, i64>)]
pub struct Move {
    pub by: i64,
}

#[derive(Command)]
#[command(reply = i64)]
pub struct Look {}

/// Not for transactions.
#[derive(Command)]
#[command(reply = ())]
pub struct MoveLater {
    pub by: i64,
}

#[derive(Command)]
#[command(reply = ())]
pub struct Panic {}

#[derive(Default)]
pub struct Purse {
    pub settings: EntitySettings,
}

impl EventSourced for Purse {
    const KIND: &'static str = "purse";
    type State = i64;
    type Event = Changed;
    type Commands = (Move, Look, MoveLater, Panic);

    fn apply(state: &mut i64, event: &Changed) {
        let Changed::Moved { by } = event;
        *state += by;
    }

    fn settings(&self) -> EntitySettings {
        self.settings.clone()
    }
}

impl Handle<Move> for Purse {
    fn handle(&self, state: &i64, command: Move, _: &Context) -> Effect<Self, Result<i64, i64>> {
        if state + command.by < 0 {
            return Effect::veto(Err(*state));
        }
        Self::persist(Changed::Moved { by: command.by }).reply(|state| Ok(*state))
    }
}

impl Handle<Look> for Purse {
    fn handle(&self, state: &i64, _: Look, _: &Context) -> Effect<Self, i64> {
        Effect::reply(*state)
    }
}

impl Handle<MoveLater> for Purse {
    fn handle(&self, _: &i64, later: MoveLater, _: &Context) -> Effect<Self, ()> {
        let after = Duration::from_secs(1);
        Effect::nothing().timer("later", after, Move { by: later.by }).no_reply()
    }
}

impl Handle<Panic> for Purse {
    fn handle(&self, _: &i64, _: Panic, _: &Context) -> Effect<Self, ()> {
        panic!("as it was asked to")
    }
}
