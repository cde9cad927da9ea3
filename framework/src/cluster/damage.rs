//! A damaged data directory is set aside, never deleted, and the node comes back with an empty one.
//!
//! The mark `setting-aside` says where the files go. It is written before the first of them moves and
//! removed after the last, so that a node that dies in between goes on with it.

use std::{
    io,
    path::{Path, PathBuf},
};

use duractor_journal::disk::{Disk, create_dir_durably};

use super::{error::ClusterError, identity::file_error};

const MARK: &str = "setting-aside";
/// Folders of the data directory that have files.
const FOLDERS: [&str; 2] = ["log", ""];
/// What belongs to the node and not to the damaged disk.
const STAYS: [&str; 2] = [MARK, super::audit::FILE];

/// Moves everything in a data directory into `<dir>.damaged-N`, or, where that is on another file
/// system, into `<dir>/damaged-N`. Returns where it is.
///
/// # Errors
/// [`ClusterError::File`]. Some of it may have moved; [`finish`] goes on.
pub(super) fn set_aside(disk: &dyn Disk, dir: &Path) -> Result<PathBuf, ClusterError> {
    let to = free_place(disk, dir).map_err(|error| file_error(dir, &error))?;
    let mark = dir.join(MARK);
    let text = to.to_string_lossy().into_owned();
    let write = || {
        let file = disk.create(&mark)?;
        file.write_at(0, text.as_bytes())?;
        file.sync_data()?;
        disk.sync_dir(dir)
    };
    write().map_err(|error| file_error(&mark, &error))?;
    finish(disk, dir)?;
    Ok(to)
}

/// Finishes what a former process began. Nothing where it began nothing.
pub(super) fn finish(disk: &dyn Disk, dir: &Path) -> Result<(), ClusterError> {
    let mark = dir.join(MARK);
    let to = match read_mark(disk, &mark) {
        Ok(Some(to)) => to,
        Ok(None) => return Ok(()),
        Err(error) => return Err(file_error(mark, &error)),
    };
    for folder in FOLDERS {
        let (from, to) = (dir.join(folder), to.join(folder));
        move_files(disk, &from, &to).map_err(|error| file_error(&from, &error))?;
    }
    let done = disk.remove(&mark).and_then(|()| disk.sync_dir(dir));
    done.map_err(|error| file_error(mark, &error))
}

/// A folder that is not there yet, and that a file can be renamed into.
fn free_place(disk: &dyn Disk, dir: &Path) -> io::Result<PathBuf> {
    let mut beside = dir.as_os_str().to_owned();
    beside.push(".damaged");
    let bases = [PathBuf::from(beside), dir.join("damaged")];
    let mut last = io::Error::other("no place");
    for base in bases {
        for n in 1..10_000 {
            let mut place = base.clone().into_os_string();
            place.push(format!("-{n}"));
            let place = PathBuf::from(place);
            match disk.list(&place) {
                Ok(names) if names.is_empty() => {}
                Ok(_) => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            match try_place(disk, dir, &place) {
                Ok(()) => return Ok(place),
                Err(error) => last = error,
            }
            break;
        }
    }
    Err(last)
}

/// Whether a file can be renamed into a folder: not across file systems.
fn try_place(disk: &dyn Disk, dir: &Path, place: &Path) -> io::Result<()> {
    create_dir_durably(disk, place)?;
    let (from, to) = (dir.join("setting-aside.tmp"), place.join("setting-aside.tmp"));
    for left in [&from, &to] {
        match disk.remove(left) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    disk.create(&from)?;
    let renamed = disk.rename(&from, &to);
    disk.remove(if renamed.is_ok() { &to } else { &from })?;
    renamed
}

fn read_mark(disk: &dyn Disk, mark: &Path) -> io::Result<Option<PathBuf>> {
    let file = match disk.open(mark) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = vec![0; usize::try_from(file.len()?.min(1 << 16)).unwrap_or(0)];
    file.read_exact_at(0, &mut bytes)?;
    let text = String::from_utf8(bytes).unwrap_or_default();
    // One that was made and not written yet has moved nothing.
    if text.is_empty() {
        disk.remove(mark)?;
        return Ok(None);
    }
    Ok(Some(text.into()))
}

fn move_files(disk: &dyn Disk, from: &Path, to: &Path) -> io::Result<()> {
    let names = match disk.list(from) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    create_dir_durably(disk, to)?;
    for name in names.iter().filter(|name| !STAYS.contains(&name.as_str())) {
        disk.rename(&from.join(name), &to.join(name))?;
    }
    disk.sync_dir(to)?;
    disk.sync_dir(from)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use duractor_journal::disk::StdDisk;

    use super::*;

    fn filled() -> (tempfile::TempDir, PathBuf) {
        let home = tempfile::tempdir().expect("a folder");
        let dir = home.path().join("data");
        fs::create_dir_all(dir.join("log")).expect("makes");
        for (name, text) in
            [("identity", "i"), ("log/META", "m"), ("log/1.log", "l"), ("audit.log", "a")]
        {
            fs::write(dir.join(name), text).expect("writes");
        }
        (home, dir)
    }

    fn text(path: PathBuf) -> String {
        fs::read_to_string(path).expect("reads")
    }

    #[test]
    fn everything_is_there_afterwards_and_the_folder_is_empty() {
        let (_home, dir) = filled();
        let to = set_aside(&StdDisk, &dir).expect("moves");
        assert!(to.ends_with("data.damaged-1"), "{}", to.display());
        assert_eq!(text(to.join("identity")) + &text(to.join("log/META")), "im");
        assert_eq!(text(to.join("log/1.log")), "l");
        assert_eq!(super::super::identity::first_file(&StdDisk, &dir).expect("lists"), None);
        assert_eq!(text(dir.join("audit.log")), "a", "what people did stays with the node");
        fs::write(dir.join("identity"), "j").expect("writes");
        let again = set_aside(&StdDisk, &dir).expect("moves");
        assert!(again.ends_with("data.damaged-2"));
        assert_eq!(
            (text(to.join("identity")), text(again.join("identity"))),
            ("i".into(), "j".into())
        );
    }

    #[test]
    fn a_process_that_died_in_between_is_finished() {
        let (_home, dir) = filled();
        let to = dir.with_extension("damaged-1");
        fs::create_dir_all(to.join("log")).expect("makes");
        fs::write(dir.join(MARK), to.to_str().expect("text")).expect("writes");
        fs::rename(dir.join("log/META"), to.join("log/META")).expect("moves");
        finish(&StdDisk, &dir).expect("finishes");
        assert_eq!(text(to.join("log/META")) + &text(to.join("log/1.log")), "ml");
        assert_eq!(super::super::identity::first_file(&StdDisk, &dir).expect("lists"), None);
        finish(&StdDisk, &dir).expect("nothing to do");
    }
}
