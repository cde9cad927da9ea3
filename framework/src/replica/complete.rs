//! Before a group gets other voters, each of them gets the snapshots that make up for deleted events:
//! the group's log, which Raft brings them, does not hold what is in those.
//!
//! The node that leads the group asks all who are to vote. Whoever is asked goes through the deletions
//! in its own replica of the log, and gets what it lacks from those who vote now. From before that on,
//! and until the group has its new voters, events are deleted only where the new ones have the snapshot
//! as well.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use duractor_journal::{EntityId, Member, Seq, ShardId, transport::Class};
use duractor_snapshot::Criteria;
use futures_util::{StreamExt, future::BoxFuture, stream};
use tokio::time::{sleep, timeout};

use super::{AT_ONCE, Answer, Fetched, Replicas, wire::Frame};
use crate::task::until;

/// The wait between two attempts at what may be otherwise in a moment.
const AGAIN: Duration = Duration::from_millis(100);
/// How many attempts, before whoever asked hears of the problem.
const ATTEMPTS: usize = 20;

/// A snapshot is being shared, and events below it perhaps deleted, as long as this lives.
pub(crate) struct Sharing<'a> {
    replicas: &'a Replicas,
    key: (ShardId, u64),
}

impl Drop for Sharing<'_> {
    fn drop(&mut self) {
        self.replicas.lock().sharing.remove(&self.key);
        self.replicas.shared.notify_waiters();
    }
}

/// Those who are to vote count as long as this lives.
pub(crate) struct Coming {
    replicas: Arc<Replicas>,
    shard: ShardId,
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.replicas.lock().coming.remove(&self.shard);
    }
}

impl Replicas {
    pub(super) fn sharing(&self, shard: ShardId) -> Sharing<'_> {
        let mut inner = self.lock();
        inner.last = inner.last.wrapping_add(1);
        let key = (shard, inner.last);
        inner.sharing.insert(key);
        drop(inner);
        Sharing { replicas: self, key }
    }

    /// Has all who are to vote in a group that is led here get what they lack. They must be replicas of
    /// it already, and `joining` are those who do not vote yet. What this returns is to be kept until
    /// the group has its voters.
    ///
    /// # Errors
    /// What stands against the change: nothing is lost, and it may be tried again.
    pub(crate) async fn prepare(
        self: &Arc<Self>,
        shard: ShardId,
        voters: &BTreeSet<Member>,
        joining: &BTreeSet<Member>,
    ) -> Result<Coming, String> {
        let me = self.transport.me();
        let mut coming = voters.clone();
        coming.remove(&me);
        let before: BTreeSet<_> = {
            let mut inner = self.lock();
            inner.coming.insert(shard, coming.clone());
            inner.sharing.iter().filter(|(of, _)| *of == shard).copied().collect()
        };
        let guard = Coming { replicas: self.clone(), shard };
        // What was begun before may delete events that the new voters were not asked about.
        until(&self.shared, || self.lock().sharing.is_disjoint(&before).then_some(())).await;
        let mut complete = self.all_complete(shard, &coming).await;
        if voters.contains(&me) {
            complete.insert(me, self.complete(shard).await.err());
        }
        for member in joining {
            match complete.get(member) {
                Some(None) => {}
                Some(Some(problem)) => return Err(format!("{member} lacks snapshots: {problem}")),
                None => return Err(format!("{member} does not say whether it has the snapshots")),
            }
        }
        let good = complete.values().filter(|problem| problem.is_none()).count();
        if good < voters.len() / 2 + 1 {
            return Err(format!("no quorum of the new voters has the snapshots: {complete:?}"));
        }
        Ok(guard)
    }

    /// Asks those who are reached whether they have everything. Who does not answer is missing.
    async fn all_complete(
        &self,
        shard: ShardId,
        members: &BTreeSet<Member>,
    ) -> BTreeMap<Member, Option<String>> {
        let mut question = self.ask();
        let frame = Frame::Complete { id: question.id, shard };
        let asked: BTreeSet<Member> =
            members.iter().copied().filter(|m| self.send(*m, Class::Control, &frame)).collect();
        let mut heard = BTreeMap::new();
        let hear = async {
            while heard.len() < asked.len() {
                let Some((from, answer)) = question.answers.recv().await else { return };
                if let Answer::Completed(problem) = answer
                    && asked.contains(&from)
                {
                    heard.insert(from, problem);
                }
            }
        };
        let within = AGAIN * ATTEMPTS as u32 * 3;
        // Whoever has not answered by then is missing.
        let _ = timeout(within, hear).await;
        heard
    }

    /// Gets the snapshots of a shard that this node lacks.
    ///
    /// # Errors
    /// Why it may lack some.
    pub(super) async fn complete(&self, shard: ShardId) -> Result<(), String> {
        let mut problem = String::new();
        for _ in 0..ATTEMPTS {
            match self.try_complete(shard).await {
                Ok(()) => return Ok(()),
                Err(error) => problem = error,
            }
            sleep(AGAIN).await;
        }
        Err(problem)
    }

    async fn try_complete(&self, shard: ShardId) -> Result<(), String> {
        self.journal.barrier(shard).await.map_err(|error| error.to_string())?;
        let mut pieces = self.journal.deletions(shard);
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| error.to_string())?;
            let each = stream::iter(piece).map(|(entity, to)| self.have(shard, entity, to));
            let mut had = each.buffered(AT_ONCE);
            while let Some(had) = had.next().await {
                had?;
            }
        }
        Ok(())
    }

    /// Makes sure that a snapshot is here that makes up for the events up to `to`.
    fn have(&self, shard: ShardId, entity: EntityId, to: Seq) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let wanted = Criteria { min_seq: to, ..Criteria::ALL };
            match self.snapshots.load(&entity, wanted).await {
                Ok(Some(_)) => return Ok(()),
                Ok(None) => {}
                Err(error) => return Err(error.to_string()),
            }
            match self.fetch(shard, &entity, to, usize::MAX).await {
                Fetched::Found => Ok(()),
                Fetched::Nothing => {
                    // It is lost already, and whoever runs it says so: other voters change nothing.
                    tracing::error!(%entity, %to, "no voter has a snapshot of an entity with deleted events");
                    Ok(())
                }
                Fetched::Unknown => Err(format!("not all voters say whether they have {entity}")),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;
    use duractor_journal::{
        AppendBatch, Env, Journal, Limits, MemoryJournal, NewEvent, Timestamp, Transport,
        transport::memory::MemoryNetwork,
    };
    use duractor_snapshot::{MemorySnapshots, Retention, Saved, Snapshot, SnapshotStore};

    use super::*;
    use crate::task::AbortOnDrop;

    const SHARD: ShardId = ShardId(0);

    struct Nodes {
        network: MemoryNetwork,
        voters: Arc<Mutex<BTreeSet<Member>>>,
        snapshots: Vec<Arc<MemorySnapshots>>,
        replicas: Vec<Arc<Replicas>>,
        _tasks: Vec<AbortOnDrop>,
    }

    fn members(numbers: &[u32]) -> BTreeSet<Member> {
        numbers.iter().map(|n| Member::new(*n, 1)).collect()
    }

    fn entity() -> EntityId {
        in_shard(SHARD, 1)
    }

    fn in_shard(shard: ShardId, shards: u16) -> EntityId {
        let mut all = (0..).map(|n: u32| EntityId::new("account", &n.to_string()).unwrap());
        all.find(|entity| entity.shard(shards) == shard).unwrap()
    }

    fn snapshot(seq: u64) -> Snapshot {
        Snapshot {
            entity: entity(),
            seq: Seq(seq),
            timestamp: Timestamp(1),
            schema_version: 1,
            state: Bytes::from_static(b"state"),
        }
    }

    /// Two replicas of one journal, of which the first votes and has the only snapshot of an entity
    /// whose first five events are deleted.
    async fn nodes() -> Nodes {
        nodes_of(1).await
    }

    /// As [`nodes`], with one such entity in each of so many shards.
    async fn nodes_of(shards: u16) -> Nodes {
        let journal = MemoryJournal::new(shards, Limits::default());
        let mut entities = Vec::new();
        for shard in (0..shards).map(ShardId) {
            let entity = in_shard(shard, shards);
            let epoch = journal.claim(shard).await.unwrap();
            let batch = AppendBatch {
                entity: entity.clone(),
                epoch,
                expected_seq: Seq::ZERO,
                timestamp: Timestamp(1),
                request: None,
                events: vec![NewEvent::new("added", 1, ""); 8],
            };
            journal.append(batch).await.unwrap();
            journal.delete_to(&entity, Seq(5), epoch).await.unwrap();
            entities.push(entity);
        }
        let (network, voters) = (MemoryNetwork::new(), Arc::new(Mutex::new(members(&[1]))));
        let (mut snapshots, mut replicas, mut tasks) = (Vec::new(), Vec::new(), Vec::new());
        for n in 1..=2 {
            let transport = network.start(Member::new(n, 1), &n.to_string());
            transport.reach("1");
            let (store, seen) = (Arc::new(MemorySnapshots::new()), voters.clone());
            let (here, task) = Replicas::start(
                transport,
                Arc::new(move |_| seen.lock().unwrap().clone()),
                journal.clone(),
                store.clone(),
                &Env::production(),
            );
            snapshots.push(store);
            replicas.push(here);
            tasks.push(task);
        }
        // The session comes up.
        sleep(Duration::from_millis(1)).await;
        for entity in entities {
            let snapshot = Snapshot { entity, ..snapshot(5) };
            snapshots[0].save(vec![snapshot], Retention::newest(1)).await.unwrap();
        }
        Nodes { network, voters, snapshots, replicas, _tasks: tasks }
    }

    impl Nodes {
        async fn has(&self, node: usize) -> Option<u64> {
            let found = self.snapshots[node - 1].load(&entity(), Criteria::ALL).await.unwrap();
            found.map(|snapshot| snapshot.seq.0)
        }

        async fn prepare(&self) -> Result<Coming, String> {
            self.replicas[0].prepare(SHARD, &members(&[1, 2]), &members(&[2])).await
        }

        /// The first node saves a snapshot; up to where events may be deleted then.
        async fn share(&self, seq: u64) -> Option<Seq> {
            let saved = Saved { oldest: Seq(seq) };
            self.replicas[0].share(SHARD, snapshot(seq), 1, saved).await.map(|(to, _)| to)
        }
    }

    /// Cause: a group's new voters got its log, and not the snapshots that make up for events deleted
    /// from it. Consequence: when the old voters had left, the state of an entity was gone. Fix: nobody
    /// votes before it has them.
    #[tokio::test(start_paused = true)]
    async fn a_new_voter_gets_the_snapshots_that_it_lacks() {
        let nodes = nodes().await;
        assert_eq!(nodes.has(2).await, None);
        nodes.prepare().await.map(drop).unwrap();
        assert_eq!(nodes.has(2).await, Some(5));
    }

    #[tokio::test(start_paused = true)]
    async fn without_them_it_does_not_vote() {
        let nodes = nodes().await;
        nodes.network.hold("2");
        let refused = nodes.prepare().await.map(drop).unwrap_err();
        assert!(refused.contains("does not say"), "{refused}");
        nodes.network.release("2");
        nodes.prepare().await.map(drop).unwrap();
    }

    /// Otherwise the next deletion would take from it what it was just brought.
    #[tokio::test(start_paused = true)]
    async fn until_it_votes_events_stay_that_it_has_no_snapshot_of() {
        let nodes = nodes().await;
        assert_eq!(nodes.share(6).await, Some(Seq(6)), "the only voter has it");
        let coming = nodes.prepare().await.unwrap();
        assert_eq!(nodes.share(7).await, Some(Seq(7)), "both have it");
        nodes.network.hold("2");
        assert_eq!(nodes.share(8).await, None);
        drop(coming);
        assert_eq!(nodes.share(8).await, Some(Seq(8)), "it does not come after all");
        *nodes.voters.lock().unwrap() = members(&[1, 2]);
        assert_eq!(nodes.share(8).await, None, "it votes, and two of two are needed");
    }

    /// Cause: whoever was asked worked on the question where it works on frames, of which it takes a few at
    /// once, and the answers that it waited for are frames. Consequence: with as many shards at once
    /// none was ever answered. Fix: the questions wait elsewhere.
    #[tokio::test(start_paused = true)]
    async fn many_shards_at_once_are_brought_what_they_lack() {
        let nodes = nodes_of(4 * AT_ONCE as u16).await;
        let (voters, joining) = (members(&[1, 2]), members(&[2]));
        let all = (0..4 * AT_ONCE as u16)
            .map(|shard| nodes.replicas[0].prepare(ShardId(shard), &voters, &joining));
        for prepared in futures_util::future::join_all(all).await {
            prepared.map(drop).unwrap();
        }
    }

    /// What is shared just then may delete events that the new voter was not asked about.
    #[tokio::test(start_paused = true)]
    async fn what_is_being_shared_is_waited_for() {
        let nodes = nodes().await;
        let (to, sharing) =
            nodes.replicas[0].share(SHARD, snapshot(6), 1, Saved { oldest: Seq(6) }).await.unwrap();
        assert_eq!(to, Seq(6));
        let mut prepared = std::pin::pin!(nodes.prepare());
        let early = timeout(Duration::from_secs(1), &mut prepared).await;
        assert!(early.is_err(), "it does not wait for the deletion");
        drop(sharing);
        prepared.await.map(drop).unwrap();
    }
}
