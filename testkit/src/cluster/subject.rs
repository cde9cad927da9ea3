//! What is tested: a replicated journal on each node. The real one, or another for tests of the
//! tests.

use std::{collections::BTreeSet, sync::Arc};

use duractor_journal::{
    Env, GroupStatus, Journal, JournalError, LogConfig, LogJournal, Member, Replication, ShardId,
};
use futures_util::future::BoxFuture;

/// The end of a call.
pub(crate) type Called<T = ()> = BoxFuture<'static, Result<T, JournalError>>;

/// A replicated journal, open on one node.
pub(crate) trait Subject: Send + Sync {
    /// Its port.
    fn journal(&self) -> &dyn Journal;
    /// See [`LogJournal::initialize`].
    fn initialize(&self, shard: ShardId, voters: BTreeSet<Member>) -> Called;
    /// See [`LogJournal::group`].
    fn group(&self, shard: ShardId) -> GroupStatus;
    /// See [`LogJournal::change_members`].
    fn change_members(
        &self,
        shard: ShardId,
        voters: BTreeSet<Member>,
        learners: BTreeSet<Member>,
    ) -> Called;
    /// See [`LogJournal::transfer_leadership`].
    fn transfer_leadership(&self, shard: ShardId, to: Member) -> Called;
    /// See [`LogJournal::maintain`].
    fn maintain(&self) -> Called;
}

/// Opens the journal of a node.
pub(crate) type Open =
    Arc<dyn Fn(LogConfig, Env, Replication) -> Called<Arc<dyn Subject>> + Send + Sync>;

/// The real one.
pub(crate) fn real() -> Open {
    Arc::new(|config, env, replication| {
        Box::pin(async move {
            let journal = LogJournal::open_replicated(config, env, replication).await?;
            Ok(Arc::new(Real(journal)) as Arc<dyn Subject>)
        })
    })
}

struct Real(Arc<LogJournal>);

impl Subject for Real {
    fn journal(&self) -> &dyn Journal {
        &*self.0
    }

    fn initialize(&self, shard: ShardId, voters: BTreeSet<Member>) -> Called {
        let journal = self.0.clone();
        Box::pin(async move { journal.initialize(shard, voters).await })
    }

    fn group(&self, shard: ShardId) -> GroupStatus {
        self.0.group(shard)
    }

    fn change_members(
        &self,
        shard: ShardId,
        voters: BTreeSet<Member>,
        learners: BTreeSet<Member>,
    ) -> Called {
        let journal = self.0.clone();
        Box::pin(async move { journal.change_members(shard, voters, learners).await })
    }

    fn transfer_leadership(&self, shard: ShardId, to: Member) -> Called {
        let journal = self.0.clone();
        Box::pin(async move { journal.transfer_leadership(shard, to).await })
    }

    fn maintain(&self) -> Called {
        let journal = self.0.clone();
        Box::pin(async move { journal.maintain().await })
    }
}
