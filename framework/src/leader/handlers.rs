//! What only the leader does, by name.

use std::{collections::BTreeMap, future::Future, panic::AssertUnwindSafe, sync::Arc};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};

use super::error::LeaderError;
use crate::{
    command::{Command, encode_reply},
    error::NodeError,
    intent::panic_text,
};

/// A leadership of this node, while work is done under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leadership {
    pub(super) token: u64,
}

impl Leadership {
    /// The fencing token: every later leader has a higher one. Send it along with what is done in the
    /// outside world, and have that refuse lower ones than it has seen.
    #[must_use]
    pub fn token(self) -> u64 {
        self.token
    }
}

/// A call on its way to the leader: a command as bytes. For forwarders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderCall {
    /// The command's stable name.
    pub name: String,
    /// Its version.
    pub version: u16,
    /// Its fields.
    pub payload: Bytes,
}

type Run =
    dyn Fn(Leadership, u16, Bytes) -> BoxFuture<'static, Result<Bytes, LeaderError>> + Send + Sync;

/// All handlers of a node.
#[derive(Default, Clone)]
pub(crate) struct Handlers(BTreeMap<&'static str, Arc<Run>>);

impl Handlers {
    pub(crate) fn add<C, F>(
        &mut self,
        handler: impl Fn(Leadership, C) -> F + Send + Sync + 'static,
    ) -> Result<(), NodeError>
    where
        C: Command,
        F: Future<Output = C::Reply> + Send + 'static,
    {
        let run: Arc<Run> = Arc::new(move |leadership, version, payload| {
            let running = C::decode(version, &payload).map(|command| handler(leadership, command));
            Box::pin(async move {
                match AssertUnwindSafe(running?).catch_unwind().await {
                    Ok(reply) => Ok(encode_reply::<C>(&reply)?),
                    Err(panic) => {
                        let reason = panic_text(panic.as_ref());
                        Err(LeaderError::Failed { name: C::NAME.to_owned(), reason })
                    }
                }
            })
        });
        match self.0.insert(C::NAME, run) {
            None => Ok(()),
            Some(_) => Err(NodeError::DuplicateHandler { name: C::NAME }),
        }
    }

    pub(super) fn begin(
        &self,
        leadership: Leadership,
        call: LeaderCall,
    ) -> Result<BoxFuture<'static, Result<Bytes, LeaderError>>, LeaderError> {
        let LeaderCall { name, version, payload } = call;
        let Some(run) = self.0.get(name.as_str()) else {
            return Err(LeaderError::UnknownHandler { name });
        };
        // The handler's own code begins here, and may panic before its first `await`.
        let begun =
            std::panic::catch_unwind(AssertUnwindSafe(|| run(leadership, version, payload)));
        begun.map_err(|panic| LeaderError::Failed { name, reason: panic_text(panic.as_ref()) })
    }
}
