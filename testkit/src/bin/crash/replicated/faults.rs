//! What is done to a cluster, and undone again.

use std::time::Duration;

use duractor_testkit::{
    Rng,
    process::{Cluster, Cut, Proxy, wire::Request},
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use crate::{Failure, transfer::order::Order};

/// How long a replaced node may take until it votes in all groups.
const ADOPTED: Duration = Duration::from_secs(30);

/// One thing that happens in a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL and restart.
    Kill { name: &'static str, nodes: Vec<u32> },
    /// SIGSTOP and SIGCONT.
    Freeze { name: &'static str, nodes: Vec<u32> },
    /// A node's disk is lost, and it comes back as its next incarnation.
    Replace { node: u32 },
    /// A node is drained, stopped in good order, started and used again. For whole nodes.
    Drain { node: u32 },
    /// From whom to whom nothing comes through.
    Cut { name: &'static str, directions: Vec<(u32, u32)>, how: Cut },
}

impl Fault {
    /// Chooses one.
    pub(crate) fn choose(nodes: u32, leader: u32, rng: &mut Rng) -> Self {
        let all: Vec<u32> = (1..=nodes).collect();
        let majority = nodes as usize / 2 + 1;
        let mut shuffled = all.clone();
        for i in (1..shuffled.len()).rev() {
            shuffled.swap(i, rng.index(i + 1));
        }
        let (one, two) = (shuffled[0], shuffled[1]);
        let some = shuffled[..majority].to_vec();
        let how = if rng.chance(0.5) { Cut::Stall } else { Cut::Reset };
        let both = |a, b| [(a, b), (b, a)];
        let others = |node| shuffled.iter().copied().filter(move |other| *other != node);
        match rng.below(11) {
            0 => Fault::Kill { name: "kill_one", nodes: vec![one] },
            1 => Fault::Kill { name: "kill_leader", nodes: vec![leader] },
            2 => Fault::Kill { name: "kill_majority", nodes: some },
            3 => Fault::Kill { name: "kill_all", nodes: all },
            4 => Fault::Freeze { name: "freeze_one", nodes: vec![one] },
            5 => Fault::Freeze { name: "freeze_leader", nodes: vec![leader] },
            6 => Fault::Freeze { name: "freeze_majority", nodes: some },
            7 => Fault::Replace { node: one },
            8 => {
                let directions = both(one, two).to_vec();
                Fault::Cut { name: "cut_pair", directions, how }
            }
            9 => {
                let directions = others(leader).flat_map(|other| both(leader, other)).collect();
                Fault::Cut { name: "cut_off_leader", directions, how }
            }
            _ => {
                let to_it = rng.chance(0.5);
                let way = |other| if to_it { (other, one) } else { (one, other) };
                let directions = others(one).map(way).collect();
                Fault::Cut { name: "cut_one_way", directions, how: Cut::Stall }
            }
        }
    }

    /// Chooses one for whole nodes: what becomes of their disks is their own business, and no proxy is
    /// between them.
    pub(crate) fn choose_whole(nodes: u32, leader: u32, rng: &mut Rng) -> Self {
        loop {
            match Self::choose(nodes, leader, rng) {
                Fault::Replace { node } => return Fault::Drain { node },
                Fault::Cut { .. } if rng.chance(0.5) => return Fault::Drain { node: leader },
                Fault::Cut { .. } => {}
                fault => return fault,
            }
        }
    }

    /// What it is called in reports.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Fault::Kill { name, .. } | Fault::Freeze { name, .. } | Fault::Cut { name, .. } => name,
            Fault::Replace { .. } => "replace",
            Fault::Drain { .. } => "drain",
        }
    }

    /// Does it, waits for a while, and undoes it. Returns when all nodes run and all connections
    /// come through.
    pub(crate) async fn happen(&self, cluster: &Cluster, rng: &mut Rng) -> Result<(), Failure> {
        let part = rng.below(1_000_000) as f64 / 1e6;
        let while_it_lasts = Duration::from_secs_f64(1.2 * part * part);
        match self {
            Fault::Kill { nodes, .. } => {
                cluster.kill(nodes).await?;
                sleep(while_it_lasts).await;
                start(cluster, nodes).await?;
                // Now and then again, while they still recover.
                if rng.chance(0.25) {
                    sleep(Duration::from_millis(rng.below(30))).await;
                    cluster.kill(nodes).await?;
                    start(cluster, nodes).await?;
                }
            }
            Fault::Freeze { nodes, .. } => {
                for node in nodes {
                    cluster.running(*node)?.freeze()?;
                }
                sleep(while_it_lasts).await;
                for node in nodes {
                    cluster.running(*node)?.thaw()?;
                }
            }
            Fault::Replace { node } => {
                cluster.wipe(*node).await?;
                cluster.adopt(ADOPTED).await?;
            }
            Fault::Drain { node } => drain(cluster, *node).await?,
            Fault::Cut { directions, how, .. } => {
                let proxy = cluster.proxy().ok_or("there is no proxy to cut")?;
                directions.iter().for_each(|(from, to)| proxy.cut(*from, *to, *how));
                sleep(while_it_lasts).await;
                Proxy::heal(proxy);
            }
        }
        Ok(())
    }
}

/// Maintenance, as an operator does it.
async fn drain(cluster: &Cluster, node: u32) -> Result<(), Failure> {
    let other = cluster.nodes().find(|other| *other != node).ok_or("there is one node alone")?;
    let end = Instant::now() + ADOPTED;
    // Another replica may lag for a moment: then it is drained, and not yet to be stopped.
    while !at::<bool>(cluster, other, Order::Drain { node }).await? {
        if Instant::now() > end {
            return Err(format!("node {node} is drained, and may never be stopped").into());
        }
        sleep(Duration::from_millis(20)).await;
    }
    cluster.stop(node).await?;
    cluster.restart(node).await?;
    at(cluster, other, Order::Resume { node }).await
}

/// Has a node do something, which may take some tries: the others may be in the middle of something.
async fn at<T: DeserializeOwned>(cluster: &Cluster, node: u32, order: Order) -> Result<T, Failure> {
    let order = serde_json::to_value(super::order::Order::Transfers(order))?;
    let end = Instant::now() + ADOPTED;
    loop {
        match cluster.running(node)?.call(&Request::Own(order.clone()), ADOPTED).await {
            Ok(done) => return Ok(done),
            Err(error) if Instant::now() > end => return Err(error.into()),
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn start(cluster: &Cluster, nodes: &[u32]) -> Result<(), Failure> {
    let started = nodes.iter().map(|node| cluster.restart(*node));
    futures_util::future::try_join_all(started).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_fault_is_chosen_and_fits_the_cluster() {
        let mut rng = Rng::new(1);
        let faults: Vec<_> = (0..500).map(|_| Fault::choose(3, 2, &mut rng)).collect();
        let names: BTreeSet<_> = faults.iter().map(Fault::name).collect();
        assert_eq!(names.len(), 11, "{names:?}");
        let whole: BTreeSet<_> =
            (0..500).map(|_| Fault::choose_whole(3, 2, &mut rng).name()).collect();
        assert!(whole.contains("drain") && whole.len() == 8, "{whole:?}");
        for fault in faults {
            match fault {
                Fault::Kill { name: "kill_leader", nodes } => assert_eq!(nodes, [2]),
                Fault::Kill { name: "kill_majority", nodes } => assert_eq!(nodes.len(), 2),
                Fault::Cut { directions, .. } => {
                    assert!(!directions.is_empty() && directions.iter().all(|(a, b)| a != b));
                }
                _ => {}
            }
        }
    }
}
