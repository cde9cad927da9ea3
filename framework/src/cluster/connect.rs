//! How a node gets its links and its journal: the two things that a simulation brings itself.

use std::sync::Arc;

use duractor_journal::{
    Env, JournalError, LogConfig, LogJournal, Member, Replication, ShardId, Transport,
    transport::NoPeers,
};
use futures_util::future::BoxFuture;

use super::{error::ClusterError, groups::Groups};

/// Makes the transport of a node. Asked with another incarnation when the node has got one: the
/// former transport is closed then.
pub trait Connect: Send + Sync + 'static {
    /// Links under this name. The incarnation is [`u32::MAX`] while the node has none yet.
    fn connect(&self, me: Member) -> BoxFuture<'_, Result<Arc<dyn Transport>, ClusterError>>;

    /// Closes what [`connect`](Self::connect) gave last. Returns when its address is free again.
    fn disconnect(&self) -> BoxFuture<'_, ()>;

    /// The address that the links got, where the configured one left it open.
    fn address(&self) -> Option<String> {
        None
    }
}

/// Opens a node's journal over its transport.
pub trait OpenGroups: Send + Sync + 'static {
    /// As [`LogJournal::open_replicated`].
    fn open(
        &self,
        config: LogConfig,
        env: Env,
        replication: Replication,
    ) -> BoxFuture<'static, Result<Arc<dyn Groups>, JournalError>>;

    /// As [`LogJournal::force_single_voter`].
    fn force_single_voter(
        &self,
        config: LogConfig,
        env: Env,
        me: Member,
    ) -> BoxFuture<'static, Result<Vec<ShardId>, JournalError>>;
}

/// The journal in files.
pub struct OpenLog;

impl OpenGroups for OpenLog {
    fn open(
        &self,
        config: LogConfig,
        env: Env,
        replication: Replication,
    ) -> BoxFuture<'static, Result<Arc<dyn Groups>, JournalError>> {
        Box::pin(async move {
            let journal = LogJournal::open_replicated(config, env, replication).await?;
            Ok(journal as Arc<dyn Groups>)
        })
    }

    fn force_single_voter(
        &self,
        config: LogConfig,
        env: Env,
        me: Member,
    ) -> BoxFuture<'static, Result<Vec<ShardId>, JournalError>> {
        Box::pin(LogJournal::force_single_voter(config, env, me))
    }
}

/// No links: for a cluster of one node.
pub struct Alone;

impl Connect for Alone {
    fn connect(&self, me: Member) -> BoxFuture<'_, Result<Arc<dyn Transport>, ClusterError>> {
        Box::pin(async move { Ok(Arc::new(NoPeers(me)) as Arc<dyn Transport>) })
    }

    fn disconnect(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}
