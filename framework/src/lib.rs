//! Durable, event-sourced actors for Rust.
//!
//! An *entity* has a key, a state, and commands that it takes. What a command changes is written as
//! *events* before anybody hears of it; after a crash the entity is made anew from them.
//!
//! ```
//! use duractor::prelude::*;
//!
//! #[derive(Event)]
//! enum Changed {
//!     Added { by: i64 },
//! }
//!
//! #[derive(Command)]
//! #[command(reply = i64)]
//! struct Add {
//!     by: i64,
//! }
//!
//! #[derive(Command)]
//! #[command(reply = i64)]
//! struct Get;
//!
//! struct Counter;
//!
//! impl EventSourced for Counter {
//!     const KIND: &'static str = "counter";
//!     type State = i64;
//!     type Event = Changed;
//!     type Commands = (Add, Get);
//!
//!     fn apply(state: &mut i64, event: &Changed) {
//!         let Changed::Added { by } = event;
//!         *state += by;
//!     }
//! }
//!
//! impl Handle<Add> for Counter {
//!     fn handle(&self, _: &i64, add: Add, _: &Context) -> Effect<Self, i64> {
//!         Effect::persist(Changed::Added { by: add.by }).reply(|state| *state)
//!     }
//! }
//!
//! impl Handle<Get> for Counter {
//!     fn handle(&self, state: &i64, _: Get, _: &Context) -> Effect<Self, i64> {
//!         Effect::reply(*state)
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let data = dir.path();
//! let node = Node::builder(data).register(Counter).start().await?;
//! let counter = node.entity::<Counter>("one")?;
//! assert_eq!(counter.ask(Add { by: 2 }).await?, 2);
//! assert_eq!(counter.ask(Get).await?, 2);
//! node.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! A handler that does not answer does not compile:
//!
//! ```compile_fail,E0308
//! # use duractor::prelude::*;
//! # #[derive(Event)] enum Changed { Added { by: i64 } }
//! # #[derive(Command)] #[command(reply = i64)] struct Add { by: i64 }
//! # struct Counter;
//! # impl EventSourced for Counter {
//! #     const KIND: &'static str = "counter";
//! #     type State = i64;
//! #     type Event = Changed;
//! #     type Commands = (Add,);
//! #     fn apply(_: &mut i64, _: &Changed) {}
//! # }
//! impl Handle<Add> for Counter {
//!     fn handle(&self, _: &i64, add: Add, _: &Context) -> Effect<Self, i64> {
//!         Effect::persist(Changed::Added { by: add.by })
//!     }
//! }
//! ```
//!
//! # Where to look
//!
//! | you want | look at |
//! |---|---|
//! | to write an entity | [`EventSourced`], [`Handle`], [`Effect`]; [`DurableState`] for one that keeps only its newest state |
//! | its events and commands | [`Event`] and [`event`], [`Command`]; [`golden`] for your tests |
//! | to send commands | [`Node::entity`], [`EntityRef`], [`Ask`] |
//! | to send them from a process that is no node of the cluster | [`Client`] |
//! | one task in the whole cluster, or several | [`NodeBuilder::singleton`], [`NodeBuilder::workers`] |
//! | one that runs at certain times | [`NodeBuilder::scheduled`], [`Schedule`] |
//! | what only the leader does | [`Leader`], [`NodeBuilder::leader_handler`] |
//! | locks of the cluster | [`Node::lock`], [`Guard`]; [`Semaphore`], [`Barrier`], [`Session`] |
//! | to know whether a failed command took effect | [`AskError::effect`] |
//! | to set limits and snapshots | [`EntitySettings`], [`NodeBuilder`] |
//!
//! # The way of a command
//!
//! The modules, in an order in which each uses only those above it:
//!
//! ```text
//! codec, event, command     names, versions and bytes
//! meta/                     what is kept of an entity beside its state, as reserved events
//! load                      how much is asked of which shard and entity
//! entity, intent, effect    what a user writes, and what a handler decides
//! outcome                   what came of a command to another entity
//! delivery, commands        a command with its caller; one that arrives as bytes
//! pending, route/           questions that wait; commands on their way to other nodes, and from them
//! step/, look               commands of the framework itself: steps of transactions, looks at an entity
//! core/                     decisions: state, pipeline, dedup window; no actors, no clock, no journal
//! hold, shared, slot/, kind who owns a shard; where commands wait; which entities are in memory
//! shadow                    states of entities that run elsewhere, from this node's replica
//! post                      a command from one entity to another, wherever that is
//! lifecycle/                the actor: permit, snapshot, replay, running, persisting, stopping
//! gauges                    what the node counts, for the application's metrics
//! shard, follow             the actors above: spawning, supervising, sweeping; claiming and letting go
//! agenda/                   per shard: who is woken without being called, and when
//! entity_ref, parts, singleton         the ways in
//! schedule/                 singletons that run at certain times
//! transact/, coordinator    commands on several entities, all carried out or none
//! coordination/, leader/    locks and the like as entities; the owner of shard 0
//! node                      all of it together
//! client                    the way in for processes that are no nodes
//! ```
//!
//! `ask` puts the command into its entity's slot (on the node that runs the entity: in a cluster that
//! may be another one, and `route` brings it there), and wakes or starts the entity's actor. The actor
//! handles it on a state that includes uncommitted events, applies its events, and submits them to
//! the journal at once; the next command follows without waiting. When the journal has committed the
//! events, everything that waited for them goes out: replies, side effects, timers, snapshots. If the
//! journal refuses them, the incarnation is dropped with all that was uncommitted, and the next one
//! recovers and goes on with the commands that wait.

// What the derives generate says `::duractor`, within this crate too.
extern crate self as duractor;

pub mod cluster;
pub mod codec;
pub mod command;
pub mod config;
pub mod event;
mod golden;

mod agenda;
mod client;
mod commands;
mod context;
mod coordination;
mod coordinator;
mod core;
mod delivery;
mod durable_state;
mod effect;
mod entity;
mod entity_ref;
mod error;
mod follow;
mod follow_ups;
mod frames;
mod gauges;
mod history;
mod hold;
mod idle;
mod intent;
mod kind;
mod leader;
mod ledger;
mod lifecycle;
pub mod link;
pub mod load;
mod look;
mod meta;
mod node;
mod outcome;
mod parts;
mod pending;
#[cfg(feature = "planted")]
#[doc(hidden)]
pub mod planted;
mod post;
mod replica;
mod route;
mod schedule;
mod settings;
mod shadow;
mod shard;
mod shared;
mod singleton;
mod slot;
mod step;
mod stepping;
mod task;
mod tenant;
#[doc(hidden)]
pub mod testing;
mod transact;

pub use codec::{CodecError, Payload, Schema, SchemaError, check_schemas};
pub use command::{Command, decode_reply, encode_reply};
pub use event::{Event, Upcast};
pub use golden::{golden, golden_command};

pub use client::{Client, ClientAsk, ClientRef};
pub use context::{Context, SideContext};
pub use coordination::{
    Barrier, CoordinationError, Guard, HolderInfo, Lock, MAX_PARTIES, MAX_PERMITS, Semaphore,
    Session, SessionId, SessionOptions,
};
pub use durable_state::{DurableState, Replace, Replaced};
pub use effect::{Effect, Handle, Persist, Unanswered};
pub use entity::{CommandSet, EventSourced};
pub use entity_ref::{Ask, AskStale, EntityRef, Stale};
pub use error::{AskError, NodeError};
pub use follow_ups::{FollowUps, PendingDelivery, SetReminder};
pub use history::Recorded;
pub use intent::SideError;
pub use leader::{Forward, Leader, LeaderCall, LeaderError, LeaderInfo, Leadership};
pub use ledger::LedgerCounts;
pub use node::{Node, NodeBuilder};
pub use outcome::{Outcome, Undelivered};
pub use schedule::{Occurrence, Schedule};
pub use settings::{EntitySettings, Eviction};
pub use singleton::Singleton;
pub use transact::{Done, Ticket, Transaction, TransactionError, Veto};

pub use duractor_derive::{Command, Event, Payload};
pub use duractor_journal::{
    Effect as TookEffect, EntityId, Env, Journal, JournalError, Member, NodeId, RequestId, Seq,
    ShardId, Timestamp,
};
pub use duractor_snapshot::SnapshotStore;

/// Everything that an entity's source file needs.
pub mod prelude {
    pub use crate::{
        AskError, Command, Context, Effect, EntityRef, EntitySettings, Event, EventSourced, Handle,
        Node, NodeBuilder, Persist,
    };
}

/// What the derives' code refers to. Not for use by hand.
#[doc(hidden)]
pub mod __private {
    pub use crate::{
        codec::{Decoder, Encoder, unknown},
        event::upcast,
    };
    pub use bytes::Bytes;
    pub use std::{
        convert::From,
        primitive::{str, u8, u16},
        result::Result::{self, Err, Ok},
        vec::Vec,
    };
}
