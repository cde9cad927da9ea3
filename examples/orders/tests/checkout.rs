//! Buying an order: what is done, and what is undone; and the mailer that tells of it.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{Router, http::HeaderMap, http::StatusCode, http::Uri, routing::post};
use duractor::{Node, golden};
use orders::{
    account::{Account, AccountEvent, Accounts, Deposit, LookAt},
    checkout::{AlreadyStarted, Checkout, CheckoutEvent, Checkouts, LookAtCheckout, Stage, Start},
    depot::{DEPOT, Depot, DepotEvent, Depots, LookInto, Stock},
    domain::{Cancel, Line, Orders, Place, Read, Status},
    kinds,
    outbox::{CountNotices, NUMBER, Notice, OUTBOX, Oldest, Outbox, OutboxEvent, TOKEN, mail},
    web,
};
use tokio::{
    net::TcpListener,
    time::{Instant, sleep},
};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

async fn start(folder: &Path) -> Node {
    kinds(Node::builder(folder)).start().await.unwrap()
}

/// An order of `pieces` pieces of tea, at 500 each.
async fn place(node: &Node, id: &str, pieces: u32) {
    let lines = vec![Line { sku: "tea".into(), quantity: pieces, unit_cents: 500 }];
    let placed = node.entity::<Orders>(id).unwrap().ask(Place { customer: "ada".into(), lines });
    placed.await.unwrap().unwrap();
}

async fn buy(node: &Node, id: &str, amount_cents: u64) -> Result<Checkout, AlreadyStarted> {
    let start = Start { account: "ada".into(), amount_cents };
    node.entity::<Checkouts>(id).unwrap().ask(start).await.unwrap()
}

async fn ended(node: &Node, id: &str) -> Checkout {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let checkout = node.entity::<Checkouts>(id).unwrap().ask(LookAtCheckout).await.unwrap();
        if matches!(checkout.stage, Stage::Shipped | Stage::Refused) {
            return checkout;
        }
        assert!(Instant::now() < give_up, "{checkout:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

async fn status(node: &Node, id: &str) -> Status {
    node.entity::<Orders>(id).unwrap().ask(Read).await.unwrap().unwrap().status
}

/// The account once nothing is set aside.
async fn account(node: &Node) -> Account {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let account = node.entity::<Accounts>("ada").unwrap().ask(LookAt).await.unwrap();
        if account.reserved.is_empty() {
            return account;
        }
        assert!(Instant::now() < give_up, "{account:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

async fn depot(node: &Node) -> Depot {
    node.entity::<Depots>(DEPOT).unwrap().ask(LookInto).await.unwrap()
}

async fn equip(node: &Node, cents: u64, pieces: u64) {
    let deposit = node.entity::<Accounts>("ada").unwrap().ask(Deposit { cents });
    deposit.await.unwrap().unwrap();
    let stock = Stock { sku: "tea".into(), pieces };
    node.entity::<Depots>(DEPOT).unwrap().ask(stock).await.unwrap();
}

async fn notices(node: &Node) -> Vec<(String, String)> {
    let oldest = Oldest { count: 100 };
    let notices = node.entity::<Outbox>(OUTBOX).unwrap().ask(oldest).await.unwrap();
    notices.into_iter().map(|(_, notice)| (notice.order, notice.text)).collect()
}

#[tokio::test]
async fn an_order_is_paid_and_shipped_or_all_is_undone() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path()).await;
    equip(&node, 3000, 3).await;

    place(&node, "good", 2).await;
    assert_eq!(buy(&node, "good", 1000).await.unwrap().stage, Stage::Reserving);
    assert_eq!(buy(&node, "good", 1000).await, Err(AlreadyStarted));
    let good = ended(&node, "good").await;
    assert_eq!((good.stage, good.tracking.as_deref()), (Stage::Shipped, Some("parcel-1")));
    assert_eq!(status(&node, "good").await, Status::Shipped);
    assert_eq!(account(&node).await.spent_cents, 1000);

    // More than is there: it was paid, and is cancelled.
    place(&node, "large", 2).await;
    buy(&node, "large", 1000).await.unwrap();
    let large = ended(&node, "large").await;
    assert_eq!(
        (large.stage, large.why.as_deref()),
        (Stage::Refused, Some("\"tea\" is out of stock"))
    );
    assert_eq!(status(&node, "large").await, Status::Cancelled);
    // Too dear; another price than the order's; and no order at all.
    place(&node, "dear", 5).await;
    buy(&node, "dear", 2500).await.unwrap();
    place(&node, "other", 1).await;
    buy(&node, "other", 499).await.unwrap();
    buy(&node, "none", 1).await.unwrap();
    for id in ["dear", "other", "none"] {
        assert_eq!(ended(&node, id).await.stage, Stage::Refused, "{id}");
    }
    assert_eq!(status(&node, "dear").await, Status::Open);
    assert_eq!(status(&node, "other").await, Status::Open);

    let Account { free_cents, spent_cents, orders_paid, .. } = account(&node).await;
    assert_eq!((free_cents, spent_cents, orders_paid), (2000, 1000, 1));
    let Depot { stock, parcels, taken_back } = depot(&node).await;
    assert_eq!((stock["tea"], parcels, taken_back), (1, 1, 0));
    node.shutdown().await;
    // Nobody sent the notices yet: one for each.
    let node = start(folder.path()).await;
    let give_up = Instant::now() + PATIENCE;
    while notices(&node).await.len() < 5 && Instant::now() < give_up {
        sleep(Duration::from_millis(5)).await;
    }
    let mut told = notices(&node).await;
    told.sort();
    let orders: Vec<_> = told.iter().map(|(order, _)| order.as_str()).collect();
    assert_eq!(orders, ["dear", "good", "large", "none", "other"]);
    assert!(told.iter().all(|(order, text)| (text == "shipped") == (order == "good")), "{told:?}");
    node.shutdown().await;
}

/// Somebody cancels the order after it was paid and before it is shipped: whichever comes first wins, and
/// money and pieces are where the order says.
#[tokio::test]
async fn an_order_that_is_cancelled_meanwhile_is_shipped_or_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path()).await;
    equip(&node, 100_000, 100).await;
    for n in 0..20 {
        let id = format!("o{n}");
        place(&node, &id, 1).await;
        buy(&node, &id, 500).await.unwrap();
        let order = node.entity::<Orders>(&id).unwrap();
        let cancelled = match order.ask(Cancel { reason: "no".into() }).await.unwrap() {
            Ok(_) => true,
            Err(_) if status(&node, &id).await == Status::Shipped => false,
            Err(refused) => panic!("{refused}"),
        };
        let stage = ended(&node, &id).await.stage;
        assert_eq!(stage == Stage::Refused, cancelled, "{id}");
    }
    let (Account { free_cents, spent_cents, .. }, depot) =
        (account(&node).await, depot(&node).await);
    assert_eq!(free_cents + spent_cents, 100_000);
    assert_eq!(spent_cents, (depot.parcels - depot.taken_back) * 500);
    assert_eq!(depot.stock["tea"], 100 - spent_cents / 500);
    node.shutdown().await;
}

/// A node that is stopped between any two steps goes on with them. (The demo has kills.)
#[tokio::test]
async fn a_checkout_goes_on_after_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = start(folder.path()).await;
    equip(&node, 100_000, 100).await;
    for n in 0..12 {
        let id = format!("o{n}");
        place(&node, &id, 1).await;
        buy(&node, &id, 500).await.unwrap();
        sleep(Duration::from_millis(n)).await;
        // What this leaves to the next one is what a crash leaves: steps that were decided.
        node.shutdown().await;
        node = start(folder.path()).await;
    }
    for n in 0..12 {
        assert_eq!(ended(&node, &format!("o{n}")).await.stage, Stage::Shipped);
    }
    let Account { free_cents, spent_cents, orders_paid, .. } = account(&node).await;
    assert_eq!((free_cents, spent_cents, orders_paid), (94_000, 6000, 12));
    assert_eq!((depot(&node).await.parcels, depot(&node).await.stock["tea"]), (12, 88));
    node.shutdown().await;
}

/// A receiver that answers only each third request: the others it takes, and says nothing.
#[tokio::test]
async fn the_mailer_sends_until_it_is_answered() {
    let seen: Arc<Mutex<Vec<(u64, u64)>>> = Arc::default();
    let (taken, count) = (seen.clone(), Arc::new(AtomicU32::new(0)));
    let arrived = async move |headers: HeaderMap| {
        let number = |name| headers[name].to_str().unwrap().parse::<u64>().unwrap();
        taken.lock().unwrap().push((number(NUMBER), number(TOKEN)));
        match count.fetch_add(1, SeqCst) % 3 {
            2 => StatusCode::OK,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap());
    let uri: Uri = uri.parse().unwrap();
    let server = Router::new().route("/", post(arrived));
    let server = tokio::spawn(async move { axum::serve(listener, server).await.unwrap() });

    let folder = tempfile::tempdir().unwrap();
    let pool = web::pool();
    let node = kinds(Node::builder(folder.path()))
        .singleton("mailer", move |mailer| mail(mailer, uri.clone(), pool.clone()));
    let node = node.start().await.unwrap();
    for id in ["a", "b", "c"] {
        buy(&node, id, 1).await.unwrap();
    }
    let give_up = Instant::now() + PATIENCE;
    let outbox = node.entity::<Outbox>(OUTBOX).unwrap();
    while outbox.ask(CountNotices).await.unwrap() != (3, 0) {
        assert!(Instant::now() < give_up, "{:?}", seen.lock().unwrap());
        sleep(Duration::from_millis(20)).await;
    }
    node.shutdown().await;
    server.abort();
    let seen = seen.lock().unwrap();
    assert!(seen.len() >= 9, "each was sent until it was answered: {seen:?}");
    assert!([1, 2, 3].iter().all(|number| seen.iter().any(|(n, _)| n == number)), "{seen:?}");
    assert!(seen.iter().all(|(_, token)| *token > 0) && seen.iter().map(|(_, t)| t).is_sorted());
}

/// What is stored of every event: see `domain.rs` of these tests.
#[test]
fn stored_events_are_golden() {
    let (order, sku) = (|| "o".to_owned(), || vec![("tea".to_owned(), 2)]);
    golden(&[
        (&[AccountEvent::Deposited { cents: 500 }], "deposited", 1, "f403"),
        (&[AccountEvent::Reserved { order: order(), cents: 500 }], "reserved", 1, "f403016f"),
        (&[AccountEvent::Captured { order: order() }], "captured", 1, "016f"),
        (&[AccountEvent::Released { order: order() }], "released", 1, "016f"),
    ]);
    golden(&[
        (&[DepotEvent::Stocked { sku: "tea".into(), pieces: 2 }], "stocked", 1, "0203746561"),
        (
            &[DepotEvent::Dispatched { order: order(), pieces: sku() }],
            "dispatched",
            1,
            "016f010374656102",
        ),
        (
            &[DepotEvent::TakenBack { order: order(), pieces: sku() }],
            "taken-back",
            1,
            "016f010374656102",
        ),
    ]);
    let notice = Notice { order: order(), text: "t".into() };
    golden(&[
        (&[OutboxEvent::Put { notice }], "put", 1, "016f0174"),
        (&[OutboxEvent::Sent { to: 300 }], "sent", 1, "ac02"),
    ]);
    let started = CheckoutEvent::Started { account: "a".into(), amount_cents: 500 };
    golden(&[
        (&[started], "started", 1, "0161f403"),
        (&[CheckoutEvent::Reserved], "reserved", 1, ""),
        (&[CheckoutEvent::Paid { pieces: sku() }], "paid", 1, "010374656102"),
        (&[CheckoutEvent::Dispatched { tracking: "p".into() }], "dispatched", 1, "0170"),
        (&[CheckoutEvent::Shipped], "shipped", 1, ""),
        (&[CheckoutEvent::Failed { why: "w".into() }], "failed", 1, "0177"),
        (&[CheckoutEvent::Refused { why: "w".into() }], "refused", 1, "0177"),
    ]);
}
