//! Looking for a member by way of others.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use duractor_journal::Member;
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::Instant;

use super::{
    shared::Shared,
    sight::helpers,
    view::View,
    wire::{Message, Reply, Request},
};

/// How often others are asked about a member that is not reached.
const EVERY: Duration = Duration::from_secs(1);
/// How long a member has to answer one that looks for it. Twice the default silence of a link: a link
/// that holds on carries an answer within this.
const PATIENCE: Duration = Duration::from_secs(1);

/// When others were asked last about members that are not reached, and how often.
#[derive(Debug, Default)]
pub(super) struct Prober {
    asked: BTreeMap<Member, (Instant, usize)>,
}

impl Prober {
    /// Has some others look for each member that is not reached from here. Where one gets an answer, the
    /// member is not taken for gone.
    pub(super) fn look(&mut self, shared: &Arc<Shared>, view: &View) {
        self.asked.retain(|member, _| view.down.contains_key(member));
        let now = Instant::now();
        for member in view.down.keys().copied() {
            let (at, round) = self.asked.get(&member).copied().unwrap_or((now, 0));
            if round > 0 && now.duration_since(at) < EVERY {
                continue;
            }
            self.asked.insert(member, (now, round + 1));
            let ask = helpers(view, shared.me, member, round);
            if !ask.is_empty() {
                shared.spawn(probe(shared.clone(), ask, member));
            }
        }
    }
}

async fn probe(shared: Arc<Shared>, ask: Vec<Member>, member: Member) {
    let calls = &shared.calls;
    let question = |helper| async move {
        let request = Request::Probe { member };
        (helper, calls.ask(helper, request, 2 * PATIENCE).await)
    };
    let mut answers: FuturesUnordered<_> = ask.into_iter().map(question).collect();
    while let Some((helper, answer)) = answers.next().await {
        if answer == Ok(Reply::Probed { answers: true }) {
            tracing::debug!(%member, %helper, "another one reaches a member that this node does not");
            return shared.reached_by_another(member);
        }
    }
}

/// Another member asks whether this node gets an answer from one.
pub(super) async fn answer_probe(shared: Arc<Shared>, (from, id): (Member, u64), member: Member) {
    let answer = shared.calls.ask(member, Request::Which, PATIENCE).await;
    let ours = shared.identity().cluster_id;
    let answers = matches!(answer, Ok(Reply::Cluster { cluster_id, .. }) if cluster_id == ours);
    shared.calls.tell(from, &Message::Answer { id, reply: Reply::Probed { answers } });
}
