//! When to wake whom: the entries of one shard on the node that owns it. No clocks, no tasks.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use duractor_journal::{EntityId, Timestamp};

/// An entity that was woken is looked at again after so long, unless it said that it is done: for what
/// nobody thought of.
const LOOK_AGAIN: u64 = 30_000;
/// The first wait after an entity could not be woken; it doubles up to the second.
const RETRY_MIN: u64 = 100;
const RETRY_MAX: u64 = 30_000;
/// Wall clocks jump, so that no wait for one is longer than this.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(5);

/// The plan for one entity. Times of `again` are milliseconds since the node's start.
#[derive(Debug, Default)]
struct Plan {
    due: Option<Timestamp>,
    again: Option<u64>,
    failures: u32,
    /// How often it failed on a piece of work.
    crashes: BTreeMap<(u8, u64), u32>,
}

/// The entities that are to be woken.
#[derive(Debug, Default)]
pub(super) struct Book {
    plans: BTreeMap<EntityId, Plan>,
    due: BTreeSet<(Timestamp, EntityId)>,
    again: BTreeSet<(u64, EntityId)>,
}

impl Book {
    fn change(&mut self, id: &EntityId, due: Option<Timestamp>, again: Option<u64>) -> &mut Plan {
        let plan = self.plans.entry(id.clone()).or_default();
        if let Some(due) = plan.due {
            self.due.remove(&(due, id.clone()));
        }
        if let Some(again) = plan.again {
            self.again.remove(&(again, id.clone()));
        }
        (plan.due, plan.again) = (due, again);
        self.due.extend(due.map(|due| (due, id.clone())));
        self.again.extend(again.map(|again| (again, id.clone())));
        plan
    }

    fn of(&self, id: &EntityId) -> (Option<Timestamp>, Option<u64>) {
        self.plans.get(id).map_or((None, None), |plan| (plan.due, plan.again))
    }

    /// It is due then and not earlier.
    pub(super) fn plan(&mut self, id: &EntityId, due: Timestamp) {
        let (_, again) = self.of(id);
        self.change(id, Some(due), again);
    }

    /// It is due then, or earlier.
    pub(super) fn enter(&mut self, id: &EntityId, due: Timestamp) {
        let (known, again) = self.of(id);
        self.change(id, Some(known.map_or(due, |known| known.min(due))), again);
    }

    /// It is to be woken at that time of the node's clock, or earlier.
    pub(super) fn again(&mut self, id: &EntityId, at: u64) {
        let (due, again) = self.of(id);
        self.change(id, due, Some(again.map_or(at, |again| again.min(at))));
    }

    /// It is done.
    pub(super) fn remove(&mut self, id: &EntityId) {
        self.change(id, None, None);
        self.plans.remove(id);
    }

    /// Those that are to be woken now. The caller says what came of it.
    pub(super) fn take(&mut self, wall: Timestamp, now: u64, max: usize) -> Vec<EntityId> {
        let again = self.again.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| id);
        let due = self.due.iter().take_while(|(due, _)| *due <= wall).map(|(_, id)| id);
        let taken: BTreeSet<_> = again.chain(due).take(max).cloned().collect();
        for id in &taken {
            let (due, _) = self.of(id);
            self.change(id, due.filter(|due| *due > wall), None);
        }
        taken.into_iter().collect()
    }

    /// It was woken, or could not be.
    pub(super) fn woken(&mut self, id: &EntityId, well: bool, now: u64) {
        let Some(plan) = self.plans.get_mut(id) else { return };
        let wait = if well {
            plan.failures = 0;
            LOOK_AGAIN
        } else {
            plan.failures += 1;
            (RETRY_MIN << plan.failures.min(16)).min(RETRY_MAX)
        };
        self.again(id, now + wait);
    }

    /// How long nothing is to be done; `None`: until something changes.
    pub(super) fn wait(&self, wall: Timestamp, now: u64) -> Option<Duration> {
        let again = self.again.first().map(|(at, _)| Duration::from_millis(at.saturating_sub(now)));
        let due = self
            .due
            .first()
            .map(|(due, _)| Duration::from_millis(due.0.saturating_sub(wall.0)).min(LOOK_AT_CLOCK));
        [again, due].into_iter().flatten().min()
    }

    /// It failed on a piece of work once more. Returns how often that was.
    pub(super) fn crashed(&mut self, id: &EntityId, work: (u8, u64)) -> u32 {
        let crashes = self.plans.entry(id.clone()).or_default().crashes.entry(work).or_default();
        *crashes += 1;
        *crashes
    }

    pub(super) fn crashes(&self, id: &EntityId, work: (u8, u64)) -> u32 {
        let plan = self.plans.get(id);
        plan.and_then(|plan| plan.crashes.get(&work).copied()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(key: &str) -> EntityId {
        EntityId::new("k", key).unwrap()
    }

    #[test]
    fn who_is_due_is_woken_once() {
        let mut book = Book::default();
        book.enter(&id("a"), Timestamp(50));
        book.enter(&id("b"), Timestamp(70));
        book.enter(&id("a"), Timestamp(60));
        assert_eq!(book.wait(Timestamp(40), 0), Some(Duration::from_millis(10)));
        assert_eq!(book.take(Timestamp(49), 0, 9), []);
        assert_eq!(book.take(Timestamp(50), 0, 9), [id("a")]);
        assert_eq!(book.take(Timestamp(50), 0, 9), []);
        book.plan(&id("a"), Timestamp(90));
        assert_eq!(book.take(Timestamp(90), 0, 1), [id("b")], "as many as there is room for");
        assert_eq!(book.take(Timestamp(90), 0, 1), [id("a")]);
        assert_eq!(book.wait(Timestamp(90), 0), None);
    }

    #[test]
    fn who_could_not_be_woken_is_tried_again_ever_later() {
        let mut book = Book::default();
        book.enter(&id("a"), Timestamp(0));
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..12 {
            assert_eq!(book.take(Timestamp(1), now, 9), [id("a")]);
            book.woken(&id("a"), false, now);
            let wait = book.wait(Timestamp(1), now).unwrap().as_millis() as u64;
            waits.push(wait);
            now += wait;
        }
        assert_eq!((waits[0], waits[1], waits[11]), (200, 400, RETRY_MAX));
        book.remove(&id("a"));
        book.woken(&id("a"), false, now);
        assert!(book.plans.is_empty() && book.wait(Timestamp(1), now).is_none());
    }

    /// A clock that jumped back must not make a reminder wait for hours without a look.
    #[test]
    fn the_clock_is_looked_at_often() {
        let mut book = Book::default();
        book.enter(&id("a"), Timestamp(3_600_000));
        assert_eq!(book.wait(Timestamp(0), 0), Some(LOOK_AT_CLOCK));
    }
}
