//! Those who buy orders meanwhile: some have no money, some want what is not there, some err in the
//! price. Their checkouts are let run through whatever is killed, and looked at in the end.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::http::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    Options,
    audit::{Facts, Purchase},
    client::Client,
    receiver::Receiver,
};
use crate::invoices::Book;

/// So many buy at once.
const AT_ONCE: u32 = 8;
/// One order is bought for so many that are placed by others.
const ONE_IN: u32 = 8;
const BUYERS: u32 = 10;
/// What each of them pays in, but the last, who pays nothing.
const DEPOSIT: u64 = 1_000_000_000;
/// Pieces in stock, of the article that there is.
const STOCKED: u64 = 1_000_000_000;
/// How long a checkout may take, with all its nodes' deaths.
const CHECKOUT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

/// Opens accounts, fills the depot, and buys. Returns what was bought.
pub(super) async fn buy_all(options: &Options, client: &Client) -> Result<Vec<Purchase>, String> {
    let stock = json!({ "sku": "tea", "pieces": STOCKED });
    send(client, "/depot/stock", Some("stock"), &stock).await?;
    for buyer in 0..BUYERS - 1 {
        let path = format!("/accounts/{}/deposit", name(buyer));
        send(client, &path, Some(&format!("deposit-{buyer}")), &json!({ "cents": DEPOSIT }))
            .await?;
    }
    let (next, mut buying) = (Arc::new(AtomicU32::new(0)), JoinSet::new());
    let all = options.orders.div_ceil(ONE_IN).max(2 * BUYERS);
    for _ in 0..AT_ONCE {
        let (client, next) = (client.clone(), next.clone());
        buying.spawn(async move {
            let mut bought = Vec::new();
            loop {
                match next.fetch_add(1, Relaxed) {
                    number if number < all => bought.push(buy(&client, number).await?),
                    _ => return Ok::<_, String>(bought),
                }
            }
        });
    }
    let mut bought = Vec::new();
    while let Some(some) = buying.join_next().await {
        bought.extend(some.map_err(|error| error.to_string())??);
    }
    Ok(bought)
}

fn name(buyer: u32) -> String {
    format!("buyer-{buyer}")
}

/// One purchase, from its order to its invoice.
async fn buy(client: &Client, number: u32) -> Result<Purchase, String> {
    let (buyer, pieces) = (number % BUYERS, number % 3 + 1);
    let cents = u64::from(pieces) * 500;
    let poor = buyer == BUYERS - 1;
    let rare = number % 7 == 3;
    let dear = number % 11 == 5;
    let key = |step: &str| format!("buy-{number}-{step}");

    let line =
        json!({ "sku": if rare { "rare" } else { "tea" }, "quantity": pieces, "unit_cents": 500 });
    let place = json!({ "customer": name(buyer), "lines": [line] });
    let order = send(client, "/orders", Some(&key("place")), &place).await?;
    let order = order["id"].as_str().ok_or("an order has no id")?.to_owned();
    let start = json!({ "account": name(buyer), "amount_cents": cents + u64::from(dear) });
    let path = format!("/orders/{order}/checkout");
    send(client, &path, Some(&key("checkout")), &start).await?;

    let give_up = Instant::now() + CHECKOUT;
    let stage = loop {
        let stage = get::<Value>(client, &path).await?["stage"].as_str().map(str::to_owned);
        let stage = stage.unwrap_or_default();
        if stage == "shipped" || stage == "refused" || Instant::now() > give_up {
            break stage;
        }
        sleep(LOOK).await;
    };
    if stage == "shipped" {
        send(client, &format!("/orders/{order}/invoice"), None, &json!({})).await?;
    }
    let ships = !poor && !rare && !dear;
    // An order whose money was not there, or not enough, was never paid: it can be bought again.
    let cancelled = rare && !poor && !dear;
    let must_be = if ships {
        "shipped"
    } else if cancelled {
        "cancelled"
    } else {
        "open"
    };
    let (buyer, pieces, status) = (name(buyer), pieces.into(), String::new());
    Ok(Purchase { order, buyer, cents, pieces, ships, stage, status, must_be })
}

/// Waits until everybody was told, and collects what there is.
pub(super) async fn look(
    client: &Client,
    mut purchases: Vec<Purchase>,
    receiver: &Receiver,
    book: &Path,
) -> Result<Facts, String> {
    let give_up = Instant::now() + CHECKOUT;
    while get::<Value>(client, "/outbox").await?["waiting"] != 0 && Instant::now() < give_up {
        sleep(LOOK).await;
    }
    for purchase in &mut purchases {
        let order: Value = get(client, &format!("/orders/{}", purchase.order)).await?;
        purchase.status = order["status"].as_str().unwrap_or_default().to_owned();
    }
    let mut facts = Facts { purchases, stocked: STOCKED, ..Facts::default() };
    for buyer in 0..BUYERS {
        let deposited = if buyer == BUYERS - 1 { 0 } else { DEPOSIT };
        let path = format!("/accounts/{}", name(buyer));
        // The capture of the last order is on its way when the order is shipped.
        let account = loop {
            let account: crate::account::Account = get(client, &path).await?;
            if account.reserved.is_empty() || Instant::now() > give_up {
                break account;
            }
            sleep(LOOK).await;
        };
        facts.accounts.insert(name(buyer), (deposited, account));
    }
    facts.depot = get(client, "/depot").await?;
    facts.left = facts.depot.stock.get("tea").copied().unwrap_or_default();
    facts.notices = receiver.inbox().taken.clone();
    facts.book = Book::new(book).read().map_err(|error| error.to_string())?;
    Ok(facts)
}

async fn send(
    client: &Client,
    path: &str,
    key: Option<&str>,
    body: &Value,
) -> Result<Value, String> {
    let (status, answer) = client.request(&Method::POST, path, key, body).await?;
    match status.is_success() {
        true => Ok(answer),
        false => Err(format!("POST {path}: {status}: {answer}")),
    }
}

async fn get<T: DeserializeOwned>(client: &Client, path: &str) -> Result<T, String> {
    let (status, answer) = client.request(&Method::GET, path, None, &Value::Null).await?;
    if !status.is_success() {
        return Err(format!("GET {path}: {status}: {answer}"));
    }
    serde_json::from_value(answer).map_err(|error| format!("GET {path}: {error}"))
}
