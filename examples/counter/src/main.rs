//! The smallest cluster: one counter, kept on three nodes, and each of them counts. In three terminals:
//!
//! ```sh
//! cargo run -p counter -- --config examples/counter/node1.toml --bootstrap
//! cargo run -p counter -- --config examples/counter/node2.toml
//! cargo run -p counter -- --config examples/counter/node3.toml
//! ```
//!
//! Every half second each node adds one, wherever the counter runs, and prints what it has come to: each
//! number is printed once in the whole cluster. Once it is kept on 3 nodes, kill the one that runs it: the
//! others go on within a second. Start it again without `--bootstrap`, which is for a cluster's first
//! start alone. All is in `counter-data`. Any key of the files may also be given as a flag or as a
//! variable: see `--help`.
#![cfg_attr(rustfmt, rustfmt_skip)] // Short functions stay on one line.
#![allow(clippy::unit_arg)]

use clap::Parser;
use duractor::{Env, RequestId, cluster::Cluster, config::Flags, prelude::*};
use std::{error::Error, pin::pin, time::Duration};
use tokio::{select, signal::ctrl_c, time::sleep};

// Every key of the configuration is a flag; and whether this node forms the cluster.
#[derive(Parser)] struct Cli { #[command(flatten)] node: Flags, #[arg(long)] bootstrap: bool }

#[derive(Event)] struct Added(u64);
#[derive(Command)] #[command(reply = u64)] struct Add(u64);

struct Counter;
impl EventSourced for Counter {
    const KIND: &'static str = "counter";
    type State = u64;
    type Event = Added;
    type Commands = (Add,);
    fn apply(total: &mut u64, Added(by): &Added) { *total += by }
}
impl Handle<Add> for Counter {
    fn handle(&self, _: &u64, Add(by): Add, _: &Context) -> Effect<Self, u64>
    { Self::persist(Added(by)).reply(|total| *total) }
}

#[tokio::main] async fn main() -> Result<(), Box<dyn Error>> {
    let Cli { node, bootstrap } = Cli::parse();
    let (config, env, mut stop) = (node.load()?, Env::production(), pin!(ctrl_c()));
    let (data, run, mut turn) = (config.node.data_dir.clone(), env.entropy.next_u64(), 0);
    let cluster = if bootstrap { Cluster::bootstrap(config, env).await? } else { Cluster::start(config, env).await? };
    cluster.wait_ready(Duration::from_secs(60)).await?;
    let node = Node::builder(data).cluster(&cluster).register(Counter).start().await?;
    let (me, counter) = (cluster.me().node, node.entity::<Counter>("one")?);
    loop {
        // With a request id it is safe to ask again, whatever became of it: it counts once.
        match counter.ask(Add(1)).request_id(RequestId::new(&format!("{run:x}-{turn}"))?).await {
            Ok(total) => { turn += 1; println!("{total}: counted by node {me}, {}", seen(&counter, &cluster)) }
            Err(error) => eprintln!("node {me} asks again: {error}"),
        }
        select! { biased; _ = &mut stop => break, () = sleep(Duration::from_millis(500)) => {} }
    }
    node.shutdown().await;
    Ok(cluster.shutdown().await)
}

// Which node runs the counter, and on how many at least everything is kept.
fn seen(counter: &EntityRef<Counter>, cluster: &Cluster) -> String {
    let (run_by, groups) = (counter.owner().unwrap_or(cluster.me().node), cluster.status().groups);
    let kept = groups.iter().map(|group| group.voters.len()).min().unwrap_or(0);
    format!("run by node {run_by}, kept on {kept} nodes")
}
