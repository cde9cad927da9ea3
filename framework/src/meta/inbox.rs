//! Which deliveries of other entities were carried out: the highest number of each sender.
//!
//! A sender sends its deliveries to one receiver one after the other, so one number says it all. To
//! keep this bounded, senders that were quiet for long are forgotten where there are too many. Then a
//! delivery of a sender that is not known may be new, or a repeat of one that was forgotten; what tells
//! them apart is when it was decided: see [`Inbox::judge`].

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use duractor_journal::{EntityId, Timestamp};
use serde::{Deserialize, Serialize};

use super::Section;
use crate::settings::EntitySettings;

/// By so much the clocks of two nodes may differ: each may be wrong by an hour, and there is some to
/// spare.
const SKEW: Duration = Duration::from_secs(3 * 60 * 60);
/// A sender is not forgotten before it was quiet for so long, whatever the settings say: well above
/// the skew.
const QUIET: Duration = Duration::from_secs(12 * 60 * 60);

/// The newest delivery of one sender. Stored: its fields stay in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Last {
    pub(crate) number: u64,
    /// When it was carried out.
    pub(crate) at: Timestamp,
    /// What was answered, where the sender wants to know.
    pub(crate) reply: Option<Bytes>,
}

/// What a delivery is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Judgement {
    New,
    /// It was carried out. The answer, where it was kept.
    Repeat(Option<Bytes>),
    /// Whether it was carried out is not known any more.
    TooLate,
    /// It is new, and there are too many senders.
    Full,
}

/// The senders that are known.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    senders: BTreeMap<EntityId, Last>,
    /// What was decided before this may belong to a sender that was forgotten.
    forgotten: Timestamp,
}

impl Inbox {
    pub(super) fn new(senders: Vec<(EntityId, Last)>, forgotten: Timestamp) -> Self {
        Self { senders: senders.into_iter().collect(), forgotten }
    }

    pub(super) fn section(&self) -> Section {
        let senders = self.senders.iter().map(|(id, last)| (id.clone(), last.clone())).collect();
        Section::Inbox { senders, forgotten: self.forgotten }
    }

    /// What a delivery is that its sender decided at `since`.
    pub(crate) fn judge(
        &self,
        from: &EntityId,
        number: u64,
        since: Timestamp,
        now: Timestamp,
        settings: &EntitySettings,
    ) -> Judgement {
        match self.senders.get(from) {
            Some(last) if number == last.number => Judgement::Repeat(last.reply.clone()),
            Some(last) if number < last.number => Judgement::Repeat(None),
            Some(_) => Judgement::New,
            None if since <= self.forgotten && self.forgotten.0 > 0 => Judgement::TooLate,
            None if self.senders.len() < settings.senders => Judgement::New,
            None if self.quiet(now, settings).next().is_some() => Judgement::New,
            None => Judgement::Full,
        }
    }

    fn quiet(&self, now: Timestamp, settings: &EntitySettings) -> impl Iterator<Item = &EntityId> {
        let before = now.0.saturating_sub(millis(settings.dedup_age.max(QUIET)));
        self.senders.iter().filter(move |(_, last)| last.at.0 < before).map(|(id, _)| id)
    }

    pub(super) fn add(&mut self, from: EntityId, last: Last, settings: &EntitySettings) {
        if self.senders.len() >= settings.senders && !self.senders.contains_key(&from) {
            let quiet: Vec<_> = self.quiet(last.at, settings).cloned().collect();
            for id in quiet {
                if let Some(gone) = self.senders.remove(&id) {
                    let until = Timestamp(gone.at.0.saturating_add(millis(SKEW)));
                    self.forgotten = self.forgotten.max(until);
                }
            }
        }
        self.senders.insert(from, last);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
