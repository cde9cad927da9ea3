//! Steps carried out: by this node where it leads the group, else by whoever does.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use duractor_journal::{GroupStatus, JournalError, Member, NodeId, Role, ShardId, Transport};
use tokio::{sync::Notify, time::Instant};

use super::{
    error::Refusal,
    plan::Step,
    shared::Shared,
    tenant::{Present, Tenant},
    view::{CAUGHT_UP, View, is_stale_by_plant},
    wire::{Basis, Message, Order, Reply, Request},
};

/// After a step that failed, its shard is let be for so long.
const PAUSE: Duration = Duration::from_secs(1);
/// A new replica may make no progress for so long.
const CATCH_UP: Duration = Duration::from_secs(30);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// A pause between two attempts to hand over what this node leads.
const AGAIN: Duration = Duration::from_millis(20);

/// Carries a step out, in the background. What comes of it shows in the groups' reports.
pub(super) fn carry_out(shared: &Arc<Shared>, revision: u64, step: Step, view: &View) {
    let (shard, leader, order, handing) = match step {
        Step::Record(_) => return,
        Step::Members { shard, leader, voters, learners } => {
            let (voters, learners) = (voters.into_iter().collect(), learners.into_iter().collect());
            (shard, leader, Order::Members { voters, learners }, [].into())
        }
        Step::Transfer { shard, leader, to } => {
            (shard, leader, Order::Transfer { to }, [leader, to].into())
        }
    };
    let Some(basis) = view.groups.get(&shard).map(Basis::of) else { return };
    if !shared.begin(shard, handing) {
        return;
    }
    tracing::info!(%shard, %leader, ?order, "a group is changed");
    let ours = shared.clone();
    shared.spawn(async move {
        let wait = Duration::from_millis(ours.config.timing.operation_timeout_ms);
        let done = if leader == ours.me {
            run(&ours, shard, order, Some(basis)).await
        } else {
            let request = Request::Order { revision, shard, order, basis: Some(basis) };
            ours.calls.ask(leader, request, wait).await.map(|_| ())
        };
        let failure = done.err().map(|refusal| refusal.to_string());
        let pause = failure.is_some();
        ours.problem(&shard.to_string(), failure);
        if pause {
            tokio::time::sleep(PAUSE).await;
        }
        ours.end(shard);
    });
}

/// Another node orders a change of a group that is led here. Answered when it is done.
pub(super) fn order(
    shared: &Arc<Shared>,
    (from, id): (Member, u64),
    revision: u64,
    shard: ShardId,
    (order, basis): (Order, Option<Basis>),
) {
    let known = shared.state().revision;
    let refusal = if revision < known {
        Some(format!("the order follows from revision {revision}, and {known} is known here"))
    } else if shared.groups.group(shard).role != Role::Leader {
        Some(format!("this node does not lead {shard}"))
    } else {
        None
    };
    if let Some(reason) = refusal {
        let reply = Reply::Refused { refusal: Refusal::NotNow { reason } };
        shared.calls.tell(from, &Message::Answer { id, reply });
        return;
    }
    let ours = shared.clone();
    shared.spawn(async move {
        let reply = match run(&ours, shard, order, basis).await {
            Ok(()) => Reply::Done,
            Err(refusal) => Reply::Refused { refusal },
        };
        ours.calls.tell(from, &Message::Answer { id, reply });
    });
}

/// Changes a group that is led here, if it is as it was when that was decided. A repeat of what is done
/// already does nothing.
async fn run(
    shared: &Shared,
    shard: ShardId,
    order: Order,
    basis: Option<Basis>,
) -> Result<(), Refusal> {
    let Some(called_off) = shared.execute(shard) else {
        return Err(Refusal::NotNow { reason: format!("{shard} is being changed already") });
    };
    let group = shared.groups.group(shard);
    let stale = basis.filter(|_| !is_stale_by_plant());
    let done = match stale.map_or(Ok(()), |basis| basis.check(&group)) {
        Ok(()) => attempt(shared, group, order, &called_off).await.map_err(|error| {
            let reason = error.to_string();
            Refusal::Unfinished { reason }
        }),
        Err(refusal) => Err(refusal),
    };
    shared.executed(shard);
    done
}

/// Calls off the change of a group that is led here, as long as nothing of it counts. What was begun is
/// taken back by the next step.
pub(super) fn call_off(shared: &Shared, shard: ShardId) {
    shared.call_off(shard);
}

/// Hands a group that is led here to another of its voters, if that one could serve it at once.
pub(super) async fn hand_over(shared: &Shared, shard: ShardId, to: NodeId) -> Result<(), Refusal> {
    if shard.0 >= shared.groups.shards() {
        return Err(Refusal::UnknownShard { shard });
    }
    let group = shared.groups.group(shard);
    if group.role != Role::Leader {
        return Err(Refusal::NotNow { reason: format!("this node does not lead {shard}") });
    }
    let voter = group.voters.iter().copied().find(|voter| voter.node == to);
    let to = voter.ok_or(Refusal::NoVote { node: to, shard })?;
    check_successor(shared, &group, to)?;
    run(shared, shard, Order::Transfer { to }, None).await
}

/// Whether a voter could lead a group at once, as far as this node, which leads it, knows.
fn check_successor(shared: &Shared, group: &GroupStatus, to: Member) -> Result<(), Refusal> {
    let node = to.node;
    if to == shared.me {
        return Ok(());
    }
    if !shared.gate.is_admitted(to) || shared.is_stopping(to) {
        return Err(Refusal::Unreachable { node });
    }
    if shared.state().drained(to).is_some() {
        return Err(Refusal::Drained { node });
    }
    let last = group.last_index.unwrap_or(0);
    let has = group.replicated.get(&to).copied().flatten().unwrap_or(0);
    let entries = last.saturating_sub(has);
    let lags = entries > CAUGHT_UP;
    if lags { Err(Refusal::Lags { node, shard: group.shard, entries }) } else { Ok(()) }
}

/// Hands everything over that this node leads, as far as others can take it, within a time. Shard 0
/// last: whoever leads it decides where the others go.
pub(super) async fn hand_over_all(shared: &Shared, within: Duration) {
    let mut given: BTreeMap<Member, usize> = BTreeMap::new();
    let work = async {
        loop {
            // Two that stop at once are not to hand their shards to each other.
            for peer in shared.gate.peers() {
                shared.calls.tell(peer, &shared.report());
            }
            let mut led: Vec<ShardId> = shared.led().iter().map(|group| group.shard).collect();
            led.retain(|shard| shared.groups.group(*shard).voters.len() > 1);
            led.sort_by_key(|shard| (shard.0 == 0, *shard));
            let mut hope = false;
            for shard in led {
                let group = shared.groups.group(shard);
                let others = group.voters.iter().copied().filter(|other| *other != shared.me);
                let stays = |other| shared.gate.is_admitted(other) && !shared.is_stopping(other);
                hope |= others.clone().any(stays);
                let fit = others.filter(|other| check_successor(shared, &group, *other).is_ok());
                let least = |other: &Member| (given.get(other).copied().unwrap_or(0), *other);
                let Some(to) = fit.min_by_key(least) else { continue };
                let handed = run(shared, shard, Order::Transfer { to }, None).await;
                tracing::info!(%shard, %to, ?handed, "handed over before the node stops");
                *given.entry(to).or_default() += 1;
            }
            if !hope {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    if tokio::time::timeout(within, work).await.is_err() {
        tracing::warn!("not everything could be handed over in time");
    }
}

async fn attempt(
    shared: &Shared,
    group: GroupStatus,
    order: Order,
    called_off: &Notify,
) -> Result<(), JournalError> {
    let shard = group.shard;
    let limit = Duration::from_millis(shared.config.timing.operation_timeout_ms);
    let tenant = match shared.tenancy.present() {
        Present::Tenant(tenant) => Some(tenant),
        Present::Nobody => None,
        Present::NotNow => {
            let reason = "the entities of its leader's node are not up".into();
            return Err(JournalError::Membership { shard, reason });
        }
    };
    let work = async {
        match order {
            Order::Members { voters, learners } => {
                let (voters, learners) =
                    (voters.into_iter().collect(), learners.into_iter().collect());
                if group.voters == voters && group.learners == learners && !group.changing {
                    return Ok(());
                }
                change_members(shared, tenant, &group, (voters, learners), called_off).await
            }
            Order::Transfer { to } => transfer(shared, tenant, shard, to).await,
        }
    };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        let reason = format!("it took longer than {} ms", limit.as_millis());
        Err(JournalError::Membership { shard, reason })
    })
}

/// Replicas first, which take their time, then what belongs to the group beside its log, and then the
/// vote. Until then it can be called off.
async fn change_members(
    shared: &Shared,
    tenant: Option<Arc<dyn Tenant>>,
    group: &GroupStatus,
    (voters, learners): (BTreeSet<Member>, BTreeSet<Member>),
    called_off: &Notify,
) -> Result<(), JournalError> {
    let shard = group.shard;
    let Some(tenant) = tenant.filter(|_| group.voters != voters) else {
        return shared.groups.change_members(shard, voters, learners).await;
    };
    let joining: BTreeSet<_> = voters.difference(&group.voters).copied().collect();
    let replicas: BTreeSet<_> = group.learners.union(&joining).copied().collect();
    if replicas != group.learners {
        shared.groups.change_members(shard, group.voters.clone(), replicas).await?;
    }
    let refused = |reason| JournalError::Membership { shard, reason };
    let prepare = async {
        caught_up(shared, shard, &joining).await.map_err(refused)?;
        tenant.prepare(shard, voters.clone(), joining).await.map_err(refused)
    };
    let prepared = tokio::select! {
        biased;
        () = called_off.notified() => Err(refused("it was called off".into())),
        prepared = prepare => prepared,
    }?;
    let changed = shared.groups.change_members(shard, voters, learners).await;
    drop(prepared);
    changed
}

/// Waits until new replicas have nearly all of the log, for as long as they get on.
async fn caught_up(
    shared: &Shared,
    shard: ShardId,
    joining: &BTreeSet<Member>,
) -> Result<(), String> {
    let mut until = Instant::now() + CATCH_UP;
    let mut best = 0;
    loop {
        let group = shared.groups.group(shard);
        if group.role != Role::Leader {
            return Err("this node does not lead it any more".into());
        }
        let last = group.last_index.unwrap_or(0);
        let at = |member: &Member| group.replicated.get(member).copied().flatten();
        if joining.iter().all(|m| at(m).is_some_and(|at| at + CAUGHT_UP >= last)) {
            return Ok(());
        }
        let sum: u64 = joining.iter().filter_map(at).sum();
        if sum > best {
            best = sum;
            until = Instant::now() + CATCH_UP;
        }
        if Instant::now() >= until {
            return Err("a new replica does not catch up".into());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What runs here stops before the other node is elected, so that nothing ever runs twice.
async fn transfer(
    shared: &Shared,
    tenant: Option<Arc<dyn Tenant>>,
    shard: ShardId,
    to: Member,
) -> Result<(), JournalError> {
    let Some(tenant) = tenant else { return shared.groups.transfer_leadership(shard, to).await };
    let _ends = HandOver { tenant: tenant.clone(), shard };
    tenant.hand_over(shard, to).await;
    shared.groups.transfer_leadership(shard, to).await
}

/// Ends the hand-over, however it ends.
struct HandOver {
    tenant: Arc<dyn Tenant>,
    shard: ShardId,
}

impl Drop for HandOver {
    fn drop(&mut self) {
        self.tenant.handed_over(self.shard);
    }
}
