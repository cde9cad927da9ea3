//! Links over TCP as a cluster's way to other nodes.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use duractor_journal::{Env, Member, Transport};
use futures_util::future::BoxFuture;

use super::{
    connect::{Alone, Connect},
    error::ClusterError,
};
use crate::{
    config::Config,
    link::{LinkConfig, Links, Security, TlsFiles},
};

/// The links that a configuration asks for.
pub(super) struct OverLinks {
    config: Config,
    env: Env,
    now: Mutex<Option<Arc<Links>>>,
}

/// Links as configured: mutual TLS, or none at all where there are neither certificates nor other
/// nodes.
pub(super) fn configured(config: &Config, env: &Env) -> Result<Arc<dyn Connect>, ClusterError> {
    let no_files = config.tls.key.as_os_str().is_empty();
    match (no_files && !config.net.insecure, is_alone(config)) {
        (true, true) => Ok(Arc::new(Alone)),
        (true, false) => Err(ClusterError::Links {
            reason: "set tls.ca, tls.cert and tls.key; or, for nodes on one machine alone, \
                     net.insecure"
                .into(),
        }),
        (false, _) => {
            let (config, env) = (config.clone(), env.clone());
            Ok(Arc::new(OverLinks { config, env, now: Mutex::default() }))
        }
    }
}

/// Whether no other node is named.
pub(super) fn is_alone(config: &Config) -> bool {
    let discovery = &config.discovery;
    discovery.seeds.is_empty()
        && discovery.dns.is_empty()
        && std::env::var_os(&discovery.env).is_none()
}

impl OverLinks {
    fn now(&self) -> Option<Arc<Links>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn start(&self, me: Member) -> Result<Arc<dyn Transport>, ClusterError> {
        let refused = |reason: String| ClusterError::Links { reason };
        let listen = resolve(&self.config.net.listen).await.map_err(refused)?;
        let security = if self.config.net.insecure {
            Security::Insecure
        } else {
            Security::Tls(TlsFiles {
                ca: self.config.tls.ca.clone(),
                certificate: self.config.tls.cert.clone(),
                key: self.config.tls.key.clone(),
            })
        };
        let mut links = LinkConfig::new(me, self.config.cluster.name.clone(), listen, security);
        links.env = self.env.clone();
        links.silence_ms = self.config.timing.peer_timeout_ms;
        links.max_clients = self.config.net.max_clients;
        links.heartbeat_ms = (links.silence_ms / 5).clamp(1, 24_000);
        let links = Links::start(links).await.map_err(|error| refused(error.to_string()))?;
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = Some(links.clone());
        Ok(links)
    }
}

/// The address to listen on, which may be given by name.
async fn resolve(listen: &str) -> Result<SocketAddr, String> {
    let found = tokio::net::lookup_host(listen).await;
    let first = found.map_err(|error| format!("net.listen = {listen}: {error}"))?.next();
    first.ok_or_else(|| format!("net.listen = {listen}: the name has no address"))
}

impl Connect for OverLinks {
    fn connect(&self, me: Member) -> BoxFuture<'_, Result<Arc<dyn Transport>, ClusterError>> {
        Box::pin(async move {
            self.disconnect().await;
            self.start(me).await
        })
    }

    fn disconnect(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let links = self.now.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(links) = links {
                links.shutdown().await;
            }
        })
    }

    fn address(&self) -> Option<String> {
        self.now().map(|links| links.address().to_string())
    }
}
