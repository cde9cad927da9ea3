//! Which sealed files to merge next: a pure decision over their sizes.

/// What the decision is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Bytes of a segment: files up to this size are on the lowest level.
    pub segment_bytes: u64,
    /// Merged files are not to be larger.
    pub merged_bytes: u64,
    /// How many neighbours of one level are merged.
    pub fan_in: usize,
}

impl Policy {
    /// A file's level: each is `fan_in` times the size of the one below.
    fn level(&self, bytes: u64) -> u32 {
        let step = (self.fan_in.max(2)) as u64;
        let mut level = 0;
        let mut limit = self.segment_bytes.max(1).saturating_mul(3) / 2;
        while bytes > limit {
            level += 1;
            limit = limit.saturating_mul(step);
        }
        level
    }

    /// The files to merge, as a range of `sizes` (oldest first), or `None` where nothing is due.
    /// The lowest level goes first, and in it the oldest.
    pub(crate) fn due(&self, sizes: &[u64]) -> Option<std::ops::Range<usize>> {
        let fan_in = self.fan_in.max(2);
        let mut found: Option<(u32, usize)> = None;
        for start in 0..(sizes.len() + 1).saturating_sub(fan_in) {
            let window = &sizes[start..start + fan_in];
            let level = window.iter().map(|bytes| self.level(*bytes)).max().unwrap_or(0);
            // Small files come at the end: where the last one is small, its like will follow.
            let complete = window.last().is_some_and(|bytes| self.level(*bytes) == level);
            let fits = window.iter().sum::<u64>() <= self.merged_bytes;
            if complete && fits && found.is_none_or(|(best, _)| level < best) {
                found = Some((level, start));
            }
        }
        found.map(|(_, start)| start..start + fan_in)
    }

    /// The files to merge so that as few as possible remain: the first neighbours that fit
    /// together.
    pub(crate) fn tightest(&self, sizes: &[u64]) -> Option<std::ops::Range<usize>> {
        for start in 0..sizes.len() {
            let mut sum = sizes[start];
            let mut end = start + 1;
            while end < sizes.len() && sum + sizes[end] <= self.merged_bytes {
                sum += sizes[end];
                end += 1;
            }
            if end - start > 1 {
                return Some(start..end);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy { segment_bytes: 64, merged_bytes: 1024, fan_in: 4 };

    #[test]
    fn neighbours_of_one_level_are_merged_when_there_are_enough() {
        assert_eq!(POLICY.due(&[64, 64, 64]), None);
        assert_eq!(POLICY.due(&[64, 64, 64, 64]), Some(0..4));
        assert_eq!(POLICY.due(&[256, 64, 64, 64]), None);
        assert_eq!(POLICY.due(&[64, 256, 256, 256]), Some(0..4), "a small one left behind");
        assert_eq!(POLICY.due(&[256, 64, 64, 64, 64]), Some(1..5), "the low level first");
        assert_eq!(POLICY.due(&[256, 256, 256, 256]), Some(0..4));
        assert_eq!(POLICY.due(&[512, 512, 512, 512]), None, "too large together");
    }

    #[test]
    fn merging_comes_to_an_end() {
        let mut sizes: Vec<u64> = Vec::new();
        for _ in 0..500 {
            sizes.push(64);
            while let Some(range) = POLICY.due(&sizes) {
                let sum = sizes[range.clone()].iter().sum();
                sizes.splice(range, [sum]);
            }
            assert!(sizes.len() < 50, "{sizes:?}");
        }
        assert_eq!(POLICY.tightest(&[64, 64, 1000, 1000, 10]), Some(0..2));
        assert_eq!(POLICY.tightest(&[64, 1000, 1000]), None);
    }
}
