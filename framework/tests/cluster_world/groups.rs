//! Groups that do at once what Raft would take its time for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use duractor::cluster::{Groups, connect::OpenGroups};
use duractor_journal::{
    Ack, AllDone, AppendBatch, AppendDone, Deletions, EntityId, Env, GroupStatus, Head, Journal,
    JournalError, Limits, LogConfig, Member, MemoryJournal, Position, RecordChunks, ReplayRange,
    Replication, Role, Seq, ShardId, Term, Transport,
};
use futures_util::{
    future::BoxFuture,
    stream::{self, BoxStream},
};

use super::network::Network;

#[derive(Debug, Clone, Default)]
pub struct Group {
    pub voters: BTreeSet<Member>,
    pub learners: BTreeSet<Member>,
    pub leader: Option<Member>,
    pub term: u64,
}

/// All groups, as they are on all nodes.
pub struct World {
    shards: u16,
    network: Arc<Network>,
    journal: Arc<MemoryJournal>,
    groups: Mutex<Vec<Group>>,
    /// Whose journal does not open the next time.
    damaged: Mutex<BTreeSet<Member>>,
    /// Whose group changes are not finished, for so many times.
    pub failing: Mutex<u32>,
    /// Whose log is slow, and how slow, in milliseconds.
    pub delays: Mutex<BTreeMap<Member, u64>>,
    /// All hand-overs that there were.
    pub transfers: Mutex<Vec<(ShardId, Member)>>,
    /// Whoever was made the only voter.
    pub forced: Mutex<Vec<Member>>,
}

impl World {
    pub fn new(shards: u16, network: Arc<Network>) -> Arc<Self> {
        Arc::new(Self {
            shards,
            network,
            journal: MemoryJournal::new(shards, Limits::default()),
            groups: Mutex::new(vec![Group::default(); usize::from(shards)]),
            damaged: Mutex::default(),
            failing: Mutex::default(),
            delays: Mutex::default(),
            transfers: Mutex::default(),
            forced: Mutex::default(),
        })
    }

    /// The groups as they are now. Those that lost their leader have elected another, where a
    /// majority of the voters is up.
    pub fn groups(&self) -> Vec<Group> {
        let mut groups = self.groups.lock().unwrap();
        for group in groups.iter_mut() {
            let up: Vec<_> =
                group.voters.iter().copied().filter(|v| self.network.is_up(*v)).collect();
            let quorum = up.len() * 2 > group.voters.len();
            if !quorum {
                group.leader = None;
            } else if !group.leader.is_some_and(|leader| up.contains(&leader)) {
                group.leader = up.first().copied();
                group.term += 1;
            }
        }
        groups.clone()
    }

    pub fn group_of(&self, shard: u16) -> Group {
        self.groups()[usize::from(shard)].clone()
    }

    pub fn damage(&self, member: Member) {
        self.damaged.lock().unwrap().insert(member);
    }

    pub fn journal(&self) -> Arc<MemoryJournal> {
        self.journal.clone()
    }
}

/// Opens a node's replicas.
pub struct Opener(pub Arc<World>);

impl OpenGroups for Opener {
    fn open(
        &self,
        config: LogConfig,
        _: Env,
        replication: Replication,
    ) -> BoxFuture<'static, Result<Arc<dyn Groups>, JournalError>> {
        let world = self.0.clone();
        Box::pin(async move {
            let me = replication.transport.me();
            assert_eq!(config.shards, world.shards, "{me} opens with the cluster's shards");
            std::fs::create_dir_all(&config.dir).unwrap();
            std::fs::write(config.dir.join("META"), me.to_string()).unwrap();
            if world.damaged.lock().unwrap().remove(&me) {
                return Err(JournalError::corrupt(config.dir.join("META"), 7, "a flipped bit"));
            }
            Ok(Arc::new(Replicas { world, me, transport: replication.transport }) as _)
        })
    }

    fn force_single_voter(
        &self,
        _: LogConfig,
        _: Env,
        me: Member,
    ) -> BoxFuture<'static, Result<Vec<ShardId>, JournalError>> {
        let world = self.0.clone();
        Box::pin(async move {
            world.forced.lock().unwrap().push(me);
            let mut kept = Vec::new();
            for (n, group) in world.groups.lock().unwrap().iter_mut().enumerate() {
                let here = group.voters.contains(&me) || group.learners.contains(&me);
                let term = group.term + 1;
                *group = Group { term, ..Group::default() };
                if here {
                    group.voters = [me].into();
                    kept.push(ShardId(n as u16));
                }
            }
            Ok(kept)
        })
    }
}

/// A node's replicas of all groups.
struct Replicas {
    world: Arc<World>,
    me: Member,
    transport: Arc<dyn Transport>,
}

impl Replicas {
    fn check_leader(&self, shard: ShardId) -> Result<(), JournalError> {
        let group = self.world.group_of(shard.0);
        if group.leader == Some(self.me) {
            return Ok(());
        }
        Err(JournalError::NotLeader { shard, leader: group.leader })
    }

    fn refuse<T>(&self, shard: ShardId, reason: &str) -> Result<T, JournalError> {
        Err(JournalError::Membership { shard, reason: reason.into() })
    }

    fn change(
        &self,
        shard: ShardId,
        voters: BTreeSet<Member>,
        learners: BTreeSet<Member>,
    ) -> Result<(), JournalError> {
        self.check_leader(shard)?;
        assert!(!voters.is_empty() && voters.is_disjoint(&learners), "{voters:?} {learners:?}");
        {
            let mut failing = self.world.failing.lock().unwrap();
            if *failing > 0 {
                *failing -= 1;
                return self.refuse(shard, "told to fail");
            }
        }
        // A replica hears of its leader through links that were let in, and in no other way.
        let reached = self.transport.peers();
        let up = |member: &&Member| **member == self.me || reached.contains(member);
        let old = self.world.group_of(shard.0);
        for who in [&old.voters, &voters] {
            if who.iter().filter(up).count() * 2 <= who.len() {
                return self.refuse(shard, "no quorum");
            }
        }
        if !voters
            .difference(&old.voters)
            .chain(&learners)
            .all(|m| up(&m) || old.learners.contains(m))
        {
            return self.refuse(shard, "a new replica cannot be reached");
        }
        let mut groups = self.world.groups.lock().unwrap();
        let group = &mut groups[usize::from(shard.0)];
        (group.voters, group.learners) = (voters, learners);
        if !group.voters.contains(&self.me) {
            group.leader = None;
        }
        Ok(())
    }
}

impl Groups for Replicas {
    fn initialize(
        &self,
        shard: ShardId,
        voters: BTreeSet<Member>,
    ) -> BoxFuture<'_, Result<(), JournalError>> {
        let mut groups = self.world.groups.lock().unwrap();
        let group = &mut groups[usize::from(shard.0)];
        let result = if group.voters.is_empty() {
            group.voters = voters;
            Ok(())
        } else {
            self.refuse(shard, "it is there already")
        };
        Box::pin(async { result })
    }

    fn group(&self, shard: ShardId) -> GroupStatus {
        let group = self.world.group_of(shard.0);
        let mut status = GroupStatus::outside(shard);
        status.role = if group.leader == Some(self.me) {
            Role::Leader
        } else if group.voters.contains(&self.me) {
            Role::Follower
        } else if group.learners.contains(&self.me) {
            Role::Learner
        } else {
            return status;
        };
        status.term = Term(group.term);
        status.leader = group.leader;
        if status.role == Role::Leader {
            let others = group.voters.iter().chain(&group.learners).copied();
            let reached = self.transport.peers();
            status.replicated = others
                .filter(|other| *other != self.me)
                .map(|other| (other, reached.contains(&other).then_some(1)))
                .collect::<BTreeMap<_, _>>();
        }
        (status.voters, status.learners) = (group.voters, group.learners);
        (status.last_index, status.applied_index) = (Some(1), Some(1));
        status
    }

    fn delay_ms(&self) -> u64 {
        self.world.delays.lock().unwrap().get(&self.me).copied().unwrap_or(0)
    }

    fn group_changes(&self) -> BoxStream<'static, ShardId> {
        Box::pin(stream::pending())
    }

    fn change_members(
        &self,
        shard: ShardId,
        voters: BTreeSet<Member>,
        learners: BTreeSet<Member>,
    ) -> BoxFuture<'_, Result<(), JournalError>> {
        Box::pin(async move { self.change(shard, voters, learners) })
    }

    fn transfer_leadership(
        &self,
        shard: ShardId,
        to: Member,
    ) -> BoxFuture<'_, Result<(), JournalError>> {
        Box::pin(async move {
            self.check_leader(shard)?;
            if !self.transport.peers().contains(&to) {
                return self.refuse(shard, "the other cannot be reached");
            }
            self.world.transfers.lock().unwrap().push((shard, to));
            let mut groups = self.world.groups.lock().unwrap();
            let group = &mut groups[usize::from(shard.0)];
            assert!(group.voters.contains(&to), "only a voter leads");
            (group.leader, group.term) = (Some(to), group.term + 1);
            Ok(())
        })
    }
}

impl Journal for Replicas {
    fn limits(&self) -> Limits {
        self.world.journal.limits()
    }

    fn shards(&self) -> u16 {
        self.world.shards
    }

    fn claim(&self, shard: ShardId) -> BoxFuture<'static, Result<Term, JournalError>> {
        match self.check_leader(shard) {
            Ok(()) => self.world.journal.claim(shard),
            Err(error) => Box::pin(async { Err(error) }),
        }
    }

    fn submit_with(&self, batch: AppendBatch, ack: Ack, done: AppendDone) {
        match self.check_leader(batch.entity.shard(self.world.shards)) {
            Ok(()) => self.world.journal.submit_with(batch, ack, done),
            Err(error) => done(Err(error)),
        }
    }

    fn submit_all(&self, batches: Vec<AppendBatch>, done: AllDone) {
        let Some(first) = batches.first() else { return done(Ok(Vec::new())) };
        match self.check_leader(first.entity.shard(self.world.shards)) {
            Ok(()) => self.world.journal.submit_all(batches, done),
            Err(error) => done(Err(error)),
        }
    }

    fn barrier(&self, shard: ShardId) -> BoxFuture<'static, Result<Position, JournalError>> {
        let result = self.check_leader(shard).map(|()| Position::ZERO);
        Box::pin(async { result })
    }

    fn replay(&self, entity: &EntityId, range: ReplayRange) -> RecordChunks {
        self.world.journal.replay(entity, range)
    }

    fn head(&self, entity: &EntityId) -> BoxFuture<'static, Result<Head, JournalError>> {
        let shard = entity.shard(self.world.shards);
        // Who has no replica sees nothing.
        if self.group(shard).role == Role::Outside {
            return Box::pin(async { Ok(Head::default()) });
        }
        self.world.journal.head(entity)
    }

    fn delete_to(
        &self,
        entity: &EntityId,
        to: Seq,
        epoch: Term,
    ) -> BoxFuture<'static, Result<(), JournalError>> {
        self.world.journal.delete_to(entity, to, epoch)
    }

    fn deletions(&self, shard: ShardId) -> Deletions {
        self.world.journal.deletions(shard)
    }

    fn tail(&self, shard: ShardId, after: Position) -> RecordChunks {
        self.world.journal.tail(shard, after)
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        // The other replicas go on.
        Box::pin(async {})
    }
}
