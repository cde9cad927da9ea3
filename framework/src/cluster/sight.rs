//! Who sees whom: what members say of whom they reach, and whom to ask about one that is not reached
//! from here. Pure.
//!
//! A node that one peer does not reach may be well: the line between these two is cut, perhaps in one
//! direction. So no node takes another one for dead by itself. Members say to the leader of shard 0
//! whom they reach, again and again; and of one that it does not reach itself, it asks some of them
//! expressly to get an answer from it. As long as any of those has one, nobody takes its replicas.

use std::collections::{BTreeMap, BTreeSet};

use duractor_journal::Member;
use serde::{Deserialize, Serialize};

use super::{
    properties::About,
    state::{ClusterState, Phase},
    view::View,
};

/// As many members are asked at a time about one that is not reached: SWIM's default (Das, Gupta,
/// Motivala, 2002) as most implementations have it. In turn, so all are asked within some seconds.
pub(super) const ASKED: usize = 3;

/// What members see of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Sight {
    /// Whom it is about, as `2.1`.
    pub member: String,
    /// The members that reach it, of those that are heard.
    pub reached_by: Vec<String>,
    /// Those that do not.
    pub missed_by: Vec<String>,
    /// How long its log takes, in milliseconds, as it says.
    pub log_delay_ms: u64,
    /// Why it leads nothing, where it is sick.
    pub sick: Option<String>,
}

/// Everybody whom anybody reaches that is heard.
pub(super) fn reached(about: &BTreeMap<Member, About>) -> BTreeSet<Member> {
    about.values().flat_map(|about| about.reaches.iter().copied()).collect()
}

/// The members, of those that are heard, that reach one, and those that do not.
pub(super) fn seen(view: &View, member: Member) -> (Vec<Member>, Vec<Member>) {
    let others = view.about.iter().filter(|(other, _)| **other != member);
    let (reach, miss): (Vec<_>, Vec<_>) =
        others.partition(|(_, about)| about.reaches.contains(&member));
    let names = |some: Vec<(&Member, &About)>| some.into_iter().map(|(other, _)| *other).collect();
    (names(reach), names(miss))
}

/// What all see of all.
pub(super) fn sights(state: &ClusterState, view: &View) -> Vec<Sight> {
    let text = |some: Vec<Member>| some.iter().map(ToString::to_string).collect();
    let sight = |member: Member| {
        let (reach, miss) = seen(view, member);
        Sight {
            member: member.to_string(),
            reached_by: text(reach),
            missed_by: text(miss),
            log_delay_ms: view.about.get(&member).map_or(0, |about| about.log_delay_ms),
            sick: view.sick.get(&member).cloned(),
        }
    };
    state.in_phase(&[Phase::Joined]).map(sight).collect()
}

/// Whom to ask, for the `round`-th time, about a member that `me` does not reach: of those that are
/// reached and understand the question, in turn.
pub(super) fn helpers(view: &View, me: Member, about: Member, round: usize) -> Vec<Member> {
    let able = |member: &Member| view.about.get(member).is_some_and(|about| about.probes);
    let fit = view.up.keys().copied().filter(|member| *member != me && *member != about);
    let fit: Vec<Member> = fit.filter(able).collect();
    let from = if fit.is_empty() { 0 } else { round * ASKED % fit.len() };
    fit.iter().cycle().skip(from).take(ASKED.min(fit.len())).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn m(node: u32) -> Member {
        Member::new(node, 1)
    }

    fn view(reaches: &[(u32, &[u32])]) -> View {
        let mut view = View::default();
        for (node, peers) in reaches {
            let reaches = peers.iter().map(|peer| m(*peer)).collect();
            view.about.insert(m(*node), About { reaches, ..About::of_tests() });
            view.up.insert(m(*node), 1_000);
        }
        view
    }

    #[test]
    fn one_that_a_single_peer_does_not_reach_is_reached() {
        let view = view(&[(1, &[2]), (2, &[1, 3])]);
        assert_eq!(reached(&view.about), [m(1), m(2), m(3)].into());
        assert_eq!(seen(&view, m(3)), (vec![m(2)], vec![m(1)]));
        assert_eq!(seen(&view, m(1)), (vec![m(2)], vec![]), "of itself it says nothing");
    }

    #[test]
    fn all_are_asked_in_turn() {
        let mut view = view(&[(1, &[]), (2, &[]), (3, &[]), (4, &[]), (5, &[]), (6, &[])]);
        let ask = |view: &View, round| helpers(view, m(1), m(6), round);
        assert_eq!(ask(&view, 0), [m(2), m(3), m(4)]);
        assert_eq!(ask(&view, 1), [m(5), m(2), m(3)]);
        let both: BTreeSet<_> = ask(&view, 0).into_iter().chain(ask(&view, 1)).collect();
        assert_eq!(both.len(), 4, "all but the asking one and the one in question");
        // Those of an older release do not understand it.
        for about in view.about.values_mut() {
            about.probes = false;
        }
        assert_eq!(ask(&view, 0), []);
    }
}
