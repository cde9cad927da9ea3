//! The cluster's manager on one node: an actor that follows the cluster's state, decides where this
//! node leads shard 0, and answers what other nodes ask.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use duractor_journal::{JournalError, Member, NodeId, Role, ShardId, Transport};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;

use super::{
    error::{ClusterError, Refusal},
    event::ClusterEvent,
    execute::{carry_out, order},
    hello::{check_standing, say_hello, turn_away},
    identity::{Identity, Stage},
    plan::{Step, check_removal, check_rest, plan},
    records::Records,
    shared::Shared,
    state::Phase,
    wire::{ASKING, Message, Reply, Request},
};

/// What the manager is told.
pub(super) enum ManagerMessage {
    /// Look at the cluster.
    Tick,
    /// Another node asks.
    Asked {
        /// Who.
        from: Member,
        /// Its number of the question.
        id: u64,
        /// What.
        request: Request,
    },
    /// This node itself asks.
    Local {
        /// What.
        request: Request,
        /// Where the answer goes.
        reply: oneshot::Sender<Reply>,
    },
}

// Local only: never sent to another node.
impl ractor::Message for ManagerMessage {}

/// The actor.
pub(super) struct Manager;

/// What it works with.
pub(super) struct ManagerState {
    shared: Arc<Shared>,
    records: Records,
    ticking: Arc<AtomicBool>,
    reached: BTreeSet<String>,
}

impl Actor for Manager {
    type Msg = ManagerMessage;
    type State = ManagerState;
    /// The last is set while a tick waits to be handled.
    type Arguments = (Arc<Shared>, Records, Arc<AtomicBool>);

    async fn pre_start(
        &self,
        _: ActorRef<ManagerMessage>,
        (shared, records, ticking): Self::Arguments,
    ) -> Result<ManagerState, ActorProcessingErr> {
        Ok(ManagerState { shared, records, ticking, reached: BTreeSet::new() })
    }

    async fn handle(
        &self,
        _: ActorRef<ManagerMessage>,
        message: ManagerMessage,
        state: &mut ManagerState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ManagerMessage::Tick => {
                state.ticking.store(false, Ordering::Relaxed);
                let problem = state.tick().await.err().map(|error| error.to_string());
                state.shared.problem("the cluster's state", problem);
            }
            ManagerMessage::Asked {
                id,
                from,
                request: Request::Order { revision, shard, order: what },
            } => {
                order(&state.shared, (from, id), revision, shard, what);
            }
            ManagerMessage::Asked { from, id, request } => {
                let reply = state.answer(from, request).await;
                state.shared.calls.tell(from, &Message::Answer { id, reply });
            }
            ManagerMessage::Local { request, reply } => {
                let me = state.shared.me;
                // Whoever stopped waiting does not need it.
                let _ = reply.send(state.answer(me, request).await);
            }
        }
        Ok(())
    }
}

impl ManagerState {
    async fn tick(&mut self) -> Result<(), ClusterError> {
        if self.shared.out().is_some() {
            return Ok(());
        }
        self.finish_forming().await?;
        self.records.refresh().await?;
        self.follow();
        self.remember_peers().await?;
        self.report();
        if self.shared.leads() && self.shared.identity().stage == Stage::Member {
            self.lead().await?;
        }
        Ok(())
    }

    /// What follows from the cluster's state on every node: whom to link to, whom to let in.
    fn follow(&mut self) {
        let (shared, state) = (&self.shared, &self.records.state);
        shared.set_state(state);
        let present = state.present();
        let others = present.iter().filter(|(member, _)| **member != shared.me);
        let wanted: BTreeSet<String> = others.map(|(_, address)| address.clone()).collect();
        for address in self.reached.difference(&wanted) {
            shared.gate.forget(address);
        }
        for address in wanted.difference(&self.reached) {
            shared.gate.reach(address);
        }
        self.reached = wanted;
        for peer in shared.sessions().into_keys() {
            match check_standing(state, peer) {
                Err(refusal) if peer.incarnation != ASKING => {
                    turn_away(shared, peer, refusal);
                }
                // The first one may have been lost.
                _ if !shared.gate.is_admitted(peer) => say_hello(shared, peer),
                _ => {}
            }
        }
        if let Err(refusal) = check_standing(state, shared.me) {
            shared.refused_by(shared.me, refusal, true);
        }
    }

    /// Keeps the members' addresses for the next start.
    async fn remember_peers(&self) -> Result<(), ClusterError> {
        let shared = &self.shared;
        let present = self.records.state.present();
        let peers: Vec<_> =
            present.into_iter().filter(|(member, _)| *member != shared.me).collect();
        let mut identity = shared.identity();
        if self.records.state.revision == 0 || identity.peers == peers {
            return Ok(());
        }
        identity.peers = peers;
        self.write_identity(identity).await
    }

    async fn write_identity(&self, identity: Identity) -> Result<(), ClusterError> {
        let (disk, dir) = (self.shared.env.disk.clone(), self.shared.config.node.data_dir.clone());
        let written = identity.clone();
        let job = move || written.write(&*disk, &dir);
        self.shared.env.offload(job).await.unwrap_or(Err(ClusterError::Closed))?;
        self.shared.set_identity(identity);
        Ok(())
    }

    /// Tells the leader of shard 0 of the groups that are led here, and of this node's address.
    fn report(&self) {
        let shared = &self.shared;
        let Some(leader) = shared.groups.group(ShardId(0)).leader else {
            // One of them may lead: a node that is out of shard 0 and leads another group would be
            // given no orders for it, and nobody could take that over.
            let message = Message::Report { groups: shared.led() };
            let peers = if shared.led().is_empty() { Vec::new() } else { shared.gate.peers() };
            for peer in peers {
                shared.calls.tell(peer, &message);
            }
            return;
        };
        if leader == shared.me {
            return;
        }
        shared.calls.tell(leader, &Message::Report { groups: shared.led() });
        let known = self.records.state.members.get(&shared.me);
        if known.is_some_and(|known| known.address != shared.address) {
            let request = Request::Moved { address: shared.address.clone() };
            // No answer is needed: it shows in the state.
            shared.calls.tell(leader, &Message::Ask { id: 0, request });
        }
    }

    /// Decides, as the leader of shard 0.
    async fn lead(&mut self) -> Result<(), ClusterError> {
        self.records.refresh_all().await?;
        let address = self.shared.address.clone();
        self.moved(self.shared.me, address).await?;
        let view = self.shared.view();
        for step in plan(&self.records.state, &view) {
            match step {
                Step::Record(event) => self.records.record(&event).await?,
                step => carry_out(&self.shared, self.records.state.revision, step),
            }
        }
        let silent = (0..self.records.state.shards).map(ShardId);
        let silent: Vec<_> = silent.filter(|shard| !view.groups.contains_key(shard)).collect();
        let what = format!("nobody reports to lead {silent:?}");
        self.shared.problem("shards", (!silent.is_empty()).then_some(what));
        Ok(())
    }

    /// Does what is left to do of forming the cluster, or of forming it anew.
    async fn finish_forming(&mut self) -> Result<(), ClusterError> {
        let shared = self.shared.clone();
        let mut identity = shared.identity();
        if identity.stage == Stage::Member {
            return Ok(());
        }
        for shard in (0..shared.groups.shards()).map(ShardId) {
            if shared.groups.group(shard).role == Role::Outside {
                match shared.groups.initialize(shard, [shared.me].into()).await {
                    // It is, and its replica is just starting.
                    Ok(()) | Err(JournalError::Membership { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        if !shared.leads() {
            return Ok(());
        }
        self.records.refresh_all().await?;
        let (cluster_id, member) = (identity.cluster_id, shared.me);
        let address = shared.address.clone();
        let event = match self.records.state.cluster_id {
            Some(id) if id == cluster_id => None,
            Some(_) => {
                let reason = "made the only node of a new cluster, by command".to_owned();
                Some(ClusterEvent::Recovered { cluster_id, member, address, reason })
            }
            None => Some(ClusterEvent::Formed {
                cluster_id,
                name: identity.cluster.clone(),
                shards: shared.groups.shards(),
                replication: shared.config.cluster.replication,
                member,
                address,
                reason: "formed by command".into(),
            }),
        };
        if let Some(event) = event {
            self.records.record(&event).await?;
        }
        identity.stage = Stage::Member;
        self.write_identity(identity).await
    }

    async fn moved(&mut self, member: Member, address: String) -> Result<(), ClusterError> {
        let known = self.records.state.members.get(&member);
        if known.is_some_and(|known| known.address != address) {
            let reason = "the node says so".to_owned();
            self.records.record(&ClusterEvent::Moved { member, address, reason }).await?;
        }
        Ok(())
    }

    /// Answers what only the leader of shard 0 can.
    async fn answer(&mut self, from: Member, request: Request) -> Reply {
        match self.decide(from, request).await {
            Ok(reply) => reply,
            Err(ClusterError::Refused(refusal)) => Reply::Refused { refusal },
            Err(error) => {
                let reason = error.to_string();
                let refusal = match error.effect() {
                    duractor_journal::Effect::None => Refusal::NotNow { reason },
                    duractor_journal::Effect::Unknown => Refusal::Unfinished { reason },
                };
                Reply::Refused { refusal }
            }
        }
    }

    async fn decide(&mut self, from: Member, request: Request) -> Result<Reply, ClusterError> {
        if !self.shared.leads() || self.shared.identity().stage != Stage::Member {
            let leader = self.shared.groups.group(ShardId(0)).leader;
            let present = self.records.state.present();
            let address = leader.and_then(|leader| present.get(&leader).cloned());
            let address = address.filter(|address| *address != self.shared.address);
            return Err(Refusal::NotLeader { address }.into());
        }
        self.records.refresh_all().await?;
        self.shared.set_state(&self.records.state);
        match request {
            Request::Join { node, address, token } => self.join(node, address, token).await,
            Request::Leave => self.leave(from).await,
            Request::Remove { node, force, reason } => self.remove(node, force, reason).await,
            Request::Moved { address } => {
                self.moved(from, address).await?;
                Ok(Reply::Done)
            }
            Request::Standing { member } => {
                let phase = self.records.state.phase_of(member);
                Ok(Reply::Standing { present: phase.is_some_and(|p| p != Phase::Removed) })
            }
            Request::Which | Request::Order { .. } => Ok(Reply::Done),
        }
    }

    /// Lets a node in, with an empty disk: its next incarnation.
    async fn join(
        &mut self,
        node: NodeId,
        address: String,
        token: u64,
    ) -> Result<Reply, ClusterError> {
        let newest = self.records.state.newest(node);
        let newest = newest.and_then(|m| Some((m, self.records.state.members.get(&m)?.clone())));
        let mut reason = "a new node".to_owned();
        let mut incarnation = 1;
        if let Some((member, known)) = newest {
            if known.token == token && known.phase != Phase::Removed {
                return Ok(self.welcome(member));
            }
            incarnation = member.incarnation + 1;
            if known.phase != Phase::Removed {
                if member == self.shared.me || self.shared.session(member).is_some() {
                    return Err(Refusal::StillUp { node }.into());
                }
                reason = format!("it takes the place of {member}, whose disk is gone");
                let event = ClusterEvent::Removing { member, reason: "its disk is gone".into() };
                self.records.record(&event).await?;
            }
        }
        let member = Member { node, incarnation };
        self.records.record(&ClusterEvent::Joining { member, address, token, reason }).await?;
        Ok(self.welcome(member))
    }

    fn welcome(&self, member: Member) -> Reply {
        let state = &self.records.state;
        Reply::Welcome {
            cluster_id: self.shared.identity().cluster_id,
            incarnation: member.incarnation,
            shards: state.shards,
            members: state.present().into_iter().filter(|(other, _)| *other != member).collect(),
        }
    }

    async fn leave(&mut self, member: Member) -> Result<Reply, ClusterError> {
        let state = &self.records.state;
        match state.phase_of(member) {
            Some(Phase::Joined | Phase::Joining) => {}
            Some(Phase::Leaving | Phase::Removing | Phase::Removed) => return Ok(Reply::Done),
            None => return Err(Refusal::UnknownNode { node: member.node }.into()),
        }
        check_rest(state, &self.shared.view(), member)?;
        let reason = "the node wants to leave".to_owned();
        self.records.record(&ClusterEvent::Leaving { member, reason }).await?;
        Ok(Reply::Done)
    }

    async fn remove(
        &mut self,
        node: NodeId,
        force: bool,
        reason: String,
    ) -> Result<Reply, ClusterError> {
        let state = &self.records.state;
        let unknown = Refusal::UnknownNode { node };
        let member = state.newest(node).ok_or_else(|| unknown.clone())?;
        match state.phase_of(member) {
            Some(Phase::Removing) => return Ok(Reply::Done),
            Some(Phase::Removed) | None => return Err(unknown.into()),
            _ => {}
        }
        check_removal(state, &self.shared.view(), member, force)?;
        self.records.record(&ClusterEvent::Removing { member, reason }).await?;
        Ok(Reply::Done)
    }
}
