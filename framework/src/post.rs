//! Carries a command, as bytes, from one entity to another, wherever that is.

use std::sync::Arc;

use bytes::Bytes;
use duractor_journal::{EntityId, ShardId};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use crate::{
    command::{Command, decode_reply},
    delivery::Away,
    error::AskError,
    intent::Options,
    meta::{Call, Origin},
    route::{Arrived, Outgoing, Way},
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
    way: Way,
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
    let way = Way::new(shared.router.clone(), shard, repeatable, deadline);
    Letter { shared, to, shard, call, options, deadline, way }.run().await
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
    async fn run(mut self) -> Result<Bytes, AskError> {
        loop {
            match self.attempt().await {
                Ok(reply) => return Ok(reply),
                Err(error) => self.way.failed(error, || self.shared.refusal()).await?,
            }
        }
    }

    async fn attempt(&mut self) -> Result<Bytes, AskError> {
        let Some(shard) = self.shared.shard(self.shard) else {
            return Err(AskError::ShuttingDown);
        };
        if self.shared.router.is_none() || shard.hold.check().is_ok() {
            return self.here().await;
        }
        let outgoing = Outgoing {
            entity: self.to,
            command: &self.call.command,
            version: self.call.version,
            payload: &self.call.payload,
            options: &self.options,
        };
        let (_, reply) = self.way.there(&outgoing, shard.hold.believed()).await?;
        Ok(reply)
    }

    async fn here(&mut self) -> Result<Bytes, AskError> {
        self.way.here();
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
}
