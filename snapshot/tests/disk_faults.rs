//! Crashes at every step, a full disk, writes and syncs that fail, and two processes at once.

mod support;

use duractor_journal::{Effect, Env, Seq};
use duractor_snapshot::{
    Criteria, RedbSnapshots, Retention, SnapshotError, SnapshotOptions, SnapshotStore,
};
use support::{Fault, MemDisk, Random, id, open, snap};

/// How many changing operations it takes to make a store.
async fn steps_of_creation() -> u64 {
    let disk = MemDisk::default();
    let store = open(&disk).await.expect("opens");
    let steps = disk.operations();
    drop(store);
    steps
}

#[tokio::test]
async fn a_crash_at_any_step_of_creation_leaves_a_store_that_opens() {
    let steps = steps_of_creation().await;
    assert!(steps > 5, "{steps} steps");
    for step in 1..=steps {
        for seed in 0..20 {
            let disk = MemDisk::default();
            disk.set_fault(Fault::CrashAt(step));
            let _ = open(&disk).await;
            let disk = disk.crashed(&mut Random(seed));
            let store = open(&disk).await.unwrap_or_else(|e| panic!("step {step} {seed}: {e}"));
            assert_eq!(
                disk.names(),
                ["snapshots.redb"],
                "step {step} {seed}: nothing is left over"
            );
            store.save(vec![snap("1", 1)], Retention::All).await.expect("saves");
            assert_eq!(store.load(&id("1"), Criteria::ALL).await, Ok(Some(snap("1", 1))));
        }
    }
}

#[tokio::test]
async fn a_failure_at_any_step_of_creation_is_an_error_and_the_next_try_works() {
    for step in 1..=steps_of_creation().await {
        let disk = MemDisk::default();
        disk.set_fault(Fault::FailAt(step));
        match open(&disk).await {
            Ok(_) => panic!("step {step}: the failure is not seen"),
            Err(error) => {
                assert!(matches!(error, SnapshotError::Io { .. }), "step {step}: {error}");
            }
        }
        let store = open(&disk).await.unwrap_or_else(|e| panic!("step {step}: {e}"));
        store.save(vec![snap("1", 1)], Retention::All).await.expect("saves");
        assert!(!disk.names().iter().any(|name| name.contains("damaged")), "step {step}");
    }
}

/// Saves until the crash; returns the last acknowledged sequence number of each of the keys.
async fn save_until_crash(disk: &MemDisk, from: u64) -> Vec<u64> {
    let mut acked = vec![0; 5];
    let Ok(store) = open(disk).await else { return acked };
    for seq in from..from + 12 {
        for (key, acked) in acked.iter_mut().enumerate() {
            let save = store.save(vec![snap(&key.to_string(), seq)], Retention::newest(2));
            if save.await.is_ok() {
                *acked = seq;
            }
        }
    }
    store.shutdown().await;
    acked
}

/// Everything that was acknowledged is there, or something newer that was asked for.
async fn check_acked(disk: &MemDisk, acked: &[u64], what: &str) {
    let store = open(disk).await.unwrap_or_else(|e| panic!("{what}: {e}"));
    for (key, acked) in acked.iter().enumerate() {
        let key = key.to_string();
        let found = store.load(&id(&key), Criteria::ALL).await.expect("loads");
        if let Some(found) = &found {
            assert_eq!(*found, snap(&key, found.seq.0), "{what}: a wrong state");
        }
        let seq = found.map_or(0, |s| s.seq.0);
        assert!(seq >= *acked, "{what}: {key} is at {seq}, and {acked} was acknowledged");
    }
    assert_eq!(store.damaged(), 0, "{what}: a crash damages nothing");
    store.shutdown().await;
}

#[tokio::test]
async fn acknowledged_saves_survive_a_crash_at_any_step() {
    for seed in 0..400 {
        let mut random = Random(seed);
        let disk = MemDisk::default();
        disk.set_fault(Fault::CrashAt(1 + random.below(400)));
        let acked = save_until_crash(&disk, 1).await;
        let disk = disk.crashed(&mut random);
        // It crashes once more while it recovers or goes on.
        disk.set_fault(Fault::CrashAt(1 + random.below(100)));
        let again = save_until_crash(&disk, 13).await;
        let disk = disk.crashed(&mut random);
        let acked: Vec<_> = acked.iter().zip(&again).map(|(a, b)| *a.max(b)).collect();
        check_acked(&disk, &acked, &format!("seed {seed}")).await;
    }
}

/// Saves large states until the disk is full.
async fn fill(store: &RedbSnapshots, from: u64) -> (u64, SnapshotError) {
    for seq in from.. {
        let mut snapshot = snap("large", seq);
        let mut random = Random(seq);
        snapshot.state = std::iter::repeat_with(|| random.next() as u8).take(50_000).collect();
        if let Err(error) = store.save(vec![snapshot], Retention::All).await {
            return (seq, error);
        }
        assert!(seq < from + 500, "the disk never fills");
    }
    unreachable!("the loop ends by its assertion")
}

#[tokio::test]
async fn a_full_disk_refuses_saves_serves_loads_and_recovers() {
    for extra in (100_000..500_000).step_by(20_011) {
        let disk = MemDisk::default();
        let store = open(&disk).await.expect("opens");
        store.save(vec![snap("1", 5)], Retention::All).await.expect("saves");
        disk.set_fault(Fault::Capacity(disk.used() + extra));
        let (last, error) = fill(&store, 1).await;
        assert!(matches!(error, SnapshotError::DiskFull { .. }), "{extra}: {error}");
        for _ in 0..3 {
            let error = store.save(vec![snap("1", 6)], Retention::All).await;
            assert!(matches!(error, Err(SnapshotError::DiskFull { .. })), "{extra}: {error:?}");
            assert_eq!(store.load(&id("1"), Criteria::ALL).await, Ok(Some(snap("1", 5))));
            for seq in 1..last {
                let found = store.load(&id("large"), Criteria::at(Seq(seq))).await;
                assert!(found.is_ok_and(|s| s.is_some()), "{extra}: {seq} is gone");
            }
        }
        // Now there is room again.
        disk.set_fault(Fault::None);
        store.save(vec![snap("1", 7)], Retention::All).await.expect("saves");
        assert_eq!(store.load(&id("1"), Criteria::ALL).await, Ok(Some(snap("1", 7))));
        store.shutdown().await;
        let store = open(&disk).await.expect("opens");
        for seq in 1..last {
            let found = store.load(&id("large"), Criteria::at(Seq(seq))).await;
            assert!(found.is_ok_and(|s| s.is_some()), "{extra}: {seq} is gone");
        }
        assert_eq!(store.load(&id("1"), Criteria::ALL).await, Ok(Some(snap("1", 7))));
        assert_eq!(store.damaged(), 0);
    }
}

#[tokio::test]
async fn a_crash_on_a_full_disk_loses_nothing_acknowledged() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let disk = MemDisk::default();
        let store = open(&disk).await.expect("opens");
        store.save(vec![snap("1", 5)], Retention::All).await.expect("saves");
        disk.set_fault(Fault::Capacity(disk.used() + random.below(500_000) as usize));
        let (last, _) = fill(&store, 1).await;
        let disk = disk.crashed(&mut random);
        let store = open(&disk).await.expect("opens");
        assert_eq!(store.load(&id("1"), Criteria::ALL).await, Ok(Some(snap("1", 5))), "{seed}");
        for seq in 1..last {
            let found = store.load(&id("large"), Criteria::at(Seq(seq))).await;
            assert!(found.is_ok_and(|s| s.is_some()), "seed {seed}: {seq} is gone");
        }
    }
}

#[tokio::test]
async fn a_failed_sync_or_write_ends_saving_and_not_loading() {
    for fault in [Fault::FailSyncs, Fault::FailAt(1), Fault::FailAt(2)] {
        let disk = MemDisk::default();
        let store = open(&disk).await.expect("opens");
        store.save(vec![snap("1", 5)], Retention::All).await.expect("saves");
        disk.set_fault(fault);
        let error = store.save(vec![snap("1", 6)], Retention::All).await.expect_err("it failed");
        assert!(matches!(error, SnapshotError::FailedUnderWay { .. }), "{error}");
        assert_eq!(error.effect(), Effect::Unknown);
        // A sync that works after one that failed says nothing about what was lost.
        disk.set_fault(Fault::None);
        let error = store.save(vec![snap("1", 7)], Retention::All).await.expect_err("it stopped");
        assert!(matches!(error, SnapshotError::Failed { .. }), "{error}");
        assert_eq!(error.effect(), Effect::None);
        assert_eq!(disk.operations(), 0, "nothing is written any more");
        let older = store.load(&id("1"), Criteria::at(Seq(5))).await;
        assert_eq!(older, Ok(Some(snap("1", 5))));
        store.shutdown().await;
        assert_eq!(disk.operations(), 0, "not on closing either");
    }
}

#[tokio::test]
async fn the_second_to_open_a_store_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("snapshots.redb");
    let open = || RedbSnapshots::open(&path, SnapshotOptions::default(), Env::production());
    let first = open().await.expect("opens");
    let second = open().await.map(drop);
    let lock = dir.path().join("snapshots.redb.lock");
    assert_eq!(second, Err(SnapshotError::Locked { path: lock }));
    first.save(vec![snap("1", 5)], Retention::All).await.expect("saves");
    first.shutdown().await;
    let second = open().await.expect("opens once the first is closed");
    assert_eq!(second.load(&id("1"), Criteria::ALL).await, Ok(Some(snap("1", 5))));
}

/// A store that is dropped without a shutdown finishes what it took and gives up its lock.
#[tokio::test]
async fn a_dropped_store_finishes_its_saves() {
    let disk = MemDisk::default();
    let store = open(&disk).await.expect("opens");
    let save = store.save(vec![snap("1", 5)], Retention::All);
    drop(store);
    save.await.expect("saves");
    // The worker sees the end of its queue in its next turn.
    tokio::task::yield_now().await;
    let store = open(&disk).await.expect("opens");
    assert_eq!(store.load(&id("1"), Criteria::ALL).await, Ok(Some(snap("1", 5))));
}

/// An empty store answers without looking at the disk.
#[tokio::test]
async fn an_empty_store_is_not_read() {
    let disk = MemDisk::default();
    let store = open(&disk).await.expect("opens");
    disk.set_fault(Fault::FailReads);
    assert_eq!(store.load(&id("1"), Criteria::ALL).await, Ok(None));
    assert_eq!(store.damaged(), 0);
}

/// Saves that wait at the same time share a transaction, so they cost few syncs.
#[tokio::test]
async fn saves_that_wait_share_a_sync() {
    let disk = MemDisk::default();
    let store = open(&disk).await.expect("opens");
    disk.set_fault(Fault::None);
    store.save(vec![snap("1", 1)], Retention::All).await.expect("saves");
    let one = disk.operations();
    disk.set_fault(Fault::None);
    let saves: Vec<_> =
        (0..100).map(|k| store.save(vec![snap(&k.to_string(), 2)], Retention::All)).collect();
    for save in saves {
        save.await.expect("saves");
    }
    assert!(disk.operations() < 10 * one, "{} operations, {one} for one", disk.operations());
}

/// Saves beyond what may wait are refused at once; later ones are taken.
#[tokio::test]
async fn too_many_waiting_bytes_are_refused() {
    let disk = MemDisk::default();
    let options = SnapshotOptions { max_queued_bytes: 4096, ..SnapshotOptions::default() };
    let store = support::open_with(&disk, options).await.expect("opens");
    let saves: Vec<_> =
        (0..10).map(|k| store.save(vec![snap(&k.to_string(), 6)], Retention::All)).collect();
    let mut refused = 0;
    for save in saves {
        match save.await {
            Ok(_) => {}
            Err(SnapshotError::Busy { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 0 && refused < 10, "{refused} refused");
    store.save(vec![snap("11", 6)], Retention::All).await.expect("saves");
}
