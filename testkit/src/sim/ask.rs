//! Asking entities of a simulated cluster.

use std::{future::IntoFuture, sync::Arc, time::Duration};

use bytes::Bytes;
use duractor::{
    AskError, Command, EventSourced, Handle, Node, NodeError, RequestId, TookEffect,
    testing::encode_reply,
};
use duractor_journal::{EntityId, NodeId};
use tokio::time::{Instant, sleep};

use super::{
    notes::hex,
    subject::{Of, Settled},
    world::World,
};
use crate::{
    machines::{Process, Site, passes},
    rng::Rng,
};

/// How long a command is tried, unless it is told.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a try may take.
const TRY: Duration = Duration::from_secs(2);
/// So much longer than its own time it may take until its caller hears.
const LATER: Duration = Duration::from_secs(5);

/// An entity of a simulated cluster: [`World::entity`]. Cheap to clone.
pub struct SimEntity<E: EventSourced> {
    world: World,
    key: String,
    node: Option<u32>,
    patience: Duration,
    _kind: std::marker::PhantomData<fn() -> E>,
}

impl<E: EventSourced> Clone for SimEntity<E> {
    fn clone(&self) -> Self {
        let Self { world, key, node, patience, _kind } = self;
        let (world, key) = (world.clone(), key.clone());
        Self { world, key, node: *node, patience: *patience, _kind: *_kind }
    }
}

impl<E: EventSourced> SimEntity<E> {
    pub(super) fn new(world: &World, key: String) -> Self {
        let _kind = std::marker::PhantomData;
        Self { world: world.clone(), key, node: None, patience: PATIENCE, _kind }
    }

    /// Asks through this node only; through any that is up otherwise.
    #[must_use]
    pub fn at(mut self, node: u32) -> Self {
        self.node = Some(node);
        self
    }

    /// How long (in virtual time) a command is tried; 20 s unless set.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sends a command until its outcome is known or time is up: each try has the same request id, so
    /// that it takes effect once. What came of it is checked in the end against the entity's journal.
    ///
    /// # Errors
    /// The last try's. Where an earlier one may have taken effect, [`AskError::effect`] of this one does
    /// not tell; the final checks know.
    pub async fn ask<C: Command>(&self, command: C) -> Result<C::Reply, AskError>
    where
        E: Handle<C>,
    {
        let inner = &self.world.inner;
        let subject = inner.subjects.of::<E>(&self.key)?;
        let payload = command.encode().map_err(AskError::Codec)?;
        let began = inner.notes.tick();
        let (number, request) = subject.begin::<C>(began, payload.clone());
        let rng = inner.notes.fork_rng();
        let mut way = Way { entity: self, rng, request, payload, number, asked: None };
        let (settled, result) = way.go::<C>(&subject).await;
        subject.end(number, settled);
        result
    }
}

/// A command on its way.
struct Way<'a, E: EventSourced> {
    entity: &'a SimEntity<E>,
    rng: Rng,
    request: RequestId,
    payload: Bytes,
    number: u64,
    /// Whom the newest try went to.
    asked: Option<NodeId>,
}

impl<E: EventSourced> Way<'_, E> {
    async fn go<C: Command>(
        &mut self,
        subject: &Arc<Of<E>>,
    ) -> (Settled, Result<C::Reply, AskError>)
    where
        E: Handle<C>,
    {
        let (world, id) = (&self.entity.world, subject.id());
        let end = Instant::now() + self.entity.patience;
        let mut settled = Settled::Nothing;
        loop {
            let result = self.once::<C>(id).await;
            self.note::<C>(id, &result);
            let error = match result {
                Ok(reply) => {
                    let encoded = encode_reply::<C>(&reply);
                    let at = world.inner.notes.tick();
                    return match encoded {
                        Ok(reply_bytes) => (Settled::Replied { at, reply: reply_bytes }, Ok(reply)),
                        Err(error) => (Settled::Unknown, Err(AskError::Codec(error))),
                    };
                }
                Err(error) => error,
            };
            if error.effect() == TookEffect::Unknown {
                settled = Settled::Unknown;
            }
            let tires = world.is_ending() || Instant::now() > end;
            if tires || !passes(&error) {
                return (settled, Err(error));
            }
            sleep(Duration::from_millis(1 + self.rng.below(40))).await;
        }
    }

    fn note<C: Command>(&self, id: &EntityId, result: &Result<C::Reply, AskError>) {
        let (number, name) = (self.number, C::NAME);
        self.entity.world.inner.say(30 ^ number << 8, || {
            let node = self.asked.map_or("no node".into(), |node| format!("node {node}"));
            let came = match result {
                Ok(reply) => {
                    let bytes = postcard::to_allocvec(reply).unwrap_or_default();
                    format!("answered {}", hex(&bytes))
                }
                Err(error) => error.to_string(),
            };
            format!("{id}: {name} sim-{number} at {node}: {came}")
        });
    }

    /// One try.
    async fn once<C: Command>(&mut self, id: &EntityId) -> Result<C::Reply, AskError>
    where
        E: Handle<C>,
    {
        let inner = &self.entity.world.inner;
        let found = self.node();
        self.asked = found.as_ref().map(|(process, _)| process.node);
        let Some((process, node)) = found else { return Err(AskError::ShuttingDown) };
        let command = C::decode(C::VERSION, &self.payload).map_err(AskError::Codec)?;
        let entity = match node.entity::<E>(&self.entity.key) {
            Ok(entity) => entity,
            Err(NodeError::ShuttingDown) => return Err(AskError::ShuttingDown),
            Err(error) => {
                inner.violated(format!("the application has no such entity: {error}"));
                return Err(AskError::ShuttingDown);
            }
        };
        let ask = entity.ask(command).request_id(self.request.clone()).timeout(TRY).into_future();
        match inner.call(&process, TRY + LATER, ask).await {
            Some(result) => result,
            None if process.is_dead() => Err(AskError::Lost { entity: id.clone() }),
            None => {
                inner.violated(format!("V: node {} does not answer {id} at all", process.node));
                Err(AskError::Timeout { entity: id.clone() })
            }
        }
    }

    fn node(&mut self) -> Option<(Arc<Process>, Arc<Node>)> {
        let inner = &self.entity.world.inner;
        match self.entity.node {
            Some(node) => inner.process(NodeId(node)),
            None => inner.any(&mut self.rng),
        }
    }
}
