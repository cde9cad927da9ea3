//! The histories find the bugs that are planted in the log.

use std::panic::catch_unwind;

use super::history::run;
use crate::planted::{Planted, plant};

fn finds(bug: Planted) {
    plant(Some(bug));
    let found = (0..60).find(|seed| catch_unwind(|| run(*seed)).is_err());
    plant(None);
    println!("{bug:?} is found by seed {found:?}");
    assert!(found.is_some(), "{bug:?} is not found");
}

macro_rules! finds {
    ($($test:ident: $bug:ident;)+) => {$(
        #[test]
        fn $test() {
            finds(Planted::$bug);
        }
    )+};
}

finds! {
    an_epoch_that_is_not_checked: EpochUnchecked;
    a_sequence_number_that_is_not_checked: SeqUnchecked;
    a_request_that_is_done_twice: DedupForgotten;
    batches_that_go_together_and_do_not: TogetherApart;
    an_answer_before_the_fsync: AckBeforeFsync;
    a_purge_that_takes_events_along: PurgeRetained;
}
