//! Reads everything that a log gives, and asks the model.

use std::time::Duration;

use duractor_journal::{
    EntityId, EventRecord, Journal, JournalError, Position, RecordChunks, ReplayRange, ShardId,
};
use futures_util::StreamExt;
use tokio::time::timeout;

use super::{
    model::{Model, Seen},
    report::{Checked, violated},
};

/// Head and events of an entity at one time: they are read again until no write came in between.
/// Nothing waits after the last look at the head, so it is also the newest.
pub(super) async fn entity(
    journal: &dyn Journal,
    id: &EntityId,
    range: ReplayRange,
) -> Result<Seen, JournalError> {
    tokio::task::unconstrained(async {
        loop {
            let head = journal.head(id).await?;
            let mut records = Vec::new();
            let mut pieces = journal.replay(id, range);
            while let Some(piece) = pieces.next().await {
                records.extend(piece?);
            }
            if journal.head(id).await? == head {
                return Ok(Seen { head, records });
            }
        }
    })
    .await
}

/// A shard's records up to now: the stream then waits, and time passes only when nobody has
/// anything left to do.
pub(super) async fn tail(mut stream: RecordChunks) -> Result<Vec<EventRecord>, JournalError> {
    let mut records = Vec::new();
    let wait = Duration::from_millis(1);
    while let Ok(Some(piece)) = timeout(wait, stream.next()).await {
        records.extend(piece?);
    }
    Ok(records)
}

/// What may fail while reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reads {
    /// Nothing.
    Work,
    /// Single reads of the disk.
    MayFail,
}

impl Reads {
    /// A read that failed: nothing is known then.
    pub(super) fn failed(self, error: &JournalError) -> Checked {
        match error {
            JournalError::Read { .. } | JournalError::Io { .. } if self == Reads::MayFail => Ok(()),
            _ => violated(format!("a read failed: {error}")),
        }
    }
}

/// Reads every entity and every shard. What may be there and is not, is absent from now on.
/// Returns the entities that were read.
pub(super) async fn everything(
    journal: &dyn Journal,
    model: &mut Model,
    reads: Reads,
) -> Checked<Vec<usize>> {
    let mut read = Vec::new();
    for shard in (0..journal.shards()).map(ShardId) {
        let mut seen = Vec::new();
        let members = (0..model.entities.len()).filter(|i| model.entities[*i].shard == shard);
        let members: Vec<usize> = members.collect();
        for index in &members {
            match entity(journal, &model.entities[*index].id, ReplayRange::ALL).await {
                Ok(found) => {
                    model.entity(*index, &found, true)?;
                    seen.push((*index, found));
                }
                Err(error) => reads.failed(&error)?,
            }
        }
        let complete = seen.len() == members.len();
        match tail(journal.tail(shard, Position::ZERO)).await {
            Ok(records) if complete => {
                model.order(shard, &records, &seen)?;
                let kept = |record: &EventRecord| {
                    let entity = model.entities.iter().find(|entity| entity.id == record.entity);
                    entity.is_some_and(|entity| record.seq > entity.deleted_to)
                };
                suffix(journal, shard, &records, kept, reads).await?;
            }
            Ok(_) => {}
            Err(error) => reads.failed(&error)?,
        }
        read.extend(seen.into_iter().map(|(index, _)| index));
    }
    Ok(read)
}

/// A tail from the middle gives the rest. (Deleted events may go at any time.)
async fn suffix(
    journal: &dyn Journal,
    shard: ShardId,
    all: &[EventRecord],
    kept: impl Fn(&EventRecord) -> bool,
    reads: Reads,
) -> Checked {
    let Some(middle) = all.get(all.len() / 2) else { return Ok(()) };
    let wanted = all[all.len() / 2 + 1..].iter().filter(|record| kept(record));
    match tail(journal.tail(shard, middle.position)).await {
        Ok(rest) if rest.iter().filter(|record| kept(record)).eq(wanted) => Ok(()),
        Ok(_) => violated(format!("{shard}: the tail from {} differs", middle.position)),
        Err(error) => reads.failed(&error),
    }
}
