//! The contract suite on the journal in memory.

use std::sync::Arc;

use duractor_journal::{Journal, Limits, MemoryJournal, contract::Provider};

struct Memory;

impl Provider for Memory {
    async fn open(&self) -> Arc<dyn Journal> {
        MemoryJournal::new(4, Limits::default())
    }
}

mod one_thread {
    duractor_journal::journal_contract!(super::Memory);
}

mod many_threads {
    duractor_journal::journal_contract!(
        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        super::Memory
    );
}
