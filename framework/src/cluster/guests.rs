//! Clients that are linked to this node.
//!
//! A client is no member: it has no session among the members', so nothing that is counted, placed,
//! probed or voted on knows of it. The gate lets it through to entities alone, and on the cluster's
//! channel it is told who the members are.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use duractor_journal::Member;

/// The clients of one node.
#[derive(Default)]
pub(super) struct Guests(Mutex<BTreeMap<Member, Guest>>);

struct Guest {
    session: u64,
    /// The revision of the cluster's state that it was told.
    told: Option<u64>,
}

impl Guests {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Member, Guest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are linked.
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    pub(super) fn comes(&self, client: Member, session: u64) {
        self.lock().insert(client, Guest { session, told: None });
    }

    /// False where it has come back already.
    pub(super) fn goes(&self, client: Member, session: u64) -> bool {
        let mut guests = self.lock();
        let goes = guests.get(&client).is_some_and(|guest| guest.session == session);
        if goes {
            guests.remove(&client);
        }
        goes
    }

    /// Those that were not told this revision.
    pub(super) fn untold(&self, revision: u64) -> Vec<Member> {
        let guests = self.lock();
        let untold = guests.iter().filter(|(_, guest)| guest.told != Some(revision));
        untold.map(|(client, _)| *client).collect()
    }

    pub(super) fn told(&self, client: Member, revision: u64) {
        if let Some(guest) = self.lock().get_mut(&client) {
            guest.told = Some(revision);
        }
    }
}
