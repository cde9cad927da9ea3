//! One life of a log: what is sent to it, and what came of that.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use duractor_journal::{
    AppendBatch, Appended, Journal, JournalError, LogJournal, Position, RecordChunks, Seq,
};
use futures_util::future::BoxFuture;
use tokio::time::sleep;

use super::{
    super::{
        plan::Plan,
        read::Reads,
        report::{Checked, violated},
    },
    history::{Lives, Use},
};
use crate::rng::Rng;

/// What an answer was given to.
pub(super) enum Answer {
    Append(usize, Result<Appended, JournalError>),
    Delete(usize, Seq, Result<(), JournalError>),
    Maintain(Result<(), JournalError>),
}

pub(super) type Answers = Arc<Mutex<Vec<Answer>>>;

/// One life, while the log is open.
pub(super) struct Life<'l, 'a> {
    pub(super) lives: &'l mut Lives<'a>,
    pub(super) plan: &'l Plan,
    pub(super) journal: Arc<LogJournal>,
    pub(super) answers: Answers,
    /// Follows a shard while it is written to.
    pub(super) tail: Option<(RecordChunks, Position)>,
    /// The disk has as little room as the plan says.
    pub(super) tight: bool,
    /// The shutdown has begun.
    pub(super) closing: bool,
}

impl Life<'_, '_> {
    pub(super) fn rng(&mut self) -> &mut Rng {
        &mut self.lives.rng
    }

    pub(super) fn down(&self) -> bool {
        self.lives.sim.disk().is_down()
    }

    pub(super) fn reads(&self) -> Reads {
        if self.plan.failing() || self.down() { Reads::MayFail } else { Reads::Work }
    }

    pub(super) fn submit(&mut self, index: usize, batch: AppendBatch) {
        let lives = &mut *self.lives;
        let number = lives.model.sent.len();
        lives.trace.line(|| {
            let (events, seq, epoch) = (batch.events.len(), batch.expected_seq, batch.epoch);
            format!("  submit #{number}: {events} after {} {seq}, {epoch}", batch.entity)
        });
        lives.model.send(index, batch.clone());
        lives.uses[index].waiting += 1;
        let answers = self.answers.clone();
        let done = move |result| push(&answers, Answer::Append(number, result));
        self.journal.submit(batch, Box::new(done));
    }

    /// Waits for a call beside the load.
    pub(super) fn answer<T: Send + 'static>(
        &self,
        call: BoxFuture<'static, Result<T, JournalError>>,
        as_answer: impl FnOnce(Result<T, JournalError>) -> Answer + Send + 'static,
    ) {
        let answers = self.answers.clone();
        tokio::spawn(async move { push(&answers, as_answer(call.await)) });
    }

    pub(super) fn take_answers(&mut self) -> Checked {
        let answers = std::mem::take(&mut *lock(&self.answers));
        for answer in answers {
            match answer {
                Answer::Append(number, result) => self.appended(number, &result)?,
                Answer::Delete(index, to, result) => {
                    self.answered(index, result.is_err());
                    self.lives.trace.line(|| format!("  deleted {index} to {to}: {result:?}"));
                    self.lives.model.deleted(index, to, &result);
                    result.or_else(|error| self.failed(&error))?;
                }
                // It is cut short by a shutdown.
                Answer::Maintain(Err(JournalError::Closed)) if self.closing => {}
                Answer::Maintain(result) => result.or_else(|error| self.failed(&error))?,
            }
        }
        Ok(())
    }

    fn appended(&mut self, number: usize, result: &Result<Appended, JournalError>) -> Checked {
        self.lives.trace.line(|| format!("  answer #{number}: {result:?}"));
        let index = self.lives.model.sent[number].entity;
        let position = result.as_ref().map_or(u64::MAX, |appended| appended.position.to_u64());
        self.lives.trace.mix(position ^ number as u64);
        self.lives.model.answered(number, result)?;
        let wrong = self.lives.wrong.contains(&number);
        // An entity's pipeline is off after any refusal, but for the intended ones.
        let was_broken = self.lives.uses[index].broken;
        self.answered(index, result.is_err() && !wrong);
        match result {
            Ok(_) if wrong => violated(format!("batch #{number} was taken, and is wrong")),
            Err(JournalError::WrongExpectedSeq { .. }) if wrong || was_broken => Ok(()),
            Err(JournalError::StaleEpoch { .. }) if wrong => Ok(()),
            Ok(_) => Ok(()),
            Err(error) => self.failed(error),
        }
    }

    fn answered(&mut self, index: usize, broken: bool) {
        let used = &mut self.lives.uses[index];
        used.waiting = used.waiting.saturating_sub(1);
        used.broken |= broken;
    }

    /// Lets everything happen that needs no time, and takes up again what failed.
    pub(super) async fn settle(&mut self) -> Checked {
        sleep(Duration::from_millis(1)).await;
        self.take_answers()?;
        for index in 0..self.lives.uses.len() {
            let used = self.lives.uses[index];
            if used.broken && used.waiting == 0 {
                self.refresh(index).await?;
            }
        }
        Ok(())
    }

    /// Reads an entity's head, to go on from there.
    pub(super) async fn refresh(&mut self, index: usize) -> Checked {
        let id = self.lives.model.entities[index].id.clone();
        match self.journal.head(&id).await {
            Ok(head) if head.last_seq < self.lives.model.kept_to(index) => {
                violated(format!("the head of {id} went back to {}", head.last_seq))
            }
            Ok(head) => {
                self.lives.uses[index] =
                    Use { accepted: Some(head.last_seq), waiting: 0, broken: false };
                Ok(())
            }
            Err(error) => self.reads().failed(&error),
        }
    }

    /// A call that failed, although nothing was wrong with it.
    pub(super) fn failed(&self, error: &JournalError) -> Checked {
        let expected = match error {
            JournalError::DiskFull { .. } => self.plan.room.is_some() || self.plan.failing(),
            JournalError::Failed { .. }
            | JournalError::FailedUnderWay { .. }
            | JournalError::Read { .. }
            | JournalError::Io { .. }
            | JournalError::Unavailable { .. } => self.lives.trouble(self.plan),
            // What waits for room on a full disk is given up at last.
            JournalError::Closed | JournalError::OutcomeUnknown { .. } => {
                self.closing && self.tight
            }
            // A claim that failed leaves an epoch that nobody has.
            JournalError::StaleEpoch { .. } => self.lives.trouble(self.plan),
            _ => false,
        };
        if expected { Ok(()) } else { violated(format!("a call failed: {error}")) }
    }
}

fn push(answers: &Answers, answer: Answer) {
    lock(answers).push(answer);
}

fn lock(answers: &Answers) -> MutexGuard<'_, Vec<Answer>> {
    answers.lock().unwrap_or_else(PoisonError::into_inner)
}
