//! Looking at a state: that of the running entity, or of one that was just recovered beside it.

use std::{sync::Arc, time::Duration};

use duractor::{
    AskError, EntityId, EntityRef, Env, EventSourced, Node, Seq,
    testing::{inspect, quiet, register_shared},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::timeout;

use super::{
    stores::{Stores, View},
    tree::{Tree, difference},
};

/// How long the kit waits for an entity to show its state: longer than any sensible restart delay.
const PATIENCE: Duration = Duration::from_secs(600);

/// Whether two states are equal, where the user's type can say so.
pub(super) type Same<S> = fn(&S, &S) -> bool;

/// A state as it was seen.
pub(super) struct Seen {
    pub(super) revision: Seq,
    pub(super) tree: Result<Tree, String>,
    /// As snapshots hold it.
    pub(super) bytes: Result<Vec<u8>, String>,
    /// Whether it survives that.
    pub(super) codec: Result<(), String>,
}

/// Looks at entities of one id.
pub(super) struct Observer<E: EventSourced> {
    pub(super) entity: Arc<E>,
    pub(super) id: EntityId,
    pub(super) stores: Arc<Stores>,
    pub(super) env: Env,
    pub(super) same: Option<Same<E::State>>,
}

impl<E: EventSourced> Observer<E> {
    /// The state of a running entity.
    pub(super) async fn look(&self, entity: &EntityRef<E>) -> Result<Seen, AskError> {
        let same = self.same;
        let seen = inspect(entity, move |state: &E::State, revision| see(state, revision, same));
        let late = |_| Err(AskError::Timeout { entity: self.id.clone() });
        timeout(PATIENCE, seen).await.unwrap_or_else(late)
    }

    /// The state that a node beside the one under test recovers, with or without the snapshots.
    pub(super) async fn recover(&self, snapshots: bool) -> Result<Seen, String> {
        let view = || Arc::new(View { stores: self.stores.clone(), snapshots });
        let builder =
            quiet(Node::builder("")).env(self.env.clone()).journal(view()).snapshots(view());
        let started = register_shared(builder, self.entity.clone()).start().await;
        let node = started.map_err(|error| error.to_string())?;
        let entity = node.entity::<E>(self.id.key()).map_err(|error| error.to_string())?;
        let seen = self.look(&entity).await.map_err(|error| error.to_string());
        node.kill().await;
        seen
    }
}

fn see<S: Serialize + DeserializeOwned>(state: &S, revision: Seq, same: Option<Same<S>>) -> Seen {
    let tree = Tree::of(state);
    let bytes = postcard::to_stdvec(state).map_err(|error| error.to_string());
    let codec = survives(state, tree.as_ref(), bytes.as_deref(), same);
    Seen { revision, tree, bytes, codec }
}

fn survives<S: Serialize + DeserializeOwned>(
    state: &S,
    tree: Result<&Tree, &String>,
    bytes: Result<&[u8], &String>,
    same: Option<Same<S>>,
) -> Result<(), String> {
    let (tree, bytes) = (tree.map_err(Clone::clone)?, bytes.map_err(Clone::clone)?);
    let decoded: S = decode_state(bytes)?;
    if let Some(where_) = difference(["before", "after"], tree, &Tree::of(&decoded)?) {
        return Err(where_);
    }
    match same {
        Some(same) if !same(state, &decoded) => {
            Err("its copy is not equal to it (`==`), though what is encoded of both is".to_owned())
        }
        _ => Ok(()),
    }
}

/// A state from what snapshots hold of it.
pub(super) fn decode_state<S: DeserializeOwned>(bytes: &[u8]) -> Result<S, String> {
    match postcard::take_from_bytes(bytes) {
        Ok((state, [])) => Ok(state),
        Ok((_, rest)) => Err(format!("{} of its {} bytes are left over", rest.len(), bytes.len())),
        Err(error) => Err(format!("it does not decode: {error}")),
    }
}
