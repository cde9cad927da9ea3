//! Requests to other HTTP servers: of the mailer, and between nodes.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    http::{Request, StatusCode},
};
use http_body_util::BodyExt;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::time::timeout;

/// So long an exchange may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connections, kept for the next request.
pub type Pool = Client<HttpConnector, Body>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// Nobody is there: the request was not sent.
    #[error("cannot be reached: {0}")]
    NotSent(String),
    /// It may have been carried out.
    #[error("no answer: {0}")]
    Cut(String),
}

/// A pool without connections.
#[must_use]
pub fn pool() -> Pool {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).build(connector)
}

/// Sends a request and waits for the whole answer.
///
/// # Errors
/// [`NoAnswer`] says whether the request may have been carried out.
pub async fn exchange(
    pool: &Pool,
    request: Request<Body>,
) -> Result<(StatusCode, Bytes), NoAnswer> {
    let exchange = async {
        let response = pool.request(request).await.map_err(|error| match error.is_connect() {
            true => NoAnswer::NotSent(error.to_string()),
            false => NoAnswer::Cut(error.to_string()),
        })?;
        let status = response.status();
        let body = response.into_body().collect().await;
        Ok((status, body.map_err(|error| NoAnswer::Cut(error.to_string()))?.to_bytes()))
    };
    let late = |_| NoAnswer::Cut(format!("none within {PATIENCE:?}"));
    timeout(PATIENCE, exchange).await.map_err(late)?
}
