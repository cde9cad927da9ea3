//! The entity that sessions renew their leases at: one in each shard. It has no events; what it is told
//! is for the [`Warden`] of the node that runs it. As every answer of an entity, the answer to a renewal
//! comes only once the journal has confirmed that the node still owned the shard after it was asked: a
//! renewal that a deposed owner takes in is never acknowledged.

use std::{sync::Arc, time::Duration};

use duractor_journal::{EntityId, InvalidId, ShardId};
use serde::{Deserialize, Serialize};

use super::{
    ids::SessionId,
    lease::{Renewal, Renewed, Wait},
    permits::Waits,
    warden::Warden,
};
use crate::{Command, Context, Effect, EntitySettings, Event, EventSourced, Handle};

const KIND: &str = "duractor.leases";
/// The most that a lease is given for.
pub(crate) const MAX_TTL: Duration = Duration::from_secs(3600);

/// The entity.
pub(crate) struct Leases {
    warden: Arc<Warden>,
}

impl Leases {
    pub(crate) fn new(warden: Arc<Warden>) -> Self {
        Self { warden }
    }

    /// The key of the one in a shard: the first number that is hashed there.
    pub(crate) fn key(shard: ShardId, shards: u16) -> Result<String, InvalidId> {
        let mut number = 0_u32;
        loop {
            let key = number.to_string();
            if EntityId::new(KIND, &key)?.shard(shards) == shard {
                return Ok(key);
            }
            number += 1;
        }
    }
}

/// It is never written.
#[derive(Debug, Event)]
pub(crate) struct Nothing {}

/// Renews the lease of a session, or begins it.
#[derive(Debug, Clone, Command)]
#[command(reply = Standing)]
pub(crate) struct Renew {
    pub(crate) session: u128,
    pub(crate) era: u32,
    pub(crate) ttl_ms: u64,
    pub(crate) next: u64,
    pub(crate) wanted: Vec<u64>,
    pub(crate) waits: Vec<Waits>,
}

/// What became of it. New ones are added at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Standing {
    Renewed,
    Over,
    TooManySessions,
}

/// Ends a session: what it holds is free.
#[derive(Debug, Clone, Command)]
#[command(reply = ())]
pub(crate) struct End {
    pub(crate) session: u128,
}

impl EventSourced for Leases {
    const KIND: &'static str = KIND;
    type State = ();
    type Event = Nothing;
    type Commands = (Renew, End);

    fn apply((): &mut (), _: &Nothing) {}

    fn settings(&self) -> EntitySettings {
        EntitySettings::default().dedup_count(0).mailbox(16_384)
    }
}

impl Handle<Renew> for Leases {
    fn handle(&self, (): &(), renew: Renew, cx: &Context) -> Effect<Self, Standing> {
        let Renew { session, era, ttl_ms, next, wanted, waits } = renew;
        let wait = |(kind, key, ticket, since_ms): Waits| {
            let entity = EntityId::new(&kind, &key).ok()?;
            Some(Wait { entity, ticket, since_ms })
        };
        let renewal = Renewal {
            session: SessionId(session),
            era,
            ttl: Duration::from_millis(ttl_ms).min(MAX_TTL),
            next,
            wanted: wanted.into_iter().collect(),
            waits: waits.into_iter().filter_map(wait).collect(),
        };
        let renewed = self.warden.with(cx.entity(), |tenancy, now| tenancy.renew(now, renewal));
        Effect::reply(match renewed {
            Some(Renewed::Yes) => Standing::Renewed,
            Some(Renewed::Full) => Standing::TooManySessions,
            // Without a tenancy the answer is not given: the shard is not this node's.
            Some(Renewed::Over) | None => Standing::Over,
        })
    }
}

impl Handle<End> for Leases {
    fn handle(&self, (): &(), end: End, cx: &Context) -> Effect<Self, ()> {
        self.warden.with(cx.entity(), |tenancy, _| tenancy.end(SessionId(end.session)));
        Effect::reply(())
    }
}
