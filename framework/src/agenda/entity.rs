//! The agenda of a shard, as an entity of that shard: who is to be woken, and when.

use std::collections::BTreeMap;

use duractor_journal::{EntityId, InvalidId, Seq, ShardId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    Command, Event,
    context::Context,
    effect::{Effect, Handle, Persist},
    entity::EventSourced,
    settings::EntitySettings,
};

/// The kind of these entities.
const KIND: &str = "duractor.agenda";
/// A snapshot every so many events at least; more entries make them rarer.
const SNAPSHOT_EVERY: u64 = 1024;
/// Commands that wait for an agenda: it serves all entities of its shard.
const MAILBOX: usize = 1 << 16;

/// The agenda of a shard, where there are `shards`.
pub(crate) fn agenda_of(shard: ShardId, shards: u16) -> Result<EntityId, InvalidId> {
    let mut n = 0_u64;
    loop {
        let id = EntityId::new(KIND, &format!("{}-{n}", shard.0))?;
        if id.shard(shards) == shard {
            return Ok(id);
        }
        n += 1;
    }
}

pub(crate) struct Agenda;

/// What is known of one entity. Stored: its fields stay in this order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// When it is to be woken.
    pub(crate) due: Option<Timestamp>,
    /// It is to be started by whoever takes the shard.
    pub(crate) remembered: bool,
}

pub(crate) type Entries = BTreeMap<EntityId, Entry>;

#[derive(Debug, Clone, PartialEq, Eq, Event)]
pub(crate) enum Noted {
    #[event(name = "entered")]
    Entered { entity: EntityId, due: Option<Timestamp>, remembered: bool },
    #[event(name = "left")]
    Left { entity: EntityId },
}

/// See that the entity is woken then, or earlier.
#[derive(Debug, Clone, Command)]
#[command(name = "enter", reply = ())]
pub(crate) struct Enter {
    pub(crate) entity: EntityId,
    pub(crate) due: Option<Timestamp>,
    pub(crate) remember: bool,
}

/// The entity need not be woken before that, or not at all.
#[derive(Debug, Clone, Command)]
#[command(name = "leave", reply = ())]
pub(crate) struct Leave {
    pub(crate) entity: EntityId,
    pub(crate) due: Option<Timestamp>,
    pub(crate) forget: bool,
}

impl EventSourced for Agenda {
    const KIND: &'static str = KIND;
    type State = Entries;
    type Event = Noted;
    type Commands = (Enter, Leave);

    fn apply(entries: &mut Entries, event: &Noted) {
        match event {
            Noted::Entered { entity, due, remembered } => {
                entries.insert(entity.clone(), Entry { due: *due, remembered: *remembered });
            }
            Noted::Left { entity } => {
                entries.remove(entity);
            }
        }
    }

    fn settings(&self) -> EntitySettings {
        EntitySettings::default().mailbox(MAILBOX).dedup_count(0)
    }

    fn wants_snapshot(&self, entries: &Entries, _: &Noted, revision: Seq) -> bool {
        let every = SNAPSHOT_EVERY.max((entries.len() as u64).next_power_of_two());
        revision.0.is_multiple_of(every)
    }
}

/// Writes only what changes something.
fn set(entries: &Entries, entity: EntityId, entry: Entry) -> Effect<Agenda, ()> {
    let known = entries.get(&entity).copied().unwrap_or_default();
    if known == entry {
        return Effect::reply(());
    }
    let Entry { due, remembered } = entry;
    if entry == Entry::default() {
        return Agenda::persist(Noted::Left { entity }).no_reply();
    }
    Agenda::persist(Noted::Entered { entity, due, remembered }).no_reply()
}

impl Handle<Enter> for Agenda {
    fn handle(&self, entries: &Entries, enter: Enter, _: &Context) -> Effect<Self, ()> {
        let Enter { entity, due, remember } = enter;
        let known = entries.get(&entity).copied().unwrap_or_default();
        let due = [known.due, due].into_iter().flatten().min();
        set(entries, entity, Entry { due, remembered: known.remembered || remember })
    }
}

impl Handle<Leave> for Agenda {
    fn handle(&self, entries: &Entries, leave: Leave, _: &Context) -> Effect<Self, ()> {
        let Leave { entity, due, forget } = leave;
        let known = entries.get(&entity).copied().unwrap_or_default();
        set(entries, entity, Entry { due, remembered: known.remembered && !forget })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

    #[test]
    fn each_shard_has_its_own() {
        for shards in [1, 12, 256] {
            for shard in (0..shards).map(ShardId) {
                assert_eq!(agenda_of(shard, shards).unwrap().shard(shards), shard);
            }
        }
        // Golden: it is where clusters have their agendas.
        assert_eq!(agenda_of(ShardId(3), 12).unwrap().to_string(), AGENDA_3_OF_12);
    }

    const AGENDA_3_OF_12: &str = "duractor.agenda/3-1";

    #[test]
    fn events_keep_their_bytes() {
        let entity = || EntityId::new("k", "1").unwrap();
        let due = Some(Timestamp(300));
        golden::<Noted>(&[
            (
                &[Noted::Entered { entity: entity(), due, remembered: true }],
                "entered",
                1,
                "01ac02016b013101",
            ),
            (&[Noted::Left { entity: entity() }], "left", 1, "016b0131"),
        ]);
    }
}
