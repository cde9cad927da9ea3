//! Rot in files that were closed in good order: bits that flip, sectors that become zeros, frames
//! that stand where others belong.
//!
//! A log with sealed files, merged files and live segments, and a snapshot store, are built once
//! and spoilt in many ways, each on a copy. Whatever is read then is right, or a typed error. Of a
//! snapshot, absence is right too where it was reported. (Absence that was not is counted: a store
//! that reads a spoilt page finds fewer keys, and whoever recovers from it replays more events.)
//!
//! One thing is beyond what one disk can tell: where both the last group commit and the mark that
//! was written after it are spoilt, they look like a torn tail. Such seeds are counted as `beyond`.

//!
//! Each module uses only those above it; the trials themselves are here.
//!
//! | module | what it holds |
//! |---|---|
//! | `base` | the files, and what is in them |
//! | `frames` | where a log file's frames are |
//! | `spoil` | the ways of spoiling |

mod base;
mod frames;
mod spoil;

pub(crate) use frames::frames;

use duractor_journal::{
    EventRecord, Journal, JournalError, LogJournal, Position, ReplayRange, ShardId,
};
use duractor_snapshot::{Criteria, RedbSnapshots, Snapshot, SnapshotOptions, SnapshotStore};

use self::{
    base::{ENTITIES, LOG, SNAPSHOTS, base, options},
    spoil::Trial,
};
use super::{
    Planted, Report, read,
    report::{Checked, Trace, checked, violated},
    snapshot,
};
use crate::{env::run_sim, rng::Rng};

/// How many seeds share their files.
const SEEDS_PER_BASE: u64 = 256;

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
            let mut trial = Trial { planted, base: &base, disk: &disk, env, rng, trace, report };
            if trial.rng.chance(0.6) { trial.log().await } else { trial.snapshots().await }
        });
        report.take_faults(&disk);
        report.trace = disk.trace_hash();
        result
    })
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
        // Who checks nothing does not check when opening either: that would find it first.
        let verify_on_open = self.planted != Some(Planted::UncheckedSnapshot);
        let options = SnapshotOptions { verify_on_open, ..options() };
        let opened = RedbSnapshots::open(SNAPSHOTS, options, self.env.clone()).await;
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
}
