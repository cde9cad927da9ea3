//! Questions to other nodes that wait for their answers: the table behind every protocol of that kind.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use duractor_journal::Member;
use tokio::sync::oneshot;

/// The questions of one node that wait.
pub(crate) struct Pending<T> {
    next: AtomicU64,
    waiting: Mutex<Waiting<T>>,
}

/// Who waits for the answer of whom.
type Waiting<T> = BTreeMap<u64, (Member, oneshot::Sender<T>)>;

/// A question that waits. Forgotten when this is dropped.
pub(crate) struct Question<'a, T> {
    /// The answer has the number of its question.
    pub(crate) id: u64,
    /// Fails where the link to who was asked is lost.
    pub(crate) answer: oneshot::Receiver<T>,
    pending: &'a Pending<T>,
}

impl<T> Pending<T> {
    /// Numbers begin at `first`, which is drawn at random: an answer to an earlier life of this node must
    /// not be taken for one to this.
    pub(crate) fn new(first: u64) -> Self {
        Self { next: AtomicU64::new(first), waiting: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A question to a node, which is yet to be sent. `Err` with how many wait where that are `limit`.
    pub(crate) fn ask(&self, to: Member, limit: usize) -> Result<Question<'_, T>, usize> {
        let (tell, answer) = oneshot::channel();
        let id = self.next.fetch_add(1, Relaxed);
        let mut waiting = self.lock();
        if waiting.len() >= limit {
            return Err(waiting.len());
        }
        waiting.insert(id, (to, tell));
        drop(waiting);
        Ok(Question { id, answer, pending: self })
    }

    /// An answer came. Taken only from who was asked.
    pub(crate) fn answered(&self, from: Member, id: u64, answer: T) {
        let mut waiting = self.lock();
        if waiting.get(&id).is_some_and(|(asked, _)| *asked == from)
            && let Some((_, tell)) = waiting.remove(&id)
        {
            drop(waiting);
            // Whoever stopped waiting does not need it.
            let _ = tell.send(answer);
        }
    }

    /// The link to a node is lost: it will not answer.
    pub(crate) fn lost(&self, peer: Member) {
        let mut waiting = self.lock();
        let (gone, left): (Waiting<T>, _) =
            std::mem::take(&mut *waiting).into_iter().partition(|(_, (to, _))| *to == peer);
        *waiting = left;
        // Nobody is told in the lock: dropping the senders tells.
        drop(waiting);
        drop(gone);
    }
}

impl<T> Drop for Question<'_, T> {
    fn drop(&mut self) {
        self.pending.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Member = Member::new(1, 1);
    const TWO: Member = Member::new(2, 1);

    #[test]
    fn an_answer_is_taken_from_who_was_asked_and_once() {
        let pending = Pending::new(7);
        let mut asked = pending.ask(ONE, 1).map_err(|_| ()).expect("there is room");
        assert_eq!(asked.id, 7);
        assert_eq!(pending.ask(ONE, 1).err(), Some(1), "there is none");
        pending.answered(TWO, 7, "forged");
        assert!(asked.answer.try_recv().is_err());
        pending.answered(ONE, 7, "answer");
        assert_eq!(asked.answer.try_recv(), Ok("answer"));
    }

    #[test]
    fn who_is_lost_does_not_answer_and_who_stops_waiting_is_forgotten() {
        let pending = Pending::<()>::new(0);
        let mut one = pending.ask(ONE, 9).map_err(|_| ()).expect("there is room");
        let two = pending.ask(TWO, 9).map_err(|_| ()).expect("there is room");
        pending.lost(ONE);
        assert_eq!(one.answer.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(pending.lock().len(), 1);
        drop(two);
        assert!(pending.lock().is_empty());
    }
}
