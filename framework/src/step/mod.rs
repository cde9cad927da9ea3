//! What the steps of a transaction at its entities are made of; the steps themselves are
//! [`Step`](crate::intent::Step)s, on their way as [`Stepping`](crate::stepping::Stepping).

mod wire;

use bytes::Bytes;
use duractor_journal::{AppendBatch, JournalError, Seq};
use tokio::sync::oneshot;

pub(crate) use self::wire::{Decide, DoTogether, Part, Prepare, Promise, Stopped, Together, TxId};

/// What an entity would write for a transaction whose entities are all on its shard. It is held until
/// this is settled.
pub(crate) struct Ready {
    /// Nothing, where the command only looks.
    pub(crate) batch: Option<AppendBatch>,
    pub(crate) reply: Bytes,
    pub(crate) settle: Settle,
}

/// What became of what an entity would write.
#[derive(Debug, Clone)]
pub(crate) enum Settled {
    /// It is committed: everything up to this event.
    Committed { last: Option<Seq> },
    /// It is not, and never will be.
    Aborted,
    /// Nobody knows. The entity starts again from its events.
    Unknown(JournalError),
}

/// Settles, once. Where it is dropped without that, nobody knows what became of it.
pub(crate) struct Settle(Option<Box<dyn FnOnce(Settled) + Send>>);

impl Settle {
    pub(crate) fn new(settle: impl FnOnce(Settled) + Send + 'static) -> Self {
        Self(Some(Box::new(settle)))
    }

    pub(crate) fn settle(mut self, settled: Settled) {
        if let Some(settle) = self.0.take() {
            settle(settled);
        }
    }
}

impl Drop for Settle {
    fn drop(&mut self) {
        if let Some(settle) = self.0.take() {
            settle(Settled::Unknown(JournalError::FailedUnderWay {
                cause: "nobody saw to the end of a transaction".into(),
            }));
        }
    }
}

/// Hears what an entity would write that considered a command. Where nothing is to be written, the step
/// is answered without that: with a [`Promise::Stopped`], or with a [`Promise::Prepared`] where the
/// request was carried out before.
pub(crate) type Readies = oneshot::Sender<Ready>;

/// A step before its command is read, for whichever kind of entity.
pub(crate) enum RawStep {
    Consider { part: Part, ready: Readies },
    Prepare { part: Part, tx: TxId, patience_ms: u64 },
    Decide { tx: TxId, number: Option<u64>, commit: bool },
}
