//! HTTP with retries. A request that was cut off is sent again with the same idempotency key until
//! it is answered: so it takes effect once, whether or not the first one did.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
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

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(5);
/// How long a request is tried again.
const PATIENCE: Duration = Duration::from_secs(30);
/// The wait between attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// An answer: its status and its JSON.
pub(crate) type Answer = (StatusCode, Value);

/// A client of the server, wherever that is at the moment. Clones share connections and counters.
#[derive(Clone)]
pub(crate) struct Client {
    pool: Pool<HttpConnector, Body>,
    shared: Arc<Shared>,
}

struct Shared {
    address: Mutex<SocketAddr>,
    sent: AtomicU64,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let mut pool = Pool::builder(TokioExecutor::new());
        // Retries are counted, so they are made here alone.
        let pool = pool.retry_canceled_requests(false).build(connector);
        let shared = Shared { address: Mutex::new(address), sent: AtomicU64::new(0) };
        Self { pool, shared: Arc::new(shared) }
    }

    /// The server is somewhere else now.
    pub(crate) fn set_address(&self, address: SocketAddr) {
        *self.shared.address.lock().unwrap_or_else(PoisonError::into_inner) = address;
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
        let give_up = Instant::now() + PATIENCE;
        loop {
            let cause = match self.attempt(method, path, key, body).await {
                Ok((StatusCode::SERVICE_UNAVAILABLE, body)) => body.to_string(),
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
    ) -> Result<Answer, String> {
        let address = *self.shared.address.lock().unwrap_or_else(PoisonError::into_inner);
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
            let bytes = response.into_body().collect().await.map_err(|error| error.to_string())?;
            Ok((status, bytes.to_bytes()))
        };
        let answer: Result<(StatusCode, Bytes), String> =
            timeout(ATTEMPT, exchange).await.map_err(|_| "no answer in time".to_owned())?;
        let (status, bytes) = answer?;
        let body = serde_json::from_slice(&bytes).map_err(|error| format!("no JSON: {error}"))?;
        Ok((status, body))
    }
}
