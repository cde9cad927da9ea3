//! What the consistency tests found, each as small as it gets: cause, consequence, fix.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use duractor_journal::{
    AppendBatch, EntityId, Journal, JournalError, LogConfig, LogJournal, NewEvent, Seq, Term,
    Timestamp,
};
use duractor_snapshot::{
    Criteria, RedbSnapshots, Retention, Snapshot, SnapshotError, SnapshotOptions, SnapshotStore,
};
use duractor_testkit::{Fault, Keep, Op, Rule, SimEnv, consistency::flips, run_sim};

fn id() -> EntityId {
    EntityId::new("order", "1").unwrap()
}

async fn open(sim: &SimEnv) -> Result<Arc<LogJournal>, JournalError> {
    let mut config = LogConfig::new("/data/log");
    config.shards = 1;
    config.segment_bytes = 16 << 10;
    LogJournal::open(config, sim.env()).await
}

async fn append(journal: &LogJournal, epoch: Term, after: u64) -> Result<(), JournalError> {
    let batch = AppendBatch {
        entity: id(),
        epoch,
        expected_seq: Seq(after),
        timestamp: Timestamp(0),
        request: None,
        events: vec![NewEvent::new("placed", 1, vec![7; 3_000])],
    };
    journal.append(batch).await.map(drop)
}

async fn claim(journal: &LogJournal) -> Term {
    journal.claim(id().shard(1)).await.unwrap()
}

/// Cause: opening made a file and failed to sync the folder; the process died, and the next one
/// found the file and built on its name. Consequence: after a power failure the file was gone, and
/// every acknowledged event in it. Fix: opening syncs the folder and the one above, whatever is
/// there already.
#[test]
fn names_that_a_dead_process_left_are_made_durable() {
    for n in 1..8 {
        run_sim(n, async |sim| {
            sim.disk().inject(Rule::on(Op::SyncDir, Fault::Eio).nth(n));
            drop(open(&sim).await);
            sim.kill();
            sim.disk().heal();
            let journal = open(&sim).await.unwrap();
            let epoch = claim(&journal).await;
            append(&journal, epoch, 0).await.unwrap();
            sim.kill();
            sim.disk().crash_keeping(Keep::None);
            let journal = open(&sim).await.unwrap();
            assert_eq!(journal.head(&id()).await.unwrap().last_seq, Seq(1), "sync {n}");
        });
    }
}

/// Cause: a deletion that was asked for twice was acknowledged the second time at once, while the
/// first was still on its way. Consequence: after a crash an acknowledged deletion was undone. Fix:
/// only a committed deletion makes another one needless.
#[test]
fn a_deletion_is_acknowledged_when_it_is_durable() {
    run_sim(1, async |sim| {
        let journal = open(&sim).await.unwrap();
        let epoch = claim(&journal).await;
        append(&journal, epoch, 0).await.unwrap();
        sim.disk().crash_at(1);
        let first = journal.delete_to(&id(), Seq(1), epoch);
        let second = journal.delete_to(&id(), Seq(1), epoch);
        assert!(first.await.is_err());
        assert!(second.await.is_err());
    });
}

/// Cause: a merge whose folder sync failed left its file behind, under its own name, while the log
/// went on without it and later merged other neighbours. Consequence: files that overlap, and a log
/// that did not open any more. Fix: such a file is removed at once, and opening takes the files that
/// follow one another.
#[test]
fn a_merge_that_failed_leaves_no_file_behind() {
    for n in 1..12 {
        run_sim(n, async |sim| {
            let journal = open(&sim).await.unwrap();
            let epoch = claim(&journal).await;
            let mut seq = 0;
            for round in 0..4 {
                if round == 2 {
                    sim.disk().inject(Rule::on(Op::SyncDir, Fault::Eio).nth(n));
                    // Not even where it cannot be removed.
                    sim.disk().inject(Rule::on(Op::Remove, Fault::Eio).nth(n));
                }
                for _ in 0..7 {
                    seq += u64::from(append(&journal, epoch, seq).await.is_ok());
                }
                drop(journal.maintain().await);
                sim.disk().heal();
            }
            sim.kill();
            let journal = open(&sim).await.unwrap();
            assert_eq!(journal.head(&id()).await.unwrap().last_seq, Seq(seq), "sync {n}");
        });
    }
}

fn snapshot(seq: u64) -> Snapshot {
    let (timestamp, state) = (Timestamp(seq), vec![seq as u8; 3_000].into());
    Snapshot { entity: id(), seq: Seq(seq), timestamp, schema_version: 1, state }
}

async fn store(sim: &SimEnv) -> Result<Arc<RedbSnapshots>, SnapshotError> {
    let options = SnapshotOptions { cache_bytes: 64 << 10, ..SnapshotOptions::default() };
    RedbSnapshots::open("/data/snapshots.redb", options, sim.env()).await
}

/// Cause: the store's folder was made and the one above it not synced. Consequence: after a power
/// failure the store was gone. Fix: folders are made durably, as the log's.
#[test]
fn the_folder_of_the_snapshots_is_durable() {
    run_sim(1, async |sim| {
        let snapshots = store(&sim).await.unwrap();
        snapshots.save(vec![snapshot(1)], Retention::All).await.unwrap();
        sim.kill();
        sim.disk().crash_keeping(Keep::None);
        let snapshots = store(&sim).await.unwrap();
        let found = snapshots.load(&id(), Criteria::ALL).await.unwrap();
        assert_eq!(found, Some(snapshot(1)));
    });
}

/// Cause: a page that could not be read while the store was opened after a crash looked torn, so
/// redb went back to the commit before it. Consequence: one failed read undid an acknowledged save
/// without a word. Fix: a failed read fails the opening, which is tried once more.
#[test]
fn a_failed_read_while_opening_undoes_nothing() {
    for n in 1..60 {
        run_sim(n, async |sim| {
            let snapshots = store(&sim).await.unwrap();
            for seq in 1..=5 {
                snapshots.save(vec![snapshot(seq)], Retention::All).await.unwrap();
            }
            sim.crash();
            sim.disk().inject(Rule::on(Op::Read, Fault::Eio).nth(n));
            let snapshots = store(&sim).await.unwrap();
            sim.disk().heal();
            let found = snapshots.load(&id(), Criteria::ALL).await.unwrap();
            assert_eq!(found, Some(snapshot(5)), "read {n}");
        });
    }
}

/// Cause: a bit flipped in a page of redb's free lists, which redb takes for pages as it commits,
/// and dropping a database commits. Consequence: a panic, and one more while it unwound, so the
/// process ended, and ended again after each restart. Fix: pages are verified before redb writes,
/// and of a damaged file what verifies is copied, without a change to it.
#[test]
fn a_bit_in_the_free_lists_does_not_end_the_process() {
    let report = flips::run(2577, None, false);
    assert!(report.violation.is_none());
}
