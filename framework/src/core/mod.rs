//! An entity's decisions, without actors, clocks or journals: a command goes in, what to do comes
//! out, and the lifecycle does it.
//!
//! The state is *speculative*: it includes events that are submitted and not yet committed. So the
//! next command is handled at once, and every answer waits in the [`Pipeline`] until the events that
//! it may depend on are committed.

pub(crate) mod image;
pub(crate) mod pipeline;
#[cfg(test)]
pub(crate) mod tests;
mod transact;
pub(crate) mod window;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::Bytes;
use duractor_journal::{EntityId, JournalError, Limits, NewEvent, Request, Seq, Timestamp};

pub(crate) use self::transact::{Offer, Undecided};
use self::{
    pipeline::{Held, Pipeline, Released, What},
    transact::Considering,
    window::{Answered, Window},
};
use crate::{
    context::Context,
    entity::EventSourced,
    error::AskError,
    event::Event,
    intent::{After, BoxEnvelope, Intent, TimerChange, panic_text},
    meta::{Denied, Judgement, Meta, Reserved, Wish},
    settings::EntitySettings,
};

/// What all entities of a kind decide by.
pub(crate) struct Rules<E: EventSourced> {
    pub(crate) entity: Arc<E>,
    pub(crate) settings: EntitySettings,
    pub(crate) limits: Limits,
    /// The events' names, made once.
    names: Vec<(&'static str, Arc<str>)>,
}

impl<E: EventSourced> Rules<E> {
    pub(crate) fn new(entity: Arc<E>, limits: Limits) -> Self {
        let settings = entity.settings();
        let names = E::Event::schemas().iter().map(|s| (s.name, s.name.into())).collect();
        Self { entity, settings, limits, names }
    }

    fn name(&self, name: &'static str) -> Arc<str> {
        let known = self.names.iter().find(|(known, _)| *known == name);
        known.map_or_else(|| name.into(), |(_, name)| name.clone())
    }
}

/// One incarnation of an entity.
pub(crate) struct Core<E: EventSourced> {
    state: E::State,
    /// What handlers are told; its revision is that of the state.
    context: Context,
    window: Window,
    meta: Meta,
    /// What was considered for a transaction.
    considering: Option<Considering<E>>,
    pipeline: Pipeline<E>,
    stash: VecDeque<BoxEnvelope<E>>,
    /// Of the newest snapshot that was taken or loaded.
    snapshot_at: Seq,
    /// Whether one is being saved: then no other is taken.
    saving: bool,
    /// The timers that there will be once everything is committed.
    timers: BTreeSet<String>,
}

/// A batch for the journal.
pub(crate) struct Draft {
    pub(crate) expected: Seq,
    pub(crate) last: Seq,
    pub(crate) timestamp: Timestamp,
    pub(crate) request: Option<Request>,
    pub(crate) events: Vec<NewEvent>,
    /// From when on the entity has something to do without being called, after this batch.
    pub(crate) due: Option<Timestamp>,
}

/// What came of a command.
pub(crate) enum Decision<E: EventSourced> {
    /// Its answer is in the pipeline.
    Held,
    /// So it is, and this is to be submitted.
    Submit(Draft),
    /// This is to be written with what other entities would write; the entity is held until then.
    Considered(Offer),
    /// The state may be half-changed: this incarnation must end. Nothing was submitted.
    Crashed(BoxEnvelope<E>, String),
}

/// What a handled command comes to, when nothing went wrong.
struct Outcome<E: EventSourced> {
    draft: Option<(Draft, usize)>,
    intent: Intent<E>,
    snapshot: Option<Bytes>,
}

impl<E: EventSourced> Core<E> {
    pub(crate) fn new(
        entity: EntityId,
        state: E::State,
        seq: Seq,
        (window, meta): (Window, Meta),
    ) -> Self {
        let context =
            Context { entity, revision: seq, now: Timestamp::default(), request_id: None };
        Self {
            state,
            context,
            window,
            meta,
            considering: None,
            pipeline: Pipeline::new(),
            stash: VecDeque::new(),
            snapshot_at: seq,
            saving: false,
            timers: BTreeSet::new(),
        }
    }

    /// The sequence number that the state includes.
    pub(crate) fn seq(&self) -> Seq {
        self.context.revision
    }

    /// Takes in one stored event, while recovering.
    pub(crate) fn replay(&mut self, events: &[E::Event], seq: Seq) {
        events.iter().for_each(|event| E::apply(&mut self.state, event));
        self.context.revision = seq;
    }

    /// Takes in one stored event of the framework, while recovering.
    pub(crate) fn replay_reserved(
        &mut self,
        events: Vec<Reserved>,
        seq: Seq,
        at: Timestamp,
        settings: &EntitySettings,
    ) {
        events.into_iter().for_each(|event| self.meta.apply(event, at, settings));
        self.context.revision = seq;
    }

    /// What the framework keeps of the entity, committed or not.
    pub(crate) fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Takes in the request of a stored batch, while recovering.
    pub(crate) fn replay_request(&mut self, answered: Answered, settings: &EntitySettings) {
        self.window.insert(answered, settings);
    }

    pub(crate) fn pipeline(&mut self) -> &mut Pipeline<E> {
        &mut self.pipeline
    }

    /// Whether a command may be handled now.
    pub(crate) fn has_room(&self, settings: &EntitySettings) -> bool {
        self.pipeline.has_room(settings.max_in_flight, settings.max_in_flight_bytes)
    }

    /// Nothing waits in it, neither for commits nor for an unstash.
    pub(crate) fn is_idle(&self) -> bool {
        self.pipeline.is_empty() && self.stash.is_empty() && !self.is_held()
    }

    /// Takes in what became of a batch.
    pub(crate) fn resolve(&mut self, last: Seq, result: Result<(), JournalError>) {
        self.pipeline.resolve(last, result);
    }

    /// The next answer that is due.
    pub(crate) fn release(&mut self) -> Option<Released<E>> {
        self.pipeline.pop()
    }

    pub(crate) fn take_stash(&mut self) -> VecDeque<BoxEnvelope<E>> {
        mem::take(&mut self.stash)
    }

    pub(crate) fn timer_is_gone(&mut self, name: &str) {
        self.timers.remove(name);
    }

    pub(crate) fn snapshot_saved(&mut self, saving: bool) {
        self.saving = saving;
    }

    /// Lets a command look at the state. One that would change anything is refused. False where its
    /// handler panicked.
    pub(crate) fn look(
        &mut self,
        rules: &Rules<E>,
        now: Timestamp,
        envelope: &mut dyn crate::intent::Envelope<E>,
    ) -> bool {
        self.context.now = now;
        self.context.request_id = None;
        let entity = self.context.entity.clone();
        let looked = catch_unwind(AssertUnwindSafe(|| {
            let intent = envelope.handle(&rules.entity, &self.state, &self.context);
            if intent.changes_nothing() {
                envelope.settle(&self.state);
            } else {
                envelope.refuse(AskError::NotARead { entity: entity.clone() });
            }
        }));
        if let Err(panic) = &looked {
            let reason = panic_text(panic.as_ref());
            envelope.refuse(AskError::Crashed { entity, reason });
        }
        looked.is_ok()
    }

    /// Handles one command. Gives back stashed commands too, where they are to be handled next.
    pub(crate) fn command(
        &mut self,
        rules: &Rules<E>,
        now: Timestamp,
        mut envelope: BoxEnvelope<E>,
    ) -> (Decision<E>, VecDeque<BoxEnvelope<E>>) {
        let mut unstashed = VecDeque::new();
        if envelope.is_step() {
            return (self.step(rules, now, envelope), unstashed);
        }
        if let Some(what) = self.answer_unhandled(rules, now, &mut envelope) {
            self.hold(what, Some(envelope), Intent::default(), None);
            return (Decision::Held, unstashed);
        }
        let lease_read = envelope.options().lease_read;
        let decided = catch_unwind(AssertUnwindSafe(|| self.decide(rules, now, envelope.as_mut())));
        let decision = match decided {
            Err(panic) => Decision::Crashed(envelope, panic_text(panic.as_ref())),
            Ok(Err(Halt::Crash(reason))) => Decision::Crashed(envelope, reason),
            Ok(Err(Halt::Refuse(error))) => {
                envelope.refuse(error);
                self.hold(What::Read, Some(envelope), Intent::default(), None);
                Decision::Held
            }
            Ok(Ok(Outcome { draft, intent, snapshot })) => {
                if intent.unstash {
                    unstashed = self.take_stash();
                }
                let read = if lease_read { What::LeaseRead } else { What::Read };
                let what = draft.as_ref().map_or(read, |(_, bytes)| What::Write(*bytes));
                let mut envelope = Some(envelope);
                if intent.stash {
                    self.stash.extend(envelope.take());
                }
                self.hold(what, envelope, intent, snapshot);
                draft.map_or(Decision::Held, |(draft, _)| Decision::Submit(draft))
            }
        };
        (decision, unstashed)
    }

    /// Answers a command that its handler need not see.
    fn answer_unhandled(
        &self,
        rules: &Rules<E>,
        now: Timestamp,
        envelope: &mut BoxEnvelope<E>,
    ) -> Option<What> {
        if envelope.is_wake() {
            return Some(What::Repeat);
        }
        let options = envelope.options();
        if let Some(id) = &options.request_id
            && let Some(answered) = self.window.find(id, now, &rules.settings)
        {
            let reply = answered.reply.clone();
            envelope.recall(&reply);
            return Some(What::Repeat);
        }
        if let Some(origin) = &options.origin {
            match self.meta.judge(origin, now, &rules.settings) {
                Judgement::New => {}
                Judgement::Repeat(reply) => {
                    envelope.repeat(reply);
                    return Some(What::Repeat);
                }
                Judgement::TooLate => {
                    let entity = self.context.entity.clone();
                    envelope.refuse(AskError::Forgotten { entity });
                    return Some(What::Read);
                }
                Judgement::Full => {
                    let (entity, limit) = (self.context.entity.clone(), rules.settings.senders);
                    let what = "senders of deliveries";
                    envelope.refuse(AskError::LimitReached { entity, what, limit });
                    return Some(What::Read);
                }
            }
        }
        let (expected, actual) = (options.expected_revision?, self.seq());
        if expected == actual {
            return None;
        }
        envelope.refuse(AskError::RevisionMismatch { expected, actual });
        Some(What::Read)
    }

    /// Runs the user's code for one command. Where it fails or panics after the first `apply`, the
    /// state is no longer to be trusted.
    fn decide(
        &mut self,
        rules: &Rules<E>,
        now: Timestamp,
        envelope: &mut dyn crate::intent::Envelope<E>,
    ) -> Result<Outcome<E>, Halt> {
        self.context.now = now;
        self.context.request_id.clone_from(&envelope.options().request_id);
        envelope.look(&self.meta);
        let mut intent = envelope.handle(&rules.entity, &self.state, &self.context);
        if intent.stash && self.stash.len() >= rules.settings.stash {
            return Err(self.limit("stashed commands", rules.settings.stash));
        }
        let timers = self.check_timers(&intent.after, &rules.settings)?;
        let kept = self.grant(rules, now, mem::take(&mut intent.wishes))?;
        // A command that is stashed is not carried out yet.
        let origin = envelope.options().origin.clone().filter(|_| !intent.stash);
        if intent.events.is_empty() && kept.is_empty() && origin.is_none() {
            envelope.settle(&self.state);
            self.timers = timers.unwrap_or_else(|| mem::take(&mut self.timers));
            return Ok(Outcome { draft: None, intent, snapshot: None });
        }
        let events = mem::take(&mut intent.events);
        let beside = kept.len() + usize::from(origin.is_some());
        let (mut encoded, mut bytes) = self.encode(rules, &events, beside)?;
        let expected = self.seq();
        let mut wanted = self.apply(rules, &events);
        envelope.settle(&self.state);
        if beside > 0 {
            let done = match origin {
                None => None,
                Some(origin) => {
                    let reply = origin.wants_reply().then(|| envelope.encode_reply()).transpose();
                    Some(origin.carried_out(reply.map_err(crash)?))
                }
            };
            for event in kept.into_iter().chain(done) {
                bytes += self.keep(rules, now, event, &mut encoded)?;
            }
            wanted |= self.wants_snapshot(&rules.settings);
            intent.after.kept = Some(self.meta.outbox().map_or(0, |outbox| outbox.last()));
        }
        let last = self.seq();
        let request = self.remember(rules, now, envelope)?;
        let snapshot = if wanted { self.snapshot() } else { None };
        self.timers = timers.unwrap_or_else(|| mem::take(&mut self.timers));
        let due = self.meta.due();
        let draft = Draft { expected, last, timestamp: now, request, events: encoded, due };
        Ok(Outcome { draft: Some((draft, bytes)), intent, snapshot })
    }

    /// The framework's events that come of the wishes.
    fn grant(
        &self,
        rules: &Rules<E>,
        now: Timestamp,
        wishes: Vec<Wish>,
    ) -> Result<Vec<Reserved>, Halt> {
        if wishes.is_empty() {
            return Ok(Vec::new());
        }
        self.meta.grant(wishes, now, &rules.settings).map_err(|denied| match denied {
            Denied::Limit(what, limit) => self.limit(what, limit),
            Denied::Error(error) => Halt::Refuse(error),
        })
    }

    /// Takes in one event of the framework and adds it to the batch. Returns its bytes.
    fn keep(
        &mut self,
        rules: &Rules<E>,
        now: Timestamp,
        event: Reserved,
        encoded: &mut Vec<NewEvent>,
    ) -> Result<usize, Halt> {
        let schema = event.schema();
        let payload = event.encode().map_err(crash)?;
        let bytes = payload.len();
        if bytes > rules.limits.max_payload_bytes {
            return Err(Halt::Crash(format!("{:?} has {bytes} bytes", schema.name)));
        }
        encoded.push(NewEvent::new(schema.name, schema.version, payload));
        self.meta.apply(event, now, &rules.settings);
        self.context.revision = self.seq().next();
        Ok(bytes)
    }

    /// Encodes a batch and checks it against the journal's limits, before anything is changed.
    fn encode(
        &self,
        rules: &Rules<E>,
        events: &[E::Event],
        beside: usize,
    ) -> Result<(Vec<NewEvent>, usize), Halt> {
        let entity = || self.context.entity.clone();
        let Limits { max_payload_bytes, max_batch_events, max_batch_bytes } = rules.limits;
        let count = events.len() + beside;
        if count > max_batch_events {
            let reason = format!("{count} events, and at most {max_batch_events} fit");
            return Err(refuse(JournalError::InvalidBatch { entity: entity(), reason }));
        }
        let mut encoded = Vec::with_capacity(count);
        let mut total = 0;
        for event in events {
            let schema = event.schema();
            let payload = event.encode().map_err(|e| Halt::Refuse(AskError::Codec(e)))?;
            let bytes = payload.len();
            total += bytes;
            let too_large = |what, bytes, limit| {
                Err(refuse(JournalError::TooLarge { entity: entity(), what, bytes, limit }))
            };
            if bytes > max_payload_bytes {
                return too_large("event payload", bytes, max_payload_bytes);
            }
            if total > max_batch_bytes {
                return too_large("batch", total, max_batch_bytes);
            }
            encoded.push(NewEvent {
                name: rules.name(schema.name),
                schema_version: schema.version,
                tags: rules.entity.tags(event),
                metadata: BTreeMap::new(),
                payload,
            });
        }
        Ok((encoded, total))
    }

    /// Applies the events. True where a snapshot should be taken.
    fn apply(&mut self, rules: &Rules<E>, events: &[E::Event]) -> bool {
        let mut wanted = false;
        for event in events {
            E::apply(&mut self.state, event);
            self.context.revision = self.seq().next();
            wanted |= rules.entity.wants_snapshot(&self.state, event, self.seq());
        }
        (wanted && !self.saving) || self.wants_snapshot(&rules.settings)
    }

    /// Whether so many events came since the newest snapshot that it is time for another.
    fn wants_snapshot(&self, settings: &EntitySettings) -> bool {
        let since = self.seq().0 - self.snapshot_at.0;
        !self.saving && settings.snapshot_every.is_some_and(|n| since >= n)
    }

    /// Keeps the reply to a command with a request id.
    fn remember(
        &mut self,
        rules: &Rules<E>,
        now: Timestamp,
        envelope: &dyn crate::intent::Envelope<E>,
    ) -> Result<Option<Request>, Halt> {
        let Some(id) = envelope.options().request_id.clone() else { return Ok(None) };
        let reply = envelope.encode_reply().map_err(crash)?;
        let answered = Answered { id: id.clone(), seq: self.seq(), at: now, reply: reply.clone() };
        self.window.insert(answered, &rules.settings);
        Ok(Some(Request { id, reply }))
    }

    fn snapshot(&mut self) -> Option<Bytes> {
        match image::encode(&self.state, &self.window, &self.meta) {
            Ok(image) => {
                self.snapshot_at = self.seq();
                Some(image)
            }
            Err(error) => {
                tracing::error!(entity = %self.context.entity, %error, "the state does not encode");
                None
            }
        }
    }

    /// The timers that there will be, where the command changes them; refuses too many.
    fn check_timers(
        &self,
        after: &After<E>,
        settings: &EntitySettings,
    ) -> Result<Option<BTreeSet<String>>, Halt> {
        if after.timers.is_empty() {
            return Ok(None);
        }
        let mut timers = self.timers.clone();
        for change in &after.timers {
            match change {
                TimerChange::Set { name, .. } => timers.insert(name.clone()),
                TimerChange::Cancel { name } => timers.remove(name),
            };
        }
        if timers.len() > settings.timers {
            return Err(self.limit("timers", settings.timers));
        }
        Ok(Some(timers))
    }

    fn limit(&self, what: &'static str, limit: usize) -> Halt {
        let entity = self.context.entity.clone();
        Halt::Refuse(AskError::LimitReached { entity, what, limit })
    }

    fn hold(
        &mut self,
        what: What,
        envelope: Option<BoxEnvelope<E>>,
        intent: Intent<E>,
        snapshot: Option<Bytes>,
    ) {
        let Intent { after, passivate, .. } = intent;
        self.pipeline.push(Held { until: self.seq(), what, envelope, after, passivate, snapshot });
    }
}

/// Why a command came to nothing.
enum Halt {
    /// Nothing was changed.
    Refuse(AskError),
    /// The state was changed, and what changed it cannot be written.
    Crash(String),
}

fn crash(error: impl ToString) -> Halt {
    Halt::Crash(error.to_string())
}

fn refuse(error: JournalError) -> Halt {
    Halt::Refuse(AskError::Journal(error))
}
