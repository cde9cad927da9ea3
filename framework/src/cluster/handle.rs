//! The handle on a running cluster: [`Cluster`].

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use duractor_journal::{Env, Journal, Member, NodeId, ShardId, Transport, transport::Channel};
use futures_util::StreamExt;
use ractor::{Actor, ActorRef};
use tokio::{sync::oneshot, time::Instant};

use super::{
    connect::Connect,
    desk::Desk,
    discovery::{Discovery, find_all},
    error::{ClusterError, Refusal},
    execute::hand_over,
    groups::Groups,
    identity::Identity,
    manager::{Manager, ManagerMessage},
    records::Records,
    shared::{Shared, TICK},
    start::{Opened, Parts},
    state::{ClusterState, Phase},
    status::{ClusterStatus, not_ready, status},
    tenant::Tenant,
    wire::{Reply, Request},
};
use crate::config::Config;

/// How often a condition is looked at that something waits for.
const LOOK: Duration = Duration::from_millis(20);
/// A pause between attempts to reach the leader.
const AGAIN: Duration = Duration::from_millis(100);

/// This process's node in its cluster. Cheap to clone; all clones are the same node.
///
/// Dropping it does not stop the node: call [`shutdown`](Cluster::shutdown).
#[derive(Clone)]
pub struct Cluster {
    pub(super) shared: Arc<Shared>,
    connect: Arc<dyn Connect>,
    manager: ActorRef<ManagerMessage>,
}

impl Cluster {
    /// Forms a new cluster with this node, whose data directory must be empty, as its first. To be
    /// called once in a cluster's life, on one node; other nodes [`start`](Self::start) and join.
    ///
    /// # Errors
    /// [`ClusterError::AlreadyFormed`], [`ClusterError::NotEmpty`], [`ClusterError::ClusterExists`]
    /// where a seed knows the cluster: nothing was written. After other errors `start` goes on with
    /// what was begun.
    pub async fn bootstrap(config: Config, env: Env) -> Result<Self, ClusterError> {
        Self::bootstrap_with(Parts::configured(config, env)?).await
    }

    /// Starts this node: as the member that its data directory belongs to, or, where that is empty,
    /// by joining the cluster that its seeds know. Nodes may start in any order. Returns when the
    /// node runs; it may not be [ready](Self::wait_ready) yet.
    ///
    /// A log that is damaged is set aside where other nodes have what was in it, and the node joins
    /// anew.
    ///
    /// # Errors
    /// [`ClusterError`] says what to do.
    pub async fn start(config: Config, env: Env) -> Result<Self, ClusterError> {
        Self::start_with(Parts::configured(config, env)?).await
    }

    /// Makes this node, which must not run, the only one of a new cluster: for a cluster that has
    /// lost a majority of its nodes for good. `confirm` is `CLUSTER/NODE`, as `"orders/2"`.
    ///
    /// What only the lost nodes had is lost, and they must never be started with their disks again.
    /// This node's data are kept. Returns the shards that it has no replica of: they begin empty.
    /// [`start`](Self::start) the node then. May be repeated where it failed.
    ///
    /// # Errors
    /// [`ClusterError::NotConfirmed`] with the text to give; nothing was written then.
    pub async fn force_new_cluster(
        config: Config,
        env: Env,
        confirm: &str,
    ) -> Result<Vec<ShardId>, ClusterError> {
        Self::force_new_cluster_with(Parts::configured(config, env)?, confirm).await
    }

    /// As [`bootstrap`](Self::bootstrap), of these parts.
    ///
    /// # Errors
    /// As [`bootstrap`](Self::bootstrap).
    pub async fn bootstrap_with(parts: Parts) -> Result<Self, ClusterError> {
        let identity = parts.form().await?;
        Self::run(parts, identity).await
    }

    /// As [`start`](Self::start), of these parts.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with(parts: Parts) -> Result<Self, ClusterError> {
        let identity = parts.identify().await?;
        Self::run(parts, identity).await
    }

    /// As [`force_new_cluster`](Self::force_new_cluster), of these parts.
    ///
    /// # Errors
    /// As [`force_new_cluster`](Self::force_new_cluster).
    pub async fn force_new_cluster_with(
        parts: Parts,
        confirm: &str,
    ) -> Result<Vec<ShardId>, ClusterError> {
        parts.force(confirm).await
    }

    async fn run(parts: Parts, identity: Identity) -> Result<Self, ClusterError> {
        let Opened { identity, address, gate, groups } = parts.open(identity).await?;
        let Parts { config, env, connect, discovery, entities, .. } = parts;
        let records = Records::new(groups.clone(), env.clone())?;
        let known: Vec<_> = identity.peers.iter().map(|(_, address)| address.clone()).collect();
        let shared = Shared::new((config, env), identity, address, gate.clone(), groups);
        if !entities {
            shared.tenancy.nobody();
        }
        let ticking = Arc::new(AtomicBool::new(false));
        let arguments = (shared.clone(), records, ticking.clone());
        let spawned = Actor::spawn(None, Manager, arguments).await;
        let (manager, _) = spawned.map_err(|error| ClusterError::Links {
            reason: format!("the cluster's manager does not start: {error}"),
        })?;
        let desk = Desk { shared: Arc::downgrade(&shared), manager: manager.clone() };
        gate.listen(Channel::Cluster, Arc::new(desk));
        for address in known.iter().filter(|address| **address != shared.address) {
            gate.reach(address);
        }
        shared.spawn(tick(shared.clone(), manager.clone(), ticking.clone()));
        shared.spawn(nudge(shared.groups.clone(), manager.clone(), ticking));
        shared.spawn(find(shared.clone(), discovery));
        tracing::info!(me = %shared.me, address = shared.address, "the node is in its cluster");
        Ok(Self { shared, connect, manager })
    }

    /// This node.
    #[must_use]
    pub fn me(&self) -> Member {
        self.shared.me
    }

    /// The replicated journal.
    #[must_use]
    pub fn journal(&self) -> Arc<dyn Journal> {
        self.shared.groups.clone()
    }

    /// The journal with its groups.
    #[must_use]
    pub fn groups(&self) -> Arc<dyn Groups> {
        self.shared.groups.clone()
    }

    /// The links to members of this cluster; peers that do not belong to it are not seen.
    #[must_use]
    pub fn transport(&self) -> Arc<dyn Transport> {
        self.shared.gate.clone()
    }

    /// Says that no [`Node`](crate::Node) will run on this cluster: the application uses the journal
    /// itself. Until a node runs or this is called, groups that this node leads keep their members and
    /// their leader, because entities have a say in that.
    pub fn without_entities(&self) {
        self.shared.tenancy.nobody();
    }

    pub(crate) fn occupy(&self, tenant: Weak<dyn Tenant>) {
        self.shared.tenancy.take(tenant);
    }

    /// Hands the leadership of a shard that this node leads to another of its voters, and returns when
    /// that leads. What the shard runs here stops first; commands wait meanwhile, within their time.
    ///
    /// # Errors
    /// [`ClusterError::Refused`] with [`Refusal::NotNow`]: this node does not lead the shard;
    /// [`Refusal::NoVote`], [`Refusal::Unreachable`], [`Refusal::Drained`], [`Refusal::Lags`]: the other is
    /// not fit to lead it. Nothing was done then. [`Refusal::Unfinished`]: it did not take over in time; the
    /// shard is served by whoever leads it then.
    pub async fn hand_over(&self, shard: ShardId, to: NodeId) -> Result<(), ClusterError> {
        hand_over(&self.shared, shard, to).await.map_err(ClusterError::Refused)
    }

    /// Where others reach this node.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// The cluster's state as far as this node has it.
    #[must_use]
    pub fn state(&self) -> Arc<ClusterState> {
        self.shared.state()
    }

    /// How the cluster is, as this node sees it. Serialisable.
    #[must_use]
    pub fn status(&self) -> ClusterStatus {
        status(&self.shared)
    }

    /// Waits until this node is a member and all its groups have a leader.
    ///
    /// # Errors
    /// [`ClusterError::TimedOut`] with what is missing; [`ClusterError::Refused`] where the cluster
    /// does not want the node.
    pub async fn wait_ready(&self, timeout: Duration) -> Result<(), ClusterError> {
        let until = Instant::now() + timeout;
        loop {
            let Some(last) = not_ready(&self.shared) else { return Ok(()) };
            if let Some(refusal) = self.shared.refused() {
                return Err(refusal.into());
            }
            if Instant::now() >= until {
                let after_ms = timeout.as_millis() as u64;
                return Err(ClusterError::TimedOut { what: "getting ready", after_ms, last });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Leaves the cluster: leaderships and replicas move to other nodes, and then this one is removed.
    /// Shut it down afterwards; its data directory is of no use any more.
    ///
    /// # Errors
    /// [`Refusal`] says what stands against it; nothing was done then. After
    /// [`ClusterError::TimedOut`] the node goes on leaving: call it again to wait on.
    pub async fn leave(&self) -> Result<(), ClusterError> {
        let left = async {
            self.ask_leader("leaving", Request::Leave).await?;
            self.wait_gone("leaving", self.shared.me).await
        };
        match left.await {
            // So it hears that it is done, once it is out.
            Err(ClusterError::Refused(Refusal::Removed { .. })) => Ok(()),
            other => other,
        }
    }

    /// Takes a node out whose disk or machine is gone for good. `force` also takes one out that is
    /// up. Returns when no group counts on it any more. To bring a node back with an empty disk,
    /// just start it: it takes its old place.
    ///
    /// # Errors
    /// [`Refusal::StillUp`], [`Refusal::WouldBreakQuorum`], [`Refusal::UnknownNode`],
    /// [`Refusal::LastNode`]: nothing was done. After [`ClusterError::TimedOut`] the removal goes on:
    /// call it again to wait on.
    pub async fn remove(
        &self,
        node: NodeId,
        force: bool,
        reason: &str,
    ) -> Result<(), ClusterError> {
        let known = self.state();
        let member = known.newest(node).ok_or(Refusal::UnknownNode { node })?;
        let request = Request::Remove { node, force, reason: reason.to_owned() };
        match self.ask_leader("removing a node", request).await {
            // Gone since it was asked for.
            Err(ClusterError::Refused(Refusal::UnknownNode { .. }))
                if known.phase_of(member) == Some(Phase::Removing) =>
            {
                return Ok(());
            }
            other => other?,
        };
        self.wait_gone("removing a node", member).await
    }

    /// Stops the node in good order. Entities must be stopped before.
    pub async fn shutdown(&self) {
        // An actor that has ended has nothing left to stop.
        let _ = self.manager.stop_and_wait(None, None).await;
        self.shared.abort_tasks();
        self.shared.groups.shutdown().await;
        self.connect.disconnect().await;
    }

    async fn wait_gone(&self, what: &'static str, member: Member) -> Result<(), ClusterError> {
        loop {
            let reply = self.ask_leader(what, Request::Standing { member }).await?;
            if reply == (Reply::Standing { present: false }) {
                return Ok(());
            }
            if self.shared.state().phase_of(member) == Some(Phase::Removed) {
                return Ok(());
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Asks the leader of shard 0, whoever that is, until it answers or time is up.
    pub(super) async fn ask_leader(
        &self,
        what: &'static str,
        request: Request,
    ) -> Result<Reply, ClusterError> {
        let after_ms = self.shared.config.timing.operation_timeout_ms;
        let until = Instant::now() + Duration::from_millis(after_ms);
        let mut tries = 0;
        loop {
            // Who leads as far as is known here, and in turn everybody else: this node may have missed
            // that shard 0 has moved on without it.
            let peers = self.shared.gate.peers();
            let other = peers.get(tries / 2 % peers.len().max(1)).copied();
            let known = self.shared.groups.group(ShardId(0)).leader;
            let leader = if tries % 2 == 0 { known.or(other) } else { other.or(known) };
            tries += 1;
            let answer = match leader {
                Some(leader) if leader == self.shared.me => self.ask_self(request.clone()).await?,
                Some(leader) => {
                    let wait = Duration::from_secs(10);
                    self.shared.calls.ask(leader, request.clone(), wait).await
                }
                None => Err(Refusal::NotNow { reason: "shard 0 has no leader".into() }),
            };
            let last = match answer {
                Ok(reply) => return Ok(reply),
                // These pass; a repeat of what took effect already does no harm.
                Err(
                    again @ (Refusal::NotLeader { .. }
                    | Refusal::NotNow { .. }
                    | Refusal::Unfinished { .. }),
                ) => again.to_string(),
                Err(refusal) => return Err(refusal.into()),
            };
            if let Some(refusal) = self.shared.out() {
                return Err(refusal.clone().into());
            }
            if Instant::now() >= until {
                return Err(ClusterError::TimedOut { what, after_ms, last });
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn ask_self(&self, request: Request) -> Result<Result<Reply, Refusal>, ClusterError> {
        let (reply, answer) = oneshot::channel();
        let asked = self.manager.cast(ManagerMessage::Local { request, reply });
        asked.map_err(|_| ClusterError::Closed)?;
        match answer.await.map_err(|_| ClusterError::Closed)? {
            Reply::Refused { refusal } => Ok(Err(refusal)),
            reply => Ok(Ok(reply)),
        }
    }
}

/// Has the manager look at the cluster, again and again; never twice for one look.
async fn tick(shared: Arc<Shared>, manager: ActorRef<ManagerMessage>, ticking: Arc<AtomicBool>) {
    loop {
        if !ticking.swap(true, Ordering::Relaxed) && manager.cast(ManagerMessage::Tick).is_err() {
            let what = "it has ended: the node takes no part in changes of the cluster any more";
            shared.problem("the cluster's manager", Some(what.to_owned()));
            return;
        }
        tokio::time::sleep(TICK).await;
    }
}

/// Has the manager look at once when a group changes.
async fn nudge(
    groups: Arc<dyn Groups>,
    manager: ActorRef<ManagerMessage>,
    ticking: Arc<AtomicBool>,
) {
    let mut changes = groups.group_changes();
    while changes.next().await.is_some() {
        if !ticking.swap(true, Ordering::Relaxed) && manager.cast(ManagerMessage::Tick).is_err() {
            return;
        }
    }
}

/// Looks for other nodes by the configured ways, for as long as the node runs: addresses behind a
/// name change.
async fn find(shared: Arc<Shared>, ways: Vec<Arc<dyn Discovery>>) {
    let discovery = &shared.config.discovery;
    let (mut pause, longest) = (discovery.retry_min_ms, discovery.retry_max_ms);
    loop {
        let (found, errors) = find_all(&ways).await;
        let problem = errors.first().map(ToString::to_string);
        shared.problem("discovery", problem);
        let own = [shared.address.as_str(), shared.config.net.listen.as_str()];
        for address in found.iter().filter(|address| !own.contains(&address.as_str())) {
            shared.gate.reach(address);
        }
        let jitter = shared.env.entropy.next_u64() % (pause / 2 + 1);
        tokio::time::sleep(Duration::from_millis(pause + jitter)).await;
        pause = (pause * 2).min(longest);
    }
}
