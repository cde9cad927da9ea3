//! What a log's files say of its groups, put together when the log is opened.
//!
//! The files are gone through from the oldest to the newest. Later entries supersede earlier ones of
//! the same group; the newest mark says up to where the group is applied, and those entries are
//! noted in the index again without any checks, but for what marks say was amended. Entries after
//! that wait for Raft to commit them again.

use std::collections::BTreeMap;

use super::{
    apply::note_again,
    entries::{Entries, Spot},
    entry::LogId,
    footer::ShardRow,
    group_state::{Marked, Replica},
    live::Live,
    marks::{Amended, Applied, Carried},
    scan::Item,
    stored::read_entries,
};
use crate::{
    error::JournalError,
    id::{Position, ShardId, Term},
};

/// One group, as far as the files were read.
#[derive(Default)]
pub(crate) struct Recovered {
    pub replica: Replica,
    /// Of applied entries, as marks tell.
    amended: BTreeMap<Position, Amended>,
}

impl Recovered {
    /// A sealed file has a row of the group: everything up to it is applied and gone from Raft's
    /// log.
    pub(crate) fn sealed(&mut self, row: &ShardRow) {
        let upto = row.entry();
        self.replica.entries.purge(upto);
        self.replica.epoch = self.replica.epoch.max(row.epoch);
    }

    /// A segment says something of the group. `None` where that cannot be.
    pub(crate) fn item(&mut self, segment: u64, item: Item) -> Option<()> {
        match item {
            Item::Entry { id, offset, len } => {
                let spot = Spot { segment, offset, len };
                self.replica.entries.found(id, spot).then_some(())?;
            }
            Item::Vote(vote) => self.replica.vote = Some(vote),
            Item::Applied(applied) => self.applied(segment, applied),
            Item::Group(Carried { applied, vote }) => {
                self.replica.vote = vote;
                self.applied(segment, applied);
            }
        }
        Some(())
    }

    fn applied(&mut self, segment: u64, applied: Applied) {
        let replica = &mut self.replica;
        replica.applied = applied.upto;
        replica.epoch = replica.epoch.max(applied.epoch);
        if applied.membership.is_some() {
            replica.membership = applied.membership;
        }
        let membership = replica.membership.as_ref().map(|(id, _)| *id);
        replica.marked = Marked { applied: applied.upto, membership, segment };
        self.amended.extend(applied.amended.into_iter().map(|a| (a.position, a)));
    }

    /// All files were read. False where something is applied that is nowhere.
    pub(crate) fn settle(&mut self) -> bool {
        let replica = &mut self.replica;
        // Sealing goes on while the newest mark waits for its group commit.
        replica.applied = replica.applied.max(replica.entries.purged());
        replica.staged = replica.marked.clone();
        replica.applied <= replica.entries.last()
    }

    /// Notes the applied entries of a segment in its index.
    pub(crate) fn note(&self, shard: ShardId, live: &Live) -> Result<(), JournalError> {
        let Some(applied) = self.replica.applied else { return Ok(()) };
        let places = self.replica.entries.of_segment(live.id, applied.index);
        read_entries(live, shard, &places, |entry, spot| {
            let amended = |position| self.amended.get(&position).copied();
            live.with(|index| note_again(index, shard, (&entry, spot), amended)).ok_or_else(|| {
                let what = "the entry's writes have no meaning";
                JournalError::corrupt(&live.path, spot.offset, what)
            })
        })
    }
}
