//! The checker against all orders of small histories, and against faults in large ones.

use super::{Call, Outcome, Verdict, check};
use crate::rng::Rng;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Add(u64),
    Get,
}

type History = Vec<Call<u8, Op, u64>>;

/// A counter: both answer the total.
fn step(state: &u64, op: &Op, reply: Option<&u64>) -> Option<u64> {
    let total = match op {
        Op::Add(by) => state + by,
        Op::Get => *state,
    };
    reply.is_none_or(|reply| *reply == total).then_some(total)
}

fn verdict(history: &History) -> Result<(), Verdict> {
    check(history, |_| 0, |_, state, op, reply| step(state, op, reply))
}

/// What goes wrong in a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// An addition is acknowledged and not there.
    Lost,
    /// An addition is there twice.
    Twice,
    /// A read answers what was before something that had ended when it began.
    Stale,
    /// An answer that was never right.
    Wrong,
}

const FAULTS: [Fault; 4] = [Fault::Lost, Fault::Twice, Fault::Stale, Fault::Wrong];

/// Clients that call at once; each call takes effect at some instant between its begin and its end.
struct Counters {
    rng: Rng,
    now: u64,
    /// Each counter's total, and those before it with when their call was answered.
    totals: Vec<u64>,
    history: History,
    /// The place in the history of what each client has under way, and its answer once it took effect.
    under_way: Vec<Option<(usize, Option<u64>)>>,
    unknown: f64,
}

impl Counters {
    fn new(seed: u64, clients: usize, keys: usize, unknown: f64) -> Self {
        let (totals, under_way) = (vec![0; keys], vec![None; clients]);
        Self { rng: Rng::new(seed), now: 0, totals, history: Vec::new(), under_way, unknown }
    }

    /// A history of so many calls, with a fault from the middle on where one is possible.
    fn run(mut self, calls: usize, mut fault: Option<Fault>) -> (History, bool) {
        let faulty = fault.is_some();
        while self.history.len() < calls || self.under_way.iter().any(Option::is_some) {
            self.now += 1;
            let client = self.rng.index(self.under_way.len());
            match self.under_way[client] {
                None if self.history.len() < calls => self.begin(client),
                None => {}
                Some((call, None)) => {
                    let now = (self.history.len() > calls / 2).then_some(fault).flatten();
                    let done = self.take_effect(call, now);
                    if done.1 {
                        fault = None;
                    }
                    self.under_way[client] = Some((call, Some(done.0)));
                }
                Some((call, Some(reply))) => {
                    self.end(call, reply);
                    self.under_way[client] = None;
                }
            }
        }
        for key in 0..self.totals.len() {
            self.now += 2;
            let outcome = Outcome::Replied { at: self.now, reply: self.totals[key] };
            self.history.push(Call { key: key as u8, op: Op::Get, began: self.now - 1, outcome });
        }
        (self.history, faulty && fault.is_none())
    }

    fn begin(&mut self, client: usize) {
        let key = self.rng.index(self.totals.len()) as u8;
        // Sums of these differ.
        let op = if self.rng.chance(0.6) { Op::Add(1 + self.rng.below(1 << 40)) } else { Op::Get };
        self.under_way[client] = Some((self.history.len(), None));
        self.history.push(Call { key, op, began: self.now, outcome: Outcome::Unknown });
    }

    /// The answer, and whether the fault struck.
    fn take_effect(&mut self, at: usize, fault: Option<Fault>) -> (u64, bool) {
        let Call { key, op, began, .. } = self.history[at].clone();
        let total = &mut self.totals[usize::from(key)];
        let right = step(total, &op, None).unwrap_or_default();
        let before = *total;
        *total = right;
        match (fault, op) {
            (Some(Fault::Lost), Op::Add(_)) => *total = before,
            (Some(Fault::Twice), Op::Add(by)) => *total += by,
            (Some(Fault::Wrong), _) => return (right + 1, true),
            (Some(Fault::Stale), Op::Get) => {
                let ended = |call: &&Call<u8, Op, u64>| call.ended().is_some_and(|at| at < began);
                let mut adds = self.history.iter().filter(|call| call.key == key).filter(ended);
                let last = adds.rfind(|call| matches!(call.op, Op::Add(_)));
                let old = last.and_then(|call| Some(call.reply()? - amount(call.op)));
                return old.map_or((right, false), |old| (old, true));
            }
            _ => return (right, false),
        }
        (right, true)
    }

    fn end(&mut self, at: usize, reply: u64) {
        // Nobody needs to know of a fault whose call is not answered.
        if !self.rng.chance(self.unknown) {
            self.history[at].outcome = Outcome::Replied { at: self.now, reply };
        }
    }
}

fn amount(op: Op) -> u64 {
    match op {
        Op::Add(by) => by,
        Op::Get => 0,
    }
}

/// By trying every order of every choice among what may not have happened.
fn by_force(history: &History, state: u64, left: &mut Vec<usize>) -> bool {
    let ended = left.iter().filter_map(|at| history[*at].ended()).min();
    if ended.is_none() {
        return true;
    }
    for n in 0..left.len() {
        let call = &history[left[n]];
        // Whatever has ended before another began is before it.
        if ended.is_some_and(|ended| ended < call.began) {
            continue;
        }
        let Some(next) = step(&state, &call.op, call.reply()) else { continue };
        let at = left.remove(n);
        let found = by_force(history, next, left);
        left.insert(n, at);
        if found {
            return true;
        }
    }
    false
}

#[test]
fn it_agrees_with_trying_all_orders() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..4_000 {
        let mut rng = Rng::new(seed);
        let fault = rng.chance(0.7).then(|| FAULTS[rng.index(4)]);
        let (mut history, _) = Counters::new(seed, 3, 1, 0.2).run(6, fault);
        // A fault that is in the answers alone, and may be none.
        if rng.chance(0.5) {
            let (one, other) = (rng.index(history.len()), rng.index(history.len()));
            let outcome = history[one].outcome.clone();
            if let (Outcome::Replied { reply: new, .. }, Outcome::Replied { reply, .. }) =
                (outcome, &mut history[other].outcome)
            {
                *reply = new;
            }
        }
        let mut all: Vec<usize> = (0..history.len()).collect();
        let expected = by_force(&history, 0, &mut all);
        assert_eq!(verdict(&history).is_ok(), expected, "seed {seed}: {history:?}");
        if expected { good += 1 } else { bad += 1 }
    }
    assert!(good > 1_000 && bad > 1_000, "{good} good, {bad} bad");
}

#[test]
fn it_passes_what_is_right_and_sees_each_fault() {
    let mut struck = 0;
    for seed in 0..1_500 {
        let keys = 1 + seed as usize % 3;
        let (good, _) = Counters::new(seed, 4, keys, 0.02).run(100, None);
        assert_eq!(verdict(&good), Ok(()), "seed {seed}");
        let fault = FAULTS[seed as usize % 4];
        // Each call is answered: of one that is not, nobody can say that it is lost.
        let (bad, strikes) = Counters::new(seed, 4, keys, 0.0).run(100, Some(fault));
        if strikes {
            struck += 1;
            let found = matches!(verdict(&bad), Err(Verdict::NotLinearizable(_)));
            assert!(found, "seed {seed}: {fault:?} is not seen in {bad:?}");
        }
    }
    assert!(struck > 1_000, "{struck} histories had a fault");
}

#[test]
fn eight_clients_with_a_thousand_calls_each() {
    let (good, _) = Counters::new(7, 8, 1, 0.001).run(8_000, None);
    assert_eq!(verdict(&good), Ok(()));
    let (bad, strikes) = Counters::new(7, 8, 1, 0.0).run(8_000, Some(Fault::Lost));
    assert!(strikes);
    let Err(Verdict::NotLinearizable(stuck)) = verdict(&bad) else { panic!("it is not seen") };
    let fault = stuck.order.len();
    assert!((3_900..4_200).contains(&fault), "it is where it happened: {fault}");
}

#[test]
fn what_had_no_effect_is_left_out() {
    let call = |op, began, outcome| Call { key: 0, op, began, outcome };
    let nothing = call(Op::Add(5), 1, Outcome::Nothing);
    let unknown = call(Op::Add(5), 1, Outcome::Unknown);
    let get = |reply| call(Op::Get, 3, Outcome::Replied { at: 4, reply });
    assert_eq!(verdict(&vec![nothing.clone(), get(0)]), Ok(()));
    assert!(verdict(&vec![nothing, get(5)]).is_err());
    assert_eq!(verdict(&vec![unknown.clone(), get(0)]), Ok(()));
    assert_eq!(verdict(&vec![unknown.clone(), get(5)]), Ok(()));
    assert!(verdict(&vec![unknown, get(7)]).is_err());
}
