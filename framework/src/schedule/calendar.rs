//! When occurrences are, and which one is next: no clock, no journal.

use std::{str::FromStr, time::Duration};

use chrono::{DateTime, Utc};
use croner::Cron;
use duractor_journal::Timestamp;

use super::record::Record;
use crate::error::NodeError;

/// When a task is to run: see [`NodeBuilder::scheduled`](crate::NodeBuilder::scheduled).
///
/// A cron expression has five fields (minute, hour, day of the month, month, day of the week), or six with
/// the second first, or seven with the year last; or it is a name as `@daily`. Names of months and days,
/// ranges, lists, steps, `L`, `W` and `#` are understood. Where both a day of the month and one of the
/// week are named, either will do. Times are in UTC: there is no other time zone, and so no day on which an
/// occurrence is missing or doubled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    expression: String,
    patience: Option<Duration>,
}

impl Schedule {
    /// Occurrences as this cron expression names them. Whether it is one is checked when the node starts.
    pub fn cron(expression: impl Into<String>) -> Self {
        Self { expression: expression.into(), patience: None }
    }

    /// An occurrence that could not begin within this time, as when the whole cluster was down, is
    /// skipped. Give it more than a failover takes, which is about a second: a minute, say. Unless set,
    /// the latest that was missed is run as soon as there is a node, once, and those before it are not.
    #[must_use]
    pub fn skip_missed(self, after: Duration) -> Self {
        Self { patience: Some(after), ..self }
    }
}

impl From<&str> for Schedule {
    fn from(expression: &str) -> Self {
        Self::cron(expression)
    }
}

impl From<String> for Schedule {
    fn from(expression: String) -> Self {
        Self::cron(expression)
    }
}

/// A schedule that was understood.
#[derive(Debug, Clone)]
pub(super) struct Calendar {
    cron: Cron,
    schedule: Schedule,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing before that time.
    Wait(Timestamp),
    /// Nothing any more.
    Never,
    /// This one, which may have been begun before.
    Run(Timestamp),
    /// It failed, and another one is due.
    GiveUp(Timestamp),
    /// All up to this one were missed.
    Skip(Timestamp),
}

impl Calendar {
    /// # Errors
    /// [`NodeError::InvalidSchedule`]: it is no cron expression, or names a time that never comes.
    pub(super) fn new(name: &str, schedule: Schedule) -> Result<Self, NodeError> {
        let invalid = |reason: String| NodeError::InvalidSchedule {
            name: name.to_owned(),
            expression: schedule.expression.clone(),
            reason,
        };
        let cron = Cron::from_str(&schedule.expression);
        let cron = cron.map_err(|error| invalid(error.to_string()))?;
        let calendar = Self { cron, schedule: schedule.clone() };
        match calendar.after(Timestamp(0)) {
            Some(_) => Ok(calendar),
            None => Err(invalid("it names a time that never comes".to_owned())),
        }
    }

    pub(super) fn expression(&self) -> &str {
        &self.schedule.expression
    }

    /// The first occurrence after this time.
    fn after(&self, time: Timestamp) -> Option<Timestamp> {
        let found = self.cron.find_next_occurrence(&date(time)?, false).ok()?;
        u64::try_from(found.timestamp_millis()).ok().map(Timestamp)
    }

    /// The last occurrence at this time or before.
    fn latest(&self, time: Timestamp) -> Option<Timestamp> {
        let found = self.cron.find_previous_occurrence(&date(time)?, true).ok()?;
        u64::try_from(found.timestamp_millis()).ok().map(Timestamp)
    }

    /// What is to be done at this time by the wall clock. `failed`: the one that was begun has failed since
    /// this run of the singleton began.
    pub(super) fn next(&self, record: &Record, failed: bool, now: Timestamp) -> Next {
        if let Some(begun) = record.begun {
            // Whether it came to its end nobody knows. It is not left half done because time went by;
            // but one that always fails must not hold up the others for ever.
            let superseded = failed && self.after(begun).is_some_and(|later| later <= now);
            return if superseded { Next::GiveUp(begun) } else { Next::Run(begun) };
        }
        let Some(due) = self.after(record.settled) else { return Next::Never };
        if due > now {
            return Next::Wait(due);
        }
        let latest = self.latest(now).filter(|latest| *latest > due).unwrap_or(due);
        let late = Duration::from_millis(now.0.saturating_sub(latest.0));
        match self.schedule.patience {
            Some(patience) if late > patience => Next::Skip(latest),
            _ => Next::Run(latest),
        }
    }
}

/// `None` for times that no calendar has.
fn date(time: Timestamp) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(i64::try_from(time.0).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    /// 2001-09-09 00:00:00 UTC.
    const MIDNIGHT: u64 = 999_993_600_000;
    const THREE: Timestamp = Timestamp(MIDNIGHT + 3 * HOUR);

    fn calendar(schedule: Schedule) -> Calendar {
        Calendar::new("nightly", schedule).unwrap()
    }

    fn nightly() -> Calendar {
        calendar("0 3 * * *".into())
    }

    fn after(time: Timestamp, ms: u64) -> Timestamp {
        Timestamp(time.0 + ms)
    }

    fn settled(time: Timestamp) -> Record {
        Record { settled: time, ..Record::default() }
    }

    fn begun(time: Timestamp) -> Record {
        Record { begun: Some(time), ..settled(Timestamp(time.0 - DAY)) }
    }

    #[test]
    fn it_comes_at_its_time_and_once() {
        let record = settled(Timestamp(MIDNIGHT));
        assert_eq!(nightly().next(&record, false, Timestamp(MIDNIGHT)), Next::Wait(THREE));
        assert_eq!(nightly().next(&record, false, Timestamp(THREE.0 - 1)), Next::Wait(THREE));
        assert_eq!(nightly().next(&record, false, THREE), Next::Run(THREE));
        let tomorrow = Next::Wait(after(THREE, DAY));
        assert_eq!(nightly().next(&settled(THREE), false, after(THREE, 1)), tomorrow);
        // A clock that was set back does not bring it again.
        assert_eq!(nightly().next(&settled(THREE), false, Timestamp(MIDNIGHT)), tomorrow);
    }

    #[test]
    fn of_those_that_were_missed_the_latest_is_run() {
        let now = after(THREE, 4 * DAY + HOUR);
        assert_eq!(nightly().next(&settled(THREE), false, now), Next::Run(after(THREE, 4 * DAY)));
        // One that is due right now is the latest.
        let now = after(THREE, 4 * DAY);
        assert_eq!(nightly().next(&settled(THREE), false, now), Next::Run(now));
    }

    #[test]
    fn or_all_of_them_are_skipped() {
        let skipping =
            calendar(Schedule::cron("0 3 * * *").skip_missed(Duration::from_millis(MINUTE)));
        let last = after(THREE, 4 * DAY);
        let at = |now| skipping.next(&settled(THREE), false, now);
        assert_eq!(at(after(last, MINUTE)), Next::Run(last), "in time still");
        assert_eq!(at(after(last, MINUTE + 1)), Next::Skip(last));
        // What was begun is never skipped.
        let now = after(THREE, 9 * DAY);
        assert_eq!(skipping.next(&begun(THREE), false, now), Next::Run(THREE));
    }

    #[test]
    fn what_was_begun_is_run_again_before_anything_else() {
        let later = after(THREE, 2 * DAY);
        assert_eq!(nightly().next(&begun(THREE), false, later), Next::Run(THREE));
        assert_eq!(nightly().next(&begun(THREE), true, after(THREE, HOUR)), Next::Run(THREE));
        assert_eq!(nightly().next(&begun(THREE), true, after(THREE, DAY)), Next::GiveUp(THREE));
    }

    #[test]
    fn expressions_are_checked() {
        for bad in ["", "0 3 * *", "61 * * * *", "0 3 30 2 *", "every day", "0 0 0 * * * 1969"] {
            let error = Calendar::new("n", bad.into()).unwrap_err();
            assert!(
                matches!(&error, NodeError::InvalidSchedule { expression, .. } if expression == bad),
                "{bad:?}: {error}"
            );
        }
        for good in ["*/5 * * * *", "*/10 * * * * *", "@daily", "0 9 * * MON-FRI", "0 3 29 2 *"] {
            assert!(Calendar::new("n", good.into()).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn one_that_names_a_year_comes_to_an_end() {
        let once = calendar("0 0 3 9 9 * 2001".into());
        assert_eq!(once.next(&settled(Timestamp(MIDNIGHT)), false, THREE), Next::Run(THREE));
        assert_eq!(once.next(&settled(THREE), false, after(THREE, DAY)), Next::Never);
    }
}
