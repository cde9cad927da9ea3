//! A group's entries, as its replica has them: where each lies on disk, and the newest ones in
//! memory. Pure bookkeeping.

use std::collections::VecDeque;

use super::entry::{Entry, LogId};

/// Where an entry lies: whole, in one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spot {
    /// The segment's number, from 1.
    pub segment: u64,
    pub offset: u64,
    pub len: u32,
}

/// An entry that is not purged.
#[derive(Debug, Clone, Copy)]
struct Slot {
    term: u64,
    /// 0 until it is durable.
    segment: u64,
    offset: u32,
    len: u32,
}

/// What is to be read: from memory, or from these places.
pub(crate) enum Lookup {
    Memory(Vec<Entry>),
    Disk(Vec<(LogId, Spot)>),
}

/// The entries of a group that are not purged.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    purged: Option<LogId>,
    slots: VecDeque<Slot>,
    /// The last of them, in memory.
    recent: VecDeque<Entry>,
    recent_bytes: usize,
    /// How many of the slots, from the front, are durable.
    durable: usize,
}

impl Entries {
    /// Whether there is no entry after the purged ones.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Nothing is needed up to here.
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// The index of the first entry that is here or will come.
    pub(crate) fn first(&self) -> u64 {
        self.purged.map_or(0, |id| id.index + 1)
    }

    /// The last entry, purged or not.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.id_before(self.slots.len())
    }

    /// The last entry that is durable.
    pub(crate) fn durable(&self) -> Option<LogId> {
        self.id_before(self.durable)
    }

    /// The entry before the slot number `at`.
    fn id_before(&self, at: usize) -> Option<LogId> {
        match at.checked_sub(1) {
            None => self.purged,
            Some(at) => Some(LogId { term: self.slots[at].term, index: self.first() + at as u64 }),
        }
    }

    fn slot(&self, index: u64) -> Option<usize> {
        let at = usize::try_from(index.checked_sub(self.first())?).ok()?;
        (at < self.slots.len()).then_some(at)
    }

    /// Where the entry is on disk; `None` where it is not durable, or another is there.
    pub(crate) fn spot(&self, id: LogId) -> Option<Spot> {
        let slot = self.slots.get(self.slot(id.index)?)?;
        (slot.term == id.term && slot.segment > 0).then_some(Spot {
            segment: slot.segment,
            offset: slot.offset.into(),
            len: slot.len,
        })
    }

    /// Adds an entry that follows the last one. False where it does not follow.
    pub(crate) fn push(&mut self, entry: Entry) -> bool {
        if entry.id.index != self.first() + self.slots.len() as u64 {
            return false;
        }
        self.slots.push_back(Slot { term: entry.id.term, segment: 0, offset: 0, len: 0 });
        self.recent_bytes += entry.bytes();
        self.recent.push_back(entry);
        true
    }

    /// Adds an entry that was found on disk, in place of those at and after its index. False where
    /// entries before it are missing.
    pub(crate) fn found(&mut self, id: LogId, spot: Spot) -> bool {
        if id.index < self.first() {
            return true;
        }
        let at = (id.index - self.first()) as usize;
        if at > self.slots.len() {
            return false;
        }
        if self.slots.get(at).is_some_and(|slot| slot.term == id.term) {
            // The same entry once more: it was brought over from a segment before a checkpoint. So
            // do those that follow it, as far as that went.
            self.place(id, spot);
            return true;
        }
        self.truncate(at);
        let (segment, offset, len) = (spot.segment, spot.offset as u32, spot.len);
        self.slots.push_back(Slot { term: id.term, segment, offset, len });
        self.durable = self.slots.len();
        true
    }

    /// Notes where an entry became durable. Nothing happens where another has taken its place.
    pub(crate) fn place(&mut self, id: LogId, spot: Spot) {
        let Some(at) = self.slot(id.index).filter(|at| self.slots[*at].term == id.term) else {
            return;
        };
        let slot = &mut self.slots[at];
        (slot.segment, slot.offset, slot.len) = (spot.segment, spot.offset as u32, spot.len);
        self.durable = self.durable.max(at + 1);
    }

    /// Forgets the entries after `last`.
    pub(crate) fn truncate_after(&mut self, last: Option<LogId>) {
        let next = last.map_or(0, |id| id.index + 1);
        let keep = next.saturating_sub(self.first()) as usize;
        if keep < self.slots.len() {
            self.truncate(keep);
        }
    }

    /// Whether what follows `committed` belongs to another history than that entry: then the next one
    /// has an earlier term. A leader of its term or a later one had the entry itself before it added
    /// more.
    pub(crate) fn diverges_after(&self, committed: LogId) -> bool {
        let next = self.slot(committed.index + 1).map(|at| self.slots[at].term);
        next.is_some_and(|term| term < committed.term)
    }

    /// Keeps so many slots.
    fn truncate(&mut self, keep: usize) {
        let gone = self.slots.len().saturating_sub(keep);
        self.slots.truncate(keep);
        for entry in self.recent.drain(self.recent.len().saturating_sub(gone)..) {
            self.recent_bytes -= entry.bytes();
        }
        self.durable = self.durable.min(keep);
    }

    /// Forgets the entries up to `upto`, which count as durable. Where that is past the last one,
    /// the log begins after it.
    pub(crate) fn purge(&mut self, upto: LogId) {
        if self.purged.is_some_and(|purged| purged >= upto) {
            return;
        }
        let gone = ((upto.index + 1).saturating_sub(self.first()) as usize).min(self.slots.len());
        let left = self.slots.len() - gone;
        self.slots.drain(..gone);
        while self.recent.len() > left {
            self.forget_oldest();
        }
        self.durable = self.durable.saturating_sub(gone);
        self.purged = Some(upto);
    }

    /// Bytes of the entries in memory.
    pub(crate) fn recent_bytes(&self) -> usize {
        self.recent_bytes
    }

    /// Forgets the oldest entry in memory, if it is durable and its index is at most `upto`. False
    /// where nothing was forgotten.
    pub(crate) fn evict(&mut self, upto: u64) -> bool {
        let durable = self.slots.len() - self.recent.len() < self.durable;
        let oldest = self.recent.front().is_some_and(|entry| entry.id.index <= upto);
        if durable && oldest {
            self.forget_oldest();
        }
        durable && oldest
    }

    fn forget_oldest(&mut self) {
        if let Some(entry) = self.recent.pop_front() {
            self.recent_bytes -= entry.bytes();
        }
    }

    /// Where to get the entries from `from` to before `to`, about `max_bytes` of them and at least
    /// one. `None` where the first one is not here.
    pub(crate) fn look_up(&self, from: u64, to: u64, max_bytes: usize) -> Option<Lookup> {
        let at = self.slot(from)?;
        let to = usize::try_from(to - self.first()).ok()?.min(self.slots.len());
        let in_memory = self.slots.len() - self.recent.len();
        let mut bytes = 0;
        if at >= in_memory {
            let wanted = self.recent.range(at - in_memory..to - in_memory);
            return Some(Lookup::Memory(
                wanted
                    .take_while(|entry| {
                        let first = bytes == 0;
                        bytes += entry.bytes();
                        first || bytes <= max_bytes
                    })
                    .cloned()
                    .collect(),
            ));
        }
        let on_disk = at..to.min(in_memory);
        let ids = on_disk.map(|at| {
            let slot = self.slots[at];
            let id = LogId { term: slot.term, index: self.first() + at as u64 };
            (id, Spot { segment: slot.segment, offset: slot.offset.into(), len: slot.len })
        });
        Some(Lookup::Disk(
            ids.take_while(|(_, spot)| {
                let first = bytes == 0;
                bytes += spot.len as usize;
                first || bytes <= max_bytes
            })
            .collect(),
        ))
    }

    /// The last entry in this segment and those before it that is not purged.
    pub(crate) fn last_within(&self, segment: u64) -> Option<LogId> {
        let within = |slot: &Slot| slot.segment > 0 && slot.segment <= segment;
        match self.slots.partition_point(within) {
            0 => None,
            end => self.id_before(end),
        }
    }

    /// The durable entries after `after` in segments before this one, and where they are.
    pub(crate) fn older_than(&self, segment: u64, after: Option<LogId>) -> Vec<(LogId, Spot)> {
        let found = self.slots.iter().zip(self.first()..);
        let ids = found.filter(|(slot, _)| slot.segment > 0 && slot.segment < segment);
        ids.filter(|(_, index)| after.is_none_or(|after| *index > after.index))
            .map(|(slot, index)| {
                let (segment, offset, len) = (slot.segment, slot.offset.into(), slot.len);
                (LogId { term: slot.term, index }, Spot { segment, offset, len })
            })
            .collect()
    }

    /// The entries in a segment up to an index, and where they are.
    pub(crate) fn of_segment(&self, segment: u64, upto: u64) -> Vec<(LogId, Spot)> {
        let start = self.slots.partition_point(|slot| slot.segment < segment);
        let found = self.slots.range(start..).zip(self.first() + start as u64..);
        found
            .take_while(|(slot, index)| slot.segment == segment && *index <= upto)
            .map(|(slot, index)| {
                let spot = Spot { segment, offset: slot.offset.into(), len: slot.len };
                (LogId { term: slot.term, index }, spot)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::entry::Body;

    fn id(term: u64, index: u64) -> LogId {
        LogId { term, index }
    }

    fn entry(term: u64, index: u64) -> Entry {
        Entry { id: id(term, index), body: Body::Blank }
    }

    fn spot(segment: u64, offset: u64) -> Spot {
        Spot { segment, offset, len: 40 }
    }

    fn filled(count: u64) -> Entries {
        let mut entries = Entries::default();
        for index in 0..count {
            assert!(entries.push(entry(1, index)));
        }
        entries
    }

    #[test]
    fn what_is_durable_is_what_was_placed_and_not_replaced() {
        let mut entries = filled(4);
        assert_eq!((entries.last(), entries.durable()), (Some(id(1, 3)), None));
        entries.place(id(1, 0), spot(1, 64));
        entries.place(id(1, 1), spot(1, 104));
        assert_eq!(entries.durable(), Some(id(1, 1)));
        entries.truncate_after(Some(id(1, 0)));
        assert_eq!((entries.last(), entries.durable()), (Some(id(1, 0)), Some(id(1, 0))));
        assert!(entries.push(entry(2, 1)));
        entries.place(id(1, 1), spot(1, 104));
        entries.place(id(1, 2), spot(1, 144));
        assert_eq!(entries.durable(), Some(id(1, 0)), "the old entry came late");
        entries.place(id(2, 1), spot(1, 184));
        assert_eq!(entries.durable(), Some(id(2, 1)));
        assert!(!entries.push(entry(2, 3)), "a gap");
        assert!(!entries.push(entry(2, 1)), "a repeat");
    }

    #[test]
    fn later_frames_supersede_earlier_ones() {
        let mut entries = Entries::default();
        for index in 0..5 {
            assert!(entries.found(id(1, index), spot(1, index)));
        }
        assert!(entries.found(id(2, 2), spot(2, 0)));
        assert_eq!(entries.last(), Some(id(2, 2)));
        assert!(!entries.found(id(2, 4), spot(2, 1)), "3 is missing");
        assert_eq!(entries.last_within(1), Some(id(1, 1)));
        assert_eq!(entries.last_within(2), Some(id(2, 2)));
        assert_eq!(entries.of_segment(1, 9).len(), 2);
        entries.purge(id(1, 1));
        assert_eq!((entries.last_within(1), entries.first()), (None, 2));
        assert!(entries.found(id(1, 1), spot(3, 0)), "purged: of no interest");
        assert_eq!(entries.last(), Some(id(2, 2)));
    }

    #[test]
    fn memory_keeps_what_is_not_durable() {
        let mut entries = filled(6);
        let bytes = entries.recent_bytes();
        assert!(!entries.evict(9), "nothing is durable");
        entries.place(id(1, 0), spot(1, 0));
        entries.place(id(1, 1), spot(1, 40));
        assert!(entries.evict(0) && !entries.evict(0), "the next one is to stay");
        assert!(entries.evict(9) && !entries.evict(9), "the next one is not durable");
        assert_eq!(entries.recent_bytes(), bytes / 6 * 4);
        match entries.look_up(1, 6, usize::MAX) {
            Some(Lookup::Disk(found)) => assert_eq!(found, [(id(1, 1), spot(1, 40))]),
            _ => panic!("it was evicted"),
        }
        match entries.look_up(2, 5, usize::MAX) {
            Some(Lookup::Memory(found)) => assert_eq!(found.len(), 3),
            _ => panic!("it is in memory"),
        }
        match entries.look_up(2, 6, 1) {
            Some(Lookup::Memory(found)) => assert_eq!(found.len(), 1, "at least one"),
            _ => panic!("it is in memory"),
        }
        entries.purge(id(1, 3));
        assert!(entries.look_up(3, 5, 1).is_none());
        assert_eq!(entries.recent_bytes(), 2 * bytes / 6);
        entries.purge(id(4, 9));
        assert_eq!((entries.last(), entries.first()), (Some(id(4, 9)), 10));
        assert_eq!((entries.recent_bytes(), entries.durable()), (0, Some(id(4, 9))));
        assert!(entries.push(entry(4, 10)));
    }
}
