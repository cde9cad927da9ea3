//! The demo's own check finds each fault, and nothing where there is none.

use orders::demo::{
    check::{Actual, Expected, Found},
    plan::steps,
};
use serde_json::{Value, json};

fn expected() -> Expected {
    let events: Vec<_> = steps(1).into_iter().flat_map(|step| step.events).collect();
    let order = json!({ "id": "a", "status": "shipped" });
    Expected { id: "a".into(), events, order, placed: json!({ "id": "a", "status": "open" }) }
}

/// What a faultless server has.
fn actual() -> Actual {
    let Expected { events, order, placed, .. } = expected();
    let history = numbered(events);
    Actual { order: Some(order), history, placed_again: Some(placed) }
}

fn numbered(events: Vec<Value>) -> Vec<Value> {
    let number = |(mut event, seq): (Value, u64)| {
        event["seq"] = seq.into();
        event["time_ms"] = 7.into();
        event["idempotency_key"] = "k".into();
        event
    };
    events.into_iter().zip(1..).map(number).collect()
}

/// Lost, doubled and different, after a change to what is there.
fn faults(change: impl FnOnce(&mut Actual)) -> (u64, u64, u64) {
    let (mut actual, mut found) = (actual(), Found::default());
    change(&mut actual);
    found.compare(&expected(), &actual);
    let counts = (found.lost, found.doubled, found.different);
    assert_eq!(found.is_clean(), counts == (0, 0, 0));
    assert_eq!(found.is_clean(), found.examples.is_empty());
    counts
}

#[test]
fn no_fault_is_none() {
    assert_eq!(faults(|_| {}), (0, 0, 0));
}

#[test]
fn a_missing_order_is_lost_with_all_its_events() {
    let none = |actual: &mut Actual| {
        (actual.order, actual.history) = (None, Vec::new());
    };
    assert_eq!(faults(none), (8, 0, 0));
}

#[test]
fn a_missing_event_is_lost() {
    assert_eq!(faults(|actual| drop(actual.history.pop())), (1, 0, 0));
}

#[test]
fn an_event_that_is_there_twice_is_doubled() {
    let twice = |actual: &mut Actual| actual.history.push(actual.history[3].clone());
    assert_eq!(faults(twice), (0, 1, 0));
}

#[test]
fn an_event_that_nobody_asked_for_is_too_many_and_the_right_one_is_lost() {
    assert_eq!(faults(|actual| actual.history[0]["customer"] = "eve".into()), (1, 1, 0));
}

#[test]
fn an_order_that_was_placed_twice_is_doubled() {
    assert_eq!(faults(|actual| actual.placed_again = Some(json!({ "id": "b" }))), (0, 1, 0));
}

#[test]
fn another_answer_state_or_sequence_is_different() {
    let other = Some(json!({ "id": "a", "status": "paid" }));
    assert_eq!(faults(|actual| actual.placed_again = other.clone()), (0, 0, 1));
    assert_eq!(faults(|actual| actual.order = other.clone()), (0, 0, 1));
    assert_eq!(faults(|actual| actual.placed_again = Some(json!({ "error": 1 }))), (0, 0, 1));
    assert_eq!(faults(|actual| actual.order = None), (0, 0, 1));
    assert_eq!(faults(|actual| actual.history.swap(3, 4)), (0, 0, 1));
    assert_eq!(faults(|actual| actual.history[7]["seq"] = 9.into()), (0, 0, 1));
}
