//! What a log's files say of its groups, put together when the log is opened.
//!
//! The files are gone through from the oldest to the newest. Later entries supersede earlier ones of
//! the same group; the newest mark says up to where the group is applied, and those entries are
//! noted in the index again without any checks, but for what marks say was amended. Entries after
//! that wait for Raft to commit them again.

use std::collections::BTreeMap;

use super::{
    apply::note_again,
    entries::Spot,
    footer::ShardRow,
    group_state::{Marked, Replica},
    live::Live,
    marks::{Amended, Applied, Carried},
    scan::Item,
    stored::{Stored, read_entries},
};
use crate::{
    error::JournalError,
    id::{Position, ShardId},
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
        let (upto, replica) = (row.entry(), &mut self.replica);
        if let Some(checkpoint) = &row.checkpoint {
            let membership = checkpoint.membership.clone();
            replica.installed(upto, row.epoch, membership, checkpoint.later);
            replica.marked = Marked::default();
            self.amended.clear();
        }
        replica.entries.purge(upto);
        replica.epoch = replica.epoch.max(row.epoch);
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

    /// The applied entries of a segment.
    pub(crate) fn applied_in(&self, shard: ShardId, segment: u64) -> Vec<Stored> {
        let Some(applied) = self.replica.applied else { return Vec::new() };
        let found = self.replica.entries.of_segment(segment, applied.index);
        found.into_iter().map(|(id, spot)| Stored { shard, id, spot }).collect()
    }
}

/// Notes the applied entries of a segment in its index.
pub(crate) fn note_applied(groups: &[Recovered], live: &Live) -> Result<(), JournalError> {
    let of = |(n, group): (usize, &Recovered)| group.applied_in(ShardId(n as u16), live.id);
    let mut entries: Vec<Stored> = groups.iter().enumerate().flat_map(of).collect();
    entries.sort_unstable_by_key(|stored| stored.spot.offset);
    read_entries(live, &entries, |entry, Stored { shard, spot, .. }| {
        let amended = &groups[usize::from(shard.0)].amended;
        let amended = |position| amended.get(&position).copied();
        live.with(|index| note_again(index, *shard, (&entry, *spot), amended)).ok_or_else(|| {
            let what = "the entry's writes have no meaning";
            JournalError::corrupt(&live.path, spot.offset, what)
        })
    })
}
