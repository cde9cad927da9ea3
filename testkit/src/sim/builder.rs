//! What a simulated test is about.

use std::{collections::BTreeSet, fmt::Display, future::Future, ops::Range, sync::Arc};

use duractor::NodeBuilder;
use futures_util::future::BoxFuture;

use super::{
    run::{Outcome, Scenario, run_one},
    seeds::run_all,
    world::World,
};
use crate::cluster::network::NetConfig;

type App = Arc<dyn Fn(NodeBuilder, &World) -> NodeBuilder + Send + Sync>;
type Invariant = Arc<dyn Fn(World) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// What is checked at the end of each run, beside what a test itself looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// A and L: what was acknowledged is in the entity's journal, once; all answers fit one order of the
    /// commands that fits when they were asked and answered. The model is the entity's own `handle` and
    /// `apply`: a command that wrote must be in the journal as its handler decides on the state before
    /// it, and the answer to one that wrote nothing must be the handler's on a state that the entity had
    /// meanwhile. Switch it off for entities whose answers depend on the time alone, or on anything but
    /// state, command and context. Entities whose first events were deleted are left out.
    Linearizable,
    /// C: all replicas of a shard have the same events.
    Replicas,
    /// W: an entity's events were written by one writer after the other: terms do not go back.
    SingleWriter,
    /// The ledger of commands balances on a node that shuts down: each command that was accepted was
    /// answered, refused, or its caller was gone.
    Ledger,
}

/// A simulated test: a cluster of nodes that run an application, a script, and what must hold in the end.
///
/// [`sim_test`](crate::sim::sim_test) makes one of a function; this is for what that does not offer.
///
/// ```
/// use duractor_testkit::sim::{Sim, World};
///
/// let sim = Sim::new(|node, _: &World| node).nodes(3).shards(2);
/// let outcome = sim.run(17, async |world: World| {
///     world.crash(1);
///     world.advance(std::time::Duration::from_secs(1)).await;
///     world.restart(1);
/// });
/// assert_eq!(outcome.violation, None);
/// ```
#[derive(Clone)]
pub struct Sim {
    pub(super) setup: Setup,
    pub(super) seeds: Range<u64>,
    pub(super) threads: Option<usize>,
}

#[derive(Clone)]
pub(super) struct Setup {
    pub(super) app: App,
    pub(super) nodes: u32,
    pub(super) shards: u16,
    pub(super) net: NetConfig,
    pub(super) config: Vec<(&'static str, String)>,
    pub(super) invariants: Vec<(String, Invariant)>,
    without: BTreeSet<Check>,
}

impl Setup {
    pub(super) fn checks(&self, check: Check) -> bool {
        !self.without.contains(&check)
    }
}

impl Sim {
    /// A test of this application: what it registers on each node, at each of its starts. Three nodes, three
    /// shards and 100 seeds unless told otherwise.
    pub fn new(app: impl Fn(NodeBuilder, &World) -> NodeBuilder + Send + Sync + 'static) -> Self {
        let setup = Setup {
            app: Arc::new(app),
            nodes: 3,
            shards: 3,
            net: NetConfig::default(),
            config: Vec::new(),
            invariants: Vec::new(),
            without: BTreeSet::new(),
        };
        Self { setup, seeds: 0..100, threads: None }
    }

    /// How many nodes; 1, or 3 and more.
    #[must_use]
    pub fn nodes(mut self, nodes: u32) -> Self {
        self.setup.nodes = nodes;
        self
    }

    /// How many shards.
    #[must_use]
    pub fn shards(mut self, shards: u16) -> Self {
        self.setup.shards = shards;
        self
    }

    /// How the network is.
    #[must_use]
    pub fn network(mut self, net: NetConfig) -> Self {
        self.setup.net = net;
        self
    }

    /// A key of every node's configuration, as in its file: `("timing.election_min_ms", "300")`.
    #[must_use]
    pub fn config(mut self, key: &'static str, value: impl Display) -> Self {
        self.setup.config.push((key, value.to_string()));
        self
    }

    /// So many seeds, from 0.
    #[must_use]
    pub fn seeds(self, seeds: u64) -> Self {
        self.seed_range(0..seeds)
    }

    /// These seeds.
    #[must_use]
    pub fn seed_range(mut self, seeds: Range<u64>) -> Self {
        self.seeds = seeds;
        self
    }

    /// Runs on so many threads; one for each core unless set. A run is always on one.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Leaves a check out.
    #[must_use]
    pub fn without(mut self, check: Check) -> Self {
        self.setup.without.insert(check);
        self
    }

    /// An invariant of the application: looked at in the end of each run, when everything is healed and
    /// every node serves. It may ask entities, and look at every node.
    #[must_use]
    pub fn invariant<F: Future<Output = Result<(), String>> + Send + 'static>(
        mut self,
        name: &str,
        holds: impl Fn(World) -> F + Send + Sync + 'static,
    ) -> Self {
        let holds: Invariant = Arc::new(move |world| Box::pin(holds(world)));
        self.setup.invariants.push((name.to_owned(), holds));
        self
    }

    /// Runs one seed.
    pub fn run<T: Passes>(&self, seed: u64, test: impl AsyncFn(World) -> T) -> Outcome {
        run_one(&Scenario { sim: self, seed, only: None, keeps: true }, &test)
    }

    /// Runs all seeds, in several threads. `name` is the test's, for `cargo test name`.
    ///
    /// The environment may change what is run: `SIM_SEED` runs this seed alone and prints its trace,
    /// `SIM_SEEDS` runs so many instead, `SIM_THREADS` on so many threads.
    ///
    /// # Panics
    /// If a seed shows a violation: with the seed, how to run it again, the fewest faults that still show
    /// one, and the end of the trace. Also if a mark of [`sometimes!`](crate::sometimes) was never so.
    pub fn test<T: Passes>(&self, name: &str, test: impl AsyncFn(World) -> T + Sync) {
        run_all(self, name, &test);
    }
}

/// What a test may return: nothing, or a result whose error is a violation.
pub trait Passes {
    /// What is wrong, if anything is.
    #[doc(hidden)]
    fn wrong(self) -> Option<String>;
}

impl Passes for () {
    fn wrong(self) -> Option<String> {
        None
    }
}

impl<E: Display> Passes for Result<(), E> {
    fn wrong(self) -> Option<String> {
        self.err().map(|error| error.to_string())
    }
}
