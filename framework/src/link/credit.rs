//! How many bytes may be under way to a peer.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// What a frame costs beside its bytes, so that empty frames are bounded too.
const FRAME_COST: u64 = 32;

/// One class's account, both as a sender and as a receiver.
pub(crate) struct Credit {
    window: u64,
    sent: AtomicU64,
    /// Of what was sent: what the peer has taken, as it last said.
    acked: AtomicU64,
    /// Of what the peer sent: what was handed to a receiver.
    taken: AtomicU64,
    /// What the peer was last told of it.
    told: AtomicU64,
}

impl Credit {
    pub(crate) fn new(window_bytes: usize) -> Self {
        Self {
            window: window_bytes as u64,
            sent: AtomicU64::new(0),
            acked: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            told: AtomicU64::new(0),
        }
    }

    /// Books a frame that is to be sent. False where too much is under way. A frame longer than the
    /// window goes while less than half of the window is used.
    pub(crate) fn spend(&self, bytes: usize) -> bool {
        let cost = bytes as u64 + FRAME_COST;
        let spent = self.sent.fetch_update(SeqCst, SeqCst, |sent| {
            let under_way = sent.saturating_sub(self.acked.load(SeqCst));
            (under_way + cost <= self.window || under_way <= self.window / 2).then_some(sent + cost)
        });
        spent.is_ok()
    }

    /// The peer has taken so much in all.
    pub(crate) fn ack(&self, taken: u64) {
        self.acked.fetch_max(taken.min(self.sent.load(SeqCst)), SeqCst);
    }

    /// A frame was handed to its receiver. True where it is time to tell the peer.
    pub(crate) fn take(&self, bytes: usize) -> bool {
        let taken = self.taken.fetch_add(bytes as u64 + FRAME_COST, SeqCst) + bytes as u64;
        taken.saturating_sub(self.told.load(SeqCst)) >= self.window / 4
    }

    /// What the peer is to be told, and whether that is news.
    pub(crate) fn tell(&self) -> (u64, bool) {
        let taken = self.taken.load(SeqCst);
        (taken, self.told.swap(taken, SeqCst) != taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_bounded() {
        let (us, peer) = (Credit::new(1000), Credit::new(1000));
        let sent = (0..100).filter(|_| us.spend(68)).count();
        assert_eq!(sent, 10, "100 bytes each with what a frame costs");
        assert!(!us.spend(0));
        let told = (0..sent).filter(|_| peer.take(68)).count();
        assert!(told >= 7, "from a quarter of the window on");
        us.ack(peer.tell().0);
        assert_eq!(peer.tell(), (1000, false));
        assert!(us.spend(68));
    }

    #[test]
    fn a_long_frame_goes_when_there_is_room_and_then_nothing() {
        let us = Credit::new(1000);
        assert!(us.spend(400));
        assert!(us.spend(50_000));
        assert!(!us.spend(50_000));
        assert!(!us.spend(1));
        us.ack(u64::MAX);
        assert!(us.spend(50_000), "no peer can claim more than was sent");
    }
}
