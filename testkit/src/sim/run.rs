//! One run of a seed.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    builder::{Passes, Sim},
    nemesis::Struck,
    notes::{begin_marks, take_marks},
    settle,
    world::{Inner, World},
};
use crate::{
    consistency::{Violation, report::watched},
    machines::Site,
};
use duractor_journal::NodeId;

/// What a run gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// What was found to be wrong, if anything was. It begins with the invariant's letter: A (acknowledged,
    /// once), L (order), W (writers), C (replicas), V (everything serves again), S (a node's own errors), or
    /// with `panic`.
    pub violation: Option<String>,
    /// How many commands that were answered were checked against a journal.
    pub checked: u64,
    /// How often each kind of fault struck.
    pub faults: BTreeMap<&'static str, u64>,
    /// What else is worth counting, by name.
    pub counts: BTreeMap<&'static str, u64>,
    /// What the nemesis did.
    pub struck: Vec<Struck>,
    /// Each mark of [`sometimes!`](crate::sometimes) that was looked at, with how often it was so.
    pub marks: BTreeMap<&'static str, u64>,
    /// A hash of what happened: two runs of a seed have the same.
    pub trace_hash: u64,
    /// What happened, line by line; the newest 4 000.
    pub trace: Vec<String>,
    /// How much virtual time it took, in milliseconds.
    pub virtual_ms: u64,
}

impl Outcome {
    /// Nothing was wrong.
    ///
    /// # Panics
    /// If something was: with its text and the trace.
    pub fn passed(&self) {
        if let Some(what) = &self.violation {
            panic!("seed {}: {what}\n{}", self.seed, self.trace.join("\n"));
        }
    }
}

/// What is run.
pub(super) struct Scenario<'a> {
    pub(super) sim: &'a Sim,
    pub(super) seed: u64,
    /// The faults of the nemesis that strike, by their numbers; all unless set.
    pub(super) only: Option<Vec<usize>>,
    /// Whether the trace's lines are kept.
    pub(super) keeps: bool,
}

pub(super) fn run_one<T: Passes>(
    scenario: &Scenario<'_>,
    test: &impl AsyncFn(World) -> T,
) -> Outcome {
    let mut outcome = Outcome { seed: scenario.seed, ..Outcome::default() };
    begin_marks();
    let report = watched(|_| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .map_err(|error| Violation(format!("no runtime: {error}")))?;
        runtime.block_on(whole(scenario, test, &mut outcome));
        outcome.violation.clone().map_or(Ok(()), |what| Err(Violation(what)))
    });
    outcome.marks = take_marks();
    outcome.violation = report.violation.map(|Violation(what)| what);
    outcome
}

/// The whole run.
async fn whole<T: Passes>(
    scenario: &Scenario<'_>,
    test: &impl AsyncFn(World) -> T,
    outcome: &mut Outcome,
) {
    let Scenario { sim, seed, only, keeps } = scenario;
    let inner = Inner::new(sim.setup.clone(), *seed, only.clone(), *keeps);
    // A panic ends the run here, and what is known by then is the outcome.
    let write_up = WriteUp { inner: inner.clone(), outcome };
    for id in inner.machines().nodes.keys() {
        inner.start(*id, *id == NodeId(1));
    }
    settle::whole(&inner).await;
    let world = World { inner: inner.clone() };
    if !inner.notes.is_violated() {
        tokio::select! {
            biased;
            () = inner.over.notified() => {}
            result = test(world) => {
                if let Some(what) = result.wrong() {
                    inner.violated(format!("the test failed: {what}"));
                }
            }
        }
    }
    if !inner.notes.is_violated() {
        settle::ended(&inner).await;
        match settle::check(&inner).await {
            Ok(checked) => write_up.outcome.checked = checked,
            Err(what) => inner.violated(what),
        }
    }
    drop(write_up);
    drop(inner.take_tasks());
    inner.close().await;
}

struct WriteUp<'a> {
    inner: Arc<Inner>,
    outcome: &'a mut Outcome,
}

impl Drop for WriteUp<'_> {
    fn drop(&mut self) {
        let noted = self.inner.notes.write_up();
        let disks = self.inner.machines().nodes.values().map(|place| place.sim());
        let net = self.inner.machines().net.trace_hash();
        let outcome = &mut *self.outcome;
        outcome.violation = noted.violation;
        outcome.faults = noted.faults;
        outcome.counts = noted.counts;
        outcome.struck = std::mem::take(&mut *self.inner.struck());
        outcome.trace = noted.lines;
        outcome.virtual_ms = self.inner.notes.elapsed().as_millis() as u64;
        outcome.trace_hash =
            disks.fold(noted.hash ^ net, |sum, sim| crate::rng::mix(sum ^ sim.disk().trace_hash()));
    }
}
