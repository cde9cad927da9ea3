//! The order's rules, through the framework.

#![allow(clippy::unwrap_used, reason = "tests")]

use duractor::{EventSourced, Node, golden};
use orders::domain::{
    AddLine, Cancel, Line, MAX_LINES, MAX_QUANTITY, MAX_UNIT_CENTS, Order, OrderEvent, Orders, Pay,
    Place, Read, Refused, RemoveLine, Ship, Status,
};
use tempfile::TempDir;

struct Service {
    node: Node,
    folder: TempDir,
}

impl Service {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { node: Node::builder(folder.path()).register(Orders).start().await.unwrap(), folder }
    }

    async fn restart(self) -> Self {
        self.node.shutdown().await;
        let node = Node::builder(self.folder.path()).register(Orders).start().await.unwrap();
        Self { node, ..self }
    }

    fn order(&self) -> duractor::EntityRef<Orders> {
        self.node.entity("one").unwrap()
    }
}

fn line(sku: &str, quantity: u32, unit_cents: u64) -> Line {
    Line { sku: sku.into(), quantity, unit_cents }
}

fn place(lines: Vec<Line>) -> Place {
    Place { customer: "ada".into(), lines }
}

fn add(sku: &str, quantity: u32, unit_cents: u64) -> AddLine {
    AddLine { line: line(sku, quantity, unit_cents) }
}

fn field(result: Result<Order, Refused>) -> String {
    match result.unwrap_err() {
        Refused::Invalid { field, .. } => field,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_order_is_placed_filled_paid_and_shipped_and_is_there_after_a_restart() {
    let service = Service::start().await;
    let order = service.order();
    order.ask(place(vec![line("tea", 2, 500)])).await.unwrap().unwrap();
    order.ask(add("tea", 1, 500)).await.unwrap().unwrap();
    order.ask(add("pot", 1, 1999)).await.unwrap().unwrap();
    order.ask(RemoveLine { sku: "pot".into() }).await.unwrap().unwrap();
    let paid = order.ask(Pay { amount_cents: 1500 }).await.unwrap().unwrap();
    assert_eq!((paid.status, paid.total_cents()), (Status::Paid, 1500));
    let shipped = order.ask(Ship { tracking: "p-1".into() }).await.unwrap().unwrap();

    let service = service.restart().await;
    assert_eq!(service.order().ask(Read).await.unwrap(), Ok(shipped.clone()));
    assert_eq!(shipped.lines, [line("tea", 3, 500)]);
    let history = service.order().history(duractor::Seq(1), 100).await.unwrap();
    let seqs: Vec<_> = history.iter().map(|recorded| recorded.seq.0).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(history[6].event, OrderEvent::Shipped { tracking: "p-1".into() });
    let page = service.order().history(duractor::Seq(3), 2).await.unwrap();
    assert_eq!(page, history[2..4]);
    service.node.shutdown().await;
}

#[tokio::test]
async fn what_an_order_is_not_ready_for_is_refused() {
    let service = Service::start().await;
    let order = service.order();
    assert_eq!(order.ask(Read).await.unwrap(), Err(Refused::NoSuchOrder));
    assert_eq!(order.ask(add("tea", 1, 1)).await.unwrap(), Err(Refused::NoSuchOrder));
    order.ask(place(vec![])).await.unwrap().unwrap();
    assert_eq!(order.ask(place(vec![])).await.unwrap(), Err(Refused::AlreadyPlaced));
    assert_eq!(order.ask(Pay { amount_cents: 0 }).await.unwrap(), Err(Refused::Empty));
    let unpaid = order.ask(Ship { tracking: "p".into() }).await.unwrap();
    assert_eq!(unpaid, Err(Refused::WrongStatus(Status::Open)));
    order.ask(add("tea", 2, 500)).await.unwrap().unwrap();
    let other = order.ask(add("tea", 1, 400)).await.unwrap();
    assert_eq!(other, Err(Refused::OtherPrice { sku: "tea".into(), unit_cents: 500 }));
    let none = order.ask(RemoveLine { sku: "cup".into() }).await.unwrap();
    assert_eq!(none, Err(Refused::NoSuchLine { sku: "cup".into() }));
    let wrong = order.ask(Pay { amount_cents: 999 }).await.unwrap();
    assert_eq!(wrong, Err(Refused::WrongAmount { total_cents: 1000 }));
    order.ask(Pay { amount_cents: 1000 }).await.unwrap().unwrap();
    let late = order.ask(add("cup", 1, 1)).await.unwrap();
    assert_eq!(late, Err(Refused::WrongStatus(Status::Paid)));
    order.ask(Cancel { reason: "no".into() }).await.unwrap().unwrap();
    let again = order.ask(Cancel { reason: "no".into() }).await.unwrap();
    assert_eq!(again, Err(Refused::WrongStatus(Status::Cancelled)));
    // None of the refusals left an event.
    assert_eq!(order.history(duractor::Seq(1), 100).await.unwrap().len(), 4);
    service.node.shutdown().await;
}

#[tokio::test]
async fn input_is_checked_and_an_order_with_a_bad_line_is_not_placed_at_all() {
    let service = Service::start().await;
    let order = service.order();
    let customer = |customer: &str| Place { customer: customer.into(), lines: vec![] };
    for bad in ["", "  ", "a\nb", &"x".repeat(101)] {
        assert_eq!(field(order.ask(customer(bad)).await.unwrap()), "customer");
    }
    let lines = vec![line("tea", 1, 1), line("cup", 0, 1)];
    assert_eq!(field(order.ask(place(lines)).await.unwrap()), "quantity");
    let twice = vec![line("tea", MAX_QUANTITY, 1), line("tea", 1, 1)];
    assert_eq!(field(order.ask(place(twice)).await.unwrap()), "quantity");
    assert_eq!(order.ask(Read).await.unwrap(), Err(Refused::NoSuchOrder), "all or nothing");

    let full = (0..MAX_LINES).map(|n| line(&format!("a{n}"), MAX_QUANTITY, MAX_UNIT_CENTS));
    let full = order.ask(place(full.collect())).await.unwrap().unwrap();
    assert_eq!(full.total_cents(), 100 * 10_000 * 100_000_000);
    assert_eq!(field(order.ask(add("more", 1, 1)).await.unwrap()), "lines");
    assert_eq!(field(order.ask(add("a1", 1, MAX_UNIT_CENTS)).await.unwrap()), "quantity");
    assert_eq!(field(order.ask(add("a1", 1, MAX_UNIT_CENTS + 1)).await.unwrap()), "quantity");
    assert_eq!(field(order.ask(Cancel { reason: "".into() }).await.unwrap()), "reason");
    service.node.shutdown().await;
}

/// What is stored of every event. A failure here means that stored orders cannot be read any more:
/// give the event a new version and an upcaster instead of changing a line.
#[test]
fn stored_events_are_golden() {
    let placed = OrderEvent::Placed { customer: "ada".into() };
    let added = OrderEvent::LineAdded { sku: "tea".into(), quantity: 2, unit_cents: 500 };
    let removed = OrderEvent::LineRemoved { sku: "tea".into() };
    let paid = OrderEvent::Paid { amount_cents: 1000 };
    let shipped = OrderEvent::Shipped { tracking: "p".into() };
    let cancelled = OrderEvent::Cancelled { reason: "no".into() };
    golden(&[
        (&[placed], "placed", 1, "03616461"),
        (&[added], "line-added", 1, "0203746561f403"),
        (&[removed], "line-removed", 1, "03746561"),
        (&[paid], "paid", 1, "e807"),
        (&[shipped], "shipped", 1, "0170"),
        (&[cancelled], "cancelled", 1, "026e6f"),
    ]);
}

/// `apply` is run on whatever is stored: it must not panic, in whatever order.
#[test]
fn events_of_an_order_that_was_never_placed_change_nothing() {
    let mut state = None;
    Orders::apply(&mut state, &OrderEvent::Paid { amount_cents: 1 });
    assert_eq!(state, None);
}
