//! The actor of a replica: it owns the engine and the tasks around it.

use std::{sync::Arc, time::Duration};

use openraft::{ServerState, async_runtime::watch::WatchReceiver};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::{sync::mpsc, task::AbortHandle, time::Instant};

use super::{
    inbound, members,
    propose::Gate,
    replica::{Parts, Replica},
    standing,
    status::Role,
};
use crate::{port::Ownership, transport::Member};

/// For so long a change of voters may be half-way before the leader finishes it by itself.
const HALF_WAY: Duration = Duration::from_secs(1);

/// What goes on around the engine.
impl Replica {
    async fn stand_when_unbound(self: Arc<Self>) {
        tokio::time::sleep_until(self.bound_until).await;
        self.raft.runtime_config().elect(true);
    }

    /// Follows the engine: opens and closes the gate for writes, and tells who owns the shard.
    async fn watch(self: Arc<Self>) {
        let mut changes = self.raft.server_metrics();
        let tick = Duration::from_millis(self.timing.heartbeat_ms);
        let mut half_way = None;
        loop {
            let ownership = self.ownership();
            self.proposals.set_gate(match ownership {
                Ownership::Mine { .. } => Gate::Open,
                Ownership::Other { leader } => Gate::Closed { leader },
            });
            self.hub.owned(self.shard, ownership);
            let leading = self.raft.server_metrics().borrow_watched().state == ServerState::Leader;
            let waiting_to_serve = leading && !matches!(ownership, Ownership::Mine { .. });
            if self.proposals.wants_all() {
                self.tell_all();
            }
            if leading {
                self.leave_to_a_voter().await;
                self.finish_change(&mut half_way);
            }
            let delay = match ownership {
                // What must stop with the lease stops when it ends, not some time later.
                Ownership::Mine { .. } => {
                    let metrics = self.raft.metrics();
                    self.lease_left(&metrics.borrow_watched()).min(tick)
                }
                Ownership::Other { .. } if waiting_to_serve => tick / 25,
                Ownership::Other { .. } => tick,
            };
            let changed = tokio::select! {
                biased;
                changed = changes.changed() => changed.is_ok(),
                () = tokio::time::sleep(delay) => true,
            };
            if !changed || self.raft.metrics().borrow_watched().running_state.is_err() {
                return;
            }
            self.hub.changed(self.shard, &self.status());
        }
    }

    /// A change of voters that its leader did not live to finish is finished by the next one: until then
    /// the group needs a quorum of those who were to go.
    fn finish_change(self: &Arc<Self>, half_way: &mut Option<Instant>) {
        if !self.status().changing {
            *half_way = None;
            return;
        }
        let since = *half_way.get_or_insert_with(Instant::now);
        if since.elapsed() < HALF_WAY {
            // Whoever began it may be at it.
            return;
        }
        *half_way = None;
        let replica = self.clone();
        tokio::spawn(async move {
            if let Err(error) = members::finish(&replica).await {
                tracing::debug!(shard = %replica.shard, %error, "a change of voters is not finished");
            }
        });
    }

    /// A leader that has no vote any more hands over: it would lead on without being able to change
    /// the group's members.
    async fn leave_to_a_voter(&self) {
        let status = self.status();
        if status.role != Role::Leader || status.voters.contains(&self.me()) {
            return;
        }
        let at = |voter: &&Member| (status.replicated.get(voter).copied().flatten(), **voter);
        if let Some(next) = status.voters.iter().max_by_key(at) {
            // An error means that the engine has stopped.
            let _ = self.raft.trigger().transfer_leader(next.to_u64()).await;
        }
    }

    /// Answers those who wait for all voters.
    fn tell_all(&self) {
        let status = self.status();
        let others = status.voters.iter().filter(|voter| **voter != self.me());
        let matched = others.map(|voter| status.replicated.get(voter).copied().flatten());
        // Nobody else: the leader's own disk is all.
        match matched.min() {
            None => self.proposals.on_all(u64::MAX),
            Some(Some(index)) => self.proposals.on_all(index),
            Some(None) => {}
        }
    }
}

/// What a replica's actor is told.
pub(crate) enum ReplicaMessage {
    /// The engine has stopped.
    Stopped,
}

// Local only: never sent to another node.
impl ractor::Message for ReplicaMessage {}

/// The actor: it fails when the engine does, and its supervisor starts it anew.
pub(crate) struct ReplicaActor;

/// What ends with the actor.
pub(crate) struct Running {
    replica: Arc<Replica>,
    tasks: Vec<AbortHandle>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        self.replica.proposals.set_gate(Gate::Closed { leader: None });
        self.replica.hub.stopped(self.replica.shard);
    }
}

impl Actor for ReplicaActor {
    type Msg = ReplicaMessage;
    type State = Running;
    type Arguments = Parts;

    async fn pre_start(
        &self,
        myself: ActorRef<ReplicaMessage>,
        parts: Parts,
    ) -> Result<Running, ActorProcessingErr> {
        let replica = Replica::new(parts).await?;
        let (inbox, requests) = mpsc::unbounded_channel();
        replica.peers.serve(replica.shard, inbox);
        let watching = replica.clone();
        let watch = tokio::spawn(async move {
            watching.watch().await;
            // The actor may be gone already.
            let _ = myself.cast(ReplicaMessage::Stopped);
        });
        let tasks = vec![
            watch.abort_handle(),
            tokio::spawn(replica.clone().stand_when_unbound()).abort_handle(),
            tokio::spawn(standing::watch(replica.clone())).abort_handle(),
            tokio::spawn(inbound::serve(replica.clone(), requests)).abort_handle(),
            tokio::spawn(replica.proposals.clone().run(replica.raft.clone())).abort_handle(),
        ];
        replica.hub.started(replica.shard, replica.clone());
        Ok(Running { replica, tasks })
    }

    async fn handle(
        &self,
        _: ActorRef<ReplicaMessage>,
        ReplicaMessage::Stopped: ReplicaMessage,
        running: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        let metrics = running.replica.raft.metrics();
        let state = metrics.borrow_watched().running_state.clone();
        Err(match state {
            Err(error) => error.into(),
            Ok(()) => "the engine has stopped".into(),
        })
    }

    async fn post_stop(
        &self,
        _: ActorRef<ReplicaMessage>,
        running: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        // It may have stopped already.
        let _ = running.replica.raft.shutdown().await;
        Ok(())
    }
}
