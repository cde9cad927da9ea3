//! Steps carried out: by this node where it leads the group, else by whoever does.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use duractor_journal::{GroupStatus, JournalError, Member, NodeId, Role, ShardId};

use super::{
    error::Refusal,
    plan::Step,
    shared::Shared,
    tenant::{Present, Tenant},
    wire::{Message, Order, Reply, Request},
};

/// After a step that failed, its shard is let be for so long.
const PAUSE: Duration = Duration::from_secs(1);

/// Carries a step out, in the background. What comes of it shows in the groups' reports.
pub(super) fn carry_out(shared: &Arc<Shared>, revision: u64, step: Step) {
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
    if !shared.begin(shard, handing) {
        return;
    }
    tracing::info!(%shard, %leader, ?order, "a group is changed");
    let ours = shared.clone();
    shared.spawn(async move {
        let wait = Duration::from_millis(ours.config.timing.operation_timeout_ms);
        let done = if leader == ours.me {
            run(&ours, shard, order).await
        } else {
            let request = Request::Order { revision, shard, order };
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
    order: Order,
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
        let reply = match run(&ours, shard, order).await {
            Ok(()) => Reply::Done,
            Err(refusal) => Reply::Refused { refusal },
        };
        ours.calls.tell(from, &Message::Answer { id, reply });
    });
}

/// Changes a group that is led here. A repeat of what is done already does nothing.
async fn run(shared: &Shared, shard: ShardId, order: Order) -> Result<(), Refusal> {
    if !shared.execute(shard) {
        return Err(Refusal::NotNow { reason: format!("{shard} is being changed already") });
    }
    let done = attempt(shared, shard, order).await;
    shared.executed(shard);
    done.map_err(|error| Refusal::Unfinished { reason: error.to_string() })
}

/// Hands a group that is led here to another of its voters.
pub(super) async fn hand_over(shared: &Shared, shard: ShardId, to: NodeId) -> Result<(), Refusal> {
    let group = shared.groups.group(shard);
    let reason = match group.voters.iter().find(|voter| voter.node == to) {
        _ if group.role != Role::Leader => format!("this node does not lead {shard}"),
        None => format!("node {to} has no vote in {shard}"),
        Some(to) => return run(shared, shard, Order::Transfer { to: *to }).await,
    };
    Err(Refusal::NotNow { reason })
}

async fn attempt(shared: &Shared, shard: ShardId, order: Order) -> Result<(), JournalError> {
    let group = shared.groups.group(shard);
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
                change_members(shared, tenant, &group, voters, learners).await
            }
            Order::Transfer { to } => transfer(shared, tenant, shard, to).await,
        }
    };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        let reason = format!("it took longer than {} ms", limit.as_millis());
        Err(JournalError::Membership { shard, reason })
    })
}

/// Replicas first, then what belongs to the group beside its log, and then the vote.
async fn change_members(
    shared: &Shared,
    tenant: Option<Arc<dyn Tenant>>,
    group: &GroupStatus,
    voters: BTreeSet<Member>,
    learners: BTreeSet<Member>,
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
    let prepared = tenant.prepare(shard, voters.clone(), joining).await;
    let prepared = prepared.map_err(|reason| JournalError::Membership { shard, reason })?;
    let changed = shared.groups.change_members(shard, voters, learners).await;
    drop(prepared);
    changed
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
