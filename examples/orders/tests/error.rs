//! What the framework's errors are to a client.

#![allow(clippy::unwrap_used, reason = "tests")]

use axum::{http::header::RETRY_AFTER, response::IntoResponse};
use duractor::{AskError, EntityId};
use http_body_util::BodyExt;
use orders::error::ApiError;
use serde_json::Value;

/// Status, code, message, and after how long to try again.
async fn answer(error: AskError) -> (u16, String, String, Option<String>) {
    let response = ApiError::from(error).into_response();
    let retry = response.headers().get(RETRY_AFTER);
    let retry = retry.map(|seconds| seconds.to_str().unwrap().to_owned());
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let text = |field: &str| body["error"][field].as_str().unwrap().to_owned();
    (status, text("code"), text("message"), retry)
}

#[tokio::test]
async fn who_can_try_again_is_told_when_and_how() {
    let entity = EntityId::new("order", "one").unwrap();
    let soon = Some("1".to_owned());
    let (status, code, message, retry) =
        answer(AskError::Busy { entity: entity.clone(), waiting: 9 }).await;
    assert_eq!((status, code.as_str(), retry), (503, "busy", soon.clone()));
    assert!(!message.contains("Idempotency-Key"), "nothing has happened: {message}");
    let (status, code, _, retry) = answer(AskError::ShuttingDown).await;
    assert_eq!((status, code.as_str(), retry), (503, "unavailable", soon.clone()));
    let (status, code, message, retry) = answer(AskError::Timeout { entity: entity.clone() }).await;
    assert_eq!((status, code.as_str(), retry), (503, "outcome-unknown", soon));
    assert!(message.contains("with the same Idempotency-Key"), "{message}");
    let crashed = AskError::Crashed { entity, reason: "planted".into() };
    let (status, code, _, retry) = answer(crashed).await;
    assert_eq!((status, code.as_str(), retry), (500, "internal", None));
}
