//! Random histories of two groups' logs, each life ended by a power failure at some operation of
//! the disk, checked against the model after each start.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use tokio::time::timeout;

use super::{
    super::{entry::LogId, group_log::GroupLog, node_log::NodeLog},
    append,
    disk::{CrashDisk, Keep},
    model::{Applied, Logged, Op, Verdict, entity, logged},
    open, release, vote,
};
use crate::{
    error::JournalError,
    id::{Position, ShardId},
    port::ReplayRange,
};

const ENTITIES: usize = 3;
/// Whoever waits longer waits for ever.
const PATIENCE: Duration = Duration::from_secs(60);

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// What is known of a group.
struct Group {
    shard: u16,
    term: u64,
    /// The log as it was when an append was last told to be durable, and as each entry made it that
    /// was written since: what the disk may have, for it has a stretch of what was written.
    possible: Vec<Vec<Logged>>,
    /// The log as it was last wanted.
    wanted: Vec<Logged>,
    /// How many entries are committed: they stay.
    committed: usize,
    votes: (u64, u64),
    payloads: u64,
    requests: Vec<(usize, u64, usize, u64)>,
}

impl Group {
    fn state_at(&self, len: usize) -> Applied {
        let mut state = Applied::new(ENTITIES);
        for logged in &self.wanted[..len] {
            for op in &logged.ops {
                state.apply(logged.entry.id.term, op);
            }
        }
        state
    }

    fn ops(&mut self, rng: &mut Rng, state: &mut Applied) -> Vec<Op> {
        let mut ops = Vec::new();
        for _ in 0..rng.below(5) {
            let n = rng.below(ENTITIES as u64) as usize;
            let epoch = state.epoch.saturating_sub(u64::from(rng.below(12) == 0));
            let op = match rng.below(20) {
                0 => Op::Claim,
                1 | 2 => Op::Delete { entity: n, epoch, to: rng.below(40) },
                4 | 5 => self.together(rng, state, epoch),
                3 if !self.requests.is_empty() => {
                    let at = rng.below(self.requests.len() as u64) as usize;
                    let (n, expected, count, request) = self.requests[at];
                    let events = vec![vec![9; 20]; count];
                    Op::Batch { entity: n, epoch, expected, events, request: Some(request) }
                }
                _ => {
                    let len = state.streams[n].events.len() as u64;
                    let expected = if rng.below(10) == 0 { rng.below(len + 2) } else { len };
                    let count = 1 + rng.below(3) as usize;
                    let size = [10, 100, 1500][rng.below(3) as usize];
                    let mut events = Vec::new();
                    for _ in 0..count {
                        self.payloads += 1;
                        let mut payload = self.payloads.to_le_bytes().to_vec();
                        payload.resize(size, 7);
                        events.push(payload);
                    }
                    let request = (rng.below(2) == 0).then_some(self.payloads);
                    if let Some(request) = request {
                        self.requests.push((n, expected, count, request));
                    }
                    Op::Batch { entity: n, epoch, expected, events, request }
                }
            };
            state.apply(self.term, &op);
            ops.push(op);
        }
        ops
    }

    /// Batches of some of the entities that go together; now and then one of them does not fit.
    fn together(&mut self, rng: &mut Rng, state: &Applied, epoch: u64) -> Op {
        let first = rng.below(ENTITIES as u64) as usize;
        let batches = (first..ENTITIES).map(|entity| {
            let len = state.streams[entity].events.len() as u64;
            let expected = if rng.below(8) == 0 { rng.below(len + 2) } else { len };
            self.payloads += 1;
            let payload = self.payloads.to_le_bytes().to_vec();
            let events = vec![payload; 1 + rng.below(3) as usize];
            let request = (rng.below(2) == 0).then_some(self.payloads);
            Op::Batch { entity, epoch, expected, events, request }
        });
        Op::Together(batches.collect())
    }

    /// Adds entries to the log as it is wanted.
    fn write(&mut self, rng: &mut Rng) -> Vec<Logged> {
        let mut state = self.state_at(self.wanted.len());
        let mut new = Vec::new();
        for _ in 0..1 + rng.below(4) {
            let index = (self.wanted.len() + new.len()) as u64;
            // The first entry of a group is its membership.
            let ops = if index == 0 { Vec::new() } else { self.ops(rng, &mut state) };
            new.push(logged(self.shard, self.term, index, ops));
        }
        for logged in &new {
            self.wanted.push(logged.clone());
            self.possible.push(self.wanted.clone());
        }
        new
    }

    /// What is wanted is durable.
    fn durable(&mut self) {
        self.possible = vec![self.wanted.clone()];
    }

    /// What must be there after a crash: the log as it was when it was last told to be durable, or as
    /// one of the entries made it that were written since.
    async fn check_log(&mut self, group: &GroupLog, what: &str) {
        let state = group.state();
        let first = state.purged.map_or(0, |id| id.index as usize + 1);
        let len = state.last.map_or(0, |id| id.index as usize + 1);
        assert!(first <= self.committed, "{what}: purged {first} of {}", self.committed);
        let mut found = Vec::new();
        while first + found.len() < len {
            let from = (first + found.len()) as u64;
            let read = group.read(from, len as u64, 3000).await.expect("readable");
            assert!(!read.is_empty(), "{what}: nothing at {from} of {len}");
            found.extend(read);
        }
        let same = |log: &&Vec<Logged>| {
            log.len() == len && log[first..].iter().map(|l| &l.entry).eq(&found)
        };
        let Some(log) = self.possible.iter().find(same) else {
            let ids = |log: &Vec<Logged>| log.iter().map(|l| l.entry.id).collect::<Vec<_>>();
            let possible: Vec<_> = self.possible.iter().map(ids).collect();
            let found: Vec<_> = found.iter().map(|entry| entry.id).collect();
            panic!("{what}: from {first} there is {found:?}, possible is {possible:?}");
        };
        self.wanted = log.clone();
        self.durable();
    }

    async fn check_applied(&self, log: &NodeLog, len: usize, what: &str) {
        let state = self.state_at(len);
        let mut all = Vec::new();
        for (n, stream) in state.streams.iter().enumerate() {
            let id = entity(self.shard, n);
            let head = log.head(&id).await.expect("a head");
            let expected = (stream.events.len() as u64, stream.deleted_to);
            assert_eq!((head.last_seq.0, head.deleted_to.0), expected, "{what}: {id}");
            let mut records = Vec::new();
            let mut chunks = log.replay(&id, ReplayRange::ALL);
            while let Some(chunk) = chunks.next().await {
                records.extend(chunk.expect("readable"));
            }
            let wanted = &stream.events[stream.deleted_to as usize..];
            assert_eq!(records.len(), wanted.len(), "{what}: {id}");
            for (record, (payload, request)) in records.iter().zip(wanted) {
                assert_eq!(record.event.payload, payload, "{what}: {id} {}", record.seq);
                let known = record.request.as_ref().map(|r| r.id.as_str().to_owned());
                assert_eq!(known, request.map(|r| r.to_string()), "{what}: {id}");
            }
            all.extend(records);
        }
        let count = all.len();
        let mut tail = log.tail(ShardId(self.shard), Position::ZERO);
        let mut last = Position::ZERO;
        let mut found = 0;
        while found < count {
            let next = timeout(PATIENCE, tail.next()).await;
            let next = next.unwrap_or_else(|_| panic!("{what}: the tail has {found} of {count}"));
            for record in next.expect("more").expect("readable") {
                assert!(
                    record.position > last || last == Position::ZERO,
                    "{what}: the tail's order"
                );
                last = record.position;
                found += usize::from(all.contains(&record));
            }
        }
    }

    /// Applies committed entries up to `len`, and compares what they come to.
    async fn apply(&mut self, group: &GroupLog, len: usize) -> Result<(), JournalError> {
        let from = group.state().applied.map_or(0, |id| id.index as usize + 1);
        if from >= len {
            return Ok(());
        }
        self.committed = self.committed.max(len);
        let entries = self.wanted[from..len].iter().map(|logged| logged.entry.clone()).collect();
        let outcomes = group.apply(entries).await?;
        let mut state = self.state_at(from);
        for (logged, outcomes) in self.wanted[from..len].iter().zip(&outcomes) {
            let term = logged.entry.id.term;
            let verdicts: Vec<_> = logged.ops.iter().flat_map(|op| state.apply(term, op)).collect();
            let found: Vec<_> = outcomes.iter().map(Verdict::from).collect();
            assert_eq!(found, verdicts, "{:?}", logged.ops);
        }
        assert_eq!(group.state().epoch.0, state.epoch);
        Ok(())
    }
}

/// One life: from a start to the crash, or to its end.
async fn live(disk: &CrashDisk, rng: &mut Rng, groups: &mut [Group], steps: u64, what: &str) {
    let (log, wishes) = match open(disk, rng.0).await {
        Ok(opened) => opened,
        Err(error) => {
            assert!(disk.is_down(), "{what}: {error}");
            return;
        }
    };
    release(&log, wishes);
    for group in &mut *groups {
        if disk.is_down() {
            return;
        }
        let handle = log.group(ShardId(group.shard));
        group.check_log(&handle, what).await;
        let state = handle.state();
        let applied = state.applied.map_or(0, |id| id.index as usize + 1);
        assert!(applied <= group.committed, "{what}");
        let (kept, sent) = group.votes;
        let found = state.vote.map_or(0, |v| u64::from_le_bytes(v.as_ref().try_into().unwrap()));
        assert!(found == kept || found == sent, "{what}: vote {found} of {kept}, {sent}");
        group.votes = (found, found);
        let model = group.state_at(applied);
        assert_eq!(state.epoch.0, model.epoch, "{what}");
        let membership = group.wanted[..applied]
            .iter()
            .rev()
            .find(|l| matches!(l.entry.body, super::super::entry::Body::Membership(_)));
        assert_eq!(state.membership.map(|m| m.0), membership.map(|l| l.entry.id), "{what}");
        group.check_applied(&log, applied, what).await;
    }
    for _ in 0..steps {
        let at = rng.below(groups.len() as u64) as usize;
        let kind = rng.below(14);
        let done = timeout(PATIENCE, step(&log, &mut groups[at], rng, kind)).await;
        let done = done.unwrap_or_else(|_| panic!("{what}: step {kind} never ended"));
        match done {
            Err(JournalError::Unavailable { .. }) | Ok(()) if !disk.is_down() => {}
            _ if disk.is_down() => break,
            done => panic!("{what}: {done:?}"),
        }
    }
    if !disk.is_down() && rng.below(3) == 0 {
        log.shutdown().await;
    }
}

async fn step(
    log: &Arc<NodeLog>,
    group: &mut Group,
    rng: &mut Rng,
    kind: u64,
) -> Result<(), JournalError> {
    let handle = log.group(ShardId(group.shard));
    match kind {
        0..5 => {
            let new = group.write(rng);
            append(&handle, new.into_iter().map(|logged| logged.entry).collect()).await?;
            group.durable();
        }
        5 => {
            // Nobody waits for this one.
            let new = group.write(rng);
            handle.append(new.into_iter().map(|l| l.entry).collect(), Box::new(|_| {}));
        }
        6 => {
            group.votes.1 += 1;
            vote(&handle, group.votes.1).await?;
            group.votes.0 = group.votes.1;
        }
        7 if group.wanted.len() > group.committed => {
            let gone = group.wanted.len() - group.committed;
            let keep = group.committed + rng.below(gone as u64) as usize;
            group.wanted.truncate(keep);
            handle.truncate_after(group.wanted.last().map(|l| l.entry.id));
            group.term += 1;
            let new = group.write(rng);
            append(&handle, new.into_iter().map(|logged| logged.entry).collect()).await?;
            group.durable();
        }
        7 => group.term += 1,
        8..11 => {
            let len = group.wanted.len() - rng.below(group.wanted.len() as u64 / 2 + 1) as usize;
            group.apply(&handle, len).await?;
            let applied = handle.state().applied.map_or(0, |id| id.index as usize + 1);
            group.check_applied(log, applied, "after applying").await;
        }
        11 => {
            if let Some(applied) = handle.state().applied {
                let index = rng.below(applied.index + 1);
                let id = group.wanted[index as usize].entry.id;
                handle.purge(id);
                assert!(handle.state().purged >= Some(id));
            }
        }
        12 => {
            let (first, len) = (handle.state().purged, group.wanted.len() as u64);
            let from = first.map_or(0, |id: LogId| id.index + 1);
            if from < len {
                let from = from + rng.below(len - from);
                let read = handle.read(from, len, 1 + rng.below(5000) as usize).await?;
                assert!(!read.is_empty());
                for (entry, logged) in read.iter().zip(&group.wanted[from as usize..]) {
                    assert_eq!(*entry, logged.entry);
                }
            }
        }
        _ => log.maintain().await?,
    }
    Ok(())
}

async fn history(seed: u64) {
    let mut rng = Rng(seed);
    let mut disk = CrashDisk::default();
    let mut groups: Vec<_> = (0..2)
        .map(|shard| Group {
            shard,
            term: 1,
            possible: vec![Vec::new()],
            wanted: Vec::new(),
            committed: 0,
            votes: (0, 0),
            payloads: 0,
            requests: Vec::new(),
        })
        .collect();
    for life in 0..2 + rng.below(5) {
        let what = format!("seed {seed}, life {life}");
        let early = 1 + rng.below(12);
        let n = [early, rng.below(60), rng.below(400), u64::MAX / 2][rng.below(4) as usize];
        disk.crash_at(n.max(1));
        let steps = 1 + rng.below(60);
        live(&disk, &mut rng, &mut groups, steps, &what).await;
        let keep = [Keep::Nothing, Keep::Everything, Keep::Sectors][rng.below(3) as usize];
        disk = disk.after_crash(keep);
    }
    live(&disk, &mut rng, &mut groups, 8, &format!("seed {seed}, last")).await;
}

/// Runs the history of a seed, the same each time.
pub(super) fn run(seed: u64) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(history(seed));
}

#[test]
fn random_histories_come_to_what_the_model_says() {
    let seeds = std::env::var("LOG_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let first = std::env::var("LOG_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    (first..first + seeds).for_each(run);
}
