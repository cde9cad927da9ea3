//! Cases that simulations met.

use openraft::{
    ChangeMembers, EmptyNode, EntryPayload, Membership, RaftNetworkFactory, RaftNetworkV2,
    alias::SnapshotOf,
    network::RPCOption,
    raft::{AppendEntriesRequest, AppendEntriesResponse},
};

use super::{
    super::{
        checkpoint::{self, Content},
        lease::Lease,
        network::Network,
        types::{Group, RaftEntry, RaftMembership, SnapshotMeta, to_log_id},
        wire,
    },
    *,
};
use crate::log::entry::LogId;

fn membership(configs: &[&[u32]], others: &[u32]) -> RaftMembership {
    let id = |n: &u32| member(*n).to_u64();
    let configs: Vec<BTreeSet<u64>> =
        configs.iter().map(|of| of.iter().map(id).collect()).collect();
    let ids = configs.iter().flatten().copied().chain(others.iter().map(id));
    let nodes: BTreeMap<u64, EmptyNode> = ids.map(|id| (id, EmptyNode {})).collect();
    Membership::new(configs, nodes).expect("members")
}

/// Three nodes, of which the first led its group half-way from itself to all of them; and that one.
async fn half_way() -> (Cluster, Arc<LogJournal>) {
    let cluster = Cluster::new(3).await;
    cluster.nodes[0].initialize(SHARD, [member(1)].into()).await.expect("a new group");
    let owner = cluster.owner().await;
    let raft = owner.replica(SHARD).expect("runs").raft.clone();
    let new = [2, 3].map(|n| (member(n).to_u64(), EmptyNode {}));
    let added = raft.change_membership(ChangeMembers::AddNodes(new.into()), true).await;
    added.expect("learners");
    let half = membership(&[&[1], &[1, 2, 3]], &[]);
    raft.append_membership(half, EntryPayload::Blank, []).await.expect("half-way");
    (cluster, owner)
}

/// What a quorum agreed to.
async fn agreed(node: &LogJournal) -> RaftMembership {
    let look = |state: &openraft::RaftState<Group>| {
        state.membership_state.committed().membership().clone()
    };
    node.replica(SHARD).expect("runs").raft.with_raft_state(look).await.expect("runs")
}

/// Cause: whether a change was done was told by all who vote. While voters join, that is the wanted
/// set already, of which a quorum of the old voters must agree to everything still. Consequence: a
/// change that was tried again after a leader stopped half-way was reported as complete; who then lost
/// one of the old voters had no quorum any more, for good. Fix: it is complete when a quorum agreed to
/// the wanted set alone.
#[tokio::test]
async fn a_change_that_stopped_half_way_is_finished() {
    let (cluster, owner) = half_way().await;

    let voters: BTreeSet<_> = (1..=3).map(member).collect();
    owner.change_members(SHARD, voters, BTreeSet::new()).await.expect("changed");
    assert_eq!(agreed(&owner).await, membership(&[&[1, 2, 3]], &[]));
    cluster.end().await;
}

/// Has room for one frame at a time, and answers each as a follower that has all entries of it.
#[derive(Default)]
struct Narrow {
    full: Arc<Mutex<bool>>,
    ear: Mutex<Option<Arc<dyn Receiver>>>,
}

impl Transport for Narrow {
    fn me(&self) -> Member {
        member(1)
    }

    fn max_frame_bytes(&self) -> usize {
        64 << 20
    }

    fn send(&self, to: Member, _: Channel, _: Class, frame: Bytes) -> Result<(), SendError> {
        if std::mem::replace(&mut *self.full.lock().expect("lock"), true) {
            return Err(SendError::Full);
        }
        let (full, ear) = (self.full.clone(), self.ear.lock().expect("lock").clone());
        let (header, body) = wire::parse(frame).expect("well-formed");
        let (seq, request) = wire::decode_append(SHARD, &body).expect("entries");
        let last = request.entries.last().map(|entry| entry.log_id);
        let header = wire::Header { kind: wire::Kind::Appended, ..header };
        let frame = wire::encode_appended(header, seq, &Some(Ok(last)));
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            *full.lock().expect("lock") = false;
            ear.expect("listens").event(Event::Frame { from: to, session: 1, frame });
        });
        Ok(())
    }

    fn listen(&self, _: Channel, receiver: Arc<dyn Receiver>) {
        *self.ear.lock().expect("lock") = Some(receiver);
    }

    fn reach(&self, _: &str) {}

    fn forget(&self, _: &str) {}

    fn peers(&self) -> Vec<Member> {
        Vec::new()
    }
}

/// Cause: a request that found the link full ended the stream, and the answers to the requests before
/// it were dropped. Consequence: the leader began anew with what the follower had long since, and again
/// with more than the link takes: a follower that lagged behind by more than that never caught up. Fix:
/// the request waits for room.
#[tokio::test(start_paused = true)]
async fn entries_wait_for_room_on_the_link() {
    let narrow = Arc::new(Narrow::default());
    let (peers, _wanted) = Peers::new(narrow.clone(), 1);
    let patience = Duration::from_millis(600);
    let lease = Arc::new(Lease::new(member(1).to_u64(), Timing::default()));
    let mut network = Network { peers, shard: SHARD, patience, lease };
    let mut link = network.new_client(member(2).to_u64(), &EmptyNode {}).await;
    let id = |index| to_log_id(LogId { term: 1, index });
    let request = move |index| AppendEntriesRequest {
        vote: RaftVote::new_committed(1, member(1).to_u64()),
        prev_log_id: (index > 0).then(|| id(index - 1)),
        entries: vec![RaftEntry { log_id: id(index), payload: EntryPayload::Blank }],
        leader_commit: None,
    };
    // Something else is under way at first.
    *narrow.full.lock().expect("lock") = true;
    let full = narrow.full.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        *full.lock().expect("lock") = false;
    });
    let requests = futures_util::stream::iter((0..5).map(request));
    let answers = link.stream_append(requests, RPCOption::new(patience)).await.expect("a stream");
    let answers: Vec<_> = answers.map(|answer| answer.expect("not lost")).collect().await;
    assert_eq!(answers, (0..5).map(|index| Ok(Some(id(index)))).collect::<Vec<_>>());

    // A link that stays full is as good as none.
    *narrow.full.lock().expect("lock") = true;
    let requests = futures_util::stream::iter([request(0)]);
    let answers = link.stream_append(requests, RPCOption::new(patience)).await.expect("a stream");
    let answers: Vec<_> = answers.collect().await;
    assert!(matches!(answers.as_slice(), [Err(_)]), "{answers:?}");
}

/// Cause: a checkpoint from the leader took the place of the whole log, also of the entries after it,
/// which the replica had written and acknowledged before (the answer was lost, so the leader knew less
/// of it). The engine keeps those and counts on them. Consequence: entries that a quorum had agreed to
/// were on fewer disks than that, and the replica, of which the leader believed that it had them,
/// followed no more. Fix: who has the entry at which a checkpoint is cut needs none, and entries that
/// continue one stay.
#[tokio::test]
async fn a_checkpoint_leaves_the_entries_after_it() {
    let cluster = Cluster::new(2).await;
    let leader = member(9);
    let (peers, _wanted) = Peers::new(Arc::new(Port { me: leader, net: cluster.net.clone() }), 1);
    let patience = Duration::from_secs(1);
    let lease = Arc::new(Lease::new(member(1).to_u64(), Timing::default()));
    let mut network = Network { peers: peers.clone(), shard: SHARD, patience, lease };
    let vote = RaftVote::new_committed(5, leader.to_u64());
    let id = |index| LogId { term: 5, index };
    let entries = |from: u64| -> Vec<RaftEntry> {
        let payload = |index| match index {
            0 => EntryPayload::Membership(membership(&[&[9]], &[1, 2])),
            _ => EntryPayload::Blank,
        };
        let entry = |index| RaftEntry { log_id: to_log_id(id(index)), payload: payload(index) };
        (from..6).map(entry).collect()
    };
    // One applies what the other only has.
    for (to, applied) in [(1, None), (2, Some(3))] {
        let mut link = network.new_client(member(to).to_u64(), &EmptyNode {}).await;
        loop {
            let request = AppendEntriesRequest {
                vote,
                prev_log_id: None,
                entries: entries(0),
                leader_commit: applied.map(|index| to_log_id(id(index))),
            };
            // The first one only starts the replica.
            match link.append_entries(request, RPCOption::new(patience)).await {
                Ok(AppendEntriesResponse::Success) => break,
                other => tracing::debug!(?other, "it is not up yet"),
            }
        }
    }
    let [lagging, ahead] = [0, 1].map(|n| cluster.nodes[n].replica(SHARD).expect("runs"));
    while ahead.log.state().applied != Some(id(3)) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let content = Content::now(&ahead.log);
    let (last_log_id, last_membership) = content.meta().expect("well-formed");
    let meta = SnapshotMeta { last_log_id, last_membership };
    let snapshot = SnapshotOf::<Group, Content> { meta, snapshot: content };
    let sent = checkpoint::send(&peers, member(1), SHARD, vote, snapshot).await;
    sent.expect("installed");

    let state = lagging.log.state();
    assert_eq!(state.last, Some(id(5)));
    let kept = lagging.log.read(4, 6, usize::MAX).await.expect("readable");
    assert_eq!(kept.iter().map(|entry| entry.id).collect::<Vec<_>>(), [id(4), id(5)]);
    cluster.end().await;
}

/// Cause: a leader stopped between the two halves of a change of voters, and the next one left it there.
/// Consequence: the group went on needing a quorum of voters who were to go, and was lost with them.
/// Fix: whoever leads finishes it.
#[tokio::test]
async fn a_change_that_nobody_is_at_is_finished_by_the_leader() {
    let (cluster, owner) = half_way().await;
    assert!(owner.group(SHARD).changing);
    while owner.group(SHARD).changing {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(agreed(&owner).await, membership(&[&[1, 2, 3]], &[]));
    cluster.end().await;
}
