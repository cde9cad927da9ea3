//! The bytes of one file: what reads see, what a crash leaves, and the writes in between.

use std::ops::Range;

use crate::rng::Rng;

/// What a crash keeps of that which was written and not yet synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Keep {
    /// Nothing: every file and folder is as at its last sync.
    None,
    /// Everything, as when the process alone dies.
    All,
    /// Each sector on its own holds any one of the contents it had since the last sync, and the
    /// file any one of its lengths.
    Sectors,
    /// The first writes in order; the last of them only up to a sector's border.
    Torn,
    /// One of the above, drawn for every file and for the folders.
    Random,
}

impl Keep {
    /// Draws where the choice was left open.
    pub(super) fn drawn(self, rng: &mut Rng) -> Self {
        match self {
            Self::Random => [Self::None, Self::All, Self::Sectors, Self::Torn][rng.index(4)],
            chosen => chosen,
        }
    }
}

/// A change of a file that no sync has made durable yet.
#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    SetLen(usize),
}

impl Change {
    /// The file's length after this change.
    fn len_after(&self, len: usize) -> usize {
        match self {
            Self::Write { offset, data } => len.max(offset + data.len()),
            Self::SetLen(new) => *new,
        }
    }

    /// The bytes whose content this change decides in a file of this length.
    fn range(&self, len: usize) -> Range<usize> {
        match self {
            Self::Write { offset, data } => *offset..offset + data.len(),
            Self::SetLen(new) => len.min(*new)..len.max(*new),
        }
    }

    fn apply(&self, bytes: &mut Vec<u8>) {
        bytes.resize(self.len_after(bytes.len()), 0);
        if let Self::Write { offset, data } = self {
            bytes[*offset..offset + data.len()].copy_from_slice(data);
        }
    }

    /// Applies the part of this change that lies in `part`, leaving the length alone.
    fn apply_part(&self, bytes: &mut [u8], part: Range<usize>) {
        match self {
            Self::Write { offset, data } => {
                bytes[part.clone()].copy_from_slice(&data[part.start - offset..part.end - offset]);
            }
            Self::SetLen(_) => bytes[part].fill(0),
        }
    }
}

/// One file's contents. `volatile` is `durable` with `pending` applied, but for bytes that a failed
/// sync marked clean.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    volatile: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
    /// Whether bytes are readable that were neither synced nor are going to be.
    marked_clean: bool,
}

impl Image {
    pub(super) fn volatile(&self) -> &[u8] {
        &self.volatile
    }

    pub(super) fn durable(&self) -> &[u8] {
        &self.durable
    }

    pub(super) fn len(&self) -> usize {
        self.volatile.len()
    }

    pub(super) fn write(&mut self, offset: usize, data: &[u8]) {
        if !data.is_empty() {
            self.change(Change::Write { offset, data: data.to_vec() });
        }
    }

    pub(super) fn set_len(&mut self, len: usize) {
        self.change(Change::SetLen(len));
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.volatile);
        self.pending.push(change);
    }

    /// A good sync: everything pending is durable.
    pub(super) fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// A failed sync: some sectors reached the disk, the others never will. Their pages are
    /// dropped, so that reads return what the disk holds, or are marked clean, so that reads go on
    /// returning what was written until the next crash.
    pub(super) fn fail_sync(&mut self, drop_pages: bool, sector: usize, rng: &mut Rng) {
        if self.pending.is_empty() {
            return;
        }
        self.keep_sectors(sector, rng);
        self.marked_clean = true;
        if drop_pages {
            self.revert();
        }
    }

    /// Loses power: durable becomes what is left, and reads see no more than that.
    pub(super) fn crash(&mut self, keep: Keep, sector: usize, rng: &mut Rng) {
        if self.pending.is_empty() && !self.marked_clean {
            return;
        }
        match keep.drawn(rng) {
            Keep::All => self.sync(),
            Keep::Sectors => self.keep_sectors(sector, rng),
            Keep::Torn => self.keep_torn(sector, rng),
            Keep::None | Keep::Random => self.pending.clear(),
        }
        self.revert();
    }

    fn revert(&mut self) {
        self.volatile.clone_from(&self.durable);
        self.marked_clean = false;
    }

    fn keep_torn(&mut self, sector: usize, rng: &mut Rng) {
        let whole = rng.index(self.pending.len() + 1);
        for (i, change) in self.pending.drain(..).enumerate().take(whole + 1) {
            match change {
                change if i < whole => change.apply(&mut self.durable),
                Change::Write { offset, mut data } => {
                    data.truncate(torn_len(offset, data.len(), sector, rng));
                    Change::Write { offset, data }.apply(&mut self.durable);
                }
                // A length changes whole or not at all.
                Change::SetLen(_) => {}
            }
        }
    }

    fn keep_sectors(&mut self, sector: usize, rng: &mut Rng) {
        let before = self.durable.len();
        let mut lens = vec![before];
        let mut len = before;
        for change in &self.pending {
            len = change.len_after(len);
            lens.push(len);
        }
        let longest = lens.iter().copied().max().unwrap_or(before);

        // How many of the changes that touch a sector it keeps: always the first ones, since a
        // sector reaches the disk as it is in memory at that moment.
        let mut kept = vec![0_u32; longest.div_ceil(sector)];
        for (change, &len) in self.pending.iter().zip(&lens) {
            for part in parts(change.range(len), sector) {
                kept[part.start / sector] += 1;
            }
        }
        for count in &mut kept {
            *count = rng.below(u64::from(*count) + 1) as u32;
        }
        self.durable.resize(longest, 0);
        for (change, &len) in self.pending.iter().zip(&lens) {
            for part in parts(change.range(len), sector) {
                let left = &mut kept[part.start / sector];
                if *left > 0 {
                    *left -= 1;
                    change.apply_part(&mut self.durable, part);
                }
            }
        }
        self.durable.truncate(lens[rng.index(lens.len())]);
        self.pending.clear();
    }

    /// Spoils bytes wherever they are kept: rot, as opposed to a write. `f` gets the byte's place
    /// in the range and its value.
    pub(super) fn spoil(&mut self, range: Range<usize>, f: impl Fn(usize, u8) -> u8) {
        spoil_in(&mut self.volatile, 0, &range, &f);
        spoil_in(&mut self.durable, 0, &range, &f);
        for change in &mut self.pending {
            if let Change::Write { offset, data } = change {
                spoil_in(data, *offset, &range, &f);
            }
        }
    }
}

/// How much of a write of `len` bytes lands when it is cut at a sector's border.
pub(super) fn torn_len(offset: usize, len: usize, sector: usize, rng: &mut Rng) -> usize {
    let borders = (offset + len).div_ceil(sector) - offset / sector;
    let border = (offset / sector + rng.index(borders.max(1))) * sector;
    border.saturating_sub(offset).min(len)
}

fn parts(range: Range<usize>, sector: usize) -> impl Iterator<Item = Range<usize>> {
    (range.start / sector..range.end.div_ceil(sector))
        .map(move |s| range.start.max(s * sector)..range.end.min((s + 1) * sector))
        .filter(|part| !part.is_empty())
}

fn spoil_in(bytes: &mut [u8], at: usize, range: &Range<usize>, f: &impl Fn(usize, u8) -> u8) {
    let start = range.start.max(at);
    let end = range.end.min(at + bytes.len());
    for place in start..end {
        let byte = &mut bytes[place - at];
        *byte = f(place - range.start, *byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(len: usize) -> Image {
        let mut image = Image::default();
        image.write(0, &vec![1; len]);
        image.sync();
        image
    }

    #[test]
    fn each_sector_keeps_one_of_the_contents_it_had() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let mut image = image(1_024);
            image.write(0, &[2; 1_024]);
            image.write(256, &[3; 256]);
            image.crash(Keep::Sectors, 512, &mut Rng::new(seed));
            let sectors = (
                (image.durable()[0], image.durable()[256]),
                (image.durable()[512], image.durable()[1_023]),
            );
            // Never the second write to a sector without the first.
            assert!([(1, 1), (2, 2), (2, 3)].contains(&sectors.0), "{sectors:?}");
            assert!([(1, 1), (2, 2)].contains(&sectors.1), "{sectors:?}");
            assert_eq!(image.volatile(), image.durable());
            seen.insert(sectors);
        }
        assert_eq!(seen.len(), 6);
    }

    #[test]
    fn any_length_since_the_last_sync_may_remain() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let mut image = image(600);
            image.set_len(100);
            image.write(700, &[9; 10]);
            image.crash(Keep::Sectors, 512, &mut Rng::new(seed));
            seen.insert(image.len());
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [100, 600, 710]);
    }

    #[test]
    fn a_torn_write_ends_at_a_sectors_border() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let mut image = image(100);
            image.write(100, &[2; 1_000]);
            image.crash(Keep::Torn, 512, &mut Rng::new(seed));
            assert!(image.durable()[100..].iter().all(|&b| b == 2));
            seen.insert(image.len());
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [100, 512, 1_024, 1_100]);
    }

    #[test]
    fn pages_marked_clean_are_read_until_the_crash() {
        for seed in 0..50 {
            let mut image = image(512);
            image.write(0, &[2; 512]);
            image.fail_sync(false, 512, &mut Rng::new(seed));
            image.sync();
            assert_eq!(image.volatile(), [2; 512]);
            let durable = image.durable().to_vec();
            image.crash(Keep::All, 512, &mut Rng::new(seed));
            assert_eq!(image.volatile(), durable);
        }
    }

    #[test]
    fn what_was_cut_and_extended_again_is_old_or_zeros() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let mut image = image(512);
            image.set_len(0);
            image.set_len(512);
            image.crash(Keep::Sectors, 512, &mut Rng::new(seed));
            seen.insert(image.volatile().first().copied());
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [None, Some(0), Some(1)]);
    }
}
