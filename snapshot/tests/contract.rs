//! Both stores run the same suite.

use std::sync::Arc;

use duractor_journal::Env;
use duractor_snapshot::{
    MemorySnapshots, RedbSnapshots, SnapshotOptions, SnapshotStore, contract::Subject,
};

struct Memory(Arc<MemorySnapshots>);

impl Subject for Memory {
    fn new() -> Self {
        Memory(Arc::default())
    }

    async fn open(&self) -> Arc<dyn SnapshotStore> {
        self.0.reopen();
        self.0.clone()
    }
}

struct Redb(tempfile::TempDir);

impl Subject for Redb {
    fn new() -> Self {
        Redb(tempfile::tempdir().expect("a folder"))
    }

    async fn open(&self) -> Arc<dyn SnapshotStore> {
        let path = self.0.path().join("made/as/needed/snapshots.redb");
        RedbSnapshots::open(path, SnapshotOptions::default(), Env::production())
            .await
            .expect("the store opens")
    }
}

mod memory {
    duractor_snapshot::snapshot_store_contract!(super::Memory);
}

mod redb {
    duractor_snapshot::snapshot_store_contract!(super::Redb);
}
