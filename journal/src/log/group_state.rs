//! A group's replica on this node, as the log knows it: its entries, what it promised, up to where
//! it is applied and what of that is on disk.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use tokio::sync::Notify;

use super::{
    apply::{Deletion, Machine},
    entries::Entries,
    entry::LogId,
    footer::Later,
    marks::{Amended, Applied, Carried},
};
use crate::id::{ShardId, Term};

/// How far a group's log is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GroupState {
    /// Entries up to here are gone.
    pub purged: Option<LogId>,
    /// The last entry, durable or not.
    pub last: Option<LogId>,
    pub applied: Option<LogId>,
    pub vote: Option<Bytes>,
    /// The last membership that is applied.
    pub membership: Option<(LogId, Bytes)>,
    /// The writer epoch in force.
    pub epoch: Term,
}

/// A mark that is on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Marked {
    pub applied: Option<LogId>,
    /// Of the last membership that was written.
    pub membership: Option<LogId>,
    /// The segment that it stands in; 0 where there is none.
    pub segment: u64,
}

/// What changes of a group.
#[derive(Debug, Default)]
pub(crate) struct Replica {
    pub entries: Entries,
    pub vote: Option<Bytes>,
    pub applied: Option<LogId>,
    pub membership: Option<(LogId, Bytes)>,
    pub epoch: Term,
    /// Writes that were amended and stand in no mark yet.
    pub amended: Vec<Amended>,
    /// Deletions that no mark on disk tells of: what they take away must stay until then.
    pub deletions: Vec<Deletion>,
    /// The newest mark on disk, and the newest that is about to be written.
    pub marked: Marked,
    pub staged: Marked,
}

/// A mark about to be written: the frame's payload, and what it will have marked.
pub(crate) struct Mark<T> {
    pub what: T,
    pub marked: Marked,
    /// How many of the amended writes it tells of.
    amended: usize,
}

impl<T> Mark<T> {
    /// The mark when its frame is made.
    pub(crate) fn done(&self) -> Mark<()> {
        Mark { what: (), marked: self.marked.clone(), amended: self.amended }
    }
}

impl Replica {
    pub(crate) fn state(&self) -> GroupState {
        GroupState {
            purged: self.entries.purged(),
            last: self.entries.last(),
            applied: self.applied,
            vote: self.vote.clone(),
            membership: self.membership.clone(),
            epoch: self.epoch,
        }
    }

    /// Whether there is nothing to remember of it.
    pub(crate) fn is_fresh(&self) -> bool {
        self.entries.last().is_none() && self.vote.is_none() && self.applied.is_none()
    }

    /// What a mark in this segment has to say, if anything is new.
    pub(crate) fn mark(&self, segment: u64) -> Option<Mark<Applied>> {
        if self.staged.applied == self.applied {
            return None;
        }
        let membership = self.membership.clone();
        let changed = membership.filter(|(id, _)| self.staged.membership != Some(*id));
        let what = Applied {
            upto: self.applied,
            epoch: self.epoch,
            amended: self.amended.clone(),
            membership: changed,
        };
        Some(Mark { what, marked: self.marked_in(segment), amended: self.amended.len() })
    }

    /// What a new segment has to begin with, if there is anything.
    pub(crate) fn carry(&self, segment: u64) -> Option<Mark<Carried>> {
        if self.applied.is_none() && self.vote.is_none() {
            return None;
        }
        let applied = Applied {
            upto: self.applied,
            epoch: self.epoch,
            amended: self.amended.clone(),
            membership: self.membership.clone(),
        };
        let what = Carried { applied, vote: self.vote.clone() };
        Some(Mark { what, marked: self.marked_in(segment), amended: self.amended.len() })
    }

    fn marked_in(&self, segment: u64) -> Marked {
        let membership = self.membership.as_ref().map(|(id, _)| *id);
        Marked { applied: self.applied, membership, segment }
    }

    /// The mark stands in the writer's buffer.
    pub(crate) fn stage<T>(&mut self, mark: &Mark<T>) {
        self.amended.drain(..mark.amended);
        self.staged = mark.marked.clone();
    }

    /// A mark is on disk. Gives the deletions that count from now on.
    pub(crate) fn is_marked(&mut self, marked: Marked) -> Vec<Deletion> {
        self.marked = marked;
        let upto = self.marked.applied.map(|id| id.index);
        let count = self.deletions.partition_point(|d| Some(d.position.index()) <= upto);
        self.deletions.drain(..count).collect()
    }

    /// A checkpoint took the place of everything up to `at`, and is durable.
    pub(crate) fn installed(
        &mut self,
        at: LogId,
        epoch: Term,
        membership: Option<(LogId, Bytes)>,
        later: Later,
    ) {
        if later == Later::Dropped || self.entries.diverges_after(at) {
            self.entries.truncate_after(Some(at));
        }
        self.entries.purge(at);
        self.applied = Some(at);
        self.epoch = epoch;
        self.amended.clear();
        self.deletions.clear();
        self.membership = membership;
    }

    /// Whether a segment can go, as far as this group is concerned.
    pub(crate) fn stands_in_the_way(&self, segment: u64) -> Option<Obstacle> {
        if let Some(id) = self.entries.last_within(segment) {
            return Some(Obstacle::Entries(id));
        }
        // What is gone with the segment must be in a mark that stays.
        let known = self.marked.segment > segment && self.marked.applied >= self.entries.purged();
        (!known && !self.is_fresh()).then_some(Obstacle::Mark)
    }
}

/// Why a segment cannot be sealed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// Entries up to here are not released.
    Entries(LogId),
    /// There is no mark after it.
    Mark,
}

/// A group's replica.
pub(crate) struct Group {
    pub shard: ShardId,
    replica: Mutex<Replica>,
    machine: Mutex<Machine>,
    /// Entries were applied that no mark tells of.
    pub unmarked: AtomicBool,
    /// Woken when entries became durable, and when the log stops.
    pub durable: Notify,
    /// Woken when entries were applied, and when the log stops.
    pub applied: Notify,
}

impl Group {
    pub(crate) fn new(replica: Replica, machine: Machine, shard: ShardId) -> Self {
        let replica_is_unmarked = replica.staged.applied != replica.applied;
        Self {
            shard,
            replica: Mutex::new(replica),
            machine: Mutex::new(machine),
            unmarked: AtomicBool::new(replica_is_unmarked),
            durable: Notify::new(),
            applied: Notify::new(),
        }
    }

    /// Whoever needs both locks takes the machine's first.
    pub(crate) fn replica(&self) -> MutexGuard<'_, Replica> {
        // A panic between two changes that belong together is not possible: the guarded code calls
        // nothing of the user's.
        self.replica.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called when something was applied that no mark tells of.
    pub(crate) fn was_applied(&self) {
        self.unmarked.store(true, Ordering::Release);
        self.applied.notify_waiters();
    }
}
