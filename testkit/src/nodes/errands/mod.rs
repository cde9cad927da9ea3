//! Entities that do something without being called: deliveries, reminders, and those that come back.
//!
//! In the end nobody calls them: what they did is read from their events. Each delivery took effect
//! once at its receiver, each outcome once at the sender, each reminder once and not before its time by
//! its owner's clock, and whoever is remembered is there.

mod check;
mod entities;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::IntoFuture,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use duractor::{Command, EntityRef, EventSourced, Handle, Node, Seq, testing::is_active};
use duractor_journal::NodeId;
use tokio::time::{Instant, sleep};

pub(super) use self::entities::register;
use self::{
    check::All,
    entities::{Begin, Receiver, Send, Sender, Set, Watch},
};
use super::{clients::failed, world::World};
use crate::{machines::Site, rng::Rng};

const SENDERS: usize = 3;
const RECEIVERS: usize = 3;
const WATCHES: usize = 4;
/// Invariant V: so long what is due may take after everything healed.
const SETTLES_WITHIN: Duration = Duration::from_secs(30);

/// What clients heard.
#[derive(Default)]
pub(crate) struct Errands {
    inner: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    next: u64,
    /// Operations that were acknowledged, by their sender.
    acked: BTreeMap<u64, usize>,
    /// Watches that answered.
    watches: BTreeSet<usize>,
}

impl Errands {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client of these.
pub(crate) struct Errander {
    world: Arc<World>,
    rng: Rng,
}

impl Errander {
    pub(crate) fn new(world: &Arc<World>) -> Self {
        Self { rng: world.fork_rng(), world: world.clone() }
    }

    pub(crate) async fn run(mut self) {
        while !self.world.is_ending() {
            let sender = self.rng.index(SENDERS);
            match self.rng.below(10) {
                0..6 => self.send(sender).await,
                6..9 => self.set(sender).await,
                _ => self.begin().await,
            }
            let ms = self.rng.below(4 * self.world.plan.pause_ms + 1);
            sleep(Duration::from_millis(ms)).await;
        }
    }

    fn op(&self) -> u64 {
        let mut heard = self.world.errands.lock();
        heard.next += 1;
        heard.next
    }

    async fn send(&mut self, sender: usize) {
        let (op, to) = (self.op(), self.rng.index(RECEIVERS) as u32);
        let command = Send { op, to, tells: self.rng.chance(0.5) };
        if self.ask::<Sender, Send>(sender, command).await {
            self.world.errands.lock().acked.insert(op, sender);
            self.world.count("deliveries");
        }
    }

    async fn set(&mut self, sender: usize) {
        let (op, after_ms) = (self.op(), self.rng.below(self.world.plan.remind_ms));
        if self.ask::<Sender, Set>(sender, Set { op, after_ms }).await {
            self.world.errands.lock().acked.insert(op, sender);
            self.world.count("reminders");
        }
    }

    async fn begin(&mut self) {
        let watch = self.rng.index(WATCHES);
        if self.ask::<Watch, Begin>(watch, Begin).await {
            self.world.errands.lock().watches.insert(watch);
        }
    }

    /// Asks once, at any node. True where it was acknowledged.
    async fn ask<E, C>(&mut self, key: usize, command: C) -> bool
    where
        E: Handle<C>,
        C: Command<Reply: std::fmt::Debug>,
    {
        let id = NodeId(1 + self.rng.below(u64::from(self.world.plan.nodes)) as u32);
        let Some((process, host)) = self.world.process(id) else { return false };
        let Some(entity) = find::<E>(&self.world, &host, key) else { return false };
        let patience = self.world.plan.settings.ask_timeout + Duration::from_secs(2);
        let asked = self.world.call(&process, patience, entity.ask(command).into_future()).await;
        let (node, kind) = (process.node, E::KIND);
        self.world.say(50 ^ (key as u64) << 8, || {
            format!("{} at {kind} {key} by node {node}: {asked:?}", C::NAME)
        });
        if let Some(Err(error)) = &asked {
            failed(&self.world, &process, error);
        }
        matches!(asked, Some(Ok(_)))
    }
}

fn find<E: EventSourced>(world: &World, host: &Node, key: usize) -> Option<EntityRef<E>> {
    let found = host.entity::<E>(&key.to_string());
    if let Err(error) = &found {
        world.violated(format!("{} {key} cannot be asked for: {error}", E::KIND));
    }
    found.ok()
}

/// Waits until everything that was to be done is, and checks that it was done once.
pub(crate) async fn settled(world: &Arc<World>) {
    let until = Instant::now() + SETTLES_WITHIN;
    loop {
        let open = match look(world).await {
            Ok(None) => return,
            Ok(Some(open)) => open,
            Err(violation) => return world.violated(violation),
        };
        if Instant::now() > until {
            return world.violated(open);
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// What is not done yet.
///
/// # Errors
/// What must not be.
async fn look(world: &Arc<World>) -> Result<Option<String>, String> {
    let mut all = All::default();
    for sender in 0..SENDERS {
        let Some(events) = history::<Sender>(world, sender).await else {
            return Ok(Some(format!("V: sender {sender} cannot be read")));
        };
        all.add_sender(sender, events)?;
    }
    for receiver in 0..RECEIVERS {
        let Some(events) = history::<Receiver>(world, receiver).await else {
            return Ok(Some(format!("V: receiver {receiver} cannot be read")));
        };
        all.add_receiver(receiver, events)?;
    }
    let now = world.machines.nodes.values().map(|place| place.sim().env().clock.now()).min();
    all.check(&world.errands.lock().acked)?;
    let open = all.open(now.unwrap_or_default());
    Ok(open.or_else(|| missing(world)))
}

/// A watch that is not there.
fn missing(world: &World) -> Option<String> {
    let watches = world.errands.lock().watches.clone();
    let missing = watches.into_iter().find(|watch| {
        !world.machines.nodes.keys().any(|id| {
            let host = world.process(*id).map(|(_, host)| host);
            let watch = host.and_then(|host| find::<Watch>(world, &host, *watch));
            watch.is_some_and(|watch| is_active(&watch))
        })
    });
    missing.map(|watch| format!("V: watch {watch} is remembered, and does not come back"))
}

async fn history<E: EventSourced>(world: &World, key: usize) -> Option<Vec<E::Event>> {
    for id in world.machines.nodes.keys() {
        let Some((_, host)) = world.process(*id) else { continue };
        let entity = find::<E>(world, &host, key)?;
        if let Ok(events) = entity.history(Seq(1), u64::MAX).await {
            return Some(events.into_iter().map(|recorded| recorded.event).collect());
        }
    }
    None
}
