//! What was found, and how it is counted.

/// Most descriptions that are kept: after so many the rest says nothing new.
const MOST_NOTES: usize = 20;

/// The result of some trials.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Events that were acknowledged.
    pub acked: u64,
    /// Acknowledged events that are gone, changed or in another place.
    pub lost: u64,
    /// Events that are there more than once.
    pub duplicated: u64,
    /// Whatever else must not be: half a batch, a deletion that nobody asked for, a journal that
    /// does not open.
    pub other: u64,
    /// Descriptions, of the first ones.
    pub notes: Vec<String>,
}

impl Findings {
    pub(crate) fn lost(&mut self, events: u64, what: impl FnOnce() -> String) {
        self.lost += events;
        self.note(what);
    }

    pub(crate) fn duplicated(&mut self, what: impl FnOnce() -> String) {
        self.duplicated += 1;
        self.note(what);
    }

    pub(crate) fn other(&mut self, what: impl FnOnce() -> String) {
        self.other += 1;
        self.note(what);
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if self.notes.len() < MOST_NOTES {
            self.notes.push(what());
        }
    }

    /// Whether nothing is wrong.
    pub(crate) fn is_clean(&self) -> bool {
        self.lost + self.duplicated + self.other == 0
    }
}
