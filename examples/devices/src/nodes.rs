//! Starts the nodes: one by itself, or several that are a cluster, in this process.

use std::{net::SocketAddr, path::Path, time::Duration};

use duractor::{
    EntityRef, Env, Node,
    cluster::Cluster,
    config::{Config, Loader},
};
use tokio::time::{Instant, sleep};

use crate::device::Devices;

/// Why something was not done. All of this program's errors end in a message.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How long a cluster may take until all its nodes keep everything.
const READY: Duration = Duration::from_secs(60);
/// The wait between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// Running nodes, of which the first one is asked.
pub struct Nodes {
    nodes: Vec<Node>,
    clusters: Vec<Cluster>,
}

impl Nodes {
    /// Starts one node on this folder; or, where there are addresses, a node for each of them as a
    /// cluster, over plain TCP. `fresh`: the folder is empty.
    ///
    /// # Errors
    /// A folder or an address is not free, or a cluster is not ready within a minute.
    pub async fn start(
        folder: &Path,
        addresses: &[SocketAddr],
        fresh: bool,
        devices: &Devices,
    ) -> Result<Self, Failure> {
        let mut all = Self { nodes: Vec::new(), clusters: Vec::new() };
        if addresses.is_empty() {
            all.nodes.push(Node::builder(folder).register(devices.clone()).start().await?);
            return Ok(all);
        }
        for number in 1..=addresses.len() {
            let config = config(folder, addresses, number)?;
            let cluster = match fresh && number == 1 {
                true => Cluster::bootstrap(config, Env::production()).await?,
                false => Cluster::start(config, Env::production()).await?,
            };
            all.clusters.push(cluster);
            // A new node joins one that runs; old ones need each other to be ready.
            if fresh {
                all.add(folder, devices).await?;
            }
        }
        while all.nodes.len() < all.clusters.len() {
            all.add(folder, devices).await?;
        }
        all.wait_replicated().await?;
        Ok(all)
    }

    async fn add(&mut self, folder: &Path, devices: &Devices) -> Result<(), Failure> {
        let cluster = &self.clusters[self.nodes.len()];
        cluster.wait_ready(READY).await?;
        let builder = Node::builder(data(folder, self.nodes.len() + 1)).cluster(cluster);
        self.nodes.push(builder.register(devices.clone()).start().await?);
        Ok(())
    }

    async fn wait_replicated(&self) -> Result<(), Failure> {
        let give_up = Instant::now() + READY;
        let everywhere = |cluster: &Cluster| {
            let groups = cluster.status().groups;
            let all = groups.iter().all(|group| group.voters.len() == self.clusters.len());
            groups.len() == usize::from(cluster.groups().shards()) && all
        };
        while !self.clusters.iter().all(everywhere) {
            if Instant::now() > give_up {
                return Err("the nodes do not all keep everything in time".into());
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// The device with this number, as the first node knows it.
    ///
    /// # Errors
    /// None that is expected: the kind is registered, and its keys are allowed.
    pub fn device(&self, number: usize) -> Result<EntityRef<Devices>, Failure> {
        Ok(self.nodes[0].entity(&format!("device-{number}"))?)
    }

    /// How many devices are in memory, on all nodes together.
    ///
    /// # Errors
    /// None that is expected: the kind is registered.
    pub fn active(&self) -> Result<usize, Failure> {
        let counts = self.nodes.iter().map(|node| Ok(node.active::<Devices>()?));
        counts.sum()
    }

    /// Finishes what was accepted, and stops.
    pub async fn stop(self) {
        for node in &self.nodes {
            node.shutdown().await;
        }
        for cluster in &self.clusters {
            cluster.shutdown().await;
        }
    }
}

fn data(folder: &Path, number: usize) -> std::path::PathBuf {
    folder.join(format!("node{number}"))
}

fn config(folder: &Path, addresses: &[SocketAddr], number: usize) -> Result<Config, Failure> {
    let seeds: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
    let config = Loader::new()
        .set("node.number", number.to_string())
        .set("node.data_dir", data(folder, number).display().to_string())
        .set("cluster.name", "devices")
        .set("net.listen", seeds[number - 1].as_str())
        .set("net.insecure", "true")
        .set("cluster.hand_over_ms", "0")
        .set("discovery.seeds", seeds.join(","))
        .load()?;
    Ok(config)
}
