//! A store that an earlier build made opens for ever.

mod support;

use duractor_snapshot::{Criteria, Retention, SnapshotStore};
use support::{MemDisk, id, open, path, snap};

/// One file of the first format, packed with lz4 because most of it is zeros.
const GOLDEN: &[u8] = include_bytes!("golden/snapshots-1.redb.lz4");

#[tokio::test]
async fn a_store_of_the_first_format_opens() {
    let disk = MemDisk::default();
    disk.put(&path(), lz4_flex::block::decompress_size_prepended(GOLDEN).expect("unpacks"));
    let store = open(&disk).await.expect("opens");
    for (key, newest) in [("1", 16), ("2", 12), ("ключ", 6)] {
        let found = store.load(&id(key), Criteria::ALL).await;
        assert_eq!(found, Ok(Some(snap(key, newest))), "{key}");
    }
    assert_eq!(store.delete(&id("1"), Criteria::ALL).await, Ok(2));
    assert_eq!(store.damaged(), 0);
    assert_eq!(disk.names(), ["snapshots.redb"], "it was not set aside");
}

/// Makes the file anew: only for a new format, under a new name.
#[tokio::test]
#[ignore = "writes the golden file"]
async fn make() {
    let disk = MemDisk::default();
    let store = open(&disk).await.expect("opens");
    for (key, seq) in [("1", 5), ("1", 16), ("2", 12), ("ключ", 6)] {
        store.save(vec![snap(key, seq)], Retention::All).await.expect("saves");
    }
    store.shutdown().await;
    let packed = lz4_flex::block::compress_prepend_size(&disk.read(&path()));
    let to = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/snapshots-1.redb.lz4");
    std::fs::write(to, packed).expect("writes");
}
