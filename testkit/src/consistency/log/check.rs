//! Reads of a log while it is used, held against the model.

use duractor_journal::{EventRecord, ReplayRange};
use futures_util::{FutureExt, StreamExt};

use super::{
    super::{
        read,
        report::{Checked, violated},
    },
    life::Life,
};

impl Life<'_, '_> {
    pub(super) async fn read_all(&mut self) -> Checked {
        let reads = self.reads();
        let read = read::everything(&*self.journal, &mut self.lives.model, reads).await;
        // The crash may come while reading, for maintenance works meanwhile.
        let read = match read {
            Err(_) if self.reads() != reads => return Ok(()),
            read => read?,
        };
        for index in read {
            self.refresh(index).await?;
        }
        Ok(())
    }

    pub(super) async fn read_one(&mut self) -> Checked {
        let index = self.lives.rng.index(self.lives.uses.len());
        let id = self.lives.model.entities[index].id.clone();
        match read::entity(&*self.journal, &id, ReplayRange::ALL).await {
            Ok(seen) => {
                self.take_answers()?;
                self.lives.model.entity(index, &seen, false)
            }
            Err(error) => self.reads().failed(&error),
        }
    }

    /// Takes what a live tail has, each record once and in order.
    pub(super) fn follow(&mut self) -> Checked {
        let Some((mut stream, mut last)) = self.tail.take() else { return Ok(()) };
        let mut found: Vec<EventRecord> = Vec::new();
        let ended = loop {
            match stream.next().now_or_never() {
                Some(Some(Ok(records))) => found.extend(records),
                Some(Some(Err(error))) => break Some(Some(error)),
                Some(None) => break Some(None),
                None => break None,
            }
        };
        for record in &found {
            if record.position <= last {
                return violated(format!("a live tail gave {} after {last}", record.position));
            }
            last = record.position;
            self.lives.model.record(record)?;
        }
        match ended {
            Some(Some(error)) => self.reads().failed(&error),
            Some(None) => Ok(()),
            None => {
                self.tail = Some((stream, last));
                Ok(())
            }
        }
    }
}
