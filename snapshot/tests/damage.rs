//! Bits flip anywhere in the file. Never a wrong state, never a panic that escapes, and the store
//! goes on working.

mod support;

use std::panic;

use duractor_journal::Seq;
use duractor_snapshot::{
    Criteria, OnDamage, RedbSnapshots, Retention, SnapshotError, SnapshotOptions, SnapshotStore,
};
use support::{Fault, MemDisk, Random, id, open, open_with, path, snap};

/// Few enough to be quick, many enough for a tree of three levels.
const KEYS: u64 = 40;
const DEEP_KEYS: u64 = 2_000;

/// redb panics on some damage; the store contains that, and the output need not show each.
fn quiet_redb() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !info.location().is_some_and(|at| at.file().contains("redb")) {
            usual(info);
        }
    }));
}

/// The bytes of a store with a few snapshots of each key.
async fn stored(keys: u64, clean: bool) -> Vec<u8> {
    let disk = MemDisk::default();
    let store = open(&disk).await.expect("opens");
    for round in 1..=5 {
        let batch = (0..keys).map(|k| snap(&k.to_string(), round * 3 + k)).collect();
        store.save(batch, Retention::newest(4)).await.expect("saves");
    }
    if clean {
        store.shutdown().await;
    }
    disk.read(&path())
}

/// Loads of some keys what there is; whatever comes must be what was saved. Returns how many came.
async fn check(store: &RedbSnapshots, keys: u64, what: &str) -> u64 {
    let mut found = 0;
    for key in (0..keys).step_by(keys as usize / KEYS as usize).map(|k| k.to_string()) {
        for criteria in [Criteria::ALL, Criteria::up_to(Seq(20))] {
            match store.load(&id(&key), criteria).await {
                Ok(None) => {}
                Ok(Some(got)) => {
                    assert_eq!(got, snap(&key, got.seq.0), "{what}: a wrong state");
                    found += 1;
                }
                Err(error) => panic!("{what}: damage is fatal: {error}"),
            }
        }
    }
    found
}

/// What happens to a file.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Flip,
    /// A write that went to another page: pages may then point in circles.
    Misdirected,
    Garbage,
    Zeros,
    Cut,
}

/// A byte to damage: half of the time anywhere, else in a page where something is stored.
fn place(bytes: &[u8], random: &mut Random) -> usize {
    let anywhere = random.below(2) == 0;
    loop {
        let at = random.below(bytes.len() as u64) as usize;
        let page = &bytes[at / 4096 * 4096..];
        if anywhere || page.iter().take(4096).any(|b| *b != 0) {
            return at;
        }
    }
}

fn damage(bytes: &mut Vec<u8>, how: Damage, random: &mut Random) {
    let at = place(bytes, random);
    let page = at / 4096 * 4096;
    let from = place(bytes, random) / 4096 * 4096;
    match how {
        Damage::Flip => bytes[at] ^= 1 << random.below(8),
        Damage::Misdirected => bytes.copy_within(from..from + 4096, page),
        Damage::Garbage => bytes[page..page + 512].fill_with(|| random.next() as u8),
        Damage::Zeros => bytes[page..page + 4096].fill(0),
        Damage::Cut => bytes.truncate(at),
    }
}

async fn damaged_stores(keys: u64, kinds: &[Damage], seeds: std::ops::Range<u64>) {
    quiet_redb();
    let files = [stored(keys, true).await, stored(keys, false).await];
    for seed in seeds {
        let mut random = Random(seed);
        let bytes = &files[random.below(2) as usize];
        let how = kinds[random.below(kinds.len() as u64) as usize];
        let while_open = random.below(2) == 0;
        let what = format!("seed {seed}, {how:?}, while open: {while_open}");
        let disk = MemDisk::default();
        disk.put(&path(), bytes.clone());
        if !while_open {
            disk.change(&path(), |bytes| damage(bytes, how, &mut random));
        }
        let cache_bytes = if random.below(2) == 0 { 0 } else { 1 << 20 };
        let options = || SnapshotOptions { cache_bytes, ..SnapshotOptions::default() };
        let store = open_with(&disk, options()).await;
        let store = store.unwrap_or_else(|error| panic!("{what}: opening is fatal: {error}"));
        if while_open {
            disk.change(&path(), |bytes| damage(bytes, how, &mut random));
        }
        check(&store, keys, &what).await;
        let key = random.below(keys).to_string();
        let saved = store.save(vec![snap(&key, 3_000)], Retention::newest(2)).await;
        let saved = saved.unwrap_or_else(|error| panic!("{what}: saving is fatal: {error}"));
        assert!(saved[0].oldest <= Seq(3_000), "{what}: oldest {}", saved[0].oldest);
        check(&store, keys, &what).await;
        store.shutdown().await;
        let store = open_with(&disk, options()).await;
        let store = store.unwrap_or_else(|error| panic!("{what}: reopening is fatal: {error}"));
        check(&store, keys, &what).await;
        store.shutdown().await;
    }
}

const ALL_DAMAGE: [Damage; 5] =
    [Damage::Flip, Damage::Misdirected, Damage::Garbage, Damage::Zeros, Damage::Cut];

#[tokio::test]
async fn a_flipped_bit_never_gives_a_wrong_state() {
    damaged_stores(KEYS, &[Damage::Flip], 0..2_000).await;
}

#[tokio::test]
async fn damage_of_any_kind_never_gives_a_wrong_state() {
    damaged_stores(KEYS, &ALL_DAMAGE, 0..500).await;
    damaged_stores(DEEP_KEYS, &ALL_DAMAGE, 0..30).await;
}

/// More of the same, for a quiet machine: add `-- --ignored`.
#[tokio::test]
#[ignore = "takes minutes"]
async fn much_damage_of_any_kind_never_gives_a_wrong_state() {
    damaged_stores(KEYS, &[Damage::Flip], 10_000..20_000).await;
    damaged_stores(KEYS, &ALL_DAMAGE, 10_000..20_000).await;
    damaged_stores(DEEP_KEYS, &ALL_DAMAGE, 10_000..11_000).await;
}

#[tokio::test]
async fn a_file_that_is_no_store_is_set_aside_and_kept() {
    quiet_redb();
    for junk in [Vec::new(), b"junk".to_vec(), vec![0; 1 << 16], vec![0xaa; 1 << 16]] {
        let disk = MemDisk::default();
        for n in 1..=2 {
            disk.put(&path(), junk.clone());
            let store = open(&disk).await.expect("opens");
            assert_eq!(store.load(&id("1"), Criteria::ALL).await, Ok(None));
            store.save(vec![snap("1", 5)], Retention::All).await.expect("saves");
            assert_eq!(store.load(&id("1"), Criteria::ALL).await, Ok(Some(snap("1", 5))));
            store.shutdown().await;
            let aside = path().with_file_name(format!("snapshots.redb.damaged-{n}"));
            assert_eq!(disk.read(&aside), junk);
        }
    }
}

#[tokio::test]
async fn a_damaged_file_is_refused_where_that_is_asked_for() {
    quiet_redb();
    let disk = MemDisk::default();
    disk.put(&path(), vec![0xaa; 1 << 16]);
    let options = || SnapshotOptions { on_damage: OnDamage::Refuse, ..SnapshotOptions::default() };
    let refused = open_with(&disk, options()).await.map(drop);
    assert!(matches!(refused, Err(SnapshotError::Damaged { .. })), "{refused:?}");
    assert_eq!(disk.read(&path()), vec![0xaa; 1 << 16], "it is left as it was");
    assert_eq!(disk.names(), ["snapshots.redb"]);
}

/// A damaged value is passed over, counted, and removed by the next save's retention.
#[tokio::test]
async fn a_damaged_value_gives_way_to_an_older_one() {
    let disk = MemDisk::default();
    let store = open(&disk).await.expect("opens");
    // Sizes over 0 and under the one where compression begins.
    for seq in [8, 15] {
        store.save(vec![snap("1", seq)], Retention::All).await.expect("saves");
    }
    store.shutdown().await;
    let (bytes, newest) = (disk.read(&path()), &snap("1", 15).state);
    for at in (0..bytes.len() - newest.len()).filter(|at| bytes[*at..].starts_with(newest)) {
        disk.change(&path(), |bytes| bytes[at] ^= 1);
    }
    let unverified = SnapshotOptions { verify_on_open: false, ..SnapshotOptions::default() };
    let store = open_with(&disk, unverified).await.expect("opens");
    assert_eq!(store.damaged(), 0);
    assert_eq!(store.load(&id("1"), Criteria::ALL).await, Ok(Some(snap("1", 8))));
    assert_eq!(store.damaged(), 1);
    let saved = store.save(vec![snap("1", 22)], Retention::newest(2)).await.expect("saves");
    assert_eq!(saved[0].oldest, Seq(8), "the damaged one does not count as kept");
    assert_eq!(store.delete(&id("1"), Criteria::ALL).await, Ok(2), "it is gone");
}

/// The damaged file stays as it was; what is on sound pages is in the new one.
#[tokio::test]
async fn what_verifies_is_saved_from_a_damaged_file() {
    quiet_redb();
    let disk = MemDisk::default();
    let store = open(&disk).await.expect("opens");
    for seq in [8, 15] {
        let batch = (0..KEYS).map(|k| snap(&k.to_string(), seq)).collect();
        store.save(batch, Retention::All).await.expect("saves");
    }
    store.shutdown().await;
    let (bytes, newest) = (disk.read(&path()), snap("7", 15).state);
    for at in (0..bytes.len() - newest.len()).filter(|at| bytes[*at..].starts_with(&newest)) {
        disk.change(&path(), |bytes| bytes[at] ^= 1);
    }
    let damaged = disk.read(&path());
    let store = open(&disk).await.expect("opens");
    // The snapshots on the damaged page are lost together: which of them are sound cannot be told.
    let lost = store.damaged();
    assert!((1..=16).contains(&lost), "{lost}");
    let mut older = Vec::new();
    for key in (0..KEYS).map(|k| k.to_string()) {
        let found = store.load(&id(&key), Criteria::ALL).await.expect("loads");
        if found != Some(snap(&key, 15)) {
            assert!(found.is_none() || found == Some(snap(&key, 8)), "{found:?}");
            older.push(key);
        }
    }
    assert!(older.contains(&"7".to_owned()) && older.len() as u64 <= lost, "{older:?}");
    let aside = path().with_file_name("snapshots.redb.damaged-1");
    assert_eq!(disk.read(&aside), damaged, "it is kept as it was");
    store.shutdown().await;
    assert_eq!(open(&disk).await.expect("opens").damaged(), 0);
}

/// Reads that fail give what a damaged page gives: nothing, and never an error that stops others.
#[tokio::test]
async fn reads_that_fail_count_as_absent() {
    quiet_redb();
    let disk = MemDisk::default();
    disk.put(&path(), stored(KEYS, true).await);
    let uncached = || SnapshotOptions { cache_bytes: 0, ..SnapshotOptions::default() };
    let store = open_with(&disk, uncached()).await.expect("opens");
    let all = check(&store, KEYS, "before").await;
    assert!(all > KEYS);
    disk.set_fault(Fault::FailReads);
    assert_eq!(check(&store, KEYS, "while reads fail").await, 0);
    assert!(store.damaged() > 0);
    disk.set_fault(Fault::None);
    assert_eq!(check(&store, KEYS, "after").await, all);
}
