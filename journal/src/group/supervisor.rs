//! The actor above a node's replicas: starts them, and starts them anew when their engine failed.

use std::{collections::HashMap, sync::Arc, time::Duration};

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};

use super::{
    actor::ReplicaActor, hub::Hub, peers::Peers, propose::Proposals, replica::Parts, status::Timing,
};
use crate::{error::JournalError, id::ShardId, log::node_log::NodeLog};

/// How long a replica rests before it is started anew: so long at first, and twice as long each
/// time, up to the second.
const RESTART: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// What the supervisor is told.
pub(crate) enum SupervisorMessage {
    /// Start the replica of this shard, unless it runs.
    Start(ShardId),
}

// Local only: never sent to another node.
impl ractor::Message for SupervisorMessage {}

/// What all replicas of a node are made from.
pub(crate) struct Common {
    pub(crate) log: Arc<NodeLog>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) proposals: Vec<Arc<Proposals>>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) timing: Timing,
}

/// See the module's page.
pub(crate) struct Supervisor;

/// Which replicas run.
pub(crate) struct State {
    common: Arc<Common>,
    /// Looked up, never iterated.
    running: HashMap<ActorId, ShardId>,
    /// By shard: whether it runs or is about to be started, and how often it failed.
    shards: Vec<(bool, u32)>,
}

impl State {
    async fn start(&mut self, myself: &ActorRef<SupervisorMessage>, shard: ShardId) {
        let n = usize::from(shard.0);
        let (Some((running, failures)), Some(proposals)) =
            (self.shards.get_mut(n), self.common.proposals.get(n))
        else {
            return;
        };
        if *running || self.common.hub.is_closing() || self.common.log.check_open().is_err() {
            return;
        }
        let parts = Parts {
            log: self.common.log.group(shard),
            peers: self.common.peers.clone(),
            proposals: proposals.clone(),
            hub: self.common.hub.clone(),
            timing: self.common.timing,
        };
        match Actor::spawn_linked(None, ReplicaActor, parts, myself.get_cell()).await {
            Ok((replica, _)) => {
                *running = true;
                self.running.insert(replica.get_id(), shard);
            }
            Err(error) => {
                *failures += 1;
                tracing::error!(%shard, %error, "a replica could not be started");
                self.later(myself, shard);
            }
        }
    }

    fn later(&self, myself: &ActorRef<SupervisorMessage>, shard: ShardId) {
        let failures = self.shards.get(usize::from(shard.0)).map_or(0, |(_, failures)| *failures);
        let delay = RESTART.0 * 2u32.pow(failures.min(7));
        myself.send_after(delay.min(RESTART.1), move || SupervisorMessage::Start(shard));
    }
}

impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = State;
    type Arguments = Arc<Common>;

    async fn pre_start(
        &self,
        _: ActorRef<SupervisorMessage>,
        common: Arc<Common>,
    ) -> Result<State, ActorProcessingErr> {
        let shards = vec![(false, 0); common.proposals.len()];
        Ok(State { common, running: HashMap::new(), shards })
    }

    async fn handle(
        &self,
        myself: ActorRef<SupervisorMessage>,
        SupervisorMessage::Start(shard): SupervisorMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.start(&myself, shard).await;
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<SupervisorMessage>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (actor, why) = match event {
            SupervisionEvent::ActorFailed(actor, error) => (actor.get_id(), error.to_string()),
            SupervisionEvent::ActorTerminated(actor, _, reason) => {
                (actor.get_id(), reason.unwrap_or_else(|| "it was stopped".into()))
            }
            _ => return Ok(()),
        };
        let Some(shard) = state.running.remove(&actor) else { return Ok(()) };
        if let Some((running, failures)) = state.shards.get_mut(usize::from(shard.0)) {
            *running = false;
            *failures += 1;
        }
        match state.common.log.check_open() {
            _ if state.common.hub.is_closing() => {}
            Ok(()) => {
                tracing::error!(%shard, why, "a replica failed and is started anew");
                state.later(&myself, shard);
            }
            Err(JournalError::Closed) => {}
            Err(error) => tracing::error!(%shard, %error, "a replica ended with the log"),
        }
        Ok(())
    }
}
