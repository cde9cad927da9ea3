//! Files that were closed in good order, and what is in them.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::Arc};

use duractor_journal::{
    EntityId, Env, EventRecord, Journal, LogConfig, LogJournal, Position, ReplayRange, Seq,
    ShardId, Term,
};
use duractor_snapshot::{RedbSnapshots, Retention, Snapshot, SnapshotOptions, SnapshotStore};

use super::super::{
    Planted, Violation, content,
    model::{Model, Seen},
    read::{self, Reads},
    report::Checked,
    snapshot,
};
use crate::{disk::SimDisk, env::run_sim, rng::Rng};

pub(super) const LOG: &str = "/data/log";
pub(super) const SNAPSHOTS: &str = "/data/snapshots.redb";
pub(super) const ENTITIES: u64 = 6;

/// The files, and what is in them.
pub(super) struct Base {
    pub(super) disk: Arc<SimDisk>,
    pub(super) config: LogConfig,
    pub(super) entities: Vec<(EntityId, Seen)>,
    pub(super) tails: Vec<Vec<EventRecord>>,
    pub(super) snapshots: BTreeMap<(EntityId, Seq), Snapshot>,
}

thread_local! {
    #[allow(clippy::type_complexity, reason = "used right below")]
    static BASE: RefCell<Option<(u64, Option<Planted>, Rc<Base>)>> = const { RefCell::new(None) };
}

/// The files number `number`, from this thread's last seed if they are the same.
pub(super) fn base(number: u64, planted: Option<Planted>) -> Checked<Rc<Base>> {
    let have = BASE.with_borrow(|base| match base {
        Some((n, bug, base)) if (*n, *bug) == (number, planted) => Some(base.clone()),
        _ => None,
    });
    if let Some(base) = have {
        return Ok(base);
    }
    let built = Rc::new(run_sim(number, async |sim| {
        let mut rng = Rng::new(number);
        let config = config(&mut rng);
        let (entities, tails) = build_log(&mut rng, &config, &sim.env()).await?;
        let snapshots = build_snapshots(&mut rng, &sim.env()).await?;
        let disk = sim.disk().clone();
        Ok(Base { disk, config, entities, tails, snapshots })
    })?);
    BASE.set(Some((number, planted, built.clone())));
    Ok(built)
}

fn config(rng: &mut Rng) -> LogConfig {
    let mut config = LogConfig::new(LOG);
    config.shards = 1 + rng.below(3) as u16;
    config.segment_bytes = 16 << 10;
    config.merged_bytes = 48 << 10;
    config.fan_in = 2 + rng.index(3);
    config
}

fn unexpected<E: std::fmt::Display>(error: E) -> Violation {
    Violation(format!("building the files failed: {error}"))
}

type Content = (Vec<(EntityId, Seen)>, Vec<Vec<EventRecord>>);

async fn build_log(rng: &mut Rng, config: &LogConfig, env: &Env) -> Checked<Content> {
    let journal = LogJournal::open(config.clone(), env.clone()).await.map_err(unexpected)?;
    let ids: Vec<EntityId> = (0..ENTITIES).map(snapshot::id).collect();
    let mut model = Model::new(config.shards, ids.clone());
    let mut epochs: Vec<Term> = Vec::new();
    for shard in 0..config.shards {
        epochs.push(journal.claim(ShardId(shard)).await.map_err(unexpected)?);
    }
    let maintained = 60 + rng.index(60);
    for number in 0..maintained + rng.index(60) {
        let index = rng.index(ids.len());
        let (id, expected) = (&ids[index], model.kept_to(index));
        let epoch = epochs[usize::from(id.shard(config.shards).0)];
        let batch = content::batch(rng, number, (id, epoch, expected), 4 << 10);
        model.send(index, batch.clone());
        model.answered(number, &Ok(journal.append(batch).await.map_err(unexpected)?))?;
        if rng.chance(0.03) {
            let to = Seq(rng.below(expected.0 / 2 + 1));
            journal.delete_to(id, to, epoch).await.map_err(unexpected)?;
            model.deleted(index, to, &Ok(()));
        }
        if number == maintained / 2 {
            journal.maintain().await.map_err(unexpected)?;
        }
    }
    read::everything(&*journal, &mut model, Reads::Work).await?;
    let (mut entities, mut tails) = (Vec::new(), Vec::new());
    for id in &ids {
        let seen = read::entity(&*journal, id, ReplayRange::ALL).await.map_err(unexpected)?;
        entities.push((id.clone(), seen));
    }
    for shard in (0..config.shards).map(ShardId) {
        let tail = read::tail(journal.tail(shard, Position::ZERO)).await;
        tails.push(tail.map_err(unexpected)?);
    }
    journal.shutdown().await;
    Ok((entities, tails))
}

async fn build_snapshots(rng: &mut Rng, env: &Env) -> Checked<BTreeMap<(EntityId, Seq), Snapshot>> {
    let store = RedbSnapshots::open(SNAPSHOTS, options(), env.clone()).await.map_err(unexpected)?;
    let mut saved = BTreeMap::new();
    for number in 0..60 {
        let entity = snapshot::id(rng.below(ENTITIES));
        let content = snapshot::content(entity.clone(), Seq(1 + rng.below(12)), number);
        store.save(vec![content.clone()], Retention::All).await.map_err(unexpected)?;
        saved.insert((entity, content.seq), content);
    }
    store.shutdown().await;
    Ok(saved)
}

pub(super) fn options() -> SnapshotOptions {
    SnapshotOptions { cache_bytes: 64 << 10, ..SnapshotOptions::default() }
}
