//! What every [`Disk`] promises, as a suite that each implementation runs.
//!
//! Every check gets the disk and a folder that exists and is empty. [`disk_contract!`] makes a test
//! of each.
//!
//! [`disk_contract!`]: crate::disk_contract

#![allow(clippy::unwrap_used, reason = "a suite of tests")]

use std::{any::Any, io::ErrorKind, path::PathBuf, sync::Arc};

use duractor_journal::disk::Disk;

/// A disk to check, and a folder on it.
pub struct Subject {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// A folder that exists and is empty.
    pub dir: PathBuf,
    /// What has to live as long as the check does, as the guard of a temporary folder.
    pub keep: Box<dyn Any>,
}

/// Makes a `#[test]` of every check. Takes a function `fn() -> Subject`.
#[macro_export]
macro_rules! disk_contract {
    ($factory:expr) => {
        $crate::disk_contract!($factory;
            creates_and_opens, refuses_what_is_not_there, lists_sorted, makes_folders,
            reads_to_the_end, writes_extend_with_zeros, sets_the_length, renames_replace,
            removed_files_stay_readable, locks_exclude, handles_share_a_file, syncs_need_a_folder);
    };
    ($factory:expr; $($check:ident),+) => {
        $(
            #[test]
            fn $check() {
                $crate::disk::contract::$check(&$factory());
            }
        )+
    };
}

/// A file is made once, and opened thereafter.
pub fn creates_and_opens(subject: &Subject) {
    let Subject { disk, dir, .. } = subject;
    let path = dir.join("a");
    let file = disk.create(&path).unwrap();
    assert!(file.is_empty().unwrap());
    file.write_at(0, b"hello").unwrap();
    assert_eq!(disk.create(&path).err().unwrap().kind(), ErrorKind::AlreadyExists);
    assert_eq!(disk.create(dir).err().unwrap().kind(), ErrorKind::AlreadyExists);

    let mut read = [0; 5];
    disk.open(&path).unwrap().read_exact_at(0, &mut read).unwrap();
    assert_eq!(&read, b"hello");
}

/// What is not there is an error of its own kind.
pub fn refuses_what_is_not_there(subject: &Subject) {
    let Subject { disk, dir, .. } = subject;
    let (absent, below) = (dir.join("absent"), dir.join("absent/file"));
    assert_eq!(disk.open(&absent).err().unwrap().kind(), ErrorKind::NotFound);
    assert_eq!(disk.remove(&absent).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(disk.rename(&absent, &dir.join("b")).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(disk.list(&absent).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(disk.create(&below).err().unwrap().kind(), ErrorKind::NotFound);
    assert_eq!(disk.lock(&below).err().unwrap().kind(), ErrorKind::NotFound);
    disk.create(&dir.join("a")).unwrap();
    assert_eq!(disk.rename(&dir.join("a"), &below).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(disk.list(dir).unwrap(), ["a"]);
}

/// A listing has the files of the folder itself, by name.
pub fn lists_sorted(subject: &Subject) {
    let Subject { disk, dir, .. } = subject;
    assert!(disk.list(dir).unwrap().is_empty());
    disk.create_dir_all(&dir.join("folder")).unwrap();
    for name in ["b", "a-b", "a", "folder/c", "ä"] {
        disk.create(&dir.join(name)).unwrap();
    }
    assert_eq!(disk.list(dir).unwrap(), ["a", "a-b", "b", "ä"]);
    assert_eq!(disk.list(&dir.join("folder")).unwrap(), ["c"]);
}

/// Folders are made with those above them; one that is there already is no error.
pub fn makes_folders(subject: &Subject) {
    let Subject { disk, dir, .. } = subject;
    let deep = dir.join("a/b/c");
    disk.create_dir_all(&deep).unwrap();
    disk.create_dir_all(&deep).unwrap();
    assert!(disk.list(&deep).unwrap().is_empty());
    assert!(disk.list(&dir.join("a")).unwrap().is_empty());
    disk.create(&deep.join("file")).unwrap();
    assert!(disk.create_dir_all(&deep.join("file/d")).is_err());
}

/// A read ends where the file does.
pub fn reads_to_the_end(subject: &Subject) {
    let Subject { disk, dir, .. } = subject;
    let file = disk.create(&dir.join("a")).unwrap();
    file.write_at(0, b"0123456789").unwrap();
    let mut buf = [7; 8];
    assert_eq!(file.read_at(6, &mut buf).unwrap(), 4);
    assert_eq!(&buf, b"6789\x07\x07\x07\x07");
    assert_eq!(file.read_at(10, &mut buf).unwrap(), 0);
    assert_eq!(file.read_at(1_000, &mut buf).unwrap(), 0);
    assert_eq!(file.read_at(0, &mut []).unwrap(), 0);
    assert_eq!(file.read_exact_at(6, &mut buf).unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

/// A write beyond the end leaves zeros in between, one inside leaves the rest.
pub fn writes_extend_with_zeros(subject: &Subject) {
    let Subject { disk, dir, .. } = subject;
    let file = disk.create(&dir.join("a")).unwrap();
    file.write_at(600, b"end").unwrap();
    file.write_at(0, b"start").unwrap();
    file.write_at(601, b"").unwrap();
    assert_eq!(file.len().unwrap(), 603);
    let mut all = vec![9; 603];
    file.read_exact_at(0, &mut all).unwrap();
    assert_eq!(&all[..5], b"start");
    assert!(all[5..600].iter().all(|&byte| byte == 0));
    assert_eq!(&all[600..], b"end");
}

/// A file is cut for good: what comes after is zeros.
pub fn sets_the_length(subject: &Subject) {
    let Subject { disk, dir, .. } = subject;
    let file = disk.create(&dir.join("a")).unwrap();
    file.write_at(0, &[1; 2_000]).unwrap();
    file.set_len(700).unwrap();
    assert_eq!(file.len().unwrap(), 700);
    file.set_len(1_500).unwrap();
    file.sync_data().unwrap();
    let mut all = vec![9; 1_500];
    file.read_exact_at(0, &mut all).unwrap();
    assert!(all[..700].iter().all(|&byte| byte == 1));
    assert!(all[700..].iter().all(|&byte| byte == 0));
}

/// A rename moves the file over another; open handles keep the file that they opened.
pub fn renames_replace(subject: &Subject) {
    let Subject { disk, dir, .. } = subject;
    let (new, old) = (dir.join("new"), dir.join("old"));
    let replaced = disk.create(&old).unwrap();
    replaced.write_at(0, b"old").unwrap();
    let moved = disk.create(&new).unwrap();
    moved.write_at(0, b"new").unwrap();
    disk.rename(&new, &old).unwrap();
    disk.sync_dir(dir).unwrap();
    assert_eq!(disk.list(dir).unwrap(), ["old"]);

    let mut read = [0; 3];
    disk.open(&old).unwrap().read_exact_at(0, &mut read).unwrap();
    assert_eq!(&read, b"new");
    replaced.read_exact_at(0, &mut read).unwrap();
    assert_eq!(&read, b"old");
    moved.write_at(0, b"NEW").unwrap();
    disk.open(&old).unwrap().read_exact_at(0, &mut read).unwrap();
    assert_eq!(&read, b"NEW");

    disk.rename(&old, &old).unwrap();
    assert_eq!(disk.list(dir).unwrap(), ["old"]);
}

/// A removed file serves those who have it open; its name is free at once.
pub fn removed_files_stay_readable(subject: &Subject) {
    let Subject { disk, dir, .. } = subject;
    let path = dir.join("a");
    let removed = disk.create(&path).unwrap();
    removed.write_at(0, b"old").unwrap();
    disk.remove(&path).unwrap();
    assert!(disk.list(dir).unwrap().is_empty());
    disk.create(&path).unwrap().write_at(0, b"new").unwrap();
    disk.sync_dir(dir).unwrap();
    let mut read = [0; 3];
    removed.read_exact_at(0, &mut read).unwrap();
    assert_eq!(&read, b"old");
    removed.sync_data().unwrap();
}

/// One holds a lock, until it is dropped.
pub fn locks_exclude(subject: &Subject) {
    let Subject { disk, dir, .. } = subject;
    let path = dir.join("lock");
    let held = disk.lock(&path).unwrap();
    assert_eq!(disk.lock(&path).err().unwrap().kind(), ErrorKind::WouldBlock);
    disk.lock(&dir.join("other")).unwrap();
    drop(held);
    let again = disk.lock(&path).unwrap();
    assert_eq!(disk.lock(&path).err().unwrap().kind(), ErrorKind::WouldBlock);
    drop(again);
    assert_eq!(disk.list(dir).unwrap(), ["lock", "other"]);
}

/// What one handle writes, every other one reads at once.
pub fn handles_share_a_file(subject: &Subject) {
    let Subject { disk, dir, .. } = subject;
    let path = dir.join("a");
    let writer = disk.create(&path).unwrap();
    let reader = disk.open(&path).unwrap();
    writer.write_at(0, b"seen").unwrap();
    assert_eq!(reader.len().unwrap(), 4);
    drop(writer);
    let mut read = [0; 4];
    reader.read_exact_at(0, &mut read).unwrap();
    assert_eq!(&read, b"seen");
}

/// A folder that is not there cannot be synced.
pub fn syncs_need_a_folder(subject: &Subject) {
    let Subject { disk, dir, .. } = subject;
    disk.sync_dir(dir).unwrap();
    assert_eq!(disk.sync_dir(&dir.join("absent")).unwrap_err().kind(), ErrorKind::NotFound);
}
