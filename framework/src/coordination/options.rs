//! How a session is set up.

use std::time::Duration;

use super::leases::MAX_TTL;

/// A lease unless a session says otherwise.
const TTL: Duration = Duration::from_secs(10);
/// The shortest lease.
const TTL_MIN: Duration = Duration::from_millis(300);
/// The longest label, in bytes.
const MAX_LABEL: usize = 200;

/// How a session is set up.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    pub(super) ttl: Duration,
    pub(super) label: String,
    pub(super) deadlocks: Option<bool>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { ttl: TTL, label: String::new(), deadlocks: None }
    }
}

impl SessionOptions {
    /// How long what the session holds stays its own when nothing is heard of it: 10 seconds unless
    /// set, at least 300 ms and at most an hour. Short: a dead holder is replaced soon. Long: failovers
    /// and pauses are survived. It should be some times longer than a failover (about a second).
    #[must_use]
    pub fn ttl(self, ttl: Duration) -> Self {
        Self { ttl: ttl.clamp(TTL_MIN, MAX_TTL), ..self }
    }

    /// What others see of the session where it holds something: at most 200 bytes, the rest is cut.
    #[must_use]
    pub fn label(self, label: impl Into<String>) -> Self {
        let mut label = label.into();
        let end = (0..=MAX_LABEL.min(label.len())).rev().find(|at| label.is_char_boundary(*at));
        label.truncate(end.unwrap_or(0));
        Self { label, ..self }
    }

    /// Whether deadlocks are looked for in which the session is. Only for a session that one sequence of
    /// work uses: of several tasks in one session, one may wait while another goes on and releases, and
    /// what looks like a deadlock is none. On for sessions that are opened, off for a node's own, unless
    /// set.
    #[must_use]
    pub fn find_deadlocks(self, find: bool) -> Self {
        Self { deadlocks: Some(find), ..self }
    }

    /// Off unless set.
    pub(super) fn shared(self) -> Self {
        Self { deadlocks: self.deadlocks.or(Some(false)), ..self }
    }
}
