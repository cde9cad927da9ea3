//! What belongs to buying an order, over HTTP: checkouts, accounts, the depot, invoices; and what the
//! leader does.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::{FromRef, Path, State},
    http::StatusCode,
    routing::{get, post},
};
use duractor::{Command, EventSourced, Handle, LeaderError, Node, TookEffect};
use serde_json::{Value, json};

use crate::{
    account::{Account, Accounts, Declined, Deposit, LookAt},
    checkout::{AlreadyStarted, Checkout, Checkouts, LookAtCheckout, Start},
    depot::{DEPOT, Depot, Depots, LookInto, Stock},
    domain::{Orders, Read, Status},
    error::ApiError,
    http::{Body, Key, PATIENCE},
    invoices::{Book, InvoiceError},
    leader::{Leads, WhoLeads, arrived},
    outbox::{CountNotices, OUTBOX, Outbox},
};

/// A call of the leader may take so long: a new one is elected in about a second.
const LEADER: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct Shop {
    node: Node,
    book: Option<Book>,
}

impl FromRef<Shop> for Node {
    fn from_ref(shop: &Shop) -> Node {
        shop.node.clone()
    }
}

/// The routes. Without a book no invoices are written.
pub fn routes(node: Node, book: Option<Book>) -> Router {
    Router::new()
        .route("/orders/{id}/checkout", post(start).get(checkout))
        .route("/orders/{id}/invoice", post(invoice))
        .route("/accounts/{id}", get(account))
        .route("/accounts/{id}/deposit", post(deposit))
        .route("/depot", get(depot))
        .route("/depot/stock", post(stock))
        .route("/outbox", get(outbox))
        .route("/leader", get(leader))
        .route("/leader/{command}/{version}", post(arrived))
        .with_state(Shop { node, book })
}

/// Asks an entity. With a key the command is carried out once, however often it comes.
async fn ask<E, C>(node: &Node, id: &str, key: Key, command: C) -> Result<C::Reply, ApiError>
where
    E: EventSourced + Handle<C>,
    C: Command,
{
    Ok(node.entity::<E>(id)?.ask(command).request_id(key.request()?).timeout(PATIENCE).await?)
}

/// `POST /orders/{id}/checkout`. It goes on by itself once this is answered.
async fn start(
    State(node): State<Node>,
    Path(id): Path<String>,
    key: Key,
    Body(start): Body<Start>,
) -> Result<(StatusCode, Json<Checkout>), ApiError> {
    let started = ask::<Checkouts, _>(&node, &id, key, start).await??;
    Ok((StatusCode::ACCEPTED, Json(started)))
}

async fn checkout(
    State(node): State<Node>,
    Path(id): Path<String>,
    key: Key,
) -> Result<Json<Checkout>, ApiError> {
    Ok(Json(ask::<Checkouts, _>(&node, &id, key, LookAtCheckout).await?))
}

/// `POST /orders/{id}/invoice`. An order has one, however often it is asked for.
async fn invoice(
    State(Shop { node, book }): State<Shop>,
    Path(id): Path<String>,
    key: Key,
) -> Result<Json<Value>, ApiError> {
    let none = || ApiError::new(StatusCode::NOT_FOUND, "no-book", "there is no book of invoices");
    let book = book.ok_or_else(none)?;
    if ask::<Orders, _>(&node, &id, key, Read).await??.status != Status::Shipped {
        let text = "only an order that was shipped has an invoice";
        return Err(ApiError::new(StatusCode::CONFLICT, "not-shipped", text));
    }
    let invoice = book.invoice(&node, &id).await?;
    Ok(Json(json!({ "order": id, "number": invoice.number, "token": invoice.token })))
}

async fn account(
    State(node): State<Node>,
    Path(id): Path<String>,
    key: Key,
) -> Result<Json<Account>, ApiError> {
    Ok(Json(ask::<Accounts, _>(&node, &id, key, LookAt).await?))
}

async fn deposit(
    State(node): State<Node>,
    Path(id): Path<String>,
    key: Key,
    Body(deposit): Body<Deposit>,
) -> Result<Json<Account>, ApiError> {
    Ok(Json(ask::<Accounts, _>(&node, &id, key, deposit).await??))
}

async fn depot(State(node): State<Node>, key: Key) -> Result<Json<Depot>, ApiError> {
    Ok(Json(ask::<Depots, _>(&node, DEPOT, key, LookInto).await?))
}

async fn stock(
    State(node): State<Node>,
    key: Key,
    Body(stock): Body<Stock>,
) -> Result<Json<Depot>, ApiError> {
    Ok(Json(ask::<Depots, _>(&node, DEPOT, key, stock).await?))
}

/// `GET /outbox`: how many notices were put in, and how many of them wait to be sent.
async fn outbox(State(node): State<Node>, key: Key) -> Result<Json<Value>, ApiError> {
    let (put, waiting) = ask::<Outbox, _>(&node, OUTBOX, key, CountNotices).await?;
    Ok(Json(json!({ "put": put, "waiting": waiting })))
}

/// `GET /leader`: answered by the leader, whichever node is asked.
async fn leader(State(node): State<Node>) -> Result<Json<Leads>, ApiError> {
    Ok(Json(node.leader().forward(WhoLeads, LEADER).await?))
}

impl From<Declined> for ApiError {
    fn from(declined: Declined) -> Self {
        Self::new(StatusCode::CONFLICT, "declined", declined.to_string())
    }
}

impl From<AlreadyStarted> for ApiError {
    fn from(started: AlreadyStarted) -> Self {
        Self::new(StatusCode::CONFLICT, "already-started", started.to_string())
    }
}

/// An invoice may be asked for again, whatever went wrong: an order has one.
impl From<InvoiceError> for ApiError {
    fn from(error: InvoiceError) -> Self {
        match &error {
            InvoiceError::Stale { .. } | InvoiceError::Lock(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", error.to_string())
            }
            InvoiceError::File(_) => Self::internal(&error),
        }
    }
}

impl From<LeaderError> for ApiError {
    fn from(error: LeaderError) -> Self {
        let code = match error.effect() {
            TookEffect::None => "unavailable",
            TookEffect::Unknown => "outcome-unknown",
        };
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, error.to_string())
    }
}
