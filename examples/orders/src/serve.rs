//! The service: a node, a listener, and an end to both.

use std::{
    error::Error,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, Uri, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
    serve::ListenerExt,
};
use clap::Args;
use duractor::{
    Env, Node, NodeBuilder, SessionOptions, ShardId,
    cluster::Cluster,
    config::{Config, Loader},
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::sleep,
};

use crate::{
    account::Accounts,
    checkout::Checkouts,
    depot::Depots,
    domain::Orders,
    error::ApiError,
    http::router,
    invoices::{Book, LEASE},
    leader::{HttpForward, who_leads},
    outbox::{Outbox, mail},
    shop, web,
};

/// How long requests that are under way may take once the service is told to stop.
const GRACE: Duration = Duration::from_secs(10);
/// A node of a cluster that is told to stop first refuses requests for so long, with 503 and
/// [`AWAY_SECONDS`] to stay away for. So those who send stop doing so before the port is closed: a request
/// that arrives just then is neither answered nor refused, and nobody can tell that from a crash.
const FAREWELL: Duration = Duration::from_secs(1);
const AWAY_SECONDS: &str = "2";
/// How long a node waits for its cluster before it listens all the same.
const READY: Duration = Duration::from_secs(60);

/// What there is beside the orders themselves.
#[derive(Args, Debug, Clone, Default)]
pub struct Outside {
    /// Send a notice of each order that was bought, or could not be, to this HTTP server. One node of
    /// the cluster does.
    #[arg(long, value_name = "URL")]
    notify: Option<Uri>,
    /// Write invoices into this file, which all nodes share.
    #[arg(long, value_name = "FILE")]
    invoices: Option<PathBuf>,
    /// Bring calls to the cluster's leader over HTTP: where node N listens, itself included. Give it
    /// once for each node.
    #[arg(long = "peer", value_name = "N=ADDR", value_parser = peer)]
    peers: Vec<(u32, SocketAddr)>,
}

fn peer(text: &str) -> Result<(u32, SocketAddr), String> {
    let (number, address) = text.split_once('=').ok_or("it must look like 2=127.0.0.1:8082")?;
    let number = number.parse().map_err(|error| format!("{number:?} is no node: {error}"))?;
    let address = address.parse().map_err(|error| format!("{address:?}: {error}"))?;
    Ok((number, address))
}

impl Outside {
    /// Adds all of it to node number `number`.
    fn add(&self, builder: NodeBuilder, number: u32) -> NodeBuilder {
        let session = SessionOptions::default().ttl(LEASE).label(format!("node {number}"));
        let mut builder = kinds(builder).leader_handler(who_leads(number)).session(session);
        if let Some(receiver) = self.notify.clone() {
            let pool = web::pool();
            builder = builder
                .singleton("mailer", move |mailer| mail(mailer, receiver.clone(), pool.clone()));
        }
        if !self.peers.is_empty() {
            let nodes = self.peers.iter().copied().collect();
            builder = builder.leader_forward(Arc::new(HttpForward { nodes, pool: web::pool() }));
        }
        builder
    }

    fn routes(&self, node: &Node) -> Router {
        let book = self.invoices.clone().map(Book::new);
        router(node.clone()).merge(shop::routes(node.clone(), book))
    }
}

/// All entities of the service. Every node has them all: any may come to run any of them.
pub fn kinds(builder: NodeBuilder) -> NodeBuilder {
    let builder = builder.register(Orders).register(Checkouts).register(Accounts);
    builder.register(Depots).register(Outbox)
}

/// Serves orders from the folder `data` until SIGTERM or SIGINT. `ready` hears the address, which
/// has the real port where `listen` has port 0.
///
/// # Errors
/// The folder cannot be opened, or the address cannot be listened on.
pub async fn serve(
    data: &Path,
    listen: SocketAddr,
    outside: &Outside,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), Box<dyn Error>> {
    let node = outside.add(Node::builder(data), 1).start().await?;
    run(listen, outside.routes(&node), Duration::ZERO, ready).await?;
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
    outside: &Outside,
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
    let builder = Node::builder(data).cluster(&cluster);
    let node = outside.add(builder, cluster.me().node.0).start().await?;
    let status = Router::new().route("/cluster", get(status)).with_state(cluster.clone());
    run(listen, outside.routes(&node).merge(status), FAREWELL, ready).await?;
    node.shutdown().await;
    cluster.shutdown().await;
    Ok(())
}

/// `GET /cluster`: the members and the journal groups as this node sees them.
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
    let (node, members) = (cluster.me().node, cluster.status().members);
    Json(json!({ "node": node, "members": members, "groups": rows.collect::<Vec<_>>() }))
}

async fn run(
    listen: SocketAddr,
    routes: Router,
    farewell: Duration,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(listen).await;
    let listener = listener.map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    ready(listener.local_addr()?);
    // Answers are small: do not wait to fill a packet.
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    let stopping = Arc::new(AtomicBool::new(false));
    let routes = routes.layer(from_fn_with_state(stopping.clone(), refuse_when_stopping));
    let told = async move {
        stop().await;
        if !farewell.is_zero() {
            stopping.store(true, Relaxed);
            sleep(farewell).await;
        }
    };
    let served = axum::serve(listener, routes).with_graceful_shutdown(told);
    let overdue = async {
        stop().await;
        sleep(farewell + GRACE).await;
    };
    tokio::select! {
        biased;
        served = served => served?,
        () = overdue => tracing::warn!("some requests are not finished: stopping without them"),
    }
    Ok(())
}

/// Once the node is to stop, sends everybody to the others. Nothing has happened then. What was begun is
/// finished, and the connection is closed after it.
async fn refuse_when_stopping(
    State(stopping): State<Arc<AtomicBool>>,
    request: Request,
    next: Next,
) -> Response {
    let stops = || stopping.load(Relaxed);
    let mut response = match stops() {
        false => next.run(request).await,
        true => {
            let text = "this node is about to stop: ask another one";
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", text).into_response()
        }
    };
    if stops() {
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static(AWAY_SECONDS));
    }
    response
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
