//! A transaction's steps at an entity: deciding on its command, being held, and the end of that.
//!
//! What a held entity has decided is not in its state: commands that come meanwhile wait, so nobody
//! could see it, and an abort has nothing to undo. The answer of the command is computed on a copy of
//! the state, made the way snapshots are.
//!
//! A preparation is in the journal and in the [`Meta`](crate::meta::Meta), so it outlasts the
//! incarnation. What was considered only is in memory: it is written by one entry with what the other
//! entities of the shard have considered, and where the incarnation ends before it hears of that, the
//! next one reads it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use bytes::Bytes;
use duractor_journal::{JournalError, NewEvent, Request, Timestamp};

use super::{Core, Decision, Draft, Halt, Rules, crash, pipeline::What, window::Answered};
use crate::{
    codec::CodecError,
    entity::EventSourced,
    error::AskError,
    event::Event,
    intent::{BoxEnvelope, Intent, Options, Step, panic_text},
    meta::{Reserved, StoredEvent},
    step::{Decide, Prepare, Promise, Readies, Settled, Stopped, TxId},
    stepping::answer,
};

/// A command that was considered and waits for what becomes of all.
pub(super) struct Considering<E: EventSourced> {
    events: Vec<E::Event>,
    request: Option<Request>,
    at: Timestamp,
    reply: Bytes,
    /// Whoever waits: answered at the end.
    envelope: BoxEnvelope<E>,
}

/// What a command of a transaction comes to.
enum Proposal<E: EventSourced> {
    Events { events: Vec<E::Event>, encoded: Vec<NewEvent>, reply: Bytes },
    Veto(Bytes),
}

/// What an entity has considered, for whoever has it written with the rest.
pub(crate) struct Offer {
    /// `None` where nothing is to be written.
    pub(crate) draft: Option<Draft>,
    pub(crate) reply: Bytes,
    pub(crate) ready: Readies,
}

/// What is prepared, and how long to wait before asking for the decision.
pub(crate) struct Undecided {
    pub(crate) tx: TxId,
    pub(crate) number: u64,
    pub(crate) patience: Duration,
}

impl<E: EventSourced> Core<E> {
    /// Whether a transaction holds the entity.
    pub(crate) fn is_held(&self) -> bool {
        self.considering.is_some() || self.meta.held().is_some()
    }

    /// Whether it waits in memory for what becomes of a transaction.
    pub(crate) fn is_considering(&self) -> bool {
        self.considering.is_some()
    }

    /// Forgets what was considered. Gives back who waits.
    pub(crate) fn take_considered(&mut self) -> Option<BoxEnvelope<E>> {
        self.considering.take().map(|considering| considering.envelope)
    }

    /// Carries out a step.
    pub(super) fn step(
        &mut self,
        rules: &Rules<E>,
        now: Timestamp,
        mut envelope: BoxEnvelope<E>,
    ) -> Decision<E> {
        match envelope.take_step() {
            Some(Step::Consider { command, ready }) => {
                self.consider(rules, now, envelope, (command, ready))
            }
            Some(Step::Prepare { tx, command, patience_ms }) => {
                self.prepare(rules, now, envelope, (tx, command, patience_ms))
            }
            Some(Step::Decide { tx, number, commit }) => {
                self.end(rules, now, envelope, (&tx, number, commit))
            }
            None => self.refuse(envelope, AskError::Lost { entity: self.context.entity.clone() }),
        }
    }

    /// Decides on a command whose events are written with those of other entities of the shard.
    fn consider(
        &mut self,
        rules: &Rules<E>,
        now: Timestamp,
        mut envelope: BoxEnvelope<E>,
        (mut command, ready): (BoxEnvelope<E>, Readies),
    ) -> Decision<E> {
        if let Some(id) = &envelope.options().request_id
            && let Some(answered) = self.window.find(id, now, &rules.settings)
        {
            // It was committed: only what is comes into the window of a transaction.
            let reply = answered.reply.clone();
            answer::<E, Prepare>(&mut envelope, &Promise::Prepared { number: 0, reply });
            self.hold(What::Repeat, Some(envelope), Intent::default(), None);
            return Decision::Held;
        }
        if self.is_held() {
            return self.stop(envelope, Stopped::Conflict);
        }
        let proposed = self.propose(rules, now, envelope.options(), &mut command);
        let (events, encoded, reply) = match proposed {
            Err(halt) => return self.halt(envelope, halt),
            Ok(Proposal::Veto(reply)) => return self.stop(envelope, Stopped::Vetoed(reply)),
            Ok(Proposal::Events { events, encoded, reply }) => (events, encoded, reply),
        };
        let request_id = envelope.options().request_id.clone();
        let request = request_id.map(|id| Request { id, reply: reply.clone() });
        let expected = self.seq();
        let last = expected.plus(encoded.len() as u64);
        let due = self.meta.due();
        let draft = (!encoded.is_empty()).then(|| Draft {
            expected,
            last,
            timestamp: now,
            request: request.clone(),
            events: encoded,
            due,
        });
        let held = Considering { events, request, at: now, reply: reply.clone(), envelope };
        self.considering = Some(held);
        Decision::Considered(Offer { draft, reply, ready })
    }

    /// Takes in what became of what was considered. True where nobody knows, so that this incarnation
    /// must end.
    pub(crate) fn settle(&mut self, rules: &Rules<E>, settled: Settled) -> bool {
        let Some(considering) = self.considering.take() else { return false };
        let Considering { events, request, at, reply, mut envelope } = considering;
        match settled {
            Settled::Committed { last } => {
                let wrote = last.is_some();
                let wanted = wrote && self.apply(rules, &events);
                debug_assert!(last.is_none_or(|last| last == self.seq()), "as it was expected");
                if let (true, Some(Request { id, reply })) = (wrote, request) {
                    let answered = Answered { id, seq: self.seq(), at, reply };
                    self.window.insert(answered, &rules.settings);
                }
                let snapshot = if wanted { self.snapshot() } else { None };
                answer::<E, Prepare>(&mut envelope, &Promise::Prepared { number: 0, reply });
                // What only looked waits until it is sure that nobody else has written.
                let what = if wrote { What::Repeat } else { What::Read };
                self.hold(what, Some(envelope), Intent::default(), snapshot);
                false
            }
            Settled::Aborted => {
                answer::<E, Prepare>(&mut envelope, &Promise::Stopped(Stopped::Conflict));
                self.hold(What::Read, Some(envelope), Intent::default(), None);
                false
            }
            Settled::Unknown(error) => {
                envelope.refuse(AskError::journal(error));
                self.hold(What::Repeat, Some(envelope), Intent::default(), None);
                true
            }
        }
    }

    /// Decides on a command and writes down what it comes to; the decision is made elsewhere.
    fn prepare(
        &mut self,
        rules: &Rules<E>,
        now: Timestamp,
        mut envelope: BoxEnvelope<E>,
        (tx, mut command, patience_ms): (TxId, BoxEnvelope<E>, u64),
    ) -> Decision<E> {
        if let Some(held) = self.meta.held() {
            if (&held.id, held.attempt) != (&tx.id, tx.attempt) {
                return self.stop(envelope, Stopped::Conflict);
            }
            let (number, reply) = (held.number, held.reply.clone());
            answer::<E, Prepare>(&mut envelope, &Promise::Prepared { number, reply });
            self.hold(What::Repeat, Some(envelope), Intent::default(), None);
            return Decision::Held;
        }
        if self.considering.is_some() {
            return self.stop(envelope, Stopped::Conflict);
        }
        let proposed = self.propose(rules, now, envelope.options(), &mut command);
        let (encoded, reply) = match proposed {
            Err(halt) => return self.halt(envelope, halt),
            Ok(Proposal::Veto(reply)) => return self.stop(envelope, Stopped::Vetoed(reply)),
            Ok(Proposal::Events { encoded, reply, .. }) => (encoded, reply),
        };
        let number = self.meta.last_held() + 1;
        let event = Reserved::Prepared {
            number,
            id: tx.id,
            attempt: tx.attempt,
            patience_ms,
            events: encoded.into_iter().map(StoredEvent::from).collect(),
            reply: reply.clone(),
        };
        if let Err(halt) = self.fits(rules, &event) {
            return self.halt(envelope, halt);
        }
        answer::<E, Prepare>(&mut envelope, &Promise::Prepared { number, reply });
        self.write(rules, now, envelope, (Vec::new(), event))
    }

    /// Takes in what was decided.
    fn end(
        &mut self,
        rules: &Rules<E>,
        now: Timestamp,
        mut envelope: BoxEnvelope<E>,
        (tx, number, commit): (&TxId, Option<u64>, bool),
    ) -> Decision<E> {
        answer::<E, Decide>(&mut envelope, &());
        let held = self.meta.held().filter(|held| {
            (&held.id, held.attempt) == (&tx.id, tx.attempt)
                && number.is_none_or(|number| number == held.number)
        });
        let Some(held) = held else {
            // It has ended before, or never began: then it cannot begin any more and be committed.
            self.hold(What::Repeat, Some(envelope), Intent::default(), None);
            return Decision::Held;
        };
        let number = held.number;
        let events = if commit { held.events.clone() } else { Vec::new() };
        self.write(rules, now, envelope, (events, Reserved::Decided { number, committed: commit }))
    }

    /// Writes stored events of the user's, if any, and one of the framework's.
    fn write(
        &mut self,
        rules: &Rules<E>,
        now: Timestamp,
        envelope: BoxEnvelope<E>,
        (stored, event): (Vec<StoredEvent>, Reserved),
    ) -> Decision<E> {
        let expected = self.seq();
        let decode = |stored: &StoredEvent| {
            E::Event::decode(&stored.name, stored.schema_version, &stored.payload)
        };
        let decoded = match stored.iter().map(decode).collect::<Result<Vec<_>, CodecError>>() {
            Ok(decoded) => decoded,
            // Nothing is changed: it stays prepared until somebody can read them.
            Err(error) => return self.refuse(envelope, AskError::Codec(error)),
        };
        let written = catch_unwind(AssertUnwindSafe(|| {
            let mut wanted = false;
            for events in decoded {
                for event in &events {
                    E::apply(&mut self.state, event);
                }
                self.context.revision = self.seq().next();
                let all = events.iter();
                wanted |= all.fold(false, |wanted, event| {
                    wanted | rules.entity.wants_snapshot(&self.state, event, self.seq())
                });
            }
            let mut encoded: Vec<_> = stored.into_iter().map(NewEvent::from).collect();
            let beside = self.keep(rules, now, event, &mut encoded)?;
            let bytes = beside + encoded.iter().map(|event| event.payload.len()).sum::<usize>();
            let wanted = (wanted && !self.saving) || self.wants_snapshot(&rules.settings);
            Ok((encoded, bytes, wanted))
        }));
        let (encoded, bytes, wanted) = match written {
            Ok(Ok(written)) => written,
            Ok(Err(Halt::Crash(reason))) => return Decision::Crashed(envelope, reason),
            Ok(Err(Halt::Refuse(error))) => return Decision::Crashed(envelope, error.to_string()),
            Err(panic) => return Decision::Crashed(envelope, panic_text(panic.as_ref())),
        };
        let snapshot = if wanted { self.snapshot() } else { None };
        let (last, due) = (self.seq(), self.meta.due());
        self.hold(What::Write(bytes), Some(envelope), Intent::default(), snapshot);
        Decision::Submit(Draft {
            expected,
            last,
            timestamp: now,
            request: None,
            events: encoded,
            due,
        })
    }

    /// Runs the command's handler, on the state, and its reply on a copy with its events applied.
    /// Changes nothing.
    fn propose(
        &mut self,
        rules: &Rules<E>,
        now: Timestamp,
        options: &Options,
        command: &mut BoxEnvelope<E>,
    ) -> Result<Proposal<E>, Halt> {
        self.context.now = now;
        self.context.request_id.clone_from(&options.request_id);
        let proposed = catch_unwind(AssertUnwindSafe(|| {
            let intent = command.handle(&rules.entity, &self.state, &self.context);
            if intent.veto {
                command.settle(&self.state);
                return Ok(Proposal::Veto(command.encode_reply().map_err(codec)?));
            }
            self.check_fit(&intent)?;
            let events = intent.events;
            let (encoded, _) = self.encode(rules, &events, 1)?;
            if events.is_empty() {
                command.settle(&self.state);
            } else {
                let mut copy = self.copy()?;
                events.iter().for_each(|event| E::apply(&mut copy, event));
                command.settle(&copy);
            }
            let reply = command.encode_reply().map_err(codec)?;
            Ok(Proposal::Events { events, encoded, reply })
        }));
        proposed.unwrap_or_else(|panic| Err(crash(panic_text(panic.as_ref()))))
    }

    /// What an effect may have beside events and answer is for commands by themselves.
    fn check_fit(&self, intent: &Intent<E>) -> Result<(), Halt> {
        let parts = [
            (intent.stash, "stash"),
            (intent.unstash, "unstash"),
            (intent.passivate, "passivate"),
            (!intent.wishes.is_empty(), "deliveries or reminders"),
            (!intent.after.sides.is_empty(), "side effects"),
            (!intent.after.timers.is_empty(), "timers"),
        ];
        let Some((_, what)) = parts.into_iter().find(|(is, _)| *is) else { return Ok(()) };
        let entity = self.context.entity.clone();
        Err(Halt::Refuse(AskError::NotInTransaction { entity, what }))
    }

    fn copy(&self) -> Result<E::State, Halt> {
        let encode = |error: postcard::Error| {
            let (name, reason) = ("state".to_owned(), error.to_string());
            codec(CodecError::Encode { name, reason })
        };
        let bytes = postcard::to_extend(&self.state, Vec::new()).map_err(encode)?;
        postcard::from_bytes(&bytes).map_err(encode)
    }

    /// Whether the event can be written, before anything is changed.
    fn fits(&self, rules: &Rules<E>, event: &Reserved) -> Result<(), Halt> {
        let bytes = event.encode().map_err(codec)?.len();
        let limit = rules.limits.max_payload_bytes;
        if bytes <= limit {
            return Ok(());
        }
        let (entity, what) = (self.context.entity.clone(), "event payload");
        Err(Halt::Refuse(AskError::Journal(JournalError::TooLarge { entity, what, bytes, limit })))
    }

    fn stop(&mut self, mut envelope: BoxEnvelope<E>, why: Stopped) -> Decision<E> {
        answer::<E, Prepare>(&mut envelope, &Promise::Stopped(why));
        self.hold(What::Read, Some(envelope), Intent::default(), None);
        Decision::Held
    }

    fn refuse(&mut self, mut envelope: BoxEnvelope<E>, error: AskError) -> Decision<E> {
        envelope.refuse(error);
        self.hold(What::Read, Some(envelope), Intent::default(), None);
        Decision::Held
    }

    fn halt(&mut self, envelope: BoxEnvelope<E>, halt: Halt) -> Decision<E> {
        match halt {
            Halt::Refuse(error) => self.refuse(envelope, error),
            Halt::Crash(reason) => Decision::Crashed(envelope, reason),
        }
    }

    /// What is prepared and not decided yet.
    pub(crate) fn undecided(&self) -> Option<Undecided> {
        let held = self.meta.held()?;
        let tx = TxId { id: held.id.clone(), attempt: held.attempt };
        let patience = Duration::from_millis(held.patience_ms);
        Some(Undecided { tx, number: held.number, patience })
    }

    #[cfg(feature = "planted")]
    pub(crate) fn forget_prepared(&mut self) {
        self.meta.forget_held();
    }

    /// Whether a batch was refused, so that this incarnation has no future.
    pub(crate) fn has_failed(&self) -> bool {
        self.pipeline.failed().is_some()
    }
}

fn codec(error: CodecError) -> Halt {
    Halt::Refuse(AskError::Codec(error))
}
