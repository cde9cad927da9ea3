//! HTTP with retries. A request that was cut off is sent again with the same idempotency key until
//! it is answered: so it takes effect once, whether or not the first one did. A server that says
//! `Retry-After` is left alone for so long.

use std::{
    net::SocketAddr,
    str::FromStr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{
        HeaderName, Method, Request, Response, StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER},
    },
};
use http_body_util::BodyExt;
use hyper_util::{
    client::legacy::{Client as Pool, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::rolling::DEADLINE;
use crate::http::SERVED_BY;

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(5);
/// How long a request is tried again. Longer than what is late, so that it is known how it ends.
const PATIENCE: Duration = Duration::from_secs(30);
/// A server that does not listen is left alone for so long.
const GONE: Duration = Duration::from_millis(250);
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
    addresses: Mutex<Vec<Server>>,
    /// Attempts so far.
    attempts: AtomicUsize,
    sent: AtomicU64,
    endured: Mutex<Endured>,
}

/// Where a server listens, and until when it is left alone.
#[derive(Clone, Copy)]
struct Server {
    address: SocketAddr,
    not_before: Option<Instant>,
}

impl Server {
    fn new(address: SocketAddr) -> Self {
        Self { address, not_before: None }
    }
}

/// What did not go well at once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Endured {
    /// Attempts where nobody listened.
    pub(crate) refused: u64,
    /// Attempts that were answered with 503.
    pub(crate) busy: u64,
    /// Attempts that were sent and not answered.
    pub(crate) cut: u64,
    /// The first of those, in words.
    pub(crate) example: Option<String>,
    /// Requests that took longer than a deadline, with all their attempts.
    pub(crate) late: u64,
    /// The slowest request.
    pub(crate) worst_ms: u64,
}

/// Why an attempt has no answer.
enum Failed {
    /// It was not sent: nobody listens.
    Refused(String),
    Cut(String),
}

impl Client {
    pub(crate) fn new(addresses: Vec<SocketAddr>) -> Self {
        // Retries are counted, so they are made here alone.
        Self::build(addresses, false)
    }

    /// One that sends a request again by itself where the server had closed the connection before it was
    /// sent, as clients do that keep connections.
    pub(crate) fn keeping(addresses: Vec<SocketAddr>) -> Self {
        Self::build(addresses, true)
    }

    fn build(addresses: Vec<SocketAddr>, send_again: bool) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let mut pool = Pool::builder(TokioExecutor::new());
        let pool = pool.retry_canceled_requests(send_again).build(connector);
        let shared = Shared {
            addresses: Mutex::new(addresses.into_iter().map(Server::new).collect()),
            attempts: AtomicUsize::new(0),
            sent: AtomicU64::new(0),
            endured: Mutex::default(),
        };
        Self { pool, shared: Arc::new(shared) }
    }

    /// The server is somewhere else now.
    pub(crate) fn set_address(&self, address: SocketAddr) {
        *self.shared.addresses.lock().unwrap_or_else(PoisonError::into_inner) =
            vec![Server::new(address)];
    }

    /// How many requests were sent, each attempt counted that had a server to go to.
    pub(crate) fn sent(&self) -> u64 {
        self.shared.sent.load(Relaxed)
    }

    /// What did not go well so far.
    pub(crate) fn endured(&self) -> Endured {
        self.shared.endured().clone()
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
        let begun = Instant::now();
        loop {
            let cause = match self.attempt(method, path, key, body).await {
                Ok(Reply { status: StatusCode::SERVICE_UNAVAILABLE, body, .. }) => {
                    self.shared.endured().busy += 1;
                    body.to_string()
                }
                Ok(answer) => {
                    self.shared.endured().took(begun.elapsed());
                    return Ok(answer);
                }
                Err(Failed::Refused(cause)) => {
                    self.shared.endured().refused += 1;
                    cause
                }
                Err(Failed::Cut(cause)) => {
                    let mut endured = self.shared.endured();
                    endured.cut += 1;
                    endured.example.get_or_insert_with(|| format!("{method} {path}: {cause}"));
                    cause
                }
            };
            if begun.elapsed() > PATIENCE {
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
    ) -> Result<Reply, Failed> {
        let none = || Failed::Refused("there is no server".to_owned());
        let address = self.shared.next_address().ok_or_else(none)?;
        let mut request = Request::builder().method(method).uri(format!("http://{address}{path}"));
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let body = if body.is_null() {
            Body::empty()
        } else {
            request = request.header(CONTENT_TYPE, "application/json");
            Body::from(body.to_string())
        };
        let request = request.body(body).map_err(|error| Failed::Refused(error.to_string()))?;
        let exchange = async {
            let response = self.pool.request(request).await;
            if response.as_ref().is_err_and(|error| error.is_connect()) {
                self.shared.leave_alone(address, GONE);
                return Err(Failed::Refused(format!("{address} does not listen")));
            }
            self.shared.sent.fetch_add(1, Relaxed);
            let response = response.map_err(cut)?;
            let status = response.status();
            if let Some(seconds) = number(&response, RETRY_AFTER) {
                self.shared.leave_alone(address, Duration::from_secs(seconds));
            }
            let served_by = number(&response, SERVED_BY);
            let bytes: Bytes = response.into_body().collect().await.map_err(cut)?.to_bytes();
            let body = serde_json::from_slice(&bytes).map_err(cut)?;
            Ok(Reply { status, body, served_by })
        };
        timeout(ATTEMPT, exchange).await.map_err(cut)?
    }
}

/// A header that is a number.
fn number<T: FromStr, B>(response: &Response<B>, name: HeaderName) -> Option<T> {
    response.headers().get(name)?.to_str().ok()?.parse().ok()
}

/// The request was sent, and there is no answer that makes sense.
fn cut(error: impl std::error::Error) -> Failed {
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    Failed::Cut(format!("{error}{cause}"))
}

impl Endured {
    fn took(&mut self, time: Duration) {
        self.late += u64::from(time > DEADLINE);
        self.worst_ms = self.worst_ms.max(time.as_millis() as u64);
    }
}

impl Shared {
    fn endured(&self) -> MutexGuard<'_, Endured> {
        self.endured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn servers(&self) -> MutexGuard<'_, Vec<Server>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next one that is not left alone; or just the next one, where all are.
    fn next_address(&self) -> Option<SocketAddr> {
        let (servers, now) = (self.servers(), Instant::now());
        let count = self.attempts.fetch_add(1, Relaxed);
        let first = count.checked_rem(servers.len())?;
        let mut in_turn = servers[first..].iter().chain(&servers[..first]);
        let ready = in_turn.find(|server| server.not_before.is_none_or(|time| time <= now));
        Some(ready.unwrap_or(&servers[first]).address)
    }

    /// As a server said by `Retry-After`, or by not being there.
    fn leave_alone(&self, address: SocketAddr, time: Duration) {
        let until = Some(Instant::now() + time);
        let mut servers = self.servers();
        let found = servers.iter_mut().find(|server| server.address == address);
        found.into_iter().for_each(|server| server.not_before = until);
    }
}
