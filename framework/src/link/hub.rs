//! Begin and end of sessions, as receivers and those who follow membership hear of them.

use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use duractor_journal::{
    Member,
    transport::{Channel, Event, Receiver},
};
use futures_util::Stream;
use tokio::sync::mpsc;

use super::{
    peer::{Link, Phase},
    receivers::Receivers,
    who::is_client,
};

/// A peer comes, goes, or comes back. Of clients nothing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Membership {
    /// Reached for the first time since this node started.
    PeerUp {
        /// Which.
        peer: Member,
    },
    /// Cannot be reached any more.
    PeerUnreachable {
        /// Which.
        peer: Member,
    },
    /// Reached again.
    PeerBack {
        /// Which.
        peer: Member,
    },
}

/// What happens to peers, from the call of [`Links::membership`](super::Links::membership) on. Those
/// that are up then come first.
pub struct MembershipEvents(mpsc::UnboundedReceiver<Membership>);

impl Stream for MembershipEvents {
    type Item = Membership;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Membership>> {
        self.0.poll_recv(context)
    }
}

#[derive(Default)]
struct Followers {
    /// Who was up at any time.
    known: BTreeSet<Member>,
    /// Unbounded, for it grows by two a session only.
    followers: Vec<mpsc::UnboundedSender<Membership>>,
    closed: bool,
}

/// Announces what begins and ends.
#[derive(Default)]
pub(crate) struct Hub {
    pub(crate) receivers: Arc<Receivers>,
    /// Held while sessions begin and end and receivers change, so that each receiver hears each of
    /// them once.
    changing: Mutex<Followers>,
}

impl Hub {
    fn changing(&self) -> std::sync::MutexGuard<'_, Followers> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Announces a session. False where it has ended already.
    pub(crate) fn up(&self, link: &Link) -> bool {
        let mut changing = self.changing();
        let Some(mut phase) = link.begin() else { return false };
        *phase = Phase::Up;
        link.set_announced(true);
        let (peer, session) = (link.peer, link.number);
        tracing::info!(%peer, session, dialled = link.dialled, "a link is up");
        self.receivers.tell_all(|| Event::Up { peer, session });
        link.drain_early();
        drop(phase);
        if is_client(peer) {
            return true;
        }
        let first = changing.known.insert(peer);
        changing.announce(if first {
            Membership::PeerUp { peer }
        } else {
            Membership::PeerBack { peer }
        });
        true
    }

    /// Announces the end of a session, after all its frames. False where it has ended already.
    pub(crate) fn down(&self, link: &Link) -> bool {
        let mut changing = self.changing();
        let mut phase = link.phase();
        let was = std::mem::replace(&mut *phase, Phase::Ended);
        link.set_announced(false);
        if was == Phase::Up {
            let (peer, session) = (link.peer, link.number);
            let reason = link.closed_because().unwrap_or("the connection ended");
            tracing::info!(%peer, session, reason, "a link is down");
            self.receivers.tell_all(|| Event::Down { peer, session });
            if !is_client(peer) {
                changing.announce(Membership::PeerUnreachable { peer });
            }
        }
        was != Phase::Ended
    }

    /// Sets a channel's receiver, and announces to it the `links` that are up. No frame is handed out
    /// meanwhile.
    pub(crate) fn listen(
        &self,
        channel: Channel,
        receiver: Arc<dyn Receiver>,
        links: impl FnOnce() -> Vec<Arc<Link>>,
    ) {
        let _changing = self.changing();
        let links = links();
        let phases: Vec<_> = links.iter().map(|link| (link, link.phase())).collect();
        self.receivers.set(channel, receiver.clone());
        for (link, phase) in phases {
            if *phase == Phase::Up {
                receiver.event(Event::Up { peer: link.peer, session: link.number });
            }
        }
    }

    pub(crate) fn follow(&self, links: impl FnOnce() -> Vec<Arc<Link>>) -> MembershipEvents {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut changing = self.changing();
        let up = |link: &&Arc<Link>| link.is_up() && !is_client(link.peer);
        for link in links().iter().filter(up) {
            let _ = sender.send(Membership::PeerUp { peer: link.peer });
        }
        if !changing.closed {
            changing.followers.push(sender);
        }
        MembershipEvents(receiver)
    }

    /// Ends the streams of followers.
    pub(crate) fn close(&self) {
        let mut changing = self.changing();
        changing.closed = true;
        changing.followers.clear();
    }
}

impl Followers {
    fn announce(&mut self, what: Membership) {
        self.followers.retain(|follower| follower.send(what).is_ok());
    }
}
