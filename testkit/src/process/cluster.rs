//! In the parent: all nodes of a cluster, started and stopped one by one.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use duractor::link::dev::DevCa;
use duractor_journal::Member;
use tokio::time::{Instant, sleep};

use super::{
    Failure,
    child::Child,
    control::CallError,
    proxy::Proxy,
    wire::{Group, NodeConfig, Request, Tls, Whole},
};

/// How long a node may take to tell its status, before it counts as not there.
const STATUS: Duration = Duration::from_secs(2);
/// How long a change of members may take, catching up included, before it is asked for again.
const CHANGE: Duration = Duration::from_secs(120);
/// How long the groups may take to get ready.
const FORMED: Duration = Duration::from_secs(30);
/// Between two looks at a status.
const TICK: Duration = Duration::from_millis(5);

/// How a cluster is set up.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The program that is started for each node.
    pub program: PathBuf,
    /// A folder, which must exist: data, certificates.
    pub dir: PathBuf,
    /// How many nodes, 1 or more.
    pub nodes: u32,
    /// How many of them, the last ones, are not started with the others but by
    /// [`restart`](Cluster::restart); whole nodes only.
    pub spare: u32,
    /// How many shards.
    pub shards: u16,
    /// With mutual TLS; plain TCP otherwise.
    pub secure: bool,
    /// With a [`Proxy`] between all nodes.
    pub proxied: bool,
    /// See [`LogConfig`](duractor_journal::LogConfig); without it, the default.
    pub segment_bytes: Option<u64>,
    /// See [`LogConfig`](duractor_journal::LogConfig); without it, the default.
    pub fan_in: Option<usize>,
    /// Heartbeat and election times in milliseconds; without it, the default.
    pub timing: Option<[u64; 3]>,
    /// What the nodes' handlers do wrong on purpose, if anything.
    pub plant: Option<String>,
    /// Whole nodes that form a cluster, with these keys and values of their
    /// [configuration](duractor::config); otherwise nodes with links and journal alone.
    pub whole: Option<Vec<(String, String)>>,
}

impl Setup {
    /// Three nodes of this program, with 12 shards and mutual TLS.
    ///
    /// # Errors
    /// The program's own path is not known.
    pub fn new(dir: impl Into<PathBuf>) -> std::io::Result<Self> {
        Ok(Self {
            program: std::env::current_exe()?,
            dir: dir.into(),
            nodes: 3,
            spare: 0,
            shards: duractor_journal::id::DEFAULT_SHARDS,
            secure: true,
            proxied: false,
            segment_bytes: None,
            fan_in: None,
            timing: None,
            plant: None,
            whole: None,
        })
    }
}

/// A node, running or not.
struct Slot {
    member: Member,
    address: Option<SocketAddr>,
    child: Option<Arc<Child>>,
    /// It was started before.
    known: bool,
}

impl Slot {
    fn new(number: u32, address: Option<SocketAddr>) -> Self {
        Self { member: Member::new(number, 1), address, child: None, known: false }
    }
}

/// Nodes `1..=nodes` of one cluster. All of them are killed when this is dropped.
pub struct Cluster {
    setup: Setup,
    ca: Option<DevCa>,
    proxy: Option<Proxy>,
    slots: Vec<Mutex<Slot>>,
}

impl Cluster {
    /// Starts all nodes, makes the groups of all shards, and waits until each has a leader. Whole nodes
    /// form the cluster themselves: waits until all have their votes.
    ///
    /// # Errors
    /// A node did not start, or there is a group without a leader (or a vote missing) after 30 s.
    pub async fn start(setup: Setup) -> Result<Arc<Self>, Failure> {
        let ca = setup.secure.then(|| DevCa::create(setup.dir.join("tls"), NAME)).transpose()?;
        let proxy = if setup.proxied { Some(Proxy::start(setup.nodes).await?) } else { None };
        let mut slots = Vec::new();
        for number in 1..=setup.nodes {
            let address = match &proxy {
                Some(_) => None,
                // Nodes must know where the others listen before those do.
                None => Some(free_address()?),
            };
            slots.push(Mutex::new(Slot::new(number, address)));
        }
        let cluster = Arc::new(Self { setup, ca, proxy, slots });
        for node in 1..=cluster.setup.nodes - cluster.setup.spare {
            cluster.restart(node).await?;
        }
        let voters = cluster.members();
        if cluster.setup.whole.is_some() {
            cluster.wait_whole(FORMED).await?;
            return Ok(cluster);
        }
        cluster.running(1)?.call::<()>(&Request::Initialize { voters }, CHANGE).await?;
        cluster.wait_led(FORMED).await?;
        Ok(cluster)
    }

    /// Waits until every group has a leader and the votes of three nodes, or of all where there are fewer.
    ///
    /// # Errors
    /// There is one that has not after so long.
    pub async fn wait_whole(&self, longest: Duration) -> Result<(), Failure> {
        let started = self.nodes().filter(|node| self.node(*node).is_some()).count();
        let (end, copies) = (Instant::now() + longest, started.min(3));
        for shard in 0..self.setup.shards {
            while self.leader(shard).await.is_none_or(|(_, group)| group.voters.len() != copies) {
                if Instant::now() > end {
                    let statuses = self.statuses().await;
                    return Err(format!("shard {shard} is not complete: {statuses}").into());
                }
                sleep(TICK).await;
            }
        }
        Ok(())
    }

    /// How it is set up.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The network between the nodes, where it was asked for.
    #[must_use]
    pub fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    /// All nodes' numbers.
    pub fn nodes(&self) -> impl Iterator<Item = u32> + use<> {
        1..=self.setup.nodes
    }

    /// All nodes with their incarnations of now.
    #[must_use]
    pub fn members(&self) -> BTreeSet<Member> {
        self.nodes().map(|node| self.slot(node, |slot| slot.member)).collect()
    }

    /// A node's data directory.
    #[must_use]
    pub fn dir(&self, node: u32) -> PathBuf {
        self.setup.dir.join(format!("node-{node}"))
    }

    /// A node, if it runs (or stands still).
    #[must_use]
    pub fn node(&self, node: u32) -> Option<Arc<Child>> {
        self.slot(node, |slot| slot.child.clone())
    }

    /// A node that must run.
    ///
    /// # Errors
    /// It does not.
    pub fn running(&self, node: u32) -> Result<Arc<Child>, CallError> {
        self.node(node).ok_or(CallError::Gone)
    }

    /// Starts a node that does not run, on what is in its directory.
    ///
    /// # Errors
    /// It did not start.
    pub async fn restart(&self, node: u32) -> Result<(), Failure> {
        let (me, address) = self.slot(node, |slot| (slot.member, slot.address));
        let child = Arc::new(Child::start(&self.setup.program, self.config(me, address)?).await?);
        let address = child.hello.address.parse()?;
        if let Some(proxy) = &self.proxy {
            proxy.set_target(node, address);
        }
        self.slot(node, |slot| {
            (slot.address, slot.child, slot.known) = (Some(address), Some(child), true);
        });
        Ok(())
    }

    /// SIGKILL, all of them before any is waited for.
    ///
    /// # Errors
    /// The operating system refused.
    pub async fn kill(&self, nodes: &[u32]) -> Result<(), Failure> {
        let taken = nodes.iter().filter_map(|node| self.slot(*node, |slot| slot.child.take()));
        let taken: Vec<_> = taken.collect();
        futures_util::future::try_join_all(taken.iter().map(|child| child.kill())).await?;
        Ok(())
    }

    /// Stops a node gracefully.
    ///
    /// # Errors
    /// It did not close in time, or ended with an error.
    pub async fn stop(&self, node: u32) -> Result<(), Failure> {
        match self.slot(node, |slot| slot.child.take()) {
            Some(child) => child.stop().await,
            None => Ok(()),
        }
    }

    /// Kills a node, throws its disk away, and starts its next incarnation, which belongs to no
    /// group yet: see [`adopt`](Self::adopt).
    ///
    /// # Errors
    /// It did not start.
    pub async fn wipe(&self, node: u32) -> Result<(), Failure> {
        self.kill(&[node]).await?;
        fs::remove_dir_all(self.dir(node))?;
        self.slot(node, |slot| slot.member.incarnation += 1);
        self.restart(node).await
    }

    /// Makes the nodes as they are now the voters of all groups, at each one's leader.
    ///
    /// # Errors
    /// It was not done in so long.
    pub async fn adopt(&self, longest: Duration) -> Result<(), Failure> {
        let (end, voters) = (Instant::now() + longest, self.members());
        for shard in 0..self.setup.shards {
            let request = Request::ChangeMembers { shard, voters: voters.clone() };
            self.at_leader(shard, &request, end, |group| group.voters == voters).await?;
        }
        Ok(())
    }

    /// Hands the leadership of all groups to one node.
    ///
    /// # Errors
    /// It was not done in so long, for one of them.
    pub async fn gather(&self, node: u32, longest: Duration) -> Result<(), Failure> {
        let end = Instant::now() + longest;
        loop {
            for shard in 0..self.setup.shards {
                self.hand_over(shard, node, end.saturating_duration_since(Instant::now())).await?;
            }
            // An election may have taken one away while the others were handed over.
            if self.status(node).await?.iter().all(|group| group.leads) {
                return Ok(());
            }
        }
    }

    /// Hands the leadership of a group to a node.
    ///
    /// # Errors
    /// It was not done in so long.
    pub async fn hand_over(&self, shard: u16, to: u32, longest: Duration) -> Result<(), Failure> {
        let (end, to) = (Instant::now() + longest, self.slot(to, |slot| slot.member));
        let request = Request::Transfer { shard, to };
        self.at_leader(shard, &request, end, |group| group.leader == Some(to)).await
    }

    /// Has a group's leader do something, again and again until its status says that it is done.
    async fn at_leader(
        &self,
        shard: u16,
        request: &Request,
        end: Instant,
        done: impl Fn(&Group) -> bool,
    ) -> Result<(), Failure> {
        let mut trouble = "no node leads it".to_owned();
        while Instant::now() < end {
            let Some((leader, group)) = self.leader(shard).await else {
                sleep(TICK).await;
                continue;
            };
            if done(&group) {
                return Ok(());
            }
            let Some(child) = self.node(leader) else { continue };
            let longest = CHANGE.min(end - Instant::now());
            if let Err(error) = child.call::<()>(request, longest).await {
                trouble = format!("node {leader}: {error}");
            }
            sleep(TICK).await;
        }
        Err(format!("shard {shard}: {request:?} is not done: {trouble}").into())
    }

    /// All groups as a node sees them.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn status(&self, node: u32) -> Result<Vec<Group>, CallError> {
        self.running(node)?.call(&Request::Status, STATUS).await
    }

    /// Who leads a group by what the nodes say, the newest term where there are several, and its
    /// status there.
    pub async fn leader(&self, shard: u16) -> Option<(u32, Group)> {
        let statuses = self.nodes().map(|node| async move {
            Some((node, self.status(node).await.ok()?.into_iter().nth(usize::from(shard))?))
        });
        let statuses = futures_util::future::join_all(statuses).await;
        let leaders = statuses.into_iter().flatten().filter(|(_, group)| group.leads);
        leaders.max_by_key(|(_, group)| group.term)
    }

    /// Waits until every group has a leader.
    ///
    /// # Errors
    /// There is one without after so long.
    pub async fn wait_led(&self, longest: Duration) -> Result<(), Failure> {
        let end = Instant::now() + longest;
        for shard in 0..self.setup.shards {
            while self.leader(shard).await.is_none() {
                if Instant::now() > end {
                    let statuses = self.statuses().await;
                    return Err(format!("shard {shard} has no leader: {statuses}").into());
                }
                sleep(TICK).await;
            }
        }
        Ok(())
    }

    /// For people: what the nodes say of their groups.
    pub async fn statuses(&self) -> String {
        let mut text = String::new();
        for node in self.nodes() {
            match self.status(node).await {
                Ok(groups) => {
                    for (shard, group) in groups.iter().enumerate() {
                        text += &format!("\n  node {node}, shard {shard}: {group:?}");
                    }
                }
                Err(error) => text += &format!("\n  node {node}: {error}"),
            }
        }
        text
    }

    /// Nodes whose process ended though nobody killed it, each with how.
    pub async fn fallen(&self) -> Vec<(u32, String)> {
        let mut fallen = Vec::new();
        for node in self.nodes() {
            let Some(child) = self.node(node) else { continue };
            if let Ok(Some(status)) = child.has_ended().await {
                fallen.push((node, status.to_string()));
            }
        }
        fallen
    }

    /// Processes of all nodes that run.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.nodes().filter_map(|node| Some(self.node(node)?.pid)).collect()
    }

    /// Stops all nodes gracefully, at once.
    ///
    /// # Errors
    /// The first that did not.
    pub async fn shutdown(&self) -> Result<(), Failure> {
        let stopped = futures_util::future::join_all(self.nodes().map(|node| self.stop(node)));
        stopped.await.into_iter().collect()
    }

    fn slot<T>(&self, node: u32, see: impl FnOnce(&mut Slot) -> T) -> T {
        let slot = &self.slots[node as usize - 1];
        see(&mut slot.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn config(&self, me: Member, address: Option<SocketAddr>) -> Result<NodeConfig, Failure> {
        let node = me.node.0;
        let others = self.nodes().filter(|other| *other != node);
        let reach = others.filter_map(|other| match &self.proxy {
            Some(proxy) => proxy.address(node, other),
            None => self.slot(other, |slot| slot.address),
        });
        Ok(NodeConfig {
            me,
            cluster: NAME.into(),
            dir: self.dir(node),
            listen: address.map_or("127.0.0.1:0".into(), |address| address.to_string()),
            reach: reach.map(|address| address.to_string()).collect(),
            control: String::new(),
            tls: self.ca.as_ref().map(|ca| certificates(ca, node)).transpose()?,
            shards: self.setup.shards,
            segment_bytes: self.setup.segment_bytes,
            fan_in: self.setup.fan_in,
            timing: self.setup.timing,
            plant: self.setup.plant.clone(),
            whole: self.setup.whole.clone().map(|settings| {
                let bootstrap = node == 1 && !self.slot(node, |slot| slot.known);
                Whole { bootstrap, settings }
            }),
        })
    }
}

/// The name of every cluster: each has a CA of its own.
const NAME: &str = "trial";

/// A node's certificate: the one that it has, or a new one.
fn certificates(ca: &DevCa, node: u32) -> Result<Tls, Failure> {
    let mut files = ca.files(node);
    if !Path::new(&files.certificate).exists() {
        files = ca.node(node)?;
    }
    Ok(Tls { ca: files.ca, certificate: files.certificate, key: files.key })
}

/// An address that was free a moment ago.
fn free_address() -> std::io::Result<SocketAddr> {
    std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()
}
