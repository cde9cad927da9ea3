//! What is written to a file between two syncs, kept until the disk has taken it.

use std::collections::BTreeMap;

/// What redb wrote between two syncs.
#[derive(Debug, Default, Clone)]
pub(crate) struct Epoch {
    /// Parts of the file, none overlapping another.
    pub(crate) parts: BTreeMap<u64, Vec<u8>>,
    /// The file's length, where it was changed: the least that it had, then the last.
    pub(crate) resized: Option<(u64, u64)>,
}

impl Epoch {
    /// Whether any byte from `from` to `to` was changed.
    pub(crate) fn touches(&self, from: u64, to: u64) -> bool {
        let last = self.parts.range(..to).next_back();
        self.resized.is_some_and(|(least, _)| least < to)
            || last.is_some_and(|(start, bytes)| start + bytes.len() as u64 > from)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.resized.is_none()
    }

    /// Lays this epoch's parts over `out`, which starts at `offset`.
    pub(crate) fn overlay(&self, offset: u64, out: &mut [u8]) {
        let end = offset + out.len() as u64;
        if let Some((least, _)) = self.resized {
            let cut = least.clamp(offset, end) - offset;
            out[cut as usize..].fill(0);
        }
        let first = self.parts.range(..=offset).next_back().map_or(offset, |(start, _)| *start);
        for (start, bytes) in self.parts.range(first..end) {
            let (from, to) = (offset.max(*start), end.min(start + bytes.len() as u64));
            if from < to {
                out[(from - offset) as usize..(to - offset) as usize]
                    .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
            }
        }
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        self.clear(offset, offset.saturating_add(data.len() as u64));
        self.parts.insert(offset, data.to_vec());
    }

    pub(crate) fn resize(&mut self, len: u64) {
        self.clear(len, u64::MAX);
        let least = self.resized.map_or(len, |(least, _)| least.min(len));
        self.resized = Some((least, len));
    }

    /// Takes the bytes from `from` to `to` out of the parts.
    pub(crate) fn clear(&mut self, from: u64, to: u64) {
        let first = self.parts.range(..from).next_back().map_or(from, |(start, _)| *start);
        let touched: Vec<u64> = self.parts.range(first..to).map(|(start, _)| *start).collect();
        for start in touched {
            let Some(mut bytes) = self.parts.remove(&start) else { continue };
            let end = start + bytes.len() as u64;
            if end > to {
                self.parts.insert(to, bytes[(to - start) as usize..].to_vec());
            }
            if start < from {
                bytes.truncate((from - start) as usize);
                self.parts.insert(start, bytes);
            } else if end <= from {
                self.parts.insert(start, bytes);
            }
        }
    }
}
