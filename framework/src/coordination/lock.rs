//! Locks.

use std::time::Duration;

use super::{
    acquire::{Guard, HolderInfo, Seat},
    error::CoordinationError,
    permits::Locks,
    session::Session,
};

/// A lock of the cluster, as a session uses it: one session holds it at a time, whoever came first. Made
/// by [`Node::lock`](crate::Node::lock) or [`Session::lock`]. Cheap to clone.
///
/// It is not reentrant: a session that holds it and acquires it again waits for itself.
///
/// ```
/// # use duractor::Node;
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let node = Node::builder(dir.path()).start().await?;
/// let guard = node.lock("invoices.csv")?.try_acquire(Duration::from_secs(5)).await?;
/// if guard.is_held() {
///     println!("write with fencing token {}", guard.token());
/// }
/// guard.release().await?;
/// # node.shutdown().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Lock {
    seat: Seat<Locks>,
}

impl Session {
    /// The lock of this name, for this session.
    ///
    /// # Errors
    /// [`CoordinationError::Node`]: there can be no such lock, or the node is gone.
    pub fn lock(&self, name: &str) -> Result<Lock, CoordinationError> {
        Ok(Lock { seat: Seat::new(self, name, 1)? })
    }
}

impl Lock {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.seat.name()
    }

    /// Takes the lock, and waits for it for at most `timeout`, in the order in which sessions came. With
    /// a timeout of zero it is taken only where it is free.
    ///
    /// Whoever drops the future gives up: what it may have got is given back.
    ///
    /// # Errors
    /// [`CoordinationError::Timeout`] where others held it all the time; and the others. None of them
    /// leaves the lock taken.
    pub async fn try_acquire(&self, timeout: Duration) -> Result<Guard, CoordinationError> {
        let late = || CoordinationError::Timeout { name: self.name().to_owned(), waited: timeout };
        self.seat.acquire(1, Some(timeout)).await?.ok_or_else(late)
    }

    /// Takes the lock, however long that takes.
    ///
    /// # Errors
    /// As [`try_acquire`](Self::try_acquire), but for the timeout.
    pub async fn acquire(&self) -> Result<Guard, CoordinationError> {
        loop {
            if let Some(guard) = self.seat.acquire(1, None).await? {
                return Ok(guard);
            }
        }
    }

    /// Who holds it now.
    ///
    /// # Errors
    /// [`CoordinationError::Ask`].
    pub async fn holder(&self) -> Result<Option<HolderInfo>, CoordinationError> {
        Ok(self.seat.holders().await?.pop())
    }

    /// How many sessions wait for it now.
    ///
    /// # Errors
    /// [`CoordinationError::Ask`].
    pub async fn waiting(&self) -> Result<u64, CoordinationError> {
        Ok(self.seat.holding().await?.waiting)
    }
}
