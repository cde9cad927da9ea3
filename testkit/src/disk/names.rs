//! The names of files and folders: as they are now, as a crash would leave them, and the changes in
//! between.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::image::Keep;
use crate::rng::Rng;

/// A file, whatever its name.
pub(super) type FileId = u64;

/// A change of names that no sync of a folder has made durable yet.
#[derive(Debug, Clone)]
enum Change {
    MakeDir(PathBuf),
    Link { path: PathBuf, id: FileId },
    Rename { from: PathBuf, to: PathBuf, id: FileId },
    Unlink { path: PathBuf, id: FileId },
}

impl Change {
    fn paths(&self) -> [&Path; 2] {
        match self {
            Self::MakeDir(path) | Self::Link { path, .. } | Self::Unlink { path, .. } => {
                [path, path]
            }
            Self::Rename { from, to, .. } => [from, to],
        }
    }

    fn id(&self) -> Option<FileId> {
        match self {
            Self::MakeDir(_) => None,
            Self::Link { id, .. } | Self::Rename { id, .. } | Self::Unlink { id, .. } => Some(*id),
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        self.paths().iter().any(|path| path.parent() == Some(dir))
    }

    /// Whether the outcome depends on which of the two came first.
    fn meets(&self, other: &Self) -> bool {
        let paths = other.paths();
        (self.id().is_some() && self.id() == other.id())
            || self.paths().iter().any(|path| paths.contains(path))
    }
}

#[derive(Debug, Clone, Default)]
struct Tree {
    dirs: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, FileId>,
}

impl Tree {
    fn is_dir(&self, path: &Path) -> bool {
        path.parent().is_none() || path == Path::new("") || self.dirs.contains(path)
    }

    /// A file has one name at most, also where a change that this one builds upon was lost.
    fn apply(&mut self, change: &Change) {
        match change {
            Change::MakeDir(path) => {
                self.dirs.insert(path.clone());
            }
            Change::Link { path, id } => {
                self.files.insert(path.clone(), *id);
            }
            Change::Rename { to, id, .. } => {
                self.files.retain(|_, file| file != id);
                self.files.insert(to.clone(), *id);
            }
            Change::Unlink { id, .. } => self.files.retain(|_, file| file != id),
        }
    }

    /// Drops what lies in folders that are gone.
    fn drop_unreachable(&mut self) {
        let dirs = std::mem::take(&mut self.dirs);
        // Sorted: a folder comes before those in it.
        for dir in dirs {
            if dir.parent().is_some_and(|parent| self.is_dir(parent)) {
                self.dirs.insert(dir);
            }
        }
        let files = std::mem::take(&mut self.files);
        self.files = files
            .into_iter()
            .filter(|(path, _)| path.parent().is_some_and(|parent| self.is_dir(parent)))
            .collect();
    }
}

/// All names of a disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    now: Tree,
    durable: Tree,
    pending: Vec<Change>,
    /// Whether changes become durable in any order, instead of in that of their making.
    unordered: bool,
}

impl Names {
    pub(super) fn new(unordered: bool) -> Self {
        Self { unordered, ..Self::default() }
    }

    pub(super) fn is_dir(&self, path: &Path) -> bool {
        self.now.is_dir(path)
    }

    /// Whether a file or folder may be made at this path.
    pub(super) fn has_parent(&self, path: &Path) -> bool {
        path.parent().is_some_and(|parent| self.is_dir(parent))
    }

    pub(super) fn get(&self, path: &Path) -> Option<FileId> {
        self.now.files.get(path).copied()
    }

    pub(super) fn durable(&self, path: &Path) -> Option<FileId> {
        self.durable.files.get(path).copied()
    }

    /// All files, by name.
    pub(super) fn files(&self) -> impl Iterator<Item = (&Path, FileId)> {
        self.now.files.iter().map(|(path, id)| (path.as_path(), *id))
    }

    pub(super) fn list(&self, dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = self
            .files()
            .filter(|(path, _)| path.parent() == Some(dir))
            .filter_map(|(path, _)| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect();
        names.sort();
        names
    }

    pub(super) fn make_dirs(&mut self, dir: &Path) {
        let mut missing: Vec<&Path> = dir.ancestors().take_while(|d| !self.is_dir(d)).collect();
        while let Some(dir) = missing.pop() {
            self.change(Change::MakeDir(dir.to_owned()));
        }
    }

    pub(super) fn link(&mut self, path: &Path, id: FileId) {
        self.change(Change::Link { path: path.to_owned(), id });
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path, id: FileId) {
        self.change(Change::Rename { from: from.to_owned(), to: to.to_owned(), id });
    }

    pub(super) fn unlink(&mut self, path: &Path, id: FileId) {
        self.change(Change::Unlink { path: path.to_owned(), id });
    }

    fn change(&mut self, change: Change) {
        self.now.apply(&change);
        self.pending.push(change);
    }

    /// Makes the changes of one folder durable, and those before them that an ordered file system
    /// has to take along.
    pub(super) fn sync(&mut self, dir: &Path) {
        let Some(last) = self.pending.iter().rposition(|change| change.is_in(dir)) else { return };
        let pending = std::mem::take(&mut self.pending);
        let mut taken = vec![false; pending.len()];
        for i in (0..=last).rev() {
            taken[i] = !self.unordered
                || pending[i].is_in(dir)
                || (i + 1..=last).any(|later| taken[later] && pending[later].meets(&pending[i]));
        }
        for (change, taken) in pending.into_iter().zip(taken) {
            if taken {
                self.durable.apply(&change);
            } else {
                self.pending.push(change);
            }
        }
    }

    /// A failed sync: the first few changes reached the disk, the others wait.
    pub(super) fn fail_sync(&mut self, rng: &mut Rng) {
        let reached = rng.index(self.pending.len() + 1);
        for change in self.pending.drain(..reached) {
            self.durable.apply(&change);
        }
    }

    /// Loses power.
    pub(super) fn crash(&mut self, keep: Keep, rng: &mut Rng) {
        let pending = std::mem::take(&mut self.pending);
        let keep = keep.drawn(rng);
        let first = match keep {
            Keep::None | Keep::Random => 0,
            Keep::All => pending.len(),
            Keep::Sectors | Keep::Torn => rng.index(pending.len() + 1),
        };
        for (i, change) in pending.iter().enumerate() {
            let any = self.unordered && keep == Keep::Sectors;
            if if any { rng.chance(0.5) } else { i < first } {
                self.durable.apply(change);
            }
        }
        self.durable.drop_unreachable();
        self.now = self.durable.clone();
    }

    /// Whether a crash may bring this file back.
    pub(super) fn may_return(&self, id: FileId) -> bool {
        self.durable.files.values().any(|file| *file == id)
            || self.pending.iter().any(|change| change.id() == Some(id))
    }
}
