//! HTTP with retries. A request that was cut off is sent again with the same idempotency key until
//! it is answered: so it takes effect once, whether or not the first one did.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{Method, Request, StatusCode, header},
};
use http_body_util::BodyExt;
use hyper_util::{
    client::legacy::{Client as Pool, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use crate::http::SERVED_BY;

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(5);
/// How long a request is tried again.
const PATIENCE: Duration = Duration::from_secs(30);
/// The wait between attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// An answer: its status and its JSON.
pub(crate) type Answer = (StatusCode, Value);

/// An answer, and which node gave it.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) body: Value,
    pub(crate) served_by: Option<u16>,
}

/// A client of the servers, wherever they are at the moment: attempts go to one after the other.
/// Clones share connections and counters.
#[derive(Clone)]
pub(crate) struct Client {
    pool: Pool<HttpConnector, Body>,
    shared: Arc<Shared>,
}

struct Shared {
    addresses: Mutex<Vec<SocketAddr>>,
    /// Attempts so far.
    attempts: AtomicUsize,
    sent: AtomicU64,
}

impl Client {
    pub(crate) fn new(addresses: Vec<SocketAddr>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let mut pool = Pool::builder(TokioExecutor::new());
        // Retries are counted, so they are made here alone.
        let pool = pool.retry_canceled_requests(false).build(connector);
        let shared = Shared {
            addresses: Mutex::new(addresses),
            attempts: AtomicUsize::new(0),
            sent: AtomicU64::new(0),
        };
        Self { pool, shared: Arc::new(shared) }
    }

    /// The server is somewhere else now.
    pub(crate) fn set_address(&self, address: SocketAddr) {
        *self.shared.addresses.lock().unwrap_or_else(PoisonError::into_inner) = vec![address];
    }

    /// How many requests were sent, each attempt counted that had a server to go to.
    pub(crate) fn sent(&self) -> u64 {
        self.shared.sent.load(Relaxed)
    }

    /// Sends a request until it has an answer that is not 503.
    pub(crate) async fn request(
        &self,
        method: &Method,
        path: &str,
        key: Option<&str>,
        body: &Value,
    ) -> Result<Answer, String> {
        let Reply { status, body, .. } = self.ask(method, path, key, body).await?;
        Ok((status, body))
    }

    /// As [`request`](Self::request); also says who answered.
    pub(crate) async fn ask(
        &self,
        method: &Method,
        path: &str,
        key: Option<&str>,
        body: &Value,
    ) -> Result<Reply, String> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let cause = match self.attempt(method, path, key, body).await {
                Ok(Reply { status: StatusCode::SERVICE_UNAVAILABLE, body, .. }) => body.to_string(),
                Ok(answer) => return Ok(answer),
                Err(cause) => cause,
            };
            if Instant::now() > give_up {
                return Err(format!("{method} {path}: no answer within {PATIENCE:?}: {cause}"));
            }
            sleep(PAUSE).await;
        }
    }

    async fn attempt(
        &self,
        method: &Method,
        path: &str,
        key: Option<&str>,
        body: &Value,
    ) -> Result<Reply, String> {
        let address = self.shared.next_address().ok_or("there is no server")?;
        let mut request = Request::builder().method(method).uri(format!("http://{address}{path}"));
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let body = if body.is_null() {
            Body::empty()
        } else {
            request = request.header(header::CONTENT_TYPE, "application/json");
            Body::from(body.to_string())
        };
        let request = request.body(body).map_err(|error| error.to_string())?;
        let exchange = async {
            let response = self.pool.request(request).await;
            if !response.as_ref().is_err_and(|error| error.is_connect()) {
                self.shared.sent.fetch_add(1, Relaxed);
            }
            let response = response.map_err(|error| error.to_string())?;
            let status = response.status();
            let served_by = response.headers().get(SERVED_BY).and_then(|by| by.to_str().ok());
            let served_by = served_by.and_then(|by| by.parse().ok());
            let bytes = response.into_body().collect().await.map_err(|error| error.to_string())?;
            Ok((status, bytes.to_bytes(), served_by))
        };
        let answer: Result<(StatusCode, Bytes, Option<u16>), String> =
            timeout(ATTEMPT, exchange).await.map_err(|_| "no answer in time".to_owned())?;
        let (status, bytes, served_by) = answer?;
        let body = serde_json::from_slice(&bytes).map_err(|error| format!("no JSON: {error}"))?;
        Ok(Reply { status, body, served_by })
    }
}

impl Shared {
    fn next_address(&self) -> Option<SocketAddr> {
        let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let count = self.attempts.fetch_add(1, Relaxed);
        addresses.get(count.checked_rem(addresses.len())?).copied()
    }
}
