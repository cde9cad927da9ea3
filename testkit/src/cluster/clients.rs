//! Clients: they append unique values, try again until they know, read, delete, and do what must be
//! refused.

use std::{sync::Arc, time::Duration};

use duractor_journal::{
    Ack, Effect, JournalError, NodeId, Position, ReplayRange, Seq, ShardId, Term,
};
use futures_util::StreamExt;
use tokio::time::sleep;

use super::{
    history::{Deletion, Moment, Outcome, Read, Request},
    owner::{self, Tried},
    world::{Process, World},
};
use crate::rng::Rng;

/// A client that goes on until the load ends.
pub(crate) struct Client {
    world: Arc<World>,
    rng: Rng,
}

/// How often a request is tried before its client gives up.
const TRIES: usize = 60;

impl Client {
    pub(crate) fn new(world: &Arc<World>) -> Self {
        Self { rng: world.fork_rng(), world: world.clone() }
    }

    async fn pause(&mut self) {
        let ms = self.rng.below(self.world.plan.pause_ms + 1);
        sleep(Duration::from_millis(ms)).await;
    }

    /// A new request, as the history knows it.
    pub(crate) fn request(&mut self, entity: usize, lossy: bool) -> usize {
        let events = if self.rng.chance(0.7) { 1 } else { 1 + self.rng.below(4) as u32 };
        let size = self.rng.below(self.world.plan.event_bytes + 1) as usize;
        let history = &mut self.world.notes().history;
        let start = history.tick();
        let attempts = Vec::new();
        history.requests.push(Request {
            entity,
            events,
            size,
            start,
            acked: None,
            lossy,
            attempts,
        });
        history.requests.len() - 1
    }

    fn shard_of(&self, entity: usize) -> ShardId {
        self.world.notes().history.shard(entity)
    }

    fn shard_of_request(&self, number: usize) -> ShardId {
        let notes = self.world.notes();
        notes.history.shard(notes.history.requests[number].entity)
    }

    /// Whoever is thought to lead, or any.
    fn leader(&mut self, shard: ShardId, tries: usize) -> Option<Arc<Process>> {
        let known = self.world.notes().leaders[usize::from(shard.0)];
        let any = NodeId(1 + self.rng.below(u64::from(self.world.plan.nodes)) as u32);
        self.world.process(if tries % 3 == 2 { any } else { known })
    }

    fn acked(&self, number: usize, seq: Seq, position: Position) {
        let history = &mut self.world.notes().history;
        let end = history.tick();
        history.requests[number].acked.get_or_insert((end, seq, position));
    }

    // ----- through owners

    /// Writes to entities that others write to as well.
    pub(crate) async fn write(mut self) {
        while !self.world.is_ending() {
            let entity = self.rng.index(self.world.plan.shared_entities);
            match self.rng.below(100) {
                0..88 => {
                    let ack = if self.rng.chance(0.05) { Ack::All } else { Ack::Quorum };
                    // Some at once: the owner takes them up without waiting for the first.
                    let burst = if self.rng.chance(0.3) { 1 + self.rng.index(5) } else { 1 };
                    let numbers: Vec<_> = (0..burst).map(|_| self.request(entity, false)).collect();
                    let tries = numbers.into_iter().map(|number| {
                        let client = Client::new(&self.world);
                        client.append(number, ack)
                    });
                    futures_util::future::join_all(tries).await;
                }
                88..94 => self.delete(entity).await,
                94..97 => self.stale(entity).await,
                _ => self.wrong(entity).await,
            }
            self.pause().await;
        }
    }

    /// Tries a request until its outcome is known.
    pub(crate) async fn append(mut self, number: usize, ack: Ack) {
        let shard = self.shard_of_request(number);
        for tries in 0..TRIES {
            if let Some(process) = self.leader(shard, tries)
                && let Tried::Done(seq, position) =
                    owner::append(&self.world, &process, number, ack).await
            {
                return self.acked(number, seq, position);
            }
            if self.world.is_ending() {
                return;
            }
            sleep(Duration::from_millis(3 + self.rng.below(5 * (1 + tries.min(8)) as u64))).await;
        }
    }

    async fn epoch(&mut self, shard: ShardId, tries: usize) -> Option<(Arc<Process>, Term)> {
        let process = self.leader(shard, tries)?;
        let epoch = self.world.call(&process, process.owners.epoch(shard)).await??;
        Some((process, epoch))
    }

    async fn delete(&mut self, entity: usize) {
        let shard = self.shard_of(entity);
        let Some((process, epoch)) = self.epoch(shard, 0).await else { return };
        let number = {
            let rng = &mut self.rng;
            let history = &mut self.world.notes().history;
            let upto = (entity, Seq(0))..=(entity, Seq::MAX);
            let Some(last) = history.seen.range(upto).next_back().map(|((_, seq), _)| *seq) else {
                return;
            };
            let to = Seq(1 + rng.below(last.0));
            let start = history.tick();
            history.deletions.push(Deletion { entity, to, start, acked: None, refused: false });
            history.deletions.len() - 1
        };
        let (id, to) = {
            let notes = self.world.notes();
            (notes.history.entities[entity].clone(), notes.history.deletions[number].to)
        };
        self.world.say(30, || format!("node {}: delete {id} to {to}", process.node));
        let deleted = process.subject.journal().delete_to(&id, to, epoch);
        match self.world.call(&process, deleted).await {
            Some(Ok(())) => {
                let history = &mut self.world.notes().history;
                let end = history.tick();
                history.deletions[number].acked = Some(end);
            }
            Some(Err(error)) => {
                let refused = error.effect() == Effect::None;
                self.world.notes().history.deletions[number].refused = refused;
                self.world.failed(&process, &error);
            }
            None => {}
        }
    }

    // ----- what must be refused

    /// Writes under an epoch that is not the newest: it may only fail, once that one was granted.
    async fn stale(&mut self, entity: usize) {
        let shard = self.shard_of(entity);
        let old = {
            let notes = self.world.notes();
            let of = notes.history.claims.iter().filter(|claim| claim.shard == shard);
            let mut terms: Vec<Term> = of.filter_map(|c| c.granted).map(|(_, term)| term).collect();
            terms.sort_unstable();
            terms.pop();
            self.rng.pick(&terms).copied()
        };
        let (Some(epoch), Some(process)) = (old, self.leader(shard, 0)) else { return };
        self.alone(&process, entity, epoch, 0).await;
    }

    /// Writes after a sequence number that is not the entity's last.
    async fn wrong(&mut self, entity: usize) {
        let shard = self.shard_of(entity);
        if let Some((process, epoch)) = self.epoch(shard, 0).await {
            let off = [-1, 1, 2][self.rng.index(3)];
            self.alone(&process, entity, epoch, off).await;
        }
    }

    /// Submits beside the owner, `off` from the entity's head.
    async fn alone(&mut self, process: &Arc<Process>, entity: usize, epoch: Term, off: i64) {
        let id = self.world.notes().history.entities[entity].clone();
        let head = self.world.call(process, process.subject.journal().head(&id)).await;
        let Some(Ok(head)) = head else { return };
        let expected = Seq(head.last_seq.0.saturating_add_signed(off));
        let number = self.request(entity, false);
        let submitted = owner::submit(&self.world, process, number, (epoch, expected), Ack::Quorum);
        if let Some(Ok(appended)) = self.world.call(process, submitted).await {
            // The number may have been right after all, for others write meanwhile.
            self.acked(number, appended.last_seq, appended.position);
        }
    }

    // ----- single writers

    /// The only one who writes to an entity: it knows the head itself, and tries a batch again as it
    /// was, wherever the leader is. The journal must answer with the first outcome.
    pub(crate) async fn write_alone(mut self, entity: usize) {
        let mut head = Seq::ZERO;
        while !self.world.is_ending() {
            let number = self.request(entity, false);
            match self.until_known(number, head).await {
                Some(seq) => head = seq,
                None => return,
            }
            self.pause().await;
        }
    }

    async fn until_known(&mut self, number: usize, expected: Seq) -> Option<Seq> {
        let shard = self.shard_of_request(number);
        let mut tries = 0;
        while !self.world.is_ending() {
            tries += 1;
            if let Some((process, epoch)) = self.epoch(shard, tries).await {
                let ack = Ack::Quorum;
                let submitted =
                    owner::submit(&self.world, &process, number, (epoch, expected), ack);
                match self.world.call(&process, submitted).await {
                    Some(Ok(appended)) => {
                        self.acked(number, appended.last_seq, appended.position);
                        return Some(appended.last_seq);
                    }
                    Some(Err(JournalError::WrongExpectedSeq { actual, .. })) => {
                        self.world.violated(format!(
                            "L: request {number} after {expected} was refused, the entity being at \
                             {actual}, and nobody else writes to it: its first outcome is forgotten"
                        ));
                        return None;
                    }
                    _ => {}
                }
            }
            sleep(Duration::from_millis(3 + self.rng.below(40))).await;
        }
        None
    }

    /// Writes what may be lost.
    pub(crate) async fn write_lossy(mut self, entity: usize) {
        while !self.world.is_ending() {
            let number = self.request(entity, true);
            let shard = self.shard_of(entity);
            if let Some(process) = self.leader(shard, 0)
                && let Tried::Done(seq, position) =
                    owner::append(&self.world, &process, number, Ack::Leader).await
            {
                self.acked(number, seq, position);
            }
            self.pause().await;
            self.pause().await;
        }
    }

    // ----- reads

    /// Reads entities at any node, with a barrier or without.
    pub(crate) async fn read(mut self) {
        while !self.world.is_ending() {
            let entities = self.world.notes().history.entities.len();
            let entity = self.rng.index(entities);
            let shard = self.shard_of(entity);
            let tries = if self.rng.chance(0.6) { 0 } else { 2 };
            if let Some(process) = self.leader(shard, tries) {
                let (linearizable, start) = (self.rng.chance(0.7), self.world.tick());
                let read = read(&self.world, &process, (entity, shard), linearizable, start);
                match self.world.call(&process, read).await {
                    Some(Ok(mut read)) => {
                        let history = &mut self.world.notes().history;
                        read.end = history.tick();
                        history.reads.push(read);
                    }
                    Some(Err(error)) => self.world.failed(&process, &error),
                    None => {}
                }
            }
            self.pause().await;
        }
    }
}

async fn read(
    world: &World,
    process: &Process,
    (entity, shard): (usize, ShardId),
    linearizable: bool,
    start: Moment,
) -> Result<Read, JournalError> {
    let journal = process.subject.journal();
    let reflects = if linearizable {
        journal.barrier(shard).await?
    } else {
        process.subject.group(shard).applied
    };
    let id = world.notes().history.entities[entity].clone();
    let head = journal.head(&id).await?;
    let mut records = Vec::new();
    let mut chunks = journal.replay(&id, ReplayRange::ALL);
    while let Some(chunk) = chunks.next().await {
        records.extend(chunk?);
    }
    let observed = world.notes().history.observe(&records);
    world.check(observed.map_err(|what| format!("A: node {}: {what}", process.node)));
    let last = records.last().map_or(Seq::ZERO, |record| record.seq).max(head.last_seq);
    let first = records.first().map(|record| record.seq);
    let kind = if linearizable { "reads" } else { "reads, stale," };
    world.say(40 ^ last.0 << 8, || {
        format!("node {} {kind} {id}: {} records to {last}", process.node, records.len())
    });
    Ok(Read { entity, start, end: 0, linearizable, reflects, first, last })
}

/// Whether a request was refused by every try: for the summary.
pub(crate) fn refused(request: &Request) -> bool {
    let refused = |outcome: Option<(Moment, Outcome)>| {
        outcome.is_some_and(|(_, outcome)| outcome == Outcome::Refused)
    };
    request.attempts.iter().all(|attempt| refused(attempt.answer))
}
