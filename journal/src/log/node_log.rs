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
pub(crate) struct NodeLog {}

#[allow(unused_variables, dead_code)]
impl NodeLog {
    pub(crate) async fn open(
        config: LogConfig,
        env: Env,
    ) -> Result<(Arc<NodeLog>, mpsc::UnboundedReceiver<PurgeWish>), JournalError> {
        unimplemented!()
    }
    pub(crate) fn shards(&self) -> u16 {
        unimplemented!()
    }
    pub(crate) fn config(&self) -> &LogConfig {
        unimplemented!()
    }
    pub(crate) fn env(&self) -> &Env {
        unimplemented!()
    }
    pub(crate) fn group(self: &Arc<Self>, shard: ShardId) -> GroupLog {
        unimplemented!()
    }
    pub(crate) fn is_fresh(&self) -> bool {
        unimplemented!()
    }
    pub(crate) fn check_open(&self) -> Result<(), JournalError> {
        unimplemented!()
    }
    pub(crate) async fn stopped(&self) -> JournalError {
        unimplemented!()
    }
    pub(crate) async fn shutdown(&self) {
        unimplemented!()
    }
    pub(crate) async fn maintain(&self) -> Result<(), JournalError> {
        unimplemented!()
    }
    pub(crate) async fn verify(&self) -> Result<u64, JournalError> {
        unimplemented!()
    }
    pub(crate) fn usage(&self) -> LogUsage {
        unimplemented!()
    }
    pub(crate) fn replay(&self, entity: &EntityId, range: ReplayRange) -> RecordChunks {
        unimplemented!()
    }
    pub(crate) async fn head(&self, entity: &EntityId) -> Result<Head, JournalError> {
        unimplemented!()
    }
    pub(crate) fn tail(&self, shard: ShardId, after: Position) -> RecordChunks {
        unimplemented!()
    }
}
