//! In the node process: a whole node, as an application runs it, told what to do.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use duractor::{
    Env, NodeBuilder,
    cluster::Cluster,
    config::{Config, Loader},
};
use duractor_journal::ShardId;
use futures_util::future::BoxFuture;
use serde_json::Value;

use super::{
    Failure,
    node::{Serve, begin, serve},
    wire::{Group, Hello, NodeConfig, Request},
};

/// What runs on whole nodes.
pub trait Application: Send + Sync + 'static {
    /// Adds its kinds of entities, singletons and so on.
    fn register(&self, builder: NodeBuilder) -> NodeBuilder;

    /// Answers a request that came as [`Request::Own`].
    fn handle(
        self: Arc<Self>,
        node: Arc<WholeNode>,
        request: Value,
    ) -> BoxFuture<'static, Result<Value, Failure>>;
}

/// A node, up.
pub struct WholeNode {
    /// Its entities.
    pub node: duractor::Node,
    /// Its part in the cluster.
    pub cluster: Cluster,
}

/// The process of a whole node, from its start to its end: until the parent says so or is gone.
///
/// # Errors
/// The node does not start, or the parent cannot be reached.
pub async fn run(config: &str, application: Arc<dyn Application>) -> Result<(), Failure> {
    let (config, control) = begin(config).await?;
    let node = Arc::new(start(config, application.as_ref()).await?);
    let hello = Hello { me: node.cluster.me(), address: node.cluster.address().to_owned() };
    let stopped = AtomicBool::new(false);
    serve(control, &hello, Arc::new(Whole { node, application, stopped })).await
}

async fn start(config: NodeConfig, application: &dyn Application) -> Result<WholeNode, Failure> {
    let bootstrap = config.whole.as_ref().is_some_and(|whole| whole.bootstrap);
    let data = config.dir.clone();
    let config = configuration(&config)?;
    let cluster = match bootstrap {
        true => Cluster::bootstrap(config, Env::production()).await?,
        false => Cluster::start(config, Env::production()).await?,
    };
    let builder = duractor::Node::builder(data).cluster(&cluster);
    let node = application.register(builder).start().await?;
    Ok(WholeNode { node, cluster })
}

fn configuration(config: &NodeConfig) -> Result<Config, Failure> {
    let text = |path: &std::path::Path| path.display().to_string();
    let mut loader = Loader::new()
        .set("node.number", config.me.node.0.to_string())
        .set("node.data_dir", text(&config.dir))
        .set("cluster.name", config.cluster.clone())
        .set("cluster.shards", config.shards.to_string())
        .set("net.listen", config.listen.clone())
        .set("discovery.seeds", config.reach.join(","));
    loader = match &config.tls {
        Some(tls) => loader
            .set("tls.ca", text(&tls.ca))
            .set("tls.cert", text(&tls.certificate))
            .set("tls.key", text(&tls.key)),
        None => loader.set("net.insecure", "true"),
    };
    if let Some([heartbeat, min, max]) = config.timing {
        loader = loader
            .set("timing.heartbeat_ms", heartbeat.to_string())
            .set("timing.election_min_ms", min.to_string())
            .set("timing.election_max_ms", max.to_string());
    }
    for (key, value) in config.whole.iter().flat_map(|whole| &whole.settings) {
        loader = loader.set(key, value.clone());
    }
    Ok(loader.load()?)
}

struct Whole {
    node: Arc<WholeNode>,
    application: Arc<dyn Application>,
    stopped: AtomicBool,
}

impl Serve for Whole {
    fn perform(self: Arc<Self>, request: Request) -> BoxFuture<'static, Result<Value, Failure>> {
        Box::pin(async move {
            let WholeNode { node, cluster } = self.node.as_ref();
            match request {
                Request::Status => {
                    let groups = cluster.groups();
                    let group = |shard| Group::from(groups.group(ShardId(shard)));
                    let groups: Vec<Group> = (0..groups.shards()).map(group).collect();
                    return Ok(serde_json::to_value(groups)?);
                }
                Request::Transfer { shard, to } => {
                    cluster.hand_over(ShardId(shard), to.node).await?;
                }
                Request::Stop if !self.stopped.swap(true, Relaxed) => {
                    node.shutdown().await;
                    cluster.shutdown().await;
                }
                Request::Stop => {}
                Request::Own(own) => {
                    return self.application.clone().handle(self.node.clone(), own).await;
                }
                Request::Initialize { .. } | Request::ChangeMembers { .. } => {
                    return Err("the cluster sees to its groups' members itself".into());
                }
            }
            Ok(Value::Null)
        })
    }
}
