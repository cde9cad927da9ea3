//! The outside world: takes notices, each once, and none of a mailer that another has followed.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode},
    routing::post,
};
use tokio::{net::TcpListener, task::JoinHandle};

use super::audit::Taken;
use crate::outbox::{NUMBER, Notice, TOKEN};

/// What it remembers. (One that must survive restarts keeps it on disk, in one step with what it does.)
#[derive(Default)]
pub struct Inbox {
    /// The notices, without repeats.
    pub taken: Vec<Taken>,
    /// How many came again.
    pub repeats: u64,
    /// How many were refused.
    pub stale: u64,
    highest: u64,
}

impl Inbox {
    /// Takes a notice, unless it did before. False: its mailer was superseded.
    pub fn take(&mut self, notice: Taken) -> bool {
        if notice.token < self.highest {
            self.stale += 1;
            return false;
        }
        self.highest = notice.token;
        // Notices come in the order of their numbers, so one that is not higher came before.
        match self.taken.last() {
            Some(last) if last.number >= notice.number => self.repeats += 1,
            _ => self.taken.push(notice),
        }
        true
    }
}

/// A server with an inbox. Ends when dropped.
pub struct Receiver {
    /// Where it listens.
    pub address: SocketAddr,
    inbox: Arc<Mutex<Inbox>>,
    server: JoinHandle<()>,
}

impl Receiver {
    /// Starts it on a free port.
    ///
    /// # Errors
    /// There is no port.
    pub async fn start() -> Result<Self, String> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(|e| e.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let inbox = Arc::<Mutex<Inbox>>::default();
        let routes = Router::new().route("/notices", post(arrived)).with_state(inbox.clone());
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, routes).await {
                tracing::error!(%error, "the receiver stopped");
            }
        });
        Ok(Self { address, inbox, server })
    }

    /// What it has.
    pub fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn arrived(
    State(inbox): State<Arc<Mutex<Inbox>>>,
    headers: HeaderMap,
    Json(Notice { order, text }): Json<Notice>,
) -> StatusCode {
    let number = |name: HeaderName| headers.get(name)?.to_str().ok()?.parse().ok();
    let (Some(number), Some(token)) = (number(NUMBER), number(TOKEN)) else {
        return StatusCode::BAD_REQUEST;
    };
    let mut inbox = inbox.lock().unwrap_or_else(PoisonError::into_inner);
    match inbox.take(Taken { number, token, order, text }) {
        true => StatusCode::NO_CONTENT,
        false => StatusCode::CONFLICT,
    }
}
