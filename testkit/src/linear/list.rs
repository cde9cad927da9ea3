//! Begins and ends of calls in the order of time, from which calls are taken out and put back.

/// A begin or an end of a call, by the call's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    Begin(usize),
    End(usize),
}

/// A place in the list; 0 is before the first entry.
pub(super) type Place = usize;

/// Entries, linked both ways. What was taken out last is put back first.
pub(super) struct List {
    entries: Vec<Entry>,
    next: Vec<Place>,
    before: Vec<Place>,
    /// Where each call begins, and where it ends if it does.
    begins: Vec<Place>,
    ends: Vec<Option<Place>>,
    /// How many ends are in the list.
    open: usize,
}

impl List {
    pub(super) fn new(spans: &[(u64, Option<u64>)]) -> Self {
        let begins = spans.iter().enumerate().map(|(n, (began, _))| (*began, Entry::Begin(n)));
        let ends = spans.iter().enumerate();
        let ends = ends.filter_map(|(n, (_, ended))| Some(((*ended)?, Entry::End(n))));
        let mut entries: Vec<_> = begins.chain(ends).collect();
        // At one instant begins come first: calls overlap rather than not.
        entries.sort_by_key(|(at, entry)| (*at, matches!(entry, Entry::End(_))));
        let count = entries.len();
        let mut list = Self {
            entries: entries.into_iter().map(|(_, entry)| entry).collect(),
            // A ring: after the last comes 0.
            next: (0..=count).map(|place| (place + 1) % (count + 1)).collect(),
            before: (0..=count).map(|place| (place + count) % (count + 1)).collect(),
            begins: vec![0; spans.len()],
            ends: vec![None; spans.len()],
            open: 0,
        };
        for (at, entry) in list.entries.iter().enumerate() {
            match entry {
                Entry::Begin(call) => list.begins[*call] = at + 1,
                Entry::End(call) => {
                    list.ends[*call] = Some(at + 1);
                    list.open += 1;
                }
            }
        }
        list
    }

    pub(super) fn first(&self) -> Option<Place> {
        self.after(0)
    }

    pub(super) fn after(&self, place: Place) -> Option<Place> {
        Some(self.next[place]).filter(|place| *place != 0)
    }

    pub(super) fn entry(&self, place: Place) -> Entry {
        self.entries[place - 1]
    }

    /// Whether every call that ended was taken out.
    pub(super) fn all_explained(&self) -> bool {
        self.open == 0
    }

    pub(super) fn take_out(&mut self, call: usize) {
        self.unlink(self.begins[call]);
        if let Some(end) = self.ends[call] {
            self.unlink(end);
            self.open -= 1;
        }
    }

    /// Puts back the call that was taken out last. Returns where it begins.
    pub(super) fn put_back(&mut self, call: usize) -> Place {
        if let Some(end) = self.ends[call] {
            self.link(end);
            self.open += 1;
        }
        self.link(self.begins[call]);
        self.begins[call]
    }

    fn unlink(&mut self, place: Place) {
        let (before, next) = (self.before[place], self.next[place]);
        self.next[before] = next;
        self.before[next] = before;
    }

    fn link(&mut self, place: Place) {
        let (before, next) = (self.before[place], self.next[place]);
        self.next[before] = place;
        self.before[next] = place;
    }
}
