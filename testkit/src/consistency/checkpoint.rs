//! Checkpoints of shards from one log to another: what arrives, what an interruption, a crash at any
//! step and damage in what is replaced do to it.

use std::path::Path;

use duractor_journal::{
    AppendBatch, EntityId, EventRecord, Head, JournalError, LogConfig, NewEvent, Seq, ShardId,
    Term, Timestamp,
    probe::{Probe, ProbeCut, ProbeImage, ProbeStaged},
};

use crate::{Keep, Rng, SimEnv, run_sim};

const SHARDS: u16 = 2;
const ENTITIES: u64 = 12;
const MEMBERS: &[u8] = b"members";

fn entity(n: u64) -> EntityId {
    EntityId::new("thing", &format!("number {n}")).unwrap()
}

fn entities(shard: ShardId) -> Vec<EntityId> {
    (0..ENTITIES).map(entity).filter(|id| id.shard(SHARDS) == shard).collect()
}

async fn open(sim: &SimEnv, dir: &str) -> Result<Probe, JournalError> {
    let mut config = LogConfig::new(dir);
    config.shards = SHARDS;
    config.segment_bytes = 16 << 10;
    let log = Probe::open(config, sim.env()).await?;
    for n in 0..SHARDS {
        // The only voter: what is durable is committed.
        log.apply_all(ShardId(n)).await?;
    }
    Ok(log)
}

fn batch(rng: &mut Rng, entity: &EntityId, epoch: Term, expected_seq: Seq) -> AppendBatch {
    let event = |rng: &mut Rng| {
        let mut payload = vec![0; rng.index(900)];
        rng.fill(&mut payload);
        NewEvent::new("happened", 1, payload)
    };
    let events = (0..1 + rng.below(4)).map(|_| event(rng)).collect();
    let (entity, timestamp) = (entity.clone(), Timestamp(7));
    AppendBatch { entity, epoch, expected_seq, timestamp, request: None, events }
}

/// Random writes, deletions, claims and maintenance.
async fn live(log: &Probe, rng: &mut Rng, steps: u64, maintain: bool, deletions: bool) {
    for _ in 0..steps {
        let entity = entity(rng.below(ENTITIES));
        let shard = entity.shard(SHARDS);
        let head = log.head(&entity).await.unwrap();
        match rng.below(24) {
            0 => drop(log.claim(shard).await.unwrap()),
            1 | 2 if deletions => {
                let (to, epoch) = (Seq(rng.below(head.last_seq.0 + 1)), epoch(log, shard));
                log.delete(&entity, to, epoch).await.unwrap();
            }
            3 if maintain && rng.chance(0.5) => log.maintain().await.unwrap(),
            _ => {
                let batch = batch(rng, &entity, epoch(log, shard), head.last_seq);
                log.write(&batch).await.unwrap();
            }
        }
    }
}

/// Brings the source's log of a shard so far that the target can get a checkpoint of it.
async fn ahead(source: &Probe, target: &Probe, shard: ShardId, rng: &mut Rng) -> ProbeCut {
    let index = |log: &Probe| log.applied(shard).map_or(0, |cut| cut.index);
    while index(source) <= index(target) {
        live(source, rng, 10, true, true).await;
    }
    source.applied(shard).unwrap()
}

fn epoch(log: &Probe, shard: ShardId) -> Term {
    log.applied(shard).map_or(Term(0), |cut| cut.epoch)
}

/// What readers see of a shard.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    streams: Vec<(EntityId, Head, Vec<EventRecord>)>,
    tail: Vec<EventRecord>,
}

async fn see(log: &Probe, shard: ShardId) -> Result<Seen, JournalError> {
    let mut streams = Vec::new();
    for entity in entities(shard) {
        let head = log.head(&entity).await?;
        let events = log.replay(&entity).await?;
        streams.push((entity, head, events));
    }
    // Deleted events are in the tail until their file is rewritten.
    let mut tail = log.tail(shard)?;
    tail.retain(|r| streams.iter().all(|(id, head, _)| *id != r.entity || r.seq > head.deleted_to));
    Ok(Seen { streams, tail })
}

impl Seen {
    /// The same with what was deleted meanwhile.
    fn with_deletions_of(mut self, later: &Seen) -> Seen {
        for ((entity, head, events), (_, newer, _)) in self.streams.iter_mut().zip(&later.streams) {
            head.deleted_to = newer.deleted_to.min(head.last_seq);
            events.retain(|record| record.seq > head.deleted_to);
            self.tail.retain(|r| r.entity != *entity || r.seq > head.deleted_to);
        }
        self
    }
}

/// Sends an image, with interruptions and with chunks that do not belong there.
async fn send(
    from: &Probe,
    to: &Probe,
    shard: ShardId,
    cut: ProbeCut,
    rng: &mut Rng,
) -> Result<ProbeStaged, JournalError> {
    let mut image: ProbeImage = from.image(shard, cut).await?;
    let mut intake = to.intake(shard, cut)?;
    let max = [1, 700, 5_000, usize::MAX][rng.index(4)];
    let mut last = None;
    while let Some(chunk) = image.next_chunk(max)? {
        let mut damaged = chunk.to_vec();
        let bit = rng.index(damaged.len() * 8);
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(intake.take(&damaged), Err(JournalError::Corrupt(_))), "a bit flipped");
        if rng.chance(0.1) {
            // The link is lost, and this chunk with it.
            image = from.image(shard, cut).await?;
            image.seek(&intake.cursor())?;
            continue;
        }
        intake.take(&chunk)?;
        assert!(intake.take(&chunk).is_err(), "once more");
        if let Some(last) = last.replace(chunk) {
            assert!(intake.take(&last).is_err(), "out of order");
        }
        if rng.chance(0.1) {
            image.seek(&intake.cursor())?;
        }
    }
    assert!(intake.is_complete());
    intake.finish(MEMBERS.into(), false)
}

async fn reopen(log: Probe, sim: &SimEnv, dir: &str, orderly: bool) -> Probe {
    if orderly {
        log.shutdown().await;
        drop(log);
    } else {
        drop(log);
        sim.kill();
    }
    open(sim, dir).await.unwrap()
}

#[test]
fn a_checkpoint_brings_what_was_there_at_the_cut() {
    let (mut hidden, mut runs) = (0, 0);
    for seed in 0..60 {
        let done = run_sim(seed, async |sim| {
            let mut rng = Rng::new(seed);
            let shard = ShardId(rng.below(2) as u16);
            let source = open(&sim, "/data/source").await.unwrap();
            let target = open(&sim, "/data/target").await.unwrap();
            let steps = rng.below(300) + 1;
            source.claim(shard).await.unwrap();
            live(&source, &mut rng, steps, true, true).await;
            let steps = rng.below(200);
            live(&target, &mut rng, steps, true, true).await;
            let cut = ahead(&source, &target, shard, &mut rng).await;
            let at_cut = see(&source, shard).await.unwrap();
            // The shard goes on while it is sent.
            let (steps, maintain) = (rng.below(120), rng.chance(0.5));
            live(&source, &mut rng, steps, maintain, seed % 3 > 0).await;
            let later = see(&source, shard).await.unwrap();
            let staged = match send(&source, &target, shard, cut, &mut rng).await {
                Ok(staged) => staged,
                Err(JournalError::Unavailable { .. }) if maintain && seed % 3 > 0 => return false,
                Err(error) => panic!("seed {seed}: {error}"),
            };
            let other = ShardId(1 - shard.0);
            let untouched = see(&target, other).await.unwrap();
            target.install(staged).await.unwrap();
            let expected = at_cut.with_deletions_of(&later);
            assert_eq!(see(&target, shard).await.unwrap(), expected, "seed {seed}");
            assert_eq!(see(&target, other).await.unwrap(), untouched);
            assert_eq!(target.applied(shard), Some(cut));
            let target = reopen(target, &sim, "/data/target", seed % 2 == 0).await;
            assert_eq!(see(&target, shard).await.unwrap(), expected, "seed {seed}, opened again");
            assert_eq!(see(&target, other).await.unwrap(), untouched);
            assert_eq!(target.applied(shard), Some(cut));
            assert_eq!(target.membership(shard).as_deref(), Some(MEMBERS));
            go_on(target, &sim, &mut rng, shard).await;
            true
        });
        runs += 1;
        hidden += u32::from(!done);
    }
    assert!(hidden * 3 < runs, "{hidden} of {runs} cuts were too old");
}

/// After a checkpoint the log is written, sealed, merged and opened again as any other.
async fn go_on(target: Probe, sim: &SimEnv, rng: &mut Rng, shard: ShardId) {
    live(&target, rng, 60, false, true).await;
    let before = see(&target, shard).await.unwrap();
    target.maintain().await.unwrap();
    target.maintain().await.unwrap();
    assert_eq!(see(&target, shard).await.unwrap(), before, "merged");
    target.verify().await.unwrap();
    let target = reopen(target, sim, "/data/target", true).await;
    assert_eq!(see(&target, shard).await.unwrap(), before, "merged and opened again");
    live(&target, rng, 30, true, true).await;
    target.verify().await.unwrap();
}

/// A source and a target whose shard 0 differ, and what both look like.
async fn two(sim: &SimEnv, rng: &mut Rng) -> (Probe, Probe, ProbeCut) {
    let source = open(sim, "/data/source").await.unwrap();
    let target = open(sim, "/data/target").await.unwrap();
    source.claim(ShardId(0)).await.unwrap();
    live(&source, rng, 80, true, true).await;
    live(&target, rng, 60, true, true).await;
    let cut = ahead(&source, &target, ShardId(0), rng).await;
    (source, target, cut)
}

#[test]
fn a_crash_at_any_step_installs_all_or_nothing() {
    let (mut old, mut new) = (0, 0);
    for seed in 0..40 {
        for step in 1.. {
            let went_through = run_sim(seed, async |sim| {
                let mut rng = Rng::new(seed);
                let (source, target, cut) = two(&sim, &mut rng).await;
                let expected = see(&source, ShardId(0)).await.unwrap();
                let before = [0, 1].map(ShardId);
                let before = [
                    see(&target, before[0]).await.unwrap(),
                    see(&target, before[1]).await.unwrap(),
                ];
                let staged = send(&source, &target, ShardId(0), cut, &mut rng).await.unwrap();
                sim.disk().crash_at(step);
                let installed = target.install(staged).await;
                let went_through = !sim.disk().is_down();
                if went_through {
                    sim.disk().heal();
                    sim.crash();
                } else {
                    sim.kill();
                    sim.disk().crash_keeping(Keep::Random);
                }
                drop((source, target));
                let target = open(&sim, "/data/target").await.unwrap_or_else(|error| {
                    panic!("seed {seed}, step {step}: {error}");
                });
                let now = see(&target, ShardId(0)).await.unwrap();
                let is_new = target.membership(ShardId(0)).is_some();
                if is_new {
                    assert_eq!(target.applied(ShardId(0)), Some(cut));
                    assert_eq!(now, expected, "seed {seed}, step {step}");
                    assert_eq!(target.membership(ShardId(0)).as_deref(), Some(MEMBERS));
                    new += 1;
                } else {
                    assert!(installed.is_err(), "seed {seed}, step {step}: it was acknowledged");
                    assert_eq!(now, before[0], "seed {seed}, step {step}");
                    old += 1;
                }
                assert_eq!(see(&target, ShardId(1)).await.unwrap(), before[1]);
                let left = sim.disk().files();
                let left =
                    left.iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "tmp"));
                assert_eq!(left.count(), 0, "swept");
                go_on(target, &sim, &mut rng, ShardId(0)).await;
                went_through
            });
            if went_through {
                assert!(step > 5, "an installation of {step} steps");
                break;
            }
        }
    }
    assert!(old > 40 && new > 40, "{old} times old, {new} times new");
}

#[test]
fn entries_after_the_cut_stay_where_they_are_to() {
    for seed in 0..10 {
        for step in 1.. {
            let went_through = run_sim(seed, async |sim| {
                let mut rng = Rng::new(seed);
                let shard = ShardId(0);
                let target = open(&sim, "/data/target").await.unwrap();
                target.claim(shard).await.unwrap();
                live(&target, &mut rng, 80, true, true).await;
                let cut = target.applied(shard).unwrap();
                // Durable here, acknowledged to a leader, and not applied yet.
                let id = entities(shard)[0].clone();
                let mut seq = target.head(&id).await.unwrap().last_seq;
                for _ in 0..12 {
                    let batch = batch(&mut rng, &id, cut.epoch, seq);
                    seq = seq.plus(batch.events.len() as u64);
                    target.append(&batch, 0).await.unwrap();
                }
                let last = target.last(shard);
                let mut image = target.image(shard, cut).await.unwrap();
                let mut intake = target.intake(shard, cut).unwrap();
                while let Some(chunk) = image.next_chunk(4_000).unwrap() {
                    intake.take(&chunk).unwrap();
                }
                let staged = intake.finish(MEMBERS.into(), true).unwrap();
                sim.disk().crash_at(step);
                let installed = target.install(staged).await;
                let went_through = !sim.disk().is_down();
                assert!(installed.is_ok() || !went_through, "{installed:?}");
                let target = if went_through && seed % 2 == 0 {
                    sim.disk().heal();
                    target
                } else {
                    drop(target);
                    sim.disk().heal();
                    sim.kill();
                    sim.disk().crash_keeping(Keep::Random);
                    open(&sim, "/data/target").await.unwrap()
                };
                assert_eq!(target.last(shard), last, "seed {seed}, step {step}: none is lost");
                target.apply_all(shard).await.unwrap();
                assert_eq!(target.head(&id).await.unwrap().last_seq, seq, "step {step}");
                let seen = see(&target, shard).await.unwrap();
                let target = reopen(target, &sim, "/data/target", seed % 3 > 0).await;
                target.apply_all(shard).await.unwrap();
                assert_eq!(see(&target, shard).await.unwrap(), seen, "seed {seed}, step {step}");
                go_on(target, &sim, &mut rng, shard).await;
                went_through
            });
            if went_through {
                break;
            }
        }
    }
}

/// Flips a bit in the first batch of a shard in every sealed file.
fn spoil(sim: &SimEnv, shard: ShardId) -> usize {
    let mut spoilt = 0;
    for (path, _) in sim.disk().files() {
        if !path.starts_with("/data/target") || path.extension().is_none_or(|e| e != "sealed") {
            continue;
        }
        let bytes = sim.disk().peek(&path).unwrap();
        let mut at = 64;
        while at + 32 <= bytes.len() && bytes[at + 12] != 0 {
            let len = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
            if bytes[at + 12] == 1 && bytes[at + 14] == shard.0 as u8 {
                spoilt += usize::from(sim.disk().flip_bit(&path, at as u64 + 34, 1));
                break;
            }
            at += 32 + len;
        }
    }
    spoilt
}

#[test]
fn damage_in_what_is_replaced_does_not_hurt() {
    let mut seen_damaged = 0;
    for seed in 0..20 {
        run_sim(seed, async |sim| {
            let mut rng = Rng::new(seed);
            let (source, target, cut) = two(&sim, &mut rng).await;
            target.maintain().await.unwrap();
            let expected = see(&source, ShardId(0)).await.unwrap();
            let other = see(&target, ShardId(1)).await.unwrap();
            if spoil(&sim, ShardId(0)) == 0 {
                return;
            }
            assert!(target.verify().await.is_err(), "seed {seed}: the damage is real");
            seen_damaged += u32::from(see(&target, ShardId(0)).await.is_err());
            let staged = send(&source, &target, ShardId(0), cut, &mut rng).await.unwrap();
            target.install(staged).await.unwrap();
            assert_eq!(see(&target, ShardId(0)).await.unwrap(), expected, "seed {seed}");
            target.verify().await.unwrap();
            let target = reopen(target, &sim, "/data/target", true).await;
            assert_eq!(see(&target, ShardId(0)).await.unwrap(), expected, "seed {seed}");
            assert_eq!(see(&target, ShardId(1)).await.unwrap(), other, "seed {seed}");
            target.verify().await.unwrap();
            go_on(target, &sim, &mut rng, ShardId(0)).await;
        });
    }
    assert!(seen_damaged > 10, "{seen_damaged} of 20");
}

#[test]
fn a_full_disk_refuses_a_checkpoint_and_changes_nothing() {
    run_sim(1, async |sim| {
        let mut rng = Rng::new(1);
        let (source, target, cut) = two(&sim, &mut rng).await;
        let before = see(&target, ShardId(0)).await.unwrap();
        let files = sim.disk().files().len();
        sim.disk().set_capacity(Some(sim.disk().used_bytes() + 1_000));
        let full = send(&source, &target, ShardId(0), cut, &mut rng).await.err();
        assert!(matches!(full, Some(JournalError::DiskFull { .. })), "{full:?}");
        assert_eq!(sim.disk().files().len(), files, "nothing is left behind");
        sim.disk().set_capacity(None);
        assert_eq!(see(&target, ShardId(0)).await.unwrap(), before);
        let file = sim.disk().mount();
        assert!(file.open(Path::new("/data/target/META")).unwrap().len().unwrap() > 0);
        let staged = send(&source, &target, ShardId(0), cut, &mut rng).await.unwrap();
        target.install(staged).await.unwrap();
        go_on(target, &sim, &mut rng, ShardId(0)).await;
    });
}
