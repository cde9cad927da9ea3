//! The search for an order of the calls on one key.

use std::{collections::HashSet, hash::Hash};

use super::list::{Entry, List};

/// What a search found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// An order that explains everything.
    Order,
    /// None: `order` is the longest that was found, and there the call `stuck` had ended.
    None { order: Vec<usize>, stuck: usize },
    /// It was given up.
    TooMany,
}

/// Looks for an order of calls, each with its begin and its end, in which each step is possible.
pub(super) fn search<S: Clone + Eq + Hash>(
    spans: &[(u64, Option<u64>)],
    first: S,
    step: impl Fn(&S, usize) -> Option<S>,
    max_steps: u64,
) -> Found {
    let mut list = List::new(spans);
    let mut done = Done::new(spans);
    let mut tried: HashSet<(Vec<u64>, S)> = HashSet::new();
    // The calls in their order, each with the state before it.
    let mut order: Vec<(usize, S)> = Vec::new();
    let mut state = first;
    let (mut best, mut stuck, mut steps) = (Vec::new(), None, 0);
    let mut at = list.first();
    while let Some(place) = at {
        if list.all_explained() {
            break;
        }
        match list.entry(place) {
            Entry::Begin(call) => {
                steps += 1;
                if steps > max_steps {
                    return Found::TooMany;
                }
                let next = step(&state, call);
                done.set(call, true);
                match next.filter(|next| tried.insert((done.key(), next.clone()))) {
                    Some(next) => {
                        order.push((call, std::mem::replace(&mut state, next)));
                        list.take_out(call);
                        at = list.first();
                    }
                    None => {
                        done.set(call, false);
                        at = list.after(place);
                    }
                }
            }
            // It has ended, and has no place in the order yet: the last step was wrong.
            Entry::End(call) => {
                if stuck.is_none() || order.len() > best.len() {
                    best = order.iter().map(|(call, _)| *call).collect();
                    stuck = Some(call);
                }
                let Some((last, before)) = order.pop() else { break };
                state = before;
                done.set(last, false);
                let began = list.put_back(last);
                at = list.after(began);
            }
        }
    }
    match (list.all_explained(), stuck) {
        (false, Some(stuck)) => Found::None { order: best, stuck },
        _ => Found::Order,
    }
}

/// Which calls are in the order, as a set of bits: by begin, so that almost all before some call are in
/// it, and almost none after.
struct Done {
    /// The bit of each call.
    bits: Vec<usize>,
    words: Vec<u64>,
}

impl Done {
    fn new(spans: &[(u64, Option<u64>)]) -> Self {
        let mut calls: Vec<usize> = (0..spans.len()).collect();
        calls.sort_by_key(|call| spans[*call].0);
        let mut bits = vec![0; spans.len()];
        calls.into_iter().enumerate().for_each(|(bit, call)| bits[call] = bit);
        Self { bits, words: vec![0; spans.len().div_ceil(64)] }
    }

    fn set(&mut self, call: usize, done: bool) {
        let (word, bit) = (self.bits[call] / 64, 1 << (self.bits[call] % 64));
        if done {
            self.words[word] |= bit;
        } else {
            self.words[word] &= !bit;
        }
    }

    /// The set, without what is full before it and empty after it: short however long the history is.
    fn key(&self) -> Vec<u64> {
        let full = self.words.iter().take_while(|word| **word == u64::MAX).count();
        let rest = &self.words[full..];
        let empty = rest.iter().rev().take_while(|word| **word == 0).count();
        let mut key = Vec::with_capacity(1 + rest.len() - empty);
        key.push(full as u64);
        key.extend_from_slice(&rest[..rest.len() - empty]);
        key
    }
}
