//! Any node takes any request: what belongs to an order that another node runs goes there over HTTP,
//! and comes back with the answer.
//!
//! A request is tried again until it is answered or its time is up, as when the order's node was just
//! killed and another one is not elected yet. All attempts carry one idempotency key, so the request
//! takes effect once. A client that names its key may do the same with its own attempts.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{
        Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, request::Parts,
    },
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use duractor::Env;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    error::{ApiError, HINT, Hint},
    http::MAX_BODY_BYTES,
};

/// A client's time: for so long a request is tried.
const PATIENCE: Duration = Duration::from_secs(10);
/// One attempt at another node takes no longer.
const ATTEMPT: Duration = Duration::from_secs(2);
/// The wait before the next attempt where nobody is known to do better at once.
const PAUSE: Duration = Duration::from_millis(20);

/// Says which node answered, by its number.
pub const SERVED_BY: HeaderName = HeaderName::from_static("served-by");
/// On a request that another node sent on: it is answered here or not at all.
const FORWARDED: HeaderName = HeaderName::from_static("x-orders-forwarded");
const KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The other nodes.
pub struct Forward {
    me: u32,
    /// Their addresses for HTTP, as `HOST:PORT`.
    peers: BTreeMap<u32, String>,
    pool: Client<HttpConnector, Body>,
}

impl Forward {
    /// This node's number, and where the others listen for HTTP.
    #[must_use]
    pub fn new(me: u32, peers: BTreeMap<u32, String>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(ATTEMPT));
        let pool = Client::builder(TokioExecutor::new()).build(connector);
        Self { me, peers, pool }
    }

    /// Puts forwarding around the routes of a node.
    pub fn around(self, routes: Router) -> Router {
        routes.layer(from_fn_with_state(Arc::new(self), forward))
    }

    /// One attempt: here, or at the node that should have the order.
    async fn attempt(&self, to: Option<u32>, request: &Whole, next: &Next) -> Attempt {
        let Some(address) = to.and_then(|node| self.peers.get(&node)) else {
            return Attempt::of(self.sign(next.clone().run(request.request(None)).await));
        };
        match timeout(ATTEMPT, self.pool.request(request.request(Some((address, self.me))))).await {
            Ok(Ok(response)) => Attempt::of(response.map(Body::new)),
            // It may have arrived. Whoever is not reached at all has not done anything.
            Ok(Err(error)) if error.is_connect() => Attempt::failed(Hint::Again, &error),
            Ok(Err(error)) => Attempt::failed(Hint::Unknown, &error),
            Err(late) => Attempt::failed(Hint::Unknown, &late),
        }
    }

    fn sign(&self, mut response: Response) -> Response {
        response.headers_mut().insert(SERVED_BY, HeaderValue::from(self.me));
        response
    }
}

/// What an attempt came to, and what can be done about it; `None` where it is the answer.
struct Attempt {
    response: Response,
    hint: Option<Hint>,
}

impl Attempt {
    fn of(mut response: Response) -> Self {
        let hint = response.headers_mut().remove(HINT).as_ref().and_then(Hint::parse);
        Self { response, hint }
    }

    fn failed(hint: Hint, error: &dyn std::error::Error) -> Self {
        let text = format!("another node did not answer: {error}");
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        Self {
            response: ApiError::new(unavailable, "outcome-unknown", text).into_response(),
            hint: Some(hint),
        }
    }
}

/// A request with its whole body, to be sent any number of times.
struct Whole {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    /// What the router found in the path: for this node alone.
    extensions: Extensions,
    body: Bytes,
}

impl Whole {
    async fn read(parts: Parts, body: Body) -> Result<Self, ApiError> {
        let body = to_bytes(body, MAX_BODY_BYTES).await.map_err(|error| {
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", error.to_string())
        })?;
        let Parts { method, uri, mut headers, extensions, .. } = parts;
        if method != Method::GET && !headers.contains_key(KEY) {
            // Safe to repeat from now on.
            headers.insert(KEY, new_key());
        }
        Ok(Self { method, uri, headers, extensions, body })
    }

    /// The request, for this node or for another one's address.
    fn request(&self, to: Option<(&String, u32)>) -> Request {
        let mut request = Request::new(Body::from(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = self.headers.clone();
        *request.uri_mut() = self.uri.clone();
        if let Some((address, me)) = to {
            let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
            // Whatever is no address fails when it is dialled.
            *request.uri_mut() = format!("http://{address}{path}").parse().unwrap_or_default();
            let headers = request.headers_mut();
            headers.remove(axum::http::header::HOST);
            headers.insert(FORWARDED, HeaderValue::from(me));
        } else {
            *request.extensions_mut() = self.extensions.clone();
        }
        request
    }
}

fn new_key() -> HeaderValue {
    let entropy = Env::production().entropy;
    let key = format!("{:016x}{:016x}", entropy.next_u64(), entropy.next_u64());
    // Digits and letters are a header's value.
    HeaderValue::from_str(&key).unwrap_or(HeaderValue::from_static("none"))
}

async fn forward(State(forward): State<Arc<Forward>>, request: Request, next: Next) -> Response {
    if request.headers().contains_key(FORWARDED) {
        return forward.sign(next.run(request).await);
    }
    let (parts, body) = request.into_parts();
    let request = match Whole::read(parts, body).await {
        Ok(request) => request,
        Err(error) => return error.into_response(),
    };
    let give_up = Instant::now() + PATIENCE;
    let mut to = None;
    loop {
        let Attempt { response, hint } = forward.attempt(to, &request, &next).await;
        let Some(hint) = hint.filter(|_| Instant::now() < give_up) else { return response };
        tracing::debug!(?hint, ?to, path = request.uri.path(), "trying again");
        let leader = match hint {
            Hint::Elsewhere(Some(leader)) if leader != forward.me => Some(leader),
            _ => None,
        };
        if leader.is_none() || leader == to {
            sleep(PAUSE).await;
        }
        // Where the leader did not do it, this node knows best who is the next one.
        to = if to.is_none() { leader } else { None };
    }
}
