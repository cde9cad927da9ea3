//! An order service on Duractor: the orders are durable entities, and there is no database.
//!
//! Start with [`domain`]: it is the application. [`http`] and [`error`] put it on the network,
//! [`serve()`] runs it, and [`demo`] kills it and checks that nothing is lost.

pub mod demo;
pub mod domain;
pub mod error;
pub mod http;
mod serve;

pub use serve::serve;
