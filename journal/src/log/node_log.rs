//! The node's log: one for all groups of the node.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{group_log::GroupLog, journal::LogUsage, options::LogConfig};
use crate::{
    env::Env,
    error::JournalError,
    id::{EntityId, Position, ShardId},
    port::{Head, RecordChunks, ReplayRange},
};

/// Entries of a group stand in the way of sealing: release them up to here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PurgeWish {
    pub shard: ShardId,
    pub upto: u64,
}

/// The log of a node.
pub(crate) struct NodeLog {
    config: LogConfig,
    env: Env,
    groups: Vec<GroupLog>,
    _tx: mpsc::UnboundedSender<PurgeWish>,
}

#[allow(unused_variables, dead_code, clippy::all)]
impl NodeLog {
    pub(crate) async fn open(
        config: LogConfig,
        env: Env,
    ) -> Result<(Arc<NodeLog>, mpsc::UnboundedReceiver<PurgeWish>), JournalError> {
        let (_tx, rx) = mpsc::unbounded_channel();
        let groups = (0..config.shards)
            .map(|n| GroupLog { shard: ShardId(n), mem: Default::default(), env: env.clone() })
            .collect();
        Ok((Arc::new(Self { config, env, groups, _tx }), rx))
    }
    pub(crate) fn shards(&self) -> u16 {
        self.config.shards
    }
    pub(crate) fn config(&self) -> &LogConfig {
        &self.config
    }
    pub(crate) fn env(&self) -> &Env {
        &self.env
    }
    pub(crate) fn group(self: &Arc<Self>, shard: ShardId) -> GroupLog {
        self.groups[shard.0 as usize].clone()
    }
    pub(crate) fn is_fresh(&self) -> bool {
        true
    }
    pub(crate) fn check_open(&self) -> Result<(), JournalError> {
        Ok(())
    }
    pub(crate) async fn stopped(&self) -> JournalError {
        std::future::pending().await
    }
    pub(crate) async fn shutdown(&self) {}
    pub(crate) async fn maintain(&self) -> Result<(), JournalError> {
        Ok(())
    }
    pub(crate) async fn verify(&self) -> Result<u64, JournalError> {
        Ok(0)
    }
    pub(crate) fn usage(&self) -> LogUsage {
        unimplemented!()
    }
    pub(crate) fn replay(&self, entity: &EntityId, range: ReplayRange) -> RecordChunks {
        let g = &self.groups[entity.shard(self.shards()).0 as usize];
        let v: Vec<_> =
            g.mem.lock().unwrap().records.iter().filter(|r| r.entity == *entity).cloned().collect();
        Box::pin(futures_util::stream::iter(if v.is_empty() { None } else { Some(Ok(v)) }))
    }
    pub(crate) async fn head(&self, entity: &EntityId) -> Result<Head, JournalError> {
        self.groups[entity.shard(self.shards()).0 as usize].head_of(entity)
    }
    pub(crate) fn tail(&self, shard: ShardId, after: Position) -> RecordChunks {
        unimplemented!()
    }
    pub(crate) fn close(&self) {}
}
