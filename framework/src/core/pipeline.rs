//! Answers that wait for commits, in the order in which their commands were handled.

use std::{collections::VecDeque, mem};

use bytes::Bytes;
use duractor_journal::{Effect as TookEffect, JournalError, Seq};

use crate::{
    entity::EventSourced,
    error::AskError,
    intent::{After, BoxEnvelope},
};

/// Room for answers that an idle entity keeps.
const IDLE_CAPACITY: usize = 4;

/// A command that was handled.
pub(crate) struct Held<E: EventSourced> {
    /// Everything up to this event must be committed.
    pub(crate) until: Seq,
    pub(crate) what: What,
    /// None for a command that was stashed: what else it asked for is held all the same.
    pub(crate) envelope: Option<BoxEnvelope<E>>,
    pub(crate) after: After<E>,
    pub(crate) passivate: bool,
    /// The state at `until`, to be saved once that is committed.
    pub(crate) snapshot: Option<Bytes>,
}

/// What a command did.
#[derive(Debug)]
pub(crate) enum What {
    /// It saw a state that may be uncommitted.
    Read,
    /// It saw such a state, and its caller does without the confirmation that it is the newest.
    LeaseRead,
    /// It saw a state of which this node could not make sure that it is the newest.
    Unsure(JournalError),
    /// It repeats a request whose events may be uncommitted.
    Repeat,
    /// It wrote a batch of so many bytes.
    Write(usize),
    /// The batch was committed or refused.
    Written(Result<(), JournalError>),
}

/// An answer that waits no more: with an error in place of the settled answer where there is one.
pub(crate) struct Released<E: EventSourced> {
    pub(crate) held: Held<E>,
    pub(crate) error: Option<AskError>,
}

/// Everything that was handled and not yet answered.
pub(crate) struct Pipeline<E: EventSourced> {
    entries: VecDeque<Held<E>>,
    batches: usize,
    bytes: usize,
    /// The first refusal: nothing after it can be committed.
    failed: Option<JournalError>,
    /// How many answers went out: so many come before the first entry.
    popped: u64,
    /// So many of all answers are confirmed, if they are reads. All, where nothing ever needs to be.
    confirmed: u64,
    /// The rounds of confirmations that are asked for, and how many answers each covers.
    asked: VecDeque<(u64, u64)>,
    /// There are reads for which none is asked for.
    unasked: bool,
}

impl<E: EventSourced> Pipeline<E> {
    pub(crate) fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            batches: 0,
            bytes: 0,
            failed: None,
            popped: 0,
            confirmed: u64::MAX,
            asked: VecDeque::new(),
            unasked: false,
        }
    }

    /// Nothing waits for anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Why this incarnation has no future, if so.
    pub(crate) fn failed(&self) -> Option<&JournalError> {
        self.failed.as_ref()
    }

    /// Whether one batch more may be under way.
    pub(crate) fn has_room(&self, batches: usize, bytes: usize) -> bool {
        self.failed.is_none() && self.batches < batches && (self.batches == 0 || self.bytes < bytes)
    }

    /// Adds an answer. It comes back from [`pop`](Self::pop), at once if it waits for nothing.
    pub(crate) fn push(&mut self, held: Held<E>) {
        if let What::Write(bytes) = held.what {
            self.batches += 1;
            self.bytes += bytes;
        }
        self.unasked |= self.confirmed != u64::MAX && matches!(held.what, What::Read);
        self.entries.push_back(held);
    }

    /// From now on reads wait for confirmations.
    pub(crate) fn confirm_reads(&mut self) {
        self.confirmed = 0;
    }

    /// Whether there are reads for which a confirmation is to be asked for.
    pub(crate) fn has_unasked(&self) -> bool {
        self.unasked && self.failed.is_none()
    }

    /// A round of confirmations begins that covers every read that is here.
    pub(crate) fn asked(&mut self, round: u64) {
        self.unasked = false;
        self.asked.push_back((round, self.popped + self.entries.len() as u64));
    }

    /// Takes in what became of a round of confirmations.
    pub(crate) fn confirmed(&mut self, round: u64, result: Result<(), JournalError>) {
        // A round may have been joined more than once: the last time covers the most.
        let Some(&(_, covered)) = self.asked.iter().rfind(|(asked, _)| *asked == round) else {
            return;
        };
        self.asked.retain(|(asked, _)| *asked > round);
        if let Err(error) = result {
            self.refuse_reads(covered, &error);
        }
        self.confirmed = self.confirmed.max(covered);
    }

    /// No confirmation can be asked for: the reads that wait for one are refused.
    pub(crate) fn not_confirmed(&mut self, error: &JournalError) {
        self.unasked = false;
        self.refuse_reads(u64::MAX, error);
    }

    fn refuse_reads(&mut self, to: u64, error: &JournalError) {
        let unsure = (self.popped..to).zip(&mut self.entries);
        for (_, held) in unsure.filter(|(place, _)| *place >= self.confirmed) {
            if matches!(held.what, What::Read) {
                held.what = What::Unsure(error.clone());
            }
        }
    }

    /// Nobody will hear what becomes of the batches that are under way. False where there are none.
    pub(crate) fn give_up(&mut self, error: &JournalError) -> bool {
        if mem::take(&mut self.batches) == 0 {
            return false;
        }
        self.bytes = 0;
        for held in &mut self.entries {
            if matches!(held.what, What::Write(_)) {
                held.what = What::Written(Err(error.clone()));
            }
        }
        true
    }

    /// Takes in what became of the batch that ends with `last`. Refusals may come before the commits
    /// of earlier batches.
    pub(crate) fn resolve(&mut self, last: Seq, result: Result<(), JournalError>) {
        // The batch comes before what waits for it under the same number.
        let at = self.entries.partition_point(|held| held.until < last);
        if let Some(held) = self.entries.get_mut(at)
            && let What::Write(bytes) = held.what
        {
            self.batches -= 1;
            self.bytes -= bytes;
            held.what = What::Written(result);
        }
    }

    /// The next answer that waits no more.
    pub(crate) fn pop(&mut self) -> Option<Released<E>> {
        match self.entries.front()?.what {
            What::Write(_) => return None,
            What::Read if self.failed.is_none() && self.popped >= self.confirmed => return None,
            _ => {}
        }
        let held = self.entries.pop_front()?;
        self.popped += 1;
        let error = match &held.what {
            What::Written(Err(error)) if self.failed.is_none() => {
                self.failed = Some(error.clone());
                Some(AskError::journal(error.clone()))
            }
            What::Unsure(error) if self.failed.is_none() => Some(AskError::journal(error.clone())),
            _ => self.failed.as_ref().map(|first| aborted(first, &held.what)),
        };
        if self.entries.is_empty() {
            self.entries.shrink_to(IDLE_CAPACITY);
        }
        Some(Released { held, error })
    }

    /// Everything that is left, where nobody will hear of it any more.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Held<E>> {
        self.entries.drain(..)
    }
}

/// The error for a command after the first one that was refused.
fn aborted(first: &JournalError, what: &What) -> AskError {
    let effect = match what {
        What::Read | What::LeaseRead | What::Unsure(_) => TookEffect::None,
        What::Repeat | What::Write(_) => first.effect(),
        // A commit after a refusal contradicts the journal's contract: say the least.
        What::Written(Ok(())) => TookEffect::Unknown,
        What::Written(Err(error)) => error.effect(),
    };
    if matches!((first, effect), (JournalError::NotLeader { .. }, TookEffect::None)) {
        // Callers should hear where to go.
        return AskError::journal(first.clone());
    }
    AskError::Aborted { cause: first.to_string(), effect }
}
