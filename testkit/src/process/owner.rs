//! In the node: writes that take effect once, whoever leads.
//!
//! The least that a writer needs who moves from leader to leader, and what entities do in full: it
//! [claims](duractor_journal::Journal::claim) a shard when this node's leadership of it begins,
//! learns of an entity's end and of its newest requests by a barrier and a replay, and then writes
//! behind that end. A request that was written is answered from what is known of it. After any error
//! everything known of the entity is dropped and read again.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use duractor_journal::{
    AppendBatch, EntityId, Journal, JournalError, LogJournal, Member, NewEvent, Ownership,
    ReplayRange, Request, RequestId, Seq, ShardId, Term, Timestamp,
};
use futures_util::StreamExt;
use tokio::task::JoinHandle;

use super::wire::Written;

/// So many of an entity's last events are searched for requests that were answered before.
const WINDOW: u64 = 1024;

/// Writes for callers who come again with the same request until it is acknowledged.
pub struct Owner {
    journal: Arc<LogJournal>,
    ownerships: Arc<Mutex<Vec<Ownership>>>,
    shards: Vec<tokio::sync::Mutex<Shard>>,
    watching: JoinHandle<()>,
}

/// A shard as its owner has it.
#[derive(Default)]
struct Shard {
    /// Under which leadership the epoch was claimed.
    claimed: Option<(Term, Term)>,
    entities: HashMap<EntityId, Entity>,
}

type Entity = Arc<tokio::sync::Mutex<Option<Known>>>;

/// What is known of an entity.
struct Known {
    last_seq: Seq,
    /// Requests, with the sequence number of their first event.
    requests: BTreeMap<RequestId, Seq>,
}

impl Owner {
    /// Follows the ownerships of this journal.
    #[must_use]
    pub fn new(journal: Arc<LogJournal>) -> Self {
        let shards = usize::from(journal.shards());
        let ownerships = Arc::new(Mutex::new(vec![Ownership::Other { leader: None }; shards]));
        let (mut changes, seen) = (journal.ownerships(), ownerships.clone());
        let watching = tokio::spawn(async move {
            while let Some((shard, ownership)) = changes.next().await {
                seen.lock().unwrap_or_else(PoisonError::into_inner)[usize::from(shard.0)] =
                    ownership;
            }
        });
        let shards = (0..shards).map(|_| tokio::sync::Mutex::default()).collect();
        Self { journal, ownerships, shards, watching }
    }

    /// Writes batches of one entity, in order, each under its request. Those that were written
    /// before are not written again.
    pub async fn write(
        &self,
        entity: &EntityId,
        batches: Vec<(RequestId, Vec<NewEvent>)>,
    ) -> Written {
        let mut first_seqs = vec![None; batches.len()];
        let trouble = self.try_write(entity, batches, &mut first_seqs).await.err();
        let leader = match &trouble {
            Some(JournalError::NotLeader { leader, .. }) => *leader,
            _ => None,
        };
        Written { first_seqs, trouble: trouble.map(|error| error.to_string()), leader }
    }

    async fn try_write(
        &self,
        entity: &EntityId,
        batches: Vec<(RequestId, Vec<NewEvent>)>,
        first_seqs: &mut [Option<u64>],
    ) -> Result<(), JournalError> {
        let shard = entity.shard(self.journal.shards());
        let (epoch, slot) = self.owned(shard, entity).await?;
        let mut slot = slot.lock().await;
        let mut known = match slot.take() {
            Some(known) => known,
            None => self.recover(shard, entity).await?,
        };
        let mut under_way = Vec::new();
        for (index, (id, events)) in batches.into_iter().enumerate() {
            if let Some(first) = known.requests.get(&id) {
                first_seqs[index] = Some(first.0);
                continue;
            }
            let (expected_seq, count) = (known.last_seq, events.len() as u64);
            known.last_seq = expected_seq.plus(count);
            let first = expected_seq.next();
            let reply = first.0.to_le_bytes().to_vec().into();
            let appended = self.journal.append(AppendBatch {
                entity: entity.clone(),
                epoch,
                expected_seq,
                timestamp: Timestamp(1),
                request: Some(Request { id: id.clone(), reply }),
                events,
            });
            under_way.push((index, id, first, appended));
        }
        let mut failed = None;
        for (index, id, first, appended) in under_way {
            match appended.await {
                Ok(_) => {
                    first_seqs[index] = Some(first.0);
                    known.remember(id, first);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if let Some(error) = failed {
            self.lost(shard, epoch).await;
            return Err(error);
        }
        *slot = Some(known);
        Ok(())
    }

    /// Deletes the entity's events up to `to`. Can be asked for again.
    ///
    /// # Errors
    /// Those of the journal.
    pub async fn delete(&self, entity: &EntityId, to: Seq) -> Result<(), JournalError> {
        let shard = entity.shard(self.journal.shards());
        let (epoch, slot) = self.owned(shard, entity).await?;
        let _slot = slot.lock().await;
        let deleted = self.journal.delete_to(entity, to, epoch).await;
        if deleted.is_err() {
            self.lost(shard, epoch).await;
        }
        deleted
    }

    /// The epoch to write under, claimed if need be, and the entity's place.
    async fn owned(
        &self,
        shard: ShardId,
        entity: &EntityId,
    ) -> Result<(Term, Entity), JournalError> {
        let mut owned = self.shards[usize::from(shard.0)].lock().await;
        let term = self.leadership(shard).map_err(|leader| {
            owned.claimed = None;
            JournalError::NotLeader { shard, leader }
        })?;
        let epoch = match owned.claimed {
            Some((under, epoch)) if under == term => epoch,
            _ => {
                owned.claimed = None;
                owned.entities.clear();
                let epoch = self.journal.claim(shard).await?;
                owned.claimed = Some((term, epoch));
                epoch
            }
        };
        Ok((epoch, owned.entities.entry(entity.clone()).or_default().clone()))
    }

    fn leadership(&self, shard: ShardId) -> Result<Term, Option<Member>> {
        let ownerships = self.ownerships.lock().unwrap_or_else(PoisonError::into_inner);
        match ownerships[usize::from(shard.0)] {
            Ownership::Mine { term } => Ok(term),
            Ownership::Other { leader } => Err(leader),
        }
    }

    /// After an error: the epoch may be stale, so another one is claimed before the next write.
    async fn lost(&self, shard: ShardId, epoch: Term) {
        let mut owned = self.shards[usize::from(shard.0)].lock().await;
        if owned.claimed.is_some_and(|(_, claimed)| claimed == epoch) {
            owned.claimed = None;
        }
    }

    async fn recover(&self, shard: ShardId, entity: &EntityId) -> Result<Known, JournalError> {
        self.journal.barrier(shard).await?;
        let head = self.journal.head(entity).await?;
        let from = Seq(head.last_seq.0.saturating_sub(WINDOW)).max(head.deleted_to).next();
        let mut known = Known { last_seq: head.last_seq, requests: BTreeMap::new() };
        let mut chunks = self.journal.replay(entity, ReplayRange::from(from));
        while let Some(chunk) = chunks.next().await {
            for record in chunk? {
                known.last_seq = known.last_seq.max(record.seq);
                let Some(Request { id, reply }) = record.request else { continue };
                if let Ok(first) = reply[..].try_into() {
                    known.remember(id, Seq(u64::from_le_bytes(first)));
                }
            }
        }
        Ok(known)
    }
}

impl Known {
    fn remember(&mut self, id: RequestId, first: Seq) {
        self.requests.insert(id, first);
        if self.requests.len() > 2 * WINDOW as usize {
            let oldest = self.last_seq.0.saturating_sub(WINDOW);
            self.requests.retain(|_, first| first.0 >= oldest);
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.watching.abort();
    }
}
