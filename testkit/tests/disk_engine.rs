//! The simulated disk is fair and sharp: a small log that does everything right survives all of
//! it, and one with a single bug does not.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{io, path::Path, sync::Arc};

use duractor_journal::disk::{Disk, DiskFile};
use duractor_testkit::{DiskFaults, Fault, Op, Rng, Rule, SimDisk};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const SEEDS: u64 = 2_000;
const HEAD: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Bug {
    None,
    /// A record counts as stored once it is written, whatever becomes of its sync.
    AckBeforeSync,
    /// A failed sync is tried again.
    RetrySync,
    /// The log's name is never synced.
    NoFolderSync,
    /// The record's checksum is not looked at.
    NoChecksum,
    /// A bad record is taken for the end, whatever comes after it.
    CutAtCorruption,
}

/// Records, each of a length and a checksum bound to its place, and a payload that names it.
struct Log {
    file: Arc<dyn DiskFile>,
    end: u64,
    records: u64,
    bug: Bug,
}

fn payload(record: u64) -> Vec<u8> {
    let mut rng = Rng::new(record);
    let mut bytes = vec![0; 1 + rng.index(1_500)];
    rng.fill(&mut bytes);
    bytes
}

fn frame(at: u64, payload: &[u8]) -> Vec<u8> {
    let sum = xxh3_64_with_seed(payload, at);
    [&(payload.len() as u64).to_le_bytes(), &sum.to_le_bytes(), payload].concat()
}

/// The payload of the frame at `at`.
fn parse(bytes: &[u8], at: usize, bug: Bug) -> Option<&[u8]> {
    let head = bytes.get(at..at + HEAD)?;
    let len = u64::from_le_bytes(head[..8].try_into().unwrap());
    let payload = bytes.get(at + HEAD..)?.get(..usize::try_from(len).ok()?)?;
    let valid = bug == Bug::NoChecksum || frame(at as u64, payload)[..HEAD] == *head;
    (len > 0 && valid).then_some(payload)
}

impl Log {
    /// Opens the log, cuts a torn tail off and refuses corruption.
    fn open(disk: &dyn Disk, bug: Bug) -> io::Result<(Self, Vec<Vec<u8>>)> {
        let (dir, path, tmp) = (Path::new("/d"), Path::new("/d/log"), Path::new("/d/tmp"));
        disk.create_dir_all(dir)?;
        disk.sync_dir(Path::new("/"))?;
        if !disk.list(dir)?.contains(&"log".to_owned()) {
            let made = disk.create(tmp).or_else(|_| disk.open(tmp))?;
            made.sync_data()?;
            disk.rename(tmp, path)?;
        }
        if bug != Bug::NoFolderSync {
            disk.sync_dir(dir)?;
        }
        let file = disk.open(path)?;
        let mut bytes = vec![0; file.len()? as usize];
        file.read_exact_at(0, &mut bytes)?;

        let (mut at, mut found) = (0, Vec::new());
        while let Some(payload) = parse(&bytes, at, bug) {
            found.push(payload.to_vec());
            at += HEAD + payload.len();
        }
        let more = (at + 1..bytes.len()).any(|at| parse(&bytes, at, Bug::None).is_some());
        if more && bug != Bug::CutAtCorruption && bug != Bug::NoChecksum {
            return Err(io::ErrorKind::InvalidData.into());
        }
        file.set_len(at as u64)?;
        file.sync_data()?;
        Ok((Self { file, end: at as u64, records: found.len() as u64, bug }, found))
    }

    fn append(&mut self) -> io::Result<()> {
        let frame = frame(self.end, &payload(self.records));
        self.file.write_at(self.end, &frame)?;
        match self.file.sync_data() {
            Err(_) if self.bug == Bug::RetrySync => self.file.sync_data()?,
            Err(_) if self.bug == Bug::AckBeforeSync => {}
            synced => synced?,
        }
        self.end += frame.len() as u64;
        self.records += 1;
        Ok(())
    }
}

/// Runs a log through some crashes; says what was violated.
fn run(seed: u64, faults: DiskFaults, bug: Bug) -> Result<(), String> {
    let disk = SimDisk::new(seed, faults);
    let mut rng = Rng::new(seed);
    let (mut acked, mut tried) = (0, 0);
    for life in 0..4 {
        disk.crash_at(1 + rng.below(40));
        if life == 3 {
            disk.heal();
        }
        match Log::open(&*disk.mount(), bug) {
            Ok((mut log, found)) => {
                check(&found, acked, tried)?;
                (acked, tried) = (log.records, log.records);
                for _ in 0..20 {
                    tried += 1;
                    if log.append().is_err() {
                        break;
                    }
                    acked += 1;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err("a torn tail was taken for corruption".to_owned());
            }
            Err(_) => {}
        }
        disk.crash();
    }
    Ok(())
}

fn check(found: &[Vec<u8>], acked: u64, tried: u64) -> Result<(), String> {
    let count = found.len() as u64;
    if count < acked || count > tried {
        return Err(format!("{count} records of {acked} stored and {tried} tried"));
    }
    let wrong = (0..).zip(found).find(|(i, bytes)| payload(*i) != **bytes);
    wrong.map_or(Ok(()), |(i, _)| Err(format!("record {i} is another")))
}

/// How many seeds end in a violation.
fn violations(faults: &DiskFaults, bug: Bug) -> u64 {
    let failed = |seed: &u64| run(*seed, faults.clone(), bug).is_err();
    (0..SEEDS).filter(failed).count() as u64
}

fn failing() -> DiskFaults {
    DiskFaults::default()
        .rule(Rule::on(Op::Sync, Fault::DropPages).chance(0.02))
        .rule(Rule::on(Op::Sync, Fault::MarkClean).chance(0.02))
        .rule(Rule::on(Op::Write, Fault::Eio).chance(0.02))
        .rule(Rule::on(Op::SyncDir, Fault::Eio).chance(0.02))
}

#[test]
fn a_correct_log_survives() {
    for faults in [DiskFaults::default(), failing(), failing().unordered()] {
        for seed in 0..SEEDS {
            run(seed, faults.clone(), Bug::None).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        }
    }
}

#[test]
fn each_bug_is_caught() {
    let lying = DiskFaults::default().rule(Rule::on(Op::Sync, Fault::Lie));
    for (bug, faults) in [
        (Bug::AckBeforeSync, DiskFaults::default()),
        (Bug::RetrySync, failing()),
        (Bug::NoFolderSync, DiskFaults::default()),
        (Bug::NoChecksum, DiskFaults::default()),
        (Bug::None, lying),
    ] {
        let caught = violations(&faults, bug);
        println!("{bug:?}: {caught} of {SEEDS} seeds");
        assert!(caught > 20, "{bug:?}: {caught}");
    }
}

/// Flips a bit of a log of ten records that are all durable, and opens it again. `true` where all
/// are returned, or the log is refused.
fn flip(seed: u64, bug: Bug) -> bool {
    let disk = SimDisk::new(seed, DiskFaults::default());
    let (mut log, _) = Log::open(&*disk.mount(), bug).unwrap();
    for _ in 0..10 {
        log.append().unwrap();
    }
    let last = log.end - (HEAD + payload(9).len()) as u64;
    let flips = disk.flip_random_bits(1);
    disk.crash();
    match Log::open(&*disk.mount(), bug) {
        // Of a single file nobody can tell a spoilt last record from a torn one.
        Ok((_, found)) => flips[0].offset >= last || check(&found, 10, 10).is_ok(),
        Err(error) => error.kind() == io::ErrorKind::InvalidData,
    }
}

#[test]
fn bit_flips_show_who_cuts_at_corruption() {
    assert!((0..SEEDS).all(|seed| flip(seed, Bug::None)));
    assert!((0..SEEDS).filter(|seed| !flip(*seed, Bug::CutAtCorruption)).count() > 20);
    assert!((0..SEEDS).filter(|seed| !flip(*seed, Bug::NoChecksum)).count() > 20);
}
