//! Bugs to plant in the cluster's manager, for simulations that must find them. Each holds for the thread
//! that sets it, and only where the feature `planted` is on.

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// Steps are decided on what was reported long ago, and carried out whatever has become of the group.
    StaleView,
}

#[cfg(feature = "planted")]
mod inner {
    use std::cell::Cell;

    use super::Planted;

    thread_local! {
        static PLANTED: Cell<Option<Planted>> = const { Cell::new(None) };
    }

    /// Plants a bug on this thread; `None` takes it away.
    pub fn plant(bug: Option<Planted>) {
        PLANTED.set(bug);
    }

    pub(crate) fn is(bug: Planted) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(not(feature = "planted"))]
mod inner {
    pub(crate) fn is(_: super::Planted) -> bool {
        false
    }
}

pub(crate) use inner::is;
#[cfg(feature = "planted")]
pub use inner::plant;
