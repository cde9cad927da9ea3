//! A port that strangers knock at: silent ones, garbage, wrong certificates, recorded handshakes. A
//! node that belongs here links in time meanwhile, nothing is delivered, and each refusal is counted
//! and logged with its reason.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod link_kit;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use duractor::link::{
    FIRST_CLIENT, LinkConfig, LinkError, Links, Membership, Refusal, Security, TlsError, dev::DevCa,
};
use duractor_journal::{
    Member, Transport,
    transport::{Channel, Class, Event},
};
use futures_util::StreamExt;
use link_kit::{CLUSTER, Heard, Proxy, Site, wait_until};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};
use tracing::field::{Field, Visit};

/// Reasons that were logged, over all tests of this process.
static LOGGED: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

struct Log;

struct Reason(Option<String>, bool);

impl Visit for Reason {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "reason" => self.0 = Some(format!("{value:?}")),
            "message" => self.1 = format!("{value:?}") == "a connection is refused",
            _ => {}
        }
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("duractor::link")
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut reason = Reason(None, false);
        event.record(&mut reason);
        if let Reason(Some(reason), true) = reason {
            *LOGGED.lock().unwrap().entry(reason).or_default() += 1;
        }
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

fn logged(reason: Refusal) -> u64 {
    LOGGED.lock().unwrap().get(&reason.to_string()).copied().unwrap_or(0)
}

fn watch_log() {
    // The first test of the process sets it for all.
    let _ = tracing::subscriber::set_global_default(Log);
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Starts a node that is to be attacked, and what it hears.
async fn start_victim(config: LinkConfig) -> (Arc<Links>, Arc<Heard>) {
    let links = Links::start(config).await.unwrap();
    let heard = Arc::new(Heard::default());
    for channel in [Channel::Journal, Channel::Cluster, Channel::Snapshots, Channel::Entities] {
        links.listen(channel, heard.clone());
    }
    (links, heard)
}

async fn connect(to: SocketAddr) -> TcpStream {
    TcpStream::connect(to).await.unwrap()
}

/// Garbage that looks like nothing, like TLS, and like this protocol with a lie in it.
fn garbage(number: usize) -> Vec<u8> {
    match number % 4 {
        0 => (0..4096).map(|at| (at * 31 + number) as u8).collect(),
        1 => b"GET / HTTP/1.1\r\nHost: node\r\n\r\n".to_vec(),
        // A TLS record that announces 16 KiB of handshake.
        2 => [&[0x16, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xfb][..], &[7; 3000]].concat(),
        // A first message of this protocol of 65535 bytes.
        _ => [&b"DURALINK"[..], &[1, 1, 0, 1, 0, 0xff, 0xff], &[0; 2000]].concat(),
    }
}

async fn crowd_does_not_keep_a_node_out(site: Site) {
    watch_log();
    let (victim, heard) = start_victim(site.config(1)).await;
    let friend = site.start(2).await;
    let before = resident_bytes();

    let mut crowd = Vec::new();
    for number in 0..200 {
        crowd.push(connect(victim.address()).await);
        let mut noisy = connect(victim.address()).await;
        // It may be refused while it still speaks.
        let _ = noisy.write_all(&garbage(number)).await;
        crowd.push(noisy);
    }
    let begun = Instant::now();
    friend.reach(&victim.address().to_string());
    let session = heard.up(friend.me()).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(2), "the link took {took:?}");

    let refused = || victim.refusals().by_us.values().sum::<u64>();
    wait_until("all 400 were refused", || refused() >= 400).await;
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown <= 64 << 20, "{} MiB", grown >> 20);
    println!("linked in {took:?}, grew by {} KiB, {:?}", grown >> 10, victim.refusals().by_us);
    let up = Event::Up { peer: friend.me(), session };
    let events = heard.events.lock().unwrap().clone();
    assert!(events.iter().all(|event| *event == up), "something was delivered: {events:?}");

    // All of the crowd were told to go.
    for stream in &mut crowd {
        let mut rest = Vec::new();
        let gone = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest));
        assert!(gone.await.is_ok(), "a stranger is still connected");
    }
    for (reason, count) in victim.refusals().by_us {
        assert!(logged(reason) >= count.min(100), "{reason}: {count}, logged {}", logged(reason));
    }
    friend.shutdown().await;
    victim.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_does_not_keep_a_node_out_with_tls() {
    crowd_does_not_keep_a_node_out(Site::tls()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_does_not_keep_a_node_out_without_tls() {
    crowd_does_not_keep_a_node_out(Site::insecure()).await;
}

/// Both sides refuse, with the same reason, and nothing is delivered.
async fn is_refused(victim: LinkConfig, intruder: LinkConfig, reason: Refusal) {
    watch_log();
    let (victim, heard) = start_victim(victim).await;
    let intruder = Links::start(intruder).await.unwrap();
    intruder.reach(&victim.address().to_string());
    let count = |links: &Links| {
        let counts = links.refusals();
        let of = |side: &BTreeMap<Refusal, u64>| side.get(&reason).copied().unwrap_or(0);
        of(&counts.by_us) + of(&counts.by_peer)
    };
    wait_until(&format!("{reason} at both"), || count(&victim) > 0 && count(&intruder) > 0).await;
    assert!(logged(reason) > 0, "{reason} was not logged");
    assert!(victim.peers().is_empty() && intruder.peers().is_empty());
    assert!(heard.events.lock().unwrap().is_empty(), "something was delivered");
    intruder.shutdown().await;
    victim.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_ca_is_refused() {
    let (site, other) = (Site::tls(), Site::tls());
    is_refused(site.config(1), other.config(2), Refusal::Certificate).await;
}

/// A CA may serve several clusters.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_of_the_same_ca_is_refused() {
    let site = Site::tls();
    let files = DevCa::create(site.dir.path(), "other").unwrap().node(2).unwrap();
    let listen = "127.0.0.1:0".parse().unwrap();
    let intruder = LinkConfig::new(Member::new(2, 1), "other", listen, Security::Tls(files));
    is_refused(site.config(1), intruder, Refusal::Cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_is_refused_without_certificates_too() {
    let site = Site::insecure();
    let mut intruder = site.config(2);
    intruder.cluster = "other".to_owned();
    is_refused(site.config(1), intruder, Refusal::Cluster).await;
}

/// No node starts with another node's certificate, so the claim is made by hand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_cannot_claim_to_be_another() {
    let site = Site::tls();
    let mut wrong = site.config(3);
    wrong.security = site.security(2);
    let error = Links::start(wrong).await.err().unwrap();
    assert!(matches!(error, LinkError::Tls(TlsError::Name { .. })), "{error}");
    assert!(error.to_string().contains("duractor://tests/node/2"), "{error}");
}

/// The node's own number is taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_cannot_be_the_same_node() {
    let site = Site::insecure();
    is_refused(site.config(1), site.config(1), Refusal::Myself).await;
}

#[tokio::test]
async fn insecure_links_stay_on_loopback() {
    let mut config = Site::insecure().config(1);
    config.listen = "0.0.0.0:0".parse().unwrap();
    let error = Links::start(config).await.err().unwrap();
    assert!(matches!(error, LinkError::InsecureNotLoopback { .. }), "{error}");
}

/// What a legitimate node once sent is sent again, by somebody else.
async fn recording_gets_nowhere(site: Site, expected: &[Refusal]) {
    watch_log();
    let (victim, heard) = start_victim(site.config(1)).await;
    let friend = site.start(2).await;
    let proxy = Proxy::start(victim.address()).await;
    friend.reach(&proxy.address.to_string());
    heard.up(friend.me()).await;
    wait_until("both know of the link", || friend.peers() == [victim.me()]).await;
    let secret = Bytes::from_static(b"an acknowledged frame");
    friend.send(victim.me(), Channel::Journal, Class::Data, secret.clone()).unwrap();
    heard
        .until(|events| events.iter().any(|e| matches!(e, Event::Frame { .. })).then_some(()))
        .await;
    let tapes = proxy.tapes();
    assert!(tapes.len() >= 3 && tapes.iter().all(|tape| tape.len() > 60));
    friend.shutdown().await;
    // The end is heard on each of the four channels.
    let ends = |events: &[Event]| events.iter().filter(|e| matches!(e, Event::Down { .. })).count();
    heard.until(|events| (ends(events) == 4).then_some(())).await;
    let before = heard.events.lock().unwrap().len();
    let refused = |links: &Links| {
        let by_us = links.refusals().by_us;
        expected.iter().filter_map(|reason| by_us.get(reason)).sum::<u64>()
    };
    let refusals = refused(&victim);

    for tape in &tapes {
        let mut replay = connect(victim.address()).await;
        let _ = replay.write_all(tape).await;
        let mut answer = Vec::new();
        let _ = replay.read_to_end(&mut answer).await;
    }
    wait_until("each recording is refused", || refused(&victim) >= refusals + tapes.len() as u64)
        .await;
    assert!(victim.peers().is_empty());
    assert_eq!(heard.events.lock().unwrap().len(), before, "something was delivered");
    assert!(expected.iter().any(|reason| logged(*reason) > 0));
    victim.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_handshake_gets_nowhere_with_tls() {
    recording_gets_nowhere(Site::tls(), &[Refusal::Tls]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_handshake_gets_nowhere_without_tls() {
    recording_gets_nowhere(Site::insecure(), &[Refusal::Replay]).await;
}

#[tokio::test]
async fn keys_are_for_their_owners_eyes_only() {
    use std::os::unix::fs::PermissionsExt;
    let site = Site::tls();
    let Security::Tls(files) = site.security(1) else { panic!("no files") };
    let ca_key = site.dir.path().join("ca.key");
    for key in [&files.key, &ca_key] {
        let mode = std::fs::metadata(key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", key.display());
    }
    assert_eq!(CLUSTER, "tests");
}

fn client(site: &Site, number: u32) -> LinkConfig {
    let listen = "127.0.0.1:0".parse().unwrap();
    let ca = DevCa::create(site.dir.path(), CLUSTER).unwrap();
    let files = Security::Tls(ca.client("web").unwrap());
    LinkConfig::new(Member::new(FIRST_CLIENT + number, 1), CLUSTER, listen, files)
}

/// A client is let in where clients are, and no more than may be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_let_in_up_to_a_number() {
    let site = Site::tls();
    is_refused(site.config(1), client(&site, 1), Refusal::Clients).await;
    let mut config = site.config(1);
    config.max_clients = 1;
    let (node, heard) = start_victim(config).await;
    let mut membership = node.membership();
    let first = Links::start(client(&site, 1)).await.unwrap();
    first.reach(&node.address().to_string());
    heard.up(first.me()).await;
    let second = Links::start(client(&site, 2)).await.unwrap();
    second.reach(&node.address().to_string());
    let refused = |links: &Links| links.refusals().by_peer.get(&Refusal::Clients).copied();
    wait_until("the second is refused", || refused(&second).is_some()).await;
    assert_eq!(node.peers(), [], "a client is no peer");
    // A node comes: of the client nothing was said.
    let friend = site.start(2).await;
    friend.reach(&node.address().to_string());
    let first_said = membership.next().await;
    assert_eq!(first_said, Some(Membership::PeerUp { peer: friend.me() }));
    first.shutdown().await;
    heard.up(second.me()).await;
    for links in [second, friend, node] {
        links.shutdown().await;
    }
}

/// With a client's certificate nobody is a node, and with a node's nobody a client. That each refuses to
/// start so is the first barrier; what the other side refuses is tested where it is decided.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_the_other_kind_is_refused_at_the_start() {
    let site = Site::tls();
    let mut node = site.config(3);
    node.security = client(&site, 1).security;
    let error = Links::start(node).await.err().unwrap();
    assert!(error.to_string().contains("names duractor://tests/client/web"), "{error}");
    let mut config = client(&site, 1);
    config.security = site.security(3);
    let error = Links::start(config).await.err().unwrap();
    assert!(error.to_string().contains("this is duractor://tests/client/NAME"), "{error}");
}
