//! Locks and semaphores under load: clients take them, hold them for a while and write to something
//! outside with the fencing token, also where they have stood still since they last looked.
//!
//! What is checked: no token is given twice, and later holders have higher ones; at no instant do more
//! sessions believe to hold than may (**W**, by the lease); whoever is sure to hold a lock is not fenced
//! off by another's token (**W**, at the resource); a deadlock is found, and none where there is none; and in
//! the end everything can be taken again (**V**).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use duractor::{CoordinationError, Guard, Node, Session, SessionOptions};
use duractor_journal::NodeId;
use tokio::time::{Instant, sleep, timeout};

use super::{clients::failed, history::Moment, world::World};
use crate::{
    machines::{Boot, Process, Site},
    rng::Rng,
};

/// So much longer than its own time a call may take.
const LATER: Duration = Duration::from_secs(6);
/// For so long somebody waits for a second lock: longer than clients may go on after the load.
const NESTED: Duration = Duration::from_secs(60);
/// Invariant V: so long it may take until everything can be taken again.
const FREE_WITHIN: Duration = Duration::from_secs(10);

/// All that is taken, and what is protected by it.
#[derive(Default)]
pub(crate) struct Locks {
    inner: Mutex<BTreeMap<String, One>>,
    /// By token and number of the lock that is held: the lock that its holder waits for.
    nested: Mutex<BTreeMap<(usize, u64), usize>>,
}

#[derive(Default)]
struct One {
    /// The tokens that were given, and when that was heard.
    given: BTreeMap<u64, Moment>,
    holders: BTreeMap<u64, (Arc<Guard>, Boot)>,
    /// The highest token that the resource has seen.
    highest: u64,
}

/// What a client uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Thing {
    number: usize,
    /// 1 of a lock.
    permits: u32,
}

impl Thing {
    fn draw(world: &World, rng: &mut Rng) -> Self {
        let number = rng.index(world.plan.locks);
        Self { number, permits: if rng.chance(0.8) { 1 } else { 3 } }
    }

    fn name(self) -> String {
        format!("{}-{}", if self.permits == 1 { "lock" } else { "semaphore" }, self.number)
    }

    async fn take(
        self,
        session: Session,
        permits: u32,
        wait: Duration,
    ) -> Result<Guard, CoordinationError> {
        match self.permits {
            1 => session.lock(&self.name())?.try_acquire(wait).await,
            all => session.semaphore(&self.name(), all)?.try_acquire(permits, wait).await,
        }
    }
}

impl Locks {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, One>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client that asked at `begun` hears that it holds.
    fn given(
        &self,
        thing: Thing,
        guard: &Arc<Guard>,
        boot: Boot,
        (begun, now): (Moment, Moment),
    ) -> Result<(), String> {
        let (name, token) = (thing.name(), guard.token());
        let mut all = self.lock();
        let one = all.entry(name.clone()).or_default();
        let later = one.given.range(token..).find(|(_, heard)| **heard < begun);
        if let Some((later, _)) = later {
            return Err(format!(
                "W: {name} was given with token {token} after it had been given with {later}"
            ));
        }
        if one.given.insert(token, now).is_some() {
            return Err(format!("W: {name} was given twice with token {token}"));
        }
        one.holders.insert(token, (guard.clone(), boot));
        Self::alone(thing, one)
    }

    /// At no instant more believe to hold than may.
    fn alone(thing: Thing, one: &One) -> Result<(), String> {
        let held = one.holders.values().filter(|(guard, _)| guard.is_held());
        let held: Vec<_> =
            held.map(|(guard, boot)| (guard.token(), guard.permits(), *boot)).collect();
        let permits: u32 = held.iter().map(|(_, permits, _)| permits).sum();
        if permits <= thing.permits {
            return Ok(());
        }
        Err(format!("W: {} is held by tokens, permits, processes {held:?} at once", thing.name()))
    }

    /// A holder writes. Whether the resource took it.
    fn write(&self, thing: Thing, guard: &Guard) -> Result<bool, String> {
        let mut all = self.lock();
        let one = all.entry(thing.name()).or_default();
        Self::alone(thing, one)?;
        let (token, highest) = (guard.token(), one.highest);
        one.highest = highest.max(token);
        if token < highest && thing.permits == 1 && guard.is_held() {
            return Err(format!(
                "W: {} is held for sure with token {token}, and the resource saw {highest}",
                thing.name()
            ));
        }
        Ok(token >= highest)
    }

    fn nested(&self) -> MutexGuard<'_, BTreeMap<(usize, u64), usize>> {
        self.nested.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the holder of a lock, which waits for another, waits for itself in the end.
    fn is_circle(&self, held: (usize, u64)) -> bool {
        let nested = self.nested();
        let Some(wanted) = nested.get(&held) else { return false };
        let mut reached = std::collections::BTreeSet::from([*wanted]);
        loop {
            let next = nested.iter().filter(|((lock, _), _)| reached.contains(lock));
            let next: Vec<_> = next.map(|(_, wanted)| *wanted).collect();
            let before = reached.len();
            reached.extend(next);
            if reached.len() == before {
                return reached.contains(&held.0);
            }
        }
    }

    fn gone(&self, thing: Thing, token: u64) {
        if let Some(one) = self.lock().get_mut(&thing.name()) {
            one.holders.remove(&token);
        }
    }
}

/// A client of locks that goes on until the load ends.
pub(crate) struct Locker {
    world: Arc<World>,
    rng: Rng,
}

impl Locker {
    pub(crate) fn new(world: &Arc<World>) -> Self {
        Self { rng: world.fork_rng(), world: world.clone() }
    }

    pub(crate) async fn run(mut self) {
        while !self.world.is_ending() {
            let id = NodeId(1 + self.rng.below(u64::from(self.world.plan.nodes)) as u32);
            if let Some((process, host)) = self.world.process(id) {
                self.once(&process, &host).await;
            }
            let ms = self.rng.below(2 * self.world.plan.pause_ms + 1);
            sleep(Duration::from_millis(ms)).await;
        }
    }

    async fn once(&mut self, process: &Process, host: &Node) {
        let thing = Thing::draw(&self.world, &mut self.rng);
        let own = self.rng.chance(0.6).then(|| host.open_session(options(&self.world)));
        let session = own.clone().unwrap_or_else(|| host.session().clone());
        let wait = Duration::from_millis(self.rng.below(2_500));
        let permits = 1 + self.rng.below(u64::from(thing.permits)) as u32;
        // Some give up earlier than they said: what they may have got must be given back.
        let gives_up = self.rng.chance(0.2);
        let patience = if gives_up { wait / 2 } else { wait + LATER };
        let begun = self.world.tick();
        let taking = timeout(patience, thing.take(session, permits, wait));
        match self.world.call(process, patience + LATER, taking).await {
            Some(Ok(Ok(guard))) => {
                let own = own.filter(|_| thing.permits == 1 && self.rng.chance(0.7));
                self.hold(process, (thing, own), Arc::new(guard), begun).await;
            }
            Some(Ok(Err(error))) => self.refused(process, thing, &error),
            Some(Err(_)) if gives_up => self.world.count("locks_given_up"),
            Some(Err(_)) | None => {
                if !process.is_dead() {
                    let name = thing.name();
                    self.world.violated(format!("V: {name} was not answered within its time"));
                }
            }
        }
    }

    /// A holder of a lock takes another one: where others do so, too, it may wait for itself, and is to
    /// hear of it. Nothing else ends its wait before the run is over.
    async fn another(&mut self, process: &Process, (thing, token): (Thing, u64), session: Session) {
        let world = self.world.clone();
        let number = (thing.number + 1) % world.plan.locks;
        if number == thing.number {
            return;
        }
        let (held, other) = ((thing.number, token), Thing { number, permits: 1 });
        world.locks.nested().insert(held, number);
        let text = || format!("{} at node {} is wanted, too: {held:?}", other.name(), process.node);
        world.say(64, text);
        let taking = other.take(session, 1, NESTED);
        let taken = world.call(process, NESTED + LATER, taking).await;
        if let Some(Err(CoordinationError::Deadlock { cycle })) = &taken {
            world.count("deadlocks");
            world.say(63, || format!("{} at node {}: {cycle:?}", other.name(), process.node));
            if !world.locks.is_circle(held) {
                world.violated(format!("S: a deadlock was found where there is none: {cycle:?}"));
            }
        } else if let Some(Err(error)) = &taken {
            self.refused(process, other, error);
        }
        world.say(65, || format!("{held:?} waits no longer: {taken:?}"));
        // What a process that has died waited for, others may still see.
        if taken.is_some() {
            world.locks.nested().remove(&held);
        }
    }

    async fn hold(
        &mut self,
        process: &Process,
        (thing, own): (Thing, Option<Session>),
        guard: Arc<Guard>,
        begun: Moment,
    ) {
        let (world, token, node) = (self.world.clone(), guard.token(), process.node);
        world.count("locks_taken");
        let text = || format!("{} at node {node}: token {token}", thing.name());
        world.say(60 ^ token << 8, text);
        let heard = (begun, world.tick());
        self.check(world.locks.given(thing, &guard, process.boot, heard));
        if let Some(session) = own {
            self.another(process, (thing, token), session).await;
        }
        for _ in 0..self.rng.below(6) {
            let look = guard.is_held();
            let most = 1 << self.rng.below(10);
            let ms = 1 + self.rng.below(most);
            // As long as the process stands still, so does its client.
            if world.call(process, LATER * 4, sleep(Duration::from_millis(ms))).await.is_none() {
                break;
            }
            // Some look again before they write, and some have looked before they stood still.
            if !look || (self.rng.chance(0.5) && !guard.is_held()) {
                world.count("locks_lost");
                break;
            }
            match world.locks.write(thing, &guard) {
                Ok(true) => world.count("fenced_writes"),
                Ok(false) => world.count("fenced_off"),
                Err(violation) => world.violated(violation),
            }
        }
        world.locks.gone(thing, token);
        let Ok(guard) = Arc::try_unwrap(guard) else { return };
        if self.rng.chance(0.6) && !process.is_dead() {
            let released = world.call(process, LATER * 2, guard.release()).await;
            world.say(61 ^ token << 8, || {
                format!("{token} at node {node} is released: {released:?}")
            });
        }
    }

    fn check(&self, found: Result<(), String>) {
        if let Err(violation) = found {
            self.world.violated(violation);
        }
    }

    fn refused(&self, process: &Process, thing: Thing, error: &CoordinationError) {
        use CoordinationError as E;
        let (name, node) = (thing.name(), process.node);
        self.world.say(62, || format!("{name} at node {node}: {error}"));
        match error {
            E::Ask(error) => failed(&self.world, process, error),
            E::Timeout { .. } => self.world.count("locks_timed_out"),
            E::SessionEnded | E::Lost { .. } => {}
            _ if process.is_dead() => {}
            _ => self.world.violated(format!("S: {name} at node {node}: {error}")),
        }
    }
}

/// How sessions are set up.
pub(crate) fn options(world: &World) -> SessionOptions {
    SessionOptions::default().ttl(Duration::from_millis(world.plan.lease_ms)).label("simulated")
}

/// Everything can be taken again at every node.
pub(crate) async fn all_free(world: &Arc<World>) {
    let until = Instant::now() + FREE_WITHIN;
    for number in 0..world.plan.locks {
        for permits in [1, 3] {
            let thing = Thing { number, permits };
            for id in world.machines.nodes.keys().copied() {
                free(world, id, thing, until).await;
            }
        }
    }
}

async fn free(world: &Arc<World>, id: NodeId, thing: Thing, until: Instant) {
    let mut last = "it is not up".to_owned();
    while Instant::now() < until {
        if let Some((process, host)) = world.process(id) {
            let wait = until.saturating_duration_since(Instant::now());
            let taking = thing.take(host.session().clone(), thing.permits, wait);
            match world.call(&process, wait + LATER, taking).await {
                Some(Ok(guard)) => {
                    // Given back in the background, or with its lease: within the same time.
                    drop(guard);
                    return;
                }
                Some(Err(error)) => last = error.to_string(),
                None => {}
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
    world.violated(format!("V: {} cannot be taken at node {id}: {last}", thing.name()));
}
