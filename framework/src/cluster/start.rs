//! Starting a node: whose its data directory is, what to do where it is nobody's, and how it comes
//! back where it is damaged.

use std::{collections::BTreeSet, sync::Arc};

use duractor_journal::{Env, JournalError, Member, Replication, Transport};

use super::{
    audit,
    connect::{Connect, OpenGroups, OpenLog},
    damage,
    discovery::{self, Discovery},
    error::ClusterError,
    gate::Gate,
    groups::Groups,
    identity::{Identity, Stage, first_file},
    join::Asker,
    links,
    wire::ASKING,
};
use crate::config::Config;

/// What a node starts from.
#[derive(Clone)]
pub struct Parts {
    /// Its configuration.
    pub config: Config,
    /// The seams.
    pub env: Env,
    /// Its links.
    pub connect: Arc<dyn Connect>,
    /// Its journal.
    pub open: Arc<dyn OpenGroups>,
    /// How it finds other nodes.
    pub discovery: Vec<Arc<dyn Discovery>>,
    /// Whether a [`Node`](crate::Node) will run on it; see [`Cluster::without_entities`].
    ///
    /// [`Cluster::without_entities`]: super::Cluster::without_entities
    pub entities: bool,
}

/// What a node runs on.
pub(super) struct Opened {
    pub(super) identity: Identity,
    pub(super) address: String,
    pub(super) gate: Arc<Gate>,
    pub(super) groups: Arc<dyn Groups>,
}

impl Parts {
    /// A node as configured: links over TCP, the journal in files.
    ///
    /// # Errors
    /// [`ClusterError::Config`]; [`ClusterError::Links`] where there are other nodes to talk to and
    /// no certificates.
    pub fn configured(config: Config, env: Env) -> Result<Self, ClusterError> {
        config.check()?;
        let connect = links::configured(&config, &env)?;
        Ok(Self::new(config, env, connect))
    }

    /// A node whose journal is in files, over these links, finding others as configured.
    #[must_use]
    pub fn new(config: Config, env: Env, connect: Arc<dyn Connect>) -> Self {
        let discovery = discovery::configured(&config);
        Self { config, env, connect, open: Arc::new(OpenLog), discovery, entities: true }
    }

    /// Forms a new cluster: gives this node's directory its identity.
    pub(super) async fn form(&self) -> Result<Identity, ClusterError> {
        self.config.check()?;
        let dir = &self.config.node.data_dir;
        self.blocking(damage::finish).await?;
        if let Some(identity) = self.read_identity().await? {
            return Err(ClusterError::AlreadyFormed {
                dir: dir.clone(),
                cluster: identity.cluster,
            });
        }
        self.expect_empty().await?;
        let (mut asker, _) = self.asker(BTreeSet::new()).await?;
        let nobody = asker.expect_no_cluster().await;
        drop(asker);
        self.connect.disconnect().await;
        nobody?;
        let cluster_id = self.env.entropy.next_u64();
        let identity = Identity::new(&self.config, cluster_id, 1, Stage::Forming);
        self.write_identity(&identity).await?;
        tracing::info!(cluster = identity.cluster, cluster_id, "a new cluster is formed");
        Ok(identity)
    }

    /// Whose this node's directory is; where it is empty, after joining the cluster.
    pub(super) async fn identify(&self) -> Result<Identity, ClusterError> {
        self.config.check()?;
        self.blocking(damage::finish).await?;
        if let Some(identity) = self.read_identity().await? {
            identity.check(&self.config)?;
            return Ok(identity);
        }
        self.expect_empty().await?;
        let (found, errors) = discovery::find_all(&self.discovery).await;
        let addresses = [self.config.advertised(), self.config.net.listen.as_str()];
        if errors.is_empty() && found.iter().all(|one| addresses.contains(&one.as_str())) {
            return Err(ClusterError::NotFormed { dir: self.config.node.data_dir.clone() });
        }
        let identity = self.join(BTreeSet::new()).await?;
        self.write_identity(&identity).await?;
        Ok(identity)
    }

    /// Asks the cluster to let this node in, with an empty disk.
    async fn join(&self, extra: BTreeSet<String>) -> Result<Identity, ClusterError> {
        let (mut asker, address) = self.asker(extra).await?;
        let joined = asker.join().await;
        drop(asker);
        self.connect.disconnect().await;
        let identity = joined?;
        tracing::info!(member = %identity.member(), address, "the cluster lets this node in");
        Ok(identity)
    }

    async fn asker(&self, extra: BTreeSet<String>) -> Result<(Asker, String), ClusterError> {
        let me = Member { node: self.config.node_id(), incarnation: ASKING };
        let transport = self.connect.connect(me).await?;
        let address = self.address();
        let seams = (&self.config, &self.env);
        let asker = Asker::new(seams, address.clone(), transport, self.discovery.clone(), extra);
        Ok((asker, address))
    }

    fn address(&self) -> String {
        let bound = self.connect.address();
        let chosen = self.config.net.advertise.is_empty().then_some(bound).flatten();
        chosen.unwrap_or_else(|| self.config.advertised().to_owned())
    }

    /// Opens the journal. Where it is damaged and other nodes have what it had, the directory is set
    /// aside and the node joins anew: only after the cluster has agreed, so that nothing is put away
    /// while there is no quorum.
    pub(super) async fn open(&self, identity: Identity) -> Result<Opened, ClusterError> {
        let damage = match self.try_open(identity.clone()).await {
            Err(ClusterError::Journal(JournalError::Corrupt(damage))) => damage,
            other => return other,
        };
        if identity.peers.is_empty() {
            tracing::error!(%damage, "the log is damaged, and no other node has a replica");
            return Err(JournalError::Corrupt(damage).into());
        }
        tracing::error!(%damage, "the log is damaged: this node asks to come back with an empty disk");
        let peers = identity.peers.iter().map(|(_, address)| address.clone());
        let next = self.join(peers.collect()).await?;
        let aside = self.blocking(damage::set_aside).await?;
        let what = format!(
            "{} is set aside as {}: {damage}; the node goes on as {}",
            self.config.node.data_dir.display(),
            aside.display(),
            next.member()
        );
        tracing::error!("{what}");
        self.audit(&what).await?;
        self.write_identity(&next).await?;
        self.try_open(next).await
    }

    async fn try_open(&self, identity: Identity) -> Result<Opened, ClusterError> {
        let transport = self.connect.connect(identity.member()).await?;
        let gate = Gate::new(transport);
        let mut log = self.config.log_config();
        log.shards = identity.shards;
        let mut replication = Replication::new(gate.clone() as Arc<dyn Transport>);
        replication.timing = self.config.timing();
        match self.open.open(log, self.env.clone(), replication).await {
            Ok(groups) => Ok(Opened { identity, address: self.address(), gate, groups }),
            Err(error) => {
                drop(gate);
                self.connect.disconnect().await;
                Err(error.into())
            }
        }
    }

    /// Makes this node the only one of a new cluster. Returns the shards that it has no replica of:
    /// they will be empty.
    pub(super) async fn force(
        &self,
        confirm: &str,
    ) -> Result<Vec<duractor_journal::ShardId>, ClusterError> {
        self.config.check()?;
        self.blocking(damage::finish).await?;
        let dir = self.config.node.data_dir.clone();
        let found = self.read_identity().await?;
        let mut identity = found.ok_or(ClusterError::NotFormed { dir })?;
        let stage = std::mem::replace(&mut identity.stage, Stage::Member);
        identity.check(&self.config)?;
        let me = identity.member();
        let expected = format!("{}/{}", identity.cluster, me.node);
        if confirm != expected {
            return Err(ClusterError::NotConfirmed { expected });
        }
        let old = identity.cluster_id;
        if stage != Stage::Forcing {
            identity.cluster_id = self.env.entropy.next_u64();
        }
        identity.stage = Stage::Forcing;
        identity.peers.clear();
        tracing::warn!(%me, "a new cluster is formed out of this node alone: what only other nodes had is lost, and they must never come back");
        self.audit(&format!(
            "{me} is made the only node of a new cluster: id {old:016x} becomes {:016x}",
            identity.cluster_id
        ))
        .await?;
        self.write_identity(&identity).await?;
        let mut log = self.config.log_config();
        log.shards = identity.shards;
        let kept = self.open.force_single_voter(log, self.env.clone(), me).await?;
        identity.stage = Stage::Forced;
        self.write_identity(&identity).await?;
        let shards = (0..identity.shards).map(duractor_journal::ShardId);
        let lost: Vec<_> = shards.filter(|shard| !kept.contains(shard)).collect();
        self.audit(&format!("{} shards kept, no replica here of {lost:?}", kept.len())).await?;
        if !lost.is_empty() {
            tracing::warn!(?lost, "this node has no replica of these shards: they begin empty");
        }
        Ok(lost)
    }

    async fn expect_empty(&self) -> Result<(), ClusterError> {
        match self.blocking(first_file).await? {
            None => Ok(()),
            Some(file) => {
                Err(ClusterError::NotEmpty { dir: self.config.node.data_dir.clone(), file })
            }
        }
    }

    async fn read_identity(&self) -> Result<Option<Identity>, ClusterError> {
        self.blocking(Identity::read).await
    }

    async fn write_identity(&self, identity: &Identity) -> Result<(), ClusterError> {
        let identity = identity.clone();
        self.blocking(move |disk, dir| identity.write(disk, dir)).await
    }

    async fn audit(&self, line: &str) -> Result<(), ClusterError> {
        let (env, line) = (self.env.clone(), line.to_owned());
        self.blocking(move |_, dir| audit::write(&env, dir, &line)).await
    }

    /// Work on the data directory, by the offload seam.
    async fn blocking<T: Send + 'static>(
        &self,
        job: impl FnOnce(&dyn duractor_journal::disk::Disk, &std::path::Path) -> Result<T, ClusterError>
        + Send
        + 'static,
    ) -> Result<T, ClusterError> {
        let (disk, dir) = (self.env.disk.clone(), self.config.node.data_dir.clone());
        let done = self.env.offload(move || job(&*disk, &dir)).await;
        done.unwrap_or(Err(ClusterError::Closed))
    }
}
