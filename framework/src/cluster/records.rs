//! The cluster's state in the journal: reading it as far as this node has it, and adding to it.

use std::{sync::Arc, time::Duration};

use duractor_journal::{
    AppendBatch, EntityId, Env, Journal, JournalError, NewEvent, ReplayRange, Seq, ShardId, Term,
};
use futures_util::StreamExt;

use super::{
    error::ClusterError,
    event::{ClusterEvent, state_entity},
    state::ClusterState,
};
use crate::event::Event;

/// No call of the journal may take longer: a node without a quorum must go on answering.
const PATIENCE: Duration = Duration::from_secs(5);

/// The state as this node has read it.
pub(super) struct Records {
    journal: Arc<dyn Journal>,
    env: Env,
    entity: EntityId,
    epoch: Term,
    pub(super) state: ClusterState,
}

impl Records {
    pub(super) fn new(journal: Arc<dyn Journal>, env: Env) -> Result<Self, ClusterError> {
        let entity = state_entity(journal.shards())
            .map_err(|error| ClusterError::State { reason: error.to_string() })?;
        Ok(Self { journal, env, entity, epoch: Term(0), state: ClusterState::default() })
    }

    /// Takes over what is new in the journal.
    ///
    /// # Errors
    /// [`ClusterError::State`] where an event cannot be read: then nothing may be decided.
    pub(super) async fn refresh(&mut self) -> Result<(), ClusterError> {
        let head = patiently(self.journal.head(&self.entity)).await??;
        if head.last_seq.0 <= self.state.revision {
            return Ok(());
        }
        let range = ReplayRange::from(Seq(self.state.revision + 1));
        let mut pieces = self.journal.replay(&self.entity, range);
        while let Some(piece) = patiently(pieces.next()).await? {
            for record in piece? {
                if record.seq.0 != self.state.revision + 1 {
                    let reason = format!("event {} follows {}", record.seq, self.state.revision);
                    return Err(ClusterError::State { reason });
                }
                let event = &record.event;
                let decoded =
                    ClusterEvent::decode(&event.name, event.schema_version, &event.payload)
                        .map_err(|error| ClusterError::State { reason: error.to_string() })?;
                for event in decoded {
                    self.state.apply(&event, record.seq, record.timestamp);
                }
            }
        }
        Ok(())
    }

    /// As [`refresh`](Self::refresh), and sees everything that was recorded before: for decisions,
    /// at the leader.
    pub(super) async fn refresh_all(&mut self) -> Result<(), ClusterError> {
        patiently(self.journal.barrier(ShardId(0))).await??;
        self.refresh().await
    }

    /// Records an event that was decided on the state as it is here. It is refused where somebody
    /// else recorded something meanwhile: then refresh and decide again.
    ///
    /// The shard's owner has an epoch, which entities are written under. This entity has many
    /// writers and none that lasts, so it takes the epoch in force, and what keeps two of them
    /// apart is the sequence number that each expects.
    pub(super) async fn record(&mut self, event: &ClusterEvent) -> Result<(), ClusterError> {
        let schema = event.schema();
        let payload =
            event.encode().map_err(|error| ClusterError::State { reason: error.to_string() })?;
        tracing::info!(?event, revision = self.state.revision + 1, "the cluster changes");
        for _ in 0..3 {
            let batch = AppendBatch {
                entity: self.entity.clone(),
                epoch: self.epoch,
                expected_seq: Seq(self.state.revision),
                timestamp: self.env.clock.now(),
                request: None,
                events: vec![NewEvent::new(schema.name, schema.version, payload.clone())],
            };
            match patiently(self.journal.append(batch)).await? {
                Err(JournalError::StaleEpoch { current, .. }) => self.epoch = current,
                Err(error) => return Err(error.into()),
                Ok(_) => return self.refresh().await,
            }
        }
        let reason = "the shard changed its owner again and again".to_owned();
        Err(JournalError::Unavailable { shard: ShardId(0), reason }.into())
    }
}

/// Waits, but not for ever.
async fn patiently<T>(work: impl Future<Output = T>) -> Result<T, ClusterError> {
    let waited = tokio::time::timeout(PATIENCE, work).await;
    waited.map_err(|_| ClusterError::TimedOut {
        what: "the journal of shard 0",
        after_ms: PATIENCE.as_millis() as u64,
        last: "there may be no quorum".into(),
    })
}
