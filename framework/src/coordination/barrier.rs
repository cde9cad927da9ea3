//! Barriers: the entity, and the way in.
//!
//! Who arrives is an event, so that whoever asks again arrives once, and a barrier that opened stays
//! open for all its parties, whatever moves or dies. Waiting is not: whoever arrived asks until it knows
//! what became of its generation.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use duractor_journal::ShardId;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use super::{
    error::CoordinationError,
    ids::Ticket,
    lease::{Standing, Tenancy},
    permits::ticket,
    session::Session,
    side::MAX_TICKETS,
    wanted::{GiveBack, Wanted},
    warden::Warden,
};
use crate::{
    AskError, Command, Context, Effect, EntitySettings, Event, EventSourced, Handle, Persist,
    RequestId, entity_ref::EntityRef, error::NodeError,
};

/// The most parties that a barrier may have.
pub const MAX_PARTIES: u32 = 1_000;
/// The outcomes of so many generations are kept for parties that have not heard of them yet.
const KEPT: usize = 64;
/// One question waits for so long; whoever waits longer asks again.
const LEG: Duration = Duration::from_secs(30);
/// Who waits looks whether a party has died, so often in the time of a lease.
const LOOKS: u32 = 4;
const LOOK_MIN: Duration = Duration::from_millis(20);
/// The name of the timer for it.
const LOOK: &str = "look";

/// The entity.
pub(crate) struct Barriers {
    warden: Arc<Warden>,
}

impl Barriers {
    pub(crate) fn new(warden: Arc<Warden>) -> Self {
        Self { warden }
    }
}

/// Who has arrived.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Gathering {
    /// The generation that gathers, from 0.
    generation: u64,
    /// How many it needs; 0 before anybody has arrived.
    parties: u32,
    /// Who has arrived, and the lease's duration in milliseconds.
    arrived: BTreeMap<Ticket, u64>,
    /// Of earlier generations: who had arrived, and whether it opened.
    past: BTreeMap<u64, (Vec<Ticket>, bool)>,
}

impl Gathering {
    /// What became of a party: its generation, and whether that opened. `None` where it gathers still, or
    /// the party is not known.
    fn outcome(&self, party: Ticket) -> Option<Outcome> {
        let of = |(generation, (parties, opened)): (&u64, &(Vec<Ticket>, bool))| {
            let outcome = if *opened { Outcome::Opened } else { Outcome::Broken };
            parties.contains(&party).then(|| outcome(*generation))
        };
        self.past.iter().rev().find_map(of)
    }

    fn close(&mut self, opened: bool) {
        let parties = std::mem::take(&mut self.arrived).into_keys().collect();
        self.past.insert(self.generation, (parties, opened));
        while self.past.len() > KEPT {
            self.past.pop_first();
        }
        self.generation += 1;
        self.parties = 0;
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Event)]
pub(crate) enum Gathered {
    /// A party arrived.
    Arrived { session: u128, era: u32, number: u64, parties: u32, ttl_ms: u64 },
    /// All were there.
    Opened {},
    /// A party gave up or died.
    Broken {},
}

/// Arrives, and waits for the others.
#[derive(Debug, Clone, Command)]
#[command(reply = Outcome)]
pub(crate) struct Arrive {
    pub(crate) session: u128,
    pub(crate) era: u32,
    pub(crate) number: u64,
    pub(crate) parties: u32,
    pub(crate) ttl_ms: u64,
}

/// Gives up. Replies whether the generation is broken by it.
#[derive(Debug, Clone, Command)]
#[command(reply = bool)]
pub(crate) struct Leave {
    pub(crate) session: u128,
    pub(crate) era: u32,
    pub(crate) number: u64,
}

/// Waits for what becomes of a party that has arrived.
#[derive(Debug, Clone, Command)]
#[command(reply = Outcome)]
pub(crate) struct Await {
    pub(crate) session: u128,
    pub(crate) era: u32,
    pub(crate) number: u64,
}

/// Looks whether a party has died, on behalf of the others.
#[derive(Debug, Clone, Command)]
#[command(reply = ())]
pub(crate) struct Sweep {}

/// What became of a party. New ones are added at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// It is counted, and others are missing.
    Waits,
    Opened(u64),
    Broken(u64),
    NoLease,
    LeaseOver,
    GivenUp,
    /// Others gather for so many.
    OtherSize(u32),
    /// It has not arrived.
    Unknown,
}

impl EventSourced for Barriers {
    const KIND: &'static str = "duractor.barrier";
    type State = Gathering;
    type Event = Gathered;
    type Commands = (Arrive, Leave, Await, Sweep);

    fn apply(gathering: &mut Gathering, event: &Gathered) {
        match *event {
            Gathered::Arrived { session, era, number, parties, ttl_ms } => {
                gathering.parties = parties;
                gathering.arrived.insert(ticket(session, era, number), ttl_ms);
            }
            Gathered::Opened {} => gathering.close(true),
            Gathered::Broken {} => gathering.close(false),
        }
    }

    fn settings(&self) -> EntitySettings {
        EntitySettings::default()
            .snapshot_every(200)
            .keep_snapshots(2)
            .delete_events(true)
            // A repeat is recognised by its ticket.
            .dedup_count(0)
            .stash(2 * MAX_PARTIES as usize)
            .mailbox(4 * MAX_PARTIES as usize)
            .idle_timeout(Duration::from_secs(30))
    }
}

impl Barriers {
    /// Whether a party that has arrived is dead.
    fn has_dead(&self, gathering: &Gathering, cx: &Context) -> bool {
        let dead = |tenancy: &mut Tenancy, now| {
            let lives = |(party, ttl_ms): (&Ticket, &u64)| {
                tenancy.holds(now, *party, Duration::from_millis(*ttl_ms))
            };
            !gathering.arrived.iter().all(lives)
        };
        self.warden.with(cx.entity(), dead).unwrap_or(false)
    }
}

impl Handle<Arrive> for Barriers {
    fn handle(&self, gathering: &Gathering, arrive: Arrive, cx: &Context) -> Effect<Self, Outcome> {
        let Arrive { session, era, number, parties, ttl_ms } = arrive;
        let me = ticket(session, era, number);
        if let Some(outcome) = gathering.outcome(me) {
            return Effect::reply(outcome);
        }
        if gathering.arrived.contains_key(&me) {
            return Effect::reply(Outcome::Waits);
        }
        let standing = self.warden.with(cx.entity(), |tenancy, now| tenancy.standing(now, me));
        match standing {
            Some(Standing::Good) => {}
            Some(Standing::Unknown) | None => return Effect::reply(Outcome::NoLease),
            Some(Standing::Over) => return Effect::reply(Outcome::LeaseOver),
            Some(Standing::GivenUp) => return Effect::reply(Outcome::GivenUp),
        }
        // Those who died break their generation; whoever comes now begins the next.
        let broken = self.has_dead(gathering, cx);
        let (mut events, mut before) = (Vec::new(), gathering.arrived.len());
        if broken {
            events.push(Gathered::Broken {});
            before = 0;
        } else if before > 0 && gathering.parties != parties {
            return Effect::reply(Outcome::OtherSize(gathering.parties));
        }
        let generation = gathering.generation + u64::from(broken);
        events.push(Gathered::Arrived { session, era, number, parties, ttl_ms });
        let opened = before + 1 >= parties as usize;
        if opened {
            events.push(Gathered::Opened {});
        }
        let outcome = if opened { Outcome::Opened(generation) } else { Outcome::Waits };
        let effect = Self::persist_all(events);
        if opened || broken {
            effect.unstash().reply_with(outcome)
        } else {
            effect.reply_with(outcome)
        }
    }
}

impl Handle<Leave> for Barriers {
    fn handle(&self, gathering: &Gathering, leave: Leave, cx: &Context) -> Effect<Self, bool> {
        let me = ticket(leave.session, leave.era, leave.number);
        self.warden.with(cx.entity(), |tenancy, _| tenancy.give_up(cx.entity(), me));
        if gathering.arrived.contains_key(&me) {
            return Self::persist(Gathered::Broken {}).unstash().reply_with(true);
        }
        Effect::reply(false)
    }
}

impl Handle<Await> for Barriers {
    fn handle(&self, gathering: &Gathering, wait: Await, _: &Context) -> Effect<Self, Outcome> {
        let me = ticket(wait.session, wait.era, wait.number);
        if let Some(outcome) = gathering.outcome(me) {
            return Effect::reply(outcome);
        }
        match gathering.arrived.get(&me) {
            None => Effect::reply(Outcome::Unknown),
            Some(ttl_ms) => {
                let after = Duration::from_millis(*ttl_ms) / LOOKS;
                Effect::stash(wait).timer(LOOK, after.max(LOOK_MIN), Sweep {})
            }
        }
    }
}

impl Handle<Sweep> for Barriers {
    fn handle(&self, gathering: &Gathering, _: Sweep, cx: &Context) -> Effect<Self, ()> {
        let broken = self.has_dead(gathering, cx).then_some(Gathered::Broken {});
        // Whoever still waits asks for the next look.
        Self::persist_all(broken.into_iter().collect()).unstash().no_reply()
    }
}

/// A barrier of the cluster, as a session uses it: so many parties wait for each other, and then all go
/// on; after that it can be used again. Made by [`Node::barrier`](crate::Node::barrier) or
/// [`Session::barrier`]. Cheap to clone.
#[derive(Clone)]
pub struct Barrier {
    session: Session,
    entity: EntityRef<Barriers>,
    shard: ShardId,
    parties: u32,
}

impl Session {
    /// The barrier of this name for so many parties, 1 to 1000, for this session. All who use it say the
    /// same number.
    ///
    /// # Errors
    /// [`CoordinationError::Invalid`]; [`CoordinationError::Node`]: there can be no such barrier, or the
    /// node is gone.
    pub fn barrier(&self, name: &str, parties: u32) -> Result<Barrier, CoordinationError> {
        if !(1..=MAX_PARTIES).contains(&parties) {
            let (name, reason) = (name.to_owned(), "1 to 1000 parties are possible");
            return Err(CoordinationError::Invalid { name, wanted: parties, reason });
        }
        let entity = self.inner.entity::<Barriers>(name)?;
        let shared = self.inner.shared.upgrade().ok_or(NodeError::ShuttingDown)?;
        let shard = entity.id().shard(shared.journal.shards());
        Ok(Barrier { session: self.clone(), entity, shard, parties })
    }
}

impl Barrier {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.entity.id().key()
    }

    /// Arrives, and waits until all parties have. Returns the generation: how often the barrier was used
    /// before. A session that waits twice at once counts as two parties.
    ///
    /// # Errors
    /// [`CoordinationError::Timeout`]: not all came in time; the generation is broken by it, so that all
    /// who wait hear [`CoordinationError::Broken`], and the next to arrive begins another one. So it is,
    /// too, where the future is dropped, or a party's session dies. [`CoordinationError::OtherSize`] where
    /// others gather for another number.
    pub async fn wait(&self, timeout: Duration) -> Result<u64, CoordinationError> {
        self.session.inner.check()?;
        let begun = Instant::now();
        let until = begun + timeout;
        let late = || {
            let name = self.name().to_owned();
            CoordinationError::Timeout { name, waited: begun.elapsed() }
        };
        // What was begun is taken back when the future is dropped.
        timeout_at(until, self.arrive(until)).await.map_err(|_| late())?.map_err(
            |error| match error {
                CoordinationError::Ask(AskError::Timeout { .. } | AskError::Expired { .. }) => {
                    late()
                }
                error => error,
            },
        )
    }

    async fn arrive(&self, until: Instant) -> Result<u64, CoordinationError> {
        let inner = &self.session.inner;
        let name = || self.name().to_owned();
        let mut wanted = self.want()?;
        let mut since = None;
        loop {
            if !inner.leased(self.shard, wanted.ticket.era, since).await {
                inner.check()?;
                // The lease was lost: where it had arrived, its generation breaks.
                wanted = self.want()?;
                since = None;
                continue;
            }
            let outcome = match self.ask(&wanted, until).await? {
                Outcome::Waits => self.outcome(&wanted, until).await?,
                outcome => outcome,
            };
            match outcome {
                Outcome::Opened(generation) => {
                    wanted.forget();
                    return Ok(generation);
                }
                Outcome::Broken(generation) => {
                    wanted.forget();
                    return Err(CoordinationError::Broken { name: name(), generation });
                }
                Outcome::OtherSize(actual) => {
                    let wanted = self.parties;
                    return Err(CoordinationError::OtherSize { name: name(), actual, wanted });
                }
                Outcome::NoLease => since = Some(inner.force(self.shard)),
                Outcome::LeaseOver => inner.over(self.shard, wanted.ticket.era),
                Outcome::Waits | Outcome::GivenUp | Outcome::Unknown => wanted = self.want()?,
            }
            tokio::task::yield_now().await;
        }
    }

    fn want(&self) -> Result<Wanted, CoordinationError> {
        let wanted = self.session.inner.want(self.shard, self.entity.id(), &self.leave());
        wanted.ok_or_else(|| CoordinationError::TooManyTickets {
            name: self.name().to_owned(),
            limit: MAX_TICKETS,
        })
    }

    async fn ask(&self, wanted: &Wanted, until: Instant) -> Result<Outcome, AskError> {
        let Ticket { session, era, number } = wanted.ticket;
        let ttl_ms = self.session.inner.ttl.as_millis() as u64;
        let arrive = Arrive { session: session.0, era, number, parties: self.parties, ttl_ms };
        let ask = self.entity.ask(arrive).timeout(left(until));
        // A repeat arrives once: it may be repeated whatever became of it.
        match RequestId::new(&format!("{session}-{era}-{number}")) {
            Ok(id) => ask.request_id(id).await,
            Err(_) => ask.await,
        }
    }

    /// Asks until it is known what became of the generation.
    async fn outcome(&self, wanted: &Wanted, until: Instant) -> Result<Outcome, AskError> {
        let Ticket { session, era, number } = wanted.ticket;
        loop {
            let wait = Await { session: session.0, era, number };
            match self.entity.ask(wait).timeout(left(until).min(LEG)).await {
                Ok(outcome) => return Ok(outcome),
                Err(error) if Instant::now() >= until => return Err(error),
                Err(error @ (AskError::ShuttingDown | AskError::NodeFailed { .. })) => {
                    return Err(error);
                }
                // It changes nothing, so it may be asked however often.
                Err(error) => tracing::debug!(%error, "what became of a barrier is asked again"),
            }
            tokio::time::sleep(LOOK_MIN).await;
        }
    }

    fn leave(&self) -> GiveBack {
        let entity = self.entity.clone();
        Arc::new(move |release, patience| {
            let (session, era, number) = (release.session, release.era, release.number);
            let leave = Leave { session, era, number };
            let ask = entity.ask(leave).timeout(patience);
            let id = RequestId::new(&format!("{session:x}-{number}-end"));
            Box::pin(async move {
                match id {
                    Ok(id) => ask.request_id(id).await,
                    Err(_) => ask.await,
                }
            })
        })
    }
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}
