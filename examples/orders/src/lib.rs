//! An order service on Duractor: the orders are durable entities, and there is no database.
//!
//! Start with [`domain`]: it is the application. [`http`] and [`error`] put it on the network,
//! [`serve()`] runs it, on one node or as one of several, and [`demo`] kills it and checks that nothing
//! is lost.

pub mod certs;
pub mod demo;
pub mod domain;
pub mod error;
pub mod http;
mod serve;

pub use serve::{serve, serve_member};
