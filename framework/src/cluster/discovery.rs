//! Finding other nodes: a list, a variable, a DNS name.

use std::{collections::BTreeSet, sync::Arc};

use futures_util::future::BoxFuture;

use crate::config::{Config, keys::is_address};

/// Why no nodes were found. Tried again later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{source_name}: {reason}")]
pub struct DiscoveryError {
    /// Where they were looked for.
    pub source_name: String,
    /// What went wrong.
    pub reason: String,
}

/// A way to find addresses of other nodes. Asked again and again, so it may change its mind.
pub trait Discovery: Send + Sync + 'static {
    /// Addresses as `HOST:PORT`, this node's own possibly among them.
    fn find(&self) -> BoxFuture<'static, Result<Vec<String>, DiscoveryError>>;
}

/// Always the same addresses.
pub struct Fixed(pub Vec<String>);

impl Discovery for Fixed {
    fn find(&self) -> BoxFuture<'static, Result<Vec<String>, DiscoveryError>> {
        let seeds = self.0.clone();
        Box::pin(async move { Ok(seeds) })
    }
}

/// Addresses in an environment variable, separated by commas. None where it is not set.
pub struct Variable(pub String);

impl Discovery for Variable {
    fn find(&self) -> BoxFuture<'static, Result<Vec<String>, DiscoveryError>> {
        let text = std::env::var(&self.0).unwrap_or_default();
        let found = parse_list(&text).map_err(|reason| DiscoveryError {
            source_name: format!("the variable {}", self.0),
            reason,
        });
        Box::pin(async move { found })
    }
}

fn parse_list(text: &str) -> Result<Vec<String>, String> {
    let each = text.split(',').map(str::trim).filter(|one| !one.is_empty());
    each.map(|one| match is_address(one) {
        true => Ok(one.to_owned()),
        false => Err(format!("{one:?} is not HOST:PORT")),
    })
    .collect()
}

/// Looks names up. The seam between [`Dns`] and a resolver.
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of a host, A and AAAA, as texts.
    fn addresses(&self, host: String) -> BoxFuture<'static, Result<Vec<String>, String>>;

    /// The targets of an SRV record: host and port, best first.
    fn services(&self, name: String) -> BoxFuture<'static, Result<Vec<(String, u16)>, String>>;
}

/// A DNS name: `HOST:PORT`, all of whose addresses are nodes, or the name of an SRV record.
pub struct Dns {
    name: String,
    resolver: Arc<dyn Resolve>,
}

impl Dns {
    /// Nodes under this name.
    #[must_use]
    pub fn new(name: impl Into<String>, resolver: Arc<dyn Resolve>) -> Self {
        Self { name: name.into(), resolver }
    }
}

impl Discovery for Dns {
    fn find(&self) -> BoxFuture<'static, Result<Vec<String>, DiscoveryError>> {
        let (name, resolver) = (self.name.clone(), self.resolver.clone());
        Box::pin(async move {
            let found = match name.rsplit_once(':') {
                Some((host, port)) => {
                    let ips = resolver.addresses(host.to_owned()).await;
                    ips.map(|ips| ips.iter().map(|ip| join(ip, port)).collect())
                }
                None => {
                    let targets = resolver.services(name.clone()).await;
                    let text = |(host, port): &(String, u16)| join(host, &port.to_string());
                    targets.map(|targets| targets.iter().map(text).collect())
                }
            };
            found.map_err(|reason| DiscoveryError {
                source_name: format!("the DNS name {name}"),
                reason,
            })
        })
    }
}

fn join(host: &str, port: &str) -> String {
    let host = host.trim_end_matches('.');
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(feature = "dns")]
mod hickory {
    use futures_util::future::BoxFuture;
    use hickory_resolver::{Resolver, TokioResolver, proto::rr::RData};

    use super::Resolve;

    /// The resolver that the operating system is configured with. Keeps nothing: a name is looked
    /// up anew each time.
    pub struct SystemResolver;

    fn resolver() -> Result<TokioResolver, String> {
        let builder = Resolver::builder_tokio().map_err(|error| error.to_string())?;
        builder.build().map_err(|error| error.to_string())
    }

    impl Resolve for SystemResolver {
        fn addresses(&self, host: String) -> BoxFuture<'static, Result<Vec<String>, String>> {
            Box::pin(async move {
                let found = resolver()?.lookup_ip(host).await.map_err(|error| error.to_string())?;
                Ok(found.iter().map(|ip| ip.to_string()).collect())
            })
        }

        fn services(&self, name: String) -> BoxFuture<'static, Result<Vec<(String, u16)>, String>> {
            Box::pin(async move {
                let found =
                    resolver()?.srv_lookup(name).await.map_err(|error| error.to_string())?;
                let mut rows = Vec::new();
                for record in found.answers() {
                    if let RData::SRV(srv) = &record.data {
                        rows.push((srv.priority, srv.target.to_string(), srv.port));
                    }
                }
                rows.sort();
                Ok(rows.into_iter().map(|(_, host, port)| (host, port)).collect())
            })
        }
    }
}

#[cfg(feature = "dns")]
pub use hickory::SystemResolver;

/// The ways that a configuration names.
#[must_use]
pub fn configured(config: &Config) -> Vec<Arc<dyn Discovery>> {
    let discovery = &config.discovery;
    let mut ways: Vec<Arc<dyn Discovery>> = vec![Arc::new(Fixed(discovery.seeds.clone()))];
    ways.push(Arc::new(Variable(discovery.env.clone())));
    #[cfg(feature = "dns")]
    if !discovery.dns.is_empty() {
        ways.push(Arc::new(Dns::new(discovery.dns.clone(), Arc::new(SystemResolver))));
    }
    ways
}

/// Asks all ways. What one of them cannot find does not keep the others from it.
pub(super) async fn find_all(
    ways: &[Arc<dyn Discovery>],
) -> (BTreeSet<String>, Vec<DiscoveryError>) {
    let (mut found, mut errors) = (BTreeSet::new(), Vec::new());
    for way in ways {
        match way.find().await {
            Ok(addresses) => found.extend(addresses),
            Err(error) => errors.push(error),
        }
    }
    (found, errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Names;

    impl Resolve for Names {
        fn addresses(&self, host: String) -> BoxFuture<'static, Result<Vec<String>, String>> {
            Box::pin(async move {
                match host.as_str() {
                    "nodes.test" => Ok(vec!["10.0.0.1".into(), "fd00::2".into()]),
                    _ => Err("no such name".into()),
                }
            })
        }

        fn services(&self, name: String) -> BoxFuture<'static, Result<Vec<(String, u16)>, String>> {
            assert_eq!(name, "_raft._tcp.test");
            Box::pin(async { Ok(vec![("a.test.".into(), 1), ("b.test.".into(), 2)]) })
        }
    }

    #[tokio::test]
    async fn names_give_all_their_addresses() {
        let find = |name: &str| Dns::new(name, Arc::new(Names)).find();
        assert_eq!(find("nodes.test:7").await.expect("known"), ["10.0.0.1:7", "[fd00::2]:7"]);
        assert_eq!(find("_raft._tcp.test").await.expect("known"), ["a.test:1", "b.test:2"]);
        let error = find("other.test:7").await.expect_err("unknown").to_string();
        assert_eq!(error, "the DNS name other.test:7: no such name");
    }

    #[tokio::test]
    async fn one_way_that_fails_leaves_the_others() {
        let ways: Vec<Arc<dyn Discovery>> = vec![
            Arc::new(Dns::new("other.test:7", Arc::new(Names))),
            Arc::new(Fixed(vec!["a:1".into(), "b:2".into()])),
            Arc::new(Variable("DURACTOR_NOT_SET_ANYWHERE".into())),
        ];
        let (found, errors) = find_all(&ways).await;
        assert_eq!((found.len(), errors.len()), (2, 1));
    }

    #[test]
    fn lists_are_checked() {
        assert_eq!(parse_list("a:1, b:2,"), Ok(vec!["a:1".into(), "b:2".into()]));
        assert_eq!(parse_list(""), Ok(vec![]));
        assert!(parse_list("a").expect_err("no port").contains("\"a\" is not HOST:PORT"));
    }
}
