//! What the operating system knows: resident memory, the page cache, kinds of file system.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use rustix::fs::{Advice, fadvise, statfs};

/// Linux' number for tmpfs.
const TMPFS: u64 = 0x0102_1994;

/// Resident memory of this process, in bytes.
pub(crate) fn rss_bytes() -> io::Result<u64> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    let pages = pages.ok_or_else(|| io::Error::other("/proc/self/statm has another form"))?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// Processor time of this process so far, in seconds: all threads, in and out of the kernel.
pub(crate) fn cpu_seconds() -> io::Result<f64> {
    cpu_seconds_of("self")
}

/// The same of another process, by its number.
pub(crate) fn cpu_seconds_of(process: &str) -> io::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The program's name, in brackets, may have spaces: fields count from behind it.
    let fields = stat.rsplit(')').next().unwrap_or_default().split(' ');
    let ticks: Vec<u64> = fields.skip(12).take(2).filter_map(|field| field.parse().ok()).collect();
    if ticks.len() != 2 {
        return Err(io::Error::other("/proc/PID/stat has another form"));
    }
    Ok((ticks[0] + ticks[1]) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Bytes that this process has had read from disks so far.
pub(crate) fn disk_read_bytes() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("read_bytes: "));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

/// Whether files in this folder are kept in memory only.
pub(crate) fn is_memory(dir: &Path) -> bool {
    statfs(dir).is_ok_and(|stat| stat.f_type as u64 == TMPFS)
}

/// Throws the files of a folder out of the page cache. Says how it did that.
pub(crate) fn drop_cache(dir: &Path, whole_machine: bool) -> io::Result<&'static str> {
    for path in files(dir)? {
        let file = File::open(path)?;
        // Pages that are not on disk yet would stay.
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    if whole_machine && fs::write("/proc/sys/vm/drop_caches", "1").is_ok() {
        return Ok("drop_caches");
    }
    Ok("fadvise")
}

/// Reads the files of a folder, so that they are in the page cache.
pub(crate) fn fill_cache(dir: &Path) -> io::Result<()> {
    for path in files(dir)? {
        io::copy(&mut File::open(path)?, &mut io::sink())?;
    }
    Ok(())
}

/// Bytes of all files in a folder.
pub(crate) fn folder_bytes(dir: &Path) -> io::Result<u64> {
    files(dir)?.iter().map(|path| Ok(fs::metadata(path)?.len())).sum()
}

fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}
