//! The end of a run: everything heals, everybody must serve again, and what callers were told is compared
//! with what the nodes hold.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use duractor::{AskError, Node};
use duractor_journal::{EntityId, EventRecord, NodeId, ShardId, Term};
use tokio::time::{Instant, sleep, timeout};

use super::{
    builder::Check,
    subject::Subject,
    world::{Inner, World},
};
use crate::{
    cluster::network::Stop,
    machines::{Site, all_whole},
};

/// So long may the cluster take until it is whole.
const WHOLE_WITHIN: Duration = Duration::from_secs(60);
/// So long an entity until it answers.
const SERVES_WITHIN: Duration = Duration::from_secs(20);
/// So long may go on what it was sent.
const SETTLES_WITHIN: Duration = Duration::from_secs(5);
/// And so long what a test began.
const ENDS_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// Waits until all nodes are up and every shard has its replicas and a leader.
pub(super) async fn whole(inner: &Arc<Inner>) {
    let end = Instant::now() + WHOLE_WITHIN;
    let shards = inner.setup.shards;
    while !all_whole(&**inner, shards) && !inner.notes.is_violated() {
        if Instant::now() > end {
            let processes = inner.processes().into_iter();
            let clusters = processes.filter_map(|process| process.up().cluster);
            let problems: Vec<_> = clusters.map(|cluster| cluster.status().problems).collect();
            return inner.violated(format!("V: the cluster is never whole: {problems:?}"));
        }
        sleep(LOOK).await;
    }
}

/// What the test began comes to its end.
pub(super) async fn ended(inner: &Arc<Inner>) {
    inner.end();
    inner.heal();
    let mut tasks = inner.take_tasks();
    let all = async { while tasks.join_next().await.is_some() {} };
    if timeout(ENDS_WITHIN, all).await.is_err() {
        inner.violated("V: something that the test began never ends".into());
    }
}

/// All checks. How many commands were checked.
pub(super) async fn check(inner: &Arc<Inner>) -> Result<u64, String> {
    whole(inner).await;
    // What is acknowledged outlives everything: all nodes lose power, one after the other or at once.
    if inner.notes.fork_rng().chance(0.5) {
        inner.machines().nodes.keys().for_each(|id| inner.stop(*id, Stop::Crashed));
        inner.machines().nodes.keys().for_each(|id| inner.start(*id, false));
        whole(inner).await;
    }
    let mut checked = 0;
    for subject in inner.subjects.all() {
        if inner.notes.is_violated() {
            return Ok(checked);
        }
        checked += one(inner, subject.as_ref()).await?;
    }
    for (name, invariant) in &inner.setup.invariants {
        let holds = invariant(World { inner: inner.clone() }).await;
        holds.map_err(|what| format!("{name}: {what}"))?;
    }
    for id in inner.machines().nodes.keys() {
        if inner.setup.checks(Check::Ledger)
            && timeout(WHOLE_WITHIN, inner.shut_down(*id)).await.is_err()
        {
            return Err(format!("V: node {id} never shuts down"));
        }
    }
    Ok(checked)
}

/// One entity: every node has the same journal, its state is what that makes, its writers came one after
/// the other, and callers were told what fits.
async fn one(inner: &Arc<Inner>, subject: &dyn Subject) -> Result<u64, String> {
    let (state, journals) = settled(inner, subject).await?;
    let mut all = journals.iter();
    let Some((first, journal)) = all.next() else {
        return Err(format!("V: no node has a replica of {}", subject.id()));
    };
    if inner.setup.checks(Check::Replicas)
        && let Some((other, _)) = all.find(|(_, other)| *other != journal)
    {
        return Err(format!(
            "C: nodes {first} and {other} have other journals of {}",
            subject.id()
        ));
    }
    if inner.setup.checks(Check::SingleWriter) {
        single_writer(subject.id(), journal)?;
    }
    // Where the first events were deleted, what handlers saw cannot be known again.
    let is_complete = journal.first().is_none_or(|record| record.seq.0 == 1);
    if !inner.setup.checks(Check::Linearizable) || !is_complete {
        inner.notes.count("entities_not_checked", 1);
        return Ok(0);
    }
    let Some((_, node)) = inner.process(*first) else {
        return Err(format!("V: node {first} is not up"));
    };
    subject.check(&node, journal, &state)
}

type Journals = BTreeMap<NodeId, Vec<EventRecord>>;

/// The state, and the journal of every replica, once they stand still: what an entity was sent may still be on
/// its way. As they are then, where they never do.
async fn settled(inner: &Arc<Inner>, subject: &dyn Subject) -> Result<(Bytes, Journals), String> {
    let end = Instant::now() + SETTLES_WITHIN;
    loop {
        let before = state(inner, subject).await?;
        let journals = journals(inner, subject).await?;
        let stands = state(inner, subject).await? == before;
        let mut all = journals.values();
        let first = all.next();
        if stands && all.all(|other| Some(other) == first) || Instant::now() > end {
            return Ok((before, journals));
        }
        sleep(LOOK).await;
    }
}

async fn journals(inner: &Arc<Inner>, subject: &dyn Subject) -> Result<Journals, String> {
    let shard = subject.id().shard(inner.setup.shards);
    let mut journals = Journals::new();
    for id in inner.machines().nodes.keys() {
        if has_replica(inner, *id, shard) {
            let read =
                until(inner, *id, subject.id(), |node| async move { subject.journal(&node).await });
            journals.insert(*id, read.await?);
        }
    }
    Ok(journals)
}

/// W: terms of writers do not go back.
fn single_writer(id: &EntityId, journal: &[EventRecord]) -> Result<(), String> {
    let mut newest = Term::default();
    for record in journal {
        if record.epoch < newest {
            let (seq, epoch) = (record.seq, record.epoch);
            return Err(format!(
                "W: event {seq} of {id} is of epoch {epoch}, after one of {newest}"
            ));
        }
        newest = record.epoch;
    }
    Ok(())
}

fn has_replica(inner: &Inner, id: NodeId, shard: ShardId) -> bool {
    let cluster = inner.process(id).and_then(|(process, _)| process.up().cluster);
    cluster.is_some_and(|it| it.groups().group(shard).voters.contains(&it.me()))
}

/// The state, at whichever node runs the entity.
async fn state(inner: &Arc<Inner>, subject: &dyn Subject) -> Result<Bytes, String> {
    let end = Instant::now() + SERVES_WITHIN;
    let mut last = "no node is up".to_owned();
    while Instant::now() < end {
        for id in inner.machines().nodes.keys() {
            let Some((_, node)) = inner.process(*id) else { continue };
            match subject.state(&node).await {
                Ok(state) => return Ok(state),
                Err(AskError::NotOwner { .. }) => {}
                Err(error) => last = error.to_string(),
            }
        }
        sleep(LOOK).await;
    }
    Err(format!("V: {} does not answer anywhere: {last}", subject.id()))
}

/// Asks a node again and again.
async fn until<T, F: Future<Output = Result<T, AskError>>>(
    inner: &Arc<Inner>,
    id: NodeId,
    entity: &EntityId,
    ask: impl Fn(Arc<Node>) -> F,
) -> Result<T, String> {
    let end = Instant::now() + SERVES_WITHIN;
    loop {
        let why = match inner.process(id) {
            None => "it is not up".to_owned(),
            Some((_, node)) => match ask(node).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error.to_string(),
            },
        };
        if Instant::now() > end {
            return Err(format!("V: {entity} cannot be read at node {id}: {why}"));
        }
        sleep(LOOK).await;
    }
}
