//! What the cluster asks of a node's entities before it changes a group that this node leads.

use std::{
    any::Any,
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::Duration,
};

use duractor_journal::{Member, ShardId};
use futures_util::future::BoxFuture;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

use crate::{
    cluster::Tenant,
    route::MAX_READY,
    shared::{AnyKind, Shared, Told},
};

/// After a hand-over the journal says who leads within this time.
const SAID: Duration = Duration::from_millis(20);

/// For so long a hand-over waits until the next owner has read the entities that it will need first. This
/// node runs them meanwhile.
const READY: Duration = Duration::from_secs(1);

/// A node's entities, as the cluster sees them.
pub(crate) struct Entities {
    pub(crate) shared: Weak<Shared>,
    pub(crate) kinds: Weak<Vec<Arc<dyn AnyKind>>>,
}

impl Entities {
    /// The node, unless it is shutting down.
    fn shared(&self) -> Option<Arc<Shared>> {
        self.shared.upgrade().filter(|shared| shared.refusal().is_none())
    }

    /// Has the next owner read the entities that are used most, so that they start soon there.
    async fn make_ready(&self, shared: &Shared, shard: ShardId, to: Member) {
        let (Some(router), Some(kinds)) = (&shared.router, self.kinds.upgrade()) else { return };
        let now = Instant::now();
        let millis = shared.millis(now);
        let hottest = kinds.iter().map(|kind| kind.hottest(shard, millis, MAX_READY));
        let mut hottest: Vec<_> = hottest.flatten().collect();
        hottest.sort_by_key(|hot| std::cmp::Reverse(hot.0));
        let hottest: Vec<_> = hottest.into_iter().take(MAX_READY).map(|(_, id)| id).collect();
        if !hottest.is_empty() {
            router.ready(to, &hottest, now + READY).await;
        }
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
            self.make_ready(&shared, shard, to).await;
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
