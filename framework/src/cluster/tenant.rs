//! What runs on top of a node's journal, as far as the cluster has to ask it before it changes a group
//! that is led here.

use std::{
    any::Any,
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use duractor_journal::{Member, ShardId};
use futures_util::future::BoxFuture;

/// The entities of a node.
pub(crate) trait Tenant: Send + Sync {
    /// A group is to get these voters, of whom `joining` do not vote yet and are replicas already: they
    /// must get what belongs to it and is not in its log. What is returned is kept until it is done.
    ///
    /// The error says why the change must wait.
    fn prepare(
        self: Arc<Self>,
        shard: ShardId,
        voters: BTreeSet<Member>,
        joining: BTreeSet<Member>,
    ) -> BoxFuture<'static, Result<Box<dyn Any + Send>, String>>;

    /// The group's leadership is to go to another node: what the shard runs here stops. Returns when
    /// it has.
    fn hand_over(self: Arc<Self>, shard: ShardId, to: Member) -> BoxFuture<'static, ()>;

    /// A hand-over is over. Where this node leads on, it runs the shard again.
    fn handed_over(&self, shard: ShardId);
}

/// Who is on top of the journal.
pub(super) struct Tenancy {
    inner: Mutex<Who>,
}

enum Who {
    /// Nobody yet, or nobody any more.
    Expected,
    /// A node's entities.
    Entities(Weak<dyn Tenant>),
    /// Nobody ever: the application uses the journal itself.
    Nobody,
}

/// The answer to who is there.
pub(super) enum Present {
    /// Ask it.
    Tenant(Arc<dyn Tenant>),
    /// Nobody needs to be asked.
    Nobody,
    /// Groups must not be changed now.
    NotNow,
}

impl Tenancy {
    pub(super) fn new() -> Self {
        Self { inner: Mutex::new(Who::Expected) }
    }

    fn lock(&self) -> MutexGuard<'_, Who> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self, tenant: Weak<dyn Tenant>) {
        *self.lock() = Who::Entities(tenant);
    }

    pub(super) fn nobody(&self) {
        *self.lock() = Who::Nobody;
    }

    pub(super) fn present(&self) -> Present {
        match &*self.lock() {
            Who::Expected => Present::NotNow,
            Who::Nobody => Present::Nobody,
            Who::Entities(tenant) => tenant.upgrade().map_or(Present::NotNow, Present::Tenant),
        }
    }
}
