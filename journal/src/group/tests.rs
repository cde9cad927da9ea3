//! Groups over an ideal network: elections, replication, hand-over, members.

mod cases;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt;

use super::{
    GroupStatus, Replication, Role, Timing,
    journal::LogJournal,
    peers::Peers,
    types::RaftVote,
    wire::{Answer, Call},
};
use crate::{
    Ack, AppendBatch, EntityId, Env, Journal, JournalError, LogConfig, NewEvent, Ownership,
    ReplayRange, Seq, ShardId, Term, Timestamp,
    transport::{Channel, Class, Event, Member, Receiver, SendError, Transport},
};

/// Delivers everything at once, unless the link is cut.
#[derive(Default)]
struct Net {
    ears: Mutex<BTreeMap<(Member, u8), Arc<dyn Receiver>>>,
    cut: Mutex<BTreeSet<Member>>,
}

struct Port {
    me: Member,
    net: Arc<Net>,
}

impl Transport for Port {
    fn me(&self) -> Member {
        self.me
    }

    fn max_frame_bytes(&self) -> usize {
        64 << 20
    }

    fn send(&self, to: Member, channel: Channel, _: Class, frame: Bytes) -> Result<(), SendError> {
        let cut = self.net.cut.lock().expect("lock");
        if cut.contains(&to) || cut.contains(&self.me) {
            return Err(SendError::NotConnected);
        }
        drop(cut);
        let ear = self.net.ears.lock().expect("lock").get(&(to, channel as u8)).cloned();
        let from = self.me;
        match ear {
            Some(ear) => {
                tokio::spawn(async move { ear.event(Event::Frame { from, session: 1, frame }) });
                Ok(())
            }
            None => Err(SendError::NotConnected),
        }
    }

    fn listen(&self, channel: Channel, receiver: Arc<dyn Receiver>) {
        self.net.ears.lock().expect("lock").insert((self.me, channel as u8), receiver);
    }

    fn reach(&self, _: &str) {}

    fn forget(&self, _: &str) {}

    fn peers(&self) -> Vec<Member> {
        Vec::new()
    }
}

struct Cluster {
    net: Arc<Net>,
    nodes: Vec<Arc<LogJournal>>,
    _dirs: Vec<tempfile::TempDir>,
}

const SHARD: ShardId = ShardId(0);

fn member(n: u32) -> Member {
    Member::new(n, 1)
}

impl Cluster {
    async fn new(nodes: u32) -> Self {
        let net = Arc::new(Net::default());
        let mut cluster = Self { net: net.clone(), nodes: Vec::new(), _dirs: Vec::new() };
        for n in 1..=nodes {
            let dir = tempfile::tempdir().expect("a folder");
            let mut config = LogConfig::new(dir.path());
            config.shards = 1;
            config.segment_bytes = 1 << 20;
            let port = Arc::new(Port { me: member(n), net: net.clone() });
            let journal =
                LogJournal::open_replicated(config, Env::production(), Replication::new(port))
                    .await
                    .expect("opens");
            cluster.nodes.push(journal);
            cluster._dirs.push(dir);
        }
        cluster
    }

    async fn of_three() -> Self {
        let cluster = Self::new(3).await;
        let voters = (1..=3).map(member).collect();
        cluster.nodes[0].initialize(SHARD, voters).await.expect("a new group");
        cluster
    }

    /// Who owns the shard, as soon as somebody does.
    async fn owner(&self) -> Arc<LogJournal> {
        let waits = self.nodes.iter().map(|node| {
            let node = node.clone();
            Box::pin(async move {
                let mut owners = node.ownerships();
                while let Some((_, ownership)) = owners.next().await {
                    if matches!(ownership, Ownership::Mine { .. }) {
                        return node;
                    }
                }
                std::future::pending().await
            })
        });
        futures_util::future::select_all(waits).await.0
    }

    async fn end(self) {
        for node in &self.nodes {
            node.shutdown().await;
        }
    }
}

fn batch(epoch: Term, expected: u64, payload: &'static str) -> AppendBatch {
    AppendBatch {
        entity: EntityId::new("order", "1").expect("valid"),
        epoch,
        expected_seq: Seq(expected),
        timestamp: Timestamp(0),
        request: None,
        events: vec![NewEvent::new("placed", 1, payload.as_bytes())],
    }
}

async fn until(node: &LogJournal, look: impl Fn(&GroupStatus) -> bool) {
    while !look(&node.group(SHARD)) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn payloads(node: &LogJournal) -> Vec<Bytes> {
    let entity = EntityId::new("order", "1").expect("valid");
    let chunks: Vec<_> = node.replay(&entity, ReplayRange::ALL).collect().await;
    let records = chunks.into_iter().flat_map(|chunk| chunk.expect("readable"));
    records.map(|record| record.event.payload).collect()
}

#[tokio::test]
async fn what_is_appended_at_the_leader_is_read_at_all_after_a_barrier() {
    let cluster = Cluster::of_three().await;
    let owner = cluster.owner().await;
    let epoch = owner.claim(SHARD).await.expect("claims");
    // What the leader alone has acknowledged is not committed yet: the ones after it see to that.
    for (expected, ack) in (0..).zip([Ack::Leader, Ack::Quorum, Ack::All]) {
        let (tx, rx) = tokio::sync::oneshot::channel();
        owner.submit_with(batch(epoch, expected, "x"), ack, Box::new(|r| drop(tx.send(r))));
        assert_eq!(rx.await.expect("told").expect("appended").last_seq, Seq(expected + 1));
        owner.barrier(SHARD).await.expect("leads");
    }
    for node in &cluster.nodes {
        node.barrier(SHARD).await.expect("reaches the leader");
        assert_eq!(payloads(node).await, ["x", "x", "x"]);
    }
    let other = cluster.nodes.iter().find(|node| !Arc::ptr_eq(node, &owner)).expect("one");
    let refused = other.append(batch(epoch, 3, "no")).await;
    assert!(matches!(refused, Err(JournalError::NotLeader { leader: Some(_), .. })), "{refused:?}");
    cluster.end().await;
}

#[tokio::test]
async fn another_takes_over_when_the_leader_is_cut_off_and_the_old_one_is_fenced() {
    let cluster = Cluster::of_three().await;
    let owner = cluster.owner().await;
    let epoch = owner.claim(SHARD).await.expect("claims");
    owner.append(batch(epoch, 0, "a")).await.expect("appended");
    let old = owner.group(SHARD).leader.expect("known");
    cluster.net.cut.lock().expect("lock").insert(old);
    let lost = owner.append(batch(epoch, 1, "lost")).await;
    assert!(lost.is_err(), "no quorum");
    let next = loop {
        let next = cluster.nodes.iter().find(|node| {
            let status = node.group(SHARD);
            status.role == super::Role::Leader && status.leader != Some(old)
        });
        if let Some(next) = next {
            break next.clone();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let mut owners = next.ownerships();
    while !matches!(owners.next().await, Some((_, Ownership::Mine { .. }))) {}
    let newer = next.claim(SHARD).await.expect("claims");
    assert!(newer > epoch);
    next.append(batch(newer, 1, "b")).await.expect("appended");
    assert!(owner.barrier(SHARD).await.is_err(), "a leader without a quorum reads nothing");
    cluster.net.cut.lock().expect("lock").clear();
    for node in &cluster.nodes {
        while node.barrier(SHARD).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(payloads(node).await, ["a", "b"]);
    }
    let stale = next.append(batch(epoch, 2, "stale")).await;
    assert!(matches!(stale, Err(JournalError::StaleEpoch { .. })), "{stale:?}");
    cluster.end().await;
}

#[tokio::test]
async fn leadership_is_handed_over_and_members_change() {
    let cluster = Cluster::new(4).await;
    cluster.nodes[0].initialize(SHARD, [member(1)].into()).await.expect("a new group");
    let twice = cluster.nodes[0].initialize(SHARD, [member(1)].into()).await;
    assert!(matches!(twice, Err(JournalError::Membership { .. })), "{twice:?}");
    let first = cluster.owner().await;
    let epoch = first.claim(SHARD).await.expect("claims");
    first.append(batch(epoch, 0, "a")).await.expect("appended");
    let voters: BTreeSet<_> = (1..=3).map(member).collect();
    first.change_members(SHARD, voters.clone(), [member(4)].into()).await.expect("changed");
    assert_eq!(first.group(SHARD).voters, voters);
    assert_eq!(first.group(SHARD).learners, [member(4)].into());
    first.transfer_leadership(SHARD, member(2)).await.expect("handed over");
    let second = cluster.nodes[1].clone();
    let mut owners = second.ownerships();
    while !matches!(owners.next().await, Some((_, Ownership::Mine { .. }))) {}
    let epoch = second.claim(SHARD).await.expect("claims");
    second.append(batch(epoch, 1, "b")).await.expect("appended");
    let voters: BTreeSet<_> = (2..=4).map(member).collect();
    second.change_members(SHARD, voters.clone(), BTreeSet::new()).await.expect("changed");
    assert_eq!(second.group(SHARD).voters, voters);
    cluster.nodes[3].barrier(SHARD).await.expect("a voter");
    assert_eq!(payloads(&cluster.nodes[3]).await, ["a", "b"]);
    cluster.end().await;
}

/// Cause: a follower that was restarted within a leader's lease voted at once, having forgotten that it
/// had answered that leader. Consequence: the leader, cut off from the others, went on answering reads
/// under its lease while the next one was writing: stale reads, in 12 of 50 000 simulated runs. Fix:
/// whoever may have promised anything gives no vote, and asks for none, for one lease after its start.
#[tokio::test]
async fn a_replica_keeps_its_word_over_a_restart() {
    let mut cluster = Cluster::of_three().await;
    let owner = cluster.owner().await;
    owner.claim(SHARD).await.expect("claims");
    let place = cluster.nodes.iter().position(|node| !Arc::ptr_eq(node, &owner)).expect("one");
    let me = member(place as u32 + 1);
    cluster.nodes[place].shutdown().await;

    let mut replication = Replication::new(Arc::new(Port { me, net: cluster.net.clone() }));
    replication.timing = Timing { heartbeat_ms: 50, election_min_ms: 150, election_max_ms: 2_000 };
    let mut config = LogConfig::new(cluster._dirs[place].path());
    config.shards = 1;
    config.segment_bytes = 1 << 20;
    let again = LogJournal::open_replicated(config, Env::production(), replication).await;
    cluster.nodes[place] = again.expect("opens");

    let (asker, _wanted) =
        Peers::new(Arc::new(Port { me: member(9), net: cluster.net.clone() }), 1);
    let vote = RaftVote::new(99, 9);
    let ask = Call::PreVote(openraft::raft::VoteRequest::new(vote, None));
    let mut refused = 0;
    loop {
        let patience = Duration::from_secs(1);
        match asker.call(me, SHARD, Class::Control, &ask, patience).await {
            Ok(Answer::Refused(_)) => refused += 1,
            Ok(Answer::Vote(_)) => break,
            other => tracing::debug!(?other, "it is not up yet"),
        }
        tokio::task::yield_now().await;
    }
    assert!(refused > 0, "it voted at once");
    cluster.end().await;
}

/// Cause: nobody tells a replica that it was taken out of its group while it was cut off: the leader
/// sends it nothing any more. Consequence: it named the last leader that it had heard of for ever, or
/// none after a restart, and its node was never ready again. Fix: who hears of no leader asks the others
/// who belongs to the group. Whoever is taken in again is told by the leader, and belongs to it at once.
#[tokio::test]
async fn a_replica_finds_out_that_the_group_went_on_without_it() {
    let cluster = Cluster::new(4).await;
    let voters: BTreeSet<_> = (1..=3).map(member).collect();
    cluster.nodes[0].initialize(SHARD, voters.clone()).await.expect("a new group");
    let owner = cluster.owner().await;
    owner.change_members(SHARD, voters.clone(), [member(4)].into()).await.expect("taken in");
    let other = &cluster.nodes[3];
    until(other, |status| status.role == Role::Learner).await;
    cluster.net.cut.lock().expect("lock").insert(member(4));
    owner.change_members(SHARD, voters.clone(), BTreeSet::new()).await.expect("taken out");
    cluster.net.cut.lock().expect("lock").clear();
    until(other, |status| (status.role, status.leader) == (Role::Outside, None)).await;
    let (_, owned) = other.ownerships().next().await.expect("one shard");
    assert_eq!(owned, Ownership::Other { leader: None });

    owner.change_members(SHARD, voters, [member(4)].into()).await.expect("taken in again");
    until(other, |status| status.role == Role::Learner && status.leader.is_some()).await;
    cluster.end().await;
}

/// The word of a replica that lags behind, and so does not know that another was taken in, does not put
/// that one out.
#[tokio::test]
async fn a_replica_does_not_go_by_the_word_of_one_that_knows_less() {
    let cluster = Cluster::new(4).await;
    let voters: BTreeSet<_> = (1..=3).map(member).collect();
    cluster.nodes[0].initialize(SHARD, voters.clone()).await.expect("a new group");
    let (owner, newcomer) = (cluster.owner().await, &cluster.nodes[3]);
    let leader = owner.group(SHARD).leader.expect("known");
    let stale = (1..=3).map(member).find(|other| *other != leader).expect("one");
    let cut = |members: BTreeSet<Member>| *cluster.net.cut.lock().expect("lock") = members;
    cut([stale].into());
    owner.change_members(SHARD, voters.clone(), [member(4)].into()).await.expect("taken in");
    until(newcomer, |status| status.role == Role::Learner).await;
    cut(voters.into_iter().filter(|voter| *voter != stale).collect());
    until(newcomer, |status| status.leader.is_none()).await;
    let asked = tokio::time::Instant::now();
    while asked.elapsed() < Duration::from_secs(2) {
        assert_eq!(newcomer.group(SHARD).role, Role::Learner);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.end().await;
}
