//! The actors above the entities: one for each shard, and the node's above them.
//!
//! A shard's actor spawns the actors of its entities and hears when they end. The node's actor looks
//! for idle entities, and takes the node down when its journal has failed.

use std::{collections::HashMap, sync::Arc, time::Duration};

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};

use crate::{
    error::NodeError,
    gauges::publish,
    shared::{AnyKind, ShardMessage, Shared, Spawned, Startable},
    task::AbortOnDrop,
};

/// Spawns the actors of a shard's entities and restarts them.
struct ShardActor;

/// The entities by the actor that runs them. Looked up, never iterated.
type Children = HashMap<ActorId, (Arc<dyn Startable>, u32)>;

impl Actor for ShardActor {
    type Msg = ShardMessage;
    type State = Children;
    type Arguments = ();

    async fn pre_start(
        &self,
        _: ActorRef<ShardMessage>,
        (): (),
    ) -> Result<Children, ActorProcessingErr> {
        Ok(HashMap::new())
    }

    async fn handle(
        &self,
        myself: ActorRef<ShardMessage>,
        message: ShardMessage,
        children: &mut Children,
    ) -> Result<(), ActorProcessingErr> {
        let ShardMessage::Start(entity) = message;
        if let Some(Spawned { actor, generation }) = entity.clone().spawn(myself.get_cell()).await {
            children.insert(actor, (entity, generation));
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<ShardMessage>,
        event: SupervisionEvent,
        children: &mut Children,
    ) -> Result<(), ActorProcessingErr> {
        let (actor, failure) = match event {
            SupervisionEvent::ActorFailed(actor, error) => (actor, error.to_string()),
            SupervisionEvent::ActorTerminated(actor, _, reason) => {
                (actor, reason.unwrap_or_else(|| "it was stopped".to_owned()))
            }
            _ => return Ok(()),
        };
        if let Some((entity, generation)) = children.remove(&actor.get_id()) {
            entity.ended(generation, failure);
        }
        Ok(())
    }
}

/// What the node's actor is told.
pub(crate) enum RootMessage {
    /// Look for idle entities.
    Sweep,
    /// The journal has failed.
    Failed,
    /// Let this go on as long as the node's actor lives.
    Keep(AbortOnDrop),
}

// Local only: never sent to another node.
impl ractor::Message for RootMessage {}

/// The node's actor.
pub(crate) type Root = ActorRef<RootMessage>;

struct RootActor {
    shared: Arc<Shared>,
    kinds: Arc<Vec<Arc<dyn AnyKind>>>,
}

impl Actor for RootActor {
    type Msg = RootMessage;
    /// What goes on beside it, such as waiting for the node to fail.
    type State = Vec<AbortOnDrop>;
    type Arguments = Duration;

    async fn pre_start(
        &self,
        myself: Root,
        sweep: Duration,
    ) -> Result<Vec<AbortOnDrop>, ActorProcessingErr> {
        let shared = self.shared.clone();
        let watcher = myself.clone();
        let watching = tokio::spawn(async move {
            shared.failing.notified().await;
            // The actor is gone only where the node is down already.
            let _ = watcher.cast(RootMessage::Failed);
        });
        myself.send_interval(sweep, || RootMessage::Sweep);
        Ok(vec![AbortOnDrop::new(&watching)])
    }

    async fn handle(
        &self,
        _: Root,
        message: RootMessage,
        beside: &mut Vec<AbortOnDrop>,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RootMessage::Sweep => {
                let now = self.shared.millis(tokio::time::Instant::now());
                self.kinds.iter().for_each(|kind| kind.sweep(now));
                publish(&self.shared, self.kinds.iter().map(AsRef::as_ref));
            }
            RootMessage::Failed => self.kinds.iter().for_each(|kind| kind.close_all(true)),
            RootMessage::Keep(task) => beside.push(task),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: Root,
        event: SupervisionEvent,
        _: &mut Vec<AbortOnDrop>,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(_, error) = event {
            self.shared.fail(&format!("a shard's actor failed: {error}"));
        }
        Ok(())
    }
}

/// Starts the node's actor.
pub(crate) async fn start_root(
    shared: Arc<Shared>,
    kinds: Arc<Vec<Arc<dyn AnyKind>>>,
    sweep: Duration,
) -> Result<Root, NodeError> {
    let actor = RootActor { shared, kinds };
    let (root, _) = Actor::spawn(None, actor, sweep).await.map_err(actor_error)?;
    Ok(root)
}

/// Starts a shard's actor under the node's.
pub(crate) async fn start_shard(root: &Root) -> Result<ActorRef<ShardMessage>, NodeError> {
    let spawned = Actor::spawn_linked(None, ShardActor, (), root.get_cell()).await;
    Ok(spawned.map_err(actor_error)?.0)
}

pub(crate) fn actor_error(error: impl std::fmt::Display) -> NodeError {
    NodeError::Actor { reason: error.to_string() }
}
