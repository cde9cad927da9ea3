//! In the parent: writers that follow the leaders, and note what was acknowledged.

use std::sync::Arc;

use duractor_testkit::{
    Rng,
    process::{Client, client::Deadline},
};
use tokio::task::JoinSet;

use super::order::Order;
use crate::{
    Failure,
    lines::Line,
    mark::Mark,
    place::{ENTITIES_EACH, TASKS, entity},
};

/// One writer. Its entities are its own.
struct Writer {
    client: Arc<Client>,
    shards: u16,
    run: u32,
    task: usize,
    batches: u64,
    /// The sequence number of the last event of each entity that was acknowledged.
    last: Vec<u64>,
    rng: Rng,
    lines: Vec<Line>,
}

/// All writers, at work.
pub(crate) struct Load {
    writers: JoinSet<(Vec<Line>, Result<(), Failure>)>,
    stop: Arc<Deadline>,
}

impl Load {
    /// Starts the writers of a trial.
    pub(crate) fn start(client: &Arc<Client>, shards: u16, run: u32, rng: &mut Rng) -> Self {
        let (mut writers, stop) = (JoinSet::new(), Arc::new(Deadline::default()));
        for task in 0..TASKS {
            let mut writer = Writer {
                client: client.clone(),
                shards,
                run,
                task,
                batches: (task as u64) << 40,
                last: vec![0; ENTITIES_EACH],
                rng: rng.fork(),
                lines: Vec::new(),
            };
            let stop = stop.clone();
            writers.spawn(async move {
                let done = writer.run(&stop).await;
                (writer.lines, done)
            });
        }
        Self { writers, stop }
    }

    /// Has each writer write once more to each of its entities, and returns what was acknowledged,
    /// and why some did not get through in time.
    pub(crate) async fn finish(
        mut self,
        longest: std::time::Duration,
    ) -> Result<(Vec<Line>, Vec<String>), Failure> {
        self.stop.set(longest);
        let (mut lines, mut troubles) = (Vec::new(), Vec::new());
        while let Some(writer) = self.writers.join_next().await {
            let (written, done) = writer?;
            lines.extend(written);
            troubles.extend(done.err().map(|failure| failure.to_string()));
        }
        Ok((lines, troubles))
    }
}

impl Writer {
    async fn run(&mut self, stop: &Deadline) -> Result<(), Failure> {
        while !stop.is_set() {
            let index = self.rng.index(ENTITIES_EACH);
            if self.rng.chance(0.03) && self.last[index] > 0 {
                self.delete(index, stop).await?;
            } else {
                self.append(index, stop).await?;
            }
        }
        for index in 0..ENTITIES_EACH {
            self.append(index, stop).await?;
        }
        Ok(())
    }

    /// Appends a few batches, all under way at once.
    async fn append(&mut self, index: usize, stop: &Deadline) -> Result<(), Failure> {
        let number = self.task * ENTITIES_EACH + index;
        let batches = 1 + self.rng.index(3);
        let firsts: Vec<Mark> = (0..batches).map(|_| self.next_batch()).collect();
        let order = Order::Write { entity: number, firsts: firsts.clone() };
        let (shard, order) = (entity(number)?.shard(self.shards).0, serde_json::to_value(order)?);
        let (first_seqs, trouble) = match self.client.write(shard, order, || stop.is_over()).await {
            Ok(first_seqs) => (first_seqs.into_iter().map(Some).collect(), None),
            Err(unfinished) => (unfinished.first_seqs, Some(unfinished.trouble)),
        };
        for (first_seq, first) in first_seqs.into_iter().zip(firsts) {
            if let Some(first_seq) = first_seq {
                self.last[index] = first_seq + u64::from(first.count) - 1;
                self.lines.push(Line::Appended { entity: number, first_seq, first });
            }
        }
        trouble.map_or(Ok(()), |trouble| {
            Err(format!("entity {number} of shard {shard} takes no write: {trouble}").into())
        })
    }

    async fn delete(&mut self, index: usize, stop: &Deadline) -> Result<(), Failure> {
        let (number, to) =
            (self.task * ENTITIES_EACH + index, 1 + self.rng.below(self.last[index]));
        let order = serde_json::to_value(Order::Delete { entity: number, to })?;
        let shard = entity(number)?.shard(self.shards).0;
        // Before it is asked for: it may take effect without being acknowledged.
        self.lines.push(Line::Deleting { entity: number, to });
        self.client.repeat(shard, order, || stop.is_over()).await?;
        self.lines.push(Line::Deleted { entity: number, to });
        Ok(())
    }

    fn next_batch(&mut self) -> Mark {
        self.batches += 1;
        let count = if self.rng.chance(0.05) { 50 } else { 1 + self.rng.below(6) as u16 };
        Mark { run: self.run, batch: self.batches, index: 0, count }
    }
}
