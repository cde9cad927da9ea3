//! The disk seam: the few file operations that the log and the snapshot store are built from.
//!
//! Production uses [`StdDisk`]; the simulated disk of the testkit keeps volatile and durable
//! contents apart and injects faults. Nothing else in Duractor touches files.
//!
//! What an implementation promises, and no more:
//! - [`DiskFile::write_at`] is visible to reads at once and durable after [`DiskFile::sync_data`].
//!   A crash before that keeps any subset of the written sectors.
//! - A file that was created, renamed or removed stays so after [`Disk::sync_dir`] of its folder.
//! - After a failed sync, what was written since the last good one is lost or not: nobody knows.

mod std_disk;

use std::{io, path::Path, sync::Arc};

pub use std_disk::StdDisk;

/// Files in folders. Paths are as the caller gives them.
pub trait Disk: Send + Sync + 'static {
    /// Makes a folder and those above it.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// The names of the files in a folder, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Makes a new empty file and opens it. [`io::ErrorKind::AlreadyExists`] where there is one.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file to read and write. [`io::ErrorKind::NotFound`] where there is none.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames a file, replacing the one at `to`. Atomic: after a crash there is one or the other.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Open handles go on reading it.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes creations, renames and removals in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes the exclusive lock on a file, which is made if need be. Held until dropped, or until
    /// the process ends, however it ends. [`io::ErrorKind::WouldBlock`] where another has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>>;
}

/// A lock that is held for as long as this value lives.
pub trait DiskLock: Send + Sync + 'static {}

/// An open file. All methods take `&self`: reads and writes name their place.
pub trait DiskFile: Send + Sync + 'static {
    /// Reads into `buf` from `offset`; fewer bytes only at the end of the file.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Reads exactly `buf.len()` bytes if that needs no waiting, because they are in memory. False
    /// where it would wait, or where nobody can tell: then read them by the offload seam.
    fn read_cached_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        let _ = (offset, buf);
        Ok(false)
    }

    /// Writes all of `data` at `offset`, extending the file with zeros where it is shorter.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes everything that was written durable, the file's length included.
    fn sync_data(&self) -> io::Result<()>;

    /// Cuts or extends (with zeros) the file.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// The file's length, in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads exactly `buf.len()` bytes. [`io::ErrorKind::UnexpectedEof`] where the file ends
    /// before.
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let read = self.read_at(offset, buf)?;
        if read < buf.len() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the file ends {} bytes early", buf.len() - read),
            ));
        }
        Ok(())
    }
}
