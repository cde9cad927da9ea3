//! What the cluster asks of a replicated journal, beside the port: its groups.
//!
//! [`LogJournal`] is the one in production; tests bring another.

use std::collections::BTreeSet;

use duractor_journal::{GroupStatus, Journal, JournalError, LogJournal, Member, ShardId};
use futures_util::{future::BoxFuture, stream::BoxStream};

/// A journal that consists of groups. The methods are those of [`LogJournal`].
pub trait Groups: Journal {
    /// See [`LogJournal::initialize`].
    fn initialize(
        &self,
        shard: ShardId,
        voters: BTreeSet<Member>,
    ) -> BoxFuture<'_, Result<(), JournalError>>;

    /// See [`LogJournal::group`].
    fn group(&self, shard: ShardId) -> GroupStatus;

    /// See [`LogJournal::group_changes`].
    fn group_changes(&self) -> BoxStream<'static, ShardId>;

    /// See [`LogJournal::change_members`].
    fn change_members(
        &self,
        shard: ShardId,
        voters: BTreeSet<Member>,
        learners: BTreeSet<Member>,
    ) -> BoxFuture<'_, Result<(), JournalError>>;

    /// See [`LogJournal::transfer_leadership`].
    fn transfer_leadership(
        &self,
        shard: ShardId,
        to: Member,
    ) -> BoxFuture<'_, Result<(), JournalError>>;

    /// See [`LogJournal::delay_ms`]. 0 where nothing is measured.
    fn delay_ms(&self) -> u64 {
        0
    }
}

impl Groups for LogJournal {
    fn initialize(
        &self,
        shard: ShardId,
        voters: BTreeSet<Member>,
    ) -> BoxFuture<'_, Result<(), JournalError>> {
        Box::pin(LogJournal::initialize(self, shard, voters))
    }

    fn group(&self, shard: ShardId) -> GroupStatus {
        LogJournal::group(self, shard)
    }

    fn group_changes(&self) -> BoxStream<'static, ShardId> {
        LogJournal::group_changes(self)
    }

    fn change_members(
        &self,
        shard: ShardId,
        voters: BTreeSet<Member>,
        learners: BTreeSet<Member>,
    ) -> BoxFuture<'_, Result<(), JournalError>> {
        Box::pin(LogJournal::change_members(self, shard, voters, learners))
    }

    fn transfer_leadership(
        &self,
        shard: ShardId,
        to: Member,
    ) -> BoxFuture<'_, Result<(), JournalError>> {
        Box::pin(LogJournal::transfer_leadership(self, shard, to))
    }

    fn delay_ms(&self) -> u64 {
        LogJournal::delay_ms(self)
    }
}
