//! Entities that do something without being called: deliveries, reminders, and those that come back.
//!
//! In the end nobody calls them: what they did is read from their events. Each delivery took effect
//! once at its receiver, each outcome once at the sender, each reminder once and not before its time by
//! its owner's clock, and whoever is remembered is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::IntoFuture,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use duractor::{
    Command, Context, Effect, EntityRef, EntitySettings, Event, EventSourced, Handle, Node,
    NodeBuilder, Outcome, Persist, Seq, Timestamp, testing::is_active,
};
use duractor_journal::NodeId;
use tokio::time::{Instant, sleep};

use super::{clients::failed, world::World};
use crate::rng::Rng;

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

pub(super) fn register(builder: NodeBuilder, settings: &EntitySettings) -> NodeBuilder {
    let settings = settings.clone().dedup_count(0);
    let watch = Watch(settings.clone().remember(true));
    // Nothing is given up in a run, however bad it is.
    let settings = settings.delivery_attempts(u32::MAX);
    builder.register(Sender(settings.clone())).register(Receiver(settings)).register(watch)
}

struct Sender(EntitySettings);

#[derive(Debug, Clone, PartialEq, Eq, Event)]
enum Noted {
    #[event(name = "sent")]
    Sent { op: u64, to: u32, tells: bool },
    #[event(name = "told")]
    Told { op: u64 },
    #[event(name = "set")]
    Set { op: u64, due: Timestamp },
    #[event(name = "rung")]
    Rung { op: u64, at: Timestamp },
}

#[derive(Command)]
#[command(reply = ())]
struct Send {
    op: u64,
    to: u32,
    tells: bool,
}

#[derive(Command)]
#[command(reply = ())]
struct Told(Outcome<Take>);

impl From<Outcome<Take>> for Told {
    fn from(outcome: Outcome<Take>) -> Self {
        Self(outcome)
    }
}

#[derive(Command)]
#[command(reply = ())]
struct Set {
    op: u64,
    after_ms: u64,
}

#[derive(Command)]
#[command(reply = ())]
struct Ring {
    op: u64,
}

impl EventSourced for Sender {
    const KIND: &'static str = "sender";
    type State = u64;
    type Event = Noted;
    type Commands = (Send, Told, Set, Ring);

    fn apply(state: &mut u64, _: &Noted) {
        *state += 1;
    }

    fn settings(&self) -> EntitySettings {
        // All of its events are read in the end.
        self.0.clone().delete_events(false)
    }
}

impl Handle<Send> for Sender {
    fn handle(&self, _: &u64, Send { op, to, tells }: Send, _: &Context) -> Effect<Self, ()> {
        let effect = Self::persist(Noted::Sent { op, to, tells });
        if tells {
            return effect.deliver_then::<Receiver, Take, Told>(to.to_string(), Take { op }).into();
        }
        effect.deliver::<Receiver, Take>(to.to_string(), Take { op }).into()
    }
}

impl Handle<Told> for Sender {
    fn handle(&self, _: &u64, told: Told, _: &Context) -> Effect<Self, ()> {
        match told.0.reply() {
            Ok(op) => Self::persist(Noted::Told { op }).no_reply(),
            Err(_) => Effect::reply(()),
        }
    }
}

impl Handle<Set> for Sender {
    fn handle(&self, _: &u64, Set { op, after_ms }: Set, cx: &Context) -> Effect<Self, ()> {
        let due = Timestamp(cx.now().0 + after_ms);
        Self::persist(Noted::Set { op, due }).remind_at(op.to_string(), due, Ring { op }).into()
    }
}

impl Handle<Ring> for Sender {
    fn handle(&self, _: &u64, Ring { op }: Ring, cx: &Context) -> Effect<Self, ()> {
        Self::persist(Noted::Rung { op, at: cx.now() }).no_reply()
    }
}

struct Receiver(EntitySettings);

#[derive(Debug, Clone, PartialEq, Eq, Event)]
#[event(name = "took")]
struct Took {
    op: u64,
}

#[derive(Command)]
#[command(reply = u64)]
struct Take {
    op: u64,
}

impl EventSourced for Receiver {
    const KIND: &'static str = "receiver";
    type State = u64;
    type Event = Took;
    type Commands = (Take,);

    fn apply(state: &mut u64, _: &Took) {
        *state += 1;
    }

    fn settings(&self) -> EntitySettings {
        self.0.clone().delete_events(false)
    }
}

impl Handle<Take> for Receiver {
    fn handle(&self, _: &u64, Take { op }: Take, _: &Context) -> Effect<Self, u64> {
        Self::persist(Took { op }).reply_with(op)
    }
}

/// Is there from when it was called first.
struct Watch(EntitySettings);

#[derive(Command)]
#[command(reply = ())]
struct Begin;

impl EventSourced for Watch {
    const KIND: &'static str = "watch";
    type State = u64;
    type Event = Took;
    type Commands = (Begin,);

    fn apply(state: &mut u64, _: &Took) {
        *state += 1;
    }

    fn settings(&self) -> EntitySettings {
        self.0.clone()
    }
}

impl Handle<Begin> for Watch {
    fn handle(&self, _: &u64, _: Begin, _: &Context) -> Effect<Self, ()> {
        Effect::reply(())
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
    let now = world.nodes.values().map(|place| place.sim().env().clock.now()).min();
    all.check(&world.errands.lock().acked)?;
    let open = all.open(now.unwrap_or_default());
    Ok(open.or_else(|| missing(world)))
}

/// A watch that is not there.
fn missing(world: &World) -> Option<String> {
    let watches = world.errands.lock().watches.clone();
    let missing = watches.into_iter().find(|watch| {
        !world.nodes.keys().any(|id| {
            let host = world.process(*id).map(|(_, host)| host);
            let watch = host.and_then(|host| find::<Watch>(world, &host, *watch));
            watch.is_some_and(|watch| is_active(&watch))
        })
    });
    missing.map(|watch| format!("V: watch {watch} is remembered, and does not come back"))
}

async fn history<E: EventSourced>(world: &World, key: usize) -> Option<Vec<E::Event>> {
    for id in world.nodes.keys() {
        let Some((_, host)) = world.process(*id) else { continue };
        let entity = find::<E>(world, &host, key)?;
        if let Ok(events) = entity.history(Seq(1), u64::MAX).await {
            return Some(events.into_iter().map(|recorded| recorded.event).collect());
        }
    }
    None
}

/// What all of them wrote.
#[derive(Default)]
struct All {
    /// By operation: the sender, the receiver, and whether the outcome comes back.
    sent: BTreeMap<u64, (usize, u32, bool)>,
    told: BTreeSet<u64>,
    took: BTreeMap<u64, u32>,
    set: BTreeMap<u64, (usize, Timestamp)>,
    rung: BTreeMap<u64, Timestamp>,
    /// By sender and receiver: operations in the order of their sending.
    order: BTreeMap<(usize, u32), Vec<u64>>,
    arrived: BTreeMap<u32, Vec<u64>>,
}

impl All {
    fn add_sender(&mut self, sender: usize, events: Vec<Noted>) -> Result<(), String> {
        for event in events {
            match event {
                Noted::Sent { op, to, tells } => {
                    self.sent.insert(op, (sender, to, tells));
                    self.order.entry((sender, to)).or_default().push(op);
                }
                Noted::Told { op } if !self.told.insert(op) => {
                    return Err(format!("L: sender {sender} was told twice of delivery {op}"));
                }
                Noted::Told { .. } => {}
                Noted::Set { op, due } => {
                    self.set.insert(op, (sender, due));
                }
                Noted::Rung { op, at } => {
                    if self.rung.insert(op, at).is_some() {
                        return Err(format!("L: reminder {op} of sender {sender} came twice"));
                    }
                }
            }
        }
        Ok(())
    }

    fn add_receiver(&mut self, receiver: usize, events: Vec<Took>) -> Result<(), String> {
        for Took { op } in events {
            if self.took.insert(op, receiver as u32).is_some() {
                return Err(format!("L: delivery {op} took effect twice"));
            }
            self.arrived.entry(receiver as u32).or_default().push(op);
        }
        Ok(())
    }

    fn check(&self, acked: &BTreeMap<u64, usize>) -> Result<(), String> {
        for (op, sender) in acked {
            if !self.sent.contains_key(op) && !self.set.contains_key(op) {
                return Err(format!("A: operation {op} of sender {sender} is lost"));
            }
        }
        for (op, receiver) in &self.took {
            if self.sent.get(op).is_none_or(|(_, to, _)| to != receiver) {
                return Err(format!("A: nobody sent delivery {op} to receiver {receiver}"));
            }
        }
        for (op, at) in &self.rung {
            match self.set.get(op) {
                None => return Err(format!("A: nobody set reminder {op}")),
                Some((_, due)) if at < due => {
                    return Err(format!(
                        "A: reminder {op} came at {}, and was due at {}",
                        at.0, due.0
                    ));
                }
                Some(_) => {}
            }
        }
        for ((sender, to), sent) in &self.order {
            let of = |op: &&u64| self.sent.get(op).is_some_and(|(from, _, _)| from == sender);
            let arrived: Vec<u64> =
                self.arrived.get(to).into_iter().flatten().filter(of).copied().collect();
            if !sent.starts_with(&arrived) {
                return Err(format!(
                    "A: receiver {to} took {arrived:?} of sender {sender}, which sent {sent:?}"
                ));
            }
        }
        Ok(())
    }

    fn open(&self, now: Timestamp) -> Option<String> {
        let untaken = self.sent.keys().find(|op| !self.took.contains_key(op));
        if let Some(op) = untaken {
            return Some(format!("V: delivery {op} does not come"));
        }
        let mut wants = self.sent.iter().filter(|(_, (_, _, tells))| *tells);
        if let Some((op, _)) = wants.find(|(op, _)| !self.told.contains(op)) {
            return Some(format!("V: the outcome of delivery {op} does not come back"));
        }
        // Its clock may have been ahead when it was set: what is far off is not waited for.
        let soon = Timestamp(now.0 + SETTLES_WITHIN.as_millis() as u64 / 2);
        let mut due = self.set.iter().filter(|(_, (_, due))| *due < soon);
        let (op, _) = due.find(|(op, _)| !self.rung.contains_key(op))?;
        Some(format!("V: reminder {op} does not come"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(sender: Vec<Noted>, receiver: &[u64]) -> Result<All, String> {
        let mut all = All::default();
        all.add_sender(0, sender)?;
        all.add_receiver(1, receiver.iter().map(|op| Took { op: *op }).collect())?;
        all.check(&BTreeMap::from([(1, 0)]))?;
        Ok(all)
    }

    fn sent(op: u64) -> Noted {
        Noted::Sent { op, to: 1, tells: true }
    }

    #[test]
    fn each_violation_is_found() {
        let set = Noted::Set { op: 9, due: Timestamp(50) };
        let rung = |at| Noted::Rung { op: 9, at: Timestamp(at) };
        for (sender, receiver, begins) in [
            (vec![], &[][..], "A: operation 1 of sender 0 is lost"),
            (vec![sent(1)], &[1, 1], "L: delivery 1 took effect twice"),
            (vec![sent(1)], &[1, 2], "A: nobody sent delivery 2"),
            (vec![sent(1), sent(2)], &[2, 1], "A: receiver 1 took"),
            (vec![sent(1), set.clone(), rung(49)], &[], "A: reminder 9 came at"),
            (vec![sent(1), set.clone(), rung(50), rung(51)], &[], "L: reminder 9"),
            (vec![sent(1), Noted::Told { op: 1 }, Noted::Told { op: 1 }], &[1], "L: sender 0"),
        ] {
            let error = all(sender, receiver).map(drop).expect_err(begins);
            assert!(error.starts_with(begins), "{error}");
        }
        let open = |sender, receiver: &[u64]| {
            all(sender, receiver).expect("fits").open(Timestamp(40)).unwrap_or_default()
        };
        assert!(open(vec![sent(1)], &[]).contains("delivery 1 does not come"));
        assert!(open(vec![sent(1)], &[1]).contains("outcome of delivery 1"));
        let done = vec![sent(1), Noted::Told { op: 1 }, set];
        assert!(open(done.clone(), &[1]).contains("reminder 9 does not come"));
        assert_eq!(open([done, vec![rung(50)]].concat(), &[1]), "");
    }
}
