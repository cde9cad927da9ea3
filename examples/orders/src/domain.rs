//! What an order is: its events, its commands and its rules.
//!
//! Everything here is pure: nothing waits, reads a clock or knows of HTTP. That is what lets the
//! framework replay the events in every recovery, and a test call any of it directly.

#![allow(missing_docs, reason = "the names of fields and variants say what they are")]

use std::fmt;

use duractor::prelude::*;
use serde::{Deserialize, Serialize};

/// Most lines of an order.
pub const MAX_LINES: usize = 100;
/// Most pieces of one article in an order.
pub const MAX_QUANTITY: u32 = 10_000;
/// The highest price of a piece: a million, in cents.
pub const MAX_UNIT_CENTS: u64 = 100_000_000;
/// Longest name of a customer, article, parcel or reason, in bytes.
pub const MAX_TEXT_BYTES: usize = 100;

// ── Events: what happened. They are stored, so every later release must still read them. ─────────

/// What can happen to an order.
///
/// `Event` is how they are stored: by name, version and fields, in whatever order they are written
/// here. `Serialize` has nothing to do with that; it is how the order's history looks in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Event, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum OrderEvent {
    #[event(name = "placed")]
    Placed { customer: String },
    #[event(name = "line-added")]
    LineAdded { sku: String, quantity: u32, unit_cents: u64 },
    #[event(name = "line-removed")]
    LineRemoved { sku: String },
    #[event(name = "paid")]
    Paid { amount_cents: u64 },
    #[event(name = "shipped")]
    Shipped { tracking: String },
    #[event(name = "cancelled")]
    Cancelled { reason: String },
}

use OrderEvent::{Cancelled, LineAdded, LineRemoved, Paid, Placed, Shipped};

// ── State: what the events add up to. It is never stored but in snapshots, which can be remade. ──

/// An order that was placed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub customer: String,
    pub status: Status,
    pub lines: Vec<Line>,
}

/// How far an order is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    Open,
    Paid,
    Shipped,
    Cancelled,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Open => "open",
            Status::Paid => "paid",
            Status::Shipped => "shipped",
            Status::Cancelled => "cancelled",
        })
    }
}

/// So many pieces of an article, at so much each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    pub sku: String,
    pub quantity: u32,
    pub unit_cents: u64,
}

impl Order {
    /// What the order costs, in cents. The limits above keep it far from overflowing.
    #[must_use]
    pub fn total_cents(&self) -> u64 {
        self.lines.iter().map(|line| u64::from(line.quantity) * line.unit_cents).sum()
    }

    fn line(&self, sku: &str) -> Option<&Line> {
        self.lines.iter().find(|line| line.sku == sku)
    }
}

// ── Commands: what can be asked of an order. ──────────────────────────────────────────────────────
// Each is also the JSON body of its request: that is what `Deserialize` is for.

/// What a command is answered with: the order as it is then, or why the order refuses.
///
/// A refusal by the order's own rules is a reply like any other. Errors of the framework (busy,
/// shutting down, a full disk) come beside it, as `AskError`.
pub type OrderReply = Result<Order, Refused>;

/// Places the order.
#[derive(Debug, Clone, Command, Deserialize)]
#[command(reply = OrderReply)]
#[serde(deny_unknown_fields)]
pub struct Place {
    pub customer: String,
    #[serde(default)]
    pub lines: Vec<Line>,
}

/// Adds pieces of an article; those of an article that is in the order already add up.
#[derive(Debug, Clone, Command, Deserialize)]
#[command(reply = OrderReply)]
#[serde(transparent)]
pub struct AddLine {
    pub line: Line,
}

/// Takes an article out of the order.
#[derive(Debug, Clone, Command)]
#[command(reply = OrderReply)]
pub struct RemoveLine {
    pub sku: String,
}

/// Pays the whole order. The amount is there to catch an order that has changed meanwhile.
#[derive(Debug, Clone, Command, Deserialize)]
#[command(reply = OrderReply)]
#[serde(deny_unknown_fields)]
pub struct Pay {
    pub amount_cents: u64,
}

/// Says that the paid order is on its way.
#[derive(Debug, Clone, Command, Deserialize)]
#[command(reply = OrderReply)]
#[serde(deny_unknown_fields)]
pub struct Ship {
    pub tracking: String,
}

/// Cancels an order that is not shipped.
#[derive(Debug, Clone, Command, Deserialize)]
#[command(reply = OrderReply)]
#[serde(deny_unknown_fields)]
pub struct Cancel {
    pub reason: String,
}

/// Asks for the order as it is.
#[derive(Debug, Clone, Command)]
#[command(reply = OrderReply)]
pub struct Read;

/// Why an order refuses a command. Nothing has happened then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refused {
    #[error("there is no such order")]
    NoSuchOrder,
    #[error("the order was placed already")]
    AlreadyPlaced,
    #[error("the order is {0}: this cannot be done any more, or not yet")]
    WrongStatus(Status),
    #[error("the order has no line for {sku:?}")]
    NoSuchLine { sku: String },
    #[error("the order has no lines")]
    Empty,
    #[error("{sku:?} is in the order at {unit_cents} cents, and an article has one price")]
    OtherPrice { sku: String, unit_cents: u64 },
    #[error("the order costs {total_cents} cents, and it is paid as a whole")]
    WrongAmount { total_cents: u64 },
    #[error("{field}: {problem}")]
    Invalid { field: String, problem: String },
}

// ── Rules: what a command makes happen, or why not. ───────────────────────────────────────────────

type Decision = Result<Vec<OrderEvent>, Refused>;

impl Place {
    fn decide(self, order: &Option<Order>) -> Decision {
        if order.is_some() {
            return Err(Refused::AlreadyPlaced);
        }
        check_text("customer", &self.customer)?;
        // The lines are tried out on an order that is not placed yet: they must fit together too.
        let mut draft = Some(Order::new(self.customer.clone()));
        let mut events = vec![Placed { customer: self.customer }];
        for line in self.lines {
            for added in find(&draft)?.add(line)? {
                Orders::apply(&mut draft, &added);
                events.push(added);
            }
        }
        Ok(events)
    }
}

impl Order {
    fn new(customer: String) -> Self {
        Self { customer, status: Status::Open, lines: Vec::new() }
    }

    fn add(&self, Line { sku, quantity, unit_cents }: Line) -> Decision {
        self.check_status(&[Status::Open])?;
        check_text("sku", &sku)?;
        let before = self.line(&sku);
        let room = MAX_QUANTITY - before.map_or(0, |line| line.quantity);
        check_range("quantity", quantity.into(), 1..=room.into())?;
        check_range("unit_cents", unit_cents, 0..=MAX_UNIT_CENTS)?;
        match before {
            Some(line) if line.unit_cents != unit_cents => {
                Err(Refused::OtherPrice { sku, unit_cents: line.unit_cents })
            }
            None if self.lines.len() >= MAX_LINES => {
                Err(invalid("lines", format!("at most {MAX_LINES} are allowed")))
            }
            _ => Ok(vec![LineAdded { sku, quantity, unit_cents }]),
        }
    }

    fn remove(&self, sku: String) -> Decision {
        self.check_status(&[Status::Open])?;
        match self.line(&sku) {
            Some(_) => Ok(vec![LineRemoved { sku }]),
            None => Err(Refused::NoSuchLine { sku }),
        }
    }

    fn pay(&self, amount_cents: u64) -> Decision {
        self.check_status(&[Status::Open])?;
        if self.lines.is_empty() {
            return Err(Refused::Empty);
        }
        match self.total_cents() {
            total if total == amount_cents => Ok(vec![Paid { amount_cents }]),
            total_cents => Err(Refused::WrongAmount { total_cents }),
        }
    }

    fn ship(&self, tracking: String) -> Decision {
        self.check_status(&[Status::Paid])?;
        check_text("tracking", &tracking)?;
        Ok(vec![Shipped { tracking }])
    }

    fn cancel(&self, reason: String) -> Decision {
        self.check_status(&[Status::Open, Status::Paid])?;
        check_text("reason", &reason)?;
        Ok(vec![Cancelled { reason }])
    }

    fn check_status(&self, allowed: &[Status]) -> Result<(), Refused> {
        if allowed.contains(&self.status) { Ok(()) } else { Err(Refused::WrongStatus(self.status)) }
    }
}

fn find(order: &Option<Order>) -> Result<&Order, Refused> {
    order.as_ref().ok_or(Refused::NoSuchOrder)
}

fn check_text(field: &str, text: &str) -> Result<(), Refused> {
    if text.trim().is_empty() {
        return Err(invalid(field, "must not be empty"));
    }
    if text.len() > MAX_TEXT_BYTES {
        return Err(invalid(field, format!("at most {MAX_TEXT_BYTES} bytes are allowed")));
    }
    if text.chars().any(char::is_control) {
        return Err(invalid(field, "must not contain control characters"));
    }
    Ok(())
}

fn check_range(
    field: &str,
    value: u64,
    allowed: std::ops::RangeInclusive<u64>,
) -> Result<(), Refused> {
    if allowed.contains(&value) {
        return Ok(());
    }
    let (least, most) = allowed.into_inner();
    if most < least {
        return Err(invalid(field, "there is no room for more in this line"));
    }
    Err(invalid(field, format!("must be {least} to {most}")))
}

fn invalid(field: &str, problem: impl Into<String>) -> Refused {
    Refused::Invalid { field: field.to_owned(), problem: problem.into() }
}

// ── The entity: ties events, state and commands together. ─────────────────────────────────────────

/// All orders. One order is `node.entity::<Orders>(id)`.
pub struct Orders;

impl EventSourced for Orders {
    const KIND: &'static str = "order";
    /// `None` until the order is placed: every entity starts from the default state.
    type State = Option<Order>;
    type Event = OrderEvent;
    type Commands = (Place, AddLine, RemoveLine, Pay, Ship, Cancel, Read);

    /// Decides nothing: what is in an event has happened.
    fn apply(state: &mut Option<Order>, event: &OrderEvent) {
        if let Placed { customer } = event {
            *state = Some(Order::new(customer.clone()));
            return;
        }
        let Some(order) = state else { return };
        match event {
            Placed { .. } => {}
            LineAdded { sku, quantity, unit_cents } => {
                match order.lines.iter_mut().find(|line| line.sku == *sku) {
                    Some(line) => line.quantity += quantity,
                    None => {
                        let (quantity, unit_cents) = (*quantity, *unit_cents);
                        order.lines.push(Line { sku: sku.clone(), quantity, unit_cents });
                    }
                }
            }
            LineRemoved { sku } => order.lines.retain(|line| line.sku != *sku),
            Paid { .. } => order.status = Status::Paid,
            Shipped { .. } => order.status = Status::Shipped,
            Cancelled { .. } => order.status = Status::Cancelled,
        }
    }

    /// A long order recovers from its newest snapshot and the events after it.
    fn settings(&self) -> EntitySettings {
        EntitySettings::default().snapshot_every(50)
    }
}

type Answer = Effect<Orders, OrderReply>;

/// The effect of a decision: its events are written together, and the answer is the order after
/// them. The caller hears it when the events are on disk.
fn effect(decision: Decision) -> Answer {
    match decision {
        Ok(events) => Orders::persist_all(events).reply(|order| find(order).cloned()),
        Err(refused) => Effect::reply(Err(refused)),
    }
}

// `handle` of each command: the state and the command in, an effect out.

impl Handle<Place> for Orders {
    fn handle(&self, order: &Option<Order>, command: Place, _: &Context) -> Answer {
        effect(command.decide(order))
    }
}

impl Handle<AddLine> for Orders {
    fn handle(&self, order: &Option<Order>, command: AddLine, _: &Context) -> Answer {
        effect(find(order).and_then(|order| order.add(command.line)))
    }
}

impl Handle<RemoveLine> for Orders {
    fn handle(&self, order: &Option<Order>, command: RemoveLine, _: &Context) -> Answer {
        effect(find(order).and_then(|order| order.remove(command.sku)))
    }
}

impl Handle<Pay> for Orders {
    fn handle(&self, order: &Option<Order>, command: Pay, _: &Context) -> Answer {
        effect(find(order).and_then(|order| order.pay(command.amount_cents)))
    }
}

impl Handle<Ship> for Orders {
    fn handle(&self, order: &Option<Order>, command: Ship, _: &Context) -> Answer {
        effect(find(order).and_then(|order| order.ship(command.tracking)))
    }
}

impl Handle<Cancel> for Orders {
    fn handle(&self, order: &Option<Order>, command: Cancel, _: &Context) -> Answer {
        effect(find(order).and_then(|order| order.cancel(command.reason)))
    }
}

impl Handle<Read> for Orders {
    fn handle(&self, order: &Option<Order>, _: Read, _: &Context) -> Answer {
        Effect::reply(find(order).cloned())
    }
}
