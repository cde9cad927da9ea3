//! Nodes of a cluster in one process, without Raft and without sockets: a network in memory, and
//! groups that do at once what Raft would take its time for. What is written goes to one journal in
//! memory that stands for all replicas; who may write it, and who sees it, is as with replicas.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    clippy::unwrap_used,
    reason = "each test file uses its part"
)]

mod groups;
mod network;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use duractor::{
    Env,
    cluster::{Cluster, ClusterError, Parts, discovery::Fixed},
    config::{Config, Loader},
};
use duractor_journal::Member;

pub use groups::{Group, Opener, World};
pub use network::{Network, Wire};

/// A place for the nodes of a test.
pub struct Place {
    pub world: Arc<World>,
    pub network: Arc<Network>,
    pub dir: tempfile::TempDir,
    pub shards: u16,
}

impl Place {
    pub fn new(shards: u16) -> Self {
        let network = Network::new();
        let world = World::new(shards, network.clone());
        Self { world, network, dir: tempfile::tempdir().unwrap(), shards }
    }

    pub fn data(&self, node: u32) -> PathBuf {
        self.dir.path().join(format!("node-{node}"))
    }

    /// The configuration of a node; node 1 is everybody's seed.
    pub fn config(&self, node: u32) -> Config {
        let set = |loader: Loader, (key, value): (&str, String)| loader.set(key, value);
        let values = [
            ("node.number", node.to_string()),
            ("node.data_dir", self.data(node).display().to_string()),
            ("cluster.name", "test".into()),
            ("cluster.shards", self.shards.to_string()),
            ("net.listen", address(node)),
            ("discovery.seeds", address(1)),
            ("timing.settle_ms", "300".into()),
            ("timing.join_timeout_ms", "15000".into()),
            ("timing.operation_timeout_ms", "15000".into()),
        ];
        values.into_iter().fold(Loader::new(), set).load().unwrap()
    }

    pub fn parts(&self, node: u32) -> Parts {
        self.parts_of(self.config(node))
    }

    pub fn parts_of(&self, config: Config) -> Parts {
        Parts {
            env: Env::production(),
            connect: Wire::new(self.network.clone(), config.net.listen.clone()),
            open: Arc::new(Opener(self.world.clone())),
            discovery: vec![Arc::new(Fixed(config.discovery.seeds.clone()))],
            entities: false,
            config,
        }
    }

    pub async fn bootstrap(&self) -> Cluster {
        let cluster = Cluster::bootstrap_with(self.parts(1)).await.unwrap();
        cluster.wait_ready(Duration::from_secs(20)).await.unwrap();
        cluster
    }

    pub async fn start(&self, node: u32) -> Result<Cluster, ClusterError> {
        let cluster = Cluster::start_with(self.parts(node)).await?;
        cluster.wait_ready(Duration::from_secs(20)).await?;
        Ok(cluster)
    }

    /// A cluster of so many nodes, all of them ready and every group as it should be.
    pub async fn cluster(&self, nodes: u32) -> Vec<Cluster> {
        let mut all = vec![self.bootstrap().await];
        for node in 2..=nodes {
            all.push(self.start(node).await.unwrap());
        }
        self.settled(nodes.min(3) as usize).await;
        all
    }

    /// Waits until every group has so many voters, all of them up, and a leader.
    pub async fn settled(&self, voters: usize) {
        self.until("the groups to settle", || {
            let groups = self.world.groups();
            groups.iter().all(|group| {
                let up = |member: &Member| self.network.is_up(*member);
                group.voters.len() == voters
                    && group.voters.iter().all(up)
                    && group.leader.is_some_and(|leader| up(&leader))
            })
        })
        .await;
    }

    pub async fn until(&self, what: &str, done: impl Fn() -> bool) {
        for _ in 0..6_000 {
            if done() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("waited in vain for {what}: {:#?}", self.world.groups());
    }
}

pub fn address(node: u32) -> String {
    format!("node-{node}.test:7400")
}

pub fn wipe(dir: &Path) {
    std::fs::remove_dir_all(dir).unwrap();
}
