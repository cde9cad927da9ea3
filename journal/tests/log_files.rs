//! The log's files: golden bytes, damage, torn tails, the lock.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use duractor_journal::{
    AppendBatch, EntityId, Env, Journal, JournalError, LogConfig, LogJournal, NewEvent,
    ReplayRange, Request, RequestId, Seq, ShardId, Term, Timestamp,
    disk::{Disk, DiskFile, DiskLock, StdDisk},
    env::Entropy,
    probe::Probe,
};
use futures_util::StreamExt;

const HEADER: usize = 64;
const FRAME_HEADER: usize = 32;
/// Where a frame says what it is, and what a batch of events says.
const KIND: usize = 12;
const BATCH: u8 = 1;

/// Counts, so that files come out the same each time.
struct Counter(AtomicU64);

impl Entropy for Counter {
    fn next_u64(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// The operating system's files, but every third read from memory finds that it would wait.
struct Forgetful(StdDisk);

struct ForgetfulFile(Arc<dyn DiskFile>, AtomicU64);

impl Disk for Forgetful {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(ForgetfulFile(self.0.create(path)?, AtomicU64::new(0))))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(ForgetfulFile(self.0.open(path)?, AtomicU64::new(0))))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.0.lock(path)
    }
}

impl DiskFile for ForgetfulFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buf)
    }

    fn read_cached_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        let n = self.1.fetch_add(1, Ordering::Relaxed);
        Ok(n % 3 != 2 && self.0.read_at(offset, buf)? == buf.len())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
}

/// Cause: a replay that met data outside of memory went back to where it began, and forgot where
/// the entity's events end. Consequence: it read to the end and then missed events. Fix: what was
/// found out about the files is kept.
#[tokio::test]
async fn a_replay_goes_on_where_memory_ends() {
    let dir = tempfile::tempdir().expect("a folder");
    let env = Env { disk: Arc::new(Forgetful(StdDisk)), ..env() };
    let journal = LogJournal::open(config(dir.path()), env).await.expect("the log opens");
    claim_all(&journal).await;
    for seq in 0..300 {
        append(&journal, "a", seq, &[3; 300]).await;
        append(&journal, "b", seq, &[4; 30]).await;
        if seq == 200 {
            journal.maintain().await.expect("maintenance");
        }
    }
    for _ in 0..20 {
        assert_eq!(replay(&journal, "a").await.expect("readable"), vec![vec![3; 300]; 300]);
        assert_eq!(replay(&journal, "b").await.expect("readable"), vec![vec![4; 30]; 300]);
        assert_eq!(journal.head(&entity("a")).await.expect("a head").last_seq, Seq(300));
    }
}

fn env() -> Env {
    Env { entropy: Arc::new(Counter(AtomicU64::new(1))), ..Env::production() }
}

fn config(dir: &Path) -> LogConfig {
    let mut config = LogConfig::new(dir);
    config.shards = 2;
    config.segment_bytes = 16 << 10;
    config
}

async fn open(dir: &Path) -> Arc<LogJournal> {
    try_open(dir).await.expect("the log opens")
}

async fn try_open(dir: &Path) -> Result<Arc<LogJournal>, JournalError> {
    LogJournal::open(config(dir), env()).await
}

fn entity(key: &str) -> EntityId {
    EntityId::new("order", key).expect("valid")
}

fn batch(key: &str, expected: u64, payload: &'static [u8]) -> AppendBatch {
    AppendBatch {
        epoch: Term(1),
        expected_seq: Seq(expected),
        timestamp: Timestamp(1_000),
        request: RequestId::new("r")
            .ok()
            .filter(|_| expected == 1)
            .map(|id| Request { id, reply: b"reply"[..].into() }),
        events: vec![NewEvent::new("placed", 1, payload)],
        entity: entity(key),
    }
}

async fn append(journal: &LogJournal, key: &str, expected: u64, payload: &'static [u8]) {
    journal.append(batch(key, expected, payload)).await.expect("an append");
}

async fn claim_all(journal: &LogJournal) {
    for shard in 0..journal.shards() {
        journal.claim(ShardId(shard)).await.expect("a claim");
    }
}

async fn replay(journal: &LogJournal, key: &str) -> Result<Vec<Vec<u8>>, JournalError> {
    let mut payloads = Vec::new();
    let mut chunks = journal.replay(&entity(key), ReplayRange::ALL);
    while let Some(chunk) = chunks.next().await {
        payloads.extend(chunk?.into_iter().map(|record| record.event.payload.to_vec()));
    }
    Ok(payloads)
}

async fn probe(dir: &Path) -> Probe {
    Probe::open(config(dir), env()).await.expect("the log opens")
}

/// Members, a vote, claims, appends to two entities, a deletion, and a sealed file. One at a time, without
/// Raft: what shares a group commit would depend on how fast it is.
async fn write_sample(dir: &Path) {
    let log = probe(dir).await;
    for shard in (0..2).map(ShardId) {
        log.members(shard, b"members"[..].into()).await.expect("durable");
        log.vote(shard, b"vote"[..].into()).await.expect("durable");
        log.claim(shard).await.expect("a claim");
    }
    for batch in [batch("a", 0, b"first"), batch("b", 0, b"other"), batch("a", 1, b"second")] {
        log.write(&batch).await.expect("an append");
    }
    let refused = log.write(&batch("b", 0, b"refused")).await;
    assert!(matches!(refused, Err(JournalError::WrongExpectedSeq { .. })), "{refused:?}");
    log.delete(&entity("a"), Seq(1), Term(1)).await.expect("a deletion");
    log.maintain().await.expect("maintenance");
    log.write(&batch("a", 2, b"third")).await.expect("an append");
    let shard = entity("b").shard(2);
    log.members(shard, b"new members"[..].into()).await.expect("durable");
    log.shutdown().await;
}

fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/log-v2")
}

fn segment(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("{id:016}.log"))
}

/// What these files hold is on users' disks: a difference means that a log of theirs may not open.
/// A new format gets a new version and a folder of its own beside this one, which must go on
/// opening. `DURACTOR_WRITE_GOLDEN=1` writes the files.
#[tokio::test]
async fn the_files_are_golden() {
    let dir = tempfile::tempdir().expect("a folder");
    write_sample(dir.path()).await;
    let mut names: Vec<_> = fs::read_dir(dir.path())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .filter(|name| name != "LOCK")
        .collect();
    names.sort();
    let write = std::env::var_os("DURACTOR_WRITE_GOLDEN").is_some();
    for name in &names {
        let made = fs::read(dir.path().join(name)).expect("a file");
        // Segments end in zeros: those are not kept.
        let kept = match name.ends_with(".log") {
            true => made.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1),
            false => made.len(),
        };
        let golden = golden_dir().join(name);
        if write {
            fs::create_dir_all(golden_dir()).expect("a folder");
            fs::write(&golden, &made[..kept]).expect("written");
        }
        let golden = fs::read(&golden).unwrap_or_default();
        assert!(golden == made[..kept], "{name} is not what it was");
    }
    let golden = fs::read_dir(golden_dir()).expect("golden files").count();
    assert_eq!(golden, names.len(), "as many files as there were");
}

#[tokio::test]
async fn golden_files_open() {
    let dir = tempfile::tempdir().expect("a folder");
    for entry in fs::read_dir(golden_dir()).expect("golden files") {
        let path = entry.expect("an entry").path();
        let mut bytes = fs::read(&path).expect("a file");
        if path.extension().is_some_and(|e| e == "log") {
            bytes.resize(16 << 10, 0);
        }
        fs::write(dir.path().join(path.file_name().expect("a name")), bytes).expect("written");
    }
    let log = probe(dir.path()).await;
    let payloads = async |key| {
        let records = log.replay(&entity(key)).await.expect("readable");
        records.into_iter().map(|record| record.event.payload.to_vec()).collect::<Vec<_>>()
    };
    assert_eq!(payloads("a").await, [&b"second"[..], b"third"]);
    assert_eq!(payloads("b").await, [b"other"]);
    for shard in (0..2).map(ShardId) {
        assert_eq!(log.voted(shard).as_deref(), Some(&b"vote"[..]));
        let members = if shard == entity("b").shard(2) { &b"new members"[..] } else { b"members" };
        assert_eq!(log.membership(shard).as_deref(), Some(members));
    }
    log.write(&batch("a", 3, b"fourth")).await.expect("an append");
}

#[tokio::test]
async fn a_log_that_was_not_closed_opens_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let journal = open(dir.path()).await;
    claim_all(&journal).await;
    append(&journal, "a", 0, b"first").await;
    let copy = tempfile::tempdir().expect("a folder");
    for entry in fs::read_dir(dir.path()).expect("a folder") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, copy.path().join(path.file_name().expect("a name"))).expect("copied");
    }
    let reopened = open(copy.path()).await;
    assert_eq!(replay(&reopened, "a").await.expect("readable"), [b"first"]);
}

/// The frames of a segment, as ranges of bytes.
fn frames(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let (mut at, mut found) = (HEADER, Vec::new());
    while bytes[at..at + 4] != [0; 4] {
        let len = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().expect("four bytes"));
        let end = at + FRAME_HEADER + len as usize;
        found.push(at..end);
        at = end;
    }
    found
}

async fn three_events(dir: &Path) -> Vec<u8> {
    let journal = open(dir).await;
    claim_all(&journal).await;
    append(&journal, "a", 0, b"first").await;
    append(&journal, "a", 1, b"second").await;
    append(&journal, "a", 2, b"third").await;
    journal.shutdown().await;
    fs::read(segment(dir, 1)).expect("the segment")
}

/// A crash in the middle of a write leaves part of a frame: it was never acknowledged.
#[tokio::test]
async fn a_torn_tail_is_cut_off() {
    let dir = tempfile::tempdir().expect("a folder");
    let whole = three_events(dir.path()).await;
    // Without what was written when the log was closed, the last event is in the last group commit.
    let batch = |frame: &&std::ops::Range<usize>| whole[frame.start + KIND] == BATCH;
    let last = frames(&whole).iter().rfind(batch).expect("a batch").clone();
    for cut in [last.start + 1, last.start + 20, last.end - 1] {
        let mut bytes = whole.clone();
        bytes[cut..].fill(0);
        fs::write(segment(dir.path(), 1), &bytes).expect("written");
        let journal = open(dir.path()).await;
        assert_eq!(replay(&journal, "a").await.expect("readable"), [&b"first"[..], b"second"]);
        append(&journal, "a", 2, b"again").await;
        journal.shutdown().await;
        let journal = open(dir.path()).await;
        assert_eq!(replay(&journal, "a").await.expect("readable").len(), 3);
        journal.shutdown().await;
    }
}

/// Damage in front of records that were written later is no torn tail: cutting there would lose
/// acknowledged events.
#[tokio::test]
async fn damage_is_refused_and_nothing_is_cut_off() {
    let dir = tempfile::tempdir().expect("a folder");
    let whole = three_events(dir.path()).await;
    let frames = frames(&whole);
    for frame in &frames[..frames.len() - 1] {
        for at in [frame.start, frame.start + 5, frame.end - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(segment(dir.path(), 1), &bytes).expect("written");
            match try_open(dir.path()).await {
                Err(JournalError::Corrupt(found)) => {
                    assert_eq!(found.offset, frame.start as u64, "{found}");
                }
                Err(other) => panic!("byte {at}: {other}"),
                Ok(_) => panic!("byte {at}: opened"),
            }
            assert_eq!(fs::read(segment(dir.path(), 1)).expect("the segment"), bytes, "untouched");
        }
    }
    fs::write(segment(dir.path(), 1), &whole).expect("written");
    let journal = open(dir.path()).await;
    assert_eq!(replay(&journal, "a").await.expect("readable").len(), 3);
}

#[tokio::test]
async fn damage_in_a_sealed_file_is_an_error_for_whom_it_concerns() {
    let dir = tempfile::tempdir().expect("a folder");
    let journal = open(dir.path()).await;
    claim_all(&journal).await;
    append(&journal, "a", 0, b"first event of a").await;
    append(&journal, "b", 0, b"first event of b").await;
    journal.maintain().await.expect("maintenance");
    journal.shutdown().await;
    let sealed = dir.path().join("0000000000000001-0000000000000001.g1.sealed");
    let mut bytes = fs::read(&sealed).expect("the sealed file");
    let found = bytes.windows(16).position(|w| w == b"first event of b").expect("the event");
    let journal = open(dir.path()).await;
    assert!(journal.verify().await.expect("all is well") > 4);
    journal.shutdown().await;
    bytes[found] ^= 1;
    fs::write(&sealed, bytes).expect("written");
    let journal = open(dir.path()).await;
    let damaged = journal.verify().await.expect_err("damaged");
    assert!(matches!(damaged, JournalError::Corrupt(_)), "{damaged}");
    assert_eq!(replay(&journal, "a").await.expect("readable"), [b"first event of a"]);
    let refused = replay(&journal, "b").await.expect_err("damaged");
    assert!(matches!(refused, JournalError::Corrupt(_)), "{refused}");
}

#[tokio::test]
async fn a_missing_file_is_noticed() {
    let dir = tempfile::tempdir().expect("a folder");
    let journal = open(dir.path()).await;
    claim_all(&journal).await;
    append(&journal, "a", 0, b"first").await;
    journal.maintain().await.expect("maintenance");
    append(&journal, "a", 1, b"second").await;
    journal.shutdown().await;
    let sealed = dir.path().join("0000000000000001-0000000000000001.g1.sealed");
    fs::rename(&sealed, dir.path().join("away")).expect("renamed");
    let refused = try_open(dir.path()).await.err().expect("refused");
    assert!(matches!(refused, JournalError::Corrupt(_)), "{refused}");
}

#[tokio::test]
async fn another_number_of_shards_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    open(dir.path()).await.shutdown().await;
    let mut other = config(dir.path());
    other.shards = 3;
    let refused = LogJournal::open(other, env()).await.err().expect("refused");
    assert!(refused.to_string().contains("made with 2 shards, and 3 are configured"), "{refused}");
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    open(dir.path()).await.shutdown().await;
    let meta = dir.path().join("META");
    let mut bytes = fs::read(&meta).expect("META");
    bytes[8] = 9;
    let place = [0; 16];
    let crc = crc32c::crc32c_append(crc32c::crc32c(&place), &bytes[..60]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    fs::write(&meta, bytes).expect("written");
    let refused = try_open(dir.path()).await.err().expect("refused");
    assert!(refused.to_string().contains("it has format version 9"), "{refused}");
}

/// Runs this test's program again as a second process.
#[tokio::test]
async fn a_second_process_is_told_that_the_log_is_in_use() {
    const DIR: &str = "DURACTOR_TEST_LOCKED_DIR";
    if let Some(dir) = std::env::var_os(DIR) {
        let refused = try_open(Path::new(&dir)).await.err().expect("refused");
        assert!(matches!(refused, JournalError::Locked { .. }), "{refused}");
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let journal = open(dir.path()).await;
    let run = || {
        Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "a_second_process_is_told_that_the_log_is_in_use"])
            .env(DIR, dir.path())
            .output()
            .expect("a second process")
    };
    let second = run();
    assert!(second.status.success(), "{}", String::from_utf8_lossy(&second.stdout));
    journal.shutdown().await;
    assert!(!run().status.success(), "the lock is given up at shutdown");
}

#[tokio::test]
async fn deleted_events_give_their_space_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let journal = open(dir.path()).await;
    claim_all(&journal).await;
    for seq in 0..200 {
        append(&journal, "a", seq, &[7; 500]).await;
    }
    append(&journal, "b", 0, b"stays").await;
    journal.maintain().await.expect("maintenance");
    let before = journal.usage().bytes;
    journal.delete_to(&entity("a"), Seq(190), Term(1)).await.expect("a deletion");
    journal.maintain().await.expect("maintenance");
    let after = journal.usage().bytes;
    assert!(after + 80_000 < before, "{before} bytes before, {after} after");
    assert_eq!(replay(&journal, "a").await.expect("readable").len(), 10);
    assert_eq!(replay(&journal, "b").await.expect("readable"), [b"stays"]);
    journal.shutdown().await;
    let journal = open(dir.path()).await;
    let head = journal.head(&entity("a")).await.expect("a head");
    assert_eq!((head.last_seq, head.deleted_to), (Seq(200), Seq(190)));
    assert_eq!(replay(&journal, "a").await.expect("readable").len(), 10);
}
