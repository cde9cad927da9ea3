//! Who writes to a shard at a node: a model of what the framework does with entities.
//!
//! An owner claims its shard when it hears that its node leads, reads an entity before it writes to
//! it, and then submits batches one after the other without waiting for the commits. It answers a
//! request that it finds in the entity's events with the first outcome. When a batch fails, it reads
//! the entity again; when it is not known whether one was committed, it claims the shard again first:
//! after that nothing older can be committed any more.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use duractor_journal::{
    Ack, AppendBatch, Appended, Effect, JournalError, NewEvent, Ownership, Position, ReplayRange,
    RequestId, Seq, ShardId, Term, Timestamp, record,
};
use futures_util::StreamExt;
use tokio::{
    sync::{Mutex, oneshot},
    time::sleep,
};

use super::{
    history::{Attempt, Claim, Outcome},
    world::{Process, World},
};

/// The owners of all shards at one process.
pub(crate) struct Owners {
    shards: Vec<Slot>,
}

struct Slot {
    /// Grows whenever the ownership changes.
    changes: AtomicU64,
    owner: Mutex<Owner>,
}

#[derive(Default)]
struct Owner {
    epoch: Option<Term>,
    entities: BTreeMap<usize, Hot>,
}

/// An entity that is written to.
struct Hot {
    /// Its newest event, submitted ones counted in.
    head: Seq,
    /// Requests that took effect.
    done: BTreeMap<usize, (Seq, Position)>,
    flying: BTreeSet<usize>,
    /// Tells this reading of the entity from a later one.
    generation: u64,
}

impl Owners {
    pub(crate) fn new(shards: u16) -> Self {
        let slot = || Slot { changes: AtomicU64::new(0), owner: Mutex::default() };
        Self { shards: (0..shards).map(|_| slot()).collect() }
    }

    fn slot(&self, shard: ShardId) -> &Slot {
        &self.shards[usize::from(shard.0)]
    }

    /// The epoch under which this process writes, if it may.
    pub(crate) async fn epoch(&self, shard: ShardId) -> Option<Term> {
        self.slot(shard).owner.lock().await.epoch
    }
}

/// Follows who owns the shards, for as long as the process lives; and ends it with its log, as a node
/// does.
pub(crate) fn start(world: &Arc<World>, process: &Arc<Process>) {
    let stopped = process.subject.journal().stopped();
    let (to, of) = (Arc::downgrade(world), Arc::downgrade(process));
    tokio::spawn(async move {
        let why = stopped.await;
        if let (Some(world), Some(process)) = (to.upgrade(), of.upgrade()) {
            world.failed(&process, &why);
        }
    });
    let mut ownerships = process.subject.journal().ownerships();
    // A dead process must not live on in here, waiting for the next change.
    let (world, process) = (Arc::downgrade(world), Arc::downgrade(process));
    tokio::spawn(async move {
        while let Some((shard, ownership)) = ownerships.next().await {
            let (Some(world), Some(process)) = (world.upgrade(), process.upgrade()) else { return };
            if process.is_dead() {
                return;
            }
            let slot = process.owners.slot(shard);
            let change = slot.changes.fetch_add(1, Ordering::Relaxed) + 1;
            *slot.owner.lock().await = Owner::default();
            world.say(10, || format!("node {} {shard}: {ownership:?}", process.node));
            match ownership {
                Ownership::Mine { .. } => {
                    world.notes().leaders[usize::from(shard.0)] = process.node;
                    tokio::spawn(claim(world.clone(), process.clone(), shard, change));
                }
                Ownership::Other { leader: Some(leader) } => {
                    world.notes().leaders[usize::from(shard.0)] = leader.node;
                }
                Ownership::Other { leader: None } => {}
            }
        }
    });
}

/// Claims a shard, as often as need be while the ownership lasts.
async fn claim(world: Arc<World>, process: Arc<Process>, shard: ShardId, change: u64) {
    let slot = process.owners.slot(shard);
    while slot.changes.load(Ordering::Relaxed) == change && !process.is_dead() {
        let number = {
            let history = &mut world.notes().history;
            let start = history.tick();
            history.claims.push(Claim { shard, start, granted: None });
            history.claims.len() - 1
        };
        let claimed = world.call(&process, process.subject.journal().claim(shard)).await;
        match claimed {
            Some(Ok(term)) => {
                {
                    let history = &mut world.notes().history;
                    let end = history.tick();
                    history.claims[number].granted = Some((end, term));
                }
                world.say(11, || format!("node {} owns {shard} under {term}", process.node));
                let mut owner = slot.owner.lock().await;
                if slot.changes.load(Ordering::Relaxed) == change {
                    *owner = Owner { epoch: Some(term), ..Owner::default() };
                }
                return;
            }
            Some(Err(error)) => world.failed(&process, &error),
            None => {}
        }
        sleep(Duration::from_millis(15)).await;
    }
}

/// What became of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tried {
    Done(Seq, Position),
    /// It has no effect; try elsewhere or later.
    Refused,
    Unknown,
}

/// Asks a process to make a request take effect.
pub(crate) async fn append(
    world: &Arc<World>,
    process: &Arc<Process>,
    number: usize,
    ack: Ack,
) -> Tried {
    let answer = world.call(process, try_append(world, process, number, ack)).await;
    answer.unwrap_or(Tried::Unknown)
}

async fn try_append(world: &Arc<World>, process: &Arc<Process>, number: usize, ack: Ack) -> Tried {
    let (entity, shard, events) = {
        let notes = world.notes();
        let request = &notes.history.requests[number];
        (request.entity, notes.history.shard(request.entity), u64::from(request.events))
    };
    let slot = process.owners.slot(shard);
    let mut owner = slot.owner.lock().await;
    let Some(epoch) = owner.epoch else { return Tried::Refused };
    let hot = match owner.entities.entry(entity) {
        Entry::Occupied(hot) => hot.into_mut(),
        Entry::Vacant(slot) => match load(world, process, entity).await {
            Ok(hot) => slot.insert(hot),
            Err(error) => {
                world.failed(process, &error);
                return Tried::Refused;
            }
        },
    };
    if let Some((seq, position)) = hot.done.get(&number) {
        return Tried::Done(*seq, *position);
    }
    if !hot.flying.insert(number) {
        return Tried::Unknown;
    }
    let expected = hot.head;
    hot.head = expected.plus(events);
    let generation = hot.generation;
    let submitted = submit(world, process, number, (epoch, expected), ack);
    drop(owner);
    // Beside the caller, who may give up before the answer comes.
    let (world, process) = (world.clone(), process.clone());
    let place = (shard, entity, epoch, generation);
    let finished = tokio::spawn(async move {
        let result = submitted.await;
        finish(&world, &process, number, place, result).await
    });
    finished.await.unwrap_or(Tried::Unknown)
}

/// Takes note of what became of a batch.
async fn finish(
    world: &Arc<World>,
    process: &Arc<Process>,
    number: usize,
    (shard, entity, epoch, generation): (ShardId, usize, Term, u64),
    result: Result<Appended, JournalError>,
) -> Tried {
    let slot = process.owners.slot(shard);
    let mut owner = slot.owner.lock().await;
    if let Some(hot) = owner.entities.get_mut(&entity).filter(|hot| hot.generation == generation) {
        hot.flying.remove(&number);
        match &result {
            Ok(appended) => drop(hot.done.insert(number, (appended.last_seq, appended.position))),
            Err(_) => drop(owner.entities.remove(&entity)),
        }
    }
    match result {
        Ok(appended) => Tried::Done(appended.last_seq, appended.position),
        Err(error) if error.effect() == Effect::None => Tried::Refused,
        Err(_) => {
            if owner.epoch == Some(epoch) {
                *owner = Owner::default();
                let change = slot.changes.load(Ordering::Relaxed);
                tokio::spawn(claim(world.clone(), process.clone(), shard, change));
            }
            Tried::Unknown
        }
    }
}

/// Reads an entity as a new owner does.
async fn load(world: &World, process: &Process, entity: usize) -> Result<Hot, JournalError> {
    let id = world.notes().history.entities[entity].clone();
    let journal = process.subject.journal();
    let head = journal.head(&id).await?;
    let mut done = BTreeMap::new();
    let mut records = Vec::new();
    let mut chunks = journal.replay(&id, ReplayRange::ALL);
    while let Some(chunk) = chunks.next().await {
        records.extend(chunk?);
    }
    let mut notes = world.notes();
    for record in &records {
        if let Ok((_, seen)) = notes.history.recognize(record) {
            done.insert(seen.request, (record.seq, record.position));
        }
    }
    let observed = notes.history.observe(&records);
    let generation = notes.history.tick();
    drop(notes);
    world.check(observed.map_err(|what| format!("A: node {}: {what}", process.node)));
    let last = records.last().map_or(Seq::ZERO, |record| record.seq);
    Ok(Hot { head: head.last_seq.max(last), done, flying: BTreeSet::new(), generation })
}

/// Submits a batch at once, and notes the try and its answer.
pub(crate) fn submit(
    world: &Arc<World>,
    process: &Arc<Process>,
    number: usize,
    (epoch, expected): (Term, Seq),
    ack: Ack,
) -> impl Future<Output = Result<Appended, JournalError>> + use<> {
    let (batch, attempt) = {
        let history = &mut world.notes().history;
        let start = history.tick();
        let attempts = &mut history.requests[number].attempts;
        attempts.push(Attempt { epoch, expected, start, answer: None });
        let attempt = attempts.len() - 1;
        (batch(history, number, epoch, expected), attempt)
    };
    world.say(20 ^ (number as u64) << 8, || {
        format!(
            "node {}: request {number} to {} after {expected}, {epoch}",
            process.node, batch.entity
        )
    });
    let (tx, rx) = oneshot::channel();
    let (noted, at) = (world.clone(), process.clone());
    let done = move |result: Result<Appended, JournalError>| {
        answered(&noted, &at, (number, attempt), &result);
        drop(tx.send(result));
    };
    process.subject.journal().submit_with(batch, ack, Box::new(done));
    let gone = || JournalError::FailedUnderWay { cause: "the journal forgot a batch".into() };
    async move { rx.await.unwrap_or_else(|_| Err(gone())) }
}

/// Within the journal's call: what a dead process says does not count, and all power may fail now.
fn answered(
    world: &Arc<World>,
    process: &Arc<Process>,
    (number, attempt): (usize, usize),
    result: &Result<Appended, JournalError>,
) {
    if process.is_dead() {
        return;
    }
    let outcome = match result {
        Ok(appended) => Outcome::Acked(appended.last_seq, appended.position),
        Err(error) if error.effect() == Effect::None => Outcome::Refused,
        Err(_) => Outcome::Unknown,
    };
    world.say(21 ^ (number as u64) << 8, || match result {
        Ok(appended) => {
            let (seq, position) = (appended.last_seq, appended.position);
            format!("node {}: request {number} is {seq} at {position}", process.node)
        }
        Err(error) => format!("node {}: request {number}: {error}", process.node),
    });
    let mut notes = world.notes();
    let end = notes.history.tick();
    notes.history.requests[number].attempts[attempt].answer = Some((end, outcome));
    let acked = matches!(outcome, Outcome::Acked(..));
    let crash = acked && std::mem::take(&mut notes.crash_at_ack);
    drop(notes);
    if let Err(error) = result {
        world.failed(process, error);
    }
    if crash {
        super::trouble::crash_all(world);
    }
}

fn batch(
    history: &super::history::History,
    number: usize,
    epoch: Term,
    expected_seq: Seq,
) -> AppendBatch {
    let request = &history.requests[number];
    let event = |part| NewEvent::new("put", 1, history.payload(number, part));
    let id = RequestId::new(&format!("r{number}")).ok();
    AppendBatch {
        entity: history.entities[request.entity].clone(),
        epoch,
        expected_seq,
        timestamp: Timestamp(number as u64),
        request: id.map(|id| record::Request { id, reply: number.to_string().into() }),
        events: (0..request.events).map(event).collect(),
    }
}
