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

/// Writes and syncs that were made, and how long they took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Probe {
    syncs: u64,
    time: Duration,
}

impl Probe {
    /// Writes `bytes` and syncs, one after the other, for about `time`. The file was filled with
    /// zeros and synced before, and each write goes right behind the one before it: as the log
    /// does it, without the log.
    pub(crate) fn measure(dir: &Path, bytes: usize, time: Duration) -> io::Result<Self> {
        let path = dir.join("probe.raw");
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
        let zeros = vec![0; 1 << 20];
        for offset in (0..FILE_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, offset)?;
        }
        file.sync_all()?;
        let data = vec![0x5a; bytes.clamp(1, FILE_BYTES as usize)];
        let (began, mut syncs, mut offset) = (Instant::now(), 0, 0);
        while began.elapsed() < time {
            if offset + data.len() as u64 > FILE_BYTES {
                offset = 0;
            }
            file.write_all_at(&data, offset)?;
            file.sync_data()?;
            offset += data.len() as u64;
            syncs += 1;
        }
        let time = began.elapsed();
        fs::remove_file(&path)?;
        Ok(Self { syncs, time })
    }

    /// Both together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { syncs: self.syncs + other.syncs, time: self.time + other.time }
    }

    /// Syncs a second.
    pub(crate) fn per_second(self) -> f64 {
        self.syncs as f64 / self.time.as_secs_f64().max(f64::EPSILON)
    }
}
