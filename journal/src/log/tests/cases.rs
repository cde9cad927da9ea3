//! Cases with a name.

use super::{
    super::{
        entry::{Body, Entry},
        footer::Later,
    },
    append,
    disk::{CrashDisk, Keep},
    model::{Op, entity, logged},
    open, vote,
};
use crate::{error::JournalError, id::ShardId};

fn batch(expected: u64, size: usize) -> Op {
    Op::Batch { entity: 0, epoch: 1, expected, events: vec![vec![5; size]], request: None }
}

fn entry(term: u64, index: u64, ops: Vec<Op>) -> Entry {
    logged(0, term, index, ops).entry
}

/// Marks ride on commits that are made anyway.
#[tokio::test(start_paused = true)]
async fn applying_costs_no_fsync() {
    let disk = CrashDisk::default();
    let (log, _wishes) = open(&disk, 1).await.unwrap();
    let group = log.group(ShardId(0));
    append(&group, vec![entry(1, 0, Vec::new())]).await.unwrap();
    let before = disk.syncs();
    for index in 1..20 {
        let entry = entry(1, index, vec![Op::Claim]);
        append(&group, vec![entry.clone()]).await.unwrap();
        let first = if index == 1 { vec![self::entry(1, 0, Vec::new())] } else { Vec::new() };
        group.apply(first.into_iter().chain([entry]).collect()).await.unwrap();
    }
    assert_eq!(disk.syncs() - before, 19);
}

/// What was applied before a crash is known again as far as a later commit told.
#[tokio::test(start_paused = true)]
async fn what_is_applied_is_remembered_with_the_next_commit() {
    let disk = CrashDisk::default();
    let (log, _wishes) = open(&disk, 1).await.unwrap();
    let group = log.group(ShardId(0));
    let entries = vec![entry(1, 0, Vec::new()), entry(1, 1, vec![Op::Claim, batch(0, 9)])];
    append(&group, entries.clone()).await.unwrap();
    assert_eq!(log.head(&entity(0, 0)).await.unwrap().last_seq.0, 0, "durable is not applied");
    group.apply(entries).await.unwrap();
    assert_eq!(log.head(&entity(0, 0)).await.unwrap().last_seq.0, 1);
    let lost = disk.after_crash(Keep::Nothing);
    let (log, _wishes) = open(&lost, 2).await.unwrap();
    let state = log.group(ShardId(0)).state();
    assert_eq!((state.applied, state.last.map(|id| id.index)), (None, Some(1)));
    assert_eq!(log.head(&entity(0, 0)).await.unwrap().last_seq.0, 0);
    assert!(!log.is_fresh());

    let disk = lost;
    let group = log.group(ShardId(0));
    let entries = group.read(0, 2, usize::MAX).await.unwrap();
    group.apply(entries).await.unwrap();
    vote(&log.group(ShardId(1)), 7).await.unwrap();
    let (log, _wishes) = open(&disk.after_crash(Keep::Nothing), 3).await.unwrap();
    let state = log.group(ShardId(0)).state();
    assert_eq!((state.applied.map(|id| id.index), state.epoch.0), (Some(1), 1));
    assert_eq!(log.head(&entity(0, 0)).await.unwrap().last_seq.0, 1);
}

/// A full disk refuses entries ahead; what was admitted waits; votes go on.
#[tokio::test(start_paused = true)]
async fn a_full_disk_leaves_room_for_votes() {
    let disk = CrashDisk::default();
    let (log, _wishes) = open(&disk, 1).await.unwrap();
    let group = log.group(ShardId(0));
    append(&group, vec![entry(1, 0, Vec::new())]).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    disk.set_room(Some(0));
    let mut index = 1;
    let refused = loop {
        let ops = vec![batch(index - 1, 1000)];
        let entry = entry(1, index, ops);
        match group.admit(entry.bytes()) {
            Ok(()) => append(&group, vec![entry]).await.unwrap(),
            Err(error) => break error,
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        index += 1;
        assert!(index < 100, "nothing is refused");
    };
    assert!(matches!(refused, JournalError::DiskFull { .. }), "{refused}");
    assert!(index > 20, "the spare was used: {index}");
    for n in 0..10 {
        vote(&group, n).await.unwrap();
    }
    // Entries that came all the same wait until there is room.
    let more: Vec<_> = (index..index + 20).map(|i| entry(1, i, vec![batch(i - 1, 1000)])).collect();
    let waiting = append(&group, more);
    tokio::pin!(waiting);
    let patience = std::time::Duration::from_secs(3);
    assert!(tokio::time::timeout(patience, &mut waiting).await.is_err(), "there is no room");
    vote(&group, 11).await.unwrap();
    disk.set_room(None);
    waiting.await.unwrap();
    assert!(group.admit(1000).is_ok());
}

/// A segment stays while a group needs its entries, and goes when they are released; what was in it
/// is known all the same.
#[tokio::test(start_paused = true)]
async fn a_segment_is_sealed_when_all_groups_released_it() {
    let disk = CrashDisk::default();
    let (log, mut wishes) = open(&disk, 1).await.unwrap();
    let (group, other) = (log.group(ShardId(0)), log.group(ShardId(1)));
    vote(&other, 5).await.unwrap();
    let members = logged(1, 1, 0, Vec::new()).entry;
    append(&other, vec![members.clone()]).await.unwrap();
    let mut entries = vec![entry(1, 0, Vec::new()), entry(1, 1, vec![Op::Claim])];
    entries.extend((2..60).map(|i| entry(1, i, vec![batch(i - 2, 1000)])));
    for entry in &entries {
        append(&group, vec![entry.clone()]).await.unwrap();
    }
    group.apply(entries.clone()).await.unwrap();
    group.purge(entries[59].id);
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let segment = "0000000000000001.log".to_owned();
    assert!(disk.names().contains(&segment), "the other group's entry is not released");
    let of_other = async {
        loop {
            let wish = wishes.recv().await.unwrap();
            if wish.shard == ShardId(1) {
                return wish.upto;
            }
        }
    };
    assert_eq!(of_other.await, 0);
    other.apply(vec![members.clone()]).await.unwrap();
    other.purge(members.id);
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert!(!disk.names().contains(&segment), "{:?}", disk.names());

    let (log, _wishes) = open(&disk.after_crash(Keep::Nothing), 2).await.unwrap();
    let state = log.group(ShardId(1)).state();
    assert_eq!(state.vote, Some(5u64.to_le_bytes().to_vec().into()));
    let Body::Membership(bytes) = members.body else { panic!("a membership") };
    assert_eq!(state.membership, Some((members.id, bytes)));
    assert_eq!((state.purged, state.applied), (Some(members.id), Some(members.id)));
    let state = log.group(ShardId(0)).state();
    assert_eq!(state.last, Some(entries[59].id));
    assert_eq!(log.head(&entity(0, 0)).await.unwrap().last_seq.0, 58);
}

/// Cause: a torn tail was overwritten with zeros, and the zeros were lost (a failed fsync, a killed
/// process, a power failure). Consequence: a frame of the torn group commit stood behind a new frame
/// and became part of the log, though it was never acknowledged. Fix: a frame must belong to the
/// group commit of the frame before it, or begin one.
#[tokio::test(start_paused = true)]
async fn a_leftover_of_a_torn_tail_does_not_chain() {
    use crate::disk::Disk;
    let segment = std::path::Path::new("/log/0000000000000001.log");
    let read = |disk: &CrashDisk| {
        let mut bytes = vec![0; 16 << 10];
        disk.open(segment).unwrap().read_exact_at(0, &mut bytes).unwrap();
        bytes
    };
    let ends = |bytes: &[u8]| {
        let (mut at, mut ends) = (64, vec![64]);
        while bytes[at..at + 4] != [0; 4] {
            at += 32 + u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
            ends.push(at);
        }
        ends
    };
    let disk = CrashDisk::default();
    let (log, _wishes) = open(&disk, 1).await.unwrap();
    let group = log.group(ShardId(0));
    append(&group, vec![entry(1, 0, Vec::new())]).await.unwrap();
    let disk = disk.after_crash(Keep::Nothing);
    let (log, _wishes) = open(&disk, 2).await.unwrap();
    vote(&log.group(ShardId(0)), 1).await.unwrap();
    let before = disk.copy(Keep::Nothing);
    // One group commit of two entries: a long one, and the one that will be left over.
    let two = vec![entry(1, 1, vec![batch(0, 1000)]), entry(1, 2, vec![batch(1, 50)])];
    append(&log.group(ShardId(0)), two).await.unwrap();
    let whole = read(&disk);
    let frames = ends(&whole);
    let (leftover, end) = (frames[frames.len() - 3], frames[frames.len() - 1]);

    // The next process writes an entry that ends where the leftover begins.
    let written = async |size: usize| {
        let disk = before.copy(Keep::Nothing);
        let (log, _wishes) = open(&disk, 3).await.unwrap();
        append(&log.group(ShardId(0)), vec![entry(1, 1, vec![batch(0, size)])]).await.unwrap();
        disk
    };
    let gap = leftover - ends(&read(&written(500).await)).last().unwrap();
    let disk = written(500 + gap).await;
    assert_eq!(ends(&read(&disk)).last(), Some(&leftover), "the test fits");
    let file = disk.open(segment).unwrap();
    file.write_at(leftover as u64, &whole[leftover..end]).unwrap();
    file.sync_data().unwrap();
    assert_eq!(ends(&read(&disk)).last(), Some(&end), "the leftover is there");
    let (log, _wishes) = open(&disk.after_crash(Keep::Everything), 4).await.unwrap();
    assert_eq!(log.group(ShardId(0)).state().last.map(|id| id.index), Some(1));
}

/// Cause: an entry that is superseded does not keep its segment from being sealed, and it stays behind
/// then; the entry that followed it was in the next segment. Consequence: the log was taken for
/// damaged, with entries missing before that one, and did not open. Fix: entries that follow what was
/// sealed with a gap were superseded, too, and are passed over.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_superseded_stretch_may_outlive_its_beginning() {
    let disk = CrashDisk::default();
    let (log, _wishes) = open(&disk, 1).await.unwrap();
    let group = log.group(ShardId(0));
    let mut entries = vec![entry(1, 0, Vec::new()), entry(1, 1, vec![Op::Claim, batch(0, 4500)])];
    entries.extend((2..5).map(|index| entry(1, index, vec![batch(index - 1, 4500)])));
    append(&group, entries.clone()).await.unwrap();
    assert_eq!(log.usage().segments, 2, "the last one is in the second segment");
    group.truncate_after(Some(entries[2].id));
    entries.truncate(3);
    entries.push(entry(2, 3, vec![batch(2, 10)]));
    append(&group, entries[3..].to_vec()).await.unwrap();
    group.apply(entries[..3].to_vec()).await.unwrap();
    group.purge(entries[2].id);
    let waits = log.maintain().await;
    assert!(matches!(waits, Err(JournalError::Unavailable { .. })), "{waits:?}");
    assert_eq!(log.usage().sealed_files, 1);
    let (log, _wishes) = open(&disk.after_crash(Keep::Nothing), 2).await.unwrap();
    let group = log.group(ShardId(0));
    assert_eq!(
        (group.state().purged, group.state().last),
        (Some(entries[2].id), Some(entries[3].id))
    );
    assert_eq!(group.read(3, 4, usize::MAX).await.unwrap(), entries[3..]);
}

/// A checkpoint takes away what is another history, also where the power fails right after, and leaves
/// what is its own.
#[tokio::test(start_paused = true)]
async fn only_entries_that_continue_a_checkpoint_stay() {
    for (term, kept) in [(1, true), (2, false)] {
        let source = CrashDisk::default();
        let (log, _wishes) = open(&source, 1).await.unwrap();
        let mut entries: Vec<_> = (0..4).map(|index| entry(1, index, Vec::new())).collect();
        entries[3] = entry(term, 3, Vec::new());
        let from = log.group(ShardId(0));
        append(&from, entries.clone()).await.unwrap();
        from.apply(entries.clone()).await.unwrap();
        let cut = entries[3].id;

        let disk = CrashDisk::default();
        let (log, _wishes) = open(&disk, 2).await.unwrap();
        let group = log.group(ShardId(0));
        let old: Vec<_> = (0..6).map(|index| entry(1, index, Vec::new())).collect();
        append(&group, old.clone()).await.unwrap();
        if !kept {
            // As the engine does when it hears of the checkpoint.
            group.truncate_after(None);
        }
        let epoch = from.state().epoch;
        let mut image = from.image(cut, epoch).await.unwrap();
        let mut intake = group.intake(cut, epoch).unwrap();
        while let Some(chunk) = image.next_chunk(1000).unwrap() {
            intake.take(&chunk).unwrap();
        }
        group.install(intake.finish(None, Later::Kept).unwrap()).await.unwrap();
        let last = if kept { old[5].id } else { cut };
        assert_eq!((group.state().last, group.state().applied), (Some(last), Some(cut)));
        let (log, _wishes) = open(&disk.after_crash(Keep::Nothing), 3).await.unwrap();
        let state = log.group(ShardId(0)).state();
        assert_eq!((state.last, state.applied), (Some(last), Some(cut)), "term {term}");
    }
}
