//! Who runs a shard's entities: this node under an epoch, or another. And how reads make sure.
//!
//! ```text
//!                 mine                  claimed             leaving
//!   Other ───────────────► Claiming ───────────────► Held ───────────► Leaving
//!     ▲                     ▲ ▲ │                    │ │                │   │
//!     │        other        │ │ │       fenced       │ │                │   │
//!     ├─────────────────────┼─┼─┴────────────────────┼─┘                │   │
//!     │                     │ └──────────────────────┘      other       │   │
//!     ├─────────────────────┼───────────────────────────────────────────┘   │
//!                           └──────────────── mine ─────────────────────────┘
//! ```
//!
//! The node's [`Follower`](crate::follow) moves a shard between these; commands and entities only
//! look. Commands are taken in all states but the first, and handled in `Held` alone: in the others they
//! wait. Those that wait while the shard is leaving are sent on to the next owner.
//!
//! An owner that was deposed may not know it yet. Its writes are refused by the journal, but what it
//! has in memory it could still tell. So an answer that rests on memory alone waits until the journal
//! has [confirmed](duractor_journal::Journal::confirm) the epoch, once for all reads that wait on the
//! shard. A confirmation that was asked for before a read came says nothing about that read: it waits
//! for the next one. Where the owner never changes, as on one node, nothing waits.

use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, SeqCst},
        },
    },
};

use duractor_journal::{JournalError, Member, ShardId, Term};
use tokio::sync::Notify;

use crate::{error::AskError, task::until};

/// This node's part in a shard.
pub(crate) struct Hold {
    shard: ShardId,
    /// The epoch of [`Who::Held`], and 0 in all other states: so that commands need no lock.
    epoch: AtomicU64,
    /// Incarnations up to this epoch wait no longer for what became of their writes.
    overdue: AtomicU64,
    inner: Mutex<Inner>,
    /// What runs because this node owns the shard, or was about to when it began.
    guests: AtomicUsize,
    /// Woken at every change.
    changed: Notify,
}

struct Inner {
    who: Who,
    reads: Reads,
}

/// Whose shard it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Other {
        leader: Option<Member>,
    },
    Claiming {
        term: Term,
    },
    Held {
        term: Term,
    },
    /// This node leads, and hands over to that one.
    Leaving {
        to: Member,
    },
}

/// Under what an incarnation works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tenure {
    pub(crate) epoch: Term,
    /// The owner never changes: reads need no confirmation.
    pub(crate) for_ever: bool,
}

/// An incarnation that waits for a confirmation.
pub(crate) trait Reader: Send + Sync {
    /// What became of the round, for the incarnation of this generation. Must not block.
    fn confirmed(&self, generation: u32, round: u64, result: Result<(), JournalError>);
}

type Waiter = (Arc<dyn Reader>, u32);

/// The rounds of confirmations. One runs at a time; who comes meanwhile waits for the next.
#[derive(Default)]
struct Reads {
    round: u64,
    running: bool,
    /// Those of the round that runs.
    now: Vec<Waiter>,
    next: Vec<Waiter>,
}

/// Which round a reader waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) round: u64,
    /// Whether the caller is to run it.
    pub(crate) begin: bool,
}

impl Hold {
    /// A shard of which nothing is known yet.
    pub(crate) fn new(shard: ShardId) -> Self {
        let inner = Inner { who: Who::Other { leader: None }, reads: Reads::default() };
        Self {
            shard,
            epoch: AtomicU64::new(0),
            overdue: AtomicU64::new(0),
            inner: Mutex::new(inner),
            guests: AtomicUsize::new(0),
            changed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn shard(&self) -> ShardId {
        self.shard
    }

    /// The epoch under which this node owns the shard, if it does.
    pub(crate) fn epoch(&self) -> Option<Term> {
        Some(self.epoch.load(SeqCst)).filter(|epoch| *epoch > 0).map(Term)
    }

    /// Whether this epoch is the one under which this node owns the shard.
    pub(crate) fn is_held(&self, epoch: Term) -> bool {
        self.epoch() == Some(epoch)
    }

    /// Whether commands for the shard are taken: this node owns it, is about to, or hands it over.
    pub(crate) fn check(&self) -> Result<(), AskError> {
        if self.epoch().is_some() {
            return Ok(());
        }
        let who = self.lock().who;
        match who {
            Who::Other { leader } => Err(AskError::NotOwner { shard: self.shard, leader }),
            Who::Claiming { .. } | Who::Held { .. } | Who::Leaving { .. } => Ok(()),
        }
    }

    /// Who leads the shard where this node does not, as far as its replica knows.
    pub(crate) fn believed(&self) -> Option<Member> {
        match self.lock().who {
            Who::Other { leader } => leader,
            Who::Claiming { .. } | Who::Held { .. } | Who::Leaving { .. } => None,
        }
    }

    /// The error for what cannot be answered because this node is not the owner, or not the one
    /// that it was.
    pub(crate) fn not_owner(&self) -> JournalError {
        let who = self.lock().who;
        self.refusal(who)
    }

    fn refusal(&self, who: Who) -> JournalError {
        let leader = match who {
            Who::Other { leader } => leader,
            Who::Leaving { to } => Some(to),
            Who::Claiming { .. } | Who::Held { .. } => None,
        };
        JournalError::NotLeader { shard: self.shard, leader }
    }

    /// Waits until this node owns the shard, or does not.
    pub(crate) async fn tenure(&self) -> Result<Tenure, AskError> {
        until(&self.changed, || self.now()).await
    }

    /// `None` while the shard is being claimed or handed over.
    fn now(&self) -> Option<Result<Tenure, AskError>> {
        let inner = self.lock();
        match inner.who {
            Who::Held { term } => {
                let epoch = Term(self.epoch.load(Acquire));
                Some(Ok(Tenure { epoch, for_ever: term == Term(0) }))
            }
            Who::Other { leader } => Some(Err(AskError::NotOwner { shard: self.shard, leader })),
            Who::Claiming { .. } | Who::Leaving { .. } => None,
        }
    }

    /// Waits for something that changes with who owns the shard.
    pub(crate) async fn until<T>(&self, look: impl Fn() -> Option<T>) -> T {
        until(&self.changed, look).await
    }

    /// Waits until this node owns the shard, and says under which epoch.
    pub(crate) async fn held(&self) -> Term {
        until(&self.changed, || self.epoch()).await
    }

    /// Waits until this node does not own the shard under this epoch.
    pub(crate) async fn lost(&self, epoch: Term) {
        until(&self.changed, || (!self.is_held(epoch)).then_some(())).await;
    }

    /// Something begins to run, and is waited for when the shard is handed over. Whoever enters must
    /// look afterwards whether the epoch is still in force.
    pub(crate) fn enter(&self) {
        // One order with the end of an epoch: either that is seen after this, or this by `empty`.
        self.guests.fetch_add(1, SeqCst);
    }

    /// It has ended.
    pub(crate) fn leave(&self) {
        if self.guests.fetch_sub(1, SeqCst) == 1 {
            self.changed.notify_waiters();
        }
    }

    /// Waits until nothing runs.
    pub(crate) async fn empty(&self) {
        until(&self.changed, || (self.guests.load(SeqCst) == 0).then_some(())).await;
    }

    /// Whether incarnations of this epoch should have heard what became of their writes by now.
    pub(crate) fn is_overdue(&self, epoch: Term) -> bool {
        epoch.0 <= self.overdue.load(Acquire)
    }
}

/// Changes. Each ends what was before; where an epoch ended, it is returned.
impl Hold {
    /// This node leads under `term`, and is to claim the shard. `Err` where that is known already.
    pub(crate) fn mine(&self, term: Term) -> Result<Option<Term>, ()> {
        let inner = self.lock();
        match inner.who {
            Who::Claiming { term: known } | Who::Held { term: known } if known == term => Err(()),
            _ => Ok(self.change(inner, Who::Claiming { term }, 0)),
        }
    }

    /// The claim under this leadership succeeded. False where that is over already.
    pub(crate) fn claimed(&self, term: Term, epoch: Term) -> bool {
        let inner = self.lock();
        if inner.who != (Who::Claiming { term }) {
            return false;
        }
        self.change(inner, Who::Held { term }, epoch.0);
        true
    }

    /// Another node leads, or none.
    pub(crate) fn other(&self, leader: Option<Member>) -> Option<Term> {
        self.change(self.lock(), Who::Other { leader }, 0)
    }

    /// This node hands the shard over: what waits is kept for the next owner.
    pub(crate) fn leaving(&self, to: Member) -> Option<Term> {
        self.change(self.lock(), Who::Leaving { to }, 0)
    }

    /// The journal knows a newer epoch. Returns the leadership under which the shard is to be claimed
    /// again, where this is the first that is heard of it; and `Err` where ownership never changes,
    /// so that somebody else must have taken the journal itself.
    pub(crate) fn fenced(&self, epoch: Term) -> Result<Option<Term>, ()> {
        let inner = self.lock();
        match inner.who {
            Who::Held { term: Term(0) } if self.is_held(epoch) => Err(()),
            Who::Held { term } if self.is_held(epoch) => {
                self.change(inner, Who::Claiming { term }, 0);
                Ok(Some(term))
            }
            _ => Ok(None),
        }
    }

    /// Incarnations up to this epoch wait no longer for their writes.
    pub(crate) fn give_up_on(&self, epoch: Term) {
        self.overdue.fetch_max(epoch.0, AcqRel);
    }

    fn change(&self, mut inner: MutexGuard<'_, Inner>, who: Who, epoch: u64) -> Option<Term> {
        inner.who = who;
        let ended = self.epoch.swap(epoch, SeqCst);
        let waiters = inner.reads.abandon();
        drop(inner);
        self.changed.notify_waiters();
        for ((reader, generation), round) in waiters {
            reader.confirmed(generation, round, Err(self.refusal(who)));
        }
        Some(Term(ended)).filter(|epoch| epoch.0 > 0)
    }
}

/// Confirmations.
impl Hold {
    /// Waits, with others, for the next confirmation of this epoch.
    pub(crate) fn join(
        &self,
        epoch: Term,
        reader: Arc<dyn Reader>,
        generation: u32,
    ) -> Result<Joined, JournalError> {
        let mut inner = self.lock();
        if !self.is_held(epoch) {
            drop(inner);
            return Err(self.not_owner());
        }
        let reads = &mut inner.reads;
        if reads.running {
            reads.next.push((reader, generation));
            return Ok(Joined { round: reads.round + 1, begin: false });
        }
        reads.running = true;
        reads.round += 1;
        reads.now.push((reader, generation));
        Ok(Joined { round: reads.round, begin: true })
    }

    /// A round is over. Returns the next one, which the caller is to run, where somebody waits for
    /// it.
    pub(crate) fn finished(&self, round: u64, result: &Result<(), JournalError>) -> Option<u64> {
        let mut inner = self.lock();
        let reads = &mut inner.reads;
        if !reads.running || reads.round != round {
            // It was abandoned, and everybody has heard.
            return None;
        }
        let done = mem::replace(&mut reads.now, mem::take(&mut reads.next));
        reads.running = !reads.now.is_empty();
        let next = reads.running.then(|| {
            reads.round += 1;
            reads.round
        });
        drop(inner);
        for (reader, generation) in done {
            reader.confirmed(generation, round, result.clone());
        }
        next
    }
}

impl Reads {
    /// Nobody is to hear of what runs: the epoch has ended. Returns who waits, and for which round.
    fn abandon(&mut self) -> Vec<(Waiter, u64)> {
        let (round, next) = (self.round, self.round + 1);
        // Past both, so that the end of the round that runs is not taken for that of a later one.
        self.round += 2;
        self.running = false;
        let now = self.now.drain(..).map(|waiter| (waiter, round));
        now.chain(self.next.drain(..).map(|waiter| (waiter, next))).collect()
    }
}

#[cfg(test)]
mod tests {
    use duractor_journal::Member;
    use futures_util::FutureExt;

    use super::*;

    const TO: Member = Member::new(2, 1);

    /// Cause: a shard that was handed over refused commands from the moment its entities stopped, and
    /// nobody led it yet. Consequence: callers ran from node to node until somebody did. Now they wait
    /// where they are until the next owner is known, and are sent there.
    #[test]
    fn commands_wait_while_the_shard_is_handed_over() {
        let hold = Hold::new(ShardId(3));
        hold.mine(Term(5)).expect("new");
        assert!(hold.claimed(Term(5), Term(7)));
        assert_eq!(hold.leaving(TO), Some(Term(7)), "the epoch ends");
        assert!(hold.check().is_ok(), "commands are taken");
        assert!(!hold.is_held(Term(7)) && hold.tenure().now_or_never().is_none(), "and wait");
        assert_eq!(hold.believed(), None);
        assert_eq!(hold.other(Some(TO)), None);
        let gone = hold.tenure().now_or_never().expect("it is over");
        assert!(matches!(gone, Err(AskError::NotOwner { leader: Some(TO), .. })), "{gone:?}");
    }

    #[test]
    fn a_hand_over_that_failed_leads_to_a_new_claim() {
        let hold = Hold::new(ShardId(3));
        hold.mine(Term(5)).expect("new");
        assert!(hold.claimed(Term(5), Term(7)));
        hold.leaving(TO);
        assert_eq!(hold.mine(Term(5)), Ok(None), "the same leadership, claimed again");
        assert!(hold.claimed(Term(5), Term(8)));
        let tenure = hold.tenure().now_or_never().expect("held").expect("held");
        assert_eq!(tenure.epoch, Term(8));
    }
}
