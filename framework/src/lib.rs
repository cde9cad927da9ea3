//! Durable, event-sourced actors for Rust.

// What the derives generate says `::duractor`, within this crate too.
extern crate self as duractor;

pub mod codec;
pub mod command;
pub mod event;
mod golden;

mod error;
mod settings;
mod context;
mod entity;
mod intent;
mod effect;
mod delivery;
mod ledger;
mod shared;
mod core;
mod idle;
mod slot;
mod lifecycle;
mod shard;
mod entity_ref;
mod parts;
mod node;

pub use codec::{CodecError, Payload, Schema, SchemaError, check_schemas};
pub use command::{Command, decode_reply, encode_reply};
pub use event::{Event, Upcast};
pub use golden::{golden, golden_command};

pub use context::{Context, SideContext};
pub use effect::{Effect, Handle, Persist, Unanswered};
pub use entity::{CommandSet, EventSourced};
pub use entity_ref::{Ask, EntityRef};
pub use error::{AskError, NodeError};
pub use intent::SideError;
pub use ledger::LedgerCounts;
pub use node::{Node, NodeBuilder};
pub use settings::EntitySettings;

pub use duractor_derive::{Command, Event, Payload};
pub use duractor_journal::{
    Effect as TookEffect, EntityId, Env, Journal, RequestId, Seq, Timestamp,
};
pub use duractor_snapshot::SnapshotStore;

/// Everything that an entity's source file needs.
pub mod prelude {
    pub use crate::{
        AskError, Command, Context, Effect, EntityRef, EntitySettings, Event, EventSourced, Handle,
        Node, Persist,
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
