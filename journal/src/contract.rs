//! The suite that every implementation of the [`Journal`] port passes.
//!
//! A test file implements [`Provider`] and makes one test of each case:
//!
//! ```
//! use std::sync::Arc;
//! use duractor_journal::{Journal, Limits, MemoryJournal, contract::Provider};
//!
//! struct Memory;
//!
//! impl Provider for Memory {
//!     async fn open(&self) -> Arc<dyn Journal> {
//!         MemoryJournal::new(4, Limits::default())
//!     }
//! }
//!
//! duractor_journal::journal_contract!(Memory);
//! # fn main() {}
//! ```
//!
//! A case panics where the implementation breaks a guarantee. Cases wait for commits and records,
//! never for time; one that waits for ever is ended after [`GIVE_UP_AFTER`].
//!
//! | module | guarantees |
//! |---|---|
//! | `kit` | none: what the cases are written with |
//! | `append` | order, atomicity, expected sequence numbers, epochs |
//! | `together` | batches of several entities that are written together |
//! | `limits` | what a batch may hold |
//! | `read` | replay, head, delete, and that records come back as written |
//! | `tail` | commit order, once each, live; the end |
//! | `restart` | everything is there after reopening (skipped where nothing persists) |
//! | `model` | random operations against a model |

use std::{future::Future, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use crate::port::Journal;

mod append;
mod kit;
mod limits;
mod model;
mod read;
mod restart;
mod tail;
mod together;

pub use append::*;
pub use limits::*;
pub use model::*;
pub use read::*;
pub use restart::*;
pub use tail::*;
pub use together::*;

/// How long a case may take before it counts as hanging, on tokio's clock.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(180);

/// Makes the journals that the suite tries.
///
/// They need at least 2 shards, and limits of at least 1 KiB a payload and 8 events a batch; a
/// largest payload must fit into a batch, and 1 MiB must be able to wait to be written. Small limits
/// make a fast suite.
pub trait Provider: Send + Sync {
    /// Whether [`reopen`](Provider::reopen) finds again what was written. Where not, the cases of
    /// restarts are skipped, and say so.
    const PERSISTS: bool = false;

    /// A new, empty journal.
    fn open(&self) -> impl Future<Output = Arc<dyn Journal>> + Send;

    /// Ends a journal, by [`shutdown`](Journal::shutdown) or less gently, and opens again what it
    /// has written. It is the one opened last, and the suite has no other handle to it and no
    /// stream of it. Everything acknowledged must be there.
    fn reopen(&self, old: Arc<dyn Journal>) -> impl Future<Output = Arc<dyn Journal>> + Send {
        async { old }
    }

    /// Does whatever the journal otherwise does in the background (sealing, clustering, compacting
    /// of files), now. Nothing that a reader sees may change by it.
    fn maintain(&self, journal: &Arc<dyn Journal>) -> impl Future<Output = ()> + Send {
        let _ = journal;
        async {}
    }
}

/// One case of the suite, as a value: for test files that bring their own way of running them.
pub struct Case<P> {
    /// The name of its function.
    pub name: &'static str,
    run: for<'p> fn(&'p P) -> BoxFuture<'p, ()>,
}

impl<P: Provider> Case<P> {
    /// Tries the implementation.
    ///
    /// # Panics
    /// Where it breaks the guarantee.
    pub async fn run(&self, provider: &P) {
        guard(self.name, (self.run)(provider)).await;
    }
}

/// Runs a case, and panics where it hangs.
///
/// # Panics
/// After [`GIVE_UP_AFTER`].
pub async fn guard(name: &str, case: impl Future<Output = ()>) {
    let in_time = tokio::time::timeout(GIVE_UP_AFTER, case).await;
    assert!(in_time.is_ok(), "{name} waits for something that does not come");
}

/// Runs all cases one after the other, on journals of their own.
///
/// # Panics
/// At the first guarantee that is broken.
pub async fn run_all<P: Provider>(provider: &P) {
    for case in cases::<P>() {
        case.run(provider).await;
    }
}

/// Hands the names of all cases to a macro, after what it is given itself: the one list of them.
#[doc(hidden)]
#[macro_export]
macro_rules! journal_contract_cases {
    ($then:path, $($given:tt)*) => {
        $then! { $($given)*;
            events_are_numbered_without_gaps
            a_batch_is_written_whole_or_not_at_all
            readers_never_see_part_of_a_batch
            a_wrong_expected_seq_is_refused
            batches_of_one_entity_are_pipelined
            an_append_is_taken_up_by_the_call
            completions_come_in_commit_order
            a_refused_batch_takes_those_after_it_along
            a_stale_epoch_cannot_append
            a_claim_settles_what_came_before
            a_stale_epoch_cannot_delete
            claims_give_growing_terms
            shards_are_claimed_apart
            an_unknown_shard_is_refused
            concurrent_appenders_on_many_entities
            concurrent_appenders_on_one_entity
            batches_go_together_or_not_at_all
            batches_that_go_together_are_one_entry
            batches_that_go_together_are_pipelined
            a_stale_epoch_cannot_append_together
            malformed_batches_do_not_go_together
            the_largest_payload_fits_and_no_larger
            an_event_may_have_no_payload
            the_fullest_batch_fits_and_no_fuller
            a_batch_of_too_many_bytes_is_refused
            malformed_batches_are_refused
            replay_gives_the_range_asked_for
            an_unknown_entity_has_nothing
            ten_thousand_events_in_order
            deleting_everything_keeps_the_head
            deleted_events_are_not_replayed
            deleting_beyond_the_end_deletes_what_is_there
            deleting_leaves_other_entities_alone
            deletions_are_told_of_a_shard
            records_come_back_as_written
            any_key_has_its_own_stream
            an_acknowledged_event_is_read_at_once
            maintenance_changes_nothing
            tail_gives_each_record_once_in_order
            tail_starts_after_any_position
            tail_waits_for_what_comes
            tail_keeps_to_its_shard
            tail_under_concurrent_writers
            a_slow_tail_misses_nothing
            tail_misses_only_deleted_events
            shutdown_finishes_what_was_taken
            after_shutdown_everything_is_closed
            everything_is_there_after_reopening
            what_went_together_is_there_after_reopening
            deletes_outlast_reopening
            terms_grow_across_reopening
            tail_goes_on_across_reopening
            writes_taken_before_shutdown_outlast_it
            an_empty_journal_reopens
            agrees_with_a_model
            agrees_with_a_model_under_maintenance
        }
    };
}

/// Makes one test of each case of the [suite](crate::contract), in the module where it stands. The
/// argument makes a [`Provider`](crate::contract::Provider); it is evaluated once for each test.
/// Attributes before it take the place of `#[tokio::test]`.
#[macro_export]
macro_rules! journal_contract {
    ($(#[$attribute:meta])+ $provider:expr) => {
        $crate::journal_contract_cases!(
            $crate::journal_contract_tests, [$(#[$attribute])+] $provider
        );
    };
    ($provider:expr) => {
        $crate::journal_contract!(#[tokio::test] $provider);
    };
}

/// The tests of [`journal_contract`].
#[doc(hidden)]
#[macro_export]
macro_rules! journal_contract_tests {
    ([$($attributes:tt)+] $provider:expr; $($case:ident)+) => {
        $crate::journal_contract_tests!(@each [$($attributes)+] [$provider] $($case)+);
    };
    (@each $attributes:tt $provider:tt $($case:ident)+) => {
        $($crate::journal_contract_tests!(@one $attributes $provider $case);)+
    };
    (@one [$($attributes:tt)+] [$provider:expr] $case:ident) => {
        $($attributes)+
        async fn $case() {
            let provider = $provider;
            $crate::contract::guard(
                stringify!($case),
                $crate::contract::$case(&provider),
            )
            .await;
        }
    };
}

macro_rules! case_values {
    (; $($case:ident)+) => {
        /// All cases, in the order to try them in.
        #[must_use]
        pub fn cases<P: Provider>() -> Vec<Case<P>> {
            vec![$(Case { name: stringify!($case), run: |provider| Box::pin($case(provider)) }),+]
        }
    };
}

journal_contract_cases!(case_values,);
