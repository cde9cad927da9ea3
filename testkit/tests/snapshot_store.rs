//! The snapshot store on the simulated disk: whatever the disk does, what was acknowledged is
//! there, what is loaded is what was saved, and the store opens.

use std::{panic, path::Path, sync::Arc};

use duractor_journal::{EntityId, Seq, Timestamp};
use duractor_snapshot::{
    Criteria, RedbSnapshots, Retention, Snapshot, SnapshotError, SnapshotOptions, SnapshotStore,
};
use duractor_testkit::{DiskFaults, Fault, Op, Rng, Rule, SimEnv, run_sim};

/// Of each test; thousands more are for a quiet machine.
const SEEDS: u64 = 500;
const KEYS: u64 = 4;
const PATH: &str = "/data/node/snapshots.redb";

fn id(key: u64) -> EntityId {
    EntityId::new("order", &key.to_string()).expect("a valid id")
}

/// The one snapshot that there can be of an entity at a sequence number.
fn snap(key: u64, seq: u64) -> Snapshot {
    let mut rng = Rng::new(key << 32 | seq);
    let mut state = vec![0; rng.index(5_000)];
    rng.fill(&mut state);
    let (entity, timestamp) = (id(key), Timestamp(seq));
    Snapshot { entity, seq: Seq(seq), timestamp, schema_version: 1, state: state.into() }
}

async fn open(sim: &SimEnv) -> Result<Arc<RedbSnapshots>, SnapshotError> {
    let options = SnapshotOptions { cache_bytes: 1 << 20, ..SnapshotOptions::default() };
    RedbSnapshots::open(PATH, options, sim.env()).await
}

/// What each key is at: acknowledged, and asked for.
#[derive(Clone, Copy, Default)]
struct Known {
    acked: u64,
    asked: u64,
}

/// Loads all keys; each must be between what was acknowledged and what was asked for.
async fn check(store: &RedbSnapshots, known: &[Known]) {
    for (key, known) in (0..).zip(known) {
        let found = store.load(&id(key), Criteria::ALL).await.expect("loads");
        let seq = found.map_or(0, |found| {
            assert_eq!(found, snap(key, found.seq.0), "a wrong state");
            found.seq.0
        });
        assert!(
            (known.acked..=known.asked).contains(&seq),
            "{key} is at {seq}; {} was acknowledged, {} asked for",
            known.acked,
            known.asked,
        );
    }
}

/// Saves until something fails or there was enough of it.
async fn save_some(store: &RedbSnapshots, rng: &mut Rng, known: &mut [Known]) {
    for _ in 0..1 + rng.index(30) {
        let key = rng.below(KEYS);
        let at = &mut known[key as usize];
        at.asked += 1;
        let save = store.save(vec![snap(key, at.asked)], Retention::newest(2));
        if save.await.is_ok() {
            at.acked = at.asked;
        }
    }
}

/// Lives under faults, ending in crashes; then all must be well.
async fn lives(sim: &SimEnv, rng: &mut Rng, faults: &[Rule]) {
    let mut known = [Known::default(); KEYS as usize];
    for _ in 0..3 {
        faults.iter().for_each(|rule| sim.disk().inject(rule.clone()));
        sim.disk().crash_at(1 + rng.below(150));
        if let Ok(store) = open(sim).await {
            check(&store, &known).await;
            save_some(&store, rng, &mut known).await;
            check(&store, &known).await;
            if rng.below(3) == 0 {
                store.shutdown().await;
            }
        }
        sim.crash();
        sim.disk().heal();
        tokio::task::yield_now().await;
    }
    let store = open(sim).await.expect("opens on a healthy disk");
    check(&store, &known).await;
    assert_eq!(store.damaged(), 0, "crashes and failures damage nothing");
    store.shutdown().await;
    assert!(sim.disk().files().iter().all(|(path, _)| !path.to_string_lossy().contains("damaged")));
}

fn all_seeds(faults: impl Fn(&mut Rng) -> Vec<Rule>) {
    for seed in 0..SEEDS {
        run_sim(seed, async |sim| {
            let mut rng = Rng::new(seed);
            let faults = faults(&mut rng);
            lives(&sim, &mut rng, &faults).await;
        });
    }
}

#[test]
fn crashes_lose_nothing_acknowledged() {
    all_seeds(|_| Vec::new());
}

#[test]
fn failing_writes_lose_nothing_acknowledged() {
    all_seeds(|rng| {
        let fault = [Fault::Eio, Fault::DropPages, Fault::MarkClean][rng.index(3)];
        vec![Rule::on_changes(fault).nth(1 + rng.below(100))]
    });
}

#[test]
fn a_full_disk_loses_nothing_acknowledged() {
    all_seeds(|rng| vec![Rule::on(Op::Write, Fault::Full).chance(rng.below(30) as f64 / 100.0)]);
}

#[test]
fn a_lost_power_with_names_kept_in_any_order() {
    for seed in 0..SEEDS {
        duractor_testkit::env::run_sim_with(
            seed,
            DiskFaults { unordered_names: true, ..DiskFaults::default() },
            async |sim| lives(&sim, &mut Rng::new(seed), &[]).await,
        );
    }
}

/// redb panics on some damage; the store contains that, and the output need not show each.
fn quiet_redb() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !info.location().is_some_and(|at| at.file().contains("redb")) {
            usual(info);
        }
    }));
}

#[test]
fn flipped_bits_and_unreadable_pages_never_give_a_wrong_state() {
    quiet_redb();
    for seed in 0..SEEDS {
        run_sim(seed, async |sim| {
            let mut rng = Rng::new(seed);
            let mut known = [Known::default(); KEYS as usize];
            let store = open(&sim).await.expect("opens");
            save_some(&store, &mut rng, &mut known).await;
            if rng.below(2) == 0 {
                store.shutdown().await;
            }
            drop(store);
            sim.crash();
            sim.disk().flip_random_bits_where(1 + rng.index(20), |path| path == Path::new(PATH));
            if rng.below(4) == 0 {
                sim.disk().inject(Rule::on(Op::Read, Fault::Eio).chance(0.02));
            }
            known.iter_mut().for_each(|k| k.acked = 0);
            let store = match open(&sim).await {
                Ok(store) => store,
                // A store that is made anew cannot be made of pages that cannot be read.
                Err(SnapshotError::Io { .. }) => return,
                Err(error) => panic!("damage is fatal: {error}"),
            };
            check(&store, &known).await;
            save_some(&store, &mut rng, &mut known).await;
            store.shutdown().await;
        });
    }
}

#[test]
fn a_seed_gives_the_same_run_again() {
    let run = |seed| {
        run_sim(seed, async |sim| {
            lives(&sim, &mut Rng::new(seed), &[]).await;
            sim.disk().trace_hash()
        })
    };
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}
