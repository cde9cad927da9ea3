//! Each fault of the simulated disk, shown.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeSet,
    io::{Error, ErrorKind},
    path::Path,
    sync::Arc,
};

use duractor_journal::disk::{Disk, DiskFile};
use duractor_testkit::{DiskFaults, Fault, Keep, Op, Rule, SimDisk};

const EIO: Option<i32> = Some(5);

/// A disk with a durable file `/a` of these bytes.
fn with_file(seed: u64, bytes: &[u8]) -> (Arc<SimDisk>, Arc<dyn DiskFile>) {
    let disk = SimDisk::new(seed, DiskFaults::default());
    let file = disk.create(Path::new("/a")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    file.write_at(0, bytes).unwrap();
    file.sync_data().unwrap();
    (disk, file)
}

fn peek(disk: &SimDisk) -> Vec<u8> {
    disk.peek(Path::new("/a")).unwrap()
}

fn peek_durable(disk: &SimDisk) -> Vec<u8> {
    disk.peek_durable(Path::new("/a")).unwrap()
}

type Try = dyn Fn(&SimDisk, &dyn DiskFile) -> Result<(), Error>;

#[test]
fn every_operation_can_fail() {
    let root = Path::new("/");
    let ops: [(Op, &Try); 13] = [
        (Op::CreateDir, &|disk, _| disk.create_dir_all(Path::new("/d"))),
        (Op::List, &|disk, _| disk.list(root).map(drop)),
        (Op::Create, &|disk, _| disk.create(Path::new("/b")).map(drop)),
        (Op::Open, &|disk, _| disk.open(Path::new("/a")).map(drop)),
        (Op::Rename, &|disk, _| disk.rename(Path::new("/a"), Path::new("/b"))),
        (Op::Remove, &|disk, _| disk.remove(Path::new("/a"))),
        (Op::SyncDir, &|disk, _| disk.sync_dir(root)),
        (Op::Lock, &|disk, _| disk.lock(Path::new("/a")).map(drop)),
        (Op::Read, &|_, file| file.read_at(0, &mut [0]).map(drop)),
        (Op::Write, &|_, file| file.write_at(0, b"x")),
        (Op::SetLen, &|_, file| file.set_len(1)),
        (Op::Sync, &|_, file| file.sync_data()),
        (Op::Len, &|_, file| file.len().map(drop)),
    ];
    for (op, run) in ops {
        let (disk, file) = with_file(1, b"old");
        disk.inject(Rule::on(op, Fault::Eio).nth(1));
        assert_eq!(run(&disk, &*file).unwrap_err().raw_os_error(), EIO, "{op:?}");
        assert_eq!(disk.counts().faults(Fault::Eio), 1);
        assert_eq!(disk.files(), [("/a".into(), 3)], "{op:?} has no effect");
        run(&disk, &*file).unwrap();
        assert!(disk.counts().ops(op) >= 2);

        let (disk, file) = with_file(1, b"old");
        disk.inject(Rule::on(op, Fault::Crash));
        run(&disk, &*file).unwrap_err();
        assert!(disk.is_down(), "{op:?}");
    }
}

#[test]
fn rules_choose_when_and_where() {
    let disk = SimDisk::new(1, DiskFaults::default());
    let log = disk.create(Path::new("/log")).unwrap();
    let other = disk.create(Path::new("/other")).unwrap();
    disk.inject(Rule::on(Op::Write, Fault::Eio).nth(2).file("log"));
    let failed = |file: &dyn DiskFile| file.write_at(0, b"x").is_err();
    assert_eq!(
        [failed(&*log), failed(&*other), failed(&*log), failed(&*log)],
        [false, false, true, false]
    );
    disk.inject(Rule::on(Op::Write, Fault::Eio).from(2));
    assert_eq!([failed(&*log), failed(&*other), failed(&*log)], [false, true, true]);
    disk.heal();
    assert!(!failed(&*log));
    disk.inject(Rule::on(Op::Write, Fault::Eio).chance(0.3));
    let often = (0..1_000).filter(|_| failed(&*log)).count();
    assert!((200..400).contains(&often), "{often}");
    // By its present name, not by the one under which it was opened.
    disk.heal();
    disk.rename(Path::new("/log"), Path::new("/renamed")).unwrap();
    disk.inject(Rule::on(Op::Write, Fault::Eio).file("renamed"));
    assert!(failed(&*log));
}

#[test]
fn the_first_rule_decides_and_the_others_count_on() {
    let (disk, file) = with_file(1, b"old");
    disk.inject(Rule::on(Op::Sync, Fault::Lie).nth(1));
    disk.inject(Rule::on(Op::Sync, Fault::Eio).from(1));
    file.sync_data().unwrap();
    file.sync_data().unwrap_err();
    let counts = disk.counts();
    assert_eq!((counts.faults(Fault::Lie), counts.faults(Fault::Eio)), (1, 1));
}

#[test]
#[should_panic(expected = "cannot strike")]
fn a_rule_that_could_never_strike_is_refused() {
    let _ = Rule::on(Op::Read, Fault::DropPages);
}

#[test]
fn of_a_failed_write_some_first_sectors_land() {
    let landed: BTreeSet<usize> = (0..100)
        .map(|seed| {
            let (disk, file) = with_file(seed, &[1; 2_048]);
            disk.inject(Rule::on(Op::Write, Fault::Eio).nth(1));
            file.write_at(256, &[2; 1_024]).unwrap_err();
            let bytes = peek(&disk);
            let landed = bytes.iter().filter(|&&byte| byte == 2).count();
            assert!(bytes[256..256 + landed].iter().all(|&byte| byte == 2));
            landed
        })
        .collect();
    assert_eq!(landed.into_iter().collect::<Vec<_>>(), [0, 256, 768]);
}

#[test]
fn a_full_disk_takes_what_fits_and_recovers() {
    let disk = SimDisk::new(1, DiskFaults::default().capacity(1_000));
    let file = disk.create(Path::new("/a")).unwrap();
    file.write_at(0, &[1; 600]).unwrap();
    assert_eq!(file.write_at(600, &[2; 600]).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(file.len().unwrap(), 1_000);
    assert_eq!(disk.used_bytes(), 1_000);
    assert_eq!(disk.counts().faults(Fault::Full), 1);
    // What is there can be read and overwritten.
    file.write_at(0, &[3; 1_000]).unwrap();
    assert_eq!(file.set_len(1_001).unwrap_err().kind(), ErrorKind::StorageFull);

    // A removed file's room is free once nobody has it open.
    let other = disk.create(Path::new("/b")).unwrap();
    disk.remove(Path::new("/a")).unwrap();
    assert!(other.write_at(0, &[4]).is_err());
    drop(file);
    other.write_at(0, &[4; 1_000]).unwrap();
    other.set_len(10).unwrap();
    assert_eq!(disk.used_bytes(), 10);
    disk.set_capacity(None);
    other.write_at(0, &[5; 5_000]).unwrap();
}

#[test]
fn no_space_at_the_nth_operation() {
    let (disk, file) = with_file(1, b"old");
    disk.inject(Rule::on(Op::Sync, Fault::Full).nth(1));
    assert_eq!(file.sync_data().unwrap_err().kind(), ErrorKind::StorageFull);
    disk.inject(Rule::on(Op::Create, Fault::Full).nth(1));
    let refused = disk.create(Path::new("/b")).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::StorageFull);
    assert_eq!(disk.counts().faults(Fault::Full), 2);
}

#[test]
fn a_failed_sync_drops_pages() {
    let mut lost = 0;
    for seed in 0..50 {
        let (disk, file) = with_file(seed, &[1; 4_096]);
        file.write_at(0, &[2; 4_096]).unwrap();
        disk.inject(Rule::on(Op::Sync, Fault::DropPages).nth(1));
        assert_eq!(file.sync_data().unwrap_err().raw_os_error(), EIO);
        assert_eq!(peek(&disk), peek_durable(&disk));
        // The second sync succeeds, and helps nothing.
        file.sync_data().unwrap();
        lost += usize::from(peek(&disk) != [2; 4_096]);
    }
    assert!(lost > 40);
}

#[test]
fn a_failed_sync_marks_pages_clean() {
    let mut lost = 0;
    for seed in 0..50 {
        let (disk, file) = with_file(seed, &[1; 4_096]);
        file.write_at(0, &[2; 4_096]).unwrap();
        disk.inject(Rule::on(Op::Sync, Fault::MarkClean).nth(1));
        assert_eq!(file.sync_data().unwrap_err().raw_os_error(), EIO);
        file.sync_data().unwrap();
        assert_eq!(peek(&disk), [2; 4_096], "it reads well");
        disk.crash_keeping(Keep::All);
        lost += usize::from(peek(&disk) != [2; 4_096]);
    }
    assert!(lost > 40);
}

#[test]
fn a_failed_sync_of_a_folder_keeps_some_first_changes() {
    let kept: BTreeSet<usize> = (0..100)
        .map(|seed| {
            let disk = SimDisk::new(seed, DiskFaults::default());
            disk.create(Path::new("/1")).unwrap();
            disk.create(Path::new("/2")).unwrap();
            disk.inject(Rule::on(Op::SyncDir, Fault::Eio).nth(1));
            disk.sync_dir(Path::new("/")).unwrap_err();
            disk.crash_keeping(Keep::None);
            disk.files().len()
        })
        .collect();
    assert_eq!(kept.into_iter().collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn a_lying_sync_loses_what_it_promised() {
    let (disk, file) = with_file(1, b"old");
    disk.inject(Rule::on(Op::Sync, Fault::Lie));
    disk.inject(Rule::on(Op::SyncDir, Fault::Lie));
    file.write_at(0, b"new").unwrap();
    file.sync_data().unwrap();
    disk.create(Path::new("/b")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk.crash_keeping(Keep::None);
    assert_eq!(peek(&disk), b"old");
    assert_eq!(disk.files().len(), 1);
    assert_eq!(disk.counts().faults(Fault::Lie), 2);
}

#[test]
fn bits_flip_wherever_the_byte_is_kept() {
    let (disk, file) = with_file(1, &[0; 100]);
    file.write_at(50, &[0xff; 10]).unwrap();
    assert!(disk.flip_bit(Path::new("/a"), 55, 3));
    assert!(disk.flip_bit(Path::new("/a"), 7, 0));
    assert!(!disk.flip_bit(Path::new("/a"), 100, 0));
    assert!(!disk.flip_bit(Path::new("/b"), 0, 0));
    assert_eq!((peek(&disk)[55], peek(&disk)[7]), (0xf7, 1));
    // The sync of a page that rotted in memory does not heal it.
    file.sync_data().unwrap();
    assert_eq!((peek_durable(&disk)[55], peek_durable(&disk)[7]), (0xf7, 1));
    assert_eq!(disk.counts().flipped(), 2);
}

#[test]
fn random_flips_reach_every_file_and_say_where() {
    let (disk, _file) = with_file(1, &[0; 100]);
    disk.create(Path::new("/b")).unwrap().write_at(0, &[0; 300]).unwrap();
    disk.create(Path::new("/empty")).unwrap();
    let flips = disk.flip_random_bits(200);
    let in_a = flips.iter().filter(|flip| flip.path == Path::new("/a")).count();
    assert_eq!(flips.len(), 200);
    assert!((20..80).contains(&in_a), "{in_a}");

    let flips = disk.flip_random_bits_where(1, |path| path == Path::new("/b"));
    let before = disk.peek(&flips[0].path).unwrap();
    assert!(disk.flip_bit(&flips[0].path, flips[0].offset, flips[0].bit));
    assert_ne!(disk.peek(&flips[0].path).unwrap(), before);
    assert!(disk.flip_random_bits_where(1, |path| path == Path::new("/empty")).is_empty());
}

#[test]
fn a_misdirected_write_lands_elsewhere() {
    let mut files = BTreeSet::new();
    for seed in 0..50 {
        let (disk, file) = with_file(seed, &[0; 4_096]);
        let other = disk.create(Path::new("/b")).unwrap();
        other.write_at(0, &[0; 4_096]).unwrap();
        disk.inject(Rule::on(Op::Write, Fault::Misdirect).nth(1));
        file.write_at(1_024, &[7; 512]).unwrap();
        let (a, b) = (peek(&disk), disk.peek(Path::new("/b")).unwrap());
        assert_eq!(a[1_024], 0);
        let hit = if a.contains(&7) { ("a", a) } else { ("b", b) };
        let at = hit.1.iter().position(|&byte| byte == 7).unwrap();
        assert_eq!(at % 512, 0);
        assert_eq!(hit.1.iter().filter(|&&byte| byte == 7).count(), 512);
        files.insert(hit.0);
    }
    assert_eq!(files.len(), 2);
}

#[test]
fn a_sector_of_a_write_is_zeros() {
    let (disk, file) = with_file(3, &[1; 2_048]);
    disk.inject(Rule::on(Op::Write, Fault::ZeroSector).nth(1));
    file.write_at(0, &[2; 2_048]).unwrap();
    file.sync_data().unwrap();
    let bytes = peek_durable(&disk);
    let zeroed = bytes.chunks(512).filter(|sector| sector == &[0; 512]).count();
    let written = bytes.chunks(512).filter(|sector| sector == &[2; 512]).count();
    assert_eq!((zeroed, written), (1, 3));

    assert!(disk.zero_sector(Path::new("/a"), 3));
    assert_eq!(peek(&disk)[1_536..], [0; 512]);
    assert!(!disk.zero_sector(Path::new("/b"), 0));
}

#[test]
fn an_offset_out_of_range_is_an_error() {
    let (_disk, file) = with_file(1, b"old");
    assert_eq!(file.write_at(u64::MAX, b"x").unwrap_err().kind(), ErrorKind::FileTooLarge);
    assert_eq!(file.set_len(u64::MAX).unwrap_err().kind(), ErrorKind::FileTooLarge);
    assert_eq!(file.read_at(u64::MAX, &mut [0]).unwrap(), 0);
}
