//! How entities of a kind behave: snapshots, limits, timeouts.

use std::time::Duration;

/// How the entities of one kind behave. Start from the default and change what you need:
///
/// ```
/// use duractor::EntitySettings;
/// let settings = EntitySettings::default().snapshot_every(100).keep_snapshots(2);
/// assert_eq!(settings.snapshot_every, Some(100));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EntitySettings {
    /// A snapshot every so many events; `None`: only where
    /// [`EventSourced::wants_snapshot`](crate::EventSourced::wants_snapshot) says so. None unless
    /// set.
    pub snapshot_every: Option<u64>,
    /// How many snapshots of an entity stay. 2 unless set.
    pub keep_snapshots: usize,
    /// Whether events up to the oldest kept snapshot are deleted, once that snapshot is durable. Off
    /// unless set. Deleted events cannot be replayed by anybody, also where every snapshot is
    /// damaged: the entity is then quarantined.
    pub delete_events: bool,
    /// Version of the state's schema, written into snapshots. Raise it when the state's type
    /// changes: older snapshots then go to
    /// [`EventSourced::upgrade_state`](crate::EventSourced::upgrade_state). 1 unless set.
    pub state_version: u16,
    /// An entity without commands for so long leaves memory; it recovers on the next command. 2
    /// minutes unless set.
    pub idle_timeout: Duration,
    /// How many entities of the kind stay in memory: beyond it, the one that was idle longest leaves.
    /// No limit unless set. The limit is soft: busy entities are never thrown out.
    pub active_limit: Option<usize>,
    /// Which entity leaves memory where there are more than [`active_limit`](Self::active_limit). The one
    /// that was idle longest unless set.
    pub eviction: Eviction,
    /// Commands that wait for one entity or are under way in it; beyond it,
    /// [`AskError::Busy`](crate::AskError::Busy). 1024 unless set.
    pub mailbox: usize,
    /// Commands that one entity may stash. 256 unless set.
    pub stash: usize,
    /// Timers that one entity may have at once. 64 unless set.
    pub timers: usize,
    /// Batches of one entity that wait for their commit; commands beyond wait in the mailbox. 256
    /// unless set.
    pub max_in_flight: usize,
    /// Bytes of events of one entity that wait for their commit. 1 MiB unless set; one batch is
    /// always let through.
    pub max_in_flight_bytes: usize,
    /// For how many of an entity's newest commands with a request id a repeat is recognised. 1000
    /// unless set; 0: none.
    pub dedup_count: usize,
    /// For how long a repeat is recognised. 24 hours unless set.
    pub dedup_age: Duration,
    /// Deliveries of one entity that are not done; a command that would add more is refused with
    /// [`AskError::LimitReached`](crate::AskError::LimitReached). 1000 unless set.
    pub outbox: usize,
    /// Of how many entities one entity remembers which of their deliveries it carried out. Beyond it,
    /// those that were quiet for [`dedup_age`](Self::dedup_age) (12 hours at least) are forgotten; where
    /// there are none, deliveries of others wait. 10 000 unless set.
    pub senders: usize,
    /// Reminders that one entity may have at once. 64 unless set.
    pub reminders: usize,
    /// How often a delivery, or a reminder's command, may be refused before it is given up. Refusals
    /// are what trying again is unlikely to help: an unknown command, a handler that fails. 20 unless
    /// set, which is some minutes.
    pub delivery_attempts: u32,
    /// Whether entities that are in memory come back by themselves after a restart, or on another node
    /// after a move. They stay in memory then until an effect says
    /// [`passivate`](crate::Effect::passivate): neither the idle timeout nor the active limit makes them
    /// leave. Starting one costs a write, unless it was started before. Off unless set.
    pub remember: bool,
    /// How long [`ask`](crate::EntityRef::ask) waits. 5 seconds unless set.
    pub ask_timeout: Duration,
    /// The first delay before an entity that failed starts again; it doubles with every failure in a
    /// row. 100 ms unless set.
    pub restart_min: Duration,
    /// The longest such delay. 10 seconds unless set.
    pub restart_max: Duration,
}

/// Which entity leaves memory where there are too many: see [`EntitySettings::eviction`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Eviction {
    /// The one that was idle longest.
    #[default]
    LeastRecentlyUsed,
    /// Of the 8 that were idle longest the one that was used least, with uses of 8 s ago counting half
    /// (ageing). For loads in which many entities are used once beside few that are used again and
    /// again.
    LeastFrequentlyUsed,
}

impl Default for EntitySettings {
    fn default() -> Self {
        Self {
            snapshot_every: None,
            keep_snapshots: 2,
            delete_events: false,
            state_version: 1,
            idle_timeout: Duration::from_secs(120),
            active_limit: None,
            eviction: Eviction::LeastRecentlyUsed,
            mailbox: 1024,
            stash: 256,
            timers: 64,
            max_in_flight: 256,
            max_in_flight_bytes: 1 << 20,
            dedup_count: 1000,
            dedup_age: Duration::from_secs(24 * 60 * 60),
            outbox: 1000,
            senders: 10_000,
            reminders: 64,
            delivery_attempts: 20,
            remember: false,
            ask_timeout: Duration::from_secs(5),
            restart_min: Duration::from_millis(100),
            restart_max: Duration::from_secs(10),
        }
    }
}

/// One method for each field: see there.
#[allow(missing_docs, reason = "each sets the field of its name, which is documented")]
impl EntitySettings {
    #[must_use]
    pub fn snapshot_every(self, events: u64) -> Self {
        Self { snapshot_every: Some(events.max(1)), ..self }
    }

    #[must_use]
    pub fn keep_snapshots(self, keep_snapshots: usize) -> Self {
        Self { keep_snapshots: keep_snapshots.max(1), ..self }
    }

    #[must_use]
    pub fn delete_events(self, delete_events: bool) -> Self {
        Self { delete_events, ..self }
    }

    #[must_use]
    pub fn state_version(self, state_version: u16) -> Self {
        Self { state_version, ..self }
    }

    #[must_use]
    pub fn idle_timeout(self, idle_timeout: Duration) -> Self {
        Self { idle_timeout, ..self }
    }

    #[must_use]
    pub fn active_limit(self, entities: usize) -> Self {
        Self { active_limit: Some(entities), ..self }
    }

    #[must_use]
    pub fn eviction(self, eviction: Eviction) -> Self {
        Self { eviction, ..self }
    }

    #[must_use]
    pub fn mailbox(self, mailbox: usize) -> Self {
        Self { mailbox: mailbox.max(1), ..self }
    }

    #[must_use]
    pub fn stash(self, stash: usize) -> Self {
        Self { stash, ..self }
    }

    #[must_use]
    pub fn timers(self, timers: usize) -> Self {
        Self { timers, ..self }
    }

    #[must_use]
    pub fn max_in_flight(self, batches: usize) -> Self {
        Self { max_in_flight: batches.max(1), ..self }
    }

    #[must_use]
    pub fn max_in_flight_bytes(self, max_in_flight_bytes: usize) -> Self {
        Self { max_in_flight_bytes, ..self }
    }

    #[must_use]
    pub fn dedup_count(self, dedup_count: usize) -> Self {
        Self { dedup_count, ..self }
    }

    #[must_use]
    pub fn dedup_age(self, dedup_age: Duration) -> Self {
        Self { dedup_age, ..self }
    }

    #[must_use]
    pub fn outbox(self, deliveries: usize) -> Self {
        Self { outbox: deliveries, ..self }
    }

    #[must_use]
    pub fn senders(self, senders: usize) -> Self {
        Self { senders: senders.max(1), ..self }
    }

    #[must_use]
    pub fn reminders(self, reminders: usize) -> Self {
        Self { reminders, ..self }
    }

    #[must_use]
    pub fn delivery_attempts(self, attempts: u32) -> Self {
        Self { delivery_attempts: attempts.max(1), ..self }
    }

    #[must_use]
    pub fn remember(self, remember: bool) -> Self {
        Self { remember, ..self }
    }

    #[must_use]
    pub fn ask_timeout(self, ask_timeout: Duration) -> Self {
        Self { ask_timeout, ..self }
    }

    #[must_use]
    pub fn restart_backoff(self, restart_min: Duration, restart_max: Duration) -> Self {
        Self { restart_min, restart_max: restart_max.max(restart_min), ..self }
    }
}
