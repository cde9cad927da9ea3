//! Errors as clients see them: a status code, and
//! `{"error": {"code": "for programs", "message": "for people"}}`.

use std::error::Error;

use axum::{
    Json,
    extract::rejection::{JsonRejection, PathRejection, QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use duractor::{AskError, JournalError, NodeError, TookEffect};
use serde_json::json;

use crate::domain::Refused;

/// After how many seconds a client should try again, where trying again may help.
const RETRY_AFTER_SECONDS: &str = "1";

/// An error as a client sees it.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl ApiError {
    /// An error with this status; `code` is for programs and never changes.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    /// The idempotency key cannot be used.
    pub fn bad_key(problem: &str) -> Self {
        let message = format!("Idempotency-Key: {problem}");
        Self::new(StatusCode::BAD_REQUEST, "bad-idempotency-key", message)
    }

    /// What no client can do anything about. The details are for the log.
    pub(crate) fn internal(error: &dyn Error) -> Self {
        tracing::error!(%error, "a request failed");
        let text = "the service failed on this request, and has logged why";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", text)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let error = json!({ "error": { "code": self.code, "message": self.message } });
        let mut response = (self.status, Json(error)).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            let seconds = header::HeaderValue::from_static(RETRY_AFTER_SECONDS);
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

/// The order's own refusals.
impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let (status, code) = match &refused {
            Refused::NoSuchOrder => (StatusCode::NOT_FOUND, "no-such-order"),
            Refused::NoSuchLine { .. } => (StatusCode::NOT_FOUND, "no-such-line"),
            Refused::AlreadyPlaced => (StatusCode::CONFLICT, "already-placed"),
            Refused::WrongStatus(_) => (StatusCode::CONFLICT, "wrong-status"),
            Refused::Empty => (StatusCode::CONFLICT, "empty-order"),
            Refused::OtherPrice { .. } => (StatusCode::CONFLICT, "other-price"),
            Refused::WrongAmount { .. } => (StatusCode::CONFLICT, "wrong-amount"),
            Refused::Invalid { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
        };
        Self::new(status, code, refused.to_string())
    }
}

/// The framework's errors. Each of them knows whether the command may have taken effect: that
/// decides what the client is told.
impl From<AskError> for ApiError {
    fn from(error: AskError) -> Self {
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        match &error {
            _ if error.effect() == TookEffect::Unknown => {
                let message = format!(
                    "{error}; it may have taken effect: repeat it with the same Idempotency-Key"
                );
                Self::new(unavailable, "outcome-unknown", message)
            }
            AskError::Busy { .. } | AskError::NodeBusy { .. } | AskError::Expired { .. } => {
                Self::new(unavailable, "busy", error.to_string())
            }
            // Not a matter of time: somebody must look at it.
            AskError::Journal(
                JournalError::Corrupt(_)
                | JournalError::InvalidBatch { .. }
                | JournalError::TooLarge { .. },
            ) => Self::internal(&error),
            AskError::NotOwner { .. } => Self::new(unavailable, "not-owner", error.to_string()),
            AskError::ShuttingDown
            | AskError::NodeFailed { .. }
            | AskError::Unavailable { .. }
            | AskError::Aborted { .. }
            | AskError::Remote { .. }
            | AskError::Journal(_) => Self::new(unavailable, "unavailable", error.to_string()),
            AskError::RequestIdReused(_) => {
                let text = "the Idempotency-Key was used before for another kind of request";
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency-key-reused", text)
            }
            _ => Self::internal(&error),
        }
    }
}

/// There can be no such entity: its key is not allowed.
impl From<NodeError> for ApiError {
    fn from(error: NodeError) -> Self {
        match &error {
            NodeError::InvalidId(_) => {
                Self::new(StatusCode::BAD_REQUEST, "bad-order-id", error.to_string())
            }
            _ => Self::internal(&error),
        }
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        // 400: no JSON. 422: JSON of another shape. 413: too large. 415: not said to be JSON.
        let code = match rejection.status() {
            StatusCode::BAD_REQUEST => "bad-json",
            StatusCode::UNPROCESSABLE_ENTITY => "invalid",
            StatusCode::PAYLOAD_TOO_LARGE => "too-large",
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "not-json",
            _ => "bad-body",
        };
        Self::new(rejection.status(), code, rejection.body_text())
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::new(rejection.status(), "bad-path", rejection.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), "bad-query", rejection.body_text())
    }
}
