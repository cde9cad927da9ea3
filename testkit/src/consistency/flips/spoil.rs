//! One way of spoiling the files.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use duractor_journal::{Env, disk::Disk};

use super::{
    super::{Planted, Report, report::Trace},
    base::Base,
    frames::{End, Frame, frames, is_log},
};
use crate::{disk::SimDisk, rng::Rng};

const SECTOR: usize = 512;

/// One way of spoiling the files.
pub(super) struct Trial<'a> {
    pub(super) planted: Option<Planted>,
    pub(super) base: &'a Base,
    pub(super) disk: &'a Arc<SimDisk>,
    pub(super) env: Env,
    pub(super) rng: Rng,
    pub(super) trace: Trace,
    pub(super) report: &'a mut Report,
}

impl Trial<'_> {
    /// Spoils one of the files whose path begins so, and says which bytes.
    pub(super) fn spoil(&mut self, of: &str) -> Vec<(PathBuf, usize)> {
        let files: Vec<_> = self
            .disk
            .files()
            .into_iter()
            .filter(|(path, len)| path.to_string_lossy().starts_with(of) && *len > 0)
            .map(|(path, _)| path)
            .collect();
        let spoilt = match self.rng.below(100) {
            0..55 => self.flip(&files, 1),
            55..75 => {
                let several = 2 + self.rng.index(7);
                self.flip(&files, several)
            }
            75..90 => self.zero(&files),
            _ => self.misplace(&files),
        };
        self.trace.line(|| format!("  spoilt: {spoilt:?}"));
        spoilt
    }

    /// A byte of a file, mostly one that is not in an unused part.
    fn place(&mut self, files: &[PathBuf]) -> Option<(PathBuf, usize)> {
        let used = self.rng.chance(0.9);
        for _ in 0..1_000 {
            let path = self.rng.pick(files)?;
            let bytes = self.disk.peek(path)?;
            let at = self.rng.index(bytes.len());
            let around = at.saturating_sub(8)..(at + 8).min(bytes.len());
            if !used || bytes[around].iter().any(|byte| *byte != 0) {
                return Some((path.clone(), at));
            }
        }
        None
    }

    fn flip(&mut self, files: &[PathBuf], bits: usize) -> Vec<(PathBuf, usize)> {
        let mut spoilt = Vec::new();
        for _ in 0..bits {
            let Some((path, at)) = self.place(files) else { break };
            let bit = self.rng.below(8) as u32;
            self.disk.flip_bit(&path, at as u64, bit);
            spoilt.push((path, at));
        }
        spoilt
    }

    fn zero(&mut self, files: &[PathBuf]) -> Vec<(PathBuf, usize)> {
        let Some((path, at)) = self.place(files) else { return Vec::new() };
        self.disk.zero_sector(&path, at / SECTOR);
        self.report.fault("sector_zeroed", 1);
        let start = at / SECTOR * SECTOR;
        (start..start + SECTOR).map(|at| (path.clone(), at)).collect()
    }

    /// A batch's frame stands where another of its length belongs, as after a misdirected write.
    fn misplace(&mut self, files: &[PathBuf]) -> Vec<(PathBuf, usize)> {
        let mut found: BTreeMap<usize, Vec<(usize, Frame)>> = BTreeMap::new();
        for (file, path) in files.iter().enumerate().filter(|(_, path)| is_log(path)) {
            let bytes = self.disk.peek(path).unwrap_or_default();
            for frame in frames(&bytes).into_iter().filter(|frame| frame.kind == 1) {
                found.entry(frame.len).or_default().push((file, frame));
            }
        }
        found.retain(|_, same| same.len() > 1);
        let groups: Vec<_> = found.into_values().collect();
        let Some(group) = self.rng.pick(&groups) else { return self.flip(files, 1) };
        let from = self.rng.index(group.len());
        let to = (from + 1 + self.rng.index(group.len() - 1)) % group.len();
        let ((from, source), (to, place)) = (&group[from], &group[to]);
        let bytes = self.disk.peek(&files[*from]).unwrap_or_default();
        let frame = &bytes[source.at..source.at + source.len];
        let written = self.disk.open(&files[*to]).and_then(|file| {
            file.write_at(place.at as u64, frame)?;
            file.sync_data()
        });
        self.report.fault("frame_misplaced", u64::from(written.is_ok()));
        (place.at..place.at + place.len).map(|at| (files[*to].clone(), at)).collect()
    }

    /// The end of the segment that was written last.
    pub(super) fn tail(&self) -> Option<End> {
        let files = self.disk.files();
        let segments =
            files.iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "log"));
        segments.rev().find_map(|(path, _)| {
            let frames = frames(&self.disk.peek(path)?);
            let [.., last, mark] = frames.as_slice() else { return None };
            Some(End { path: path.clone(), commit: last.flush, mark: mark.at })
        })
    }
}
