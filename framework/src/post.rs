//! Carries a command, as bytes, from one entity to another, wherever that is.

use std::sync::Arc;

use bytes::Bytes;
use duractor_journal::{EntityId, Member, ShardId};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    command::{Command, decode_reply},
    delivery::Away,
    error::AskError,
    intent::Options,
    meta::{Call, Origin},
    route::{Arrived, Asked, Next, Outgoing, Router, Trail},
    shared::Shared,
};

/// A command on its way.
struct Letter<'a> {
    shared: &'a Arc<Shared>,
    to: &'a EntityId,
    shard: ShardId,
    call: &'a Call,
    options: Options,
    deadline: Instant,
    asked: Asked,
    named: Option<Member>,
    follow: bool,
}

/// Gives a command to an entity, and waits for what it answers: as
/// [`encode_reply`](crate::encode_reply) makes it, or nothing where it is not known any more. While
/// leadership moves it is tried again until the deadline: always what cannot have taken effect, and what
/// may have where a repeat is harmless.
///
/// # Errors
/// As an ask.
pub(crate) async fn carry(
    shared: &Arc<Shared>,
    to: &EntityId,
    call: &Call,
    origin: Option<Origin>,
    (repeatable, deadline): (bool, Instant),
) -> Result<Bytes, AskError> {
    let origin = origin.map(Box::new);
    let options = Options { deadline: Some(deadline), origin, ..Options::default() };
    let shard = to.shard(shared.journal.shards());
    let (asked, named, follow) = (Asked::default(), None, false);
    let letter = Letter { shared, to, shard, call, options, deadline, asked, named, follow };
    letter.run(repeatable).await
}

/// The same for a command of the framework's own.
///
/// # Errors
/// As an ask.
pub(crate) async fn ask<C: Command>(
    shared: &Arc<Shared>,
    to: &EntityId,
    command: &C,
    tries: (bool, Instant),
) -> Result<C::Reply, AskError> {
    let call = Call::of(command).map_err(AskError::Codec)?;
    let reply = carry(shared, to, &call, None, tries).await?;
    decode_reply::<C>(&reply).map_err(AskError::Codec)
}

impl Letter<'_> {
    async fn run(mut self, repeatable: bool) -> Result<Bytes, AskError> {
        let mut trail = Trail::new(self.shard, repeatable);
        loop {
            let error = match self.attempt().await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            let (at, after) = match trail.failed(self.asked.last, error.clone()) {
                Next::Failed(error) => return Err(error),
                Next::Again { at, after } => (at, after),
            };
            if let Some(closed) = self.shared.refusal() {
                return Err(trail.last(closed));
            }
            if Instant::now() + after >= self.deadline {
                return Err(trail.last(error));
            }
            (self.named, self.follow) = (at, after.is_zero());
            if let Some(router) = &self.shared.router {
                router.learn(self.shard, at);
            }
            if !after.is_zero() {
                sleep(after).await;
            }
        }
    }

    async fn attempt(&mut self) -> Result<Bytes, AskError> {
        let Some(shard) = self.shared.shard(self.shard) else {
            return Err(AskError::ShuttingDown);
        };
        match self.shared.router.clone() {
            Some(router) if shard.hold.check().is_err() => {
                self.there(&router, shard.hold.believed()).await
            }
            _ => self.here().await,
        }
    }

    async fn here(&mut self) -> Result<Bytes, AskError> {
        self.asked.last = self.shared.router.as_ref().map(|router| router.me());
        let (tell, told) = oneshot::channel();
        let reply = Away::new(self.to.clone(), move |answer| {
            // Whoever stopped waiting asks again.
            let _ = tell.send(answer);
        });
        let Call { command, version, payload } = self.call.clone();
        let (entity, options) = (self.to.clone(), self.options.clone());
        let host = self.shared.host.get().ok_or(AskError::ShuttingDown)?;
        host.arrived(Arrived { entity, command, version, payload, options, reply });
        match timeout_at(self.deadline, told).await {
            Ok(answer) => answer.unwrap_or(Err(AskError::Lost { entity: self.to.clone() })),
            Err(_) => Err(AskError::Timeout { entity: self.to.clone() }),
        }
    }

    async fn there(
        &mut self,
        router: &Router,
        believed: Option<Member>,
    ) -> Result<Bytes, AskError> {
        let named = self.named.take();
        let followed = named.filter(|named| self.follow && *named != router.me());
        let hints = [named, believed];
        let target = followed.or_else(|| router.target(self.shard, hints, &mut self.asked));
        let Some(to) = target else {
            self.asked.last = None;
            return Err(AskError::NotOwner { shard: self.shard, leader: None });
        };
        self.asked.note(to);
        let outgoing = Outgoing {
            entity: self.to,
            command: &self.call.command,
            version: self.call.version,
            payload: &self.call.payload,
            options: &self.options,
        };
        let reply = router.ask(to, &outgoing, self.deadline).await?;
        router.learn(self.shard, Some(to));
        Ok(reply)
    }
}
