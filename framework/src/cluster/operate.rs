//! What operators do with a running cluster: draining nodes, moving shards, trying that out first.

use std::{
    sync::{Weak, atomic::Ordering},
    time::Duration,
};

use duractor_journal::{NodeId, ShardId};
use tokio::time::Instant;

use super::{
    checks::DrainStatus,
    error::{ClusterError, Refusal},
    execute::hand_over_all,
    forecast::{Forecast, WhatIf},
    handle::Cluster,
    properties::{Affinity, DrainMode},
    wire::{Operation, Reply, Request},
};
use crate::load::Load;

/// A pause between two looks at how far it is.
const AGAIN: Duration = Duration::from_millis(100);

/// Draining nodes, for maintenance or for good.
impl Cluster {
    /// Takes a node's leaderships away, or everything that it keeps, and returns when that is done. It
    /// gets nothing back until it is [resumed](Self::resume), whoever restarts meanwhile. To be asked of
    /// any node.
    ///
    /// Leaderships go to other voters that have all data, one at a time from a node and to a node.
    /// Replicas go as in every other move, a few shards at a time. While a node is drained of leaderships,
    /// nothing is moved for balance: it is in maintenance, and comes back.
    ///
    /// [`DrainStatus::safe_to_stop`] says whether the node may be stopped now.
    ///
    /// # Errors
    /// [`Refusal::WouldBreakQuorum`]: with this node and all others that are drained or down, the shards
    /// named would have no quorum. [`Refusal::NobodyTakesOver`], [`Refusal::UnknownNode`]. Nothing was
    /// done then. After [`ClusterError::TimedOut`] the draining goes on: call it again to wait on, or
    /// [`resume`](Self::resume) to take it back.
    pub async fn drain(
        &self,
        node: NodeId,
        mode: DrainMode,
        reason: &str,
    ) -> Result<DrainStatus, ClusterError> {
        let until = Instant::now() + self.operation_time();
        self.operate("draining a node", Operation::Drain { node, mode }, reason).await?;
        loop {
            let status = self.draining(node).await?;
            match status {
                Some(status) if status.done => return Ok(status),
                Some(status) if Instant::now() < until => drop(status),
                Some(status) => {
                    let (what, last) = ("draining a node", status.why);
                    let after_ms = self.operation_time().as_millis() as u64;
                    return Err(ClusterError::TimedOut { what, after_ms, last });
                }
                None => {
                    let reason = format!("node {node} was resumed meanwhile");
                    return Err(Refusal::NotNow { reason }.into());
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// How far the draining of a node is, as the leader of shard 0 sees it; `None` where it is not
    /// drained.
    ///
    /// # Errors
    /// [`Refusal::UnknownNode`]; [`ClusterError::TimedOut`] where nobody leads shard 0.
    pub async fn draining(&self, node: NodeId) -> Result<Option<DrainStatus>, ClusterError> {
        let what = "asking about a node that is drained";
        match self.ask_leader(what, Request::Draining { node }).await? {
            Reply::Draining { status } => Ok(status),
            _ => Err(not_understood()),
        }
    }

    /// Uses a node again that was drained: it gets its leaderships and replicas back.
    ///
    /// # Errors
    /// [`Refusal::UnknownNode`]: nothing was done.
    pub async fn resume(&self, node: NodeId, reason: &str) -> Result<(), ClusterError> {
        self.operate("resuming a node", Operation::Resume { node }, reason).await
    }

    /// Hands every leadership of this node to others, as before it stops, and returns when that is done
    /// or `within` is over. Nobody gives it any from now on, until it is started again. Shutting a
    /// [`Node`](crate::Node) down does this first, unless `cluster.hand_over_ms` is 0.
    pub async fn step_down(&self, within: Duration) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        hand_over_all(&self.shared, within).await;
    }

    /// As configured, when the node on top shuts down.
    pub(crate) async fn step_down_as_configured(&self) {
        let within = Duration::from_millis(self.shared.config.cluster.hand_over_ms);
        if !within.is_zero() {
            self.step_down(within).await;
        }
    }
}

/// Moving shards.
impl Cluster {
    /// What would be moved as things are, and why: a dry run. It prints itself.
    ///
    /// # Errors
    /// [`ClusterError::TimedOut`] where nobody leads shard 0.
    pub async fn plan(&self) -> Result<Forecast, ClusterError> {
        self.plan_if(WhatIf::Nothing).await
    }

    /// What would be moved after a change that is not made.
    ///
    /// # Errors
    /// As [`plan`](Self::plan); [`Refusal::UnknownNode`].
    pub async fn plan_if(&self, what_if: WhatIf) -> Result<Forecast, ClusterError> {
        match self.ask_leader("planning", Request::Forecast { what_if }).await? {
            Reply::Forecast { forecast } => Ok(forecast),
            _ => Err(not_understood()),
        }
    }

    /// Moves nothing for balance until [`rebalance_resume`](Self::rebalance_resume), whoever restarts
    /// meanwhile. What is under way is finished. What an operator asked for by name goes on: draining,
    /// leaving, removing, and replacing a lost disk.
    ///
    /// # Errors
    /// [`ClusterError::TimedOut`]: it may have taken effect; may be repeated.
    pub async fn rebalance_pause(&self, reason: &str) -> Result<(), ClusterError> {
        self.operate("pausing", Operation::Pause, reason).await
    }

    /// As [`rebalance_pause`](Self::rebalance_pause), and calls off what is under way: replicas that are
    /// being caught up are dropped again. A change of voters that has begun is finished.
    ///
    /// # Errors
    /// As [`rebalance_pause`](Self::rebalance_pause).
    pub async fn rebalance_cancel(&self, reason: &str) -> Result<(), ClusterError> {
        self.operate("cancelling", Operation::Cancel, reason).await
    }

    /// Moves again what is out of balance.
    ///
    /// # Errors
    /// As [`rebalance_pause`](Self::rebalance_pause).
    pub async fn rebalance_resume(&self, reason: &str) -> Result<(), ClusterError> {
        self.operate("resuming", Operation::Unpause, reason).await
    }

    /// Says where a shard had better be; `None` takes it back. Where not enough nodes fit, others get the
    /// rest.
    ///
    /// # Errors
    /// [`Refusal::UnknownShard`]: nothing was done.
    pub async fn bind_shard(
        &self,
        shard: ShardId,
        affinity: Option<Affinity>,
        reason: &str,
    ) -> Result<(), ClusterError> {
        self.operate("binding a shard", Operation::Bind { shard, affinity }, reason).await
    }

    /// Says who had better lead a shard, among those that keep it; `None` takes it back. Without it, a
    /// leadership that was [handed over](Self::hand_over) goes back for balance.
    ///
    /// # Errors
    /// [`Refusal::UnknownShard`], [`Refusal::UnknownNode`]: nothing was done.
    pub async fn prefer_leader(
        &self,
        shard: ShardId,
        node: Option<NodeId>,
        reason: &str,
    ) -> Result<(), ClusterError> {
        self.operate("preferring a leader", Operation::PreferLeader { shard, node }, reason).await
    }

    /// Whether only nodes of the newest version (`node.version`) among those that keep a shard lead it, as
    /// far as they can: for upgrades. Off unless set.
    ///
    /// # Errors
    /// As [`rebalance_pause`](Self::rebalance_pause).
    pub async fn prefer_newest(&self, on: bool, reason: &str) -> Result<(), ClusterError> {
        self.operate("preferring a version", Operation::PreferNewest { on }, reason).await
    }

    /// Whether shards are placed in turn, shard after shard to node after node, whatever the nodes are: for
    /// tests that want to know where a shard is. Nearly everything moves when it changes, or when a node
    /// comes or goes. Off unless set.
    ///
    /// # Errors
    /// As [`rebalance_pause`](Self::rebalance_pause).
    pub async fn place_in_turn(&self, on: bool, reason: &str) -> Result<(), ClusterError> {
        self.operate("choosing the placement", Operation::Modulo { on }, reason).await
    }

    async fn operate(
        &self,
        what: &'static str,
        operation: Operation,
        reason: &str,
    ) -> Result<(), ClusterError> {
        let reason = reason.to_owned();
        self.ask_leader(what, Request::Operate { operation, reason }).await.map(drop)
    }

    fn operation_time(&self) -> Duration {
        Duration::from_millis(self.shared.config.timing.operation_timeout_ms)
    }

    /// What is asked of this node's entities is counted there.
    pub(crate) fn measure(&self, load: Weak<Load>) {
        // A node on this cluster is set up once.
        let _ = self.shared.load.set(load);
    }
}

fn not_understood() -> ClusterError {
    Refusal::NotNow { reason: "the answer is not understood".into() }.into()
}
