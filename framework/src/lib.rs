//! Durable, event-sourced actors for Rust.

// What the derives generate says `::duractor`, within this crate too.
extern crate self as duractor;

pub mod codec;
pub mod command;
pub mod event;
mod golden;

pub use codec::{CodecError, Payload, Schema, SchemaError, check_schemas};
pub use command::{Command, decode_reply, encode_reply};
pub use event::{Event, Upcast};
pub use golden::{golden, golden_command};

pub use duractor_derive::{Command, Event, Payload};

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
