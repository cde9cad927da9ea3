//! Questions to other nodes, and the answers to them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use duractor_journal::{
    Member, Transport,
    transport::{Channel, Class},
};
use tokio::sync::oneshot;

use super::{
    error::Refusal,
    wire::{Message, Reply, Request, encode},
};

/// The questions of one node that wait for an answer.
pub(super) struct Calls {
    transport: Arc<dyn Transport>,
    next: AtomicU64,
    waiting: Mutex<BTreeMap<u64, (Member, oneshot::Sender<Reply>)>>,
}

impl Calls {
    /// `first` is drawn at random: an answer to a question of a former start must not be taken.
    pub(super) fn new(transport: Arc<dyn Transport>, first: u64) -> Self {
        Self { transport, next: AtomicU64::new(first), waiting: Mutex::default() }
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
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (tx, rx) = oneshot::channel();
        self.lock().insert(id, (to, tx));
        let asked = self.tell(to, &Message::Ask { id, request });
        let answer = if asked { tokio::time::timeout(wait, rx).await.ok() } else { None };
        self.lock().remove(&id);
        match answer {
            Some(Ok(Reply::Refused { refusal })) => Err(refusal),
            Some(Ok(reply)) => Ok(reply),
            Some(Err(_)) | None if asked => {
                Err(Refusal::Unfinished { reason: format!("{to} did not answer in time") })
            }
            _ => Err(Refusal::NotNow { reason: format!("there is no link to {to}") }),
        }
    }

    /// An answer came.
    pub(super) fn answered(&self, from: Member, id: u64, reply: Reply) {
        let mut waiting = self.lock();
        if waiting.get(&id).is_some_and(|(asked, _)| *asked == from)
            && let Some((_, tx)) = waiting.remove(&id)
        {
            // Whoever stopped waiting does not need it.
            let _ = tx.send(reply);
        }
    }

    /// A peer is gone: it will not answer.
    pub(super) fn gone(&self, peer: Member) {
        self.lock().retain(|_, (asked, _)| *asked != peer);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, (Member, oneshot::Sender<Reply>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
