//! What can be run, and which bugs can be planted in it.

use duractor_testkit::{
    cluster,
    consistency::{self, Report, Scenario},
    nodes,
};

/// Something that is run over many seeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// The files of one node.
    Store(Scenario),
    /// Journal groups on several nodes.
    Journal,
    /// Whole nodes of a cluster.
    Cluster,
}

/// A bug in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    Store(consistency::Planted),
    Journal(cluster::Planted),
    Cluster(nodes::Planted),
}

impl What {
    pub(crate) fn all() -> impl Iterator<Item = What> {
        Scenario::ALL.into_iter().map(What::Store).chain([What::Journal, What::Cluster])
    }

    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            What::Store(scenario) => scenario.name(),
            What::Journal => "journal",
            What::Cluster => "cluster",
        }
    }

    /// Runs one seed. A bug of something else is not planted.
    pub(crate) fn run(self, seed: u64, bug: Option<Bug>, trace: bool) -> Report {
        match (self, bug) {
            (What::Store(scenario), Some(Bug::Store(bug))) => scenario.run(seed, Some(bug), trace),
            (What::Store(scenario), _) => scenario.run(seed, None, trace),
            (What::Journal, Some(Bug::Journal(bug))) => cluster::run(seed, Some(bug), trace),
            (What::Journal, _) => cluster::run(seed, None, trace),
            (What::Cluster, Some(Bug::Cluster(bug))) => nodes::run(seed, Some(bug), trace),
            (What::Cluster, _) => nodes::run(seed, None, trace),
        }
    }

    /// The bugs that it finds.
    pub(crate) fn bugs(self) -> Vec<Bug> {
        match self {
            What::Store(scenario) => {
                let finds = |bug: &consistency::Planted| bug.found_by().contains(&scenario);
                consistency::Planted::ALL.into_iter().filter(finds).map(Bug::Store).collect()
            }
            What::Journal => cluster::Planted::ALL.map(Bug::Journal).to_vec(),
            What::Cluster => nodes::Planted::ALL.map(Bug::Cluster).to_vec(),
        }
    }
}

impl Bug {
    /// The name on the command line; one name may stand for a bug of each scenario.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Bug::Store(bug) => bug.name(),
            Bug::Journal(bug) => bug.name(),
            Bug::Cluster(bug) => bug.name(),
        }
    }

    pub(crate) fn available(self) -> bool {
        match self {
            Bug::Store(bug) => bug.available(),
            Bug::Journal(bug) => bug.available(),
            Bug::Cluster(bug) => bug.available(),
        }
    }
}
