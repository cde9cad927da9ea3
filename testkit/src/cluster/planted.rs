//! Bugs that the simulation must find: some are made by the world itself (what it does to disks and
//! members), the others are inside of the journal, by its feature `planted`.

use super::plan::Trouble;

/// A bug of a replicated journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Planted {
    /// Writes are acknowledged first and fsynced later, before the next write.
    AckBeforeFsync,
    /// A promise to vote is given before it is on disk.
    UnsyncedVote,
    /// A barrier at whoever takes itself for the leader asks nobody.
    StaleRead,
    /// Batches of an earlier epoch are applied.
    SkippedEpoch,
    /// Batches are applied whatever sequence number they were to follow.
    SkippedSeq,
    /// A node whose disk was emptied comes back as who it was.
    WipedDisk,
    /// What does not verify is cut off as a torn tail, whatever stands after it.
    CutAtDamage,
    /// A leader that restarts leads on without an election.
    RestoredLeader,
    /// A checkpoint counts as installed before all of it is.
    HalfCheckpoint,
    /// A new leader does not know the requests that were answered before it.
    ForgottenRequests,
    /// Compaction leaves out an event that nobody deleted.
    LossyCompaction,
}

impl Planted {
    /// All of them.
    pub const ALL: [Planted; 11] = [
        Planted::AckBeforeFsync,
        Planted::UnsyncedVote,
        Planted::StaleRead,
        Planted::SkippedEpoch,
        Planted::SkippedSeq,
        Planted::WipedDisk,
        Planted::CutAtDamage,
        Planted::RestoredLeader,
        Planted::HalfCheckpoint,
        Planted::ForgottenRequests,
        Planted::LossyCompaction,
    ];

    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Planted::AckBeforeFsync => "ack-before-fsync",
            Planted::UnsyncedVote => "unsynced-vote",
            Planted::StaleRead => "stale-read",
            Planted::SkippedEpoch => "skipped-epoch",
            Planted::SkippedSeq => "skipped-seq",
            Planted::WipedDisk => "wiped-disk",
            Planted::CutAtDamage => "cut-at-damage",
            Planted::RestoredLeader => "restored-leader",
            Planted::HalfCheckpoint => "half-checkpoint",
            Planted::ForgottenRequests => "forgotten-requests",
            Planted::LossyCompaction => "lossy-compaction",
        }
    }

    /// The bug of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Planted> {
        Planted::ALL.into_iter().find(|planted| planted.name() == name)
    }

    /// Whether this build can plant it: bugs inside of the journal need the feature `planted`.
    #[must_use]
    pub fn available(self) -> bool {
        cfg!(feature = "planted") || matches!(self, Planted::AckBeforeFsync | Planted::WipedDisk)
    }

    /// The troubles that bring it out. Other random ones come with them.
    pub(super) fn needs(self) -> &'static [Trouble] {
        use Trouble::{
            Crash, CrashAtAck, CrashLoop, Cut, Damage, Freeze, Kill, LongAway, Maintain, Replace,
            Stall, Transfer, TwoVotes,
        };
        match self {
            Planted::AckBeforeFsync => &[CrashAtAck, Stall],
            Planted::UnsyncedVote => &[TwoVotes, TwoVotes, TwoVotes],
            Planted::StaleRead => &[Cut, Cut, Freeze, Transfer],
            Planted::SkippedEpoch | Planted::SkippedSeq => &[Cut, Transfer],
            Planted::WipedDisk => &[Replace, Replace, Crash, Crash],
            Planted::CutAtDamage => &[Damage, Damage, Crash, Kill],
            Planted::RestoredLeader => &[CrashAtAck, Crash, Kill, Stall, Stall],
            Planted::HalfCheckpoint => &[LongAway, CrashLoop, Maintain, Maintain],
            Planted::ForgottenRequests => &[Cut, Kill, Transfer],
            Planted::LossyCompaction => &[Maintain, Maintain],
        }
    }

    /// Whether it shows only once logs are cut.
    pub(super) fn needs_bytes(self) -> bool {
        matches!(self, Planted::HalfCheckpoint | Planted::LossyCompaction | Planted::CutAtDamage)
    }
}

/// Plants a bug of the journal on this thread, or takes it away.
#[cfg(feature = "planted")]
pub(super) fn plant(bug: Option<Planted>) {
    use duractor_journal::planted::{Planted as Inside, plant};
    plant(match bug {
        Some(Planted::UnsyncedVote) => Some(Inside::UnsyncedVote),
        Some(Planted::StaleRead) => Some(Inside::StaleRead),
        Some(Planted::SkippedEpoch) => Some(Inside::SkippedEpoch),
        Some(Planted::SkippedSeq) => Some(Inside::SkippedSeq),
        Some(Planted::CutAtDamage) => Some(Inside::CutAtDamage),
        Some(Planted::RestoredLeader) => Some(Inside::RestoredLeader),
        Some(Planted::HalfCheckpoint) => Some(Inside::HalfCheckpoint),
        Some(Planted::ForgottenRequests) => Some(Inside::ForgottenRequests),
        Some(Planted::LossyCompaction) => Some(Inside::LossyCompaction),
        Some(Planted::AckBeforeFsync | Planted::WipedDisk) | None => None,
    });
}

#[cfg(not(feature = "planted"))]
pub(super) fn plant(_bug: Option<Planted>) {}
