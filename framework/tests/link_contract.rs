//! Links pass the suite of the transport port: over mutual TLS and without, with Data on a lane of its
//! own and in the session.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod link_kit;

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use duractor::link::{DataLane, LinkConfig, LinkError, Links};
use duractor_journal::{Transport, transport::contract::Provider};
use link_kit::{Proxy, Site};

/// Nodes on loopback, each behind a proxy that can stop reading.
struct Nodes {
    site: Site,
    lane: DataLane,
    running: Mutex<BTreeMap<u32, (Arc<Links>, Proxy)>>,
    stopped: Mutex<BTreeMap<u32, (SocketAddr, Proxy)>>,
}

impl Nodes {
    fn new(site: Site, lane: DataLane) -> Self {
        Self { site, lane, running: Mutex::default(), stopped: Mutex::default() }
    }
}

/// A restarted node listens where it did: another process's connection may go out from that port just then.
async fn listening(config: LinkConfig) -> Arc<Links> {
    loop {
        match Links::start(config.clone()).await {
            Ok(links) => return links,
            Err(LinkError::Listen { error, .. }) if error.kind() == ErrorKind::AddrInUse => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

impl Provider for Nodes {
    async fn start(&self, node: u32) -> Arc<dyn Transport> {
        let mut config = self.site.config(node);
        config.data_lane = self.lane;
        // Whoever is held is silent, and must not count as gone.
        config.silence_ms = 60_000;
        let before = self.stopped.lock().unwrap().remove(&node);
        if let Some((address, _)) = &before {
            config.listen = *address;
        }
        let links = listening(config).await;
        let proxy = match before {
            Some((_, proxy)) => proxy,
            None => Proxy::start(links.address()).await,
        };
        self.running.lock().unwrap().insert(node, (links.clone(), proxy));
        links
    }

    async fn stop(&self, node: u32) {
        let (links, proxy) = self.running.lock().unwrap().remove(&node).unwrap();
        links.shutdown().await;
        self.stopped.lock().unwrap().insert(node, (links.address(), proxy));
    }

    fn address(&self, node: u32) -> String {
        let running = self.running.lock().unwrap();
        let stopped = self.stopped.lock().unwrap();
        let proxy = running.get(&node).map(|(_, proxy)| proxy);
        proxy.or_else(|| stopped.get(&node).map(|(_, proxy)| proxy)).unwrap().address.to_string()
    }

    fn hold(&self, node: u32, held: bool) {
        self.running.lock().unwrap()[&node].1.hold(held);
    }
}

mod tls {
    use super::*;

    duractor_journal::transport_contract!(
        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        Nodes::new(Site::tls(), DataLane::Own)
    );
}

mod tls_session {
    use super::*;

    duractor_journal::transport_contract!(
        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        Nodes::new(Site::tls(), DataLane::Session)
    );
}

mod insecure {
    use super::*;

    duractor_journal::transport_contract!(
        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        Nodes::new(Site::insecure(), DataLane::Own)
    );
}
