//! The entity behind a lock and a semaphore: permits, who holds them, and who waits.
//!
//! Only what changes hands is an event. Leases and the queue are in the [`Warden`]'s memory; those who
//! wait are commands that are stashed, so they go where the entity goes. Nothing is done when a lease
//! runs out until somebody asks: whoever comes finds the dead and takes their place, and whoever waits
//! looks from time to time.
//!
//! A holder's token is the sequence number of the event that made it one: the journal itself sees to it
//! that no later holder has a lower one.

use std::{marker::PhantomData, sync::Arc, time::Duration};

use duractor_journal::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    ids::Ticket,
    lease::{Standing, Tenancy},
    warden::Warden,
};
use crate::{
    Command, Context, Effect, EntitySettings, Event, EventSourced, Handle, Persist,
    effect::Unanswered,
};

/// Sessions that wait for one lock or semaphore at once; more are refused.
pub(crate) const MAX_WAITERS: usize = 1_000;
/// The most permits that a semaphore may have.
pub const MAX_PERMITS: u32 = 10_000;
/// Who waits looks whether a holder has died, so often in the time of a lease.
const LOOKS: u32 = 4;
/// And no more often than this.
const LOOK_MIN: Duration = Duration::from_millis(20);
/// The name of the timer for it.
const LOOK: &str = "look";

/// What the permits are of.
pub(crate) trait Flavor: Send + Sync + 'static {
    const KIND: &'static str;
}

/// One permit.
pub(crate) struct Locks;

impl Flavor for Locks {
    const KIND: &'static str = "duractor.lock";
}

/// As many permits as its users say.
pub(crate) struct Semaphores;

impl Flavor for Semaphores {
    const KIND: &'static str = "duractor.semaphore";
}

/// The entity.
pub(crate) struct Permits<F> {
    warden: Arc<Warden>,
    flavor: PhantomData<fn() -> F>,
}

impl<F> Permits<F> {
    pub(crate) fn new(warden: Arc<Warden>) -> Self {
        Self { warden, flavor: PhantomData }
    }
}

/// Who has permits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(crate) ticket: Ticket,
    pub(crate) permits: u32,
    pub(crate) token: u64,
    pub(crate) label: String,
    pub(crate) node: u64,
    pub(crate) ttl_ms: u64,
    pub(crate) since: Timestamp,
}

impl Holder {
    fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }
}

/// Who has how many.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Table {
    /// All permits; 0 before anybody said, and then it is one.
    size: u32,
    holders: Vec<Holder>,
}

impl Table {
    fn size(&self) -> u32 {
        self.size.max(1)
    }

    fn holder(&self, ticket: Ticket) -> Option<&Holder> {
        self.holders.iter().find(|holder| holder.ticket == ticket)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Event)]
pub(crate) enum Changed {
    /// A session took permits.
    Acquired {
        session: u128,
        era: u32,
        number: u64,
        permits: u32,
        token: u64,
        label: String,
        node: u64,
        ttl_ms: u64,
        since_ms: u64,
    },
    /// It gave them back, or lost them with its lease.
    Released { session: u128, era: u32, number: u64, lost: bool },
    /// There are so many from now on.
    Sized { permits: u32 },
}

/// Takes permits, or waits for them.
#[derive(Debug, Clone, Command)]
#[command(reply = Acquired)]
pub(crate) struct Acquire {
    pub(crate) session: u128,
    pub(crate) era: u32,
    pub(crate) number: u64,
    pub(crate) permits: u32,
    pub(crate) of: u32,
    /// 0: it does not wait.
    pub(crate) wait_ms: u64,
    pub(crate) ttl_ms: u64,
    pub(crate) label: String,
    pub(crate) node: u64,
}

/// What became of it. New ones are added at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Acquired {
    Token(u64),
    /// Others have them.
    Taken,
    NoLease,
    LeaseOver,
    GivenUp,
    TooManyWait,
    /// There are so many permits while somebody holds one.
    OtherSize(u32),
}

/// Gives permits back, or gives up to wait for them. Replies whether they were held.
#[derive(Debug, Clone, Command)]
#[command(reply = bool)]
pub(crate) struct Release {
    pub(crate) session: u128,
    pub(crate) era: u32,
    pub(crate) number: u64,
}

/// Asks who holds, and how many wait.
#[derive(Debug, Clone, Command)]
#[command(reply = Holding)]
pub(crate) struct Look {}

/// Who holds, and how many wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holding {
    pub(crate) size: u32,
    pub(crate) holders: Vec<Holder>,
    pub(crate) waiting: u64,
}

/// Looks whether a holder has died, on behalf of those who wait.
#[derive(Debug, Clone, Command)]
#[command(reply = ())]
pub(crate) struct Sweep {}

impl<F: Flavor> EventSourced for Permits<F> {
    const KIND: &'static str = F::KIND;
    type State = Table;
    type Event = Changed;
    type Commands = (Acquire, Release, Look, Sweep, Blocked);

    fn apply(table: &mut Table, event: &Changed) {
        match event.clone() {
            Changed::Acquired {
                session,
                era,
                number,
                permits,
                token,
                label,
                node,
                ttl_ms,
                since_ms,
            } => {
                let ticket = ticket(session, era, number);
                let since = Timestamp(since_ms);
                let holder = Holder { ticket, permits, token, label, node, ttl_ms, since };
                table.holders.push(holder);
            }
            Changed::Released { session, era, number, .. } => {
                let ticket = ticket(session, era, number);
                table.holders.retain(|holder| holder.ticket != ticket);
            }
            Changed::Sized { permits } => table.size = permits,
        }
    }

    fn settings(&self) -> EntitySettings {
        EntitySettings::default()
            .snapshot_every(100)
            .keep_snapshots(2)
            .delete_events(true)
            // A repeat is recognised by its ticket.
            .dedup_count(0)
            .stash(2 * MAX_WAITERS)
            .mailbox(4 * MAX_WAITERS)
            .idle_timeout(Duration::from_secs(30))
    }
}

pub(crate) fn ticket(session: u128, era: u32, number: u64) -> Ticket {
    Ticket { session: super::ids::SessionId(session), era, number }
}

fn released(holder: &Holder) -> Changed {
    let Ticket { session, era, number } = holder.ticket;
    Changed::Released { session: session.0, era, number, lost: true }
}

/// What is decided of an acquisition.
enum Decision {
    Reply(Acquired),
    /// With these events, the last of which has this sequence number.
    Grant(Vec<Changed>, u64),
    /// It waits, and looks again after this long.
    Wait(Duration),
}

impl<F: Flavor> Handle<Acquire> for Permits<F> {
    fn handle(&self, table: &Table, acquire: Acquire, cx: &Context) -> Effect<Self, Acquired> {
        let decide = |tenancy: &mut Tenancy, now| decide(tenancy, now, table, &acquire, cx);
        match self.warden.with(cx.entity(), decide) {
            // The answer is not given: the shard is not this node's.
            None => Effect::reply(Acquired::NoLease),
            Some(Decision::Reply(reply)) => Effect::reply(reply),
            Some(Decision::Grant(events, token)) => {
                Self::persist_all(events).unstash().reply_with(Acquired::Token(token))
            }
            Some(Decision::Wait(after)) => Effect::stash(acquire).timer(LOOK, after, Sweep {}),
        }
    }
}

fn decide(
    tenancy: &mut Tenancy,
    now: tokio::time::Instant,
    table: &Table,
    acquire: &Acquire,
    cx: &Context,
) -> Decision {
    let (entity, me) = (cx.entity(), ticket(acquire.session, acquire.era, acquire.number));
    let refused = match tenancy.standing(now, me) {
        Standing::Good => None,
        Standing::Unknown => Some(Acquired::NoLease),
        Standing::Over => Some(Acquired::LeaseOver),
        Standing::GivenUp => Some(Acquired::GivenUp),
    };
    if let Some(refused) = refused {
        tenancy.unqueue(entity, me);
        return Decision::Reply(refused);
    }
    if let Some(holder) = table.holder(me) {
        return Decision::Reply(Acquired::Token(holder.token));
    }
    let alive = |holder: &&Holder| tenancy.holds(now, holder.ticket, holder.ttl());
    let (live, dead): (Vec<_>, Vec<_>) = table.holders.iter().partition(alive);
    if acquire.of != table.size() && !live.is_empty() {
        return Decision::Reply(Acquired::OtherSize(table.size()));
    }
    let taken: u32 = live.iter().map(|holder| holder.permits).sum();
    if taken + acquire.permits <= acquire.of && tenancy.ahead(now, entity, me) == 0 {
        tenancy.unqueue(entity, me);
        dead.iter().for_each(|holder| tenancy.evict(now, holder.ticket));
        let mut events: Vec<_> = dead.into_iter().map(released).collect();
        if acquire.of != table.size() {
            events.push(Changed::Sized { permits: acquire.of });
        }
        let token = cx.revision().0 + events.len() as u64 + 1;
        #[cfg(feature = "planted")]
        let token = planted_token(tenancy, token);
        events.push(granted(acquire, cx, token));
        return Decision::Grant(events, token);
    }
    if acquire.wait_ms == 0 {
        return Decision::Reply(Acquired::Taken);
    }
    let wait = Duration::from_millis(acquire.wait_ms);
    if !tenancy.queue(now, entity, (me, acquire.permits), wait, MAX_WAITERS) {
        return Decision::Reply(Acquired::TooManyWait);
    }
    let after = Duration::from_millis(acquire.ttl_ms) / LOOKS;
    Decision::Wait(if dead.is_empty() { after.max(LOOK_MIN) } else { Duration::ZERO })
}

#[cfg(feature = "planted")]
fn planted_token(tenancy: &mut Tenancy, token: u64) -> u64 {
    if !crate::planted::is(crate::planted::Planted::TokenInMemory) {
        return token;
    }
    tenancy.given += 1;
    tenancy.given
}

fn granted(acquire: &Acquire, cx: &Context, token: u64) -> Changed {
    let Acquire { session, era, number, permits, ttl_ms, node, .. } = *acquire;
    Changed::Acquired {
        session,
        era,
        number,
        permits,
        token,
        label: acquire.label.clone(),
        node,
        ttl_ms,
        since_ms: cx.now().0,
    }
}

impl<F: Flavor> Handle<Release> for Permits<F> {
    fn handle(&self, table: &Table, release: Release, cx: &Context) -> Effect<Self, bool> {
        let Release { session, era, number } = release;
        let me = ticket(session, era, number);
        if table.holder(me).is_some() {
            let event = Changed::Released { session, era, number, lost: false };
            return Self::persist(event).unstash().reply_with(true);
        }
        self.warden.with(cx.entity(), |tenancy, _| tenancy.give_up(cx.entity(), me));
        nothing::<Self>().unstash().reply_with(false)
    }
}

fn nothing<E: EventSourced>() -> Unanswered<E> {
    E::persist_all(Vec::new())
}

impl<F: Flavor> Handle<Look> for Permits<F> {
    fn handle(&self, table: &Table, _: Look, cx: &Context) -> Effect<Self, Holding> {
        let size = table.size();
        let look = |tenancy: &mut Tenancy, now| {
            let alive = |holder: &&Holder| tenancy.holds(now, holder.ticket, holder.ttl());
            let holders = table.holders.iter().filter(alive).cloned().collect();
            Holding { size, holders, waiting: tenancy.waiting(now, cx.entity()) as u64 }
        };
        let holding = self.warden.with(cx.entity(), look);
        Effect::reply(holding.unwrap_or(Holding { size, holders: Vec::new(), waiting: 0 }))
    }
}

impl<F: Flavor> Handle<Sweep> for Permits<F> {
    fn handle(&self, table: &Table, _: Sweep, cx: &Context) -> Effect<Self, ()> {
        let sweep = |tenancy: &mut Tenancy, now| {
            let alive = |holder: &&Holder| tenancy.holds(now, holder.ticket, holder.ttl());
            let dead: Vec<_> = table.holders.iter().filter(|holder| !alive(holder)).collect();
            dead.iter().for_each(|holder| tenancy.evict(now, holder.ticket));
            dead.into_iter().map(released).collect()
        };
        let events: Vec<_> = self.warden.with(cx.entity(), sweep).unwrap_or_default();
        // Whoever still waits asks for the next look.
        Self::persist_all(events).unstash().no_reply()
    }
}

/// Asks who holds, and what those who hold wait for.
#[derive(Debug, Clone, Command)]
#[command(reply = Vec<Blocker>)]
pub(crate) struct Blocked {}

/// A holder, what it waits for, and how many milliseconds ago it said so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Blocker {
    pub(crate) ticket: Ticket,
    pub(crate) label: String,
    pub(crate) waits: Vec<Waits>,
    pub(crate) age_ms: u64,
}

/// Kind, key, ticket, and since when by its wall clock.
pub(crate) type Waits = (String, String, u64, u64);

impl<F: Flavor> Handle<Blocked> for Permits<F> {
    fn handle(&self, table: &Table, _: Blocked, cx: &Context) -> Effect<Self, Vec<Blocker>> {
        let look = |tenancy: &mut Tenancy, now| {
            let alive = |holder: &&Holder| tenancy.holds(now, holder.ticket, holder.ttl());
            let blocker = |holder: &Holder| {
                let (waits, age) = tenancy.waits(now, holder.ticket.session);
                let named = |wait: super::lease::Wait| {
                    let (kind, key) = (wait.entity.kind().to_owned(), wait.entity.key().to_owned());
                    (kind, key, wait.ticket, wait.since_ms)
                };
                Blocker {
                    ticket: holder.ticket,
                    label: holder.label.clone(),
                    waits: waits.into_iter().map(named).collect(),
                    age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
                }
            };
            table.holders.iter().filter(alive).map(blocker).collect()
        };
        Effect::reply(self.warden.with(cx.entity(), look).unwrap_or_default())
    }
}
