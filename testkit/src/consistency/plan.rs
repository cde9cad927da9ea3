//! What a life meets: faults, the place of the crash, how it ends.

use crate::{
    disk::{DiskFaults, Fault, Op, Rule, SimDisk},
    env::SimEnv,
    rng::Rng,
};

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The power fails.
    Crash,
    /// The process alone dies: what it wrote is in the page cache.
    Kill,
    /// In good order; then the power fails.
    ShutdownThenCrash,
    /// In good order.
    Shutdown,
}

/// What one life meets.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) rules: Vec<Rule>,
    /// The power fails in this operation that changes the disk, counted from 1.
    pub(super) crash_at: Option<u64>,
    /// Counted from before the store is opened, rather than from after.
    pub(super) early: bool,
    /// Bytes that are free when the life begins; more are when it heals.
    pub(super) room: Option<u64>,
    pub(super) steps: u64,
    pub(super) end: End,
}

/// The disk of a seed: its sectors, and whether names become durable in order.
pub(super) fn disk_of(rng: &mut Rng) -> DiskFaults {
    DiskFaults {
        sector_bytes: if rng.chance(0.2) { 4096 } else { 512 },
        unordered_names: rng.chance(0.3),
        ..DiskFaults::default()
    }
}

impl Plan {
    pub(super) fn draw(rng: &mut Rng) -> Self {
        let crash_at = rng.chance(0.55).then(|| 1 + log_below(rng, 400));
        Self {
            rules: rules(rng),
            crash_at,
            early: rng.chance(0.5),
            room: rng.chance(0.2).then(|| rng.below(150 << 10)),
            steps: 1 + log_below(rng, 60),
            end: match rng.below(10) {
                0..4 => End::Crash,
                4..8 => End::Kill,
                8 => End::ShutdownThenCrash,
                _ => End::Shutdown,
            },
        }
    }

    /// A life without faults, in which everything must work.
    pub(super) fn calm() -> Self {
        let end = End::Shutdown;
        Self { rules: Vec::new(), crash_at: None, early: false, room: None, steps: 5, end }
    }

    /// Whether single operations of the disk fail.
    pub(super) fn failing(&self) -> bool {
        !self.rules.is_empty()
    }

    /// Brings the faults to the disk. To be called before the store is opened.
    pub(super) fn begin(&self, disk: &SimDisk) {
        disk.heal();
        disk.set_capacity(self.room.map(|room| disk.used_bytes() + room));
        self.rules.iter().for_each(|rule| disk.inject(rule.clone()));
        if let (Some(n), true) = (self.crash_at, self.early) {
            disk.crash_at(n);
        }
    }

    /// To be called when the store is open.
    pub(super) fn opened(&self, disk: &SimDisk) {
        if let (Some(n), false) = (self.crash_at, self.early) {
            disk.crash_at(n);
        }
    }
}

/// Ends the process without good order: a crash where the power is off already.
pub(super) fn finish(sim: &SimEnv, end: End) {
    match end {
        End::Kill | End::Shutdown if !sim.disk().is_down() => sim.kill(),
        _ => sim.crash(),
    }
}

fn rules(rng: &mut Rng) -> Vec<Rule> {
    let chance = [0.004, 0.02, 0.1][rng.index(3)];
    let on = |op, fault| Rule::on(op, fault).chance(chance);
    match rng.below(10) {
        0..4 => Vec::new(),
        4..6 => vec![on(Op::Sync, Fault::MarkClean)],
        6 => vec![on(Op::Sync, Fault::DropPages), on(Op::Sync, Fault::Full)],
        7 => vec![on(Op::Read, Fault::Eio), on(Op::List, Fault::Eio), on(Op::Open, Fault::Eio)],
        8 => vec![on(Op::Write, Fault::Eio), on(Op::Write, Fault::Full)],
        _ => [Op::SyncDir, Op::Rename, Op::Remove, Op::Create, Op::SetLen, Op::Len]
            .map(|op| on(op, Fault::Eio))
            .to_vec(),
    }
}

/// From 0 to `end` - 1, small numbers as likely as large ones.
fn log_below(rng: &mut Rng, end: u64) -> u64 {
    let bits = u64::from(u64::BITS - end.leading_zeros());
    let bits = rng.below(bits + 1);
    rng.below(1 << bits).min(end - 1)
}
