//! The demo with several nodes: each a process with its own folder, certificates and HTTP address.
//! Clients send their requests to all of them in turn. The one that leads is killed, the others go
//! on, it comes back and catches up. At the end every node is asked for every order, out of its own
//! log.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    Options, Plant,
    check::Found,
    client::{Client, Reply},
    load::{Outcome, Work, check_all, never_placed, place_all, requests},
    server::Server,
};
use crate::certs;

/// How long the nodes may take to become equal.
const EQUAL: Duration = Duration::from_secs(120);
/// The wait between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// The processes.
struct Nodes {
    configs: Vec<PathBuf>,
    addresses: Vec<SocketAddr>,
    /// `None` while one is killed.
    servers: Vec<Option<Server>>,
}

pub(crate) async fn run(options: &Options) -> Result<Outcome, String> {
    let folder = tempfile::Builder::new().prefix("duractor-orders-").tempdir();
    let folder = folder.map_err(|error| format!("no temporary folder: {error}"))?;
    let mut nodes = Nodes::start(folder.path(), options.nodes).await?;
    println!("  {} servers up, their data in {}", options.nodes, folder.path().display());

    let client = Client::new(nodes.addresses.clone());
    let start = Instant::now();
    let work = Arc::new(Work::new(options, client.clone()));
    let mut back = Vec::new();
    let kills = kill_meanwhile(options, &work, &mut nodes, &mut back);
    let ((), mut orders) = tokio::try_join!(kills, place_all(options, &work))?;
    let took = start.elapsed();
    let (sent, acknowledged) = (client.sent(), orders.iter().map(|done| done.steps).sum());
    nodes.wait_equal().await?;

    if options.plant == Some(Plant::Lost) {
        orders.push(never_placed(options.orders));
    }
    let orders = Arc::new(orders);
    let mut found = Found::default();
    for (number, address) in (1..).zip(&nodes.addresses) {
        let here = check_all(options, &Client::new(vec![*address]), &orders, true).await?;
        println!("  node {number} has {} orders with {} events", here.orders, here.events);
        found.add(here);
    }
    nodes.stop().await?;
    Ok(Outcome { sent, acknowledged, took, back, found })
}

/// Kills the leader at even distances, counted in acknowledged requests, and starts it again halfway
/// to the next kill.
async fn kill_meanwhile(
    options: &Options,
    work: &Work,
    nodes: &mut Nodes,
    back: &mut Vec<Duration>,
) -> Result<(), String> {
    let between = requests(options) as u32 / (options.kills + 1);
    for count in 1..=options.kills {
        work.wait_answered(between.div_ceil(2)).await?;
        let number = nodes.kill_leader(count, back).await?;
        work.wait_answered(between / 2).await?;
        nodes.restart(number).await?;
        let begun = Instant::now();
        nodes.wait_equal_so_far().await?;
        println!(
            "  node {number} is back and has caught up after {} ms",
            begun.elapsed().as_millis()
        );
    }
    Ok(())
}

impl Nodes {
    /// Makes certificates and configurations, forms the cluster with the first node, and waits until
    /// each node has everything.
    async fn start(folder: &Path, count: u16) -> Result<Self, String> {
        let ports = free_ports(2 * usize::from(count)).map_err(|error| error.to_string())?;
        let (links, addresses) = ports.split_at(usize::from(count));
        let options = certs::Options {
            dir: folder.to_owned(),
            cluster: "demo".to_owned(),
            nodes: count,
            first_port: 0,
        };
        let configs = certs::write(&options, links).map_err(|error| error.to_string())?;
        let mut nodes = Self { configs, addresses: addresses.to_vec(), servers: Vec::new() };
        for number in 1..=count {
            let server = nodes.spawn(number, number == 1).await?;
            nodes.servers.push(Some(server));
        }
        nodes.wait_equal().await?;
        Ok(nodes)
    }

    async fn spawn(&self, number: u16, bootstrap: bool) -> Result<Server, String> {
        let place = usize::from(number) - 1;
        let mut arguments = vec!["--config".to_owned(), self.configs[place].display().to_string()];
        arguments.extend(["--listen".to_owned(), self.addresses[place].to_string()]);
        arguments.extend(bootstrap.then(|| "--bootstrap".to_owned()));
        Server::start(&arguments).await
    }

    /// Kills the node that leads a fresh order, and has the others change that order.
    async fn kill_leader(&mut self, count: u32, back: &mut Vec<Duration>) -> Result<u16, String> {
        let client = Client::new(self.addresses.clone());
        let key = |step| format!("probe-{count}-{step}");
        let place = json!({ "customer": "probe" });
        let Reply { body, served_by, .. } =
            client.ask(&Method::POST, "/orders", Some(&key("place")), &place).await?;
        let number = served_by.ok_or("nobody says which node answered")?;
        let path = format!("/orders/{}/lines", body["id"].as_str().unwrap_or_default());
        let line = json!({ "sku": "tea", "quantity": 1, "unit_cents": 1 });

        let server = self.servers[usize::from(number) - 1].take().ok_or("a dead node answered")?;
        let start = Instant::now();
        server.kill().await.map_err(|error| format!("a server cannot be killed: {error}"))?;
        let others = (1..).zip(&self.addresses).filter(|(other, _)| *other != number);
        let others = Client::new(others.map(|(_, address)| *address).collect());
        let reply = others.ask(&Method::POST, &path, Some(&key("change")), &line).await?;
        let took = start.elapsed();
        if reply.status != StatusCode::OK {
            return Err(format!("the probe was refused: {}: {}", reply.status, reply.body));
        }
        let next = reply.served_by.ok_or("nobody says which node answered")?;
        println!(
            "  SIGKILL of node {number}, the leader of an order: node {next} leads it and has \
             changed it after {} ms",
            took.as_millis()
        );
        back.push(took);
        Ok(number)
    }

    async fn restart(&mut self, number: u16) -> Result<(), String> {
        self.servers[usize::from(number) - 1] = Some(self.spawn(number, false).await?);
        Ok(())
    }

    /// Waits until all nodes vote in all groups and have applied the same entries. Nothing must be
    /// written meanwhile.
    async fn wait_equal(&self) -> Result<(), String> {
        self.wait(|groups| groups.iter().all(|group| group == &groups[0])).await
    }

    /// Waits until all nodes vote in all groups, and each has applied what was applied anywhere when
    /// this was called.
    async fn wait_equal_so_far(&self) -> Result<(), String> {
        let mut least: Option<Vec<u64>> = None;
        self.wait(move |groups| {
            let applied = |group: &Vec<Group>| group.iter().map(|g| g.applied).collect::<Vec<_>>();
            let all: Vec<_> = groups.iter().map(applied).collect();
            let least = least.get_or_insert_with(|| {
                (0..all[0].len()).map(|n| all.iter().map(|a| a[n]).max().unwrap_or(0)).collect()
            });
            all.iter().all(|applied| applied.iter().zip(&*least).all(|(has, least)| has >= least))
        })
        .await
    }

    async fn wait(&self, mut enough: impl FnMut(&[Vec<Group>]) -> bool) -> Result<(), String> {
        let give_up = Instant::now() + EQUAL;
        loop {
            let mut all = Vec::new();
            for address in &self.addresses {
                all.push(groups(&Client::new(vec![*address])).await?);
            }
            let voting = all.iter().flatten().all(|group| group.voters == self.addresses.len());
            if voting && enough(&all) {
                return Ok(());
            }
            if Instant::now() > give_up {
                return Err(format!("the nodes are not equal within {EQUAL:?}: {all:?}"));
            }
            sleep(LOOK).await;
        }
    }

    async fn stop(self) -> Result<(), String> {
        for server in self.servers.into_iter().flatten() {
            server.kill().await.map_err(|error| format!("a server cannot be killed: {error}"))?;
        }
        Ok(())
    }
}

/// A journal group as a node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    leader: Option<u64>,
    voters: usize,
    applied: u64,
}

async fn groups(client: &Client) -> Result<Vec<Group>, String> {
    let reply = client.ask(&Method::GET, "/cluster", None, &Value::Null).await?;
    let groups = reply.body["groups"].as_array().ok_or("a node does not know its groups")?;
    let group = |group: &Value| Group {
        leader: group["leader"].as_u64(),
        voters: group["voters"].as_array().map_or(0, Vec::len),
        applied: group["applied"].as_u64().unwrap_or(0),
    };
    Ok(groups.iter().map(group).collect())
}

fn free_ports(count: usize) -> std::io::Result<Vec<SocketAddr>> {
    // All at once, so that they differ.
    let listeners: Result<Vec<_>, _> =
        (0..count).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect();
    listeners?.iter().map(TcpListener::local_addr).collect()
}
