//! The files of a log directory: their names and their first bytes.
//!
//! ```text
//! LOCK                          held by the process that has the log open
//! META                          format version, log id, number of shards
//! 0000000000000007.log          segment 7: frames in the order they were written
//! 0000000000000001-0000000000000006.g2.sealed
//!                               segments 1 to 6 together, their frames by entity, then an index
//!                               (see `sealed`); g2 was made after g1 and replaces it
//! *.tmp                         under construction; removed when the log is opened
//! ```
//! A file starts with a header of 64 bytes:
//! ```text
//!  0         8         12    16     24     32       36    40     48        60    64
//!  | magic   | version | kind| first| last | gener. |  0  | salt | log id  |  0  | crc |
//! ```

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    disk::{Disk, DiskFile},
    error::JournalError,
    id::MAX_SHARDS,
    log::frame::{HEADER_BYTES, bound_crc},
};

/// Bytes before the first frame.
pub(crate) const FILE_HEADER_BYTES: u64 = 64;
/// Room that is kept at the end of a segment: for a mark and the end.
pub(crate) const RESERVED_BYTES: u64 = 2 * HEADER_BYTES as u64;
/// The version of every file's format.
pub(crate) const FORMAT_VERSION: u32 = 2;
const MAGIC: &[u8; 8] = b"DURALOG\n";

/// What kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    Meta = 0,
    Segment = 1,
    Sealed = 2,
}

/// The first bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub kind: FileKind,
    /// The first and the last segment whose frames the file holds. In `META`: the number of shards
    /// and 0.
    pub first: u64,
    pub last: u64,
    /// How often these segments were rewritten.
    pub generation: u32,
    /// Random: all checksums of the file start from it.
    pub salt: u64,
    /// Random, the same in all files of a log.
    pub log_id: u64,
}

impl FileHeader {
    pub(crate) fn to_bytes(self) -> [u8; FILE_HEADER_BYTES as usize] {
        let mut bytes = [0; FILE_HEADER_BYTES as usize];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(self.kind as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.last.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.generation.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.salt.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.log_id.to_le_bytes());
        let crc = bound_crc(0, 0, &bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header of a file, checked.
    pub(crate) fn read(path: &Path, file: &dyn DiskFile) -> Result<FileHeader, JournalError> {
        let mut bytes = [0; FILE_HEADER_BYTES as usize];
        let read = file.read_at(0, &mut bytes).map_err(|e| JournalError::read(path, &e))?;
        let corrupt = |what: &str| JournalError::corrupt(path, 0, what);
        if read < bytes.len() {
            return Err(corrupt("the file's header is cut short"));
        }
        let u32_at =
            |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
        let u64_at =
            |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
        if &bytes[..8] != MAGIC || u32_at(60) != bound_crc(0, 0, &bytes[..60]) {
            return Err(corrupt("the file's header does not verify"));
        }
        if u32_at(8) != FORMAT_VERSION {
            return Err(JournalError::Incompatible {
                path: path.to_owned(),
                reason: format!(
                    "it has format version {}, and this program reads version {FORMAT_VERSION}",
                    u32_at(8)
                ),
            });
        }
        let kind = match u32_at(12) {
            0 => FileKind::Meta,
            1 => FileKind::Segment,
            2 => FileKind::Sealed,
            _ => return Err(corrupt("the file's kind is unknown")),
        };
        Ok(FileHeader {
            kind,
            first: u64_at(16),
            last: u64_at(24),
            generation: u32_at(32),
            salt: u64_at(40),
            log_id: u64_at(48),
        })
    }
}

/// The name of a segment.
pub(crate) fn segment_name(id: u64) -> String {
    format!("{id:016}.log")
}

/// The name of a sealed file.
pub(crate) fn sealed_name(first: u64, last: u64, generation: u32) -> String {
    format!("{first:016}-{last:016}.g{generation}.sealed")
}

/// What a name says that a file is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Named {
    Segment(u64),
    Sealed { first: u64, last: u64, generation: u32 },
    Temporary,
    Other,
}

/// Reads a file name.
pub(crate) fn parse_name(name: &str) -> Named {
    if name.ends_with(".tmp") {
        return Named::Temporary;
    }
    if let Some(id) = name.strip_suffix(".log").and_then(|n| n.parse().ok()) {
        return Named::Segment(id);
    }
    let parts = || {
        let (range, generation) = name.strip_suffix(".sealed")?.split_once(".g")?;
        let (first, last) = range.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?, generation.parse().ok()?))
    };
    match parts() {
        Some((first, last, generation)) => Named::Sealed { first, last, generation },
        None => Named::Other,
    }
}

/// Builds a file under a temporary name and gives it its own when `fill` has written it: after a
/// crash there is the whole file or none.
pub(crate) fn create_whole<T>(
    disk: &dyn Disk,
    dir: &Path,
    name: &str,
    fill: impl FnOnce(&dyn DiskFile) -> io::Result<T>,
) -> io::Result<(std::sync::Arc<dyn DiskFile>, T)> {
    let temporary = dir.join(format!("{name}.tmp"));
    match disk.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&temporary)?;
    let result = fill(&*file).and_then(|filled| {
        file.sync_data()?;
        disk.rename(&temporary, &dir.join(name))?;
        if let Err(error) = disk.sync_dir(dir) {
            // The caller goes on without this file, so it must not turn up again: the next good
            // sync of the folder makes that durable.
            disk.remove(&dir.join(name))?;
            return Err(error);
        }
        Ok(filled)
    });
    match result {
        Ok(filled) => Ok((file, filled)),
        Err(error) => {
            // Best effort: a disk that is full gets its space back at once.
            let _ = disk.remove(&temporary);
            Err(error)
        }
    }
}

/// What `META` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    pub log_id: u64,
    pub shards: u16,
}

impl Meta {
    /// The path of `META`.
    pub(crate) fn path(dir: &Path) -> PathBuf {
        dir.join("META")
    }

    /// Reads `META`, or makes it where `new` has something to put there.
    pub(crate) fn open_or_create(
        disk: &dyn Disk,
        dir: &Path,
        new: Meta,
    ) -> Result<Meta, JournalError> {
        let path = Meta::path(dir);
        match disk.open(&path) {
            Ok(file) => {
                let header = FileHeader::read(&path, &*file)?;
                let shards = u16::try_from(header.first).unwrap_or(0);
                if header.kind != FileKind::Meta || shards == 0 || shards > MAX_SHARDS {
                    return Err(JournalError::corrupt(path, 0, "META holds something else"));
                }
                Ok(Meta { log_id: header.log_id, shards })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Meta::create(disk, dir, new).map_err(|e| JournalError::io("creating", path, &e))
            }
            Err(error) => Err(JournalError::io("opening", path, &error)),
        }
    }

    fn create(disk: &dyn Disk, dir: &Path, new: Meta) -> io::Result<Meta> {
        let header = FileHeader {
            kind: FileKind::Meta,
            first: u64::from(new.shards),
            last: 0,
            generation: 0,
            salt: 0,
            log_id: new.log_id,
        };
        create_whole(disk, dir, "META", |file| file.write_at(0, &header.to_bytes()))?;
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        assert_eq!(parse_name(&segment_name(7)), Named::Segment(7));
        assert_eq!(
            parse_name(&sealed_name(1, 6, 2)),
            Named::Sealed { first: 1, last: 6, generation: 2 }
        );
        assert_eq!(parse_name("0000000000000007.log.tmp"), Named::Temporary);
        assert_eq!(parse_name("META"), Named::Other);
        assert_eq!(parse_name("x-y.g1.sealed"), Named::Other);
    }
}
