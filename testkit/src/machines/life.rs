//! The life of a process: it forms the cluster, or joins it, or comes back to it, and runs what the
//! application runs.

use std::{sync::Arc, time::Duration};

use duractor::{
    Env, Node,
    cluster::{Cluster, ClusterError, Parts, discovery::Fixed},
    config::Loader,
};
use tokio::time::sleep;

use super::{Process, Site};
use crate::env::SimEnv;

/// Until the process is up; it tries again and again.
pub(super) async fn live<S: Site>(site: &Arc<S>, process: &Process, sim: &SimEnv, mut form: bool) {
    let env = site.env(sim);
    loop {
        let error = match come_up(site, process, &env, form).await {
            Ok(()) => return,
            Err(error) => error,
        };
        form &= !matches!(error, ClusterError::AlreadyFormed { .. });
        site.say(3, || format!("node {} does not come up: {error}", process.node));
        if let ClusterError::Journal(error) = &error {
            site.violated(format!("S: node {} does not open: {error}", process.node));
        }
        site.not_up();
        sleep(Duration::from_millis(100)).await;
    }
}

async fn come_up<S: Site>(
    site: &Arc<S>,
    process: &Process,
    env: &Env,
    form: bool,
) -> Result<(), ClusterError> {
    let values = site.config(process.node).into_iter();
    let config =
        values.fold(Loader::new(), |loader, (key, value)| loader.set(key, value)).load()?;
    let mut parts = Parts::new(config, env.clone(), process.wires.clone());
    parts.discovery = vec![Arc::new(Fixed(parts.config.discovery.seeds.clone()))];
    let cluster = match form {
        true => Cluster::bootstrap_with(parts).await?,
        false => Cluster::start_with(parts).await?,
    };
    process.lock().cluster = Some(cluster.clone());
    let builder = Node::builder("/data").env(env.clone()).cluster(&cluster);
    match site.host(builder, process).start().await {
        Ok(host) => {
            site.say(4, || format!("node {} is up as {}", process.node, cluster.me()));
            process.lock().host = Some(Arc::new(host));
        }
        Err(error) => {
            site.violated(format!("S: node {} has no entities: {error}", process.node));
        }
    }
    Ok(())
}
