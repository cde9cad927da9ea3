//! Compares what was acknowledged with what is there: what is missing is lost, what is there more
//! often than it was asked for is doubled.

use serde_json::Value;

/// Most examples of faults that are kept to be shown.
const EXAMPLES: usize = 5;

/// What was acknowledged of one order.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// The order's id, as placing it answered.
    pub id: String,
    /// The answer to placing it.
    pub placed: Value,
    /// The events of all acknowledged requests, in order.
    pub events: Vec<Value>,
    /// The order, as the last acknowledged request answered.
    pub order: Value,
}

/// What is there of it.
#[derive(Debug, Clone, Default)]
pub struct Actual {
    /// The order; `None` where there is no such order.
    pub order: Option<Value>,
    /// Its history, with sequence numbers, times and keys.
    pub history: Vec<Value>,
    /// The answer to placing it, repeated with the same key.
    pub placed_again: Option<Value>,
}

/// How the orders compare.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Orders that were compared.
    pub orders: u64,
    /// Events that were found.
    pub events: u64,
    /// Events that were acknowledged and are missing; an order that is missing counts with all its
    /// events.
    pub lost: u64,
    /// Events, or orders, that are there once too often.
    pub doubled: u64,
    /// Orders with the right events in another order or with another state, and requests that were
    /// refused though what was acknowledged before allows them.
    pub different: u64,
    /// Some faults, in words.
    pub examples: Vec<String>,
}

impl Found {
    /// Whether there is no fault.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.different == 0
    }

    /// Adds what was found elsewhere.
    pub(crate) fn add(&mut self, other: Found) {
        self.orders += other.orders;
        self.events += other.events;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.different += other.different;
        other.examples.into_iter().for_each(|example| self.example(example));
    }

    /// Adds one order.
    pub fn compare(&mut self, expected: &Expected, actual: &Actual) {
        self.orders += 1;
        self.events += actual.history.len() as u64;
        let found: Vec<_> = actual.history.iter().map(bare).collect();
        let lost = missing(&expected.events, &found);
        let doubled = missing(&found, &expected.events);
        self.lost += lost.len() as u64;
        self.doubled += doubled.len() as u64;
        let id = &expected.id;
        for event in &lost {
            self.example(format!("order {id}: lost {event}"));
        }
        for event in &doubled {
            self.example(format!("order {id}: once too often {event}"));
        }
        let again = actual.placed_again.as_ref();
        let other = again.and_then(|again| again["id"].as_str()).filter(|other| other != id);
        if let Some(other) = other {
            self.doubled += 1;
            self.example(format!("order {id} was placed again as {other}"));
        }
        if !lost.is_empty() || !doubled.is_empty() || other.is_some() {
            return;
        }
        if let Some(difference) = difference(expected, &found, actual) {
            self.different += 1;
            self.example(format!("order {id}: {difference}"));
        }
    }

    /// Adds a request that should have been acknowledged and was refused.
    pub fn refused(&mut self, refusal: &str) {
        self.different += 1;
        self.example(format!("refused: {refusal}"));
    }

    /// Adds something else that is not as it must be.
    pub fn wrong(&mut self, what: String) {
        self.different += 1;
        self.example(what);
    }

    fn example(&mut self, example: String) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(example);
        }
    }
}

/// What is wrong with an order that has the right events.
fn difference(expected: &Expected, found: &[Value], actual: &Actual) -> Option<String> {
    let Expected { order: was, placed, events, .. } = expected;
    let is = actual.order.as_ref().unwrap_or(&Value::Null);
    if is != was {
        return Some(format!("acknowledged as {was}, found as {is}"));
    }
    if let Some(again) = actual.placed_again.as_ref().filter(|again| *again != placed) {
        return Some(format!("placing it was answered with {placed}, and its repeat with {again}"));
    }
    let in_place = actual.history.iter().zip(1u64..).all(|(event, seq)| event["seq"] == seq);
    (found != events || !in_place).then(|| "its events are not in the right order".to_owned())
}

/// An event without what differs from run to run.
fn bare(event: &Value) -> Value {
    let mut event = event.clone();
    if let Some(fields) = event.as_object_mut() {
        fields.retain(|field, _| !["seq", "time_ms", "idempotency_key"].contains(&field.as_str()));
    }
    event
}

/// What is in `all` more often than in `there`.
fn missing(all: &[Value], there: &[Value]) -> Vec<Value> {
    let mut there: Vec<_> = there.iter().collect();
    let mut missing = Vec::new();
    for value in all {
        match there.iter().position(|other| *other == value) {
            Some(place) => drop(there.swap_remove(place)),
            None => missing.push(value.clone()),
        }
    }
    missing
}
