//! The contract suite on the journal in files.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use duractor_journal::{Env, Journal, Limits, LogConfig, LogJournal, contract::Provider};
use tempfile::TempDir;

/// Opens logs in one folder; `reopen` closes in good order first.
struct Log {
    dir: TempDir,
    small: bool,
    opened: AtomicUsize,
    current: std::sync::Mutex<Option<Arc<LogJournal>>>,
}

impl Log {
    fn new(small: bool) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        Self { dir, small, opened: AtomicUsize::new(0), current: std::sync::Mutex::new(None) }
    }

    async fn open_in(&self, name: &str) -> Arc<dyn Journal> {
        let mut config = LogConfig::new(self.dir.path().join(name));
        config.shards = 4;
        config.limits = Limits::default();
        if self.small {
            config.segment_bytes = 16 << 10;
            config.merged_bytes = 1 << 20;
        } else {
            config.segment_bytes = 1 << 20;
        }
        let journal = LogJournal::open(config, Env::production()).await.expect("the log opens");
        *self.current.lock().expect("not poisoned") = Some(journal.clone());
        journal
    }
}

impl Provider for Log {
    const PERSISTS: bool = true;

    async fn open(&self) -> Arc<dyn Journal> {
        let n = self.opened.fetch_add(1, Ordering::Relaxed);
        self.open_in(&format!("log-{n}")).await
    }

    async fn reopen(&self, old: Arc<dyn Journal>) -> Arc<dyn Journal> {
        old.shutdown().await;
        drop(old);
        let n = self.opened.load(Ordering::Relaxed) - 1;
        self.open_in(&format!("log-{n}")).await
    }

    async fn maintain(&self, _: &Arc<dyn Journal>) {
        let current = self.current.lock().expect("not poisoned").clone();
        current.expect("a log is open").maintain().await.expect("maintenance works");
    }
}

mod large_segments {
    duractor_journal::journal_contract!(super::Log::new(false));
}

/// Segments so small that every case seals and merges.
mod small_segments {
    duractor_journal::journal_contract!(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        super::Log::new(true)
    );
}
