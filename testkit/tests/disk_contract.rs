//! The operating system's files and the simulated disk keep the same contract.

#![allow(clippy::unwrap_used, reason = "tests")]

mod std_disk {
    use std::sync::Arc;

    use duractor_journal::disk::StdDisk;
    use duractor_testkit::disk::contract::Subject;

    fn subject() -> Subject {
        let dir = tempfile::tempdir().unwrap();
        Subject { disk: Arc::new(StdDisk), dir: dir.path().to_owned(), keep: Box::new(dir) }
    }

    duractor_testkit::disk_contract!(subject);
}

mod sim_disk {
    use std::path::PathBuf;

    use duractor_journal::disk::Disk;
    use duractor_testkit::{DiskFaults, SimDisk, disk::contract::Subject};

    fn subject() -> Subject {
        let disk = SimDisk::new(1, DiskFaults::default());
        let dir = PathBuf::from("/data/node");
        disk.create_dir_all(&dir).unwrap();
        Subject { disk, dir, keep: Box::new(()) }
    }

    duractor_testkit::disk_contract!(subject);
}
