//! The service: a node, a listener, and an end to both.

use std::{error::Error, net::SocketAddr, path::Path, time::Duration};

use axum::{Json, Router, extract::State, routing::get, serve::ListenerExt};
use duractor::{
    Env, Node, ShardId,
    cluster::Cluster,
    config::{Config, Loader},
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use crate::{domain::Orders, http::router};

/// How long requests that are under way may take once the service is told to stop.
const GRACE: Duration = Duration::from_secs(10);
/// How long a node waits for its cluster before it listens all the same.
const READY: Duration = Duration::from_secs(60);

/// Serves orders from the folder `data` until SIGTERM or SIGINT. `ready` hears the address, which
/// has the real port where `listen` has port 0.
///
/// # Errors
/// The folder cannot be opened, or the address cannot be listened on.
pub async fn serve(
    data: &Path,
    listen: SocketAddr,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), Box<dyn Error>> {
    let node = Node::builder(data).register(Orders).start().await?;
    run(listen, router(node.clone()), ready).await?;
    // Finishes what was accepted and saves the snapshots that are due.
    node.shutdown().await;
    Ok(())
}

/// As [`serve`], as one node of a cluster: with the configuration in a TOML file (see
/// [`duractor::config`]), and with `bootstrap` as the first node of a new one. Each node takes all
/// requests: commands find the node that runs the order.
///
/// # Errors
/// The configuration is wrong, the cluster does not take this node, or the address cannot be
/// listened on.
pub async fn serve_member(
    config: &Path,
    bootstrap: bool,
    listen: SocketAddr,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), Box<dyn Error>> {
    let config: Config = Loader::new().file(config).environment().load()?;
    let data = config.node.data_dir.clone();
    let cluster = match bootstrap {
        true => Cluster::bootstrap(config, Env::production()).await?,
        false => Cluster::start(config, Env::production()).await?,
    };
    if let Err(error) = cluster.wait_ready(READY).await {
        // Its time may come: requests are answered with what stands against it.
        tracing::warn!(%error, "the cluster is not ready");
    }
    let node = Node::builder(data).cluster(&cluster).register(Orders).start().await?;
    let status = Router::new().route("/cluster", get(status)).with_state(cluster.clone());
    run(listen, router(node.clone()).merge(status), ready).await?;
    node.shutdown().await;
    cluster.shutdown().await;
    Ok(())
}

/// `GET /cluster`: the journal groups as this node sees them.
async fn status(State(cluster): State<Cluster>) -> Json<Value> {
    let groups = cluster.groups();
    let rows = (0..groups.shards()).map(|shard| {
        let group = groups.group(ShardId(shard));
        json!({
            "shard": shard,
            "leader": group.leader.map(|leader| leader.node),
            "voters": group.voters.iter().map(|voter| voter.node).collect::<Vec<_>>(),
            "term": group.term.0,
            "applied": group.applied_index,
        })
    });
    Json(json!({ "node": cluster.me().node, "groups": rows.collect::<Vec<_>>() }))
}

async fn run(
    listen: SocketAddr,
    routes: Router,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(listen).await;
    let listener = listener.map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    ready(listener.local_addr()?);
    // Answers are small: do not wait to fill a packet.
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    let served = axum::serve(listener, routes).with_graceful_shutdown(stop());
    let overdue = async {
        stop().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        biased;
        served = served => served?,
        () = overdue => tracing::warn!("some requests are not finished: stopping without them"),
    }
    Ok(())
}

/// Waits for SIGTERM or SIGINT.
pub(crate) async fn stop() {
    let (Ok(mut term), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::warn!("signals cannot be heard: only SIGKILL stops this process");
        return std::future::pending().await;
    };
    tokio::select! {
        biased;
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
}
