//! Journal groups on several nodes, all of them simulated in one process from one seed: networks
//! that lose and delay, disks that lose power, clocks that jump, members that change.
//!
//! A run has a load phase, in which clients write and read while things go wrong, and an end: faults
//! heal, every node is restarted, every shard must serve again within ten seconds of virtual time
//! (invariant **V**), and then the history of all calls and the contents of all replicas are checked
//! (**A**, **W**, **L**, **C**; **S** throughout: no panic, and no error but those that fit).
//!
//! Start here, then read downwards; each module uses only those above it:
//!
//! | module | what it holds |
//! |---|---|
//! | [`network`] | the `Transport` port, simulated |
//! | [`history`] | what clients saw, as plain data |
//! | [`checks`] | whether a history and the replicas keep the invariants |
//! | `plan` | what a seed is about |
//! | `planted` | bugs that must be found |
//! | `subject` | the journal that is tested |
//! | `world`, `owner` | the nodes; who writes to shards at a node |
//! | `clients` | the load |
//! | `trouble`, `members` | what goes wrong; changes of members |
//! | `settle` | the end of a run |

pub mod checks;
mod clients;
pub mod history;
mod members;
pub mod network;
mod owner;
mod plan;
mod planted;
mod settle;
mod subject;
mod trouble;
mod world;

use std::{sync::Arc, time::Duration};

use duractor_journal::EntityId;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use self::{clients::Client, history::History, plan::Plan, subject::Open, world::World};
use crate::{
    consistency::{
        Report, Violation,
        report::{Checked, watched},
    },
    disk::SimDisk,
    rng::Rng,
};

pub use planted::Planted;

/// Runs one seed. `trace` prints what happens to standard error.
#[must_use]
pub fn run(seed: u64, planted: Option<Planted>, trace: bool) -> Report {
    run_with(&subject::real(), seed, planted, trace)
}

fn run_with(open: &Open, seed: u64, planted: Option<Planted>, trace: bool) -> Report {
    planted::plant(planted);
    let report = watched(|report| {
        let mut rng = Rng::new(seed);
        let plan = Plan::draw(&mut rng, planted);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .map_err(|error| Violation(format!("no runtime: {error}")))?;
        let local = async {
            let history = History::new(plan.log.shards, entities(&plan, &mut rng));
            let world = World::new(plan, planted, open.clone(), (rng, trace), history);
            let checked = all(&world).await;
            write_up(&world, report, checked)
        };
        runtime.block_on(local)
    });
    planted::plant(None);
    report
}

/// The entities: those of the load, and one of each shard to see whether it serves.
fn entities(plan: &Plan, rng: &mut Rng) -> Vec<EntityId> {
    let count = plan.shared_entities + plan.single_entities + 1;
    let load = (0..count).filter_map(|n| EntityId::new("account", &n.to_string()).ok());
    let mut ids: Vec<_> = load.collect();
    // Which of them are hot differs from seed to seed.
    ids.rotate_left(rng.index(count));
    for shard in 0..plan.log.shards {
        let mut probes = (0..).filter_map(|n| EntityId::new("probe", &n.to_string()).ok());
        ids.extend(probes.find(|id| id.shard(plan.log.shards).0 == shard));
    }
    ids
}

/// The whole run; how many records were compared in the end.
async fn all(world: &Arc<World>) -> u64 {
    world.say(90, || format!("{:?}", world.plan));
    for id in world.nodes.keys().copied() {
        world.start(id).await;
    }
    let mut members = members::initialize(world).await;
    // A group whose first entry is on one disk alone would be gone with that.
    settle::all_serve(world).await;
    let mut tasks = JoinSet::new();
    load(world, &mut tasks);
    let (done, changed) = tokio::sync::oneshot::channel();
    let (here, before) = (world.clone(), members.clone());
    tasks.spawn(async move { drop(done.send(members::change(here, before).await)) });
    let load = Duration::from_millis(world.plan.load_ms);
    let over = async {
        world.over.notified().await;
    };
    if timeout(load, over).await.is_ok() {
        return 0;
    }
    world.ending.store(true, std::sync::atomic::Ordering::Relaxed);
    settle::heal(world);
    // What is under way ends by itself, as nobody begins anything new.
    let changed = timeout(Duration::from_secs(30), changed);
    match changed.await {
        Ok(Ok(changed)) => members = changed,
        _ => world.violated("V: a change of members never ended"),
    }
    sleep(Duration::from_millis(5)).await;
    for step in 0..3 {
        if world.notes().violation.is_some() {
            return 0;
        }
        match step {
            0 => settle::serve_again(world).await,
            1 => {
                let repaired = settle::repair(world, &mut members);
                if timeout(Duration::from_secs(30), repaired).await.is_err() {
                    world.violated("V: a lost disk is never replaced");
                }
            }
            _ => {
                let compared = settle::compare(world, &members);
                match timeout(Duration::from_secs(60), compared).await {
                    Ok(compared) => return compared,
                    Err(_) => world.violated("V: the replicas never become equal"),
                }
            }
        }
    }
    0
}

fn load(world: &Arc<World>, tasks: &mut JoinSet<()>) {
    let (shared, single) = (world.plan.shared_entities, world.plan.single_entities);
    for _ in 0..world.plan.clients {
        tasks.spawn(Client::new(world).write());
    }
    for entity in shared..shared + single {
        tasks.spawn(Client::new(world).write_alone(entity));
    }
    for _ in 0..world.plan.readers {
        tasks.spawn(Client::new(world).read());
    }
    tasks.spawn(Client::new(world).write_lossy(shared + single));
    tasks.spawn(trouble::make(world.clone()));
}

fn write_up(world: &World, report: &mut Report, checked: u64) -> Checked {
    let disks: Vec<_> = world.nodes.values().map(|node| node.sim()).collect();
    let mut notes = world.notes();
    report.acked = notes.history.acked();
    report.checked = checked + notes.history.reads.len() as u64;
    report.lives = u64::from(world.plan.nodes);
    notes.faults.iter().for_each(|(kind, count)| report.fault(kind, *count));
    let net = world.net.counts();
    for (kind, count) in [
        ("frames_lost", net.lost),
        ("frames_doubled", net.duplicated),
        ("sessions_lost", net.sessions_lost),
        ("window_full", net.full),
    ] {
        report.fault(kind, count);
    }
    let refused = notes.history.requests.iter().filter(|r| clients::refused(r)).count();
    for (what, count) in [
        ("requests", notes.history.requests.len()),
        ("requests_refused", refused),
        ("reads", notes.history.reads.len()),
        ("claims", notes.history.claims.len()),
    ] {
        *report.counts.entry(what).or_default() += count as u64;
    }
    disks.iter().for_each(|sim| report.take_faults(sim.disk()));
    let disk = |sum: u64, disk: &SimDisk| crate::rng::mix(sum ^ disk.trace_hash());
    report.trace = disks
        .iter()
        .fold(notes.trace.hash ^ world.net.trace_hash(), |sum, sim| disk(sum, sim.disk()));
    match notes.violation.take() {
        Some(what) => Err(Violation(what)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
