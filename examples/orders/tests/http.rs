//! The service over HTTP: a real server on a free port, and a client of raw bytes.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Reply, Service, code};
use serde_json::{Value, json};

fn tea(quantity: u32) -> Value {
    json!({ "sku": "tea", "quantity": quantity, "unit_cents": 500 })
}

#[tokio::test]
async fn an_order_from_placing_to_its_history() {
    let service = Service::start().await;
    let body = json!({ "customer": "ada", "lines": [tea(2)] });
    let placed = service.post("/orders", Some("k1"), body).await;
    assert_eq!(placed.status, 201);
    let id = placed.json["id"].as_str().unwrap();
    assert_eq!(placed.header("location"), Some(format!("/orders/{id}").as_str()));
    let order = json!({
        "id": id, "customer": "ada", "status": "open", "lines": [tea(2)], "total_cents": 1000,
    });
    assert_eq!(placed.json, order);

    let path = |rest: &str| format!("/orders/{id}{rest}");
    assert_eq!(service.post(&path("/lines"), None, tea(1)).await.json["total_cents"], 1500);
    let cup = json!({ "sku": "cup/öl", "quantity": 1, "unit_cents": 1 });
    assert_eq!(service.post(&path("/lines"), None, cup).await.status, 200);
    let removed = service.send("DELETE", &path("/lines/cup%2F%C3%B6l"), None, "").await;
    assert_eq!((removed.status, &removed.json["total_cents"]), (200, &json!(1500)));
    let paid = service.post(&path("/pay"), Some("k2"), json!({ "amount_cents": 1500 })).await;
    assert_eq!((paid.status, &paid.json["status"]), (200, &json!("paid")));
    let shipped = service.post(&path("/ship"), None, json!({ "tracking": "p" })).await;
    assert_eq!((shipped.status, &shipped.json["status"]), (200, &json!("shipped")));
    assert_eq!(service.get(&path("")).await.json, shipped.json);

    let history = service.get(&path("/history")).await;
    let events = history.json["events"].as_array().unwrap();
    let types: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let expected =
        ["placed", "line-added", "line-added", "line-added", "line-removed", "paid", "shipped"];
    assert_eq!(types, expected);
    assert_eq!((&events[5]["seq"], &events[5]["idempotency_key"]), (&json!(6), &json!("k2")));
    assert!(events[0]["time_ms"].as_u64().unwrap() > 1_700_000_000_000);
    let page = service.get(&path("/history?from=3&limit=2")).await;
    assert_eq!(page.json["events"].as_array().unwrap()[..], events[2..4]);
    let past = service.get(&path("/history?from=8")).await;
    assert_eq!((past.status, &past.json["events"]), (200, &json!([])));
    service.stop().await;
}

#[tokio::test]
async fn a_repeat_with_the_same_key_gets_the_same_answer_and_changes_nothing() {
    let service = Service::start().await;
    let body = json!({ "customer": "ada", "lines": [] });
    let placed = service.post("/orders", Some("k1"), body.clone()).await;
    assert_eq!(service.post("/orders", Some("k1"), body.clone()).await, placed);
    let other = service.post("/orders", Some("k2"), body.clone()).await;
    let keyless = service.post("/orders", None, body.clone()).await;
    assert_ne!(other.json["id"], placed.json["id"]);
    assert_ne!(keyless.json["id"], service.post("/orders", None, body).await.json["id"]);

    let path = format!("/orders/{}/lines", placed.json["id"].as_str().unwrap());
    let added = service.post(&path, Some("add"), tea(1)).await;
    assert_eq!(service.post(&path, None, tea(1)).await.json["total_cents"], 1000);
    let service = service.restart().await;
    assert_eq!(service.post(&path, Some("add"), tea(1)).await, added, "the first answer");
    assert_eq!(service.post(&path, None, tea(1)).await.json["total_cents"], 1500);

    let pay = path.replace("/lines", "/pay");
    let reused = service.post(&pay, Some("add"), json!({ "amount_cents": 1500 })).await;
    assert_eq!(code(&reused), (422, "idempotency-key-reused"));
    service.stop().await;
}

#[tokio::test]
async fn refusals_have_their_status() {
    let service = Service::start().await;
    let place = json!({ "customer": "ada", "lines": [tea(1)] });
    let placed = service.post("/orders", None, place).await;
    let path = |rest: &str| format!("/orders/{}{rest}", placed.json["id"].as_str().unwrap());
    let refused = async |rest: &str, body: Value| service.post(&path(rest), None, body).await;

    assert_eq!(code(&refused("/pay", json!({ "amount_cents": 1 })).await), (409, "wrong-amount"));
    let tracking = json!({ "tracking": "p" });
    assert_eq!(code(&refused("/ship", tracking).await), (409, "wrong-status"));
    let dear = json!({ "sku": "tea", "quantity": 1, "unit_cents": 501 });
    assert_eq!(code(&refused("/lines", dear).await), (409, "other-price"));
    assert_eq!(code(&refused("/lines", tea(0)).await), (422, "invalid"));
    let none = service.send("DELETE", &path("/lines/pot"), None, "").await;
    assert_eq!(code(&none), (404, "no-such-line"));

    assert_eq!(code(&service.get("/orders/none").await), (404, "no-such-order"));
    assert_eq!(code(&service.get("/orders/none/history").await), (404, "no-such-order"));
    let pay = service.post("/orders/none/pay", None, json!({ "amount_cents": 1 })).await;
    assert_eq!(code(&pay), (404, "no-such-order"));
    assert_eq!(code(&service.get("/elsewhere").await), (404, "not-found"));
    let method = service.send("PUT", "/orders", None, "").await;
    assert_eq!(code(&method), (405, "method-not-allowed"));
    assert_eq!(method.header("allow"), Some("POST"));
    service.stop().await;
}

#[tokio::test]
async fn bad_input_has_its_status() {
    let service = Service::start().await;
    let send = async |body: &str| service.send("POST", "/orders", None, body).await;
    assert_eq!(code(&send("{").await), (400, "bad-json"));
    assert_eq!(code(&send("{}").await), (422, "invalid"));
    assert_eq!(code(&send(r#"{"customer":"a","lines":[],"vip":true}"#).await), (422, "invalid"));
    let negative = r#"{"customer":"a","lines":[{"sku":"a","quantity":-1,"unit_cents":1}]}"#;
    assert_eq!(code(&send(negative).await), (422, "invalid"));
    let oversize = format!(r#"{{"customer":"{}"}}"#, "x".repeat(70_000));
    assert_eq!(code(&send(&oversize).await), (413, "too-large"));
    let untyped = "POST /orders HTTP/1.0\r\ncontent-length: 2\r\n\r\n{}";
    assert_eq!(code(&service.raw(untyped).await), (415, "not-json"));

    let key = service.send("POST", "/orders", Some(""), r#"{"customer":"a"}"#).await;
    assert_eq!(code(&key), (400, "bad-idempotency-key"));
    let key = service.send("POST", "/orders", Some(&"k".repeat(300)), r#"{"customer":"a"}"#).await;
    assert_eq!(code(&key), (400, "bad-idempotency-key"));
    assert_eq!(code(&service.get("/orders/%0A").await), (400, "bad-order-id"));
    assert_eq!(code(&service.get("/orders/%FF").await), (400, "bad-path"));
    let long = service.get(&format!("/orders/{}", "x".repeat(256))).await;
    assert_eq!(code(&long), (400, "bad-order-id"));
    assert_eq!(code(&service.get("/orders/a/history?from=b").await), (400, "bad-query"));
    service.stop().await;
}

#[tokio::test]
async fn a_node_that_takes_no_commands_says_so() {
    let service = Service::start().await;
    let health = service.get("/health").await;
    assert_eq!((health.status, health.json), (200, json!({ "status": "ok" })));
    service.node.shutdown().await;
    for reply in [service.get("/health").await, service.get("/orders/any").await] {
        assert_eq!(code(&reply), (503, "unavailable"));
        assert_eq!(reply.header("retry-after"), Some("1"));
    }
    let _: Reply = service.post("/orders", None, json!({ "customer": "ada" })).await;
}

#[tokio::test]
async fn an_order_is_bought_and_has_an_invoice() {
    let service = Service::start().await;
    let stock = json!({ "sku": "tea", "pieces": 9 });
    assert_eq!(
        service.post("/depot/stock", Some("s"), stock.clone()).await.json["stock"]["tea"],
        9
    );
    assert_eq!(service.post("/depot/stock", Some("s"), stock).await.json["stock"]["tea"], 9);
    let deposit = json!({ "cents": 5000 });
    let account = service.post("/accounts/ada/deposit", None, deposit).await;
    assert_eq!((account.status, &account.json["free_cents"]), (200, &json!(5000)));

    let body = json!({ "customer": "ada", "lines": [tea(2)] });
    let placed = service.post("/orders", None, body).await;
    let path = |rest: &str| format!("/orders/{}{rest}", placed.json["id"].as_str().unwrap());
    let early = service.post(&path("/invoice"), None, Value::Null).await;
    assert_eq!(code(&early), (409, "not-shipped"));
    let start = json!({ "account": "ada", "amount_cents": 1000 });
    assert_eq!(service.post(&path("/checkout"), Some("c"), start.clone()).await.status, 202);
    assert_eq!(service.post(&path("/checkout"), Some("c"), start.clone()).await.status, 202);
    let again = service.post(&path("/checkout"), None, start).await;
    assert_eq!(code(&again), (409, "already-started"));

    let give_up = std::time::Duration::from_secs(30);
    let shipped = tokio::time::timeout(give_up, async {
        while service.get(&path("/checkout")).await.json["stage"] != "shipped" {
            tokio::task::yield_now().await;
        }
    });
    shipped.await.expect("it is shipped");
    assert_eq!(service.get(&path("")).await.json["status"], "shipped");
    assert_eq!(service.get("/depot").await.json["stock"]["tea"], 7);
    let invoice = service.post(&path("/invoice"), None, Value::Null).await;
    assert_eq!((invoice.status, &invoice.json["number"]), (200, &json!(1)));
    assert_eq!(service.post(&path("/invoice"), None, Value::Null).await.json, invoice.json);
    let none = service.post("/orders/none/invoice", None, Value::Null).await;
    assert_eq!(code(&none), (404, "no-such-order"));
    let leader = service.get("/leader").await;
    assert_eq!((leader.status, &leader.json["node"]), (200, &json!(1)));
    service.stop().await;
}
