//! The cluster's manager on one node: an actor that follows the cluster's state, decides where this
//! node leads shard 0, and answers what other nodes ask.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use duractor_journal::{JournalError, Member, Role, ShardId, Transport};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;

use super::{
    balance::{Balancer, Rules},
    decide::Decider,
    error::ClusterError,
    event::ClusterEvent,
    execute::{call_off, carry_out, order},
    hello::{check_standing, say_hello, tell_clients, turn_away},
    identity::{Identity, Stage},
    overview::overview,
    plan::{Step, plan},
    probe::Prober,
    records::Records,
    shared::{Shared, TICK},
    sickness::{Rules as SickRules, Watch},
    view::View,
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
    decider: Decider,
    balancer: Balancer,
    watch: Watch,
    /// This node led shard 0 at the last look.
    leading: bool,
    prober: Prober,
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
        let decider = Decider { shared: shared.clone(), records };
        let (balancer, reached) = (Balancer::default(), BTreeSet::new());
        let (watch, prober) = (Watch::default(), Prober::default());
        Ok(ManagerState {
            shared,
            decider,
            balancer,
            watch,
            leading: false,
            prober,
            ticking,
            reached,
        })
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
                request: Request::Order { revision, shard, order: what, basis },
            } => {
                order(&state.shared, (from, id), revision, shard, (what, basis));
            }
            ManagerMessage::Asked { from, id, request: Request::CallOff { shard } } => {
                call_off(&state.shared, shard);
                state.shared.calls.tell(from, &Message::Answer { id, reply: Reply::Done });
            }
            ManagerMessage::Asked { from, id, request } => {
                let reply = state.decider.answer(from, request).await;
                state.shared.calls.tell(from, &Message::Answer { id, reply });
            }
            ManagerMessage::Local { request, reply } => {
                let me = state.shared.me;
                // Whoever stopped waiting does not need it.
                let _ = reply.send(state.decider.answer(me, request).await);
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
        self.decider.records.refresh().await?;
        self.follow();
        self.remember_peers().await?;
        self.report();
        if self.shared.leads() && self.shared.identity().stage == Stage::Member {
            self.lead().await?;
        } else {
            self.leading = false;
            self.shared.set_sick(BTreeMap::new());
        }
        Ok(())
    }

    /// What follows from the cluster's state on every node: whom to link to, whom to let in.
    fn follow(&mut self) {
        let (shared, state) = (&self.shared, &self.decider.records.state);
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
        tell_clients(shared);
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
        let present = self.decider.records.state.present();
        let peers: Vec<_> =
            present.into_iter().filter(|(member, _)| *member != shared.me).collect();
        let mut identity = shared.identity();
        if self.decider.records.state.revision == 0 || identity.peers == peers {
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
            let message = shared.report();
            let peers = if shared.led().is_empty() { Vec::new() } else { shared.gate.peers() };
            for peer in peers {
                shared.calls.tell(peer, &message);
            }
            return;
        };
        if leader == shared.me {
            return;
        }
        shared.calls.tell(leader, &shared.report());
        let known = self.decider.records.state.members.get(&shared.me);
        if known.is_some_and(|known| known.address != shared.address) {
            let request = Request::Moved { address: shared.address.clone() };
            // No answer is needed: it shows in the state.
            shared.calls.tell(leader, &Message::Ask { id: 0, request });
        }
    }

    /// Decides, as the leader of shard 0.
    async fn lead(&mut self) -> Result<(), ClusterError> {
        self.decider.records.refresh_all().await?;
        let address = self.shared.address.clone();
        self.decider.moved(self.shared.me, address).await?;
        if !std::mem::replace(&mut self.leading, true) {
            self.watch = Watch::after(self.shared.said_sick().unwrap_or_default());
        }
        let mut view = self.shared.view();
        view.sick = self.watch_over(&view);
        self.prober.look(&self.shared, &view);
        // Before anything is handed over: who leads next goes on from it.
        self.tell_overview(&view);
        for step in plan(&self.decider.records.state, &view) {
            match step {
                Step::Record(event) => self.decider.records.record(&event).await?,
                step => carry_out(&self.shared, self.decider.records.state.revision, step, &view),
            }
        }
        self.balance(&view).await?;
        // Those of which nothing is heard for a moment only have another leader in a moment.
        let silent = self.shared.silent_for().into_iter().filter(|(_, since)| *since > 2 * TICK);
        let silent: Vec<_> = silent.map(|(shard, _)| shard).collect();
        let what = format!("nobody reports to lead {silent:?}");
        self.shared.problem("shards", (!silent.is_empty()).then_some(what));
        Ok(())
    }

    /// Who had better lead nothing for a while.
    fn watch_over(&mut self, view: &View) -> BTreeMap<Member, String> {
        let now_ms = self.shared.started.elapsed().as_millis() as u64;
        let state = &self.decider.records.state;
        let sick = self.watch.look(state, view, SickRules::default(), now_ms);
        for (member, why) in sick.iter().filter(|(member, _)| !view.sick.contains_key(member)) {
            tracing::warn!(%member, why, "it is to lead nothing until it is well");
        }
        for member in view.sick.keys().filter(|member| !sick.contains_key(member)) {
            tracing::info!(%member, "it is well, and may lead again");
        }
        self.shared.set_sick(sick.clone());
        sick
    }

    /// Moves a leadership because of load, where that is due.
    async fn balance(&mut self, view: &View) -> Result<(), ClusterError> {
        let rules = Rules::of_margin(self.shared.config.cluster.load_margin_percent);
        let now_ms = self.shared.started.elapsed().as_millis() as u64;
        let state = &self.decider.records.state;
        match self.balancer.look(state, view, rules, now_ms) {
            Some(event) if event.level() <= view.level(state) => {
                self.decider.records.record(&event).await
            }
            _ => Ok(()),
        }
    }

    /// Tells everybody who understands it how the cluster is balanced.
    fn tell_overview(&self, view: &View) {
        let (shared, state) = (&self.shared, &self.decider.records.state);
        let status = overview(state, view);
        let term = shared.groups.group(ShardId(0)).term;
        shared.take_overview(term, status.clone());
        let message = Message::Overview { term, status: Box::new(status) };
        for (member, known) in &state.members {
            if known.level >= 2 && *member != shared.me && shared.gate.is_admitted(*member) {
                shared.calls.tell(*member, &message);
            }
        }
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
        self.decider.records.refresh_all().await?;
        let (cluster_id, member) = (identity.cluster_id, shared.me);
        let address = shared.address.clone();
        let event = match self.decider.records.state.cluster_id {
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
            self.decider.records.record(&event).await?;
        }
        identity.stage = Stage::Member;
        self.write_identity(identity).await
    }
}
