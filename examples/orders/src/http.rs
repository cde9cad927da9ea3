//! Orders over HTTP: each request is one command to one order.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::{
        DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request, State,
        rejection::QueryRejection,
    },
    http::{HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use duractor::{Command, EntityRef, Env, Handle, Node, RequestId, Seq};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    domain::{
        AddLine, Cancel, Line, Order, OrderEvent, OrderReply, Orders, Pay, Place, Read, RemoveLine,
        Ship, Status,
    },
    error::ApiError,
};

/// Largest body of a request, in bytes: the largest order fits in it.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
/// Most events in one answer of an order's history.
pub const MAX_HISTORY: u64 = 1000;

/// A client's time: for so long a command looks for its order's node, as when that was just killed and
/// the next one is not elected yet.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// So long the service may take to be found well.
const HEALTHY: Duration = Duration::from_secs(2);

/// Says which node of a cluster ran the order, by its number.
pub const SERVED_BY: HeaderName = HeaderName::from_static("served-by");

/// All routes, served by this node's orders and, in a cluster, by those of the others.
pub fn router(node: Node) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/orders", post(place))
        .route("/orders/{id}", get(read))
        .route("/orders/{id}/history", get(history))
        .route("/orders/{id}/lines", post(command::<AddLine>))
        .route("/orders/{id}/lines/{sku}", delete(remove_line))
        .route("/orders/{id}/pay", post(command::<Pay>))
        .route("/orders/{id}/ship", post(command::<Ship>))
        .route("/orders/{id}/cancel", post(command::<Cancel>))
        .fallback(async || ApiError::new(StatusCode::NOT_FOUND, "not-found", "no such resource"))
        .method_not_allowed_fallback(async || {
            let text = "the resource does not take this method";
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", text)
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(node)
}

/// An order as it is shown.
#[derive(Serialize)]
struct View<'a> {
    id: &'a str,
    customer: &'a str,
    status: Status,
    lines: &'a [Line],
    total_cents: u64,
}

fn view(code: StatusCode, id: &str, order: &Order) -> Response {
    let Order { customer, status, lines } = order;
    let total_cents = order.total_cents();
    (code, Json(View { id, customer, status: *status, lines, total_cents })).into_response()
}

/// The order that a request is about, and the request's idempotency key.
struct Target {
    order: EntityRef<Orders>,
    key: Key,
}

impl Target {
    /// Asks the order. Under its key the framework carries the command out once: a repeat, by the
    /// client or by the framework itself where a node died under way, gets the answer that the first
    /// one got.
    async fn ask<C>(&self, command: C) -> Result<Order, ApiError>
    where
        C: Command<Reply = OrderReply>,
        Orders: Handle<C>,
    {
        let id = self.key.request()?;
        // Two kinds of failure: the framework's, and the order's own refusal.
        Ok(self.order.ask(command).request_id(id).timeout(PATIENCE).await??)
    }

    fn answer(&self, code: StatusCode, order: &Order) -> Response {
        let mut response = view(code, self.order.id().key(), order);
        if let Some(node) = self.order.owner() {
            response.headers_mut().insert(SERVED_BY, HeaderValue::from(node.0));
        }
        response
    }
}

fn random_id() -> String {
    let entropy = Env::production().entropy;
    format!("{:016x}{:016x}", entropy.next_u64(), entropy.next_u64())
}

impl FromRequestParts<Node> for Target {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, node: &Node) -> Result<Self, ApiError> {
        /// Any path with an order's id in it.
        #[derive(Deserialize)]
        struct Named {
            id: String,
        }
        let Path(Named { id }) = Path::from_request_parts(parts, node).await?;
        let key = Key::from_request_parts(parts, node).await?;
        Ok(Target { order: node.entity(&id)?, key })
    }
}

/// The header `Idempotency-Key`, where the request has one: the command's request id.
pub(crate) struct Key(Option<RequestId>);

impl Key {
    /// The request id; a random one where the request has no key.
    pub(crate) fn request(&self) -> Result<RequestId, ApiError> {
        let id = self.0.clone().map_or_else(|| RequestId::new(&random_id()), Ok);
        id.map_err(|error| ApiError::bad_key(&error.to_string()))
    }
}

impl<S: Sync> FromRequestParts<S> for Key {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Some(value) = parts.headers.get("idempotency-key") else { return Ok(Key(None)) };
        let text =
            value.to_str().map_err(|_| ApiError::bad_key("only visible ASCII is allowed"))?;
        let id = RequestId::new(text).map_err(|error| ApiError::bad_key(&error.to_string()))?;
        Ok(Key(Some(id)))
    }
}

/// A JSON body, with our errors in place of axum's.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let Json(value) = Json::from_request(request, state).await?;
        Ok(Body(value))
    }
}

/// `POST /orders`
async fn place(
    State(node): State<Node>,
    key: Key,
    Body(place): Body<Place>,
) -> Result<Response, ApiError> {
    let id = new_id(&key);
    let target = Target { order: node.entity(&id)?, key };
    let order = target.ask(place).await?;
    let location = [(header::LOCATION, format!("/orders/{id}"))];
    Ok((location, target.answer(StatusCode::CREATED, &order)).into_response())
}

/// A new order's id. Each entity remembers the requests that it has answered, so a repeated request
/// must find the entity of the first: the id is made from the key. (Where clients do not trust each
/// other, put the client's name in as well.)
fn new_id(key: &Key) -> String {
    match key {
        Key(Some(key)) => format!("{:032x}", xxh3_128(key.as_str().as_bytes())),
        Key(None) => random_id(),
    }
}

/// Every request whose body is the command.
async fn command<C>(target: Target, Body(command): Body<C>) -> Result<Response, ApiError>
where
    C: Command<Reply = OrderReply> + DeserializeOwned,
    Orders: Handle<C>,
{
    answer(target, command).await
}

/// `DELETE /orders/{id}/lines/{sku}`
async fn remove_line(
    target: Target,
    Path((_, sku)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    answer(target, RemoveLine { sku }).await
}

/// `GET /orders/{id}`. A read goes through the entity too, so it sees everything that was
/// acknowledged before.
async fn read(target: Target) -> Result<Response, ApiError> {
    answer(target, Read).await
}

async fn answer<C>(target: Target, command: C) -> Result<Response, ApiError>
where
    C: Command<Reply = OrderReply>,
    Orders: Handle<C>,
{
    let order = target.ask(command).await?;
    Ok(target.answer(StatusCode::OK, &order))
}

/// Which part of the history.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    #[serde(default = "Page::first")]
    from: u64,
    #[serde(default = "Page::most")]
    limit: u64,
    /// As far as this node has it, whoever runs the order.
    #[serde(default)]
    local: bool,
}

impl Page {
    fn first() -> u64 {
        1
    }

    fn most() -> u64 {
        MAX_HISTORY
    }
}

/// A part of the history.
#[derive(Serialize)]
struct History<'a> {
    id: &'a str,
    events: Vec<Entry>,
}

/// An event as it is shown.
#[derive(Serialize)]
struct Entry {
    seq: u64,
    /// Milliseconds since 1970.
    time_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<String>,
    #[serde(flatten)]
    event: OrderEvent,
}

/// `GET /orders/{id}/history?from=1&limit=1000&local=false`. The events are read from the journal: what made
/// the order is there, nothing is written a second time for an audit.
async fn history(
    target: Target,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(Page { from, limit, local }) = page?;
    let limit = limit.clamp(1, MAX_HISTORY);
    let order = &target.order;
    let events = match local {
        true => order.local_history(Seq(from), limit).await?,
        false => order.history(Seq(from), limit).await?,
    };
    let events: Vec<_> = events
        .into_iter()
        .map(|recorded| Entry {
            seq: recorded.seq.0,
            time_ms: recorded.timestamp.0,
            idempotency_key: recorded.request_id.map(|id| id.as_str().to_owned()),
            event: recorded.event,
        })
        .collect();
    let id = target.order.id().clone();
    if events.is_empty() && !local {
        // No such order, or nothing on this page?
        target.ask(Read).await?;
    }
    Ok(Json(History { id: id.key(), events }).into_response())
}

/// `GET /health`. Reads an order that is never placed: that is refused as soon as the node takes no
/// commands, and while no node does.
async fn health(State(node): State<Node>) -> Result<Response, ApiError> {
    // The reply is the order's refusal; that there is a reply is what counts.
    let _ = node.entity::<Orders>("health")?.ask(Read).timeout(HEALTHY).await?;
    Ok(Json(json!({ "status": "ok" })).into_response())
}
