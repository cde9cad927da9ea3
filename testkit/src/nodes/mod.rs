//! Clusters of whole nodes, all in one process from one seed: links, forming and changing the cluster,
//! journal groups, entities, singletons. Everything is what an application runs, but for the seams:
//! network, disks, clocks and entropy are simulated.
//!
//! A run forms a cluster, puts it under load while things go wrong, heals everything, restarts every
//! node, and then checks what clients saw against what the nodes hold: **A** and **L** (each operation
//! once, in an order that fits what clients saw), **W** (singletons and locks: never two at once, and their
//! fencing tokens rise), **C** (all nodes hold the same), **V** (everything serves again), **S** (no
//! panic, and no error but those that fit), and that the ledger of commands balances.
//!
//! Start here, then read downwards; each module uses only those above it:
//!
//! | module | what it holds |
//! |---|---|
//! | `account` | the entity of the load |
//! | `history` | what clients saw, and its checks |
//! | `resource` | what singletons work on |
//! | `plan`, `planted` | what a seed is about; bugs that must be found |
//! | `world`, `life` | the machines and what is written down; what runs on them |
//! | `guest` | a client from outside |
//! | `clients`, `errands`, `locks`, `transfers` | the load |
//! | `health` | whether all members, groups and entities are as they should be |
//! | `upkeep` | what operators do: draining, restarting, pausing |
//! | `trouble` | what goes wrong |
//! | `settle` | the end of a run |

mod account;
mod clients;
mod errands;
mod guest;
mod health;
mod history;
mod life;
mod locks;
mod plan;
mod planted;
mod resource;
mod settle;
mod transfers;
mod trouble;
mod upkeep;
mod world;

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use duractor_journal::NodeId;
use tokio::{task::JoinSet, time::timeout};

use self::{
    clients::Client, errands::Errander, locks::Locker, plan::Plan, transfers::Teller, world::World,
};
use crate::{
    consistency::{
        Report, Violation,
        report::{Checked, watched},
    },
    disk::SimDisk,
    machines::Site,
    rng::Rng,
};

pub use planted::Planted;

/// Runs one seed. `trace` prints what happens to standard error.
#[must_use]
pub fn run(seed: u64, planted: Option<Planted>, trace: bool) -> Report {
    planted::plant(planted);
    let report = watched(|report| {
        let mut rng = Rng::new(seed);
        let mut plan = Plan::draw(&mut rng, planted);
        // Not drawn: seeds that found something once go on as they did.
        plan.guest = planted.is_none() && seed % 3 == 1;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .map_err(|error| Violation(format!("no runtime: {error}")))?;
        runtime.block_on(async {
            let world = World::new(plan, planted, rng, trace);
            let checked = all(&world).await;
            let written = write_up(&world, report, checked);
            world.close().await;
            written
        })
    });
    planted::plant(None);
    report
}

/// The whole run; how many calls were checked in the end.
async fn all(world: &Arc<World>) -> u64 {
    world.say(90, || format!("{:?}", world.plan));
    for id in world.machines.nodes.keys().copied() {
        world.start(id, id == NodeId(1));
    }
    health::whole(world).await;
    health::all_serve(world).await;
    let mut crowd = Crowd::default();
    for n in 0..world.plan.clients {
        crowd.add(format!("client {n}"), Client::new(world).run());
    }
    for n in 0..world.plan.lockers {
        crowd.add(format!("locker {n}"), Locker::new(world).run());
    }
    for n in 0..world.plan.tellers {
        crowd.add(format!("teller {n}"), Teller::new(world).run());
    }
    for n in 0..world.plan.errands {
        crowd.add(format!("errander {n}"), Errander::new(world).run());
    }
    if world.plan.guest {
        crowd.add("the client from outside".to_owned(), guest::run(world.clone()));
    }
    crowd.add("the trouble".to_owned(), trouble::make(world.clone()));
    let load = Duration::from_millis(world.plan.load_ms);
    let over = async { world.over.notified().await };
    if timeout(load, over).await.is_ok() {
        return 0;
    }
    world.end();
    world.heal();
    if timeout(Duration::from_secs(30), crowd.ended()).await.is_err() {
        let left = crowd.left.values().map(String::as_str).collect::<Vec<_>>().join(", ");
        world.violated(format!("V: what was under way never ended: {left}"));
    }
    for step in 0..5 {
        if world.notes().violation.is_some() {
            return 0;
        }
        match step {
            0 => settle::serve_again(world).await,
            1 => health::whole(world).await,
            2 => errands::settled(world).await,
            3 if world.plan.rehearsal => upkeep::rehearse(world).await,
            3 => upkeep::balanced(world).await,
            _ => match settle::compare(world).await {
                Ok(checked) => return checked,
                Err(what) => world.violated(what),
            },
        }
    }
    0
}

/// Those who do something to a cluster at once.
#[derive(Default)]
struct Crowd {
    tasks: JoinSet<()>,
    /// Who has not ended.
    left: BTreeMap<tokio::task::Id, String>,
}

impl Crowd {
    fn add(&mut self, name: String, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.tasks.spawn(task).id();
        self.left.insert(id, name);
    }

    async fn ended(&mut self) {
        while let Some(ended) = self.tasks.join_next_with_id().await {
            let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
            self.left.remove(&id);
        }
    }
}

fn write_up(world: &World, report: &mut Report, checked: u64) -> Checked {
    let disks: Vec<_> = world.machines.nodes.values().map(|place| place.sim()).collect();
    let mut notes = world.notes();
    let history = &notes.history;
    report.acked = history.ops.iter().filter(|op| op.acked.is_some()).count() as u64;
    report.checked = checked;
    report.lives = u64::from(world.plan.nodes);
    notes.faults.iter().for_each(|(kind, count)| report.fault(kind, *count));
    let net = world.machines.net.counts();
    for (kind, count) in
        [("frames_lost", net.lost), ("sessions_lost", net.sessions_lost), ("window_full", net.full)]
    {
        report.fault(kind, count);
    }
    let (ops, seen) = (history.ops.len() as u64, history.seen.len() as u64);
    let mut counts = notes.counts.clone();
    let (transfers, done) = world.book.counts();
    counts.extend([("transfers", transfers), ("transfers_done", done)]);
    counts.extend([("ops", ops), ("looks", seen), ("singleton_runs", world.resource.runs())]);
    report.counts = counts;
    let disk = |sum: u64, disk: &SimDisk| crate::rng::mix(sum ^ disk.trace_hash());
    report.trace = disks
        .iter()
        .fold(notes.trace.hash ^ world.machines.net.trace_hash(), |sum, sim| disk(sum, sim.disk()));
    match notes.violation.take() {
        Some(what) => Err(Violation(what)),
        None => Ok(()),
    }
}
