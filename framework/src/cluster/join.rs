//! Before a node is a member: asking whether a cluster is there, and asking to be let in.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::Duration,
};

use duractor_journal::{
    Env, Member, Transport,
    transport::{Channel, Event, Receiver},
};
use tokio::time::Instant;

use super::{
    calls::Calls,
    discovery::{Discovery, find_all},
    error::{ClusterError, Refusal},
    event::LEVEL,
    identity::{Identity, Stage},
    properties::{About, Properties},
    wire::{ASKING, Message, Reply, Request, decode},
};
use crate::config::Config;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(3);
/// How often it is looked whether somebody is there.
const LOOK: Duration = Duration::from_millis(50);

/// A node that asks, and has no part in anything yet.
pub(super) struct Asker {
    config: Config,
    env: Env,
    address: String,
    transport: Arc<dyn Transport>,
    calls: Arc<Calls>,
    ways: Vec<Arc<dyn Discovery>>,
    extra: BTreeSet<String>,
    reached: BTreeSet<String>,
}

struct Answers(Weak<Calls>);

impl Receiver for Answers {
    fn event(&self, event: Event) {
        let Some(calls) = self.0.upgrade() else { return };
        match event {
            Event::Frame { from, frame, .. } => {
                if let Ok(Message::Answer { id, reply }) = decode(&frame) {
                    calls.answered(from, id, reply);
                }
            }
            Event::Down { peer, .. } => calls.gone(peer),
            Event::Up { .. } => {}
        }
    }
}

impl Asker {
    /// `extra` are addresses that are known beside those that are found.
    pub(super) fn new(
        (config, env): (&Config, &Env),
        address: String,
        transport: Arc<dyn Transport>,
        ways: Vec<Arc<dyn Discovery>>,
        extra: BTreeSet<String>,
    ) -> Self {
        let calls = Arc::new(Calls::new(transport.clone(), env.entropy.next_u64()));
        transport.listen(Channel::Cluster, Arc::new(Answers(Arc::downgrade(&calls))));
        let (config, env) = (config.clone(), env.clone());
        let reached = BTreeSet::new();
        Self { config, env, address, transport, calls, ways, extra, reached }
    }

    /// Looks for other nodes and links to those that are new.
    async fn look(&mut self) -> usize {
        let (mut found, errors) = find_all(&self.ways).await;
        for error in errors {
            tracing::warn!(%error, "looking for other nodes");
        }
        found.extend(self.extra.iter().cloned());
        found.remove(&self.address);
        found.remove(&self.config.net.listen);
        for address in &found {
            if self.reached.insert(address.clone()) {
                self.transport.reach(address);
            }
        }
        found.len()
    }

    /// Those who may be in a cluster: others that ask as well have nothing to say.
    fn members(&self) -> impl Iterator<Item = Member> + use<> {
        self.transport.peers().into_iter().filter(|peer| peer.incarnation != ASKING)
    }

    /// Fails where a node that can be reached within a moment knows a cluster. Nodes that cannot be
    /// reached say nothing.
    pub(super) async fn expect_no_cluster(&mut self) -> Result<(), ClusterError> {
        let wait = Duration::from_millis(2 * self.config.timing.peer_timeout_ms);
        let until = Instant::now() + wait;
        if self.look().await == 0 {
            return Ok(());
        }
        let mut asked = BTreeSet::new();
        while Instant::now() < until {
            for peer in self.members() {
                if asked.contains(&peer) {
                    continue;
                }
                let answer = self.calls.ask(peer, Request::Which, ANSWER).await;
                if let Ok(Reply::Cluster { cluster, .. }) = answer {
                    let address = format!("node {}", peer.node);
                    return Err(ClusterError::ClusterExists { cluster, address });
                }
                asked.insert(peer);
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Asks until it is let in. Gives the identity that the data directory is to get.
    pub(super) async fn join(&mut self) -> Result<Identity, ClusterError> {
        let token = self.env.entropy.next_u64().max(1);
        let timing = &self.config.timing;
        let limit_ms = timing.join_timeout_ms;
        // Its own former process may count as up for as long as nobody noticed its end.
        let patience = Duration::from_millis(5 * timing.peer_timeout_ms);
        let discovery = &self.config.discovery;
        let (mut pause, longest) = (discovery.retry_min_ms, discovery.retry_max_ms);
        let began = Instant::now();
        let mut look_at = began;
        let mut last = "no other node can be reached".to_owned();
        while began.elapsed() < Duration::from_millis(limit_ms) {
            if Instant::now() >= look_at {
                self.look().await;
                let jitter = self.env.entropy.next_u64() % (pause / 2 + 1);
                look_at = Instant::now() + Duration::from_millis(pause + jitter);
                pause = (pause * 2).min(longest);
            }
            for peer in self.members() {
                match self.ask(peer, token).await {
                    Ok(identity) => return Ok(identity),
                    Err(Refusal::NotLeader { address: Some(address) }) => {
                        if self.reached.insert(address.clone()) {
                            self.transport.reach(&address);
                        }
                        last = format!("{address} leads the cluster and does not answer");
                    }
                    Err(refusal @ Refusal::OtherCluster { .. }) => return Err(refusal.into()),
                    Err(refusal @ Refusal::StillUp { .. }) if began.elapsed() > patience => {
                        return Err(refusal.into());
                    }
                    Err(refusal) => last = refusal.to_string(),
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        Err(ClusterError::TimedOut { what: "joining the cluster", after_ms: limit_ms, last })
    }

    async fn ask(&self, peer: Member, token: u64) -> Result<Identity, Refusal> {
        let (node, address) = (self.config.node_id(), self.address.clone());
        let about = About::silent(Properties::of(&self.config), LEVEL);
        let request = Request::Join { node, address, token, about: Some(about) };
        match self.calls.ask(peer, request, ANSWER).await? {
            Reply::Welcome { cluster_id, incarnation, shards, members } => {
                let mut identity =
                    Identity::new(&self.config, cluster_id, incarnation, Stage::Member);
                identity.shards = shards;
                identity.peers = members;
                Ok(identity)
            }
            _ => Err(Refusal::NotNow { reason: "the answer is not understood".into() }),
        }
    }
}
