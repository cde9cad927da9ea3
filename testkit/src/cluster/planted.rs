//! Bugs that the simulation must find: some are made by the world itself (what it does to disks and
//! members), the others are inside of the journal, by its feature `planted`.

use super::plan::Trouble;

/// A bug of a replicated journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Planted {
    /// Writes are acknowledged first and fsynced later, before the next write.
    AckBeforeFsync,
    /// A promise to vote is given before it is on disk.
    VoteNotSynced,
    /// A replica that was restarted votes at once, though a leader may count on its silence.
    PromiseForgotten,
    /// A barrier at whoever takes itself for the leader asks nobody.
    StaleLeaderRead,
    /// Batches of an earlier epoch are applied.
    SkipEpochCheck,
    /// Batches are applied whatever sequence number they were to follow.
    SkipSeqCheck,
    /// A node whose disk was emptied comes back as who it was.
    WipedDisk,
    /// What does not verify is cut off as a torn tail, whatever stands after it.
    CutAtDamage,
    /// A leader that restarts leads on without an election.
    LeaderRestore,
    /// A checkpoint counts as whole after its first piece.
    HalfCheckpoint,
    /// A repeat of a request is not recognised.
    ForgetRequests,
    /// What Raft has released is taken for deleted when its segment is sealed.
    PurgeRetained,
}

impl Planted {
    /// All of them.
    pub const ALL: [Planted; 12] = [
        Planted::AckBeforeFsync,
        Planted::VoteNotSynced,
        Planted::PromiseForgotten,
        Planted::StaleLeaderRead,
        Planted::SkipEpochCheck,
        Planted::SkipSeqCheck,
        Planted::WipedDisk,
        Planted::CutAtDamage,
        Planted::LeaderRestore,
        Planted::HalfCheckpoint,
        Planted::ForgetRequests,
        Planted::PurgeRetained,
    ];

    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Planted::AckBeforeFsync => "ack-before-fsync",
            Planted::VoteNotSynced => "vote-not-synced",
            Planted::PromiseForgotten => "promise-forgotten",
            Planted::StaleLeaderRead => "stale-leader-read",
            Planted::SkipEpochCheck => "skip-epoch-check",
            Planted::SkipSeqCheck => "skip-seq-check",
            Planted::WipedDisk => "wiped-disk",
            Planted::CutAtDamage => "cut-at-damage",
            Planted::LeaderRestore => "leader-restore",
            Planted::HalfCheckpoint => "half-checkpoint",
            Planted::ForgetRequests => "forget-requests",
            Planted::PurgeRetained => "purge-retained",
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
            Crash, CrashAtAck, CrashLoop, Cut, Damage, Freeze, Kill, LeaderAlone, LongAway,
            Maintain, Replace, Stall, Transfer, TwoVotes,
        };
        match self {
            Planted::AckBeforeFsync => &[CrashAtAck, Stall],
            Planted::VoteNotSynced => &[TwoVotes, TwoVotes, TwoVotes],
            Planted::PromiseForgotten => &[LeaderAlone, LeaderAlone, LeaderAlone],
            Planted::StaleLeaderRead => &[Cut, Cut, Freeze, Transfer],
            Planted::SkipEpochCheck | Planted::SkipSeqCheck => &[Cut, Transfer],
            Planted::WipedDisk => &[Replace, Replace, Crash, Crash],
            Planted::CutAtDamage => &[Damage, Damage, Crash, Kill],
            Planted::LeaderRestore => &[CrashAtAck, Crash, Kill, Stall, Stall],
            Planted::HalfCheckpoint => &[LongAway, CrashLoop, Maintain, Maintain],
            Planted::ForgetRequests => &[Cut, Kill, Transfer],
            Planted::PurgeRetained => &[Maintain, Maintain],
        }
    }

    /// Whether it shows only once logs are cut.
    pub(super) fn needs_bytes(self) -> bool {
        matches!(self, Planted::HalfCheckpoint | Planted::PurgeRetained | Planted::CutAtDamage)
    }
}

/// Plants a bug of the journal on this thread, or takes it away.
#[cfg(feature = "planted")]
pub(super) fn plant(bug: Option<Planted>) {
    use duractor_journal::planted::{Planted as Inside, plant};
    plant(match bug {
        Some(Planted::VoteNotSynced) => Some(Inside::VoteNotSynced),
        Some(Planted::PromiseForgotten) => Some(Inside::PromiseForgotten),
        Some(Planted::StaleLeaderRead) => Some(Inside::StaleLeaderRead),
        Some(Planted::SkipEpochCheck) => Some(Inside::EpochUnchecked),
        Some(Planted::SkipSeqCheck) => Some(Inside::SeqUnchecked),
        Some(Planted::CutAtDamage) => Some(Inside::CutAtDamage),
        Some(Planted::LeaderRestore) => Some(Inside::LeaderRestore),
        Some(Planted::HalfCheckpoint) => Some(Inside::HalfCheckpoint),
        Some(Planted::ForgetRequests) => Some(Inside::DedupForgotten),
        Some(Planted::PurgeRetained) => Some(Inside::PurgeRetained),
        Some(Planted::AckBeforeFsync | Planted::WipedDisk) | None => None,
    });
}

#[cfg(not(feature = "planted"))]
pub(super) fn plant(_bug: Option<Planted>) {}
