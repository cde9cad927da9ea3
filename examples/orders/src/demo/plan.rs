//! What happens to each order of the demo, and which events that must leave.

use axum::http::Method;
use serde_json::{Value, json};

/// One request, and the events that it must leave in the order's history.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The request's method.
    pub method: Method,
    /// What comes after `/orders` (the first step) or `/orders/{id}` (the others).
    pub path: String,
    /// The JSON body; null for none.
    pub body: Value,
    /// The events, as the history shows them, without `seq`, `time_ms` and key.
    pub events: Vec<Value>,
}

/// The steps of order number `n`: the first one places it. Orders differ in what happens to them.
#[must_use]
pub fn steps(n: u32) -> Vec<Step> {
    let cents = u64::from(n % 1000) + 1;
    let customer = format!("customer-{n}");
    let placed = json!({ "type": "placed", "customer": customer });
    let place = Step {
        method: Method::POST,
        path: String::new(),
        body: json!({ "customer": customer, "lines": [line("tea", 2, cents), line("cup", 1, 450)] }),
        events: vec![placed, added("tea", 2, cents), added("cup", 1, 450)],
    };
    // Pieces of an article add up, so a request that took effect twice would show in the total.
    let tea = add("tea", 1, cents);
    let pot = add("pot", 1, 1999);
    let no_pot = Step {
        method: Method::DELETE,
        path: "/lines/pot".into(),
        body: Value::Null,
        events: vec![json!({ "type": "line-removed", "sku": "pot" })],
    };
    let pay = |cents| post("pay", json!({ "amount_cents": cents }), "paid");
    let ship = post("ship", json!({ "tracking": format!("parcel-{n}") }), "shipped");
    let cancel = post("cancel", json!({ "reason": "changed my mind" }), "cancelled");
    match n % 4 {
        0 => vec![place, tea, pot, cancel],
        1 => vec![place, tea, pot, no_pot, pay(3 * cents + 450), ship],
        2 => vec![place, tea.clone(), tea, pay(4 * cents + 450), cancel],
        _ => vec![place, tea.clone(), pot, tea, pay(4 * cents + 450 + 1999), ship],
    }
}

fn add(sku: &str, quantity: u32, unit_cents: u64) -> Step {
    Step {
        method: Method::POST,
        path: "/lines".into(),
        body: line(sku, quantity, unit_cents),
        events: vec![added(sku, quantity, unit_cents)],
    }
}

/// A step whose event has the fields of its body.
fn post(verb: &str, body: Value, event: &str) -> Step {
    let mut left = body.clone();
    left["type"] = event.into();
    Step { method: Method::POST, path: format!("/{verb}"), body, events: vec![left] }
}

fn line(sku: &str, quantity: u32, unit_cents: u64) -> Value {
    json!({ "sku": sku, "quantity": quantity, "unit_cents": unit_cents })
}

fn added(sku: &str, quantity: u32, unit_cents: u64) -> Value {
    let mut event = line(sku, quantity, unit_cents);
    event["type"] = "line-added".into();
    event
}
