//! Writes that wait to be proposed, and those that were: what waits goes into one entry.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use openraft::{errors::ClientWriteError, raft::ClientWriteResult};
use tokio::sync::Notify;

use super::types::{Group, Raft, Reply, from_log_id};
use crate::{
    error::JournalError,
    id::{EntityId, Position, Seq, ShardId, Term},
    log::{
        entry::OpsBuilder,
        frame::Kind,
        group_log::{GroupLog, Outcome},
    },
    port::{Ack, Appended},
    transport::Member,
};

/// Most records of an entry.
const MAX_RECORDS: u32 = 1024;
/// Most bytes of an entry, beside those of its last write.
const MAX_BYTES: usize = 256 << 10;
/// Entries under way at once. While they are, the next ones gather more writes.
const PIPELINE: usize = 8;

/// Hears what became of a write.
pub(crate) type Done = Box<dyn FnOnce(Result<Outcome, JournalError>) + Send>;

/// A write that waits for its turn.
pub(crate) struct Write {
    pub kind: Kind,
    pub epoch: Term,
    /// How many positions it takes.
    pub records: u32,
    /// The frame, with room for its header.
    pub frame: Vec<u8>,
    pub ack: Ack,
    /// Whose events, the expected sequence number before them: of a batch.
    pub batch: Option<(EntityId, Seq)>,
    /// The batches that it binds together; they come after it in the same entry.
    pub bound: Vec<Bound>,
    pub done: Done,
}

/// A batch that takes effect together with others.
pub(crate) struct Bound {
    pub epoch: Term,
    pub records: u32,
    pub frame: Vec<u8>,
    pub entity: EntityId,
    pub expected: Seq,
}

impl Write {
    /// How many positions it takes, with what it binds.
    fn all_records(&self) -> u32 {
        self.records + self.bound.iter().map(|bound| bound.records).sum::<u32>()
    }

    /// The bytes of its frames, with those that it binds.
    pub(crate) fn bytes(&self) -> usize {
        self.frame.len() + self.bound.iter().map(|bound| bound.frame.len()).sum::<usize>()
    }
}

/// A write that was proposed.
struct Proposed {
    ack: Ack,
    /// The offset of its last record in the entry.
    last_offset: u32,
    mark: Mark,
    entity: Option<EntityId>,
    /// Whose batches it bound together.
    bound: Vec<EntityId>,
    /// `None` when it was answered.
    done: Option<Done>,
}

/// What was foreseen of a write when it was submitted.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    /// It is counted in [`Predicted::heads`].
    counted: bool,
    /// It may be acknowledged as soon as it is durable here: with this as its last sequence number.
    early: Option<Seq>,
}

/// Whose writes are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    /// This replica leads.
    Open,
    /// It does not; who does, if known.
    Closed { leader: Option<Member> },
    /// It led, and finishes what it took.
    Draining,
    /// The journal is shut down or has failed.
    Ended,
}

struct State {
    gate: Gate,
    /// Why the gate is at its end, where that is a failure.
    failed: Option<JournalError>,
    waiting: VecDeque<(Write, Mark)>,
    waiting_bytes: usize,
    /// By tag, so in the order in which they were proposed.
    proposed: BTreeMap<u64, Vec<Proposed>>,
    next_tag: u64,
    /// Committed, and waiting for all voters to have the entry with this index.
    for_all: Vec<(u64, Done, Outcome)>,
    /// Sequence numbers as they will be when what is under way is committed. Kept from the first
    /// write on that asks to be acknowledged by the leader alone.
    predicted: Option<Predicted>,
}

/// See [`State::predicted`].
#[derive(Default)]
struct Predicted {
    /// Writes that were under way before anything was predicted.
    uncounted: usize,
    heads: HashMap<EntityId, (Seq, u32)>,
}

/// The proposals of one group.
pub(crate) struct Proposals {
    shard: ShardId,
    state: Mutex<State>,
    work: Notify,
    /// Woken when something was answered.
    answered: Notify,
}

impl Proposals {
    pub(crate) fn new(shard: ShardId) -> Arc<Self> {
        let state = State {
            gate: Gate::Closed { leader: None },
            failed: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            proposed: BTreeMap::new(),
            next_tag: 1,
            for_all: Vec::new(),
            predicted: None,
        };
        Arc::new(Self {
            shard,
            state: Mutex::new(state),
            work: Notify::new(),
            answered: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a write, or says at once why not.
    pub(crate) fn submit(&self, write: Write, log: &GroupLog) {
        let mut state = self.lock();
        if let Err(error) = self.check(&state) {
            drop(state);
            return (write.done)(Err(error));
        }
        let mark = state.predict(&write, log);
        state.waiting_bytes += write.bytes();
        let first = state.waiting.is_empty();
        state.waiting.push_back((write, mark));
        drop(state);
        if first {
            self.work.notify_one();
        }
    }

    /// Bytes that wait to be proposed.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.lock().waiting_bytes
    }

    fn check(&self, state: &State) -> Result<(), JournalError> {
        match &state.gate {
            Gate::Open => Ok(()),
            Gate::Closed { leader } => {
                Err(JournalError::NotLeader { shard: self.shard, leader: *leader })
            }
            Gate::Draining => Err(JournalError::Closed),
            Gate::Ended => Err(state.failed.clone().unwrap_or(JournalError::Closed)),
        }
    }

    /// Opens or closes the gate. When it closes, what waits is refused, and what is under way has an
    /// unknown outcome: another leader may commit it.
    pub(crate) fn set_gate(&self, gate: Gate) {
        let mut state = self.lock();
        let before = state.gate;
        // From the end there is no way back.
        if before == Gate::Ended || (before == Gate::Draining && gate == Gate::Open) {
            return;
        }
        state.gate = gate;
        let led = matches!(before, Gate::Open | Gate::Draining);
        if !led || matches!(gate, Gate::Open | Gate::Draining) {
            return;
        }
        let waiting = std::mem::take(&mut state.waiting);
        state.waiting_bytes = 0;
        let proposed = std::mem::take(&mut state.proposed);
        let for_all = std::mem::take(&mut state.for_all);
        state.predicted = None;
        let refused = self.check(&state).err().unwrap_or(JournalError::Closed);
        let unknown = match &state.failed {
            Some(JournalError::Failed { cause }) => {
                JournalError::FailedUnderWay { cause: cause.clone() }
            }
            _ => self.unknown("this node does not lead any more"),
        };
        drop(state);
        self.answered.notify_waiters();
        for (write, _) in waiting {
            (write.done)(Err(refused.clone()));
        }
        for done in proposed.into_values().flatten().filter_map(|proposed| proposed.done) {
            done(Err(unknown.clone()));
        }
        for (_, done, _) in for_all {
            done(Err(self.unknown("committed, but not known to be on all replicas")));
        }
    }

    /// The log has stopped, and why.
    pub(crate) fn end(&self, why: JournalError) {
        self.lock().failed.get_or_insert(why);
        self.set_gate(Gate::Ended);
    }

    /// Takes no more writes, and waits until those that were taken are answered.
    pub(crate) async fn drain(&self) {
        {
            let mut state = self.lock();
            if state.gate != Gate::Open {
                return;
            }
            state.gate = Gate::Draining;
        }
        loop {
            let answered = self.answered.notified();
            tokio::pin!(answered);
            answered.as_mut().enable();
            {
                let state = self.lock();
                let idle = state.waiting.is_empty() && state.proposed.is_empty();
                if state.gate != Gate::Draining || (idle && state.for_all.is_empty()) {
                    return;
                }
            }
            answered.await;
        }
    }

    fn unknown(&self, reason: &str) -> JournalError {
        JournalError::OutcomeUnknown { shard: self.shard, reason: reason.into() }
    }

    /// Proposes what waits, for as long as `raft` works.
    pub(crate) async fn run(self: Arc<Self>, raft: Raft) {
        let mut builder = OpsBuilder::new(self.shard);
        loop {
            let Some((tag, ops)) = self.next_entry(&mut builder) else {
                self.work.notified().await;
                continue;
            };
            let this = self.clone();
            let reply = Reply::new(move |result| this.complete(tag, result));
            if raft.client_write_ff(ops.tagged(tag), Some(reply)).await.is_err() {
                return;
            }
            // Let those who were just answered add their next writes to the next entry.
            tokio::task::yield_now().await;
        }
    }

    /// Puts what waits into one entry, if another may be under way.
    fn next_entry(&self, builder: &mut OpsBuilder) -> Option<(u64, crate::log::entry::Ops)> {
        let mut state = self.lock();
        if state.proposed.len() >= PIPELINE || state.waiting.is_empty() {
            return None;
        }
        let tag = state.next_tag;
        state.next_tag += 1;
        let mut proposed = Vec::new();
        while let Some((write, _)) = state.waiting.front() {
            let full = builder.records() + write.all_records() > MAX_RECORDS
                || builder.len() + write.bytes() > MAX_BYTES;
            if full && !builder.is_empty() {
                break;
            }
            let Some((write, mark)) = state.waiting.pop_front() else { break };
            state.waiting_bytes -= write.bytes();
            let last_offset = builder.records() + write.all_records() - 1;
            builder.push(write.kind, write.epoch, write.records, &write.frame);
            for bound in &write.bound {
                builder.push(Kind::Batch, bound.epoch, bound.records, &bound.frame);
            }
            proposed.push(Proposed {
                ack: write.ack,
                last_offset,
                mark,
                entity: write.batch.map(|(entity, _)| entity),
                bound: write.bound.into_iter().map(|bound| bound.entity).collect(),
                done: Some(write.done),
            });
        }
        state.proposed.insert(tag, proposed);
        Some((tag, builder.take()))
    }

    /// The entry with this tag is on this node's disk: whoever asked for no more is answered.
    pub(crate) fn durable(&self, tag: u64, index: u64) {
        let mut ready = Vec::new();
        let mut state = self.lock();
        let Some(proposed) = state.proposed.get_mut(&tag) else { return };
        for write in proposed {
            if let Some(last_seq) = write.mark.early
                && let Some(done) = write.done.take()
            {
                let position = Position::new(index, write.last_offset as u16);
                ready.push((done, Outcome::Appended(Appended { last_seq, position })));
            }
        }
        drop(state);
        for (done, outcome) in ready {
            done(Ok(outcome));
        }
    }

    /// What became of a proposal.
    fn complete(&self, tag: u64, result: ClientWriteResult<Group>) {
        let mut state = self.lock();
        let Some(proposed) = state.proposed.remove(&tag) else { return };
        state.settle(&proposed);
        let mut answers = Vec::with_capacity(proposed.len());
        match result {
            Ok(response) => {
                let index = from_log_id(&response.log_id).index;
                let mut outcomes = response.data.into_iter();
                for write in proposed {
                    let Some(outcome) = outcomes.next() else { break };
                    // What binds batches says for all of them what they came to.
                    outcomes.by_ref().take(write.bound.len()).for_each(drop);
                    let Some(done) = write.done else { continue };
                    match outcome {
                        Outcome::Refused(error) => answers.push((done, Err(error))),
                        outcome if write.ack == Ack::All => {
                            state.for_all.push((index, done, outcome));
                        }
                        outcome => answers.push((done, Ok(outcome))),
                    }
                }
            }
            Err(error) => {
                let error = self.error(error);
                let dones = proposed.into_iter().filter_map(|write| write.done);
                answers.extend(dones.map(|done| (done, Err(error.clone()))));
            }
        }
        drop(state);
        self.work.notify_one();
        for (done, result) in answers {
            done(result);
        }
        self.answered.notify_waiters();
    }

    fn error(&self, error: ClientWriteError<Group>) -> JournalError {
        match error {
            // Refused before anything was appended.
            ClientWriteError::ForwardToLeader(to) => JournalError::NotLeader {
                shard: self.shard,
                leader: to.leader_id.map(Member::from_u64),
            },
            other => self.unknown(&other.to_string()),
        }
    }

    /// All voters have the entries up to this index.
    pub(crate) fn on_all(&self, index: u64) {
        let mut state = self.lock();
        if state.for_all.is_empty() {
            return;
        }
        let (ready, rest) =
            std::mem::take(&mut state.for_all).into_iter().partition(|(at, ..)| *at <= index);
        state.for_all = rest;
        drop(state);
        let ready: Vec<(u64, Done, Outcome)> = ready;
        for (_, done, outcome) in ready {
            done(Ok(outcome));
        }
        self.answered.notify_waiters();
    }

    /// Whether somebody waits for all voters.
    pub(crate) fn wants_all(&self) -> bool {
        !self.lock().for_all.is_empty()
    }
}

impl State {
    /// What the write's sequence number will be, where it may be told before it is committed.
    fn predict(&mut self, write: &Write, log: &GroupLog) -> Mark {
        if self.predicted.is_none() {
            if write.ack != Ack::Leader {
                return Mark::default();
            }
            let uncounted =
                self.waiting.len() + self.proposed.values().map(Vec::len).sum::<usize>();
            self.predicted = Some(Predicted { uncounted, heads: HashMap::new() });
        }
        let Some(predicted) = &mut self.predicted else { return Mark::default() };
        if !write.bound.is_empty() {
            predicted.together(&write.bound, log);
            return Mark { counted: true, early: None };
        }
        let Some((entity, expected)) = &write.batch else { return Mark::default() };
        let before = predicted.before(entity, log);
        let fits = before == Some(*expected) && write.epoch == log.state().epoch;
        let last = expected.plus(u64::from(write.records));
        predicted.add(entity, if fits { last } else { before.unwrap_or(Seq::MAX) });
        let early = (fits && write.ack == Ack::Leader).then_some(last);
        Mark { counted: true, early }
    }

    /// These writes are not under way any more.
    fn settle(&mut self, proposed: &[Proposed]) {
        let Some(predicted) = &mut self.predicted else { return };
        for write in proposed {
            if !write.mark.counted {
                predicted.uncounted = predicted.uncounted.saturating_sub(1);
                continue;
            }
            for entity in write.entity.iter().chain(&write.bound) {
                if let Some((_, under_way)) = predicted.heads.get_mut(entity) {
                    *under_way -= 1;
                    if *under_way == 0 {
                        predicted.heads.remove(entity);
                    }
                }
            }
        }
    }
}

impl Predicted {
    /// What the entity's sequence number will be before a write that is submitted now, if that can be
    /// said.
    fn before(&self, entity: &EntityId, log: &GroupLog) -> Option<Seq> {
        match self.heads.get(entity) {
            Some((seq, _)) => Some(*seq),
            // Nothing of this entity is under way: what is applied counts.
            None if self.uncounted == 0 => log.head_of(entity).ok().map(|h| h.last_seq),
            None => None,
        }
    }

    /// One more write of the entity is under way, and this is what its sequence number will be.
    fn add(&mut self, entity: &EntityId, head: Seq) {
        let under_way = self.heads.get(entity).map_or(0, |(_, n)| *n);
        self.heads.insert(entity.clone(), (head, under_way + 1));
    }

    /// Batches that go together: all of them fit, or the numbers stay as they are.
    fn together(&mut self, bound: &[Bound], log: &GroupLog) {
        let epoch = log.state().epoch;
        let before: Vec<_> = bound.iter().map(|b| self.before(&b.entity, log)).collect();
        let fits =
            |(b, before): (&Bound, &Option<Seq>)| *before == Some(b.expected) && b.epoch == epoch;
        let all = bound.iter().zip(&before).all(fits);
        for (b, before) in bound.iter().zip(before) {
            let last = b.expected.plus(u64::from(b.records));
            self.add(&b.entity, if all { last } else { before.unwrap_or(Seq::MAX) });
        }
    }
}
