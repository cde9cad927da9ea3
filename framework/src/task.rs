//! Tasks that end with their owner, and waiting for a change.

use std::pin::pin;

use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinHandle},
};

/// Waits until `look` finds something: it looks at once, and each time that waiters are notified.
pub(crate) async fn until<T>(changed: &Notify, look: impl Fn() -> Option<T>) -> T {
    loop {
        let mut changed = pin!(changed.notified());
        // Before looking, so that no change between the look and the wait is missed.
        changed.as_mut().enable();
        if let Some(found) = look() {
            return found;
        }
        changed.await;
    }
}

/// A task that ends when this value is dropped.
pub(crate) struct AbortOnDrop(AbortHandle);

impl AbortOnDrop {
    pub(crate) fn new<T>(task: &JoinHandle<T>) -> Self {
        Self(task.abort_handle())
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
