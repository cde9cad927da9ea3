//! Where a log file's frames are, by what their headers say.

use std::path::{Path, PathBuf};

/// Bytes of a frame's header.
const HEADER: usize = 32;

/// A frame, by what its header says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) at: usize,
    pub(crate) len: usize,
    pub(crate) flush: usize,
    pub(crate) kind: u8,
}

/// Where the last group commit and the mark after it are.
pub(super) struct End {
    pub(super) path: PathBuf,
    pub(super) commit: usize,
    pub(super) mark: usize,
}

impl End {
    pub(super) fn is_beyond(&self, spoilt: &[(PathBuf, usize)]) -> bool {
        let within = |from: usize, to: usize| {
            spoilt.iter().any(|(path, at)| *path == self.path && (from..to).contains(at))
        };
        within(self.mark, self.mark + HEADER) && within(self.commit, self.mark)
    }
}

pub(super) fn is_log(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "log" || extension == "sealed")
}

/// The frames of a log file, which begin after its header of 64 bytes.
pub(crate) fn frames(bytes: &[u8]) -> Vec<Frame> {
    let number = |at: usize| {
        let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.first_chunk::<4>());
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize)
    };
    let mut found = Vec::new();
    let mut at = 64;
    while at + HEADER <= bytes.len() && bytes[at + 12] != 0 {
        let len = HEADER + number(at + 4);
        found.push(Frame { at, len, flush: number(at + 8), kind: bytes[at + 12] });
        at += len;
    }
    found
}
