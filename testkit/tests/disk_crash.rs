//! What a crash leaves on the simulated disk.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use duractor_journal::disk::{Disk, DiskFile};
use duractor_testkit::{DiskFaults, Keep, Rng, Rule, SimDisk};

fn new(seed: u64) -> Arc<SimDisk> {
    SimDisk::new(seed, DiskFaults::default())
}

fn path(name: &str) -> PathBuf {
    Path::new("/").join(name)
}

/// A file whose name and contents are durable.
fn durable(disk: &SimDisk, name: &str, bytes: &[u8]) -> Arc<dyn DiskFile> {
    let file = disk.create(&path(name)).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    file.write_at(0, bytes).unwrap();
    file.sync_data().unwrap();
    file
}

#[test]
fn what_was_synced_survives_every_crash() {
    for seed in 0..200 {
        let disk = new(seed);
        let file = durable(&disk, "a", &[1; 5_000]);
        file.write_at(2_048, &[2; 1_000]).unwrap();
        for keep in [Keep::None, Keep::All, Keep::Sectors, Keep::Torn, Keep::Random] {
            let fork = disk.fork(seed);
            fork.crash_keeping(keep);
            let bytes = fork.peek(&path("a")).unwrap();
            assert_eq!(bytes.len(), 5_000);
            assert!(bytes[..2_048].iter().chain(&bytes[3_048..]).all(|&byte| byte == 1));
            assert_eq!(fork.peek_durable(&path("a")).unwrap(), bytes);
        }
    }
}

#[test]
fn none_keeps_nothing_unsynced_and_all_keeps_everything() {
    let disk = new(1);
    let file = durable(&disk, "a", b"old");
    file.write_at(0, b"newer").unwrap();
    disk.create(&path("b")).unwrap();
    let none = disk.fork(1);
    none.crash_keeping(Keep::None);
    assert_eq!(none.peek(&path("a")).unwrap(), b"old");
    assert_eq!(none.list(Path::new("/")).unwrap(), ["a"]);
    disk.crash_keeping(Keep::All);
    assert_eq!(disk.peek(&path("a")).unwrap(), b"newer");
    assert_eq!(disk.list(Path::new("/")).unwrap(), ["a", "b"]);
}

#[test]
fn a_later_write_may_be_kept_and_an_earlier_one_lost() {
    let kept: BTreeSet<(bool, bool)> = (0..200)
        .map(|seed| {
            let disk = new(seed);
            let file = durable(&disk, "a", &[0; 4_096]);
            file.write_at(0, &[1; 512]).unwrap();
            file.write_at(2_048, &[2; 512]).unwrap();
            disk.crash();
            let bytes = disk.peek(&path("a")).unwrap();
            (bytes[0] == 1, bytes[2_048] == 2)
        })
        .collect();
    assert_eq!(kept.len(), 4, "{kept:?}");
}

#[test]
fn pages_are_whole_on_a_disk_that_promises_so() {
    for seed in 0..100 {
        let faults = DiskFaults { sector_bytes: 4_096, ..DiskFaults::default() };
        let disk = SimDisk::new(seed, faults);
        let file = durable(&disk, "a", &[0; 16_384]);
        file.write_at(0, &[1; 16_384]).unwrap();
        disk.crash();
        let bytes = disk.peek(&path("a")).unwrap();
        assert!(bytes.chunks(4_096).all(|page| page.iter().all(|byte| *byte == page[0])));
    }
}

#[test]
fn handles_and_locks_of_the_crashed_process_are_gone() {
    let disk = new(1);
    let mount = disk.mount();
    let file = mount.create(&path("a")).unwrap();
    let held = mount.lock(&path("lock")).unwrap();
    mount.sync_dir(Path::new("/")).unwrap();
    disk.crash();

    assert!(file.write_at(0, b"ghost").is_err());
    assert!(file.read_at(0, &mut [0]).is_err());
    assert!(file.sync_data().is_err());
    assert!(file.set_len(1).is_err());
    assert!(file.len().is_err());
    assert!(mount.create(&path("b")).is_err());
    assert!(mount.remove(&path("a")).is_err());
    assert!(mount.list(Path::new("/")).is_err());
    assert_eq!(disk.peek(&path("a")).unwrap(), b"");

    let again = disk.lock(&path("lock")).unwrap();
    // The dead process's guard must not set its successor's lock free.
    drop(held);
    assert!(disk.lock(&path("lock")).is_err());
    drop(again);
    assert!(disk.lock(&path("lock")).is_ok());
}

#[test]
fn a_killed_process_leaves_what_it_wrote() {
    let disk = new(1);
    let file = disk.create(&path("a")).unwrap();
    file.write_at(0, b"unsynced").unwrap();
    disk.kill();
    assert!(file.read_at(0, &mut [0]).is_err());
    assert_eq!(disk.peek(&path("a")).unwrap(), b"unsynced");
    // It is no more durable for that.
    disk.crash_keeping(Keep::None);
    assert_eq!(disk.peek(&path("a")), None);
}

#[test]
fn a_rename_is_there_or_not() {
    let seen: BTreeSet<Vec<u8>> = (0..100)
        .map(|seed| {
            let disk = new(seed);
            durable(&disk, "a", b"old");
            durable(&disk, "new", b"new");
            disk.rename(&path("new"), &path("a")).unwrap();
            disk.crash();
            let renamed = disk.peek(&path("new")).is_none();
            let bytes = disk.peek(&path("a")).unwrap();
            assert_eq!(renamed, bytes == b"new");
            bytes
        })
        .collect();
    assert_eq!(seen.len(), 2);

    let disk = new(1);
    durable(&disk, "a", b"old");
    durable(&disk, "new", b"new");
    disk.rename(&path("new"), &path("a")).unwrap();
    assert_eq!(disk.used_bytes(), 3, "the replaced file is gone");
    disk.sync_dir(Path::new("/")).unwrap();
    disk.crash_keeping(Keep::None);
    assert_eq!(disk.files(), [(path("a"), 3)]);
}

#[test]
fn a_removed_file_may_come_back_until_its_folder_is_synced() {
    let disk = new(1);
    durable(&disk, "a", b"back");
    disk.remove(&path("a")).unwrap();
    let fork = disk.fork(1);
    fork.crash_keeping(Keep::None);
    assert_eq!(fork.peek(&path("a")).unwrap(), b"back");
    disk.sync_dir(Path::new("/")).unwrap();
    disk.crash_keeping(Keep::None);
    assert_eq!(disk.peek(&path("a")), None);
}

#[test]
fn a_synced_file_without_a_synced_name_is_lost() {
    let disk = new(1);
    let file = disk.create(&path("a")).unwrap();
    file.write_at(0, b"synced").unwrap();
    file.sync_data().unwrap();
    disk.crash_keeping(Keep::None);
    assert_eq!(disk.peek(&path("a")), None);
}

fn three_changes(faults: DiskFaults, seed: u64) -> Vec<String> {
    let disk = SimDisk::new(seed, faults);
    for name in ["1", "2", "3"] {
        disk.create(&path(name)).unwrap();
    }
    disk.crash();
    disk.list(Path::new("/")).unwrap()
}

#[test]
fn names_are_kept_in_order_or_in_any_combination() {
    let ordered: BTreeSet<_> =
        (0..200).map(|seed| three_changes(DiskFaults::default(), seed).concat()).collect();
    assert_eq!(ordered.into_iter().collect::<Vec<_>>(), ["", "1", "12", "123"]);
    let any: BTreeSet<_> = (0..400)
        .map(|seed| three_changes(DiskFaults::default().unordered(), seed).concat())
        .collect();
    assert_eq!(any.len(), 8, "{any:?}");
}

#[test]
fn unordered_names_never_undo_what_was_synced() {
    for seed in 0..300 {
        let disk = SimDisk::new(seed, DiskFaults::default().unordered());
        for dir in ["/a", "/b"] {
            disk.create_dir_all(Path::new(dir)).unwrap();
        }
        disk.sync_dir(Path::new("/")).unwrap();
        // The folder that the file came from is not synced, the one that it went to is.
        disk.create(Path::new("/a/x")).unwrap().write_at(0, b"x").unwrap();
        disk.rename(Path::new("/a/x"), Path::new("/b/x")).unwrap();
        disk.sync_dir(Path::new("/b")).unwrap();
        disk.crash();
        assert_eq!(disk.list(Path::new("/b")).unwrap(), ["x"]);
        assert!(disk.list(Path::new("/a")).unwrap().is_empty());
    }
}

#[test]
fn a_folder_is_a_name_in_the_folder_above() {
    let disk = SimDisk::new(1, DiskFaults::default().unordered());
    disk.create_dir_all(Path::new("/data/log")).unwrap();
    let file = disk.create(Path::new("/data/log/a")).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("/data/log")).unwrap();
    let lost = disk.fork(1);
    lost.crash_keeping(Keep::None);
    assert!(lost.list(Path::new("/data")).is_err());
    assert!(lost.files().is_empty(), "what was in it is out of reach");

    disk.sync_dir(Path::new("/data")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk.crash_keeping(Keep::None);
    assert_eq!(disk.list(Path::new("/data/log")).unwrap(), ["a"]);
}

/// One run of a small engine: append with sync, now and then a new file by rename.
fn run(disk: &SimDisk, seed: u64) -> std::io::Result<()> {
    let mut rng = Rng::new(seed);
    let dir = Path::new("/data");
    disk.create_dir_all(dir)?;
    disk.sync_dir(Path::new("/"))?;
    for n in 0..3 {
        let file = disk.create(&dir.join("tmp"))?;
        file.write_at(0, &[0; 4_096])?;
        file.sync_data()?;
        disk.rename(&dir.join("tmp"), &dir.join(n.to_string()))?;
        disk.sync_dir(dir)?;
        for i in 0..4 {
            let mut data = vec![0; 1 + rng.index(900)];
            rng.fill(&mut data);
            file.write_at(i * 1_000, &data)?;
            file.sync_data()?;
        }
    }
    Ok(())
}

#[test]
fn the_power_fails_at_each_operation_that_changes_something() {
    let whole = new(1);
    run(&whole, 1).unwrap();
    let changes = whole.counts().changes();
    assert_eq!(changes, 2 + 3 * (5 + 8));
    for n in 1..=changes {
        let disk = new(1);
        disk.crash_at(n);
        assert!(run(&disk, 1).is_err(), "{n}");
        assert!(disk.is_down());
        assert_eq!(disk.counts().changes(), n, "nothing comes after the crash");
        assert!(disk.create(Path::new("/more")).is_err());
        assert!(disk.restart());
        assert!(!disk.restart());
        disk.list(Path::new("/")).unwrap();
    }
    let disk = new(1);
    disk.crash_at(changes + 1);
    run(&disk, 1).unwrap();
}

#[test]
fn the_operation_at_the_crash_is_kept_lost_or_torn() {
    let lens: BTreeSet<usize> = (0..100)
        .map(|seed| {
            let disk = new(seed);
            let file = durable(&disk, "a", b"");
            disk.crash_at(1);
            file.write_at(0, &[1; 1_024]).unwrap_err();
            disk.restart();
            disk.peek(&path("a")).unwrap().len()
        })
        .collect();
    assert_eq!(lens.into_iter().collect::<Vec<_>>(), [0, 512, 1_024]);

    let synced: BTreeSet<Vec<u8>> = (0..100)
        .map(|seed| {
            let disk = new(seed);
            let file = durable(&disk, "a", b"old");
            file.write_at(0, b"new").unwrap();
            disk.crash_at(1);
            file.sync_data().unwrap_err();
            disk.restart();
            disk.peek(&path("a")).unwrap()
        })
        .collect();
    assert_eq!(synced.len(), 2);
}

#[test]
fn everything_follows_from_the_seed() {
    let outcome = |seed: u64| {
        let faults = DiskFaults::default()
            .rule(Rule::on(duractor_testkit::Op::Write, duractor_testkit::Fault::Eio).chance(0.05));
        let disk = SimDisk::new(seed, faults);
        let ended = run(&disk, seed).is_ok();
        let flips = disk.flip_random_bits(3);
        disk.crash();
        let bytes: Vec<_> = disk.files().iter().map(|(path, _)| disk.peek(path)).collect();
        (disk.trace_hash(), ended, flips, disk.files(), bytes)
    };
    let mut traces = BTreeSet::new();
    for seed in 0..50 {
        let first = outcome(seed);
        assert_eq!(first, outcome(seed));
        traces.insert(first.0);
    }
    assert_eq!(traces.len(), 50);
}

#[test]
fn one_history_can_be_crashed_in_many_ways() {
    let disk = new(1);
    let file = durable(&disk, "a", &[0; 8_192]);
    file.write_at(0, &[1; 8_192]).unwrap();
    let outcomes: BTreeSet<_> = (0..50)
        .map(|seed| {
            let fork = disk.fork(seed);
            fork.crash_keeping(Keep::Sectors);
            fork.peek(&path("a")).unwrap()
        })
        .collect();
    assert!(outcomes.len() > 40);
    // The original goes on as if nothing had been.
    file.sync_data().unwrap();
    assert_eq!(disk.peek_durable(&path("a")).unwrap(), [1; 8_192]);
}
