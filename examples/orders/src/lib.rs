//! An order service on Duractor: the orders are durable entities, and there is no database.
//!
//! Start with [`domain`]: it is the application. [`http`] and [`error`] put it on the network,
//! [`serve()`] runs it, on one node or as one of several, and [`demo`] kills it and checks that nothing
//! is lost.
//!
//! [`checkout`] is a process over several entities: a customer's [`account`], the order and the [`depot`].
//! It ends in the [`outbox`], which one task of the cluster sends to the outside world. [`invoices`] is a
//! file behind a lock, [`leader`] has what only one node does, and [`shop`] puts all that on the network.

pub mod account;
pub mod certs;
pub mod checkout;
pub mod demo;
pub mod depot;
pub mod domain;
pub mod error;
pub mod http;
pub mod invoices;
pub mod leader;
pub mod outbox;
mod serve;
pub mod shop;
pub mod web;

pub use serve::{Outside, kinds, serve, serve_member};
