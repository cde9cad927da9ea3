//! What goes wrong at random, drawn before it happens: each fault follows from the seed and its own number
//! alone, so that a run with fewer of them still has the others as they were.

use std::{fmt, sync::Arc, time::Duration};

use duractor_journal::NodeId;
use tokio::time::{Instant, sleep_until};

use super::world::Inner;
use crate::{cluster::network::Stop, machines::Site, rng::Rng};

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A node loses power, and starts again after up to two seconds.
    Crash,
    /// A node's process is killed, and starts again after up to two seconds.
    Kill,
    /// A node is shut down in good order, and starts again.
    Restart,
    /// A node is cut off from all others, or from one of them, for up to two seconds.
    Partition,
    /// As a partition, in one direction only.
    OneWay,
    /// A link is slow, by up to 100 ms.
    SlowLink,
    /// Nothing reaches a node and nothing leaves it for up to a second.
    Freeze,
    /// A node's disk does not answer for up to 300 ms.
    SlowDisk,
    /// A node's clock jumps, by up to an hour in either direction.
    Skew,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 9] = [
        Fault::Crash,
        Fault::Kill,
        Fault::Restart,
        Fault::Partition,
        Fault::OneWay,
        Fault::SlowLink,
        Fault::Freeze,
        Fault::SlowDisk,
        Fault::Skew,
    ];

    fn name(self) -> &'static str {
        match self {
            Fault::Crash => "crash",
            Fault::Kill => "kill",
            Fault::Restart => "restart",
            Fault::Partition => "partition",
            Fault::OneWay => "one_way",
            Fault::SlowLink => "slow_link",
            Fault::Freeze => "freeze",
            Fault::SlowDisk => "disk_slow",
            Fault::Skew => "skew",
        }
    }
}

/// What goes wrong at random while a test runs: [`World::nemesis`](super::World::nemesis).
///
/// ```
/// use duractor_testkit::sim::{Fault, Nemesis};
/// use std::time::Duration;
///
/// let nemesis = Nemesis::of([Fault::Crash, Fault::Partition])
///     .every(Duration::from_millis(300))
///     .at_most(20);
/// ```
#[derive(Debug, Clone)]
pub struct Nemesis {
    faults: Vec<Fault>,
    every: Duration,
    at_most: usize,
    down: Option<usize>,
    swarm: bool,
}

impl Default for Nemesis {
    /// All kinds of faults; each seed has its own choice of them.
    fn default() -> Self {
        Self { swarm: true, ..Self::of(Fault::ALL) }
    }
}

impl Nemesis {
    /// These kinds of faults, all of them in each seed.
    pub fn of(faults: impl IntoIterator<Item = Fault>) -> Self {
        let (faults, every) = (faults.into_iter().collect(), Duration::from_millis(400));
        Self { faults, every, at_most: 1_000, down: None, swarm: false }
    }

    /// How much time passes between two faults on average; 400 ms unless set.
    #[must_use]
    pub fn every(self, every: Duration) -> Self {
        Self { every, ..self }
    }

    /// The budget: no more faults than this in a run; 1 000 unless set.
    #[must_use]
    pub fn at_most(self, faults: usize) -> Self {
        Self { at_most: faults, ..self }
    }

    /// How many nodes may be down at once; less than half of them unless set.
    #[must_use]
    pub fn at_most_down(self, nodes: usize) -> Self {
        Self { down: Some(nodes), ..self }
    }

    /// Each seed draws which of the kinds strike in it, so that each kind is also seen without the others.
    #[must_use]
    pub fn swarm(self) -> Self {
        Self { swarm: true, ..self }
    }
}

/// A fault that struck.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Struck {
    /// Its number among the faults of the run.
    pub number: usize,
    /// When, counted from the begin of the run.
    pub at: Duration,
    /// What it was.
    pub what: String,
}

impl fmt::Display for Struck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>8.3} s  {}", self.at.as_secs_f64(), self.what)
    }
}

/// Has faults strike until the run ends.
pub(super) async fn strike(inner: Arc<Inner>, nemesis: Nemesis) {
    let mut rng = inner.notes.fork_rng();
    let mut faults = nemesis.faults.clone();
    if nemesis.swarm {
        faults.retain(|_| rng.chance(0.4));
        if faults.is_empty() {
            faults.extend(rng.pick(&nemesis.faults));
        }
    }
    let (base, mut at) = (rng.next_u64(), Instant::now());
    for number in 0..nemesis.at_most {
        let mut rng = Rng::new(crate::rng::mix(base ^ number as u64));
        at += nemesis.every.mul_f64(rng.below(2_000) as f64 / 1_000.0);
        sleep_until(at).await;
        if inner.is_ending() {
            return;
        }
        let Some(fault) = rng.pick(&faults).copied() else { return };
        if inner.only.as_ref().is_none_or(|only| only.contains(&number)) {
            let most = nemesis.down.unwrap_or((inner.setup.nodes as usize - 1) / 2);
            one(&inner, number, fault, most, rng);
        }
    }
}

fn one(inner: &Arc<Inner>, number: usize, fault: Fault, most_down: usize, mut rng: Rng) {
    let nodes = u64::from(inner.setup.nodes);
    let node = NodeId(1 + rng.below(nodes) as u32);
    let others: Vec<_> = inner.machines().nodes.keys().copied().filter(|id| *id != node).collect();
    let other = rng.pick(&others).copied();
    let most_ms = 1 << rng.below(12);
    let away_ms = 1 + rng.below(most_ms);
    let (whole, reverse) = (rng.chance(0.6), rng.chance(0.5));
    let amount = rng.next_u64();
    let downs = matches!(fault, Fault::Crash | Fault::Kill | Fault::Restart | Fault::Freeze);
    if downs && inner.down() >= most_down {
        return;
    }
    let from_whom = if whole { others } else { other.into_iter().collect() };
    let what = match fault {
        Fault::Crash | Fault::Kill => {
            let how = if fault == Fault::Crash { Stop::Crashed } else { Stop::Killed };
            inner.stop(node, how);
            inner.restart_after(node, away_ms);
            format!(
                "node {node} is {} for {away_ms} ms",
                if fault == Fault::Crash { "without power" } else { "killed" }
            )
        }
        Fault::Restart => {
            let inner = inner.clone();
            tokio::spawn(async move {
                inner.shut_down(node).await;
                inner.restart_after(node, away_ms);
            });
            format!("node {node} is restarted, {away_ms} ms later")
        }
        Fault::Partition | Fault::OneWay => {
            let lines = from_whom.iter().flat_map(|other| match (fault, reverse) {
                (Fault::Partition, _) => vec![(node, *other), (*other, node)],
                (_, false) => vec![(node, *other)],
                (_, true) => vec![(*other, node)],
            });
            let lines: Vec<_> = lines.collect();
            let text: Vec<_> = lines.iter().map(|(a, b)| format!("{a} to {b}")).collect();
            inner.cut_for(lines, Duration::from_millis(away_ms));
            format!("nothing gets from {} for {away_ms} ms", text.join(", "))
        }
        Fault::SlowLink => {
            let (Some(other), delay) = (other, Duration::from_millis(amount % 100)) else { return };
            inner.machines().net.slow(node, other, delay, 0);
            format!("from node {node} to {other} it takes {delay:?} from now on")
        }
        Fault::Freeze => {
            let ms = away_ms.min(1_000);
            inner.freeze(node, ms);
            format!("node {node} stands still for {ms} ms")
        }
        Fault::SlowDisk => {
            let time = Duration::from_millis(amount % 300);
            inner.place(node).sim().stall(time);
            format!("node {node}'s disk stands still for {time:?}")
        }
        Fault::Skew => {
            let ms = (amount % 7_200_000) as i64 - 3_600_000;
            inner.place(node).sim().set_skew_ms(ms);
            format!("node {node}'s clock is {ms} ms ahead")
        }
    };
    inner.notes.fault(fault.name());
    inner.say(50 ^ (fault as u64) << 8, || format!("fault {number}: {what}"));
    let struck = Struck { number, at: inner.notes.elapsed(), what };
    inner.struck().push(struck);
}
