//! Shadows: states of entities that this node does not run, read from its own replica.
//!
//! A shadow is an incarnation that only looks: it handles no commands but those that change nothing, and
//! follows the log when it is asked. Two need them: reads that may be stale
//! ([`Ask::stale`](crate::Ask::stale)), and a node that is about to be given a shard, which makes its
//! hottest entities ready before they are needed. When an entity starts for good it takes its shadow over
//! and has only the newest events to read.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use duractor_journal::{EntityId, Seq};
use futures_util::future::BoxFuture;

use crate::{core::Core, entity::EventSourced, intent::BoxEnvelope};

/// Shadows of one kind that are kept at once; beyond it the one that was used longest ago goes.
const MAX: usize = 1024;
/// A shadow that nobody looks at is kept for so long, in milliseconds.
const KEEP_MS: u64 = 10_000;

/// A shadow, in turns for those that look at it. None while nothing was read.
pub(crate) type Shadow<E> = Arc<tokio::sync::Mutex<Option<Box<Core<E>>>>>;

/// What can be done with an entity's shadow.
pub(crate) trait Shadowed<E: EventSourced> {
    /// Brings it up to what this node's replica has.
    fn refresh(self: Arc<Self>) -> BoxFuture<'static, ()>;

    /// Lets a command look at it as it is then, and answers the command. Returns what it saw.
    fn look(self: Arc<Self>, envelope: BoxEnvelope<E>) -> BoxFuture<'static, Seq>;
}

/// The shadows of one kind.
pub(crate) struct Shadows<E: EventSourced> {
    entries: Mutex<BTreeMap<EntityId, Entry<E>>>,
}

struct Entry<E: EventSourced> {
    shadow: Shadow<E>,
    used: u64,
}

impl<E: EventSourced> Shadows<E> {
    pub(crate) fn new() -> Self {
        Self { entries: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<EntityId, Entry<E>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An entity's shadow, a new one where there is none. `now` is in milliseconds.
    pub(crate) fn get(&self, id: &EntityId, now: u64) -> Shadow<E> {
        let mut entries = self.lock();
        if let Some(entry) = entries.get_mut(id) {
            entry.used = now;
            return entry.shadow.clone();
        }
        if entries.len() >= MAX
            && let Some(oldest) = entries.iter().min_by_key(|(_, entry)| entry.used)
        {
            let oldest = oldest.0.clone();
            entries.remove(&oldest);
        }
        let shadow = Shadow::<E>::default();
        entries.insert(id.clone(), Entry { shadow: shadow.clone(), used: now });
        shadow
    }

    /// Takes a shadow's state, unless somebody looks at it.
    pub(crate) fn take(&self, id: &EntityId) -> Option<Box<Core<E>>> {
        let Entry { shadow, .. } = self.lock().remove(id)?;
        shadow.try_lock().ok()?.take()
    }

    /// Forgets those that were not used for long.
    pub(crate) fn sweep(&self, now: u64) {
        self.lock().retain(|_, entry| entry.used + KEEP_MS > now);
    }
}
