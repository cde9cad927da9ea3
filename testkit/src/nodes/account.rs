//! The entity of the load: it keeps every operation that was applied to it, in order.

use duractor::{Command, Context, Effect, EntitySettings, Event, EventSourced, Handle, Persist};
use serde::{Deserialize, Serialize};

use crate::rng::mix;

/// An operation was applied.
#[derive(Debug, Clone, PartialEq, Eq, Event)]
pub(crate) struct Applied {
    pub(crate) op: u64,
    /// Makes events of different sizes.
    pub(crate) padding: Vec<u8>,
}

/// Applies an operation. Replies how many were applied, this one included.
#[derive(Debug, Clone, Command)]
#[command(reply = u64)]
pub(crate) struct Apply {
    pub(crate) op: u64,
    pub(crate) padding: u32,
}

/// Replies how many operations were applied, and a digest of them.
#[derive(Debug, Clone, Command)]
#[command(reply = (u64, u64))]
pub(crate) struct Look;

/// Replies all operations.
#[derive(Debug, Clone, Command)]
#[command(reply = Vec<u64>)]
pub(crate) struct All;

/// The entity.
pub(crate) struct Account {
    pub(crate) settings: EntitySettings,
}

/// All operations, in order.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Ops {
    ops: Vec<u64>,
}

/// A number that depends on all operations and their order.
pub(crate) fn digest(ops: &[u64]) -> u64 {
    ops.iter().fold(ops.len() as u64, |sum, op| mix(sum ^ op))
}

impl EventSourced for Account {
    const KIND: &'static str = "account";
    type State = Ops;
    type Event = Applied;
    type Commands = (Apply, Look, All);

    fn apply(state: &mut Ops, event: &Applied) {
        state.ops.push(event.op);
    }

    fn settings(&self) -> EntitySettings {
        self.settings.clone()
    }
}

impl Handle<Apply> for Account {
    fn handle(&self, _: &Ops, Apply { op, padding }: Apply, _: &Context) -> Effect<Self, u64> {
        let event = Applied { op, padding: vec![op as u8; padding as usize] };
        Self::persist(event).reply(|state| state.ops.len() as u64)
    }
}

impl Handle<Look> for Account {
    fn handle(&self, state: &Ops, _: Look, _: &Context) -> Effect<Self, (u64, u64)> {
        Effect::reply((state.ops.len() as u64, digest(&state.ops)))
    }
}

impl Handle<All> for Account {
    fn handle(&self, state: &Ops, _: All, _: &Context) -> Effect<Self, Vec<u64>> {
        Effect::reply(state.ops.clone())
    }
}
