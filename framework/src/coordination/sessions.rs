//! The sessions of a node.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{
    options::SessionOptions,
    session::{Inner, Session},
};
use crate::{context::Kinds, shared::Shared};

/// So long a shutdown waits for what was dropped before it to be given back.
const RETURN: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(5);

/// All sessions of one node, and its own.
#[derive(Default)]
pub(crate) struct Sessions {
    own: OnceLock<Session>,
    all: Mutex<Vec<Weak<Inner>>>,
}

impl Sessions {
    pub(crate) fn open(
        &self,
        shared: &Arc<Shared>,
        kinds: &Arc<Kinds>,
        options: SessionOptions,
    ) -> Session {
        let session = Session::open(shared, kinds, options);
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|session| session.strong_count() > 0);
        all.push(session.downgrade());
        session
    }

    /// The node's own session, with these options where it is used first.
    pub(crate) fn own(
        &self,
        shared: &Arc<Shared>,
        kinds: &Arc<Kinds>,
        options: &SessionOptions,
    ) -> &Session {
        self.own.get_or_init(|| self.open(shared, kinds, options.clone().shared()))
    }

    /// Waits, for a moment, until everything that was dropped has been given back: the node is about to
    /// take no more commands.
    pub(crate) async fn settle(&self) {
        let until = Instant::now() + RETURN;
        let all: Vec<_> = {
            let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter().filter_map(Weak::upgrade).collect()
        };
        while !all.iter().all(|session| session.has_returned()) && Instant::now() < until {
            sleep(LOOK).await;
        }
    }
}
