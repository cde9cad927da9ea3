//! Before everything: the shard must be this node's. Commands that come in the short time between
//! the election of this node and its claim of the shard wait here.
//!
//! Next: [`permit`](super::permit). Also here: what an incarnation does when its tenure ends, and how
//! it makes sure that it has not ended before it answers from memory.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

use duractor_journal::{JournalError, Term};
use futures_util::{FutureExt, future::BoxFuture};
use tokio::time::timeout;

use super::{End, Halt, Incarnation};
use crate::{
    entity::EventSourced,
    error::AskError,
    hold::{Hold, Joined, Tenure},
    shared::{CLAIM, Guest, Shared, not_claimed},
    slot::Slot,
};

/// Waits until the shard is this node's. From then on the incarnation is a guest of the shard; not
/// before, as what waits for the end of a hand-over must not be waited for by it.
pub(super) async fn begin<E: EventSourced>(
    slot: &Slot<E>,
    guest: &mut Option<Guest>,
) -> Result<Tenure, Halt> {
    let Some(hold) = slot.hold() else { return Err(Halt::Deposed) };
    let begun = async {
        loop {
            let tenure = hold.tenure().await.map_err(|_| Halt::Deposed)?;
            let entered = Guest::enter(&slot.kind.shared, slot.shard);
            if hold.is_held(tenure.epoch) {
                return Ok((tenure, entered));
            }
        }
    };
    match timeout(CLAIM, begun).await {
        Ok(begun) => begun.map(|(tenure, entered)| {
            *guest = Some(entered);
            tenure
        }),
        Err(_) => Err(Halt::Refuse(not_claimed(slot.shard))),
    }
}

impl<E: EventSourced> Incarnation<E> {
    /// Looks at whether the shard is still this node's under the same epoch. True where it was just
    /// found out that it is not: the incarnation begins nothing more, and ends when it has heard what
    /// became of its writes.
    pub(super) fn check_tenure(&mut self) -> bool {
        let (Some(hold), Some(core)) = (self.slot.hold(), &mut self.core) else { return false };
        let epoch = self.tenure.epoch;
        if hold.is_held(epoch) {
            return false;
        }
        if hold.is_overdue(epoch) {
            let reason =
                "the shard's owner changed, and the journal did not say in time".to_owned();
            let error = JournalError::OutcomeUnknown { shard: self.slot.shard, reason };
            if let Some(envelope) = core.take_considered() {
                self.slot.refuse(envelope, AskError::journal(error.clone()));
            }
            if core.pipeline().give_up(&error) {
                self.release();
            }
        }
        if matches!(self.end, End::Deposed | End::Crash(_)) {
            return false;
        }
        tracing::debug!(entity = %self.slot.id, %epoch, "deposed");
        self.end = End::Deposed;
        self.timers.clear();
        self.errands.stop();
        true
    }

    /// Asks for a confirmation of the epoch, where reads wait for one.
    pub(super) fn confirm_reads(&mut self) {
        let (Some(hold), Some(core)) = (self.slot.hold(), &mut self.core) else { return };
        if !core.pipeline().has_unasked() {
            return;
        }
        let epoch = self.tenure.epoch;
        match hold.join(epoch, self.slot.clone(), self.generation) {
            Ok(Joined { round, begin }) => {
                core.pipeline().asked(round);
                if begin {
                    let shared = &self.slot.kind.shared;
                    confirm(shared, hold, epoch, round);
                }
            }
            Err(error) => {
                core.pipeline().not_confirmed(&error);
                self.release();
            }
        }
    }
}

/// Runs a round of confirmations, and those that follow: at once where the journal answers at once.
fn confirm(shared: &Arc<Shared>, hold: &Hold, epoch: Term, round: u64) {
    let mut answer = ask(shared, hold, epoch);
    let mut cx = Context::from_waker(Waker::noop());
    let mut begun = Some(round);
    while let Some(round) = begun {
        let Poll::Ready(result) = answer.poll_unpin(&mut cx) else {
            let (shared, shard) = (shared.clone(), hold.shard());
            tokio::spawn(async move {
                let Some(shard) = shared.shard(shard) else { return };
                rounds(&shared, &shard.hold, epoch, round, answer).await;
            });
            return;
        };
        begun = finished(shared, hold, round, result);
        if begun.is_some() {
            answer = ask(shared, hold, epoch);
        }
    }
}

async fn rounds(shared: &Shared, hold: &Hold, epoch: Term, first: u64, answer: Answer) {
    let mut result = answer.await;
    let mut round = first;
    while let Some(next) = finished(shared, hold, round, result) {
        round = next;
        result = ask(shared, hold, epoch).await;
    }
}

type Answer = BoxFuture<'static, Result<(), JournalError>>;

fn ask(shared: &Shared, hold: &Hold, epoch: Term) -> Answer {
    shared.journal.confirm(hold.shard(), epoch)
}

fn finished(
    shared: &Shared,
    hold: &Hold,
    round: u64,
    result: Result<(), JournalError>,
) -> Option<u64> {
    if let Err(error) = &result {
        shared.refused(error);
    }
    hold.finished(round, &result)
}
