//! A leader's lease: for how long it may count on nobody else having been elected.
//!
//! A replica that answers a leader's request elects nobody else for one lease from when the request
//! reached it. So the answers of a quorum tell the leader that it is the only one, until one lease
//! after the requests that they answer were *sent*. The engine has such a clock too, but there the
//! answer to entries also counts for an empty request that was sent after them and may still be on its
//! way: a read could be answered on a word that nobody gave. Here each answer counts for its request.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};

use super::{status::Timing, types::RaftMembership};

/// What a replica heard as a leader.
pub(crate) struct Lease {
    me: u64,
    length: Duration,
    heard: Mutex<Heard>,
    answered: Notify,
}

#[derive(Default)]
struct Heard {
    /// As the leader of this term.
    term: u64,
    /// When the newest request was sent that a member has answered.
    sent: BTreeMap<u64, Instant>,
}

impl Lease {
    pub(crate) fn new(me: u64, timing: Timing) -> Self {
        // A tenth less than what the others keep: so much may clocks run at different speeds.
        let length = Duration::from_millis(timing.election_max_ms).mul_f64(0.9);
        Self { me, length, heard: Mutex::default(), answered: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A member has answered a request that this replica sent then, as the leader of a term.
    pub(crate) fn answered(&self, term: u64, by: u64, sent: Instant) {
        let mut heard = self.lock();
        if term > heard.term {
            *heard = Heard { term, sent: BTreeMap::new() };
        }
        if term == heard.term {
            let newest = heard.sent.entry(by).or_insert(sent);
            *newest = sent.max(*newest);
        }
        drop(heard);
        self.answered.notify_waiters();
    }

    /// The next answer.
    pub(crate) fn next_answer(&self) -> Notified<'_> {
        self.answered.notified()
    }

    /// Until when a quorum saw no other leader than this replica, which leads the group with these
    /// members in this term. `None` where it has no vote itself: then whoever has one does not wait for
    /// it.
    pub(crate) fn seen_by_quorum(&self, term: u64, members: &RaftMembership) -> Option<Instant> {
        let heard = self.lock();
        let nothing = BTreeMap::new();
        let sent = if heard.term == term { &heard.sent } else { &nothing };
        let now = Instant::now();
        if !members.voter_ids().any(|voter| voter == self.me) {
            return None;
        }
        let configs = members.get_joint_config().iter();
        configs.map(|voters| quorum(self.me, voters, sent, now)).min().flatten()
    }

    /// For how long nobody else can be elected from now on.
    pub(crate) fn left(&self, seen_by_quorum: Option<Instant>) -> Duration {
        let end = seen_by_quorum.map(|at| at + self.length);
        end.map_or(Duration::ZERO, |end| end.saturating_duration_since(Instant::now()))
    }

    /// Whether nobody else can have been elected by now.
    pub(crate) fn holds(&self, seen_by_quorum: Option<Instant>) -> bool {
        self.left(seen_by_quorum) > Duration::ZERO
    }
}

/// The newest instant that a majority of the voters has seen.
fn quorum(
    me: u64,
    voters: &BTreeSet<u64>,
    sent: &BTreeMap<u64, Instant>,
    now: Instant,
) -> Option<Instant> {
    let others = voters.iter().filter(|voter| **voter != me);
    let mut seen: Vec<Instant> = others.filter_map(|voter| sent.get(voter).copied()).collect();
    if voters.contains(&me) {
        seen.push(now);
    }
    seen.sort_unstable();
    seen.into_iter().nth_back(voters.len() / 2)
}

#[cfg(test)]
mod tests {
    use openraft::EmptyNode;

    use super::*;

    const TIMING: Timing = Timing { heartbeat_ms: 50, election_min_ms: 150, election_max_ms: 300 };

    fn members(configs: &[&[u64]]) -> RaftMembership {
        let nodes: BTreeMap<_, _> =
            configs.iter().flat_map(|voters| voters.iter().map(|id| (*id, EmptyNode {}))).collect();
        let configs = configs.iter().map(|voters| voters.iter().copied().collect()).collect();
        RaftMembership::new(configs, nodes).expect("members")
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[tokio::test(start_paused = true)]
    async fn a_majority_counts_from_when_its_requests_were_sent() {
        let (lease, five) = (Lease::new(1, TIMING), members(&[&[1, 2, 3, 4, 5]]));
        let start = Instant::now();
        tokio::time::advance(ms(100)).await;
        lease.answered(7, 2, start);
        assert_eq!(lease.seen_by_quorum(7, &five), None, "two of five");
        lease.answered(7, 3, start + ms(20));
        lease.answered(7, 9, start + ms(90));
        assert_eq!(lease.seen_by_quorum(7, &five), Some(start), "who has no vote does not count");
        lease.answered(7, 2, start + ms(50));
        lease.answered(7, 2, start + ms(10));
        assert_eq!(lease.seen_by_quorum(7, &five), Some(start + ms(20)));
        tokio::time::advance(ms(189)).await;
        assert!(lease.holds(lease.seen_by_quorum(7, &five)));
        tokio::time::advance(ms(1)).await;
        assert!(!lease.holds(lease.seen_by_quorum(7, &five)), "270 ms after it was sent");
    }

    #[tokio::test(start_paused = true)]
    async fn every_config_needs_its_majority_and_the_leader_a_vote() {
        let lease = Lease::new(1, TIMING);
        let start = Instant::now();
        tokio::time::advance(ms(10)).await;
        let now = Instant::now();
        assert_eq!(lease.seen_by_quorum(7, &members(&[&[1]])), Some(now), "alone");
        lease.answered(7, 2, start + ms(5));
        let joint = members(&[&[1, 2, 3], &[1, 4, 5]]);
        assert_eq!(lease.seen_by_quorum(7, &joint), None);
        lease.answered(7, 4, start);
        assert_eq!(lease.seen_by_quorum(7, &joint), Some(start));
        assert_eq!(lease.seen_by_quorum(7, &members(&[&[2, 4]])), None, "it has no vote");
        let leaving = members(&[&[1, 2], &[2]]);
        assert_eq!(lease.seen_by_quorum(7, &leaving), Some(start + ms(5)), "it has one still");
        assert_eq!(lease.seen_by_quorum(7, &members(&[&[1, 2], &[3]])), None);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_of_another_term_count_for_nothing() {
        let (lease, three) = (Lease::new(1, TIMING), members(&[&[1, 2, 3]]));
        let now = Instant::now();
        lease.answered(7, 2, now);
        assert_eq!(lease.seen_by_quorum(8, &three), None);
        lease.answered(8, 3, now);
        lease.answered(7, 2, now);
        assert_eq!(lease.seen_by_quorum(7, &three), None);
        assert_eq!(lease.seen_by_quorum(8, &three), Some(now));
    }
}
