//! A client's side of a cluster: finding members, hearing from them who all the members are, and
//! keeping a link to each.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use duractor_journal::{
    Env, Member, Transport,
    transport::{Channel, Event, Receiver},
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::{
    connect::Connect,
    discovery::{self, Discovery, find_all},
    error::ClusterError,
    gate::Gate,
    links,
    wire::{Message, decode},
};
use crate::{
    config::Config,
    link::draw_client,
    task::{AbortOnDrop, until},
};

/// What a client starts from.
#[derive(Clone)]
pub struct ClientParts {
    /// Its configuration. Of use are `cluster.name`, `tls`, `net.insecure`, `discovery` and the
    /// `timing` of links and of joining.
    pub config: Config,
    /// The seams; clock and entropy are used.
    pub env: Env,
    /// Its links.
    pub connect: Arc<dyn Connect>,
    /// How it finds nodes.
    pub discovery: Vec<Arc<dyn Discovery>>,
}

impl ClientParts {
    /// A client as configured: links over TCP.
    ///
    /// # Errors
    /// [`ClusterError::Config`]; [`ClusterError::Links`] where no node is named, or there are no
    /// certificates.
    pub fn configured(config: Config, env: Env) -> Result<Self, ClusterError> {
        config.check()?;
        if links::is_alone(&config) {
            let reason = "set discovery.seeds to nodes of the cluster".to_owned();
            return Err(ClusterError::Links { reason });
        }
        let connect = links::configured(&config, &env)?;
        let discovery = discovery::configured(&config);
        Ok(Self { config, env, connect, discovery })
    }
}

/// A client's links to the members of a cluster.
pub(crate) struct Visit {
    gate: Arc<Gate>,
    connect: Arc<dyn Connect>,
    known: Mutex<Known>,
    /// Held while what a member says is taken in: what two of them say at once must not be mixed.
    telling: Mutex<()>,
    changed: Notify,
    finding: Mutex<Option<AbortOnDrop>>,
}

#[derive(Default)]
struct Known {
    /// The cluster's id, and how many shards it has: as the first member said.
    cluster: Option<(u64, u16)>,
    revision: u64,
    members: BTreeMap<Member, String>,
    /// Addresses of members that are dialled.
    reached: BTreeSet<String>,
    /// Why nobody is found.
    problem: Option<String>,
}

impl Visit {
    /// Links to a member, and from then on to all. Gives how many shards there are.
    ///
    /// # Errors
    /// [`ClusterError::TimedOut`] where no member was found within `timing.join_timeout_ms`;
    /// [`ClusterError::Links`] where the links do not start, as with a node's certificate.
    pub(crate) async fn begin(parts: ClientParts) -> Result<(Arc<Self>, u16), ClusterError> {
        let ClientParts { config, env, connect, discovery } = parts;
        let mut begun = Begun { connect: connect.clone(), armed: true };
        let transport = connect.connect(draw_client(&*env.entropy)).await?;
        let visit = Arc::new(Self {
            gate: Gate::new(transport),
            connect,
            known: Mutex::default(),
            telling: Mutex::default(),
            changed: Notify::new(),
            finding: Mutex::default(),
        });
        visit.gate.listen(Channel::Cluster, Arc::new(Ear(Arc::downgrade(&visit))));
        let finding = tokio::spawn(find(Arc::downgrade(&visit), (config.clone(), env), discovery));
        *visit.finding.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(AbortOnDrop::new(&finding));

        let after_ms = config.timing.join_timeout_ms;
        let linked = until(&visit.changed, || visit.shards());
        let linked = timeout(Duration::from_millis(after_ms), linked).await;
        begun.armed = false;
        match linked {
            Ok(shards) => Ok((visit, shards)),
            Err(_) => {
                let nobody = "no member of the cluster lets this client in; the log says more";
                let last = visit.lock().problem.take().unwrap_or_else(|| nobody.to_owned());
                visit.end().await;
                Err(ClusterError::TimedOut { what: "linking to the cluster", after_ms, last })
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shards(&self) -> Option<u16> {
        self.lock().cluster.map(|(_, shards)| shards)
    }

    /// The links to members.
    pub(crate) fn transport(&self) -> Arc<dyn Transport> {
        self.gate.clone()
    }

    /// The members, with their addresses, as one of them said last.
    pub(crate) fn members(&self) -> BTreeMap<Member, String> {
        self.lock().members.clone()
    }

    /// Ends all links. Returns when they are.
    pub(crate) async fn end(&self) {
        drop(self.finding.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.connect.disconnect().await;
    }

    /// A member says who the members are.
    fn told(&self, (from, session): (Member, u64), cluster: (u64, u16), said: Said) {
        let _telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = self.lock();
        let expected = *known.cluster.get_or_insert(cluster);
        if expected != cluster {
            drop(known);
            let (id, expected) = (cluster.0, expected.0);
            tracing::error!(%from, "it is of a cluster with the id {id:016x}, and this client is at one of that name with {expected:016x}: not asked");
            return self.gate.expel(from);
        }
        // Those that are cut off know less.
        if said.revision >= known.revision {
            (known.revision, known.members) = (said.revision, said.members);
        }
        let members = known.members.clone();
        let wanted: BTreeSet<String> = members.values().cloned().collect();
        let reached = std::mem::replace(&mut known.reached, wanted.clone());
        drop(known);
        for address in reached.difference(&wanted) {
            self.gate.forget(address);
        }
        for address in wanted.difference(&reached) {
            self.gate.reach(address);
        }
        for gone in self.gate.peers().iter().filter(|peer| !members.contains_key(peer)) {
            self.gate.expel(*gone);
        }
        if members.contains_key(&from) {
            self.gate.admit(from, session);
        }
        self.changed.notify_waiters();
    }
}

/// Links that are begun. Whoever gives up meanwhile leaves none behind.
struct Begun {
    connect: Arc<dyn Connect>,
    armed: bool,
}

impl Drop for Begun {
    fn drop(&mut self) {
        // Without a runtime there are no links either.
        if let (true, Ok(runtime)) = (self.armed, tokio::runtime::Handle::try_current()) {
            let connect = self.connect.clone();
            runtime.spawn(async move { connect.disconnect().await });
        }
    }
}

/// What a member said.
struct Said {
    revision: u64,
    members: BTreeMap<Member, String>,
}

/// Looks for nodes by the configured ways, for as long as the client lives: all members may get other
/// addresses while it is cut off.
async fn find(visit: Weak<Visit>, (config, env): (Config, Env), ways: Vec<Arc<dyn Discovery>>) {
    let (mut pause, longest) = (config.discovery.retry_min_ms, config.discovery.retry_max_ms);
    loop {
        let (found, errors) = find_all(&ways).await;
        let Some(visit) = visit.upgrade() else { return };
        visit.lock().problem = errors.first().map(ToString::to_string);
        for address in &found {
            visit.gate.reach(address);
        }
        drop(visit);
        let jitter = env.entropy.next_u64() % (pause / 2 + 1);
        sleep(Duration::from_millis(pause + jitter)).await;
        pause = (pause * 2).min(longest);
    }
}

/// Hears what members say.
struct Ear(Weak<Visit>);

impl Receiver for Ear {
    fn event(&self, event: Event) {
        let Some(visit) = self.0.upgrade() else { return };
        match event {
            Event::Up { .. } => {}
            Event::Down { peer, .. } => visit.gate.expel(peer),
            Event::Frame { from, session, frame } => match decode(&frame) {
                Ok(Message::Members { cluster_id, shards, revision, members }) => {
                    let members = members.into_iter().collect();
                    visit.told((from, session), (cluster_id, shards), Said { revision, members });
                }
                // What members say to members is not for clients.
                Ok(_) => {}
                Err(reason) => tracing::warn!(%from, reason, "a message is not understood"),
            },
        }
    }
}
