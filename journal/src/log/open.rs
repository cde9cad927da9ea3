//! Opening a log: which files count, what they hold, and where to go on writing.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    files::Files,
    layout::{FILE_HEADER_BYTES, FileHeader, FileKind, Meta, Named, parse_name},
    live::Live,
    options::LogConfig,
    recover::{Recovered, note_applied},
    scan::{Scanned, Tail, scan},
    sealed::Sealed,
    shared::SharedLock,
};
use crate::{
    disk::{Disk, create_dir_durably},
    env::Env,
    error::JournalError,
    id::{MAX_SHARDS, ShardId},
};

/// What was found.
pub(crate) struct Opened {
    /// The log's folder.
    pub dir: PathBuf,
    pub lock: SharedLock,
    pub meta: Meta,
    pub files: Files,
    /// The segment to go on writing, and where; none where a new one must be made.
    pub active: Option<(Arc<Live>, u64)>,
    /// An empty segment for later.
    pub spare: Option<Live>,
    /// The first segment number that was never used.
    pub next_segment: u64,
    /// By shard.
    pub groups: Vec<Recovered>,
}

/// Opens the files of a log, made new if there is none.
pub(crate) fn open(config: &LogConfig, env: &Env) -> Result<Opened, JournalError> {
    check(config)?;
    let (disk, dir) = (&*env.disk, config.dir.as_path());
    create_dir_durably(disk, dir).map_err(|e| JournalError::io("creating", dir, &e))?;
    let lock = lock(disk, dir)?;
    // A process that died may have left names that are not durable; from here on they are built on.
    disk.sync_dir(dir).map_err(|e| JournalError::io("syncing", dir, &e))?;
    let new = Meta { log_id: env.entropy.next_u64(), shards: config.shards };
    let meta = Meta::open_or_create(disk, dir, new)?;
    if meta.shards != config.shards {
        return Err(JournalError::Incompatible {
            path: Meta::path(dir),
            reason: format!(
                "the log was made with {} shards, and {} are configured",
                meta.shards, config.shards
            ),
        });
    }
    let found = list(disk, dir, &meta)?;
    let mut opened = Opened {
        dir: config.dir.clone(),
        lock,
        meta,
        files: Files::new(meta.shards),
        active: None,
        spare: None,
        next_segment: found.next_segment,
        groups: (0..meta.shards).map(|_| Recovered::default()).collect(),
    };
    read(found.files, &mut opened)?;
    Ok(opened)
}

fn check(config: &LogConfig) -> Result<(), JournalError> {
    let refuse = |reason: &str| {
        Err(JournalError::Incompatible { path: config.dir.clone(), reason: reason.into() })
    };
    if config.shards == 0 || config.shards > MAX_SHARDS {
        return refuse("shards must be 1 to 256");
    }
    if !(16 << 10..=1 << 30).contains(&config.segment_bytes) {
        return refuse("segment_bytes must be 16 KiB to 1 GiB");
    }
    if config.merged_bytes > 2 << 30 {
        return refuse("merged_bytes must be at most 2 GiB");
    }
    if config.limits.max_batch_bytes > super::frame::MAX_PAYLOAD_BYTES / 2 {
        return refuse("max_batch_bytes must be at most 128 MiB");
    }
    Ok(())
}

fn lock(disk: &dyn Disk, dir: &Path) -> Result<SharedLock, JournalError> {
    let path = dir.join("LOCK");
    disk.lock(&path).map(Arc::from).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => JournalError::Locked { path },
        _ => JournalError::io("locking", path, &error),
    })
}

/// The files that count: those that were replaced and not removed yet are removed now.
struct Found {
    /// The oldest first.
    files: Vec<FoundFile>,
    next_segment: u64,
}

enum FoundFile {
    Sealed(Sealed),
    Segment(Live),
}

fn list(disk: &dyn Disk, dir: &Path, meta: &Meta) -> Result<Found, JournalError> {
    let names = disk.list(dir).map_err(|e| JournalError::read(dir, &e))?;
    let (mut files, mut stale) = (Vec::new(), Vec::new());
    for name in names {
        match parse_name(&name) {
            // Generation 0: of a sealed file and a segment of the same number, the file counts.
            Named::Segment(id) => files.push((id, Reverse((id, 0)), name)),
            Named::Sealed { first, last, generation } => {
                files.push((first, Reverse((last, generation)), name));
            }
            Named::Temporary => stale.push(name),
            Named::Other => {}
        }
    }
    files.sort();
    let ranges: Vec<_> = files.iter().map(|(first, rest, _)| (*first, rest.0.0)).collect();
    let chain = chain(&ranges);
    let end = chain.last().map_or(0, |at| ranges[*at].1);
    let mut found = Found { files: Vec::new(), next_segment: 1 };
    for (at, (first, Reverse((last, _)), name)) in files.into_iter().enumerate() {
        if chain.contains(&at) {
            found.files.push(open_file(disk, dir.join(name), meta, (first, last))?);
            found.next_segment = last + 1;
        } else if last <= end {
            stale.push(name);
        } else {
            let what = format!("segments {} to {} are missing", end + 1, first.max(end + 2) - 1);
            return Err(JournalError::corrupt(dir.join(name), 0, what));
        }
    }
    for name in stale {
        let path = dir.join(name);
        disk.remove(&path).map_err(|e| JournalError::io("removing", &path, &e))?;
    }
    Ok(found)
}

fn open_file(
    disk: &dyn Disk,
    path: PathBuf,
    meta: &Meta,
    range: (u64, u64),
) -> Result<FoundFile, JournalError> {
    let file = disk.open(&path).map_err(|e| JournalError::io("opening", &path, &e))?;
    if path.extension().is_some_and(|e| e == "sealed") {
        let sealed = Sealed::open(path, file)?;
        check_header(&sealed.path, &sealed.header, meta, range)?;
        return Ok(FoundFile::Sealed(sealed));
    }
    let header = FileHeader::read(&path, &*file)?;
    check_header(&path, &header, meta, range)?;
    let capacity = file.len().map_err(|e| JournalError::read(&path, &e))?;
    let (id, salt) = (range.0, header.salt);
    let (written, index) = (AtomicU64::new(FILE_HEADER_BYTES), Mutex::default());
    Ok(FoundFile::Segment(Live { id, path, file, salt, capacity, written, index }))
}

/// Which of the files to use, out of what segments each holds (the first and the last, in order of
/// the first; where that is the same, the preferred one first): those that follow one another
/// without a gap and reach farthest. The others were replaced; or they are left over from a merge
/// that failed, and then they may overlap two that are used.
fn chain(ranges: &[(u64, u64)]) -> Vec<usize> {
    let mut reached: BTreeMap<u64, Vec<usize>> = BTreeMap::from([(0, Vec::new())]);
    for (at, (first, last)) in ranges.iter().enumerate() {
        let Some(before) = first.checked_sub(1).and_then(|end| reached.get(&end)) else { continue };
        let mut files = before.clone();
        files.push(at);
        reached.entry(*last).or_insert(files);
    }
    reached.pop_last().map(|(_, files)| files).unwrap_or_default()
}

fn check_header(
    path: &Path,
    header: &FileHeader,
    meta: &Meta,
    (first, last): (u64, u64),
) -> Result<(), JournalError> {
    if header.log_id != meta.log_id {
        return Err(JournalError::Incompatible {
            path: path.to_owned(),
            reason: "the file belongs to another log".into(),
        });
    }
    let kinds = if path.extension().is_some_and(|e| e == "log") {
        FileKind::Segment
    } else {
        FileKind::Sealed
    };
    if (header.first, header.last) != (first, last) || header.kind != kinds {
        return Err(JournalError::corrupt(path, 0, "the file's header and its name do not agree"));
    }
    Ok(())
}

/// Reads the segments, and finds out where to go on.
fn read(found: Vec<FoundFile>, opened: &mut Opened) -> Result<(), JournalError> {
    // From the newest: a segment with frames says that all before it are complete, and so does a
    // sealed file.
    let mut tail = Tail::MayBeTorn;
    let mut files = Vec::new();
    for file in found.into_iter().rev() {
        let scanned = match &file {
            FoundFile::Segment(live) => Some(scan(&live.path, &*live.file, live.salt, tail)?),
            FoundFile::Sealed(_) => None,
        };
        if scanned.as_ref().is_none_or(|scanned| !scanned.is_empty()) {
            tail = Tail::MustBeComplete;
        }
        files.push((file, scanned));
    }
    let (mut sealed, mut live) = (Vec::new(), Vec::new());
    while let Some((file, scanned)) = files.pop() {
        match (file, scanned) {
            (FoundFile::Segment(segment), Some(scanned)) => {
                if scanned.is_empty() && opened.active.is_some() && files.is_empty() {
                    opened.spare = Some(segment);
                } else {
                    live.push(opened.take_segment(segment, scanned, !sealed.is_empty())?);
                }
            }
            (FoundFile::Sealed(file), _) => sealed.push(opened.take_sealed(file)?),
            (FoundFile::Segment(_), None) => {}
        }
    }
    for (group, shard) in opened.groups.iter_mut().zip(0..) {
        if !group.settle() {
            let what = format!("entries of {} are missing at the end", ShardId(shard));
            return Err(JournalError::corrupt(opened.dir.clone(), 0, what));
        }
    }
    live.iter().try_for_each(|live| note_applied(&opened.groups, live))?;
    opened.files.change(|set| (set.sealed, set.live) = (sealed, live));
    Ok(())
}

/// Makes durable what was read. It may not be, if only the process had died. An fsync alone does
/// not do: after a failed one, the operating system may hold pages that it takes for written. Only
/// the last group commit can be like that, so it is written once more.
fn settle(live: &Live, scanned: &Scanned) -> io::Result<()> {
    let from = scanned.last_commit.min(scanned.end);
    let mut bytes = vec![0; (scanned.end - from) as usize];
    live.file.read_exact_at(from, &mut bytes)?;
    live.file.write_at(from, &bytes)?;
    live.file.sync_data()
}

impl Opened {
    fn take_sealed(&mut self, sealed: Sealed) -> Result<Arc<Sealed>, JournalError> {
        for row in &sealed.shards {
            self.group(&sealed.path, row.shard)?.sealed(row);
        }
        self.active = None;
        Ok(Arc::new(sealed))
    }

    /// Takes a segment, before which there are sealed files or not.
    fn take_segment(
        &mut self,
        live: Live,
        scanned: Scanned,
        sealed: bool,
    ) -> Result<Arc<Live>, JournalError> {
        if scanned.torn > 0 {
            tracing::warn!(
                path = %live.path.display(),
                at = scanned.end,
                bytes = scanned.torn,
                "cut off a torn tail: writes that were never acknowledged"
            );
        }
        settle(&live, &scanned).map_err(|e| JournalError::io("syncing", &live.path, &e))?;
        live.written.store(scanned.end, Ordering::Release);
        for (shard, item) in scanned.items {
            let at = item.offset();
            if self.group(&live.path, shard)?.item((live.id, sealed), item).is_none() {
                let what = format!("entries of {shard} are missing before this one");
                return Err(JournalError::corrupt(live.path, at, what));
            }
        }
        let live = Arc::new(live);
        self.active = (!scanned.complete).then(|| (live.clone(), scanned.end));
        Ok(live)
    }

    fn group(&mut self, path: &Path, shard: ShardId) -> Result<&mut Recovered, JournalError> {
        let missing = || JournalError::corrupt(path, 0, format!("{shard} does not exist"));
        self.groups.get_mut(usize::from(shard.0)).ok_or_else(missing)
    }

    /// The segment to go on writing, and where: made where there is none.
    pub(crate) fn take_active(
        &mut self,
        config: &LogConfig,
        env: &Env,
    ) -> Result<(Arc<Live>, u64), JournalError> {
        if let Some(active) = self.active.take() {
            return Ok(active);
        }
        let key = (env.entropy.next_u64(), self.meta.log_id);
        let bytes = config.segment_bytes;
        let made = Live::create(&*env.disk, &config.dir, self.next_segment, key, bytes);
        let live = made.map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull => JournalError::DiskFull { message: error.to_string() },
            _ => JournalError::io("making a segment in", &config.dir, &error),
        })?;
        self.next_segment += 1;
        let live = Arc::new(live);
        self.files.change(|set| set.live.push(live.clone()));
        Ok((live, FILE_HEADER_BYTES))
    }
}

#[cfg(test)]
mod tests {
    use super::chain;

    #[test]
    fn the_files_that_follow_one_another_are_used() {
        assert_eq!(chain(&[]), Vec::<usize>::new());
        assert_eq!(chain(&[(1, 4), (1, 2), (3, 4), (5, 5)]), [0, 3], "merged, inputs left");
        assert_eq!(chain(&[(1, 2), (3, 8), (3, 6), (7, 10)]), [0, 2, 3], "a failed merge");
        assert_eq!(chain(&[(1, 4), (1, 3), (4, 6)]), [1, 2], "another");
        assert_eq!(chain(&[(1, 2), (4, 6)]), [0], "a gap");
        assert_eq!(chain(&[(1, 1), (2, 2), (3, 3), (3, 3), (4, 4)]), [0, 1, 2, 4], "one of each");
    }
}
