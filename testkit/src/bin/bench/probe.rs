//! The disk's raw rate: what no log that syncs once per write can be faster than.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
    time::Duration,
};

use tokio::time::Instant;

/// Bytes of the file that is written to, again from its start where it is full.
const FILE_BYTES: u64 = 16 << 20;

/// How long each write with its sync took.
#[derive(Debug, Clone, Default)]
pub(crate) struct Probe {
    took: Vec<Duration>,
}

impl Probe {
    /// Writes `bytes` and syncs, one after the other, for about `time`. The file was filled with
    /// zeros and synced before, and each write goes right behind the one before it: as the log
    /// does it, without the log.
    pub(crate) fn measure(path: &Path, bytes: usize, time: Duration) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        let zeros = vec![0; 1 << 20];
        for offset in (0..FILE_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, offset)?;
        }
        file.sync_all()?;
        let data = vec![0x5a; bytes.clamp(1, FILE_BYTES as usize)];
        let (mut took, mut offset) = (Vec::new(), 0);
        let (began, mut before) = (Instant::now(), Instant::now());
        while before - began < time {
            if offset + data.len() as u64 > FILE_BYTES {
                offset = 0;
            }
            file.write_all_at(&data, offset)?;
            file.sync_data()?;
            offset += data.len() as u64;
            let now = Instant::now();
            took.push(now - before);
            before = now;
        }
        fs::remove_file(path)?;
        Ok(Self { took })
    }

    /// Both together.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.took.extend(other.took);
        self
    }

    /// Syncs a second.
    pub(crate) fn per_second(&self) -> f64 {
        let time: Duration = self.took.iter().sum();
        self.took.len() as f64 / time.as_secs_f64().max(f64::EPSILON)
    }

    /// How long half of them took at most, in microseconds.
    pub(crate) fn p50_us(mut self) -> f64 {
        self.took.sort_unstable();
        self.took.get(self.took.len() / 2).map_or(0.0, |took| took.as_secs_f64() * 1e6)
    }
}
