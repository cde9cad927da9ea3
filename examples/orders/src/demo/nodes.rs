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
    audit::Facts,
    buyers,
    check::Found,
    client::{Client, Reply},
    load::{Outcome, Work, check_all, never_placed, place_all, requests},
    receiver::Receiver,
    rolling::{self, OLD},
    server::Server,
};
use crate::certs;

/// How long the nodes may take to become equal.
const EQUAL: Duration = Duration::from_secs(120);
/// The wait between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// The processes.
pub(super) struct Nodes {
    configs: Vec<PathBuf>,
    addresses: Vec<SocketAddr>,
    /// `None` while one is killed.
    servers: Vec<Option<Server>>,
    /// What each of them is told beside its configuration.
    outside: Vec<String>,
}

pub(crate) async fn run(options: &Options) -> Result<Outcome, String> {
    let folder = tempfile::Builder::new().prefix("duractor-orders-").tempdir();
    let folder = folder.map_err(|error| format!("no temporary folder: {error}"))?;
    let (receiver, book) = (Receiver::start().await?, folder.path().join("invoices.txt"));
    let outside = [
        format!("--notify=http://{}/notices", receiver.address),
        format!("--invoices={}", book.display()),
    ];
    let mut nodes = Nodes::start(folder.path(), options.nodes, &outside).await?;
    println!("  {} servers up, their data in {}", options.nodes, folder.path().display());

    let client = match options.rolling {
        true => Client::keeping(nodes.addresses.clone()),
        false => Client::new(nodes.addresses.clone()),
    };
    let start = Instant::now();
    let work = Arc::new(Work::new(options, client.clone()));
    let mut back = Vec::new();
    let disturb = async {
        match options.rolling {
            true => rolling::restart_all(&work, &mut nodes).await,
            false => kill_meanwhile(options, &work, &mut nodes, &mut back).await,
        }
    };
    let buyers = buyers::buy_all(options, &client);
    let ((), mut orders, bought) = tokio::try_join!(disturb, place_all(options, &work), buyers)?;
    let took = start.elapsed();
    let facts = buyers::look(&client, bought, &receiver, &book).await?;
    let (sent, acknowledged) = (client.sent(), orders.iter().map(|done| done.steps).sum());
    nodes.wait_equal().await?;

    if options.plant == Some(Plant::Lost) {
        orders.push(never_placed(options.orders));
    }
    let orders = Arc::new(orders);
    let mut found = Found::default();
    if options.rolling {
        rolling::judge(&client, &mut found);
    }
    for (number, address) in (1..).zip(&nodes.addresses) {
        let here = check_all(options, &Client::new(vec![*address]), &orders, true).await?;
        println!("  node {number} has {} orders with {} events", here.orders, here.events);
        found.add(here);
    }
    facts.faults().into_iter().for_each(|fault| found.wrong(fault));
    tell(&facts, &receiver);
    nodes.one_leader(&mut found).await?;
    nodes.stop().await?;
    Ok(Outcome { sent, acknowledged, took, back, found })
}

/// What came of what was bought.
fn tell(facts: &Facts, receiver: &Receiver) {
    let shipped = facts.purchases.iter().filter(|purchase| purchase.stage == "shipped").count();
    println!(
        "  {} were bought: {shipped} shipped and paid, {} refused and undone",
        facts.purchases.len(),
        facts.purchases.len() - shipped
    );
    let inbox = receiver.inbox();
    println!(
        "  the receiver was told of each once; {} came again, {} were stale; {} invoices",
        inbox.repeats,
        inbox.stale,
        facts.book.len()
    );
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
        nodes.restart(number, OLD).await?;
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
    async fn start(folder: &Path, count: u16, outside: &[String]) -> Result<Self, String> {
        let ports = free_ports(2 * usize::from(count)).map_err(|error| error.to_string())?;
        let (links, addresses) = ports.split_at(usize::from(count));
        let options = certs::Options {
            dir: folder.to_owned(),
            cluster: "demo".to_owned(),
            nodes: count,
            first_port: 0,
        };
        let configs = certs::write(&options, links).map_err(|error| error.to_string())?;
        let peers =
            (1..).zip(addresses).map(|(number, address)| format!("--peer={number}={address}"));
        let outside = outside.iter().cloned().chain(peers).collect();
        let addresses = addresses.to_vec();
        let mut nodes = Self { configs, addresses, servers: Vec::new(), outside };
        for number in 1..=count {
            let server = nodes.spawn(number, OLD, number == 1).await?;
            nodes.servers.push(Some(server));
        }
        nodes.wait_equal().await?;
        Ok(nodes)
    }

    async fn spawn(&self, number: u16, version: &str, bootstrap: bool) -> Result<Server, String> {
        let place = usize::from(number) - 1;
        let mut arguments = vec!["--config".to_owned(), self.configs[place].display().to_string()];
        arguments.extend(["--listen".to_owned(), self.addresses[place].to_string()]);
        arguments.extend(self.outside.iter().cloned());
        arguments.extend(bootstrap.then(|| "--bootstrap".to_owned()));
        Server::start(&arguments, version).await
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

    pub(super) fn count(&self) -> u16 {
        self.configs.len() as u16
    }

    /// Stops a node in good order.
    pub(super) async fn terminate(&mut self, number: u16) -> Result<(), String> {
        let server = self.servers[usize::from(number) - 1].take().ok_or("the node is down")?;
        server.terminate().await
    }

    /// Starts a node that is down, as this version.
    pub(super) async fn restart(&mut self, number: u16, version: &str) -> Result<(), String> {
        self.servers[usize::from(number) - 1] = Some(self.spawn(number, version, false).await?);
        Ok(())
    }

    /// Waits until the cluster knows each node by this version, in the order of their numbers.
    pub(super) async fn wait_versions(&self, expected: &[&str]) -> Result<(), String> {
        let (give_up, client) = (Instant::now() + EQUAL, Client::new(self.addresses.clone()));
        loop {
            let reply = client.ask(&Method::GET, "/cluster", None, &Value::Null).await?;
            let members = reply.body["members"].as_array().cloned().unwrap_or_default();
            let version =
                |member: &Value| member["properties"]["version"].as_str().map(str::to_owned);
            let versions: Vec<_> = members.iter().filter_map(version).collect();
            if versions == expected {
                return Ok(());
            }
            if Instant::now() > give_up {
                return Err(format!("the cluster knows versions {versions:?}, not {expected:?}"));
            }
            sleep(LOOK).await;
        }
    }

    /// Waits until all nodes vote in all groups and have applied the same entries. Nothing must be
    /// written meanwhile.
    async fn wait_equal(&self) -> Result<(), String> {
        self.wait(|groups| groups.iter().all(|group| group == &groups[0])).await
    }

    /// Waits until all nodes vote in all groups, and each has applied what was applied anywhere when
    /// this was called.
    pub(super) async fn wait_equal_so_far(&self) -> Result<(), String> {
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

    /// Asks each node who leads: the question goes to the leader over HTTP, so all say the same.
    async fn one_leader(&self, found: &mut Found) -> Result<(), String> {
        let mut answers = Vec::new();
        for address in &self.addresses {
            let client = Client::new(vec![*address]);
            let (_, leads) = client.request(&Method::GET, "/leader", None, &Value::Null).await?;
            answers.push(leads);
        }
        let one = answers[0]["token"].is_u64() && answers.iter().all(|leads| *leads == answers[0]);
        if !one {
            found.wrong(format!("nodes name different leaders: {answers:?}"));
        }
        Ok(())
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
