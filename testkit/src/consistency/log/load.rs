//! What a life does to its log: writes of every kind, claims, deletions, maintenance.

use duractor_journal::{AppendBatch, Journal, JournalError, LogJournal, Seq, ShardId, Term};
use futures_util::FutureExt;
use tokio::time::timeout;

use super::{
    super::{
        content::{self, again, batch},
        report::{Checked, violated},
    },
    history::PATIENCE,
    life::{Answer, Life},
};

impl Life<'_, '_> {
    pub(super) async fn step(&mut self) -> Checked {
        let kind = if self.lives.torn_tails { 0 } else { self.rng().below(100) };
        match kind {
            0..62 => self.burst(),
            62..68 => self.delete(),
            68..72 => {
                let shard = ShardId(self.lives.rng.below(self.journal.shards().into()) as u16);
                self.claim(shard).await?;
            }
            72..80 => self.read_one().await?,
            80..84 => self.send_wrong(),
            84..87 => self.maintain(),
            87..88 => self.open_twice().await?,
            88..92 => self.settle().await?,
            _ => self.follow()?,
        }
        match self.rng().below(4) {
            0 => {}
            1..3 => tokio::task::yield_now().await,
            _ => self.settle().await?,
        }
        Ok(())
    }

    /// Some batches at once, most of them of one entity.
    pub(super) fn burst(&mut self) {
        let hot = self.lives.rng.index(self.lives.uses.len());
        for _ in 0..1 + self.lives.rng.below(6) {
            let any = self.lives.rng.index(self.lives.uses.len());
            let index = if self.lives.rng.chance(0.7) { hot } else { any };
            let used = self.lives.uses[index];
            if let (Some(expected), false) = (used.accepted, used.broken) {
                let epoch = self.epoch(index);
                let number = self.send(index, expected, epoch);
                let events = self.lives.model.sent[number].batch.events.len() as u64;
                self.lives.uses[index].accepted = Some(expected.plus(events));
            }
        }
    }

    fn epoch(&self, index: usize) -> Term {
        self.lives.model.epochs[usize::from(self.lives.model.entities[index].shard.0)]
    }

    fn send(&mut self, index: usize, expected: Seq, epoch: Term) -> usize {
        let lives = &mut *self.lives;
        let (number, segment) = (lives.model.sent.len(), lives.config.segment_bytes);
        let place = (&lives.model.entities[index].id, epoch, expected);
        let batch = if lives.torn_tails {
            let events = vec![content::event(&mut lives.rng, number, 0, 420)];
            AppendBatch { request: None, events, ..batch(&mut lives.rng, number, place, segment) }
        } else {
            batch(&mut lives.rng, number, place, segment)
        };
        self.submit(index, batch);
        number
    }

    /// A batch with a wrong expected sequence number or an old epoch.
    fn send_wrong(&mut self) {
        let index = self.lives.rng.index(self.lives.uses.len());
        let used = self.lives.uses[index];
        let (Some(accepted), false) = (used.accepted, used.broken) else { return };
        let epoch = self.epoch(index);
        let (expected, epoch) = match self.rng().below(3) {
            0 => (accepted.plus(1), epoch),
            1 if accepted > Seq::ZERO => (Seq(accepted.0 - 1), epoch),
            _ => (accepted, Term(epoch.0.saturating_sub(1))),
        };
        let number = self.send(index, expected, epoch);
        self.lives.wrong.push(number);
    }

    fn delete(&mut self) {
        let index = self.lives.rng.index(self.lives.uses.len());
        let used = self.lives.uses[index];
        let (Some(accepted), false) = (used.accepted, used.broken) else { return };
        let (epoch, to) = (self.epoch(index), Seq(self.lives.rng.below(accepted.0 + 3)));
        let id = self.lives.model.entities[index].id.clone();
        let certain = to.min(accepted);
        for _ in 0..1 + self.lives.rng.below(2) {
            self.lives.trace.line(|| format!("  delete {id} to {to}"));
            self.lives.model.entities[index].deletions.push(certain);
            self.lives.uses[index].waiting += 1;
            let call = self.journal.delete_to(&id, to, epoch);
            self.answer(call, move |result| Answer::Delete(index, certain, result));
        }
    }

    fn maintain(&mut self) {
        self.lives.trace.line(|| "  maintain".into());
        let journal = self.journal.clone();
        let call = async move { journal.maintain().await };
        self.answer(call.boxed(), Answer::Maintain);
    }

    /// Whoever got no answer tries again: with the same frame at the same place.
    pub(super) fn retry(&mut self, before: usize) -> bool {
        let Some(lost) = self.lives.model.absent_from(before) else { return false };
        let sent = &self.lives.model.sent[lost];
        let (index, shard) = (sent.entity, self.lives.model.entities[sent.entity].shard);
        let used = self.lives.uses[index];
        let known = self.lives.claimed[usize::from(shard.0)];
        let fits = known && used.accepted == Some(sent.batch.expected_seq);
        if fits {
            let batch = again(&sent.batch, self.lives.model.sent.len(), self.epoch(index));
            let events = batch.events.len() as u64;
            self.lives.uses[index].accepted = Some(batch.expected_seq.plus(events));
            self.submit(index, batch);
        }
        fits
    }

    pub(super) async fn claim_shards(&mut self) -> Checked {
        for shard in 0..self.journal.shards() {
            // Sometimes the epoch of the last life goes on.
            let had = self.lives.claimed[usize::from(shard)];
            if !had || self.rng().chance(0.8) {
                self.claim(ShardId(shard)).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn claim(&mut self, shard: ShardId) -> Checked {
        let at = usize::from(shard.0);
        self.lives.claimed[at] = false;
        let claim = self.journal.claim(shard);
        let mut claim = std::pin::pin!(claim);
        let mut claimed = timeout(PATIENCE, &mut claim).await;
        if claimed.is_err() && self.plan.room.is_some() {
            // What was taken waits for room.
            self.lives.sim.disk().set_capacity(None);
            claimed = timeout(PATIENCE, claim).await;
        }
        self.lives.claimed[at] = matches!(claimed, Ok(Ok(_)));
        let known = &mut self.lives.model.epochs[usize::from(shard.0)];
        match claimed {
            Err(_) => violated(format!("the claim of {shard} was never answered")),
            Ok(Ok(term)) if term <= *known => {
                violated(format!("{shard}: {term} was claimed after {known}"))
            }
            Ok(Ok(term)) => {
                *known = term;
                self.lives.trace.mix(term.0);
                Ok(())
            }
            Ok(Err(error)) => self.failed(&error),
        }
    }

    async fn open_twice(&mut self) -> Checked {
        let second = LogJournal::open(self.lives.config.clone(), self.lives.env()).await;
        match second {
            Err(JournalError::Locked { .. }) => Ok(()),
            Ok(_) => violated("the log was opened twice"),
            Err(error) => self.lives.not_opened(self.plan, &error),
        }
    }
}
