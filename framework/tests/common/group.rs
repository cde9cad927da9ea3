//! Several nodes on one journal in memory, with leaders that a test chooses: what a replicated
//! journal looks like from above, without the replication. Each node has its own view, which can be
//! cut off, so that it goes on in the belief that it leads.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test file uses its part")]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use duractor::{Journal, Node, NodeBuilder, SnapshotStore};
use duractor_journal::{
    Ack, AllDone, AppendBatch, AppendDone, Deletions, EntityId, Head, JournalError, Limits, Member,
    MemoryJournal, Ownership, Ownerships, Position, RecordChunks, ReplayRange, Seq, ShardId, Term,
    Transport,
    transport::{Channel, Class, Event, Receiver, SendError},
};
use duractor_snapshot::MemorySnapshots;
use futures_util::{StreamExt, future::BoxFuture, stream};
use tokio::sync::{mpsc, oneshot};

pub const SHARDS: u16 = 4;

/// The journal that all nodes share.
pub struct Group {
    pub memory: Arc<MemoryJournal>,
    inner: Mutex<Inner>,
}

struct Inner {
    term: Term,
    leader: Option<Member>,
    /// The newest claim of each shard.
    epochs: Vec<Term>,
}

/// One node's view of it.
pub struct View {
    pub group: Arc<Group>,
    pub me: Member,
    pub snapshots: Arc<MemorySnapshots>,
    seen: Mutex<Seen>,
    pub claims: AtomicUsize,
    pub confirms: AtomicUsize,
}

#[derive(Default)]
struct Seen {
    followers: Vec<mpsc::UnboundedSender<(ShardId, Ownership)>>,
    /// What it has not heard of, being cut off.
    missed: VecDeque<Ownership>,
    last: Option<Ownership>,
    cut: bool,
    /// Its confirmations that wait for the end of the cut.
    confirming: Vec<oneshot::Sender<()>>,
    /// Its claims fail so often.
    claims_fail: usize,
    /// What its writes come to, in place of being written.
    writes: Option<JournalError>,
    /// Its writes are written and it never hears of it.
    mute: bool,
}

impl Group {
    pub fn new() -> Arc<Self> {
        let inner =
            Inner { term: Term(0), leader: None, epochs: vec![Term(0); usize::from(SHARDS)] };
        let memory = MemoryJournal::new(SHARDS, Limits::default());
        Arc::new(Self { memory, inner: Mutex::new(inner) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Elects a leader for all shards, or none; all views that are not cut off hear of it.
    pub fn elect(&self, leader: Option<&Arc<View>>, views: &[&Arc<View>]) {
        let mut inner = self.lock();
        inner.term.0 += 1;
        inner.leader = leader.map(|view| view.me);
        let (term, leader) = (inner.term, inner.leader);
        drop(inner);
        for view in views {
            let mine = leader == Some(view.me);
            let change = if mine { Ownership::Mine { term } } else { Ownership::Other { leader } };
            view.hear(change);
        }
    }
}

impl View {
    pub fn new(group: &Arc<Group>, node: u32) -> Arc<Self> {
        Arc::new(Self {
            group: group.clone(),
            me: Member::new(node, 1),
            snapshots: Arc::new(MemorySnapshots::new()),
            seen: Mutex::default(),
            claims: AtomicUsize::new(0),
            confirms: AtomicUsize::new(0),
        })
    }

    pub fn builder(self: &Arc<Self>) -> NodeBuilder {
        let journal: Arc<dyn Journal> = self.clone();
        let snapshots: Arc<dyn SnapshotStore> = self.snapshots.clone();
        Node::builder("not used").journal(journal).snapshots(snapshots)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    fn hear(&self, change: Ownership) {
        let mut seen = self.seen();
        if seen.cut {
            return seen.missed.push_back(change);
        }
        seen.last = Some(change);
        for shard in 0..SHARDS {
            seen.followers.retain(|follower| follower.send((ShardId(shard), change)).is_ok());
        }
    }

    /// It hears of no elections, and its confirmations wait.
    pub fn cut(&self) {
        self.seen().cut = true;
    }

    /// It hears what it missed.
    pub fn heal(&self) {
        self.seen().cut = false;
        self.confirm_now();
        let missed = std::mem::take(&mut self.seen().missed);
        missed.into_iter().for_each(|change| self.hear(change));
    }

    /// Its confirmations work again; of elections it still hears nothing.
    pub fn confirm_now(&self) {
        for waiting in std::mem::take(&mut self.seen().confirming) {
            let _ = waiting.send(());
        }
    }

    /// As a journal on one node: the owner never changes.
    pub fn own_for_ever(&self) {
        self.group.lock().leader = Some(self.me);
        self.seen().last = Some(Ownership::Mine { term: Term(0) });
    }

    pub fn fail_claims(&self, times: usize) {
        self.seen().claims_fail = times;
    }

    pub fn fail_writes(&self, error: Option<JournalError>) {
        self.seen().writes = error;
    }

    pub fn mute_writes(&self) {
        self.seen().mute = true;
    }

    fn not_leader(&self, shard: ShardId) -> Result<(), JournalError> {
        match self.group.lock().leader {
            Some(leader) if leader == self.me => Ok(()),
            leader => Err(JournalError::NotLeader { shard, leader }),
        }
    }
}

impl Journal for View {
    fn limits(&self) -> Limits {
        self.group.memory.limits()
    }

    fn shards(&self) -> u16 {
        SHARDS
    }

    fn claim(&self, shard: ShardId) -> BoxFuture<'static, Result<Term, JournalError>> {
        self.claims.fetch_add(1, SeqCst);
        let mut refused = self.not_leader(shard);
        let left = &mut self.seen().claims_fail;
        if *left > 0 {
            *left -= 1;
            refused = Err(JournalError::Unavailable { shard, reason: "planted".into() });
        }
        let group = self.group.clone();
        Box::pin(async move {
            refused?;
            let epoch = group.memory.claim(shard).await?;
            group.lock().epochs[usize::from(shard.0)] = epoch;
            Ok(epoch)
        })
    }

    fn submit_all(&self, batches: Vec<AppendBatch>, done: AllDone) {
        let seen = self.seen();
        if let Some(error) = seen.writes.clone() {
            drop(seen);
            return done(Err(error));
        }
        let mute = seen.mute;
        drop(seen);
        if mute {
            return self.group.memory.submit_all(batches, Box::new(|_| {}));
        }
        let shard = batches.first().map_or(ShardId(0), |batch| batch.entity.shard(SHARDS));
        match self.not_leader(shard) {
            Ok(()) => self.group.memory.submit_all(batches, done),
            Err(error) => done(Err(error)),
        }
    }

    fn submit_with(&self, batch: AppendBatch, _: Ack, done: AppendDone) {
        let seen = self.seen();
        if let Some(error) = seen.writes.clone() {
            drop(seen);
            return done(Err(error));
        }
        let mute = seen.mute;
        drop(seen);
        if mute {
            return self.group.memory.submit(batch, Box::new(|_| {}));
        }
        match self.not_leader(batch.entity.shard(SHARDS)) {
            Ok(()) => self.group.memory.submit(batch, done),
            Err(error) => done(Err(error)),
        }
    }

    fn confirm(&self, shard: ShardId, epoch: Term) -> BoxFuture<'static, Result<(), JournalError>> {
        self.confirms.fetch_add(1, SeqCst);
        let (group, me) = (self.group.clone(), self.me);
        let mut seen = self.seen();
        let heard = seen.cut.then(|| {
            let (told, heard) = oneshot::channel();
            seen.confirming.push(told);
            heard
        });
        drop(seen);
        Box::pin(async move {
            if let Some(heard) = heard {
                heard.await.ok();
            }
            let inner = group.lock();
            if inner.leader != Some(me) {
                return Err(JournalError::NotLeader { shard, leader: inner.leader });
            }
            let current = inner.epochs[usize::from(shard.0)];
            if current != epoch {
                return Err(JournalError::StaleEpoch { shard, stale: epoch, current });
            }
            Ok(())
        })
    }

    fn ownerships(&self) -> Ownerships {
        let (told, heard) = mpsc::unbounded_channel();
        let mut seen = self.seen();
        let now = seen.last.unwrap_or(Ownership::Other { leader: None });
        for shard in 0..SHARDS {
            told.send((ShardId(shard), now)).unwrap();
        }
        seen.followers.push(told);
        stream::unfold(heard, async |mut heard| {
            let next = heard.recv().await?;
            Some((next, heard))
        })
        .boxed()
    }

    fn replay(&self, entity: &EntityId, range: ReplayRange) -> RecordChunks {
        self.group.memory.replay(entity, range)
    }

    fn head(&self, entity: &EntityId) -> BoxFuture<'static, Result<Head, JournalError>> {
        self.group.memory.head(entity)
    }

    fn delete_to(
        &self,
        entity: &EntityId,
        to: Seq,
        epoch: Term,
    ) -> BoxFuture<'static, Result<(), JournalError>> {
        self.group.memory.delete_to(entity, to, epoch)
    }

    fn deletions(&self, shard: ShardId) -> Deletions {
        self.group.memory.deletions(shard)
    }

    fn tail(&self, shard: ShardId, after: Position) -> RecordChunks {
        self.group.memory.tail(shard, after)
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// The wires between the nodes: what is sent arrives at once, where they are not cut.
pub struct Wires {
    inner: Mutex<Ends>,
}

#[derive(Default)]
struct Ends {
    listeners: BTreeMap<(Member, u8), Arc<dyn Receiver>>,
    cut: BTreeSet<(Member, Member)>,
}

/// One node's end of them.
struct End {
    wires: Arc<Wires>,
    me: Member,
}

impl Wires {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { inner: Mutex::default() })
    }

    pub fn end(self: &Arc<Self>, me: Member) -> Arc<dyn Transport> {
        Arc::new(End { wires: self.clone(), me })
    }

    /// Nothing gets through between two nodes.
    pub fn cut(&self, a: Member, b: Member) {
        self.inner.lock().unwrap().cut.extend([(a, b), (b, a)]);
    }

    pub fn heal(&self) {
        self.inner.lock().unwrap().cut.clear();
    }
}

impl Transport for End {
    fn me(&self) -> Member {
        self.me
    }

    fn max_frame_bytes(&self) -> usize {
        64 << 20
    }

    fn send(&self, to: Member, channel: Channel, _: Class, frame: Bytes) -> Result<(), SendError> {
        let ends = self.wires.inner.lock().unwrap();
        if ends.cut.contains(&(self.me, to)) {
            return Err(SendError::NotConnected);
        }
        let listener = ends.listeners.get(&(to, channel as u8)).cloned();
        drop(ends);
        if let Some(listener) = listener {
            listener.event(Event::Frame { from: self.me, session: 1, frame });
        }
        Ok(())
    }

    fn listen(&self, channel: Channel, receiver: Arc<dyn Receiver>) {
        let mut ends = self.wires.inner.lock().unwrap();
        ends.listeners.insert((self.me, channel as u8), receiver);
    }

    fn reach(&self, _: &str) {}

    fn forget(&self, _: &str) {}

    fn peers(&self) -> Vec<Member> {
        let ends = self.wires.inner.lock().unwrap();
        let others = ends.listeners.keys().map(|(member, _)| *member);
        let reached =
            |member: &Member| *member != self.me && !ends.cut.contains(&(self.me, *member));
        others.filter(reached).collect::<BTreeSet<_>>().into_iter().collect()
    }
}
