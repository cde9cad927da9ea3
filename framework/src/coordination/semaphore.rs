//! Semaphores.

use std::time::Duration;

use super::{
    acquire::{Guard, HolderInfo, Seat},
    error::CoordinationError,
    permits::{MAX_PERMITS, Semaphores},
    session::Session,
};

/// A semaphore of the cluster, as a session uses it: so many permits, which sessions take in the order
/// in which they came. One that wants many is not overtaken by those that want few. Made by
/// [`Node::semaphore`](crate::Node::semaphore) or [`Session::semaphore`]. Cheap to clone.
#[derive(Clone)]
pub struct Semaphore {
    seat: Seat<Semaphores>,
    permits: u32,
}

impl Session {
    /// The semaphore of this name with so many permits, 1 to 10 000, for this session. All who use it
    /// say the same number. Another one takes effect once nobody holds a permit.
    ///
    /// # Errors
    /// [`CoordinationError::Invalid`]; [`CoordinationError::Node`]: there can be no such semaphore, or
    /// the node is gone.
    pub fn semaphore(&self, name: &str, permits: u32) -> Result<Semaphore, CoordinationError> {
        if !(1..=MAX_PERMITS).contains(&permits) {
            let (name, reason) = (name.to_owned(), "1 to 10000 permits are possible");
            return Err(CoordinationError::Invalid { name, wanted: permits, reason });
        }
        Ok(Semaphore { seat: Seat::new(self, name, permits)?, permits })
    }
}

impl Semaphore {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.seat.name()
    }

    fn check(&self, permits: u32) -> Result<(), CoordinationError> {
        if (1..=self.permits).contains(&permits) {
            return Ok(());
        }
        let (name, reason) = (self.name().to_owned(), "there are not so many, or none is wanted");
        Err(CoordinationError::Invalid { name, wanted: permits, reason })
    }

    /// Takes permits, all or none, and waits for them for at most `timeout`. As
    /// [`Lock::try_acquire`](crate::Lock::try_acquire).
    ///
    /// # Errors
    /// [`CoordinationError::Timeout`], [`CoordinationError::OtherSize`] where others use it with another
    /// number of permits; and the others. None of them leaves permits taken.
    pub async fn try_acquire(
        &self,
        permits: u32,
        timeout: Duration,
    ) -> Result<Guard, CoordinationError> {
        self.check(permits)?;
        let late = || CoordinationError::Timeout { name: self.name().to_owned(), waited: timeout };
        self.seat.acquire(permits, Some(timeout)).await?.ok_or_else(late)
    }

    /// Takes permits, all or none, however long that takes.
    ///
    /// # Errors
    /// As [`try_acquire`](Self::try_acquire), but for the timeout.
    pub async fn acquire(&self, permits: u32) -> Result<Guard, CoordinationError> {
        self.check(permits)?;
        loop {
            if let Some(guard) = self.seat.acquire(permits, None).await? {
                return Ok(guard);
            }
        }
    }

    /// Who holds permits now.
    ///
    /// # Errors
    /// [`CoordinationError::Ask`].
    pub async fn holders(&self) -> Result<Vec<HolderInfo>, CoordinationError> {
        self.seat.holders().await
    }

    /// How many permits nobody holds now.
    ///
    /// # Errors
    /// [`CoordinationError::Ask`].
    pub async fn free(&self) -> Result<u32, CoordinationError> {
        let holding = self.seat.holding().await?;
        let taken: u32 = holding.holders.iter().map(|holder| holder.permits).sum();
        Ok(holding.size.max(self.permits).saturating_sub(taken))
    }
}
