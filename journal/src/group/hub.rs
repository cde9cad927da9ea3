//! What a node's replicas tell, and who listens: which replicas run, who owns the shards, what
//! changed.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use futures_util::stream;
use tokio::sync::{Notify, mpsc};

use super::{
    replica::Replica,
    status::{GroupStatus, Role},
};
use crate::{
    id::{ShardId, Term},
    port::{Ownership, Ownerships},
    transport::Member,
};

/// What of a group's status is worth telling.
type Seen = (Role, Option<Member>, Term, usize, u64);

struct Slot {
    replica: Option<Arc<Replica>>,
    ownership: Ownership,
    seen: Option<(Seen, GroupStatus)>,
}

#[derive(Default)]
struct State {
    slots: Vec<Slot>,
    owners: Vec<mpsc::UnboundedSender<(ShardId, Ownership)>>,
    watchers: Vec<mpsc::UnboundedSender<ShardId>>,
}

/// One node's.
pub(crate) struct Hub {
    state: Mutex<State>,
    closing: AtomicBool,
    /// Woken when a replica starts or stops, or an ownership changes.
    pub(crate) moved: Notify,
}

impl Hub {
    pub(crate) fn new(shards: u16) -> Arc<Self> {
        let slot =
            |_| Slot { replica: None, ownership: Ownership::Other { leader: None }, seen: None };
        let state = State { slots: (0..shards).map(slot).collect(), ..State::default() };
        Arc::new(Self {
            state: Mutex::new(state),
            closing: AtomicBool::new(false),
            moved: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on replicas that end are not started anew.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// The replica of a shard, if it runs here.
    pub(crate) fn replica(&self, shard: ShardId) -> Option<Arc<Replica>> {
        self.lock().slots.get(usize::from(shard.0))?.replica.clone()
    }

    pub(crate) fn started(&self, shard: ShardId, replica: Arc<Replica>) {
        if let Some(slot) = self.lock().slots.get_mut(usize::from(shard.0)) {
            slot.replica = Some(replica);
        }
        self.moved.notify_waiters();
    }

    pub(crate) fn stopped(&self, shard: ShardId) {
        self.owned(shard, Ownership::Other { leader: None });
        let replica = match self.lock().slots.get_mut(usize::from(shard.0)) {
            Some(slot) => slot.replica.take(),
            None => None,
        };
        drop(replica);
        self.moved.notify_waiters();
    }

    /// Who owns a shard.
    pub(crate) fn ownership(&self, shard: ShardId) -> Ownership {
        let state = self.lock();
        state
            .slots
            .get(usize::from(shard.0))
            .map_or(Ownership::Other { leader: None }, |slot| slot.ownership)
    }

    pub(crate) fn owned(&self, shard: ShardId, ownership: Ownership) {
        let mut state = self.lock();
        let Some(slot) = state.slots.get_mut(usize::from(shard.0)) else { return };
        if slot.ownership == ownership {
            return;
        }
        slot.ownership = ownership;
        tracing::debug!(%shard, ?ownership, "ownership changed");
        state.owners.retain(|owner| owner.send((shard, ownership)).is_ok());
        drop(state);
        self.moved.notify_waiters();
    }

    /// Tells watchers, where something changed that they care for.
    pub(crate) fn changed(&self, shard: ShardId, status: &GroupStatus) {
        let members = status.voters.iter().chain(&status.learners);
        let sum = members.fold(0, |sum: u64, m| sum.rotate_left(5) ^ m.to_u64());
        let seen = (status.role, status.leader, status.term, status.voters.len(), sum);
        let mut state = self.lock();
        let Some(slot) = state.slots.get_mut(usize::from(shard.0)) else { return };
        if slot.seen.as_ref().is_some_and(|(before, _)| *before == seen) {
            return;
        }
        slot.seen = Some((seen, status.clone()));
        state.watchers.retain(|watcher| watcher.send(shard).is_ok());
    }

    pub(crate) fn ownerships(&self) -> Ownerships {
        let (tx, rx) = mpsc::unbounded_channel();
        let mut state = self.lock();
        for (n, slot) in state.slots.iter().enumerate() {
            let _ = tx.send((ShardId(n as u16), slot.ownership));
        }
        state.owners.push(tx);
        Box::pin(stream::unfold(rx, |mut rx| async move { Some((rx.recv().await?, rx)) }))
    }

    pub(crate) fn changes(&self) -> futures_util::stream::BoxStream<'static, ShardId> {
        let (tx, rx) = mpsc::unbounded_channel();
        let mut state = self.lock();
        for n in 0..state.slots.len() {
            let _ = tx.send(ShardId(n as u16));
        }
        state.watchers.push(tx);
        Box::pin(stream::unfold(rx, |mut rx| async move { Some((rx.recv().await?, rx)) }))
    }
}
