//! The bare journal: what must be there, and comparing it with what is.

use std::collections::{BTreeMap, HashSet};

use duractor_journal::Head;

use crate::{findings::Findings, lines::Line, mark::Mark, place::ENTITIES};

/// What is known of the folder.
#[derive(Clone, Default)]
pub(crate) struct Streams {
    entities: Vec<Stream>,
}

/// What is known of an entity.
#[derive(Clone, Default)]
struct Stream {
    /// Events that were acknowledged, or were there before: they must be there ever after.
    events: BTreeMap<u64, Mark>,
    /// Up to where deletion was acknowledged, or was there before.
    deleted_to: u64,
    /// Up to where deletion was asked for.
    deleting_to: u64,
}

/// An entity as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReadStream {
    pub head: Head,
    /// In the order in which they came; without a mark where the payload is not as written.
    pub events: Vec<(u64, Option<Mark>)>,
}

impl Streams {
    pub(crate) fn new() -> Self {
        Self { entities: (0..ENTITIES).map(|_| Stream::default()).collect() }
    }

    /// Takes note of what a worker printed.
    pub(crate) fn printed(&mut self, lines: &[Line], findings: &mut Findings) {
        for line in lines {
            match *line {
                Line::Appended { entity, first_seq, first } => {
                    findings.acked += u64::from(first.count);
                    for index in 0..first.count {
                        let mark = Mark { index, ..first };
                        let seq = first_seq + u64::from(index);
                        if let Some(before) = self.entities[entity].events.insert(seq, mark) {
                            findings.lost(1, || {
                                format!("{entity}: {seq} was given to {before:?} and {mark:?}")
                            });
                        }
                    }
                }
                Line::Deleting { entity, to } => {
                    let stream = &mut self.entities[entity];
                    stream.deleting_to = stream.deleting_to.max(to);
                }
                Line::Deleted { entity, to } => {
                    let stream = &mut self.entities[entity];
                    stream.deleted_to = stream.deleted_to.max(to);
                }
                Line::Asking { .. } | Line::Answered { .. } => {
                    findings.other(|| format!("the worker printed {line:?}"));
                }
            }
        }
    }

    /// Compares all entities with what was read after `run` was killed, and takes that for what
    /// must be there from now on.
    pub(crate) fn compare(&mut self, run: u32, read: &[ReadStream], findings: &mut Findings) {
        let mut seen = HashSet::new();
        for (number, (stream, read)) in self.entities.iter_mut().zip(read).enumerate() {
            for (seq, mark) in &read.events {
                if let Some(mark) = mark
                    && !seen.insert((mark.run, mark.batch, mark.index))
                {
                    findings.duplicated(|| format!("{number}: {mark:?} again, at {seq}"));
                }
            }
            stream.compare(number, run, read, findings);
            stream.events = read
                .events
                .iter()
                .filter_map(|(seq, mark)| mark.map(|mark| (*seq, mark)))
                .collect();
            stream.deleted_to = read.head.deleted_to.0;
            stream.deleting_to = stream.deleted_to;
        }
    }
}

impl Stream {
    fn compare(&self, number: usize, run: u32, read: &ReadStream, findings: &mut Findings) {
        let (deleted_to, last_seq) = (read.head.deleted_to.0, read.head.last_seq.0);
        if deleted_to < self.deleted_to || deleted_to > self.deleting_to.max(self.deleted_to) {
            findings.other(|| {
                format!(
                    "{number}: deleted up to {deleted_to}, but {} was acknowledged and {} asked for",
                    self.deleted_to, self.deleting_to
                )
            });
        }
        let expected = deleted_to + 1..=last_seq;
        if !read.events.iter().map(|(seq, _)| *seq).eq(expected.clone()) {
            findings.other(|| {
                let count = read.events.len();
                format!("{number}: {expected:?} must be there, and {count} events are")
            });
        }
        let there: BTreeMap<u64, Option<Mark>> = read.events.iter().copied().collect();
        for (seq, mark) in self.events.range(deleted_to + 1..) {
            let found = there.get(seq).copied().flatten();
            if found != Some(*mark) {
                findings.lost(1, || format!("{number}: {mark:?} at {seq} is {found:?} now"));
            }
        }
        self.compare_unacknowledged(number, run, &there, findings);
    }

    /// Events that nobody knew of: only whole batches of the run that was killed.
    fn compare_unacknowledged(
        &self,
        number: usize,
        run: u32,
        there: &BTreeMap<u64, Option<Mark>>,
        findings: &mut Findings,
    ) {
        for (seq, mark) in there.iter().filter(|(seq, _)| !self.events.contains_key(seq)) {
            let Some(mark) = mark else {
                findings.other(|| format!("{number}: the payload at {seq} was never written"));
                continue;
            };
            let mut batch = (0..mark.count).map(|index| {
                let at = (seq + u64::from(index)).checked_sub(u64::from(mark.index));
                (at, Mark { index, ..*mark })
            });
            let whole = batch.all(|(at, mark)| {
                // The front of a batch may have been deleted meanwhile.
                at.is_some_and(|at| there.get(&at).is_none_or(|found| *found == Some(mark)))
            });
            let back = seq + u64::from(mark.count - 1 - mark.index);
            if mark.run != run || !whole || !there.contains_key(&back) {
                findings.other(|| format!("{number}: {mark:?} at {seq} does not belong there"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use duractor_journal::Seq;

    use super::*;

    const FIRST: Mark = Mark { run: 1, batch: 9, index: 0, count: 2 };
    const SECOND: Mark = Mark { index: 1, ..FIRST };

    fn read(last: u64, deleted: u64, events: &[(u64, Mark)]) -> ReadStream {
        let events = events.iter().map(|(seq, mark)| (*seq, Some(*mark))).collect();
        ReadStream { head: Head { last_seq: Seq(last), deleted_to: Seq(deleted) }, events }
    }

    /// Lost, duplicated and other findings.
    fn findings(printed: &[Line], found: ReadStream) -> (u64, u64, u64) {
        let (mut streams, mut findings) = (Streams::new(), Findings::default());
        streams.printed(printed, &mut findings);
        streams.compare(1, &[found], &mut findings);
        (findings.lost, findings.duplicated, findings.other)
    }

    const APPENDED: Line = Line::Appended { entity: 0, first_seq: 1, first: FIRST };

    #[test]
    fn acknowledged_events_must_be_there() {
        let whole = [(1, FIRST), (2, SECOND)];
        assert_eq!(findings(&[APPENDED], read(2, 0, &whole)), (0, 0, 0));
        assert_eq!(findings(&[APPENDED], read(0, 0, &[])), (2, 0, 0));
        assert_eq!(findings(&[APPENDED], read(1, 0, &whole[..1])), (1, 0, 0));
        assert_eq!(findings(&[APPENDED], read(2, 0, &whole[..1])), (1, 0, 1), "a gap");
        let swapped = [(1, SECOND), (2, FIRST)];
        assert_eq!(findings(&[APPENDED], read(2, 0, &swapped)), (2, 0, 0));
    }

    #[test]
    fn unacknowledged_batches_are_there_whole_or_not_at_all() {
        assert_eq!(findings(&[], read(0, 0, &[])), (0, 0, 0));
        assert_eq!(findings(&[], read(2, 0, &[(1, FIRST), (2, SECOND)])), (0, 0, 0));
        assert_eq!(findings(&[], read(1, 0, &[(1, FIRST)])), (0, 0, 1));
        let older = |index| Mark { run: 0, index, ..FIRST };
        assert_eq!(findings(&[], read(2, 0, &[(1, older(0)), (2, older(1))])), (0, 0, 2));
    }

    #[test]
    fn nothing_is_there_twice() {
        let twice = [(1, FIRST), (2, SECOND), (3, FIRST), (4, SECOND)];
        assert_eq!(findings(&[APPENDED], read(4, 0, &twice)), (0, 2, 0));
    }

    #[test]
    fn only_what_was_asked_for_is_deleted() {
        let (deleting, deleted) =
            (Line::Deleting { entity: 0, to: 1 }, Line::Deleted { entity: 0, to: 1 });
        let rest = || read(2, 1, &[(2, SECOND)]);
        assert_eq!(findings(&[APPENDED, deleting], rest()), (0, 0, 0));
        assert_eq!(findings(&[APPENDED], rest()), (0, 0, 1));
        let whole = || read(2, 0, &[(1, FIRST), (2, SECOND)]);
        assert_eq!(findings(&[APPENDED, deleting], whole()), (0, 0, 0));
        assert_eq!(findings(&[APPENDED, deleting, deleted], whole()), (0, 0, 1));
    }
}
