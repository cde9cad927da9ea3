//! What was asked of entities, and whether what they answered fits their journals.

use std::{
    any::Any,
    collections::BTreeMap,
    fmt::Write,
    marker::PhantomData,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use duractor::{
    AskError, CodecError, Command, EntityRef, Event, EventSourced, Handle, Node, RequestId,
    testing::{self, Decided},
};
use duractor_journal::{EntityId, EventRecord, NewEvent, Seq, Timestamp};
use futures_util::future::BoxFuture;

use super::{
    notes::hex,
    sweep::{Misfit, Told, sweep},
};

/// How many events of a journal are printed.
const SHOWN: usize = 16;

/// What came of a command, as far as its caller knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Settled {
    /// It was answered: when, and with what.
    Replied { at: u64, reply: Bytes },
    /// It may have taken effect.
    Unknown,
    /// It took no effect.
    Nothing,
}

/// All entities that were asked, by kind and key.
#[derive(Default)]
pub(super) struct Subjects {
    all: Mutex<BTreeMap<String, Known>>,
}

/// An entity as something to check, and by its type.
type Known = (Arc<dyn Subject>, Arc<dyn Any + Send + Sync>);

impl Subjects {
    pub(super) fn of<E: EventSourced>(&self, key: &str) -> Result<Arc<Of<E>>, AskError> {
        let id = EntityId::new(E::KIND, key).map_err(AskError::InvalidId)?;
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let of = all.entry(id.to_string()).or_insert_with(|| {
            let of = Arc::new(Of::<E> { id: id.clone(), commands: Mutex::default() });
            (of.clone(), of)
        });
        // Two kinds of one name cannot be on one node.
        of.1.clone().downcast().map_err(|_| AskError::UnknownCommand {
            kind: E::KIND.to_owned(),
            command: "of two types of this kind".to_owned(),
        })
    }

    pub(super) fn all(&self) -> Vec<Arc<dyn Subject>> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().map(|(subject, _)| subject.clone()).collect()
    }
}

/// An entity that was asked.
pub(super) trait Subject: Send + Sync {
    fn id(&self) -> &EntityId;

    /// The entity's journal, as a node has it once it has everything.
    fn journal<'a>(&'a self, node: &'a Node) -> BoxFuture<'a, Result<Vec<EventRecord>, AskError>>;

    /// The entity's state in memory, encoded: at whichever node runs it.
    fn state<'a>(&'a self, node: &'a Node) -> BoxFuture<'a, Result<Bytes, AskError>>;

    /// Checks what callers heard against the journal. How many commands were checked.
    fn check(&self, node: &Node, journal: &[EventRecord], state: &[u8]) -> Result<u64, String>;
}

type Judge<E> = dyn Fn(&E, &<E as EventSourced>::State, About<'_>) -> Result<Decided<E>, CodecError>
    + Send
    + Sync;

/// What a handler knows beside state and command: revision, time, request id.
type About<'a> = (Seq, Timestamp, &'a RequestId);

/// One entity of a kind, and what it was asked.
pub(super) struct Of<E: EventSourced> {
    id: EntityId,
    commands: Mutex<Vec<Asked<E>>>,
}

struct Asked<E: EventSourced> {
    name: &'static str,
    request: RequestId,
    began: u64,
    settled: Settled,
    /// What the handler makes of it on a state.
    judge: Arc<Judge<E>>,
}

impl<E: EventSourced> Of<E> {
    pub(super) fn id(&self) -> &EntityId {
        &self.id
    }

    fn commands(&self) -> MutexGuard<'_, Vec<Asked<E>>> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A command is about to be sent: its number among those of this entity, and its request id.
    pub(super) fn begin<C: Command>(&self, began: u64, payload: Bytes) -> (u64, RequestId)
    where
        E: Handle<C>,
    {
        let id = self.id.clone();
        let judge = move |entity: &E, state: &E::State, (revision, now, request): About<'_>| {
            let context = testing::context(id.clone(), revision, now, Some(request.clone()));
            testing::decide(entity, state, C::decode(C::VERSION, &payload)?, &context)
        };
        let mut commands = self.commands();
        let number = commands.len() as u64;
        // Digits and a dash: always allowed.
        let request = RequestId::new(&format!("sim-{number}")).expect("a request id");
        commands.push(Asked {
            name: C::NAME,
            request: request.clone(),
            began,
            settled: Settled::Unknown,
            judge: Arc::new(judge),
        });
        (number, request)
    }

    pub(super) fn end(&self, number: u64, settled: Settled) {
        self.commands()[number as usize].settled = settled;
    }
}

impl<E: EventSourced> Subject for Of<E> {
    fn id(&self) -> &EntityId {
        &self.id
    }

    fn journal<'a>(&'a self, node: &'a Node) -> BoxFuture<'a, Result<Vec<EventRecord>, AskError>> {
        Box::pin(async move { testing::records(&self.entity(node)?).await })
    }

    fn state<'a>(&'a self, node: &'a Node) -> BoxFuture<'a, Result<Bytes, AskError>> {
        Box::pin(async move { testing::state_bytes(&self.entity(node)?).await })
    }

    fn check(&self, node: &Node, journal: &[EventRecord], state: &[u8]) -> Result<u64, String> {
        let entity = self.entity(node).map_err(|error| error.to_string())?;
        let entity = testing::shared(&entity);
        let book = Book::<E>::read(journal).map_err(|error| format!("S: {error}"))?;
        let checked = book.check(&entity, &self.commands(), state);
        checked.map_err(|Wrong { letter, what, at }| {
            let (id, journal) = (&self.id, print(&self.id, journal, at));
            format!("{letter}: {id}: {what}\n{journal}")
        })
    }
}

impl<E: EventSourced> Of<E> {
    fn entity(&self, node: &Node) -> Result<EntityRef<E>, AskError> {
        node.entity::<E>(self.id.key()).map_err(|_| AskError::ShuttingDown)
    }
}

/// What is wrong with an entity: which invariant, what, and around which event of its journal.
struct Wrong {
    letter: &'static str,
    what: String,
    at: Option<usize>,
}

impl Wrong {
    fn at(at: usize, letter: &'static str, what: String) -> Self {
        Self { letter, what, at: Some(at) }
    }
}

/// An entity's journal, and the states that it makes.
struct Book<'a, E: EventSourced> {
    journal: &'a [EventRecord],
    /// The encoded state after so many records, from the entity's own `apply`.
    states: Vec<Bytes>,
    _kind: PhantomData<fn() -> E>,
}

impl<'a, E: EventSourced> Book<'a, E> {
    fn read(journal: &'a [EventRecord]) -> Result<Self, CodecError> {
        let mut state = E::State::default();
        let mut states = vec![testing::encode_state::<E>(&state)?];
        for record in journal {
            for event in events_of::<E>(record)? {
                E::apply(&mut state, &event);
            }
            states.push(testing::encode_state::<E>(&state)?);
        }
        Ok(Self { journal, states, _kind: PhantomData })
    }

    fn check(&self, entity: &E, commands: &[Asked<E>], state: &[u8]) -> Result<u64, Wrong> {
        if self.states.last().is_some_and(|last| last != state) {
            let what = "the state in memory is not what the journal makes".into();
            return Err(Wrong { letter: "C", what, at: None });
        }
        let told = commands.iter().map(|command| self.find(entity, command));
        let told = told.collect::<Result<Vec<_>, _>>()?;
        let fits = |n: usize, place| {
            let Settled::Replied { reply, .. } = &commands[n].settled else { return false };
            let decided = self.decide(entity, &commands[n], place, None);
            decided.is_ok_and(|it| it.events.is_empty() && it.reply.as_ref() == Some(reply))
        };
        match sweep(&told, self.journal.len(), fits) {
            Ok(()) => Ok(told.iter().filter(|told| told.ended.is_some()).count() as u64),
            Err(misfit) => Err(self.tell(commands, &told, entity, misfit)),
        }
    }

    /// Where a command is in the journal, if it is there; it must be there as its handler decides.
    fn find(&self, entity: &E, command: &Asked<E>) -> Result<Told, Wrong> {
        let text = || format!("{} {}", command.name, command.request.as_str());
        let has = |record: &EventRecord| {
            record.request.as_ref().is_some_and(|request| request.id == command.request)
        };
        let mut found = (0..self.journal.len()).filter(|at| has(&self.journal[*at]));
        let (first, second) = (found.next(), found.next());
        let Asked { began, settled, .. } = command;
        let ended = match settled {
            Settled::Replied { at, .. } => Some(*at),
            Settled::Unknown | Settled::Nothing => None,
        };
        let Some(last) = first else { return Ok(Told { began: *began, ended, written: None }) };
        if second.is_some() {
            return Err(Wrong::at(last, "A", format!("{}, is in the journal twice", text())));
        }
        if *settled == Settled::Nothing {
            let what = format!("{}, was refused without effect, and is in the journal", text());
            return Err(Wrong::at(last, "A", what));
        }
        let told = self.journal[last].request.as_ref().map(|request| &request.reply);
        if matches!(settled, Settled::Replied { reply, .. } if Some(reply) != told) {
            let what = format!("{}, was answered otherwise than the journal says", text());
            return Err(Wrong::at(last, "L", what));
        }
        // Where its batch begins is not written down: where the handler decides what is there.
        let alone = |at: &usize| *at == last || self.journal[*at].request.is_none();
        let mut starts = (0..=last).rev().take_while(alone);
        match starts.find(|from| self.explains(entity, command, *from, last)) {
            Some(from) => Ok(Told { began: *began, ended, written: Some((from, last + 1)) }),
            None => {
                let what = format!("{}, wrote what its handler does not decide", text());
                Err(Wrong::at(last, "L", what))
            }
        }
    }

    /// Whether the handler decides these records on the state before them.
    fn explains(&self, entity: &E, command: &Asked<E>, from: usize, last: usize) -> bool {
        let written = self.journal[from..=last].iter().filter(|record| !testing::is_kept(record));
        let written: Vec<_> = written.map(|record| &record.event).collect();
        let now = self.journal[last].timestamp;
        let Ok(decided) = self.decide(entity, command, from, Some(now)) else { return false };
        let same = |(event, stored): (&E::Event, &&NewEvent)| {
            let schema = event.schema();
            let named = (schema.name, schema.version) == (&*stored.name, stored.schema_version);
            named && event.encode().is_ok_and(|payload| payload == stored.payload)
        };
        decided.events.len() == written.len() && decided.events.iter().zip(&written).all(same)
    }

    /// What the handler decides after so many records.
    fn decide(
        &self,
        entity: &E,
        command: &Asked<E>,
        after: usize,
        now: Option<Timestamp>,
    ) -> Result<Decided<E>, CodecError> {
        let state = testing::decode_state::<E>(&self.states[after])?;
        let before = after.checked_sub(1).map(|last| &self.journal[last]);
        let now = now.or(before.map(|record| record.timestamp)).unwrap_or_default();
        let revision = before.map_or(Seq::ZERO, |record| record.seq);
        (command.judge)(entity, &state, (revision, now, &command.request))
    }

    fn tell(&self, commands: &[Asked<E>], told: &[Told], entity: &E, misfit: Misfit) -> Wrong {
        let text = |n: usize| format!("{} {}", commands[n].name, commands[n].request.as_str());
        match misfit {
            Misfit::Order { earlier, later } => {
                let at = told[later].written.map_or(0, |(from, _)| from);
                let (earlier, later) = (text(earlier), text(later));
                let what = format!("{later}, began when {earlier} was answered, and is before it");
                Wrong::at(at, "L", what)
            }
            Misfit::Answer { command, from, to } => {
                let decided = self.decide(entity, &commands[command], to, None);
                let why = match decided {
                    Ok(decided) if !decided.events.is_empty() => {
                        "it was acknowledged, and what it should have written is not there"
                    }
                    _ => "its answer fits no state that the entity had meanwhile",
                };
                let when = format!("between event {from} and event {to}");
                Wrong::at(to, "A/L", format!("{}, {when}: {why}", text(command)))
            }
        }
    }
}

fn events_of<E: EventSourced>(record: &EventRecord) -> Result<Vec<E::Event>, CodecError> {
    if testing::is_kept(record) {
        return Ok(Vec::new());
    }
    let NewEvent { name, schema_version, payload, .. } = &record.event;
    E::Event::decode(name, *schema_version, payload)
}

/// A journal for a person to read: as much of it as is worth printing, around an event.
fn print(id: &EntityId, journal: &[EventRecord], around: Option<usize>) -> String {
    let (from, to) = match around {
        Some(at) => (at.saturating_sub(SHOWN / 2), (at + SHOWN / 2).min(journal.len())),
        None => (journal.len().saturating_sub(SHOWN), journal.len()),
    };
    let mut text = format!("events {from} to {to} of {} of {id}:", journal.len());
    for EventRecord { seq, timestamp, epoch, request, event, .. } in &journal[from..to] {
        let request = request.as_ref().map(|request| format!(", {}", request.id.as_str()));
        let (name, at, request) = (&event.name, timestamp.0, request.unwrap_or_default());
        let payload = hex(&event.payload);
        let _ = write!(text, "\n  {seq} {name} {payload} at {at}, {epoch}{request}");
    }
    text
}
