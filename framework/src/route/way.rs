//! A command's way to whoever owns its shard: who is tried next, and when.

use std::sync::Arc;

use bytes::Bytes;
use duractor_journal::{Effect, Member, ShardId};
use tokio::time::{Instant, sleep};

use super::{Asked, Next, Outgoing, Router, Trail};
use crate::{
    command::{Command, decode_reply},
    error::AskError,
};

/// The way of one command.
pub(crate) struct Way {
    /// `None` on a node without others.
    router: Option<Arc<Router>>,
    shard: ShardId,
    deadline: Instant,
    trail: Trail,
    /// Who was asked.
    asked: Asked,
    /// Who was named by the one who was asked.
    named: Option<Member>,
    /// Whether that one is asked in any case: leadership may just have come to who was asked before.
    follow: bool,
}

impl Way {
    /// Nobody was tried yet. `repeatable` where a repeat has no effect if an earlier try had one.
    pub(crate) fn new(
        router: Option<Arc<Router>>,
        shard: ShardId,
        repeatable: bool,
        deadline: Instant,
    ) -> Self {
        let (trail, asked) = (Trail::new(shard, repeatable), Asked::default());
        Self { router, shard, deadline, trail, asked, named: None, follow: false }
    }

    /// This node itself is tried.
    pub(crate) fn here(&mut self) {
        self.asked.last = self.router.as_ref().map(|router| router.me());
    }

    /// Tries another node: the one that was named, or is `believed` to lead, or anyone. Who answered, and
    /// what.
    pub(crate) async fn there(
        &mut self,
        outgoing: &Outgoing<'_>,
        believed: Option<Member>,
    ) -> Result<(Member, Bytes), AskError> {
        let nobody = AskError::NotOwner { shard: self.shard, leader: None };
        let Some(router) = &self.router else { return Err(nobody) };
        let named = self.named.take();
        let followed = named.filter(|named| self.follow && *named != router.me());
        let hints = [named, believed];
        let target = followed.or_else(|| router.target(self.shard, hints, &mut self.asked));
        let Some(to) = target else {
            self.asked.last = None;
            return Err(nobody);
        };
        self.asked.note(to);
        let reply = router.ask(to, outgoing, self.deadline).await?;
        router.learn(self.shard, Some(to));
        Ok((to, reply))
    }

    /// As [`there`](Self::there), with the answer read as that of a command.
    pub(crate) async fn ask<C: Command>(
        &mut self,
        outgoing: &Outgoing<'_>,
        believed: Option<Member>,
    ) -> Result<C::Reply, AskError> {
        let (node, reply) = self.there(outgoing, believed).await?;
        decode_reply::<C>(&reply).map_err(|error| AskError::Remote {
            node,
            error: error.to_string(),
            effect: Effect::Unknown,
        })
    }

    /// A try failed. Returns when another is due; the error is what the caller is told. `closed`: why
    /// this node takes no commands any more, if so.
    pub(crate) async fn failed(
        &mut self,
        error: AskError,
        closed: impl FnOnce() -> Option<AskError>,
    ) -> Result<(), AskError> {
        let (at, after) = match self.trail.failed(self.asked.last, error.clone()) {
            Next::Failed(error) => return Err(error),
            Next::Again { at, after } => (at, after),
        };
        if let Some(closed) = closed() {
            return Err(self.trail.last(closed));
        }
        if Instant::now() + after >= self.deadline {
            return Err(self.trail.last(error));
        }
        (self.named, self.follow) = (at, after.is_zero());
        if let Some(router) = &self.router {
            router.learn(self.shard, at);
        }
        if !after.is_zero() {
            sleep(after).await;
        }
        Ok(())
    }
}
