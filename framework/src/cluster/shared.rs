//! What a node knows of its cluster, and shares between the parts that work on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use duractor_journal::{Env, Member, Role, ShardId, Term, Transport};
use tokio::{
    sync::Notify,
    task::AbortHandle,
    time::{Duration, Instant},
};

use super::{
    calls::Calls,
    error::Refusal,
    event::LEVEL,
    gate::Gate,
    groups::Groups,
    guests::Guests,
    identity::Identity,
    overview::BalanceStatus,
    properties::{About, Properties},
    sight::reached,
    state::{ClusterState, Phase},
    tenant::Tenancy,
    view::{GroupReport, View, is_stale_by_plant},
    wire::Message,
};
use crate::{
    config::Config,
    load::{Load, ShardLoad},
};

/// How often a node looks at its cluster.
pub(super) const TICK: Duration = Duration::from_millis(200);
/// A leader's report counts for so long.
const REPORT_LIFE: Duration = Duration::from_secs(2);
/// So old is what steps are decided on where that bug is planted.
const STALE: Duration = Duration::from_secs(3);

/// A session with a peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Session {
    pub(super) number: u64,
    pub(super) since: Instant,
}

/// One node's view of its cluster.
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) env: Env,
    pub(super) me: Member,
    pub(super) address: String,
    pub(super) started: Instant,
    pub(super) gate: Arc<Gate>,
    pub(super) calls: Calls,
    pub(super) groups: Arc<dyn Groups>,
    pub(super) tenancy: Tenancy,
    /// Clients that are linked to this node.
    pub(super) guests: Guests,
    identity: Mutex<Identity>,
    state: Mutex<Arc<ClusterState>>,
    sessions: Mutex<BTreeMap<Member, Session>>,
    reports: Mutex<BTreeMap<ShardId, (GroupReport, Instant)>>,
    /// Shards with a step under way, and whom a hand-over concerns.
    busy: Mutex<BTreeMap<ShardId, BTreeSet<Member>>>,
    /// Groups led here that are being changed, and how to call that off.
    executing: Mutex<BTreeMap<ShardId, Arc<Notify>>>,
    /// What members said of themselves, and when.
    about: Mutex<BTreeMap<Member, (About, Instant)>>,
    /// How much is asked of the shards, as their leaders said.
    loads: Mutex<BTreeMap<ShardId, (ShardLoad, Instant)>>,
    /// The term of shard 0 when what is reported was looked at last.
    leading: Mutex<Term>,
    /// Groups of which nothing is heard, since when that is known.
    silent: Mutex<BTreeMap<ShardId, Instant>>,
    /// Since when members are not reached.
    lost: Mutex<BTreeMap<Member, Instant>>,
    /// Who had better lead nothing, and why.
    sick: Mutex<BTreeMap<Member, String>>,
    /// What the leader of shard 0 said last, in which term, and when.
    overview: Mutex<Option<(Term, BalanceStatus, Instant)>>,
    /// What is asked of this node.
    pub(super) load: OnceLock<Weak<Load>>,
    /// This node is about to stop: it hands over what it leads.
    pub(super) stopping: AtomicBool,
    /// What is wrong now, by what it is about.
    problems: Mutex<BTreeMap<String, String>>,
    /// Peers that do not let this node in, and why.
    refusals: Mutex<BTreeMap<Member, Refusal>>,
    /// Set once: this node is no member any more.
    out: OnceLock<Refusal>,
    tasks: Mutex<Vec<AbortHandle>>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(
        (config, env): (Config, Env),
        identity: Identity,
        address: String,
        gate: Arc<Gate>,
        groups: Arc<dyn Groups>,
    ) -> Arc<Self> {
        let calls = Calls::new(gate.clone(), env.entropy.next_u64());
        let me = identity.member();
        Arc::new(Self {
            config,
            env,
            me,
            address,
            started: Instant::now(),
            gate,
            calls,
            groups,
            tenancy: Tenancy::new(),
            guests: Guests::default(),
            identity: Mutex::new(identity),
            state: Mutex::default(),
            sessions: Mutex::default(),
            reports: Mutex::default(),
            busy: Mutex::default(),
            executing: Mutex::default(),
            about: Mutex::default(),
            loads: Mutex::default(),
            leading: Mutex::new(Term(0)),
            silent: Mutex::default(),
            lost: Mutex::default(),
            sick: Mutex::default(),
            overview: Mutex::default(),
            load: OnceLock::new(),
            stopping: AtomicBool::new(false),
            problems: Mutex::default(),
            refusals: Mutex::default(),
            out: OnceLock::new(),
            tasks: Mutex::default(),
        })
    }

    pub(super) fn identity(&self) -> Identity {
        lock(&self.identity).clone()
    }

    pub(super) fn set_identity(&self, identity: Identity) {
        *lock(&self.identity) = identity;
    }

    /// The cluster's state, as far as this node has it.
    pub(super) fn state(&self) -> Arc<ClusterState> {
        lock(&self.state).clone()
    }

    pub(super) fn set_state(&self, state: &ClusterState) {
        if self.state().revision != state.revision {
            *lock(&self.state) = Arc::new(state.clone());
        }
    }

    pub(super) fn session_up(&self, peer: Member, number: u64) {
        lock(&self.sessions).insert(peer, Session { number, since: Instant::now() });
        lock(&self.lost).remove(&peer);
    }

    pub(super) fn session_down(&self, peer: Member, number: u64) {
        let mut sessions = lock(&self.sessions);
        if sessions.get(&peer).is_some_and(|session| session.number == number) {
            sessions.remove(&peer);
            drop(sessions);
            lock(&self.lost).insert(peer, Instant::now());
            self.gate.expel(peer);
            self.calls.gone(peer);
            self.heard_well(peer);
        }
    }

    pub(super) fn sessions(&self) -> BTreeMap<Member, Session> {
        lock(&self.sessions).clone()
    }

    pub(super) fn session(&self, peer: Member) -> Option<Session> {
        lock(&self.sessions).get(&peer).copied()
    }

    /// Whether this node leads the cluster: the group of shard 0.
    pub(super) fn leads(&self) -> bool {
        self.groups.group(ShardId(0)).role == Role::Leader
    }

    /// The groups that this node leads.
    pub(super) fn led(&self) -> Vec<GroupReport> {
        let executing: BTreeSet<ShardId> = lock(&self.executing).keys().copied().collect();
        let groups = (0..self.groups.shards()).map(|shard| self.groups.group(ShardId(shard)));
        let led = groups.filter(|group| group.role == Role::Leader);
        led.map(|group| GroupReport {
            shard: group.shard,
            leader: self.me,
            term: group.term,
            voters: group.voters,
            learners: group.learners,
            changing: group.changing,
            executing: executing.contains(&group.shard),
            last_index: group.last_index,
            replicated: group.replicated.into_iter().collect(),
        })
        .collect()
    }

    /// What this node tells the leader of shard 0.
    pub(super) fn report(&self) -> Message {
        Message::Report { groups: self.led(), about: Some(self.about()), loads: self.own_loads() }
    }

    /// What this node says of itself.
    pub(super) fn about(&self) -> About {
        About {
            properties: Properties::of(&self.config),
            level: LEVEL,
            stopping: self.stopping.load(Ordering::Relaxed),
            reaches: self.gate.peers(),
            revision: self.state().revision,
            log_delay_ms: self.groups.delay_ms(),
            probes: true,
        }
    }

    /// What is asked of the shards that this node leads.
    fn own_loads(&self) -> Vec<ShardLoad> {
        let Some(load) = self.load.get().and_then(Weak::upgrade) else { return Vec::new() };
        let mut loads = load.shards();
        loads.retain(|load| self.groups.group(load.shard).role == Role::Leader);
        loads
    }

    /// Takes what a member reports of the groups that it leads: those, and no others.
    pub(super) fn reported(&self, from: Member, groups: Vec<GroupReport>) {
        let now = Instant::now();
        let mut reports = lock(&self.reports);
        if !is_stale_by_plant() {
            let leads = |shard: &ShardId| groups.iter().any(|group| group.shard == *shard);
            reports.retain(|shard, (known, _)| known.leader != from || leads(shard));
        }
        for group in groups.into_iter().filter(|group| group.leader == from) {
            let newer = reports.get(&group.shard).is_some_and(|(known, at)| {
                known.term > group.term || (is_stale_by_plant() && now.duration_since(*at) < STALE)
            });
            if !newer && group.shard.0 < self.groups.shards() {
                reports.insert(group.shard, (group, now));
            }
        }
    }

    /// What was reported to a former leadership of this node says nothing about now.
    fn forget_former(&self) {
        let term = self.groups.group(ShardId(0)).term;
        let mut leading = lock(&self.leading);
        if *leading != term && !is_stale_by_plant() {
            lock(&self.reports).clear();
        }
        *leading = term;
    }

    /// The groups of which nothing is heard, and for how long that is known.
    pub(super) fn silent_for(&self) -> Vec<(ShardId, Duration)> {
        let heard = self.view().groups;
        let now = Instant::now();
        let mut silent = lock(&self.silent);
        silent.retain(|shard, _| !heard.contains_key(shard));
        for shard in (0..self.groups.shards()).map(ShardId) {
            if !heard.contains_key(&shard) {
                silent.entry(shard).or_insert(now);
            }
        }
        silent.iter().map(|(shard, since)| (*shard, now.duration_since(*since))).collect()
    }

    /// Takes what a member says of itself, and how much is asked of what it leads.
    pub(super) fn told(&self, member: Member, about: Option<About>, loads: Vec<ShardLoad>) {
        let now = Instant::now();
        if let Some(about) = about {
            lock(&self.about).insert(member, (about, now));
        }
        let mut known = lock(&self.loads);
        for load in loads.into_iter().filter(|load| load.shard.0 < self.groups.shards()) {
            known.insert(load.shard, (load, now));
        }
    }

    /// Whether a member said lately that it is about to stop.
    pub(super) fn is_stopping(&self, member: Member) -> bool {
        let about = lock(&self.about);
        about.get(&member).is_some_and(|(about, at)| about.stopping && at.elapsed() < REPORT_LIFE)
    }

    /// Takes what the leader of shard 0 says of the balance.
    pub(super) fn take_overview(&self, term: Term, status: BalanceStatus) {
        let mut overview = lock(&self.overview);
        if overview.as_ref().is_none_or(|(known, _, _)| *known <= term) {
            *overview = Some((term, status, Instant::now()));
        }
    }

    /// How the cluster is balanced, where somebody who knows has said so lately.
    pub(super) fn overview(&self) -> Option<BalanceStatus> {
        let overview = lock(&self.overview);
        let fresh = overview.as_ref().filter(|(_, _, at)| at.elapsed() < REPORT_LIFE);
        fresh.map(|(_, status, _)| status.clone())
    }

    /// Who is sick, as the leader of shard 0 said lately, whichever that is. `None` where nobody did.
    pub(super) fn said_sick(&self) -> Option<BTreeMap<Member, String>> {
        let overview = self.overview()?;
        let state = self.state();
        let member = |name: &str| state.members.keys().copied().find(|m| m.to_string() == name);
        let sick = overview.sights.into_iter();
        Some(sick.filter_map(|sight| Some((member(&sight.member)?, sight.sick?))).collect())
    }

    /// What the leader of shard 0 decides on.
    pub(super) fn view(&self) -> View {
        self.forget_former();
        self.reported(self.me, self.led());
        self.told(self.me, Some(self.about()), self.own_loads());
        let now = Instant::now();
        let admitted = |(peer, session): (Member, Session)| {
            let up_ms = now.saturating_duration_since(session.since).as_millis() as u64;
            self.gate.is_admitted(peer).then_some((peer, up_ms))
        };
        let mut up: BTreeMap<Member, u64> =
            self.sessions().into_iter().filter_map(admitted).collect();
        up.insert(self.me, now.saturating_duration_since(self.started).as_millis() as u64);
        let (groups, about, loads) = self.fresh(now);
        let busy = lock(&self.busy);
        View {
            down: self.down(now, &up, &about),
            sick: lock(&self.sick).clone(),
            up,
            groups,
            busy: busy.keys().copied().collect(),
            handing: busy.values().flatten().copied().collect(),
            settle_ms: self.config.timing.settle_ms,
            replace_after_ms: self.config.cluster.replace_after_ms,
            moves: self.config.cluster.moves,
            about,
            loads,
        }
    }

    /// What was said lately.
    fn fresh(
        &self,
        now: Instant,
    ) -> (BTreeMap<ShardId, GroupReport>, BTreeMap<Member, About>, BTreeMap<ShardId, ShardLoad>)
    {
        fn lately<K: Ord + Copy, V: Clone>(
            said: &Mutex<BTreeMap<K, (V, Instant)>>,
            now: Instant,
            life: Duration,
        ) -> BTreeMap<K, V> {
            let mut said = lock(said);
            said.retain(|_, (_, at)| now.duration_since(*at) < life);
            said.iter().map(|(key, (value, _))| (*key, value.clone())).collect()
        }
        let life = if is_stale_by_plant() { 2 * STALE } else { REPORT_LIFE };
        (
            lately(&self.reports, now, life),
            lately(&self.about, now, REPORT_LIFE),
            lately(&self.loads, now, REPORT_LIFE),
        )
    }

    /// For how long members are not reached, neither by this node nor by any that it reaches.
    fn down(
        &self,
        now: Instant,
        up: &BTreeMap<Member, u64>,
        about: &BTreeMap<Member, About>,
    ) -> BTreeMap<Member, u64> {
        let reached = reached(about);
        let mut lost = lock(&self.lost);
        let state = self.state();
        lost.retain(|member, _| state.phase_of(*member) != Some(Phase::Removed));
        let mut down = BTreeMap::new();
        for member in state.in_phase(&[Phase::Joined]).filter(|m| !up.contains_key(m)) {
            // One that was never reached is lost since this node looks for it.
            let since = lost.entry(member).or_insert(now);
            if reached.contains(&member) {
                *since = now;
            }
            down.insert(member, now.duration_since(*since).as_millis() as u64);
        }
        down
    }

    /// Another member has just got an answer from one that this node does not reach.
    pub(super) fn reached_by_another(&self, member: Member) {
        if let Some(since) = lock(&self.lost).get_mut(&member) {
            *since = Instant::now();
        }
    }

    pub(super) fn set_sick(&self, sick: BTreeMap<Member, String>) {
        *lock(&self.sick) = sick;
    }

    /// A step of a shard begins. False where one is under way.
    pub(super) fn begin(&self, shard: ShardId, handing: BTreeSet<Member>) -> bool {
        let mut busy = lock(&self.busy);
        let free = !busy.contains_key(&shard);
        if free {
            busy.insert(shard, handing);
        }
        free
    }

    /// A step of a shard ended. What was reported of it before is out of date.
    pub(super) fn end(&self, shard: ShardId) {
        if !is_stale_by_plant() {
            lock(&self.reports).remove(&shard);
        }
        lock(&self.busy).remove(&shard);
    }

    /// A group that is led here begins to be changed; what is returned tells when that is called off.
    /// `None` where it is being changed.
    pub(super) fn execute(&self, shard: ShardId) -> Option<Arc<Notify>> {
        let mut executing = lock(&self.executing);
        if executing.contains_key(&shard) {
            return None;
        }
        Some(executing.entry(shard).or_default().clone())
    }

    pub(super) fn call_off(&self, shard: ShardId) {
        if let Some(called_off) = lock(&self.executing).get(&shard) {
            called_off.notify_one();
        }
    }

    pub(super) fn executed(&self, shard: ShardId) {
        lock(&self.executing).remove(&shard);
    }

    /// Notes what is wrong, or with `None` that it is not any more.
    pub(super) fn problem(&self, about: &str, what: Option<String>) {
        let mut problems = lock(&self.problems);
        match what {
            Some(what) => {
                if problems.get(about) != Some(&what) {
                    tracing::warn!(about, what, "a problem of the cluster");
                    problems.insert(about.to_owned(), what);
                }
            }
            None => {
                problems.remove(about);
            }
        }
    }

    pub(super) fn problems(&self) -> Vec<String> {
        let problems = lock(&self.problems);
        problems.iter().map(|(about, what)| format!("{about}: {what}")).collect()
    }

    /// A peer does not let this node in; `out` says that nobody will.
    pub(super) fn refused_by(&self, by: Member, refusal: Refusal, out: bool) {
        self.problem(&format!("refused by {by}"), Some(refusal.to_string()));
        lock(&self.refusals).insert(by, refusal.clone());
        if out && self.out.set(refusal.clone()).is_ok() {
            tracing::error!(%refusal, "this node is no member any more");
            for peer in self.gate.peers() {
                self.gate.expel(peer);
            }
        }
    }

    /// A peer belongs to this node's cluster, so whatever it said before is mended.
    pub(super) fn heard_well(&self, peer: Member) {
        lock(&self.refusals).remove(&peer);
        self.problem(&format!("refused by {peer}"), None);
    }

    /// Why this node is no member any more; `None` while it is.
    pub(super) fn out(&self) -> Option<&Refusal> {
        self.out.get()
    }

    /// Why nobody lets this node in; `None` while somebody does, or while nobody has refused.
    pub(super) fn refused(&self) -> Option<Refusal> {
        if let Some(out) = self.out() {
            return Some(out.clone());
        }
        let alone = self.gate.peers().is_empty();
        alone.then(|| lock(&self.refusals).values().next().cloned()).flatten()
    }

    /// Spawns a task that ends with the node.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = lock(&self.tasks);
        tasks.retain(|task| !task.is_finished());
        tasks.push(tokio::spawn(work).abort_handle());
    }

    pub(super) fn abort_tasks(&self) {
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
    }
}
