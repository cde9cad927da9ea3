//! Real nodes: journal groups in files, over mutual TLS on loopback. A cluster is formed, grows,
//! writes, loses a disk, stops and comes back.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{path::Path, time::Duration};

use duractor::{
    Env,
    cluster::{Cluster, ClusterError},
    config::{Config, Loader},
    link::dev::DevCa,
};
use duractor_journal::{
    AppendBatch, EntityId, JournalError, Member, NewEvent, ReplayRange, Role, Seq, ShardId, Term,
    Timestamp,
};
use futures_util::StreamExt;

const SOON: Duration = Duration::from_secs(30);
const SHARDS: u16 = 3;

fn config(dir: &Path, ca: &DevCa, node: u32, seeds: &[String]) -> Config {
    let files = ca.node(node).unwrap();
    let text = |path: &Path| path.display().to_string();
    Loader::new()
        .set("node.number", node.to_string())
        .set("node.data_dir", text(&dir.join(format!("node-{node}"))))
        .set("cluster.name", "test")
        .set("cluster.shards", SHARDS.to_string())
        .set("net.listen", "127.0.0.1:0")
        .set("tls.ca", text(&files.ca))
        .set("tls.cert", text(&files.certificate))
        .set("tls.key", text(&files.key))
        .set("discovery.seeds", seeds.join(","))
        .set("timing.settle_ms", "200")
        .load()
        .unwrap()
}

async fn until(what: &str, clusters: &[&Cluster], done: impl Fn() -> bool) {
    for _ in 0..3_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let statuses: Vec<_> = clusters.iter().map(|cluster| cluster.status()).collect();
    panic!("waited in vain for {what}: {statuses:#?}");
}

/// Every group has these voters and a leader, as its leader says.
async fn settled(clusters: &[&Cluster], voters: &[Member]) {
    let wanted = voters.iter().copied().collect();
    let settled = |shard| {
        let led = |cluster: &&Cluster| cluster.groups().group(ShardId(shard)).role == Role::Leader;
        let leader = clusters.iter().find(|cluster| led(cluster));
        leader.is_some_and(|leader| leader.groups().group(ShardId(shard)).voters == wanted)
    };
    until("the groups to settle", clusters, || (0..SHARDS).all(settled)).await;
}

/// Appends an event at whoever leads its shard.
async fn append(clusters: &[&Cluster], entity: &EntityId, seq: u64) {
    let shard = entity.shard(SHARDS);
    let mut last = None;
    for _ in 0..200 {
        for cluster in clusters {
            let journal = cluster.journal();
            let epoch = match journal.claim(shard).await {
                Ok(epoch) => epoch,
                Err(error) => {
                    last = Some(error);
                    continue;
                }
            };
            match journal.append(batch(entity, epoch, seq)).await {
                Ok(_) => return,
                Err(error) => last = Some(error),
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no append: {last:?}");
}

fn batch(entity: &EntityId, epoch: Term, seq: u64) -> AppendBatch {
    AppendBatch {
        entity: entity.clone(),
        epoch,
        expected_seq: Seq(seq - 1),
        timestamp: Timestamp(0),
        request: None,
        events: vec![NewEvent::new("placed", 1, seq.to_string())],
    }
}

async fn replay(cluster: &Cluster, entity: &EntityId) -> Vec<String> {
    let pieces: Vec<_> = cluster.journal().replay(entity, ReplayRange::ALL).collect().await;
    let records = pieces.into_iter().collect::<Result<Vec<_>, JournalError>>().unwrap().concat();
    let text = |r: &duractor_journal::EventRecord| String::from_utf8_lossy(&r.event.payload).into();
    records.iter().map(text).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_lives() {
    let home = tempfile::tempdir().unwrap();
    let ca = DevCa::create(home.path().join("ca"), "test").unwrap();
    let start = async |node: u32, seeds: &[String]| {
        let cluster =
            Cluster::start(config(home.path(), &ca, node, seeds), Env::production()).await;
        let cluster = cluster.unwrap();
        cluster.without_entities();
        cluster.wait_ready(SOON).await.unwrap();
        cluster
    };
    let first =
        Cluster::bootstrap(config(home.path(), &ca, 1, &[]), Env::production()).await.unwrap();
    first.without_entities();
    first.wait_ready(SOON).await.unwrap();
    let seed = [first.address().to_owned()];
    let refused = Cluster::bootstrap(config(home.path(), &ca, 2, &seed), Env::production()).await;
    assert!(matches!(refused, Err(ClusterError::ClusterExists { .. })));
    let second = start(2, &seed).await;
    let third = start(3, &seed).await;
    let m = Member::new;
    settled(&[&first, &second, &third], &[m(1, 1), m(2, 1), m(3, 1)]).await;

    let entities: Vec<_> =
        (0..6).map(|n| EntityId::new("order", &n.to_string()).unwrap()).collect();
    let all = [&first, &second, &third];
    for entity in &entities {
        for seq in 1..=5 {
            append(&all, entity, seq).await;
        }
    }

    // Node 2 comes back with an empty disk.
    second.shutdown().await;
    std::fs::remove_dir_all(home.path().join("node-2")).unwrap();
    let second = start(2, &seed).await;
    assert_eq!(second.me(), m(2, 2));
    let all = [&first, &second, &third];
    settled(&all, &[m(1, 1), m(2, 2), m(3, 1)]).await;
    for entity in &entities {
        append(&all, entity, 6).await;
        // A group that is just being handed over has no leader for a moment.
        let shard = entity.shard(SHARDS);
        let mut barrier = second.journal().barrier(shard).await;
        for _ in 0..200 {
            if barrier.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            barrier = second.journal().barrier(shard).await;
        }
        barrier.unwrap();
        assert_eq!(replay(&second, entity).await, ["1", "2", "3", "4", "5", "6"]);
    }

    // All stop, and the last two find each other without the seed.
    let address = third.address().to_owned();
    for cluster in all {
        cluster.shutdown().await;
    }
    let mut own = config(home.path(), &ca, 3, &seed);
    own.net.listen = address;
    let third = Cluster::start(own, Env::production()).await.unwrap();
    third.without_entities();
    let second = start(2, &seed).await;
    third.wait_ready(SOON).await.unwrap();
    for entity in &entities {
        append(&[&second, &third], entity, 7).await;
    }
    second.shutdown().await;
    third.shutdown().await;
}
