//! What each operation of the disk seam does, fault or not.

use std::{io, path::Path};

use xxhash_rust::xxh3::xxh3_64;

use super::{
    faults::{Fault, Op, crashed},
    image::torn_len,
    names::FileId,
    state::{Boot, State, not_found},
};

/// No file grows beyond this: an offset out of range is a bug, not a reason to fill memory.
const MAX_FILE_BYTES: u64 = 1 << 30;

impl State {
    // ----- names

    pub(super) fn create_dir_all(&mut self, boot: Boot, dir: &Path) -> io::Result<()> {
        let fault = self.begin_whole(boot, Op::CreateDir, dir)?;
        let done = if dir.ancestors().any(|above| self.names.get(above).is_some()) {
            Err(io::ErrorKind::AlreadyExists.into())
        } else {
            self.names.make_dirs(dir);
            Ok(())
        };
        self.end(fault, done)
    }

    pub(super) fn list(&mut self, boot: Boot, dir: &Path) -> io::Result<Vec<String>> {
        let fault = self.begin_whole(boot, Op::List, dir)?;
        let done =
            if self.names.is_dir(dir) { Ok(self.names.list(dir)) } else { Err(not_found(dir)) };
        self.end(fault, done)
    }

    pub(super) fn create(&mut self, boot: Boot, path: &Path) -> io::Result<FileId> {
        let fault = self.begin_whole(boot, Op::Create, path)?;
        let done = if self.names.get(path).is_some() || self.names.is_dir(path) {
            Err(io::ErrorKind::AlreadyExists.into())
        } else {
            self.make(path).map(|id| self.hold(id))
        };
        self.end(fault, done)
    }

    pub(super) fn open(&mut self, boot: Boot, path: &Path) -> io::Result<FileId> {
        let fault = self.begin_whole(boot, Op::Open, path)?;
        let done = match self.names.get(path) {
            Some(id) => Ok(self.hold(id)),
            None if self.names.is_dir(path) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(not_found(path)),
        };
        self.end(fault, done)
    }

    pub(super) fn rename(&mut self, boot: Boot, from: &Path, to: &Path) -> io::Result<()> {
        let fault = self.begin_whole(boot, Op::Rename, from)?;
        self.note(xxh3_64(to.as_os_str().as_encoded_bytes()));
        let done = self.rename_now(from, to);
        self.end(fault, done)
    }

    fn rename_now(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let id = self.names.get(from).ok_or_else(|| not_found(from))?;
        if !self.names.has_parent(to) {
            return Err(not_found(to));
        }
        if self.names.is_dir(to) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if from == to {
            return Ok(());
        }
        let replaced = self.names.get(to);
        self.names.rename(from, to, id);
        if let Some(inode) = self.inodes.get_mut(&id) {
            inode.path = to.to_owned();
        }
        if let Some(replaced) = replaced {
            self.unlink(replaced);
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, boot: Boot, path: &Path) -> io::Result<()> {
        let fault = self.begin_whole(boot, Op::Remove, path)?;
        let done = match self.names.get(path) {
            Some(id) => {
                self.names.unlink(path, id);
                self.unlink(id);
                Ok(())
            }
            None => Err(not_found(path)),
        };
        self.end(fault, done)
    }

    pub(super) fn sync_dir(&mut self, boot: Boot, dir: &Path) -> io::Result<()> {
        let fault = self.begin(boot, Op::SyncDir, dir)?;
        // The operating system opens a folder to sync it, and no folder has an empty name.
        if !self.names.is_dir(dir) || dir == Path::new("") {
            return self.end(fault, Err(not_found(dir)));
        }
        match fault {
            None => {
                self.names.sync(dir);
                self.forget_gone();
            }
            Some(Fault::Lie | Fault::Crash) => {}
            Some(fault) => {
                self.names.fail_sync(&mut self.rng);
                return Err(fault.error());
            }
        }
        self.end(fault, Ok(()))
    }

    pub(super) fn lock(&mut self, boot: Boot, path: &Path) -> io::Result<()> {
        let fault = self.begin_whole(boot, Op::Lock, path)?;
        let done = match self.names.get(path) {
            Some(_) => Ok(()),
            None if self.names.is_dir(path) => Err(io::ErrorKind::IsADirectory.into()),
            None => self.make(path).map(|_| ()),
        };
        let done = done.and_then(|()| {
            let free = self.locks.insert(path.to_owned());
            if free { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
        });
        self.end(fault, done)
    }

    // ----- open files

    pub(super) fn len(&mut self, boot: Boot, id: FileId) -> io::Result<u64> {
        let fault = self.begin_on(boot, Op::Len, id)?;
        if let Some(fault) = fault
            && fault != Fault::Crash
        {
            return Err(fault.error());
        }
        let done = self.image(id).map(|image| image.len() as u64);
        self.end(fault, done)
    }

    pub(super) fn read(
        &mut self,
        boot: Boot,
        id: FileId,
        offset: u64,
        buf: &mut [u8],
    ) -> io::Result<usize> {
        let fault = self.begin_on(boot, Op::Read, id)?;
        self.note(offset);
        self.note(buf.len() as u64);
        if let Some(fault) = fault
            && fault != Fault::Crash
        {
            return Err(fault.error());
        }
        let bytes = self.image(id)?.volatile();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let len = buf.len().min(bytes.len() - start);
        buf[..len].copy_from_slice(&bytes[start..start + len]);
        self.end(fault, Ok(len))
    }

    pub(super) fn write(
        &mut self,
        boot: Boot,
        id: FileId,
        offset: u64,
        data: &[u8],
    ) -> io::Result<()> {
        let fault = self.begin_on(boot, Op::Write, id)?;
        self.note(offset);
        self.note(xxh3_64(data));
        let at = place(offset, data.len())?;
        match fault {
            None | Some(Fault::Crash) => {
                let done = self.write_now(id, at, data);
                self.end(fault, done)
            }
            Some(Fault::Misdirect) => {
                self.misdirect(id, at, data);
                Ok(())
            }
            Some(Fault::ZeroSector) => {
                self.write_now(id, at, data)?;
                let sectors = (at + data.len()).div_ceil(self.sector()) - at / self.sector();
                let zeroed = at / self.sector() + self.rng.index(sectors);
                self.zero(id, zeroed);
                Ok(())
            }
            Some(fault) => {
                let landed = torn_len(at, data.len(), self.faults.sector_bytes, &mut self.rng);
                self.write_now(id, at, &data[..landed])?;
                Err(fault.error())
            }
        }
    }

    /// Writes what there is room for.
    fn write_now(&mut self, id: FileId, at: usize, data: &[u8]) -> io::Result<()> {
        let len = self.image(id)?.len();
        let room = len.saturating_add(self.free());
        let fits = data.len().min(room.saturating_sub(at));
        self.image(id)?.write(at, &data[..fits]);
        if fits < data.len() { Err(self.full()) } else { Ok(()) }
    }

    pub(super) fn set_len(&mut self, boot: Boot, id: FileId, len: u64) -> io::Result<()> {
        let fault = self.begin_on(boot, Op::SetLen, id)?;
        self.note(len);
        if let Some(fault) = fault
            && fault != Fault::Crash
        {
            return Err(fault.error());
        }
        let len = place(len, 0)?;
        let free = self.free();
        let now = self.image(id)?.len();
        let done = if len.saturating_sub(now) > free {
            Err(self.full())
        } else {
            self.image(id)?.set_len(len);
            Ok(())
        };
        self.end(fault, done)
    }

    pub(super) fn sync(&mut self, boot: Boot, id: FileId) -> io::Result<()> {
        let fault = self.begin_on(boot, Op::Sync, id)?;
        let Self { inodes, rng, faults, .. } = self;
        let image = &mut inodes.get_mut(&id).ok_or_else(crashed)?.image;
        match fault {
            None => image.sync(),
            Some(Fault::Lie | Fault::Crash) => {}
            Some(fault) => {
                let drop_pages = match fault {
                    Fault::DropPages => true,
                    Fault::MarkClean => false,
                    _ => rng.chance(0.5),
                };
                image.fail_sync(drop_pages, faults.sector_bytes, rng);
                return Err(fault.error());
            }
        }
        self.end(fault, Ok(()))
    }
}

fn place(offset: u64, len: usize) -> io::Result<usize> {
    let fits = offset.checked_add(len as u64).is_some_and(|end| end <= MAX_FILE_BYTES);
    let at = usize::try_from(offset).ok().filter(|_| fits);
    at.ok_or_else(|| io::ErrorKind::FileTooLarge.into())
}
