//! The singleton that runs a schedule's occurrences, one after the other.

use std::{future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use duractor_journal::Timestamp;
use futures_util::{FutureExt, future::BoxFuture};
use tokio::time::sleep;

use super::{
    calendar::{Calendar, Next, Schedule},
    record::{Advance, Record, Schedules, Step, record_of},
};
use crate::{
    error::NodeError,
    intent::{SideError, panic_text},
    singleton::{Plan, Singleton},
};

/// The clock is looked at this often at least: it may have been set.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(5);
/// The wait before an occurrence that failed is run again; it doubles up to the second.
const AGAIN_MIN: Duration = Duration::from_millis(100);
const AGAIN_MAX: Duration = Duration::from_secs(5);

/// An occurrence of a schedule, as it is run: see
/// [`NodeBuilder::scheduled`](crate::NodeBuilder::scheduled).
#[derive(Clone)]
pub struct Occurrence {
    singleton: Singleton,
    at: Timestamp,
}

impl Occurrence {
    /// The schedule's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.singleton.name()
    }

    /// When it was due, in milliseconds since 1970. The same in every run of this occurrence, and of no
    /// other one of the schedule.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// Name and time in one: the same in every run of this occurrence, so that whoever gets it can tell
    /// a repeat. Usable as a request id where the name is short (200 bytes).
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}@{}", self.name(), self.at.0)
    }

    /// The fencing token: see [`Singleton::token`]. A later run of an occurrence on another node has a
    /// higher one.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.singleton.token()
    }

    /// The singleton that runs it: for entities, and to hear that the node shuts down.
    #[must_use]
    pub fn singleton(&self) -> &Singleton {
        &self.singleton
    }
}

type Run = dyn Fn(Occurrence) -> BoxFuture<'static, Result<(), SideError>> + Send + Sync;

/// The singleton of a schedule. It is in the shard of its record, so that both move together.
pub(crate) fn plan<F>(
    name: &str,
    schedule: Schedule,
    run: impl Fn(Occurrence) -> F + Send + Sync + 'static,
) -> Result<Plan, NodeError>
where
    F: Future<Output = Result<(), SideError>> + Send + 'static,
{
    let id = record_of(name)?;
    let calendar = Arc::new(Calendar::new(name, schedule)?);
    let run: Arc<Run> = Arc::new(move |occurrence| run(occurrence).boxed());
    Ok(Plan::at(id, move |singleton| {
        let (calendar, run) = (calendar.clone(), run.clone());
        Keeper { calendar, singleton, run, failures: 0 }.keep()
    }))
}

struct Keeper {
    calendar: Arc<Calendar>,
    singleton: Singleton,
    run: Arc<Run>,
    /// How often the occurrence that was begun has failed, one time after the other.
    failures: u32,
}

impl Keeper {
    /// Runs what is due, until the node shuts down. What cannot be recorded ends it, and the singleton is
    /// started again.
    async fn keep(mut self) -> Result<(), SideError> {
        let set = Step::Set(self.calendar.expression().to_owned(), self.singleton.now()?);
        let mut record = self.advance(set).await?;
        loop {
            let now = self.singleton.now()?;
            let name = self.singleton.name();
            let wait = match self.calendar.next(&record, self.failures > 0, now) {
                Next::Wait(due) => Duration::from_millis(due.0.saturating_sub(now.0)),
                Next::Never => Duration::MAX,
                Next::Run(at) => {
                    record = self.advance(Step::Begin(at)).await?;
                    match self.once(at).await {
                        Ok(()) => {
                            self.failures = 0;
                            record = self.advance(Step::Done(at)).await?;
                            continue;
                        }
                        Err(error) => {
                            tracing::warn!(name, at = at.0, error, "an occurrence failed");
                            self.failures += 1;
                            AGAIN_MAX.min(AGAIN_MIN * (1 << (self.failures - 1).min(7)))
                        }
                    }
                }
                Next::GiveUp(at) => {
                    tracing::error!(name, at = at.0, "an occurrence is given up: another is due");
                    self.failures = 0;
                    record = self.advance(Step::GiveUp(at)).await?;
                    continue;
                }
                Next::Skip(to) => {
                    tracing::warn!(name, at = to.0, "an occurrence was missed, and is skipped");
                    record = self.advance(Step::Skip(to)).await?;
                    continue;
                }
            };
            if self.ends_within(wait).await {
                return Ok(());
            }
        }
    }

    async fn once(&self, at: Timestamp) -> Result<(), String> {
        let occurrence = Occurrence { singleton: self.singleton.clone(), at };
        let run = self.run.clone();
        let ran = AssertUnwindSafe(async move { run(occurrence).await }).catch_unwind().await;
        match ran {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(panic) => Err(panic_text(panic.as_ref())),
        }
    }

    async fn advance(&self, step: Step) -> Result<Record, SideError> {
        let record = self.singleton.entity::<Schedules>(self.singleton.name())?;
        Ok(record.ask(Advance { token: self.singleton.token(), step }).await??)
    }

    /// Waits so long, or until it is time to look at the clock; true where the node shuts down meanwhile.
    async fn ends_within(&self, wait: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.singleton.ending() => true,
            () = sleep(wait.min(LOOK_AT_CLOCK)) => false,
        }
    }
}
