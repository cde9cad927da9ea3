//! A checker of linearizability: whether calls that overlapped gave answers as if each had taken effect
//! at one instant between its begin and its end.
//!
//! It searches as Wing and Gong do (*Testing and verifying concurrent objects*, 1993), with the memory of
//! what was tried that Lowe added (*Testing for linearizability*, 2017). Finding an order may take
//! exponentially long in the number of calls that overlap, which is why histories are checked entity by
//! entity: [`check`] splits them by key. Eight clients with 1 000 calls each take some milliseconds where
//! answers tell much of the state.
//!
//! ```
//! use duractor_testkit::linear::{Call, Outcome, Verdict, check};
//!
//! // A register: what was written, and what was read.
//! enum Op { Write(u64), Read }
//! let step = |_key: &&str, state: &u64, op: &Op, reply: Option<&u64>| match op {
//!     Op::Write(value) => Some(*value),
//!     // A reader that heard nothing may have read anything.
//!     Op::Read => reply.is_none_or(|read| read == state).then_some(*state),
//! };
//! let call = |op, began, ended, reply| {
//!     Call { key: "x", op, began, outcome: Outcome::Replied { at: ended, reply } }
//! };
//! let good = [call(Op::Write(1), 1, 4, 0), call(Op::Read, 2, 3, 0), call(Op::Read, 5, 6, 1)];
//! assert!(check(&good, |_| 0, step).is_ok());
//!
//! // The value is there, and then it is gone.
//! let bad = [call(Op::Write(1), 1, 6, 0), call(Op::Read, 2, 3, 1), call(Op::Read, 4, 5, 0)];
//! assert!(matches!(check(&bad, |_| 0, step), Err(Verdict::NotLinearizable(_))));
//! ```

mod list;
mod search;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, hash::Hash};

use self::search::{Found, search};

/// How many steps a search for one key may take before it is given up: some seconds.
pub const MAX_STEPS: u64 = 20_000_000;

/// One call of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call<K, O, R> {
    /// What it was made on: calls on different keys have nothing to do with each other.
    pub key: K,
    /// What was asked for.
    pub op: O,
    /// When it began: instants of one clock, no two of them equal.
    pub began: u64,
    /// What came of it.
    pub outcome: Outcome<R>,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<R> {
    /// It was answered.
    Replied {
        /// When.
        at: u64,
        /// With what.
        reply: R,
    },
    /// It may have taken effect, once, at any time after it began, or never.
    Unknown,
    /// It had no effect.
    Nothing,
}

/// Why a history did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// There is no order that explains the answers.
    NotLinearizable(Stuck),
    /// There were too many orders to try them all, on the key with this place in the order of keys.
    GivenUp {
        /// How many calls there were on it.
        calls: usize,
    },
}

/// The farthest that an order could be found: a place to begin to look for the fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// An order, by the calls' places in the history, that explains as many of them as could be.
    pub order: Vec<usize>,
    /// The call that has ended there and does not fit in any more.
    pub call: usize,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::NotLinearizable(Stuck { order, call }) => {
                write!(
                    f,
                    "no order explains the answers: at best {order:?}, and call {call} does not fit"
                )
            }
            Verdict::GivenUp { calls } => {
                write!(f, "too many orders of {calls} calls to try them all")
            }
        }
    }
}

impl std::error::Error for Verdict {}

/// Checks a history: calls in any order. `first` gives the state that a key begins with. `step` gives the state
/// after an operation, or `None` where the reply does not fit the state; without a reply, where the caller
/// heard none, any reply fits. A state may not depend on anything but the steps that led to it.
///
/// # Errors
/// What is wrong with the first key that is wrong.
pub fn check<K: Ord, O, R, S: Clone + Eq + Hash>(
    history: &[Call<K, O, R>],
    first: impl Fn(&K) -> S,
    step: impl Fn(&K, &S, &O, Option<&R>) -> Option<S>,
) -> Result<(), Verdict> {
    let mut keys: BTreeMap<&K, Vec<usize>> = BTreeMap::new();
    for (place, call) in history.iter().enumerate() {
        if !matches!(call.outcome, Outcome::Nothing) {
            keys.entry(&call.key).or_default().push(place);
        }
    }
    for (key, places) in keys {
        let calls: Vec<_> = places.iter().map(|place| &history[*place]).collect();
        let spans: Vec<_> = calls.iter().map(|call| (call.began, call.ended())).collect();
        let step = |state: &S, at: usize| step(key, state, &calls[at].op, calls[at].reply());
        match search(&spans, first(key), step, MAX_STEPS) {
            Found::Order => {}
            Found::TooMany => return Err(Verdict::GivenUp { calls: calls.len() }),
            Found::None { order, stuck } => {
                let order = order.into_iter().map(|at| places[at]).collect();
                return Err(Verdict::NotLinearizable(Stuck { order, call: places[stuck] }));
            }
        }
    }
    Ok(())
}

impl<K, O, R> Call<K, O, R> {
    fn ended(&self) -> Option<u64> {
        match self.outcome {
            Outcome::Replied { at, .. } => Some(at),
            Outcome::Unknown | Outcome::Nothing => None,
        }
    }

    fn reply(&self) -> Option<&R> {
        match &self.outcome {
            Outcome::Replied { reply, .. } => Some(reply),
            Outcome::Unknown | Outcome::Nothing => None,
        }
    }
}
