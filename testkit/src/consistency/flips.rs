//! Rot in files that were closed in good order: bits that flip, sectors that become zeros, frames
//! that stand where others belong.
//!
//! A log with sealed files, merged files and live segments, and a snapshot store, are built once
//! and spoilt in many ways, each on a copy. Whatever is read then is right, or a typed error. Of a
//! snapshot, absence is right too where it was reported. (Absence that was not is counted: a store
//! that reads a spoilt page finds fewer keys, and whoever recovers from it replays more events.)
//!
//! redb itself can end the process: where a page of its free lists is spoilt it panics, and once
//! more while it unwinds, which nothing can catch. Run many seeds of this scenario in several
//! processes then; the seed that aborts is found by halving.
//!
//! One thing is beyond what one disk can tell: where both the last group commit and the mark that
//! was written after it are spoilt, they look like a torn tail. Such seeds are counted as `beyond`.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use duractor_journal::{
    EntityId, Env, EventRecord, Journal, JournalError, LogConfig, LogJournal, Position,
    ReplayRange, Seq, ShardId, Term, disk::Disk,
};
use duractor_snapshot::{
    Criteria, RedbSnapshots, Retention, Snapshot, SnapshotOptions, SnapshotStore,
};

use super::{
    Planted, Report, content,
    model::{Model, Seen},
    read::{self, Reads},
    report::{Checked, Trace, checked, violated},
    snapshot,
};
use crate::{disk::SimDisk, env::run_sim, rng::Rng};

const LOG: &str = "/data/log";
const SNAPSHOTS: &str = "/data/snapshots.redb";
/// How many seeds share their files.
const SEEDS_PER_BASE: u64 = 256;
const ENTITIES: u64 = 6;
/// Bytes of a frame's header.
const HEADER: usize = 32;
const SECTOR: usize = 512;

/// Runs one seed.
#[must_use]
pub fn run(seed: u64, planted: Option<Planted>, trace: bool) -> Report {
    checked(planted, |report| {
        let base = base(seed / SEEDS_PER_BASE, planted)?;
        let mut rng = Rng::new(seed);
        let disk = base.disk.fork(rng.next_u64());
        let trace = Trace::new(trace);
        report.lives = 1;
        let result = run_sim(seed, async |sim| {
            let mut env = sim.env();
            env.disk = disk.mount();
            let mut trial = Trial { base: &base, disk: &disk, env, rng, trace, report };
            if trial.rng.chance(0.6) { trial.log().await } else { trial.snapshots().await }
        });
        report.take_faults(&disk);
        report.trace = disk.trace_hash();
        result
    })
}

/// The files, and what is in them.
struct Base {
    disk: Arc<SimDisk>,
    config: LogConfig,
    entities: Vec<(EntityId, Seen)>,
    tails: Vec<Vec<EventRecord>>,
    snapshots: BTreeMap<(EntityId, Seq), Snapshot>,
}

thread_local! {
    #[allow(clippy::type_complexity, reason = "used right below")]
    static BASE: RefCell<Option<(u64, Option<Planted>, Rc<Base>)>> = const { RefCell::new(None) };
}

/// The files number `number`, from this thread's last seed if they are the same.
fn base(number: u64, planted: Option<Planted>) -> Checked<Rc<Base>> {
    let have = BASE.with_borrow(|base| match base {
        Some((n, bug, base)) if (*n, *bug) == (number, planted) => Some(base.clone()),
        _ => None,
    });
    if let Some(base) = have {
        return Ok(base);
    }
    let built = Rc::new(run_sim(number, async |sim| {
        let mut rng = Rng::new(number);
        let config = config(&mut rng);
        let (entities, tails) = build_log(&mut rng, &config, &sim.env()).await?;
        let snapshots = build_snapshots(&mut rng, &sim.env()).await?;
        let disk = sim.disk().clone();
        Ok(Base { disk, config, entities, tails, snapshots })
    })?);
    BASE.set(Some((number, planted, built.clone())));
    Ok(built)
}

fn config(rng: &mut Rng) -> LogConfig {
    let mut config = LogConfig::new(LOG);
    config.shards = 1 + rng.below(3) as u16;
    config.segment_bytes = 16 << 10;
    config.merged_bytes = 48 << 10;
    config.fan_in = 2 + rng.index(3);
    config
}

fn unexpected<E: std::fmt::Display>(error: E) -> super::Violation {
    super::Violation(format!("building the files failed: {error}"))
}

type Content = (Vec<(EntityId, Seen)>, Vec<Vec<EventRecord>>);

async fn build_log(rng: &mut Rng, config: &LogConfig, env: &Env) -> Checked<Content> {
    let journal = LogJournal::open(config.clone(), env.clone()).await.map_err(unexpected)?;
    let ids: Vec<EntityId> = (0..ENTITIES).map(snapshot::id).collect();
    let mut model = Model::new(config.shards, ids.clone());
    let mut epochs: Vec<Term> = Vec::new();
    for shard in 0..config.shards {
        epochs.push(journal.claim(ShardId(shard)).await.map_err(unexpected)?);
    }
    let maintained = 60 + rng.index(60);
    for number in 0..maintained + rng.index(60) {
        let index = rng.index(ids.len());
        let (id, expected) = (&ids[index], model.kept_to(index));
        let epoch = epochs[usize::from(id.shard(config.shards).0)];
        let batch = content::batch(rng, number, (id, epoch, expected), 4 << 10);
        model.send(index, batch.clone());
        model.answered(number, &Ok(journal.append(batch).await.map_err(unexpected)?))?;
        if rng.chance(0.03) {
            let to = Seq(rng.below(expected.0 / 2 + 1));
            journal.delete_to(id, to, epoch).await.map_err(unexpected)?;
            model.deleted(index, to, &Ok(()));
        }
        if number == maintained / 2 {
            journal.maintain().await.map_err(unexpected)?;
        }
    }
    read::everything(&*journal, &mut model, Reads::Work).await?;
    let (mut entities, mut tails) = (Vec::new(), Vec::new());
    for id in &ids {
        let seen = read::entity(&*journal, id, ReplayRange::ALL).await.map_err(unexpected)?;
        entities.push((id.clone(), seen));
    }
    for shard in (0..config.shards).map(ShardId) {
        let tail = read::tail(journal.tail(shard, Position::ZERO)).await;
        tails.push(tail.map_err(unexpected)?);
    }
    journal.shutdown().await;
    Ok((entities, tails))
}

async fn build_snapshots(rng: &mut Rng, env: &Env) -> Checked<BTreeMap<(EntityId, Seq), Snapshot>> {
    let store = RedbSnapshots::open(SNAPSHOTS, options(), env.clone()).await.map_err(unexpected)?;
    let mut saved = BTreeMap::new();
    for number in 0..60 {
        let entity = snapshot::id(rng.below(ENTITIES));
        let content = snapshot::content(entity.clone(), Seq(1 + rng.below(12)), number);
        store.save(vec![content.clone()], Retention::All).await.map_err(unexpected)?;
        saved.insert((entity, content.seq), content);
    }
    store.shutdown().await;
    Ok(saved)
}

fn options() -> SnapshotOptions {
    SnapshotOptions { cache_bytes: 64 << 10, ..SnapshotOptions::default() }
}

/// One way of spoiling the files.
struct Trial<'a> {
    base: &'a Base,
    disk: &'a Arc<SimDisk>,
    env: Env,
    rng: Rng,
    trace: Trace,
    report: &'a mut Report,
}

impl Trial<'_> {
    async fn log(&mut self) -> Checked {
        let early = self.rng.chance(0.75);
        let tail = self.tail();
        let mut spoilt = if early { self.spoil(LOG) } else { Vec::new() };
        let opened = LogJournal::open(self.base.config.clone(), self.env.clone()).await;
        let journal = match opened {
            Ok(journal) => journal,
            Err(error) => return self.noticed(&error),
        };
        if !early {
            spoilt = self.spoil(LOG);
        }
        let beyond = early && tail.is_some_and(|tail| tail.is_beyond(&spoilt));
        for _ in 0..1 + self.rng.below(2) {
            if let Err(violation) = self.read_log(&*journal).await {
                if beyond {
                    self.report.count("beyond");
                    return Ok(());
                }
                return Err(violation);
            }
            // Rewrites what it finds good, and nothing else.
            if let Err(error) = journal.maintain().await {
                self.noticed(&error)?;
            }
        }
        journal.shutdown().await;
        Ok(())
    }

    async fn read_log(&mut self, journal: &dyn Journal) -> Checked {
        for (id, expected) in &self.base.entities {
            match read::entity(journal, id, ReplayRange::ALL).await {
                Ok(seen) if seen.head == expected.head && seen.records == expected.records => {
                    self.report.checked += seen.records.len() as u64;
                }
                Ok(seen) => {
                    let (is, was) = (seen.head, expected.head);
                    return violated(format!("{id} is wrong: its head is {is:?}, and was {was:?}"));
                }
                Err(error) => self.noticed(&error)?,
            }
        }
        for (shard, expected) in (0..).map(ShardId).zip(&self.base.tails) {
            match read::tail(journal.tail(shard, Position::ZERO)).await {
                // Compaction may have left deleted events behind.
                Ok(records) if self.same_but_deleted(&records, expected) => {}
                Ok(_) => return violated(format!("the order of {shard} is wrong")),
                Err(error) => self.noticed(&error)?,
            }
        }
        Ok(())
    }

    fn same_but_deleted(&self, records: &[EventRecord], expected: &[EventRecord]) -> bool {
        let deleted = |record: &EventRecord| {
            let entity = self.base.entities.iter().find(|(id, _)| *id == record.entity);
            entity.is_some_and(|(_, seen)| record.seq <= seen.head.deleted_to)
        };
        let mut rest = records.iter().peekable();
        let found = expected
            .iter()
            .all(|wanted| rest.next_if(|record| *record == wanted).is_some() || deleted(wanted));
        found && rest.next().is_none()
    }

    /// A typed error: that is how damage is to show.
    fn noticed(&mut self, error: &JournalError) -> Checked {
        match error {
            JournalError::Corrupt(_) | JournalError::Incompatible { .. } => {
                self.trace.line(|| format!("  {error}"));
                self.report.count("detected");
                Ok(())
            }
            _ => violated(format!("not an error of damage: {error}")),
        }
    }

    async fn snapshots(&mut self) -> Checked {
        let early = self.rng.chance(0.75);
        if early {
            self.spoil(SNAPSHOTS);
        }
        let opened = RedbSnapshots::open(SNAPSHOTS, options(), self.env.clone()).await;
        let store = match opened {
            Ok(store) => store,
            Err(error) => {
                self.trace.line(|| format!("  {error}"));
                self.report.count("detected");
                return Ok(());
            }
        };
        if !early {
            self.spoil(SNAPSHOTS);
        }
        for ((entity, seq), expected) in &self.base.snapshots {
            let found = store.load(entity, Criteria::at(*seq)).await;
            self.report.checked += 1;
            match found {
                Ok(Some(found)) if found == *expected => {}
                Ok(Some(_)) => return violated(format!("the state of {entity} at {seq} is wrong")),
                Ok(None) if store.damaged() > 0 || self.is_aside() => {
                    self.report.count("absent_reported");
                }
                Ok(None) => self.report.count("absent_unreported"),
                Err(_) => self.report.count("detected"),
            }
        }
        for entity in (0..ENTITIES).map(snapshot::id) {
            let found = store.load(&entity, Criteria::ALL).await.ok().flatten();
            let saved = |found: &Snapshot| {
                self.base.snapshots.get(&(entity.clone(), found.seq)) == Some(found)
            };
            if found.is_some_and(|found| !saved(&found)) {
                return violated(format!("the newest state of {entity} is wrong"));
            }
        }
        store.shutdown().await;
        Ok(())
    }

    fn is_aside(&self) -> bool {
        self.disk.files().iter().any(|(path, _)| path.to_string_lossy().contains(".damaged-"))
    }

    /// Spoils one of the files whose path begins so, and says which bytes.
    fn spoil(&mut self, of: &str) -> Vec<(PathBuf, usize)> {
        let files: Vec<_> = self
            .disk
            .files()
            .into_iter()
            .filter(|(path, len)| path.to_string_lossy().starts_with(of) && *len > 0)
            .map(|(path, _)| path)
            .collect();
        let spoilt = match self.rng.below(100) {
            0..55 => self.flip(&files, 1),
            55..75 => {
                let several = 2 + self.rng.index(7);
                self.flip(&files, several)
            }
            75..90 => self.zero(&files),
            _ => self.misplace(&files),
        };
        self.trace.line(|| format!("  spoilt: {spoilt:?}"));
        spoilt
    }

    /// A byte of a file, mostly one that is not in an unused part.
    fn place(&mut self, files: &[PathBuf]) -> Option<(PathBuf, usize)> {
        let used = self.rng.chance(0.9);
        for _ in 0..1_000 {
            let path = self.rng.pick(files)?;
            let bytes = self.disk.peek(path)?;
            let at = self.rng.index(bytes.len());
            let around = at.saturating_sub(8)..(at + 8).min(bytes.len());
            if !used || bytes[around].iter().any(|byte| *byte != 0) {
                return Some((path.clone(), at));
            }
        }
        None
    }

    fn flip(&mut self, files: &[PathBuf], bits: usize) -> Vec<(PathBuf, usize)> {
        let mut spoilt = Vec::new();
        for _ in 0..bits {
            let Some((path, at)) = self.place(files) else { break };
            let bit = self.rng.below(8) as u32;
            self.disk.flip_bit(&path, at as u64, bit);
            spoilt.push((path, at));
        }
        spoilt
    }

    fn zero(&mut self, files: &[PathBuf]) -> Vec<(PathBuf, usize)> {
        let Some((path, at)) = self.place(files) else { return Vec::new() };
        self.disk.zero_sector(&path, at / SECTOR);
        self.report.fault("sector_zeroed", 1);
        let start = at / SECTOR * SECTOR;
        (start..start + SECTOR).map(|at| (path.clone(), at)).collect()
    }

    /// A batch's frame stands where another of its length belongs, as after a misdirected write.
    fn misplace(&mut self, files: &[PathBuf]) -> Vec<(PathBuf, usize)> {
        let mut found: BTreeMap<usize, Vec<(usize, Frame)>> = BTreeMap::new();
        for (file, path) in files.iter().enumerate().filter(|(_, path)| is_log(path)) {
            let bytes = self.disk.peek(path).unwrap_or_default();
            for frame in frames(&bytes).into_iter().filter(|frame| frame.kind == 1) {
                found.entry(frame.len).or_default().push((file, frame));
            }
        }
        found.retain(|_, same| same.len() > 1);
        let groups: Vec<_> = found.into_values().collect();
        let Some(group) = self.rng.pick(&groups) else { return self.flip(files, 1) };
        let from = self.rng.index(group.len());
        let to = (from + 1 + self.rng.index(group.len() - 1)) % group.len();
        let ((from, source), (to, place)) = (&group[from], &group[to]);
        let bytes = self.disk.peek(&files[*from]).unwrap_or_default();
        let frame = &bytes[source.at..source.at + source.len];
        let written = self.disk.open(&files[*to]).and_then(|file| {
            file.write_at(place.at as u64, frame)?;
            file.sync_data()
        });
        self.report.fault("frame_misplaced", u64::from(written.is_ok()));
        (place.at..place.at + place.len).map(|at| (files[*to].clone(), at)).collect()
    }

    /// The end of the segment that was written last.
    fn tail(&self) -> Option<End> {
        let files = self.disk.files();
        let segments =
            files.iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "log"));
        segments.rev().find_map(|(path, _)| {
            let frames = frames(&self.disk.peek(path)?);
            let [.., last, mark] = frames.as_slice() else { return None };
            Some(End { path: path.clone(), commit: last.flush, mark: mark.at })
        })
    }
}

/// Where the last group commit and the mark after it are.
struct End {
    path: PathBuf,
    commit: usize,
    mark: usize,
}

impl End {
    fn is_beyond(&self, spoilt: &[(PathBuf, usize)]) -> bool {
        let within = |from: usize, to: usize| {
            spoilt.iter().any(|(path, at)| *path == self.path && (from..to).contains(at))
        };
        within(self.mark, self.mark + HEADER) && within(self.commit, self.mark)
    }
}

/// A frame, by what its header says.
#[derive(Debug, Clone, Copy)]
struct Frame {
    at: usize,
    len: usize,
    flush: usize,
    kind: u8,
}

fn is_log(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "log" || extension == "sealed")
}

/// The frames of a log file, which begin after its header of 64 bytes.
fn frames(bytes: &[u8]) -> Vec<Frame> {
    let number = |at: usize| {
        let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.first_chunk::<4>());
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize)
    };
    let mut found = Vec::new();
    let mut at = 64;
    while at + HEADER <= bytes.len() && bytes[at + 12] != 0 {
        let len = HEADER + number(at + 4);
        found.push(Frame { at, len, flush: number(at + 8), kind: bytes[at + 12] });
        at += len;
    }
    found
}
