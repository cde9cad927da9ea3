//! What only the leader of shard 0 may do: letting members in and out, and what operators ask for.

use std::{sync::Arc, time::Duration};

use duractor_journal::{Member, NodeId, ShardId};

use super::{
    checks::{check_drain, check_removal, check_rest, drain_status, list},
    error::{ClusterError, Refusal},
    event::ClusterEvent,
    execute::call_off,
    forecast::forecast,
    identity::Stage,
    noted::description,
    properties::{About, Affinity, DrainMode},
    records::Records,
    shared::Shared,
    state::{Phase, Wish},
    wire::{Message, Operation, Reply, Request},
};

/// A group that has a leader is heard of within this time.
const INFORMED: Duration = Duration::from_secs(1);

/// Decides, and records what was decided.
pub(super) struct Decider {
    pub(super) shared: Arc<Shared>,
    pub(super) records: Records,
}

impl Decider {
    pub(super) async fn moved(
        &mut self,
        member: Member,
        address: String,
    ) -> Result<(), ClusterError> {
        let known = self.records.state.members.get(&member);
        if known.is_some_and(|known| known.address != address) {
            let reason = "the node says so".to_owned();
            self.records.record(&ClusterEvent::Moved { member, address, reason }).await?;
        }
        Ok(())
    }

    /// Answers what only the leader of shard 0 can.
    pub(super) async fn answer(&mut self, from: Member, request: Request) -> Reply {
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
        self.check_informed(&request)?;
        match request {
            Request::Join { node, address, token, about } => {
                self.join(node, address, token, about).await
            }
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
            Request::Operate { operation, reason } => self.operate(operation, reason).await,
            Request::Forecast { what_if } => {
                let forecast = forecast(&self.records.state, &self.shared.view(), what_if)?;
                Ok(Reply::Forecast { forecast })
            }
            Request::Draining { node } => {
                let (state, unknown) = (&self.records.state, Refusal::UnknownNode { node });
                let member = state.newest(node).ok_or(unknown)?;
                let status = drain_status(state, &self.shared.view(), member);
                Ok(Reply::Draining { status })
            }
            // The desk or the manager has answered these.
            Request::Which
            | Request::Probe { .. }
            | Request::Order { .. }
            | Request::CallOff { .. } => Ok(Reply::Done),
        }
    }

    /// A group of which nothing is heard for a moment only is about to be heard of: it has got another
    /// leader, or this node has just begun to lead the cluster.
    fn check_informed(&self, request: &Request) -> Result<(), Refusal> {
        let needs = matches!(
            request,
            Request::Leave
                | Request::Remove { .. }
                | Request::Forecast { .. }
                | Request::Operate { operation: Operation::Drain { .. }, .. }
        );
        let silent = self.shared.silent_for();
        if needs && silent.iter().any(|(_, silent)| *silent < INFORMED) {
            let shards: Vec<ShardId> = silent.into_iter().map(|(shard, _)| shard).collect();
            let reason = format!("nobody has reported yet to lead {}", list(&shards));
            return Err(Refusal::NotNow { reason });
        }
        Ok(())
    }

    /// Lets a node in, with an empty disk: its next incarnation.
    async fn join(
        &mut self,
        node: NodeId,
        address: String,
        token: u64,
        about: Option<About>,
    ) -> Result<Reply, ClusterError> {
        let (level, needed) =
            (about.as_ref().map_or(1, |about| about.level), self.records.state.level);
        if level < needed {
            let reason = format!(
                "the release of node {node} understands the cluster's state up to level {level}, and \
                 level {needed} is in use: start it with a newer one"
            );
            return Err(Refusal::NotNow { reason }.into());
        }
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
        if let Some(about) = about {
            // Before it gets its share, so that the share is the right one from the start.
            let mut view = self.shared.view();
            view.about.insert(member, about.clone());
            if view.level(&self.records.state) >= 2 {
                self.records.record(&description(member, about)).await?;
            }
        }
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

    /// Does what an operator asks for. A repeat of what is so already records nothing.
    async fn operate(
        &mut self,
        operation: Operation,
        reason: String,
    ) -> Result<Reply, ClusterError> {
        let settings = &self.records.state.settings;
        let event = match operation {
            Operation::Drain { node, mode } => return self.drain(node, mode, reason).await,
            Operation::Resume { node } => {
                let member = self.member(node)?;
                if self.records.state.drained(member).is_none() {
                    return Ok(Reply::Done);
                }
                ClusterEvent::Resumed { member, reason }
            }
            Operation::Pause | Operation::Cancel => {
                if settings.paused.is_none() {
                    self.record(ClusterEvent::Paused { reason }).await?;
                }
                if operation == Operation::Cancel {
                    for shard in (0..self.records.state.shards).map(ShardId) {
                        self.call_off(shard);
                    }
                }
                return Ok(Reply::Done);
            }
            Operation::Unpause if settings.paused.is_none() => return Ok(Reply::Done),
            Operation::Unpause => ClusterEvent::Unpaused { reason },
            Operation::Modulo { on } if settings.modulo == on => return Ok(Reply::Done),
            Operation::Modulo { on } => ClusterEvent::PlacementChosen { modulo: on, reason },
            Operation::PreferNewest { on } if settings.newest_leads == on => {
                return Ok(Reply::Done);
            }
            Operation::PreferNewest { on } => ClusterEvent::NewestPreferred { on, reason },
            Operation::Bind { shard, .. } | Operation::PreferLeader { shard, .. }
                if shard.0 >= self.records.state.shards =>
            {
                return Err(Refusal::UnknownShard { shard }.into());
            }
            Operation::Bind { shard, affinity } => {
                if settings.affinity.get(&shard) == affinity.as_ref() {
                    return Ok(Reply::Done);
                }
                bound(shard, affinity, reason)
            }
            Operation::PreferLeader { shard, node } => {
                if settings.leaders.get(&shard).copied()
                    == node.map(|node| Wish { node, pinned: true })
                {
                    return Ok(Reply::Done);
                }
                if let Some(node) = node {
                    self.member(node)?;
                }
                ClusterEvent::LeaderPreferred { shard, node, pinned: true, reason }
            }
        };
        self.record(event).await?;
        Ok(Reply::Done)
    }

    async fn drain(
        &mut self,
        node: NodeId,
        mode: DrainMode,
        reason: String,
    ) -> Result<Reply, ClusterError> {
        let member = self.member(node)?;
        let state = &self.records.state;
        if state.drained(member) == Some(mode) {
            return Ok(Reply::Done);
        }
        if state.phase_of(member) != Some(Phase::Joined) {
            let reason = format!("node {node} is joining or leaving");
            return Err(Refusal::NotNow { reason }.into());
        }
        check_drain(state, &self.shared.view(), member, mode)?;
        let decommission = mode == DrainMode::Decommission;
        self.record(ClusterEvent::Draining { member, decommission, reason }).await?;
        Ok(Reply::Done)
    }

    /// The member that a node is now.
    fn member(&self, node: NodeId) -> Result<Member, Refusal> {
        let state = &self.records.state;
        let member = state.newest(node).ok_or(Refusal::UnknownNode { node })?;
        match state.phase_of(member) {
            Some(Phase::Removed) | None => Err(Refusal::UnknownNode { node }),
            Some(_) => Ok(member),
        }
    }

    /// Records what was decided, where every member understands it.
    async fn record(&mut self, event: ClusterEvent) -> Result<(), ClusterError> {
        let (needed, level) = (event.level(), self.shared.view().level(&self.records.state));
        if level < needed {
            let reason = format!(
                "a member's release understands the cluster's state up to level {level} only, and this \
                 needs level {needed}: upgrade all nodes first"
            );
            return Err(Refusal::NotNow { reason }.into());
        }
        self.records.record(&event).await
    }

    /// Calls the change of a group off, whoever leads it.
    fn call_off(&self, shard: ShardId) {
        match self.shared.view().groups.get(&shard).map(|group| group.leader) {
            Some(leader) if leader != self.shared.me => {
                let message = Message::Ask { id: 0, request: Request::CallOff { shard } };
                // No answer is needed: whatever comes of it shows in the groups' reports.
                self.shared.calls.tell(leader, &message);
            }
            _ => call_off(&self.shared, shard),
        }
    }
}

fn bound(shard: ShardId, affinity: Option<Affinity>, reason: String) -> ClusterEvent {
    let (mut nodes, mut role, mut zone) = (Vec::new(), String::new(), String::new());
    match affinity {
        Some(Affinity::Nodes(of)) => nodes = of,
        Some(Affinity::Role(of)) => role = of,
        Some(Affinity::Zone(of)) => zone = of,
        None => {}
    }
    ClusterEvent::Bound { shard, nodes, role, zone, reason }
}
