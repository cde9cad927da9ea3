//! Snapshots follow to the shard's other replicas, so that the next owner recovers as fast as this
//! one, and so that events below them may be deleted at all.
//!
//! A snapshot is sent once, and may be lost: nothing depends on it but what is kept for it. Events
//! are deleted only up to where every snapshot that a quorum of the shard's voters keeps does without
//! them, as each of that quorum has said for itself. A voter beyond that quorum may lack the snapshot
//! and, with the deletion, the events: when it becomes the owner it asks the others, of whom one has
//! it, because any two quorums share a voter.
//!
//! That holds for one set of voters. Before a group gets other ones, they get what they lack:
//! [`complete`].

mod complete;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use duractor_journal::{
    EntityId, Env, Journal, Member, Seq, ShardId, Transport,
    transport::{Channel, Class, Event, Receiver},
};
use duractor_snapshot::{Criteria, Retention, Saved, Snapshot, SnapshotStore};
use futures_util::{StreamExt, stream};
use tokio::{
    sync::{Notify, mpsc},
    time::timeout,
};

use self::{complete::Sharing, wire::Frame};
use crate::task::AbortOnDrop;

/// How long a quorum may take to keep a snapshot. After that its events stay until the next one.
const KEEP: Duration = Duration::from_secs(10);
/// How long the others may take to say whether they have a snapshot.
const FETCH: Duration = Duration::from_secs(2);
/// Frames from other nodes that wait to be worked on. More are dropped: they are sent again with the
/// next snapshot.
const WAITING: usize = 64;
/// Of these, how many are worked on at once, so that they share an fsync.
const AT_ONCE: usize = 16;

/// Who votes in a shard's group, as this node knows.
pub(crate) type Voters = Arc<dyn Fn(ShardId) -> BTreeSet<Member> + Send + Sync>;

/// The snapshot stores of the other nodes.
pub(crate) struct Replicas {
    transport: Arc<dyn Transport>,
    voters: Voters,
    journal: Arc<dyn Journal>,
    snapshots: Arc<dyn SnapshotStore>,
    inner: Mutex<Inner>,
    /// Woken when a snapshot is not being shared any more.
    shared: Notify,
}

#[derive(Default)]
struct Inner {
    /// The newest question's number.
    last: u64,
    /// Who waits for answers to which question.
    waiting: BTreeMap<u64, mpsc::UnboundedSender<(Member, Answer)>>,
    /// Who is to vote in a group, and must have what its voters have.
    coming: BTreeMap<ShardId, BTreeSet<Member>>,
    /// Snapshots that are being shared, or for which events are being deleted.
    sharing: BTreeSet<(ShardId, u64)>,
}

enum Answer {
    Saved(Seq),
    Fetched(Option<Snapshot>),
    Completed(Option<String>),
}

/// What the others have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// A snapshot; it is saved here.
    Found,
    /// None of them has one.
    Nothing,
    /// Not all of them have answered.
    Unknown,
}

/// A question under way; forgotten when dropped.
struct Question<'a> {
    replicas: &'a Replicas,
    id: u64,
    answers: mpsc::UnboundedReceiver<(Member, Answer)>,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.replicas.lock().waiting.remove(&self.id);
    }
}

impl Replicas {
    /// Listens to the others, as long as the task is kept.
    pub(crate) fn start(
        transport: Arc<dyn Transport>,
        voters: Voters,
        journal: Arc<dyn Journal>,
        snapshots: Arc<dyn SnapshotStore>,
        env: &Env,
    ) -> (Arc<Self>, AbortOnDrop) {
        // Not from 1: an answer to an earlier life of this node must not be taken for one to this.
        let inner = Mutex::new(Inner { last: env.entropy.next_u64(), ..Inner::default() });
        let shared = Notify::new();
        let replicas = Arc::new(Self { transport, voters, journal, snapshots, inner, shared });
        let (frames, waiting) = mpsc::channel(WAITING);
        replicas.transport.listen(Channel::Snapshots, Arc::new(Inbox(frames)));
        let working = replicas.clone();
        let task = tokio::spawn(async move {
            let frames = stream::unfold(waiting, async |mut waiting: mpsc::Receiver<_>| {
                let frame = waiting.recv().await?;
                Some((frame, waiting))
            });
            frames.for_each_concurrent(AT_ONCE, |(from, frame)| working.take(from, frame)).await;
        });
        let task = AbortOnDrop::new(&task);
        (replicas, task)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self) -> Question<'_> {
        let (told, answers) = mpsc::unbounded_channel();
        let mut inner = self.lock();
        inner.last = inner.last.wrapping_add(1);
        let id = inner.last;
        inner.waiting.insert(id, told);
        drop(inner);
        Question { replicas: self, id, answers }
    }

    /// Sends a frame; true where it is on its way.
    fn send(&self, to: Member, class: Class, frame: &Frame) -> bool {
        let sent = frame.encode().map(|frame| {
            self.transport.send(to, Channel::Snapshots, class, frame).map_err(|e| e.to_string())
        });
        let sent = sent.and_then(|sent| sent);
        if let Err(error) = &sent {
            tracing::debug!(%to, error, "not sent");
        }
        sent.is_ok()
    }

    /// Who else votes, and how many of all are a quorum.
    fn others(&self, shard: ShardId) -> (BTreeSet<Member>, usize) {
        let mut voters = (self.voters)(shard);
        let quorum = voters.len() / 2 + 1;
        voters.remove(&self.transport.me());
        (voters, quorum)
    }

    /// Sends a snapshot that was saved here to the other voters, and to those who are about to be.
    /// Returns up to where events may be deleted, while [`Sharing`] lives: `None` where no quorum has
    /// said in time that it has the snapshot.
    pub(crate) async fn share(
        &self,
        shard: ShardId,
        snapshot: Snapshot,
        keep: usize,
        Saved { oldest }: Saved,
    ) -> Option<(Seq, Sharing<'_>)> {
        let sharing = self.sharing(shard);
        let coming = self.lock().coming.get(&shard).cloned().unwrap_or_default();
        let (mut others, quorum) = self.others(shard);
        let voters = others.clone();
        others.extend(&coming);
        let mut question = self.ask();
        let keep = u32::try_from(keep).unwrap_or(u32::MAX);
        let frame = Frame::Save { id: question.id, keep, snapshot };
        for &voter in &others {
            self.send(voter, Class::Bulk, &frame);
        }
        drop(frame);
        let mut kept = BTreeMap::new();
        let enough = async {
            // This node is one of them.
            while kept.keys().filter(|member| voters.contains(member)).count() + 1 < quorum
                || !coming.iter().all(|member| kept.contains_key(member))
            {
                if let (from, Answer::Saved(oldest)) = question.answers.recv().await?
                    && others.contains(&from)
                {
                    kept.insert(from, oldest);
                }
            }
            Some(())
        };
        timeout(KEEP, enough).await.ok()??;
        Some((kept.into_values().fold(oldest, Seq::min), sharing))
    }

    /// Gets the newest snapshot of an entity, at `least` or later, from whichever voter has one, and
    /// saves it here.
    pub(crate) async fn fetch(
        &self,
        shard: ShardId,
        entity: &EntityId,
        least: Seq,
        keep: usize,
    ) -> Fetched {
        let (others, _) = self.others(shard);
        let mut question = self.ask();
        let frame = Frame::Fetch { id: question.id, entity: entity.clone(), least };
        for &voter in &others {
            self.send(voter, Class::Control, &frame);
        }
        let mut without = BTreeSet::new();
        let asking = async {
            while without.len() < others.len() {
                match question.answers.recv().await? {
                    (_, Answer::Fetched(Some(snapshot)))
                        if snapshot.entity == *entity && snapshot.seq >= least =>
                    {
                        return Some(snapshot);
                    }
                    (from, Answer::Fetched(_)) if others.contains(&from) => {
                        without.insert(from);
                    }
                    _ => {}
                }
            }
            None
        };
        let found = timeout(FETCH, asking).await;
        match found {
            Ok(Some(snapshot)) => {
                let seq = snapshot.seq;
                match self.snapshots.save(vec![snapshot], Retention::newest(keep)).await {
                    Ok(_) => {
                        tracing::info!(%entity, %seq, "a snapshot came from another node");
                        Fetched::Found
                    }
                    Err(error) => {
                        tracing::warn!(%entity, %seq, %error, "no snapshot saved");
                        Fetched::Unknown
                    }
                }
            }
            Ok(None) => Fetched::Nothing,
            Err(_) => Fetched::Unknown,
        }
    }

    /// Works on a frame from another node.
    async fn take(self: &Arc<Self>, from: Member, frame: Frame) {
        match frame {
            Frame::Save { id, keep, snapshot } => {
                let keep = Retention::newest(usize::try_from(keep).unwrap_or(usize::MAX));
                match self.snapshots.save(vec![snapshot], keep).await {
                    Ok(saved) => {
                        if let Some(Saved { oldest }) = saved.first().copied() {
                            self.send(from, Class::Control, &Frame::Saved { id, oldest });
                        }
                    }
                    Err(error) => tracing::warn!(%from, %error, "a snapshot was not saved"),
                }
            }
            Frame::Fetch { id, entity, least } => {
                let newest = Criteria { min_seq: least, ..Criteria::ALL };
                match self.snapshots.load(&entity, newest).await {
                    Ok(snapshot) => {
                        self.send(from, Class::Bulk, &Frame::Fetched { id, snapshot });
                    }
                    // No answer: that there is none would be wrong to say.
                    Err(error) => tracing::warn!(%from, %entity, %error, "no snapshot read"),
                }
            }
            Frame::Complete { id, shard } => {
                // It waits for answers that come as frames, and must not stand in their way.
                let replicas = self.clone();
                tokio::spawn(async move {
                    let problem = replicas.complete(shard).await.err();
                    replicas.send(from, Class::Control, &Frame::Completed { id, problem });
                });
            }
            Frame::Saved { id, oldest } => self.answer(from, id, Answer::Saved(oldest)),
            Frame::Completed { id, problem } => self.answer(from, id, Answer::Completed(problem)),
            Frame::Fetched { id, snapshot } => self.answer(from, id, Answer::Fetched(snapshot)),
        }
    }

    fn answer(&self, from: Member, id: u64, answer: Answer) {
        if let Some(waiting) = self.lock().waiting.get(&id) {
            // It fails where nobody waits any more.
            let _ = waiting.send((from, answer));
        }
    }
}

/// Takes frames from the transport.
struct Inbox(mpsc::Sender<(Member, Frame)>);

impl Receiver for Inbox {
    fn event(&self, event: Event) {
        let Event::Frame { from, frame, .. } = event else { return };
        match Frame::decode(&frame) {
            Ok(frame) => {
                if self.0.try_send((from, frame)).is_err() {
                    tracing::debug!(%from, "too many snapshots at once: one is dropped");
                }
            }
            Err(reason) => tracing::warn!(%from, reason, "a frame about snapshots is refused"),
        }
    }
}
