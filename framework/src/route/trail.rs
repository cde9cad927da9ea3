//! What became of a command's tries so far, and what to do next. Decisions only.

use std::time::Duration;

use duractor_journal::{Effect, Member, ShardId};

use crate::error::AskError;

/// The first wait between two tries that nobody pointed to another node in between; it doubles up to
/// the second. A new leader is found within a second or so.
const WAIT_MIN: Duration = Duration::from_millis(5);
const WAIT_MAX: Duration = Duration::from_millis(100);
/// So often in a row the way is asked without waiting.
const HOPS: u32 = 4;

/// The tries of one command.
#[derive(Debug)]
pub(crate) struct Trail {
    shard: ShardId,
    /// A repeat has no effect where an earlier try had one.
    repeatable: bool,
    /// An earlier try may have taken effect.
    unknown: bool,
    hops: u32,
    wait: Duration,
}

/// What to do after a try that failed.
#[derive(Debug)]
pub(crate) enum Next {
    /// Try again: at this node, if one was named, after this long.
    Again { at: Option<Member>, after: Duration },
    /// The caller hears this.
    Failed(AskError),
}

impl Trail {
    /// Nothing was tried yet. `repeatable` where the command has a request id.
    pub(crate) fn new(shard: ShardId, repeatable: bool) -> Self {
        Self { shard, repeatable, unknown: false, hops: 0, wait: WAIT_MIN }
    }

    /// A try at `tried` (`None`: nobody was known) ended with this error.
    pub(crate) fn failed(&mut self, tried: Option<Member>, error: AskError) -> Next {
        let known = error.effect() == Effect::None;
        self.unknown |= !known;
        let passing = match &error {
            AskError::NotOwner { .. } | AskError::Unavailable { .. } => true,
            AskError::Lost { .. } | AskError::OutcomeUnknown { .. } => true,
            AskError::Aborted { .. } => !known,
            _ => false,
        };
        if !passing || (self.unknown && !self.repeatable) {
            return Next::Failed(self.last(error));
        }
        let named = match error {
            AskError::NotOwner { leader, .. } => leader.filter(|leader| Some(*leader) != tried),
            _ => None,
        };
        if named.is_some() && self.hops < HOPS {
            self.hops += 1;
            return Next::Again { at: named, after: Duration::ZERO };
        }
        self.hops = 0;
        let after = self.wait;
        self.wait = (after * 2).min(WAIT_MAX);
        Next::Again { at: named, after }
    }

    /// What the caller is told at last: where an earlier try may have taken effect, that.
    pub(crate) fn last(&self, error: AskError) -> AskError {
        if !self.unknown || error.effect() == Effect::Unknown {
            return error;
        }
        let reason = format!("an earlier try may have been carried out; the last one: {error}");
        AskError::OutcomeUnknown { shard: self.shard, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(3);
    const ONE: Member = Member::new(1, 1);
    const TWO: Member = Member::new(2, 1);

    fn not_owner(leader: Option<Member>) -> AskError {
        AskError::NotOwner { shard: SHARD, leader }
    }

    fn unknown() -> AskError {
        AskError::OutcomeUnknown { shard: SHARD, reason: "the link was lost".into() }
    }

    fn again(next: Next) -> (Option<Member>, Duration) {
        match next {
            Next::Again { at, after } => (at, after),
            Next::Failed(error) => panic!("given up: {error}"),
        }
    }

    #[test]
    fn a_hint_is_followed_at_once_and_not_for_ever() {
        let mut trail = Trail::new(SHARD, false);
        for _ in 0..HOPS / 2 {
            assert_eq!(
                again(trail.failed(Some(ONE), not_owner(Some(TWO)))),
                (Some(TWO), Duration::ZERO)
            );
            assert_eq!(
                again(trail.failed(Some(TWO), not_owner(Some(ONE)))),
                (Some(ONE), Duration::ZERO)
            );
        }
        // Two nodes that point at each other are left in peace for a while.
        assert_eq!(again(trail.failed(Some(ONE), not_owner(Some(TWO)))), (Some(TWO), WAIT_MIN));
    }

    #[test]
    fn waits_grow_up_to_a_bound() {
        let mut trail = Trail::new(SHARD, false);
        let waits: Vec<_> = (0..7).map(|_| again(trail.failed(None, not_owner(None))).1).collect();
        assert_eq!(waits[0], WAIT_MIN);
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(waits[6], WAIT_MAX);
        // Who points to itself points nowhere.
        assert_eq!(again(trail.failed(Some(ONE), not_owner(Some(ONE)))), (None, WAIT_MAX));
    }

    #[test]
    fn what_may_have_happened_is_not_tried_again_without_a_request_id() {
        let mut trail = Trail::new(SHARD, false);
        let Next::Failed(error) = trail.failed(Some(ONE), unknown()) else { panic!("tried again") };
        assert_eq!(error.effect(), Effect::Unknown);
    }

    /// The planted bug of this module: to forget that an earlier try may have been carried out.
    #[test]
    fn a_caller_is_never_told_that_nothing_happened_when_something_may_have() {
        let mut trail = Trail::new(SHARD, true);
        again(trail.failed(Some(ONE), unknown()));
        let refused = AskError::UnknownCommand { kind: "order".into(), command: "Pay".into() };
        assert_eq!(refused.effect(), Effect::None);
        let Next::Failed(error) = trail.failed(Some(TWO), refused) else { panic!("tried again") };
        assert_eq!(error.effect(), Effect::Unknown, "{error}");
        assert_eq!(trail.last(not_owner(None)).effect(), Effect::Unknown);
    }

    #[test]
    fn refusals_of_the_entity_are_for_the_caller() {
        let mut trail = Trail::new(SHARD, true);
        let busy = AskError::NodeBusy { open: 1 };
        let Next::Failed(error) = trail.failed(Some(ONE), busy) else { panic!("tried again") };
        assert_eq!(error.effect(), Effect::None);
    }
}
