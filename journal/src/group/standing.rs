//! Whether a replica still belongs to its group, where it hears nothing of it any more.
//!
//! Nobody sends anything to a replica that was taken out, not even the entry that says so: one that
//! was cut off or restarting then goes by what it knew for ever. It would take a leader that is long
//! gone for the present one, or stand for elections that it cannot win. So a replica that hears of no
//! leader for a while asks who belongs to the group.
//!
//! What counts is the newest of the answers, and only where it is newer than what the replica itself
//! goes by. An answer says how far its log is committed. Where that is beyond the entry that the
//! asking replica has its members from, this entry is either part of what the other has, or will never
//! be committed. So the word of one who lags behind changes nothing. It is no more than a word, either:
//! it is shown to those who look, and as soon as a leader speaks, that counts. Elections take no
//! account of it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::Instant;

use super::{
    replica::Replica,
    status::Timing,
    types::{decode_membership, from_log_id},
    wire::{Answer, Call},
};
use crate::{
    log::entry::LogId,
    transport::{Class, Member},
};

/// A replica that has not heard of a leader for so many of the longest election times goes by
/// nothing that it knew of it.
const SILENCE: u32 = 4;
/// The longest pause between two rounds of questions; they grow up to it.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// When a replica heard of its group.
pub(crate) struct Standing {
    silence: Duration,
    contact: Mutex<Contact>,
}

struct Contact {
    heard: Instant,
    outside: bool,
}

impl Standing {
    pub(crate) fn new(timing: Timing) -> Self {
        let silence = Duration::from_millis(timing.election_max_ms) * SILENCE;
        let contact = Contact { heard: Instant::now(), outside: false };
        Self { silence, contact: Mutex::new(contact) }
    }

    fn lock(&self) -> MutexGuard<'_, Contact> {
        self.contact.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A leader has spoken, and was listened to.
    pub(crate) fn heard(&self) {
        self.heard_at(Instant::now());
    }

    /// As a leader, a quorum has answered what was sent then.
    fn heard_at(&self, at: Instant) {
        let mut contact = self.lock();
        if at > contact.heard {
            *contact = Contact { heard: at, outside: false };
        }
    }

    /// Whether nothing was heard of a leader for so long that it is not known who leads.
    pub(crate) fn is_silent(&self) -> bool {
        self.lock().heard.elapsed() >= self.silence
    }

    /// Whether the group has gone on without this replica, as others say.
    pub(crate) fn is_outside(&self) -> bool {
        self.lock().outside
    }

    /// Others say so, who were asked then.
    fn found(&self, outside: bool, asked: Instant) {
        let mut contact = self.lock();
        if contact.heard < asked {
            contact.outside = outside;
        }
    }
}

/// Asks where nothing is heard, for as long as the replica runs.
pub(crate) async fn watch(replica: Arc<Replica>) {
    let standing = &replica.standing;
    let mut pause = standing.silence;
    loop {
        tokio::time::sleep(pause).await;
        if let Some(at) = replica.led_at() {
            standing.heard_at(at);
        }
        if !standing.is_silent() {
            pause = standing.silence;
            continue;
        }
        let asked = Instant::now();
        if let Some(outside) = ask(&replica).await {
            if outside && !standing.is_outside() {
                tracing::info!(shard = %replica.shard, "the group has gone on without this replica");
            }
            standing.found(outside, asked);
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Whether the group has gone on without this replica. `None` where nobody knows more than it does.
async fn ask(replica: &Replica) -> Option<bool> {
    let (known, members) = {
        let metrics = replica.raft.metrics();
        let metrics = metrics.borrow_watched();
        let known = metrics.membership_config.log_id().as_ref().map(from_log_id)?;
        let nodes = metrics.membership_config.membership().nodes();
        (known, nodes.map(|(id, _)| Member::from_u64(*id)).collect::<BTreeSet<_>>())
    };
    let others: BTreeSet<Member> =
        replica.peers.linked().into_iter().filter(|peer| !members.contains(peer)).collect();
    // They may all have gone since, and then anybody may have come in their place.
    for some in [members, others] {
        if let Some(outside) = newest(replica, known, some).await {
            return Some(outside);
        }
    }
    None
}

async fn newest(replica: &Replica, known: LogId, members: BTreeSet<Member>) -> Option<bool> {
    let me = replica.me();
    let patience = Duration::from_millis(replica.timing.election_max_ms);
    let others = members.into_iter().filter(|member| *member != me);
    let answers = others.map(|other| async move {
        let (shard, call) = (replica.shard, Call::Members);
        match replica.peers.call(other, shard, Class::Control, &call, patience).await {
            Ok(Answer::Members { committed, members }) if committed > known => {
                let members = decode_membership(&members)?;
                Some((committed, members.get_node(&me.to_u64()).is_none()))
            }
            _ => None,
        }
    });
    let answers = futures_util::future::join_all(answers).await;
    answers.into_iter().flatten().max_by_key(|(at, _)| *at).map(|(_, outside)| outside)
}

/// Who belongs to the group, as far as this replica knows.
pub(crate) fn answer(replica: &Replica) -> Answer {
    let state = replica.log.state();
    match (state.applied, state.membership) {
        // Entries are applied when they are committed.
        (Some(committed), Some((_, members))) => Answer::Members { committed, members },
        _ => Answer::Refused("nothing of it is known here".into()),
    }
}
