//! What the cluster asks of a node's entities before it changes a group that this node leads.

use std::{
    any::Any,
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::Duration,
};

use duractor_journal::{Member, ShardId};
use futures_util::future::BoxFuture;
use tokio::{sync::oneshot, time::sleep};

use crate::{
    cluster::Tenant,
    shared::{Shared, Told},
};

/// After a hand-over the journal says who leads within this time.
const SAID: Duration = Duration::from_millis(20);

/// A node's entities, as the cluster sees them.
pub(crate) struct Entities(pub(crate) Weak<Shared>);

impl Entities {
    /// The node, unless it is shutting down.
    fn shared(&self) -> Option<Arc<Shared>> {
        self.0.upgrade().filter(|shared| shared.refusal().is_none())
    }
}

impl Tenant for Entities {
    fn prepare(
        self: Arc<Self>,
        shard: ShardId,
        voters: BTreeSet<Member>,
        joining: BTreeSet<Member>,
    ) -> BoxFuture<'static, Result<Box<dyn Any + Send>, String>> {
        Box::pin(async move {
            let replicas = self.shared().and_then(|shared| shared.replicas.clone());
            let Some(replicas) = replicas else {
                return Err("the node is shutting down".to_owned());
            };
            let prepared = replicas.prepare(shard, &voters, &joining).await?;
            Ok(Box::new(prepared) as Box<dyn Any + Send>)
        })
    }

    fn hand_over(self: Arc<Self>, shard: ShardId, to: Member) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let Some(shared) = self.shared() else { return };
            let (done, stopped) = oneshot::channel();
            shared.tell_follower(Told::HandOver { shard, to, done });
            // A node that is down runs nothing.
            let _ = stopped.await;
        })
    }

    fn handed_over(&self, shard: ShardId) {
        let Some(shared) = self.shared() else { return };
        tokio::spawn(async move {
            sleep(SAID).await;
            shared.tell_follower(Told::HandedOver { shard });
        });
    }
}
