//! The suite that every implementation of the [`Transport`] port passes.
//!
//! A test file implements [`Provider`] and makes one test of each case:
//!
//! ```
//! use std::sync::Arc;
//! use duractor_journal::{
//!     Member, Transport,
//!     transport::{contract::Provider, memory::MemoryNetwork},
//! };
//!
//! struct Memory(MemoryNetwork);
//!
//! impl Provider for Memory {
//!     async fn start(&self, node: u32) -> Arc<dyn Transport> {
//!         self.0.start(Member::new(node, 1), &self.address(node))
//!     }
//!     async fn stop(&self, node: u32) {
//!         self.0.stop(&self.address(node));
//!     }
//!     fn address(&self, node: u32) -> String {
//!         format!("node-{node}:1")
//!     }
//!     fn hold(&self, node: u32, held: bool) {
//!         if held { self.0.hold(&self.address(node)) } else { self.0.release(&self.address(node)) }
//!     }
//! }
//!
//! duractor_journal::transport_contract!(Memory(MemoryNetwork::new()));
//! # fn main() {}
//! ```
//!
//! A case panics where the implementation breaks a promise. Cases wait for events, never for time;
//! one that waits for ever is ended after [`GIVE_UP_AFTER`].

use std::{future::Future, sync::Arc, time::Duration};

use super::Transport;

mod cases;
mod kit;

pub use cases::*;

/// How long a case may take before it counts as hanging, on tokio's clock.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(120);

/// Makes the nodes that the suite connects. Each case has a provider of its own.
///
/// Control frames of up to 1 KiB, and at least 64 KiB of them, must be able to be under way; of Data
/// and Bulk, at least 1 MiB and at most 256 MiB.
pub trait Provider: Send + Sync {
    /// Starts the node `node.1`, the first time or after [`stop`](Self::stop).
    fn start(&self, node: u32) -> impl Future<Output = Arc<dyn Transport>> + Send;

    /// Ends a node as if its process ended. Its address stays.
    fn stop(&self, node: u32) -> impl Future<Output = ()> + Send;

    /// The address to reach a node that was started at some time.
    fn address(&self, node: u32) -> String;

    /// Makes a node read nothing that comes from whoever reached it by [`address`](Self::address), or
    /// read again. The session must outlast the time in which it reads nothing.
    fn hold(&self, node: u32, held: bool);
}

/// Runs a case, and panics where it hangs.
///
/// # Panics
/// After [`GIVE_UP_AFTER`].
pub async fn guard(name: &str, case: impl Future<Output = ()>) {
    let in_time = tokio::time::timeout(GIVE_UP_AFTER, case).await;
    assert!(in_time.is_ok(), "{name} waits for something that does not come");
}

/// Makes one test of each case of the [suite](crate::transport::contract), in the module where it
/// stands. The argument makes a [`Provider`](crate::transport::contract::Provider); it is evaluated
/// once for each test. Attributes before it take the place of `#[tokio::test]`.
#[macro_export]
macro_rules! transport_contract {
    ($(#[$attribute:meta])+ $provider:expr) => {
        $crate::transport_contract!(@each [$(#[$attribute])+] [$provider]
            frames_come_once_each_in_order
            channels_are_apart
            up_comes_before_frames_and_down_after
            a_restarted_peer_gets_a_new_session
            a_peer_that_does_not_read_fills_the_link
            an_unknown_peer_is_not_connected
            the_longest_frames_fit_and_no_longer
            bulk_does_not_hold_up_control
            a_new_receiver_is_told_who_is_up
            forgetting_gives_up_the_link
            both_reach_each_other_over_one_session
            a_peer_is_reached_when_it_comes
        );
    };
    ($provider:expr) => {
        $crate::transport_contract!(#[tokio::test] $provider);
    };
    (@each $attributes:tt $provider:tt $($case:ident)+) => {
        $($crate::transport_contract!(@one $attributes $provider $case);)+
    };
    (@one [$($attributes:tt)+] [$provider:expr] $case:ident) => {
        $($attributes)+
        async fn $case() {
            let provider = $provider;
            let case = $crate::transport::contract::$case(&provider);
            $crate::transport::contract::guard(stringify!($case), case).await;
        }
    };
}
