//! Clients: processes that ask a cluster's entities and are no part of it. Real nodes and a real client,
//! over mutual TLS on loopback.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering::SeqCst},
    },
    time::Duration,
};

use duractor::{
    AskError, Client, Command, Context, Effect, Env, Event, EventSourced, Handle, Node, Persist,
    RequestId, TookEffect,
    cluster::{Cluster, ClusterError, ClusterStatus},
    config::{Config, Loader},
    link::{TlsFiles, dev::DevCa},
};
use duractor_journal::{Role, ShardId};

const SOON: Duration = Duration::from_secs(30);
const SHARDS: u16 = 3;

#[derive(Event)]
enum Counted {
    Added { by: i64 },
}

#[derive(Command)]
#[command(reply = i64)]
struct Add {
    by: i64,
}

#[derive(Command)]
#[command(reply = i64)]
struct Get;

#[derive(Default)]
struct Counter;

impl EventSourced for Counter {
    const KIND: &'static str = "counter";
    type State = i64;
    type Event = Counted;
    type Commands = (Add, Get);

    fn apply(total: &mut i64, event: &Counted) {
        let Counted::Added { by } = event;
        *total += by;
    }
}

impl Handle<Add> for Counter {
    fn handle(&self, _: &i64, add: Add, _: &Context) -> Effect<Self, i64> {
        Self::persist(Counted::Added { by: add.by }).reply(|total| *total)
    }
}

impl Handle<Get> for Counter {
    fn handle(&self, total: &i64, _: Get, _: &Context) -> Effect<Self, i64> {
        Effect::reply(*total)
    }
}

/// An entity of the framework's own, as a client would make it up.
struct Forged;

impl EventSourced for Forged {
    const KIND: &'static str = "duractor.lock";
    type State = i64;
    type Event = Counted;
    type Commands = (Get,);

    fn apply(_: &mut i64, _: &Counted) {}
}

impl Handle<Get> for Forged {
    fn handle(&self, total: &i64, _: Get, _: &Context) -> Effect<Self, i64> {
        Effect::reply(*total)
    }
}

struct Site {
    home: tempfile::TempDir,
    ca: DevCa,
}

struct Member {
    cluster: Cluster,
    node: Node,
}

impl Site {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let ca = DevCa::create(home.path().join("ca"), "test").unwrap();
        Self { home, ca }
    }

    fn config(&self, files: &TlsFiles, seeds: &[String]) -> Loader {
        let text = |path: &Path| path.display().to_string();
        Loader::new()
            .set("cluster.name", "test")
            .set("cluster.shards", SHARDS.to_string())
            .set("net.listen", "127.0.0.1:0")
            .set("tls.ca", text(&files.ca))
            .set("tls.cert", text(&files.certificate))
            .set("tls.key", text(&files.key))
            .set("discovery.seeds", seeds.join(","))
            .set("timing.settle_ms", "200")
    }

    fn node_config(&self, node: u32, seeds: &[String], max_clients: usize) -> Config {
        let loader = self.config(&self.ca.node(node).unwrap(), seeds);
        let dir = self.home.path().join(format!("node-{node}"));
        let loader = loader
            .set("node.number", node.to_string())
            .set("node.data_dir", dir.display().to_string())
            .set("net.max_clients", max_clients.to_string());
        loader.load().unwrap()
    }

    async fn member(&self, node: u32, seeds: &[String], max_clients: usize) -> Member {
        let config = self.node_config(node, seeds, max_clients);
        let dir = config.node.data_dir.clone();
        let env = Env::production();
        let cluster = match seeds.is_empty() {
            true => Cluster::bootstrap(config, env).await.unwrap(),
            false => Cluster::start(config, env).await.unwrap(),
        };
        let node = Node::builder(dir).cluster(&cluster).register(Counter).start().await.unwrap();
        cluster.wait_ready(SOON).await.unwrap();
        Member { cluster, node }
    }

    async fn members(&self, count: u32) -> Vec<Member> {
        let mut members = vec![self.member(1, &[], 4).await];
        let seed = [members[0].cluster.address().to_owned()];
        for node in 2..=count {
            members.push(self.member(node, &seed, 4).await);
        }
        let voters = count.min(3) as usize;
        until("the groups to settle", || (0..SHARDS).all(|n| settled(&members, n, voters))).await;
        members
    }

    async fn client(&self, name: &str, seeds: &[String]) -> Result<Client, ClusterError> {
        let config = self.config(&self.ca.client(name).unwrap(), seeds);
        let config = config.set("timing.join_timeout_ms", "3000").load().unwrap();
        Client::connect(config, Env::production()).await
    }
}

fn leads(member: &Member, shard: u16) -> bool {
    member.cluster.groups().group(ShardId(shard)).role == Role::Leader
}

fn settled(members: &[Member], shard: u16, voters: usize) -> bool {
    let leader = members.iter().find(|member| leads(member, shard));
    leader
        .is_some_and(|leader| leader.cluster.groups().group(ShardId(shard)).voters.len() == voters)
}

async fn until(what: &str, done: impl Fn() -> bool) {
    for _ in 0..3_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain for {what}");
}

async fn stop(members: Vec<Member>) {
    for member in members {
        member.node.shutdown().await;
        member.cluster.shutdown().await;
    }
}

/// A client's load on one entity: each addition once, whatever happens meanwhile.
struct Load {
    going: Arc<AtomicBool>,
    added: Arc<AtomicI64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(client: &Client, key: &str) -> Self {
        let (going, added) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicI64::new(0)));
        let task = |task: usize| {
            let entity = client.entity::<Counter>(key).unwrap();
            let (going, added) = (going.clone(), added.clone());
            tokio::spawn(async move {
                let mut number = 0;
                while going.load(SeqCst) {
                    number += 1;
                    let id = RequestId::new(&format!("{task}-{number}")).unwrap();
                    let ask = entity.ask(Add { by: 1 }).request_id(id);
                    ask.timeout(Duration::from_secs(20)).await.unwrap();
                    added.fetch_add(1, SeqCst);
                }
            })
        };
        let tasks = (0..4).map(task).collect();
        Self { going, added, tasks }
    }

    /// Waits for so many more additions.
    async fn goes_on(&self, what: &str) {
        let goal = self.added.load(SeqCst) + 50;
        until(what, || self.added.load(SeqCst) >= goal).await;
    }

    /// How many were acknowledged.
    async fn end(self) -> i64 {
        self.going.store(false, SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.added.load(SeqCst)
    }
}

fn clients(status: &ClusterStatus) -> (usize, usize) {
    (status.members.len(), status.clients)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_asks_through_hand_overs_and_the_loss_of_a_leader() {
    let site = Site::new();
    let mut members = site.members(3).await;
    let client = site.client("web", &[members[0].cluster.address().to_owned()]).await.unwrap();
    until("links to all members", || client.linked().len() == 3).await;
    assert_eq!(client.members().len(), 3);
    for member in &members {
        until("every member to know the client", || member.cluster.status().clients == 1).await;
        assert_eq!(clients(&member.cluster.status()), (3, 1), "it is no member");
        assert_eq!(member.cluster.transport().peers().len(), 2, "and no peer");
    }

    let entity = client.entity::<Counter>("a").unwrap();
    let shard = entity.id().shard(SHARDS).0;
    let load = Load::start(&client, "a");
    load.goes_on("additions").await;
    // Handed over, in good order. It may go back by itself, and be refused when it is just going.
    let from = members.iter().position(|member| leads(member, shard)).unwrap();
    let to = members[(from + 1) % 3].cluster.me().node;
    let moved = members[from].cluster.hand_over(ShardId(shard), to).await;
    println!("handed over: {moved:?}");
    load.goes_on("additions after a hand-over").await;
    // Killed, with what it had accepted: the leader, whom the client may not know to be one.
    until("a leader", || members.iter().any(|member| leads(member, shard))).await;
    let leader = members.iter().position(|member| leads(member, shard)).unwrap();
    let killed = members.remove(leader);
    killed.node.kill().await;
    killed.cluster.shutdown().await;
    load.goes_on("additions after the loss of the leader").await;
    until("the link to be lost", || client.linked().len() == 2).await;
    let added = load.end().await;
    assert_eq!(entity.ask(Get).await.unwrap(), added, "each addition counts once");
    // The members agree.
    let there = members[0].node.entity::<Counter>("a").unwrap();
    assert_eq!(there.ask(Get).await.unwrap(), added);

    entity.tell(Add { by: 5 }).unwrap();
    for _ in 0..500 {
        if entity.ask(Get).lease_read().await.unwrap() == added + 5 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(entity.ask(Get).await.unwrap(), added + 5);
    let forged = client.entity::<Forged>("a").unwrap().ask(Get).await.unwrap_err();
    assert!(matches!(forged, AskError::UnknownCommand { .. }), "{forged}");

    client.shutdown().await;
    let error = entity.ask(Get).await.unwrap_err();
    assert!(matches!(error, AskError::ShuttingDown), "{error}");
    assert_eq!(error.effect(), TookEffect::None);
    for member in &members {
        until("the client to be gone", || member.cluster.status().clients == 0).await;
    }
    stop(members).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_follows_who_the_members_are() {
    let site = Site::new();
    let mut members = site.members(3).await;
    let seed = [members[0].cluster.address().to_owned()];
    let client = site.client("web", &seed).await.unwrap();
    let fourth = site.member(4, &seed, 4).await;
    until("a link to the new member", || client.linked().len() == 4).await;
    // The one that the client was told of first leaves.
    let first = members.remove(0);
    first.cluster.leave().await.unwrap();
    until("the member that left to be forgotten", || client.members().len() == 3).await;
    stop(vec![first]).await;
    members.push(fourth);
    until("links to the others", || client.linked().len() == 3).await;
    let entity = client.entity::<Counter>("b").unwrap();
    assert_eq!(entity.ask(Add { by: 2 }).await.unwrap(), 2);
    client.shutdown().await;
    stop(members).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_the_other_kind_and_too_many_clients_are_refused() {
    let site = Site::new();
    let member = site.member(1, &[], 1).await;
    let seed = [member.cluster.address().to_owned()];
    // A node's certificate at a client.
    let config = site.config(&site.ca.node(7).unwrap(), &seed).load().unwrap();
    let error = Client::connect(config, Env::production()).await.err().unwrap();
    assert!(error.to_string().contains("duractor://test/node/7"), "{error}");
    assert!(matches!(error, ClusterError::Links { .. }), "{error}");
    // A client's at a node.
    let config = site.config(&site.ca.client("web").unwrap(), &seed).set("node.number", "2");
    let config = config.set("node.data_dir", site.home.path().join("two").display().to_string());
    let error = Cluster::start(config.load().unwrap(), Env::production()).await.err().unwrap();
    assert!(error.to_string().contains("duractor://test/client/web"), "{error}");
    assert!(matches!(error, ClusterError::Links { .. }), "{error}");

    // One is let in, and the next one when that is gone. Both have the same certificate.
    let first = site.client("web", &seed).await.unwrap();
    let error = site.client("web", &seed).await.err().unwrap();
    assert!(matches!(error, ClusterError::TimedOut { .. }), "{error}");
    assert_eq!(member.cluster.status().clients, 1);
    first.shutdown().await;
    let second = site.client("web", &seed).await.unwrap();
    assert_eq!(second.entity::<Counter>("c").unwrap().ask(Add { by: 1 }).await.unwrap(), 1);
    second.shutdown().await;
    stop(vec![member]).await;
}

#[tokio::test]
async fn a_client_needs_somebody_to_ask() {
    let site = Site::new();
    let config = site.config(&site.ca.client("web").unwrap(), &[]).load().unwrap();
    let error = Client::connect(config, Env::production()).await.err().unwrap();
    assert!(error.to_string().contains("discovery.seeds"), "{error}");
    assert!(site.ca.client("no/such").is_err(), "a name that does not fit into a certificate");
}
