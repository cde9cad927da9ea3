//! The dedup window: which request ids were answered lately, and how.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use duractor_journal::{RequestId, Seq, Timestamp};
use serde::{Deserialize, Serialize};

use crate::settings::EntitySettings;

/// A request that took effect, and its reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answered {
    pub(crate) id: RequestId,
    /// The last event of its batch.
    pub(crate) seq: Seq,
    /// When it took effect.
    pub(crate) at: Timestamp,
    pub(crate) reply: Bytes,
}

/// The newest requests of one entity, at most so many and not older than so long. Takes no memory
/// until the first one.
#[derive(Debug, Default)]
pub(crate) struct Window {
    inner: Option<Box<Inner>>,
}

/// The queue has the requests from old to new; the map, where in it. Numbers in the map count from
/// the first request ever, `dropped` of which have left the queue.
#[derive(Debug, Default)]
struct Inner {
    queue: VecDeque<Answered>,
    places: HashMap<RequestId, u64>,
    dropped: u64,
}

impl Window {
    /// The answer to this request, if it is still known at `now`.
    pub(crate) fn find(
        &self,
        id: &RequestId,
        now: Timestamp,
        settings: &EntitySettings,
    ) -> Option<&Answered> {
        let inner = self.inner.as_ref()?;
        let place = inner.places.get(id)?.checked_sub(inner.dropped)?;
        let answered = inner.queue.get(usize::try_from(place).ok()?)?;
        (answered.at >= oldest(now, settings.dedup_age)).then_some(answered)
    }

    /// Adds a request, and drops those that are too many or too old at its time.
    pub(crate) fn insert(&mut self, answered: Answered, settings: &EntitySettings) {
        if settings.dedup_count == 0 {
            return;
        }
        let inner = self.inner.get_or_insert_default();
        let oldest = oldest(answered.at, settings.dedup_age);
        while let Some(first) = inner.queue.front()
            && (inner.queue.len() >= settings.dedup_count || first.at < oldest)
        {
            inner.drop_first();
        }
        let place = inner.dropped + inner.queue.len() as u64;
        inner.places.insert(answered.id.clone(), place);
        inner.queue.push_back(answered);
    }

    /// From old to new.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Answered> {
        self.inner.iter().flat_map(|inner| &inner.queue)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.iter().count()
    }
}

impl Inner {
    fn drop_first(&mut self) {
        let Some(first) = self.queue.pop_front() else { return };
        // An id that was used again after it had aged out is in the map at its newer place.
        if self.places.get(&first.id) == Some(&self.dropped) {
            self.places.remove(&first.id);
        }
        self.dropped += 1;
    }
}

fn oldest(now: Timestamp, age: Duration) -> Timestamp {
    Timestamp(now.0.saturating_sub(age.as_millis() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> RequestId {
        RequestId::new(&format!("r{n}")).unwrap()
    }

    fn answered(n: u64, at: u64) -> Answered {
        Answered { id: id(n), seq: Seq(n), at: Timestamp(at), reply: Bytes::from(vec![n as u8]) }
    }

    #[test]
    fn it_is_bounded_by_count() {
        let settings = EntitySettings::default().dedup_count(3);
        let mut window = Window::default();
        for n in 1..=5 {
            window.insert(answered(n, 0), &settings);
        }
        let known = |n| window.find(&id(n), Timestamp(0), &settings).map(|a| a.seq.0);
        assert_eq!([known(1), known(2), known(3), known(5)], [None, None, Some(3), Some(5)]);
        assert_eq!(window.inner.as_ref().unwrap().places.len(), 3);
    }

    #[test]
    fn it_is_bounded_by_age() {
        let settings = EntitySettings::default().dedup_age(Duration::from_millis(10));
        let mut window = Window::default();
        window.insert(answered(1, 100), &settings);
        window.insert(answered(2, 105), &settings);
        let known = |n, now| window.find(&id(n), Timestamp(now), &settings).is_some();
        assert_eq!([known(1, 110), known(1, 111), known(2, 111)], [true, false, true]);
        window.insert(answered(3, 112), &settings);
        assert_eq!(window.len(), 2);
    }

    #[test]
    fn an_aged_id_may_be_used_again() {
        let settings = EntitySettings::default().dedup_count(2);
        let mut window = Window::default();
        window.insert(answered(1, 0), &settings);
        window.insert(Answered { seq: Seq(9), ..answered(1, 5) }, &settings);
        window.insert(answered(2, 6), &settings);
        let found = window.find(&id(1), Timestamp(6), &settings).unwrap();
        assert_eq!(found.seq, Seq(9), "the newer one, though the older one left the window");
    }

    #[test]
    fn off_means_off() {
        let settings = EntitySettings::default().dedup_count(0);
        let mut window = Window::default();
        window.insert(answered(1, 0), &settings);
        assert!(window.inner.is_none());
    }
}
