//! All entities of one kind on a node: finding them, and keeping few enough of them in memory.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use duractor_journal::{EntityId, Member, ShardId};
use futures_util::future::BoxFuture;

use tokio::sync::oneshot;

use crate::{
    command::Command,
    commands::{Raw, door},
    delivery::Away,
    entity::EventSourced,
    error::AskError,
    intent::{BoxEnvelope, Options, Step, Tell},
    look::wake,
    meta::is_reserved,
    route::Arrived,
    settings::Eviction,
    shadow::Shadowed,
    shared::AnyKind,
    slot::{Kind, Refused, Slot},
    step::{Decide, DoTogether, Part, Prepare, RawStep},
    stepping::Stepping,
};

impl<E: EventSourced> Kind<E> {
    /// Puts a command into its entity's mailbox.
    pub(crate) fn offer(
        self: &Arc<Self>,
        id: &EntityId,
        mut envelope: BoxEnvelope<E>,
    ) -> Result<(), Refused<E>> {
        loop {
            if let Err(error) = self.shared.check_open() {
                return Err(Refused { error, envelope });
            }
            match self.slot(id).push(envelope)? {
                None => return Ok(()),
                // The slot was just given up: its place in the directory is free, or soon will be.
                Some(again) => envelope = again,
            }
        }
    }

    /// Whether this node runs the shard's entities, or is about to.
    pub(crate) fn owns(&self, shard: ShardId) -> bool {
        self.shared.shard(shard).is_some_and(|shard| shard.hold.check().is_ok())
    }

    /// Who leads the shard, as far as this node's replica of it knows.
    pub(crate) fn believed(&self, shard: ShardId) -> Option<Member> {
        self.shared.shard(shard).and_then(|shard| shard.hold.believed())
    }

    fn slot(self: &Arc<Self>, id: &EntityId) -> Arc<Slot<E>> {
        // Cloned out of the directory at once: nobody locks a slot while holding a directory lock.
        if let Some(slot) = self.slots.get(id) {
            return slot.clone();
        }
        self.slots.entry(id.clone()).or_insert_with(|| Slot::new(id, self)).clone()
    }

    /// The slot, if the entity has one.
    pub(crate) fn find(&self, id: &EntityId) -> Option<Arc<Slot<E>>> {
        self.slots.get(id).map(|slot| slot.clone())
    }

    /// How many entities are in memory.
    pub(crate) fn active(&self) -> usize {
        self.active.load(Relaxed)
    }

    /// An incarnation is ready: it can be made to leave from now on.
    pub(crate) fn activated(&self, slot: &Arc<Slot<E>>, now: u64) {
        slot.usage.touch(now);
        self.idle().insert(now, slot.clone());
        if self.excess() > 0 {
            self.evict_one(now);
        }
    }

    /// Those of the slots that are wanted, in the order of their ids.
    fn all(&self, wanted: impl Fn(&Slot<E>) -> bool) -> Vec<Arc<Slot<E>>> {
        let wanted = self.slots.iter().filter(|slot| wanted(slot));
        let mut slots: Vec<_> = wanted.map(|slot| slot.clone()).collect();
        slots.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        slots
    }

    /// How many entities more than the limit are in memory.
    fn excess(&self) -> usize {
        let limit = self.settings().active_limit.unwrap_or(usize::MAX);
        self.active.load(Relaxed).saturating_sub(limit)
    }

    /// Asks one entity to leave, as there are too many.
    fn evict_one(&self, now: u64) {
        let leaver = match self.settings().eviction {
            Eviction::LeastRecentlyUsed => self.idle().longest(u64::MAX, now),
            Eviction::LeastFrequentlyUsed => self.idle().coldest(now),
        };
        if let Some(slot) = leaver {
            slot.ask_to_leave();
        }
    }

    /// Asks the entity that was idle longest, if it was since `limit`, to leave. False where there is
    /// none.
    fn evict(&self, limit: u64, now: u64) -> bool {
        let longest = self.idle().longest(limit, now);
        longest.inspect(|slot| slot.ask_to_leave()).is_some()
    }
}

/// Reads a step of a transaction that travelled as a command.
fn read_step(
    entity: &EntityId,
    command: &str,
    version: u16,
    payload: &[u8],
) -> Result<RawStep, AskError> {
    match command {
        Prepare::NAME => {
            let prepare = Prepare::decode(version, payload).map_err(AskError::Codec)?;
            let Prepare { tx, command, version, payload, patience_ms } = prepare;
            let part = Part { entity: entity.clone(), command, version, payload };
            Ok(RawStep::Prepare { part, tx, patience_ms })
        }
        Decide::NAME => {
            let decide = Decide::decode(version, payload).map_err(AskError::Codec)?;
            let Decide { tx, number, commit } = decide;
            Ok(RawStep::Decide { tx, number, commit })
        }
        _ => Err(AskError::UnknownCommand {
            kind: entity.kind().to_owned(),
            command: command.to_owned(),
        }),
    }
}

/// Reads the command of a part of a transaction. Its answer goes into the transaction's.
fn read_part<E: EventSourced>(part: Part, options: &Options) -> Result<BoxEnvelope<E>, AskError> {
    let Part { entity, command, version, payload } = part;
    let Some(door) = door::<E>(&command) else {
        return Err(AskError::UnknownCommand { kind: E::KIND.to_owned(), command });
    };
    let (tell, mut said) = oneshot::channel();
    let reply = Away::new(entity.clone(), move |answer| {
        // Read below, where the command does not decode; otherwise nobody asks.
        let _ = tell.send(answer);
    });
    door(Raw { version, payload, options: options.clone(), reply }).ok_or_else(|| {
        let said = said.try_recv().ok().and_then(Result::err);
        said.unwrap_or(AskError::Lost { entity })
    })
}

impl<E: EventSourced> AnyKind for Kind<E> {
    fn name(&self) -> &'static str {
        E::KIND
    }

    fn active(&self) -> usize {
        Kind::active(self)
    }

    fn arrived(self: Arc<Self>, arrived: Arrived) {
        let Arrived { entity, command, version, payload, options, reply } = arrived;
        if is_reserved(&command) {
            return match read_step(&entity, &command, version, &payload) {
                Ok(step) => self.step(entity, step, options, reply),
                Err(error) => reply.send(Err(error)),
            };
        }
        let Some(door) = door::<E>(&command) else {
            let kind = E::KIND.to_owned();
            return reply.send(Err(AskError::UnknownCommand { kind, command }));
        };
        let Some(envelope) = door(Raw { version, payload, options, reply }) else { return };
        if let Err(Refused { error, mut envelope }) = self.offer(&entity, envelope) {
            envelope.refuse(error);
            envelope.send();
        }
    }

    fn hottest(&self, shard: ShardId, now: u64, n: usize) -> Vec<(u64, EntityId)> {
        let heat = |slot: Arc<Slot<E>>| (slot.usage.heat(now), slot.id.clone());
        let mut found: Vec<_> =
            self.all(|slot| slot.shard == shard).into_iter().map(heat).collect();
        found.sort_by_key(|hot| std::cmp::Reverse(hot.0));
        found.truncate(n);
        found
    }

    fn make_ready(self: Arc<Self>, id: EntityId) -> BoxFuture<'static, ()> {
        // In no directory: the entity does not start by this.
        Slot::new(&id, &self).refresh()
    }

    fn wake(self: Arc<Self>, id: &EntityId, tell: Tell) {
        if let Err(Refused { error, mut envelope }) = self.offer(id, wake(tell)) {
            envelope.refuse(error);
            envelope.send();
        }
    }

    fn step(self: Arc<Self>, entity: EntityId, step: RawStep, options: Options, reply: Away) {
        let (name, step) = match step {
            RawStep::Decide { tx, number, commit } => {
                (Decide::NAME, Step::Decide { tx, number, commit })
            }
            RawStep::Consider { part, ready } => match read_part::<E>(part, &options) {
                Ok(command) => (DoTogether::NAME, Step::Consider { command, ready }),
                Err(error) => return reply.send(Err(error)),
            },
            RawStep::Prepare { part, tx, patience_ms } => match read_part::<E>(part, &options) {
                Ok(command) => (Prepare::NAME, Step::Prepare { tx, command, patience_ms }),
                Err(error) => return reply.send(Err(error)),
            },
        };
        let stepping = Stepping::boxed(step, name, options, Some(reply));
        if let Err(Refused { error, mut envelope }) = self.offer(&entity, stepping) {
            envelope.refuse(error);
            envelope.send();
        }
    }

    fn sweep(&self, now: u64) {
        self.shadows.sweep(now);
        // At least 1, so that an entity that is put back under `now` is not found again at once.
        let timeout = (self.settings().idle_timeout.as_millis() as u64).max(1);
        if let Some(limit) = now.checked_sub(timeout) {
            while self.evict(limit, now) {}
        }
        for _ in 0..self.excess() {
            self.evict_one(now);
        }
    }

    /// Makes every entity finish, or refuse what it has not begun, and leave memory.
    fn close_all(&self, refuse: bool) {
        for slot in self.all(|_| true) {
            slot.close(refuse);
        }
    }

    fn evict(&self, shard: ShardId, refuse: Option<&AskError>) {
        for slot in self.all(|slot| slot.shard == shard) {
            slot.evict(refuse);
        }
    }
}
