//! Questions to other nodes, and the answers to them.

use std::{sync::Arc, time::Duration};

use duractor_journal::{
    Member, Transport,
    transport::{Channel, Class},
};
use tokio::time::timeout;

use super::{
    error::Refusal,
    wire::{Message, Reply, Request, encode},
};
use crate::pending::Pending;

/// The questions of one node that wait for an answer.
pub(super) struct Calls {
    transport: Arc<dyn Transport>,
    pending: Pending<Reply>,
}

impl Calls {
    /// `first` is drawn at random: an answer to a question of a former start must not be taken.
    pub(super) fn new(transport: Arc<dyn Transport>, first: u64) -> Self {
        Self { transport, pending: Pending::new(first) }
    }

    /// Says something to a peer. False where it cannot be sent now.
    pub(super) fn tell(&self, to: Member, message: &Message) -> bool {
        self.transport.send(to, Channel::Cluster, Class::Control, encode(message)).is_ok()
    }

    /// Asks a peer.
    ///
    /// # Errors
    /// What the peer refuses with; [`Refusal::NotNow`] where it is not linked, and
    /// [`Refusal::Unfinished`] where no answer came in time.
    pub(super) async fn ask(
        &self,
        to: Member,
        request: Request,
        wait: Duration,
    ) -> Result<Reply, Refusal> {
        let no_link = || Refusal::NotNow { reason: format!("there is no link to {to}") };
        let mut question = self.pending.ask(to, usize::MAX).map_err(|_| no_link())?;
        let asked = self.tell(to, &Message::Ask { id: question.id, request });
        let answer = if asked { timeout(wait, &mut question.answer).await.ok() } else { None };
        match answer {
            Some(Ok(Reply::Refused { refusal })) => Err(refusal),
            Some(Ok(reply)) => Ok(reply),
            Some(Err(_)) | None if asked => {
                Err(Refusal::Unfinished { reason: format!("{to} did not answer in time") })
            }
            _ => Err(no_link()),
        }
    }

    /// An answer came.
    pub(super) fn answered(&self, from: Member, id: u64, reply: Reply) {
        self.pending.answered(from, id, reply);
    }

    /// A peer is gone: it will not answer.
    pub(super) fn gone(&self, peer: Member) {
        self.pending.lost(peer);
    }
}
