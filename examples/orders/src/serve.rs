//! The service: a node, a listener, and an end to both.

use std::{error::Error, net::SocketAddr, path::Path, time::Duration};

use axum::serve::ListenerExt;
use duractor::Node;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use crate::{domain::Orders, http::router};

/// How long requests that are under way may take once the service is told to stop.
const GRACE: Duration = Duration::from_secs(10);

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
    let listener = TcpListener::bind(listen).await;
    let listener = listener.map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    ready(listener.local_addr()?);
    // Answers are small: do not wait to fill a packet.
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    let served = axum::serve(listener, router(node.clone())).with_graceful_shutdown(stop());
    let overdue = async {
        stop().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        biased;
        served = served => served?,
        () = overdue => tracing::warn!("some requests are not finished: stopping without them"),
    }
    // Finishes what was accepted and saves the snapshots that are due.
    node.shutdown().await;
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
