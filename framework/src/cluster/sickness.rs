//! Which members had better lead nothing for a while: those that few others reach, and those whose log
//! is slow. Pure, but for what it remembers.
//!
//! A sick node still takes part: it keeps its replicas and votes. It does harm where it leads, for
//! each of its commits waits for it. So its leaderships go to others, until it has been well for long.
//!
//! ```text
//!            ill for hold_ms                     well for recover_ms (doubled with each relapse)
//!   well ────────────────────► sick: leads nothing ────────────────────────► well
//! ```
//!
//! Where as many as half of the members are ill at once, nobody becomes sick: the cause is what they
//! have in common, or the view from here, and others would fare no better.

use std::collections::BTreeMap;

use duractor_journal::Member;

use super::{
    sight::seen,
    state::{ClusterState, Phase},
    view::View,
};

/// When a member is sick. Times are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rules {
    /// A log that takes so long is ill. A disk that syncs in 1 s holds up everything that elections
    /// and heartbeats take 150 ms for.
    pub(super) delay_ms: u64,
    /// For how long it must be so, without a break. Ten times an election, so that what elections
    /// settle is not settled twice.
    pub(super) hold_ms: u64,
    /// For how long it must be well to lead again.
    pub(super) recover_ms: u64,
    /// A relapse within so long doubles that, up to 16 times.
    pub(super) forget_ms: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self { delay_ms: 1_000, hold_ms: 5_000, recover_ms: 30_000, forget_ms: 3_600_000 }
    }
}

/// What is remembered between two looks.
#[derive(Debug, Default)]
pub(super) struct Watch {
    cases: BTreeMap<Member, Case>,
}

#[derive(Debug, Default)]
struct Case {
    /// Since when it is ill, or, of one that is sick, well.
    turning_ms: Option<u64>,
    sick: Option<String>,
    /// When it became well last, and how often it was sick since one could forget it.
    well_ms: Option<u64>,
    times: u32,
}

impl Watch {
    /// Goes on from what another one saw: who is sick stays so until it has been well for long.
    /// Otherwise the next leader of shard 0, who has yet to see anything, would give back what the one
    /// before has just moved away.
    pub(super) fn after(sick: BTreeMap<Member, String>) -> Self {
        let case = |why| Case { sick: Some(why), times: 1, ..Case::default() };
        Self { cases: sick.into_iter().map(|(member, why)| (member, case(why))).collect() }
    }

    /// Looks at everybody, at a time that only ever grows. Gives who is sick, and why.
    pub(super) fn look(
        &mut self,
        state: &ClusterState,
        view: &View,
        rules: Rules,
        now_ms: u64,
    ) -> BTreeMap<Member, String> {
        let joined: Vec<Member> = state.in_phase(&[Phase::Joined]).collect();
        // Of who is not reached there is nothing to say: what it led others lead.
        let there = |member: &Member| joined.contains(member) && view.up.contains_key(member);
        self.cases.retain(|member, _| joined.contains(member));
        for (_, case) in self.cases.iter_mut().filter(|(member, _)| !there(member)) {
            case.turning_ms = None;
        }
        let ill: BTreeMap<Member, String> = joined
            .iter()
            .filter(|member| there(member))
            .filter_map(|member| Some((*member, illness(view, *member, rules)?)))
            .collect();
        let few = |sick: usize| 2 * sick < joined.len();
        let all_well = few(ill.len());
        let mut sick = self.cases.values().filter(|case| case.sick.is_some()).count();
        for member in joined.iter().copied().filter(there) {
            let case = self.cases.entry(member).or_default();
            match (case.sick.is_some(), ill.get(&member)) {
                (false, Some(why)) if all_well => {
                    let since = *case.turning_ms.get_or_insert(now_ms);
                    if now_ms - since >= rules.hold_ms && few(sick + 1) {
                        case.falls_sick(why, rules, now_ms);
                        sick += 1;
                    }
                }
                (true, None) => {
                    let since = *case.turning_ms.get_or_insert(now_ms);
                    if now_ms - since >= rules.recover_ms << (case.times - 1).min(4) {
                        (case.sick, case.turning_ms, case.well_ms) = (None, None, Some(now_ms));
                        sick -= 1;
                    }
                }
                (false, _) | (true, Some(_)) => case.turning_ms = None,
            }
        }
        let named = |(member, case): (&Member, &Case)| Some((*member, case.sick.clone()?));
        self.cases.iter().filter_map(named).collect()
    }
}

impl Case {
    fn falls_sick(&mut self, why: &str, rules: Rules, now_ms: u64) {
        let relapse = self.well_ms.is_some_and(|well| now_ms - well < rules.forget_ms);
        self.times = if relapse { self.times + 1 } else { 1 };
        (self.sick, self.turning_ms) = (Some(why.to_owned()), None);
    }
}

/// What is wrong with a member now.
fn illness(view: &View, member: Member, rules: Rules) -> Option<String> {
    let delay_ms = view.about.get(&member).map_or(0, |about| about.log_delay_ms);
    if delay_ms >= rules.delay_ms {
        return Some("its log is slow".to_owned());
    }
    let (reach, miss) = seen(view, member);
    // Of a single line that is cut nobody knows on which side it is.
    (reach.len() < miss.len()).then(|| "few others reach it".to_owned())
}

#[cfg(test)]
mod tests {
    use duractor_journal::{Seq, Timestamp};

    use super::{
        super::{event::ClusterEvent, properties::About},
        *,
    };

    const RULES: Rules =
        Rules { delay_ms: 1_000, hold_ms: 5_000, recover_ms: 30_000, forget_ms: 3_600_000 };

    fn m(node: u32) -> Member {
        Member::new(node, 1)
    }

    struct Ward {
        state: ClusterState,
        view: View,
        watch: Watch,
        now_ms: u64,
    }

    impl Ward {
        /// Members that all reach each other, with fast logs.
        fn of(nodes: u32) -> Self {
            let mut state = ClusterState::default();
            let mut record = |event: ClusterEvent| {
                let revision = state.revision + 1;
                state.apply(&event, Seq(revision), Timestamp(0));
            };
            let text = String::new;
            record(ClusterEvent::Formed {
                cluster_id: 1,
                name: "c".into(),
                shards: 4,
                replication: 3,
                member: m(1),
                address: text(),
                reason: text(),
            });
            for member in (2..=nodes).map(m) {
                let (address, reason) = (text(), text());
                record(ClusterEvent::Joining { member, address, token: 1, reason: reason.clone() });
                record(ClusterEvent::Joined { member, reason });
            }
            let mut view = View::default();
            for node in 1..=nodes {
                let reaches = (1..=nodes).filter(|other| *other != node).map(m).collect();
                view.up.insert(m(node), 1_000);
                view.about.insert(m(node), About { reaches, ..About::of_tests() });
            }
            Self { state, view, watch: Watch::default(), now_ms: 0 }
        }

        /// For so long; looked at every 200 ms. Who is sick in the end.
        fn after(&mut self, ms: u64) -> Vec<Member> {
            let until = self.now_ms + ms;
            let mut sick = BTreeMap::new();
            while self.now_ms < until {
                self.now_ms += 200;
                sick = self.watch.look(&self.state, &self.view, RULES, self.now_ms);
            }
            sick.into_keys().collect()
        }

        fn slow(&mut self, node: u32, delay_ms: u64) {
            self.view.about.get_mut(&m(node)).expect("it is heard").log_delay_ms = delay_ms;
        }

        /// The line between two is cut.
        fn cut(&mut self, one: u32, other: u32) {
            for (a, b) in [(one, other), (other, one)] {
                let about = self.view.about.get_mut(&m(a)).expect("it is heard");
                about.reaches.retain(|peer| *peer != m(b));
            }
        }
    }

    #[test]
    fn a_slow_log_must_be_slow_for_a_while_and_well_for_long() {
        let mut ward = Ward::of(3);
        assert_eq!(ward.after(60_000), []);
        ward.slow(2, 1_500);
        assert_eq!(ward.after(4_800), [], "a moment is not worth a hand-over");
        assert_eq!(ward.after(600), [m(2)]);
        ward.slow(2, 3);
        assert_eq!(ward.after(29_000), [m(2)], "nor is one of recovery");
        assert_eq!(ward.after(1_600), []);
    }

    /// Cause: a disk that is slow for 6 s and well for 31 s. Consequence without hysteresis that grows:
    /// its leaderships would go and come back every 37 s, for ever.
    #[test]
    fn each_relapse_takes_twice_as_long() {
        let mut ward = Ward::of(3);
        let mut hand_overs = 0;
        let mut before = false;
        for _ in 0..100 {
            for (delay_ms, ms) in [(2_000, 6_000), (3, 31_000)] {
                ward.slow(2, delay_ms);
                let sick = !ward.after(ms).is_empty();
                hand_overs += usize::from(sick != before);
                before = sick;
            }
        }
        assert_eq!(hand_overs, 3, "sick, well, and sick for good");
        ward.slow(2, 3);
        assert_eq!(ward.after(28_000), [m(2)], "31 s of it are over");
        assert_eq!(ward.after(2_000), [], "the second time it takes a minute");
    }

    #[test]
    fn flicker_is_no_illness() {
        let mut ward = Ward::of(3);
        for _ in 0..20 {
            ward.slow(2, 2_000);
            assert_eq!(ward.after(4_000), []);
            ward.slow(2, 3);
            assert_eq!(ward.after(200), []);
        }
    }

    #[test]
    fn one_cut_line_makes_nobody_sick() {
        for nodes in [3, 4, 5] {
            let mut ward = Ward::of(nodes);
            ward.cut(1, 2);
            assert_eq!(ward.after(60_000), [], "of {nodes}");
        }
    }

    #[test]
    fn one_that_few_reach_is_sick() {
        let mut ward = Ward::of(5);
        ward.cut(5, 2);
        ward.cut(5, 3);
        assert_eq!(ward.after(60_000), [], "half of the others reach it");
        ward.cut(5, 4);
        assert_eq!(ward.after(6_000), [m(5)]);
    }

    #[test]
    fn who_takes_over_goes_on_with_the_sick() {
        let mut ward = Ward::of(3);
        ward.watch = Watch::after([(m(2), "its log is slow".to_owned())].into());
        assert_eq!(ward.after(29_000), [m(2)]);
        assert_eq!(ward.after(2_000), []);
    }

    /// As when they share a disk array: who should take over?
    #[test]
    fn where_half_are_ill_nobody_is_sick() {
        let mut ward = Ward::of(4);
        ward.slow(1, 2_000);
        ward.slow(2, 2_000);
        assert_eq!(ward.after(60_000), []);
        ward.slow(1, 3);
        assert_eq!(ward.after(6_000), [m(2)]);
        // Who fell ill alone stays sick when others follow.
        ward.slow(3, 2_000);
        assert_eq!(ward.after(60_000), [m(2)]);
    }

    #[test]
    fn of_who_is_away_nothing_is_said() {
        let mut ward = Ward::of(3);
        ward.slow(2, 2_000);
        ward.after(4_000);
        let about = ward.view.about.remove(&m(2)).expect("it was heard");
        ward.view.up.remove(&m(2));
        assert_eq!(ward.after(10_000), []);
        ward.view.up.insert(m(2), 0);
        ward.view.about.insert(m(2), about);
        assert_eq!(ward.after(4_000), [], "what was before does not count");
        assert_eq!(ward.after(2_000), [m(2)]);
    }
}
